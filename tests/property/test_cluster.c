/* The protocol on virtual time: whatever is killed, frozen, lost, repeated or
 * spoiled, every client gets exactly the tokens of the naive model, and nothing
 * is left over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/log.h"
#include "tests/unit/effort.h"
#include "virtual_cluster.h"

#define MINUTE 60000000u
#define SECOND 1000000u

static void add_requests(struct vc *vc, uint32_t n, uint64_t over_us, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t x = seed * 1000003 + i * 7919;
        vc_submit(vc, &(struct vc_request){ .n_prompt = 1 + (uint32_t)(x % 61),
                                            .max_tokens = 1 + (uint32_t)(x / 61 % 40),
                                            .priority = (int32_t)(x / 7 % 5) - 2,
                                            .route = (Baton__Route)(x % 3),
                                            .at_us = over_us * i / n });
    }
}

static void check_all(struct vc *vc, uint32_t n, const char *name)
{
    char what[256];
    for (uint32_t i = 0; i < n; i++) {
        struct vc_request *r = vc_request(vc, i);
        if (!r->ended || r->failed || r->wrong)
            print_error("%s: request %u: ended=%d failed=%d (%s) wrong=%u tokens=%u of %u+%u at %llu us\n", name, i,
                        r->ended, r->failed, r->error, r->wrong, r->n_tokens, r->n_prompt, r->max_tokens,
                        (unsigned long long)vc_now(vc));
        assert_true(r->ended);
        assert_false(r->failed);
        assert_int_equal(r->wrong, 0);
    }
    if (vc_leaks(vc, what, sizeof what))
        print_error("%s: left over: %s\n", name, what);
    assert_int_equal(vc_leaks(vc, what, sizeof what), 0);
}

static struct vc_options calm(uint64_t seed)
{
    return (struct vc_options){ .seed = seed,
                                .policy = (enum pick_policy)(seed % PICK_POLICY_COUNT),
                                .n_decodes = 2,
                                .n_prefills = 2,
                                .n_blocks = 96,
                                .manager_blocks = seed % 2 ? 150 : 0,
                                .chunk_tokens = 16,
                                .texts = 3,
                                .fault_at = "" };
}

static void test_calm(void **state)
{
    (void)state;
    static const uint32_t chunks[] = { 1, 3, 4, 16, 64 };
    for (size_t i = 0; i < 5; i++) {
        struct vc_options o = calm(i);
        o.chunk_tokens = chunks[i];
        struct vc *vc = vc_create(&o);
        add_requests(vc, 40, 200000, i);
        vc_run(vc, 10 * MINUTE);
        check_all(vc, 40, "calm");
        assert_true(vc_counters(vc, 1)->chunks_taken + vc_counters(vc, 2)->chunks_taken > 0);
        vc_destroy(vc);
    }
}

/* Little room: claims queue, sequences are preempted and recomputed. */
static void test_tight(void **state)
{
    (void)state;
    uint64_t preemptions = 0;
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct vc_options o = calm(seed);
        o.n_decodes = 1;
        o.n_blocks = 52;
        struct vc *vc = vc_create(&o);
        add_requests(vc, 40, 20000, seed);
        vc_run(vc, 30 * MINUTE);
        check_all(vc, 40, "tight");
        preemptions += vc_counters(vc, 1)->preemptions;
        vc_destroy(vc);
    }
    assert_true(preemptions > 0);
}

/* Guesses, right and wrong, with sequences that are preempted, cancelled and replayed. A model of three words makes
 * every pair of them stand somewhere before. */
static void test_guesses(void **state)
{
    (void)state;
    uint64_t drafted = 0, accepted = 0, preemptions = 0;
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct vc_options o = calm(50 + seed);
        o.vocab = 3;
        o.guesses = 1 + (uint32_t)seed;
        o.n_blocks = seed % 2 ? 52 : 96;
        o.target_us = seed % 3 ? 0 : 700;
        o.drop = 0.02;
        struct vc *vc = vc_create(&o);
        add_requests(vc, 40, 20000, seed);
        vc_fault(vc, 1, FAULT_KILL, 30000);
        vc_run(vc, 30 * MINUTE);
        check_all(vc, 40, "guesses");
        drafted += vc_counters(vc, 2)->drafted;
        accepted += vc_counters(vc, 2)->drafts_accepted;
        preemptions += vc_counters(vc, 2)->preemptions;
        vc_destroy(vc);
    }
    assert_true(accepted > 50 && accepted < drafted && preemptions > 0);
}

static void test_lossy_network(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct vc_options o = calm(100 + seed);
        o.drop = 0.05;
        o.repeat = 0.1;
        struct vc *vc = vc_create(&o);
        add_requests(vc, 30, 500000, seed);
        vc_run(vc, 10 * MINUTE);
        check_all(vc, 30, "lossy");
        vc_destroy(vc);
    }
}

static void test_damaged_blocks(void **state)
{
    (void)state;
    uint64_t bad = 0;
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct vc_options o = calm(200 + seed);
        o.flip = 0.02;
        struct vc *vc = vc_create(&o);
        add_requests(vc, 30, 500000, seed);
        vc_run(vc, 10 * MINUTE);
        check_all(vc, 30, "damaged");
        bad += vc_counters(vc, 1)->bad_checksums + vc_counters(vc, 2)->bad_checksums;
        vc_destroy(vc);
    }
    assert_true(bad > 0);
}

static void test_cancelled(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct vc_options o = calm(300 + seed);
        struct vc *vc = vc_create(&o);
        for (uint32_t i = 0; i < 40; i++)
            vc_submit(vc, &(struct vc_request){ .n_prompt = 20 + i,
                                                .max_tokens = 30,
                                                .route = i % 3,
                                                .at_us = 1000 * i,
                                                .cancel_at_us = 1000 * i + 137 * (1 + seed) * (i % 20) + 1 });
        vc_run(vc, 10 * MINUTE);
        check_all(vc, 40, "cancelled");
        vc_destroy(vc);
    }
}

/* Links that keep few messages: what begins something is refused and goes elsewhere, and what cannot be refused
 * costs the link. Nobody waits until a deadline. */
static void test_full_links(void **state)
{
    (void)state;
    uint32_t overruns = 0, refusals = 0;
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct vc_options o = calm(350 + seed);
        o.max_pending = 1 + (uint32_t)(seed % 3);
        o.drop = 0.05 + 0.02 * (double)(seed % 4);
        o.chunk_tokens = 1 + (uint32_t)seed;
        struct vc *vc = vc_create(&o);
        uint64_t begin = vc_now(vc);
        add_requests(vc, 60, 100000, seed);
        vc_run(vc, 10 * MINUTE);
        check_all(vc, 60, "full links");
        assert_true(vc_now(vc) - begin < 30 * SECOND);
        overruns += vc_overruns(vc);
        refusals += vc_refusals(vc);
        vc_destroy(vc);
    }
    assert_true(overruns > 0 && refusals > 0);
}

/* ---- a fault at each state --------------------------------------------------------------------- */

static const char *const states[] = {
    "generation.WAITING",  "generation.ASKED",    "generation.CLAIMING", "generation.RECEIVING", "generation.COMPUTING",
    "generation.DECODING", "generation.FINISHED", "generation.ENDED",    "prefill.QUEUED",       "prefill.ASKING",
    "prefill.COMPUTING",   "prefill.HANDING",     "prefill.ENDED",       "block.RESERVED",       "block.FILLING",
    "block.COMPLETE",      "block.FREE",          "block.REGISTERED",    "block.EVICTING",
};

static void fault_at(const char *name, uint32_t nth, enum fault fault, bool restart, uint64_t seed)
{
    struct vc_options o = calm(seed);
    o.fault_at = name;
    o.fault_nth = nth;
    o.fault = fault;
    o.restart = restart;
    struct vc *vc = vc_create(&o);
    add_requests(vc, 24, 60000, seed);
    vc_run(vc, 10 * MINUTE);
    if (!vc_fault_happened(vc))
        print_error("%s was not reached %u times\n", name, nth);
    assert_true(vc_fault_happened(vc));
    check_all(vc, 24, name);
    vc_destroy(vc);
}

static void test_kill_at_each_state(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof states / sizeof states[0]; i++)
        for (uint32_t nth = 1; nth <= 7; nth += 3)
            fault_at(states[i], nth, FAULT_KILL, nth != 4, 400 + i);
}

static void test_freeze_at_each_state(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof states / sizeof states[0]; i++)
        for (uint32_t nth = 1; nth <= 7; nth += 3)
            fault_at(states[i], nth, FAULT_FREEZE, false, 500 + i);
}

static void test_random_faults(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct vc_options o = calm(600 + seed);
        o.restart = true;
        o.drop = seed % 2 ? 0.02 : 0;
        o.repeat = 0.05;
        o.flip = 0.002;
        o.chunk_tokens = 1 + (uint32_t)(seed * 7 % 33);
        struct vc *vc = vc_create(&o);
        add_requests(vc, 60, 30000000, seed);
        /* One decode and one prefill worker at a time, so that one of each role lives. */
        for (uint32_t k = 0; k < 3; k++) {
            vc_fault(vc, 1 + (uint32_t)((seed + k) % 2), (seed + k) % 3 ? FAULT_KILL : FAULT_FREEZE,
                     1000000 + 16000000ull * k + seed * 1777);
            vc_fault(vc, 3 + (uint32_t)((seed + k) % 2), (seed + k) % 2 ? FAULT_KILL : FAULT_FREEZE,
                     2000000 + 16000000ull * k + seed * 999);
        }
        vc_run(vc, 20 * MINUTE);
        check_all(vc, 60, "random faults");
        vc_destroy(vc);
    }
}

/* ---- copies that write late ----------------------------------------------------------------------- */

/* A leg fails while copies of it are under way: until the last of them has ended
 * nothing else may be written into those blocks. */
static void test_cancelled_copies_write_on(void **state)
{
    (void)state;
    uint64_t legs = 0;
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct vc_options o = calm(700 + seed);
        o.chunk_tokens = 4 + (uint32_t)seed;
        o.flip = 0.03;
        o.slow = 0.3;
        struct vc *vc = vc_create(&o);
        add_requests(vc, 40, 400000, seed);
        vc_run(vc, 10 * MINUTE);
        check_all(vc, 40, "late writes");
        legs += vc_counters(vc, 1)->legs_failed + vc_counters(vc, 2)->legs_failed;
        vc_destroy(vc);
    }
    assert_true(legs > 0);
}

/* ---- the router ------------------------------------------------------------------------------------ */

static void test_frozen_router(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct vc_options o = calm(800 + seed);
        struct vc *vc = vc_create(&o);
        add_requests(vc, 30, 60000, seed);
        vc_fault(vc, 0, FAULT_FREEZE, 500 + 4777 * seed);
        vc_run(vc, 10 * MINUTE);
        assert_true(vc_fault_happened(vc));
        check_all(vc, 30, "frozen router");
        vc_destroy(vc);
    }
}

/* Nobody is left to ask: the workers free everything as soon as they notice. */
static void test_killed_router(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 16; seed++) {
        struct vc_options o = calm(900 + seed);
        o.slow = seed % 2 ? 0.2 : 0;
        struct vc *vc = vc_create(&o);
        char what[256];
        add_requests(vc, 30, 40000, seed);
        uint64_t died = vc_now(vc) + 500 + 3333 * seed;
        vc_fault(vc, 0, FAULT_KILL, 500 + 3333 * seed);
        vc_run(vc, MINUTE);
        assert_true(vc_fault_happened(vc));
        if (vc_leaks(vc, what, sizeof what))
            print_error("killed router, seed %u: left over: %s\n", (unsigned)seed, what);
        assert_int_equal(vc_leaks(vc, what, sizeof what), 0);
        assert_true(vc_now(vc) < died + SECOND);
        vc_destroy(vc);
    }
}

/* ---- deadlines ------------------------------------------------------------------------------------- */

static uint32_t count_failed(struct vc *vc, uint32_t n, enum flow_error code, const char *name)
{
    uint32_t failed = 0;
    char what[256];
    for (uint32_t i = 0; i < n; i++) {
        struct vc_request *r = vc_request(vc, i);
        if (!r->ended || r->wrong || (r->failed && r->code != code))
            print_error("%s: request %u: ended=%d wrong=%u error=%s\n", name, i, r->ended, r->wrong, r->error);
        assert_true(r->ended);
        assert_int_equal(r->wrong, 0);
        if (r->failed)
            assert_int_equal(r->code, code);
        failed += r->failed;
    }
    if (vc_leaks(vc, what, sizeof what))
        print_error("%s: left over: %s\n", name, what);
    assert_int_equal(vc_leaks(vc, what, sizeof what), 0);
    return failed;
}

/* Deadlines in small steps over a request's life, with little room, so that they pass in every state. */
static void test_deadlines(void **state)
{
    (void)state;
    uint32_t failed = 0;
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct vc_options o = calm(1000 + seed);
        o.n_blocks = 52;
        o.slow = seed % 3 == 2 ? 0.1 : 0;
        o.chunk_tokens = seed % 2 ? 16 : 5;
        struct vc *vc = vc_create(&o);
        for (uint32_t i = 0; i < 150; i++)
            vc_submit(vc, &(struct vc_request){ .n_prompt = 1 + i * 7 % 61,
                                                .max_tokens = 1 + i * 11 % 40,
                                                .route = (Baton__Route)(i % 3),
                                                .at_us = 700 * i,
                                                .deadline_us = 1 + 230 * ((i * 37 + seed * 13) % 150) });
        vc_run(vc, 10 * MINUTE);
        uint32_t n = count_failed(vc, 150, FLOW_DEADLINE, "deadlines");
        assert_true(n > 0 && n < 150);
        failed += n;
        vc_destroy(vc);
    }
    assert_true(failed > 300);
}

/* With the router and the prefill worker frozen nobody tells the decode worker anything: it keeps the deadline itself.
 */
static void test_worker_keeps_the_deadline(void **state)
{
    (void)state;
    for (uint64_t at = 100; at < 4000; at += 130) {
        struct vc_options o = calm(1100 + at);
        o.n_decodes = o.n_prefills = 1;
        struct vc *vc = vc_create(&o);
        for (uint32_t i = 0; i < 6; i++)
            vc_submit(vc, &(struct vc_request){
                              .n_prompt = 40 + i, .max_tokens = 100, .route = i % 3, .deadline_us = 30000 });
        vc_fault(vc, 0, FAULT_FREEZE, at);
        vc_fault(vc, 2, FAULT_FREEZE, at);
        vc_run(vc, SECOND / 2);
        assert_int_equal(vc_held(vc, 1), 0);
        vc_run(vc, 10 * MINUTE);
        assert_int_equal(count_failed(vc, 6, FLOW_DEADLINE, "deadline at the worker"), 6);
        vc_destroy(vc);
    }
}

/* ---- whole roles that are gone ------------------------------------------------------------------------ */

static void test_no_prefill_worker(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct vc_options o = calm(1200 + seed);
        struct vc *vc = vc_create(&o);
        for (uint32_t i = 0; i < 30; i++)
            vc_submit(
                vc, &(struct vc_request){
                        .n_prompt = 9 + i, .max_tokens = 10, .route = BATON__ROUTE__ROUTE_REMOTE, .at_us = 2000 * i });
        vc_fault(vc, 3, FAULT_KILL, 900 * seed);
        vc_fault(vc, 4, FAULT_KILL, 700 * seed);
        vc_run(vc, 10 * MINUTE);
        check_all(vc, 30, "no prefill worker");
        vc_destroy(vc);
    }
}

static void test_no_decode_worker_for_a_while(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct vc_options o = calm(1300 + seed);
        o.restart = true;
        struct vc *vc = vc_create(&o);
        add_requests(vc, 30, 60000, seed);
        vc_fault(vc, 1, FAULT_KILL, 1000 + 5000 * seed);
        vc_fault(vc, 2, FAULT_KILL, 1000 + 7000 * seed);
        vc_run(vc, 10 * MINUTE);
        check_all(vc, 30, "no decode worker for a while");
        vc_destroy(vc);
    }
}

static void test_no_decode_worker_ever(void **state)
{
    (void)state;
    struct vc_options o = calm(1400);
    struct vc *vc = vc_create(&o);
    add_requests(vc, 30, 60000, 3);
    vc_fault(vc, 1, FAULT_KILL, 100);
    vc_fault(vc, 2, FAULT_KILL, 100);
    vc_run(vc, MINUTE);
    assert_int_equal(count_failed(vc, 30, FLOW_NO_WORKER, "no decode worker"), 30);
    vc_destroy(vc);
}

/* A request that takes every worker with it is given up. */
static void test_deadly_request(void **state)
{
    (void)state;
    struct vc_options o = calm(1500);
    o.fault_at = "generation.DECODING";
    o.fault_nth = 1;
    o.fault = FAULT_KILL;
    o.fault_always = o.restart = true;
    struct vc *vc = vc_create(&o);
    for (uint32_t i = 0; i < 3; i++)
        vc_submit(vc, &(struct vc_request){ .n_prompt = 20, .max_tokens = 10, .at_us = 100 * i });
    vc_run(vc, 5 * MINUTE);
    assert_int_equal(count_failed(vc, 3, FLOW_INTERNAL, "deadly request"), 3);
    assert_true(vc_flow_counters(vc)->dispatched <= 3 * 6);
    vc_destroy(vc);
}

/* The failure of one choice cancels its siblings from inside the callback, wherever they stand in the list. */
static void test_choices_fail_together(void **state)
{
    (void)state;
    struct vc_options o = calm(1550);
    o.n_decodes = 1;
    o.fault_at = "generation.DECODING";
    o.fault_nth = 1;
    o.fault = FAULT_KILL;
    o.fault_always = o.restart = true;
    struct vc *vc = vc_create(&o);
    for (uint32_t i = 0; i < 24; i++)
        vc_submit(vc, &(struct vc_request){ .n_prompt = 20, .max_tokens = 10, .choices_of = 1 + i % 3 });
    vc_run(vc, 5 * MINUTE);
    assert_int_equal(count_failed(vc, 24, FLOW_INTERNAL, "choices"), 3);
    vc_destroy(vc);
}

static void test_drain(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct vc_options o = calm(1600 + seed);
        struct vc *vc = vc_create(&o);
        add_requests(vc, 60, 60000, seed);
        vc_drain(vc, 1, 2000 + 6000 * seed);
        vc_drain(vc, 3, 1000 + 5000 * seed);
        vc_run(vc, 10 * MINUTE);
        check_all(vc, 60, "drain");
        assert_true(vc_counters(vc, 1)->refused > 0);
        vc_destroy(vc);
    }
}

/* Refused by everybody, again and again: an error within the router's patience, not a hang. */
static void test_all_drain(void **state)
{
    (void)state;
    struct vc_options o = calm(1700);
    struct vc *vc = vc_create(&o);
    vc_drain(vc, 1, 0);
    vc_drain(vc, 2, 0);
    for (uint32_t i = 0; i < 5; i++)
        vc_submit(vc, &(struct vc_request){ .n_prompt = 20, .max_tokens = 10, .at_us = 1000 });
    uint64_t begin = vc_now(vc);
    vc_run(vc, MINUTE);
    assert_int_equal(count_failed(vc, 5, FLOW_NO_WORKER, "all drain"), 5);
    assert_true(vc_now(vc) - begin > 19 * SECOND && vc_now(vc) - begin < 25 * SECOND);
    vc_destroy(vc);
}

/* ---- lengths ---------------------------------------------------------------------------------------------- */

static void test_edges(void **state)
{
    (void)state;
    static const uint32_t edges[] = { 4, 8, 16, 32, 48, 64, 96 }; /* blocks, local_tokens, chunks, steps */
    struct vc_options o = calm(1800);
    o.n_blocks = 200;
    struct vc *vc = vc_create(&o);
    uint32_t n = 0;
    for (size_t e = 0; e < sizeof edges / sizeof edges[0]; e++)
        for (uint32_t k = 0; k < 27; k++, n++)
            vc_submit(vc, &(struct vc_request){ .n_prompt = edges[e] - 1 + k % 3,
                                                .max_tokens = 3 + k / 9,
                                                .route = (Baton__Route)(k / 3 % 3),
                                                .at_us = 2000 * n });
    /* 200 tokens are the longest that the workers take. */
    for (uint32_t k = 0; k < 3; k++, n++)
        vc_submit(vc, &(struct vc_request){ .n_prompt = 199, .max_tokens = 1, .route = (Baton__Route)k });
    vc_run(vc, 10 * MINUTE);
    check_all(vc, n, "edges");
    vc_destroy(vc);
}

static void random_run(uint64_t seed, uint32_t n)
{
    struct vc_options o = calm(2000 + seed);
    o.restart = true;
    o.drop = seed % 3 ? 0.01 : 0;
    o.repeat = 0.05;
    o.flip = seed % 2 ? 0.001 : 0;
    o.slow = seed % 4 ? 0.05 : 0;
    o.chunk_tokens = 1 + (uint32_t)(seed * 11 % 40);
    o.n_blocks = 52 + (uint32_t)(seed % 5) * 30;
    o.vocab = seed % 2 ? 3 : 0;
    o.guesses = seed % 2 ? 4 : 0;
    struct vc *vc = vc_create(&o);
    uint64_t over = 20000ull * n;
    add_requests(vc, n, over, seed);
    for (uint64_t at = 3 * SECOND, k = seed; at < over; at += 16 * SECOND, k++) {
        vc_fault(vc, 1 + (uint32_t)(k % 2), k % 3 ? FAULT_KILL : FAULT_FREEZE, at);
        vc_fault(vc, 3 + (uint32_t)(k % 2), k % 2 ? FAULT_KILL : FAULT_FREEZE, at + SECOND);
    }
    vc_run(vc, 60 * MINUTE);
    check_all(vc, n, "random run");
    vc_destroy(vc);
}

static void test_random_runs(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < (is_long() ? 40 : 2); seed++)
        random_run(seed, is_long() ? 2000 : 200);
}

int main(void)
{
    log_init("test", LOG_OFF);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calm),
        cmocka_unit_test(test_tight),
        cmocka_unit_test(test_guesses),
        cmocka_unit_test(test_lossy_network),
        cmocka_unit_test(test_damaged_blocks),
        cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_full_links),
        cmocka_unit_test(test_kill_at_each_state),
        cmocka_unit_test(test_freeze_at_each_state),
        cmocka_unit_test(test_random_faults),
        cmocka_unit_test(test_cancelled_copies_write_on),
        cmocka_unit_test(test_frozen_router),
        cmocka_unit_test(test_killed_router),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_worker_keeps_the_deadline),
        cmocka_unit_test(test_no_prefill_worker),
        cmocka_unit_test(test_no_decode_worker_for_a_while),
        cmocka_unit_test(test_no_decode_worker_ever),
        cmocka_unit_test(test_deadly_request),
        cmocka_unit_test(test_choices_fail_together),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_all_drain),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_random_runs),
    };
    return cmocka_run_group_tests_name("protocol on virtual time", tests, NULL, NULL);
}
