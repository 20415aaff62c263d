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
#include "virtual_cluster.h"

#define MINUTE 60000000u

static void add_requests(struct vc *vc, uint32_t n, uint64_t over_us, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t x = seed * 1000003 + i * 7919;
        vc_submit(vc, &(struct vc_request){ .n_prompt = 1 + (uint32_t)(x % 61),
                                            .max_tokens = 1 + (uint32_t)(x / 61 % 40),
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
    return (struct vc_options){
        .seed = seed, .n_decodes = 2, .n_prefills = 2, .n_blocks = 96, .chunk_tokens = 16, .fault_at = ""
    };
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

/* ---- a fault at each state --------------------------------------------------------------------- */

static const char *const states[] = {
    "generation.WAITING",  "generation.ASKED",    "generation.CLAIMING", "generation.RECEIVING", "generation.COMPUTING",
    "generation.DECODING", "generation.FINISHED", "generation.ENDED",    "prefill.QUEUED",       "prefill.ASKING",
    "prefill.COMPUTING",   "prefill.HANDING",     "prefill.ENDED",       "block.RESERVED",       "block.FILLING",
    "block.COMPLETE",      "block.FREE",
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

int main(void)
{
    log_init("test", LOG_OFF);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calm),
        cmocka_unit_test(test_tight),
        cmocka_unit_test(test_lossy_network),
        cmocka_unit_test(test_damaged_blocks),
        cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_kill_at_each_state),
        cmocka_unit_test(test_freeze_at_each_state),
        cmocka_unit_test(test_random_faults),
    };
    return cmocka_run_group_tests_name("protocol on virtual time", tests, NULL, NULL);
}
