/* Workers that offer, lend and fetch KV blocks, and the manager of their host, on virtual time: what is fetched is
 * exactly what was computed, counted where it came from; whatever is lost, spoiled, killed or frozen on the way only
 * makes more to compute, and nothing is left over. */
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

enum { TOKENS = 4, DECODE = 1, PREFILL = 2, MANAGER = 3 }; /* of a cluster of one each */

static struct vc_options of_each(uint64_t seed)
{
    return (struct vc_options){ .seed = seed,
                                .n_decodes = 1,
                                .n_prefills = 1,
                                .n_blocks = 200,
                                .manager_blocks = 400,
                                .chunk_tokens = 16,
                                .restart = true,
                                .fault_at = "" };
}

static void check(struct vc *vc, uint32_t first, uint32_t n, const char *name)
{
    char what[256];
    uint32_t left = vc_leaks(vc, what, sizeof what);
    if (left)
        print_error("%s: left over: %s\n", name, what);
    for (uint32_t i = first; i < first + n; i++) {
        const struct vc_request *r = vc_request(vc, i);
        if (!r->ended || r->failed || r->wrong)
            print_error("%s: request %u: ended=%d failed=%d (%s) wrong=%u\n", name, i, r->ended, r->failed, r->error,
                        r->wrong);
        assert_true(r->ended && !r->failed);
        assert_int_equal(r->wrong, 0);
    }
    assert_int_equal(left, 0);
}

/* A prompt of n tokens of text 1, to its end. */
static const struct vc_request *ask(struct vc *vc, uint32_t n, Baton__Route route, uint64_t at_us)
{
    uint32_t i = vc_submit(
        vc,
        &(struct vc_request){ .n_prompt = n, .max_tokens = 1, .text = 1, .n_text = n, .route = route, .at_us = at_us });
    vc_run(vc, MINUTE);
    check(vc, i, 1, "ask");
    return vc_request(vc, i);
}

static void kill_worker(struct vc *vc, uint32_t worker)
{
    vc_fault(vc, worker, FAULT_KILL, 0);
}

static uint32_t full(uint32_t n)
{
    return n / TOKENS * TOKENS;
}

/* Of a prompt that was computed here once: at block and chunk edges and one off, what a new worker fetches of it is all
 * but the end, from where the manager says it lay. */
static void test_the_manager_has_it(void **state)
{
    (void)state;
    static const uint32_t edges[] = { 8, 12, 16, 32, 48, 64, 100 };
    for (int remote = 0; remote < 2; remote++)
        for (uint32_t k = 0; k < 3 * sizeof edges / sizeof edges[0]; k++) {
            Baton__Route route = remote ? BATON__ROUTE__ROUTE_REMOTE : BATON__ROUTE__ROUTE_LOCAL;
            struct vc_options o = of_each(k);
            struct vc *vc = vc_create(&o);
            uint32_t n = edges[k / 3] - 1 + k % 3, held = full(n - 1), on_disk = full(held / 2);
            const struct vc_request *r = ask(vc, n, route, 0);
            assert_int_equal(r->computed, n);
            kill_worker(vc, DECODE);
            kill_worker(vc, PREFILL);
            r = ask(vc, n, route, 5 * SECOND);
            assert_int_equal(r->by_tier[KV_TIER_DISK], on_disk);
            assert_int_equal(r->by_tier[KV_TIER_HOST], held - on_disk);
            assert_int_equal(r->cached, held);
            assert_int_equal(r->computed, n - held);
            assert_true(held == 0 || r->pull_us > 0);
            const struct pull_counters *c = vc_pulls(vc, remote ? PREFILL : DECODE);
            assert_int_equal(c->blocks[HOLDER_manager], held / TOKENS);
            assert_int_equal(c->pulls[HOLDER_manager][PULL_whole], held > 0);
            assert_int_equal(c->tokens[KV_TIER_DISK] + c->tokens[KV_TIER_HOST], held);
            vc_destroy(vc);
        }
}

/* What decode has of the beginning prefill takes from it; where that is not here either it is asked of the manager, and
 * without one computed. */
static void test_prefill_takes_from_decode(void **state)
{
    (void)state;
    struct vc_options o = of_each(1);
    o.manager_blocks = 0;
    struct vc *vc = vc_create(&o);
    (void)ask(vc, 50, BATON__ROUTE__ROUTE_LOCAL, 0);
    const struct vc_request *r = ask(vc, 50, BATON__ROUTE__ROUTE_REMOTE, 0);
    assert_int_equal(r->cached, 48);
    assert_int_equal(r->by_tier[KV_TIER_DEVICE], 48); /* decode had it */
    assert_int_equal(r->computed, 2);
    assert_int_equal(vc_pulls(vc, PREFILL)->blocks[HOLDER_worker], 12);
    kill_worker(vc, PREFILL);
    kill_worker(vc, DECODE);
    r = ask(vc, 50, BATON__ROUTE__ROUTE_REMOTE, 5 * SECOND);
    assert_int_equal(r->cached, 0);
    assert_int_equal(r->computed, 50);
    vc_destroy(vc);
}

static void test_no_cache_shares_nothing(void **state)
{
    (void)state;
    struct vc_options o = of_each(2);
    struct vc *vc = vc_create(&o);
    for (uint32_t i = 0; i < 6; i++) {
        vc_submit(vc, &(struct vc_request){
                          .n_prompt = 40, .max_tokens = 9, .text = 1, .n_text = 40, .no_cache = true, .route = i % 3 });
        vc_run(vc, MINUTE);
    }
    check(vc, 0, 6, "no_cache");
    for (uint32_t w = DECODE; w <= PREFILL; w++) {
        const struct offers_counters *offered = sharing_offers_counters(vc_sharing(vc, w));
        assert_int_equal(offered->offered + offered->no_manager, 0);
        for (int kind = 0; kind < HOLDER_KIND_COUNT; kind++)
            for (int outcome = 0; outcome < PULL_OUTCOME_COUNT; outcome++)
                assert_int_equal(vc_pulls(vc, w)->pulls[kind][outcome], 0);
    }
    vc_destroy(vc);
}

/* 20 ms without an answer, and computing: no request waits for longer, and not each of them. */
static void test_a_frozen_manager_costs_its_deadline(void **state)
{
    (void)state;
    struct vc_options o = of_each(3);
    struct vc *vc = vc_create(&o);
    (void)ask(vc, 60, BATON__ROUTE__ROUTE_LOCAL, 0);
    kill_worker(vc, DECODE);
    (void)ask(vc, 60, BATON__ROUTE__ROUTE_LOCAL, 5 * SECOND);
    vc_fault(vc, MANAGER, FAULT_FREEZE, 0);
    uint64_t longest = 0, sum = 0;
    for (uint32_t i = 0; i < 10; i++) {
        uint64_t begin = vc_now(vc);
        uint32_t at = vc_submit(
            vc, &(struct vc_request){
                    .n_prompt = 60, .max_tokens = 1, .route = BATON__ROUTE__ROUTE_LOCAL, .text = 5 + i, .n_text = 60 });
        while (!vc_request(vc, at)->ended)
            vc_run(vc, 100);
        uint64_t took = vc_now(vc) - begin;
        longest = took > longest ? took : longest;
        sum += took;
    }
    assert_true(longest > 20000 && longest < 40000);
    assert_true(sum < 60000);
    assert_int_equal(vc_pulls(vc, DECODE)->pulls[HOLDER_manager][PULL_timeout], 1);
    vc_run(vc, MINUTE);
    check(vc, 0, 12, "frozen manager");
    vc_destroy(vc);
}

/* Layer by layer, a new worker computes the end of a prompt while the last blocks come: the same tokens, counted as
 * ever. */
static void test_computed_behind_a_pull(void **state)
{
    (void)state;
    for (int remote = 0; remote < 2; remote++)
        for (uint32_t n = 63; n <= 66; n++) {
            Baton__Route route = remote ? BATON__ROUTE__ROUTE_REMOTE : BATON__ROUTE__ROUTE_LOCAL;
            uint32_t worker = remote ? PREFILL : DECODE;
            struct vc_options o = of_each(n);
            o.pull_take_bytes = 1;
            struct vc *vc = vc_create(&o);
            (void)ask(vc, n, route, 0);
            kill_worker(vc, DECODE);
            kill_worker(vc, PREFILL);
            uint32_t other = vc_submit(vc, &(struct vc_request){ .n_prompt = 20,
                                                                 .max_tokens = 1,
                                                                 .text = 2,
                                                                 .n_text = 20,
                                                                 .route = route,
                                                                 .at_us = 5 * SECOND }); /* what a row costs */
            vc_run(vc, MINUTE);
            check(vc, other, 1, "other");
            const struct vc_request *r = ask(vc, n, route, 6 * SECOND);
            assert_int_equal(r->cached, full(n - 1));
            assert_int_equal(r->computed, n - full(n - 1));
            assert_int_equal(vc_worker_counters(vc, worker)->overlapped, 1);
            assert_int_equal(vc_worker_counters(vc, worker)->overlaps_void, 0);
            vc_destroy(vc);
        }
}

/* ---- faults ------------------------------------------------------------------------------------------------------ */

static struct vc_options many(uint64_t seed)
{
    return (struct vc_options){ .seed = seed,
                                .n_decodes = 2,
                                .n_prefills = 2,
                                .n_blocks = 96,
                                .manager_blocks = 150,
                                .chunk_tokens = 16,
                                .texts = 3,
                                .restart = true,
                                .fault_at = "" };
}

static void submit_many(struct vc *vc, uint32_t n, uint64_t over_us, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t x = (uint32_t)(seed * 1000003 + i * 7919);
        vc_submit(vc, &(struct vc_request){ .n_prompt = 1 + x % 90,
                                            .max_tokens = 1 + x / 61 % 20,
                                            .no_cache = x % 13 == 0,
                                            .priority = (int32_t)(x / 7 % 5) - 2,
                                            .route = (Baton__Route)(x % 3),
                                            .at_us = over_us * i / n,
                                            .cancel_at_us = x % 11 == 0 ? over_us * i / n + 1 + x % 9000 : 0 });
    }
}

static struct pull_counters seen;
static uint64_t overlapped, overlaps_void;

static void count(struct vc *vc, uint32_t n_workers)
{
    for (uint32_t w = 1; w <= n_workers; w++) {
        const struct pull_counters *c = vc_pulls(vc, w);
        for (int kind = 0; c && kind < HOLDER_KIND_COUNT; kind++)
            for (int outcome = 0; outcome < PULL_OUTCOME_COUNT; outcome++)
                seen.pulls[kind][outcome] += c->pulls[kind][outcome];
        seen.damaged += c ? c->damaged : 0;
        overlapped += c ? vc_worker_counters(vc, w)->overlapped : 0;
        overlaps_void += c ? vc_worker_counters(vc, w)->overlaps_void : 0;
    }
}

static uint64_t seen_with(enum pull_outcome outcome)
{
    return seen.pulls[HOLDER_manager][outcome] + seen.pulls[HOLDER_worker][outcome];
}

static void strike(const char *name, enum fault fault, bool of_manager, uint32_t nth, uint64_t seed)
{
    struct vc_options o = many(seed);
    o.slow = 0.4;
    o.n_blocks = 60;
    o.pull_take_bytes = seed % 3 ? 1 : 0; /* layer by layer */
    o.fault_at = name;
    o.fault_nth = nth;
    o.fault = fault;
    o.fault_of_manager = of_manager;
    struct vc *vc = vc_create(&o);
    submit_many(vc, 60, 200000, seed);
    vc_run(vc, 10 * MINUTE);
    if (!vc_fault_happened(vc))
        print_error("%s was not reached %u times\n", name, nth);
    assert_true(vc_fault_happened(vc));
    check(vc, 0, 60, name);
    count(vc, 4);
    vc_destroy(vc);
}

/* The manager, or the worker itself, dies or freezes while something is fetched, offered, or kept. */
static void test_faults_at_each_state(void **state)
{
    (void)state;
    static const char *const states[] = { "prefill.QUEUED",     "prefill.ASKING",      "prefill.PULLING",
                                          "prefill.COMPUTING",  "prefill.ENDED",       "generation.WAITING",
                                          "generation.PULLING", "generation.DECODING", "block.REGISTERED" };
    for (uint64_t i = 0; i < sizeof states / sizeof states[0]; i++)
        for (uint32_t what = 0; what < 8; what++)
            strike(states[i], what % 2 ? FAULT_KILL : FAULT_FREEZE, what / 2 % 2, what / 4 ? 2 : 1, 100 * i + what);
}

static void test_random_faults(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < (is_long() ? 400 : 24); seed++) {
        struct vc_options o = many(1000 + seed);
        o.drop = seed % 2 ? 0.02 : 0;
        o.repeat = 0.05;
        o.flip = seed % 3 ? 0 : 0.01;
        o.slow = seed % 4 ? 0.1 : 0;
        o.pull_take_bytes = seed % 5 ? 1 : 0;
        o.n_blocks = 52 + (uint32_t)(seed % 4) * 30;
        o.manager_blocks = 20 + (uint32_t)(seed % 5) * 60;
        o.chunk_tokens = 1 + (uint32_t)(seed * 7 % 33);
        struct vc *vc = vc_create(&o);
        submit_many(vc, 120, 30 * SECOND, seed);
        for (uint32_t k = 0; k < 3; k++) {
            uint64_t at = SECOND + 9ull * SECOND * k + seed * 1777;
            vc_fault(vc, 1 + (uint32_t)((seed + k) % 2), (seed + k) % 3 ? FAULT_KILL : FAULT_FREEZE, at);
            vc_fault(vc, 5, (seed + k) % 2 ? FAULT_KILL : FAULT_FREEZE, at + 3 * SECOND);
            vc_fault(vc, 3 + (uint32_t)((seed + k) % 2), (seed + k) % 2 ? FAULT_KILL : FAULT_FREEZE, at + 5 * SECOND);
        }
        vc_run(vc, 20 * MINUTE);
        check(vc, 0, 120, "random faults");
        count(vc, 4);
        vc_destroy(vc);
    }
    assert_true(seen_with(PULL_whole) > 50 && seen_with(PULL_partial) > 0 && seen_with(PULL_empty) > 0);
    assert_true(seen_with(PULL_timeout) > 0 && seen_with(PULL_lost) > 0 && seen_with(PULL_damaged) > 0);
    assert_true(seen_with(PULL_cancelled) > 0 && seen.damaged > 0);
    assert_true(overlapped > 20 && overlaps_void > 0 && overlaps_void < overlapped);
}

/* Every bit that flips on the way is found where the block arrives, and computed instead: one flip, one block. */
static void test_flipped_bits(void **state)
{
    (void)state;
    uint64_t flips = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct vc_options o = of_each(2000 + seed);
        o.flip = 0.002;
        struct vc *vc = vc_create(&o);
        (void)ask(vc, 150, BATON__ROUTE__ROUTE_LOCAL, 0);
        uint32_t before = vc_flips(vc); /* among what was offered */
        uint64_t refused = sharing_offers_counters(vc_sharing(vc, DECODE))->damaged;
        assert_true(refused <= before && (refused > 0) == (before > 0));
        kill_worker(vc, DECODE);
        const struct vc_request *r = ask(vc, 150, BATON__ROUTE__ROUTE_LOCAL, 5 * SECOND);
        const struct pull_counters *c = vc_pulls(vc, DECODE);
        uint64_t on_pull = c->damaged;
        assert_true(on_pull <= vc_flips(vc) - before);
        assert_int_equal(c->pulls[HOLDER_manager][PULL_damaged], on_pull > 0);
        assert_int_equal(r->cached + r->computed, 150);
        flips += on_pull + refused;
        vc_destroy(vc);
    }
    assert_true(flips > 10);
}

int main(void)
{
    log_init("test", LOG_OFF);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_manager_has_it),      cmocka_unit_test(test_prefill_takes_from_decode),
        cmocka_unit_test(test_no_cache_shares_nothing), cmocka_unit_test(test_a_frozen_manager_costs_its_deadline),
        cmocka_unit_test(test_computed_behind_a_pull),  cmocka_unit_test(test_faults_at_each_state),
        cmocka_unit_test(test_random_faults),           cmocka_unit_test(test_flipped_bits),
    };
    return cmocka_run_group_tests_name("pulling", tests, NULL, NULL);
}
