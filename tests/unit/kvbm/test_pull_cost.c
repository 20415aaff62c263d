#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kvbm/pull_cost.h"

#define SECOND 1000000u

static const struct pull_prior prior = {
    .answer_us = 500,
    .bytes_per_us = { 4000, 4000, 1000, 1000 },
    .forget_us = 30 * SECOND,
};

static void assert_near(double value, double want, double part)
{
    assert_true(value > want * (1 - part) && value < want * (1 + part));
}

/* A holder that takes answer_us + bytes / rate. */
static void pull_often(struct pull_cost *cost, double answer_us, double rate, enum kv_tier tier, uint64_t *now)
{
    for (uint64_t i = 0; i < 60; i++) {
        uint64_t bytes = 100000 + 377777 * (i % 7);
        const struct pull_measurement m = { bytes, tier, (uint64_t)answer_us, (uint64_t)((double)bytes / rate) };
        *now += 10000;
        pull_cost_observe(cost, &prior, &m, *now);
    }
}

static void test_unknown_holders_are_as_assumed(void **state)
{
    (void)state;
    const struct pull_cost nothing = { 0 };
    assert_near(pull_cost_predict(NULL, &prior, 4000000, KV_TIER_HOST, 5), 1500, .001);
    assert_near(pull_cost_predict(&nothing, &prior, 4000000, KV_TIER_HOST, 5), 1500, .001);
    assert_near(pull_cost_predict(&nothing, &prior, 4000000, KV_TIER_DISK, 5), 4500, .001);
}

static void test_what_was_measured_is_predicted(void **state)
{
    (void)state;
    struct pull_cost cost = { 0 };
    uint64_t now = SECOND;
    pull_often(&cost, 2000, 250, KV_TIER_REMOTE, &now);
    for (uint64_t bytes = 10000; bytes <= 100000000; bytes *= 10)
        assert_near(pull_cost_predict(&cost, &prior, bytes, KV_TIER_REMOTE, now), 2000 + (double)bytes / 250, .05);
    /* It gets four times slower, and is found out. */
    pull_often(&cost, 2000, 62.5, KV_TIER_REMOTE, &now);
    assert_near(pull_cost_predict(&cost, &prior, 1000000, KV_TIER_REMOTE, now), 18000, .05);
    /* The other tiers' bandwidths are their own. */
    assert_near(pull_cost_predict(&cost, &prior, 4000000, KV_TIER_HOST, now), 3000, .05);
}

/* One slow pull does not make the first prediction absurd, and the first one is not taken for drift. */
static void test_the_first_measurement_counts_once(void **state)
{
    (void)state;
    struct pull_cost cost = { 0 };
    const struct pull_measurement m = { 1000000, KV_TIER_HOST, 5000, 100000 };
    pull_cost_observe(&cost, &prior, &m, SECOND);
    assert_near(pull_cost_predict(&cost, &prior, 1000000, KV_TIER_HOST, SECOND), 105000, .001);
}

static void test_pulls_that_fail_make_a_holder_dear(void **state)
{
    (void)state;
    struct pull_cost cost = { 0 };
    uint64_t now = SECOND;
    pull_often(&cost, 500, 1000, KV_TIER_HOST, &now);
    double before = pull_cost_predict(&cost, &prior, 1000000, KV_TIER_HOST, now);
    for (int i = 0; i < 10; i++)
        pull_cost_failed(&cost, &prior, 1000000, KV_TIER_HOST, 100, now); /* at once, so the time says nothing */
    double after = pull_cost_predict(&cost, &prior, 1000000, KV_TIER_HOST, now);
    assert_true(after > 1.8 * before && after < 2.1 * before);
    for (int i = 0; i < 20; i++)
        pull_cost_failed(&cost, &prior, 1000000, KV_TIER_HOST, SECOND, now);
    assert_true(pull_cost_predict(&cost, &prior, 1000000, KV_TIER_HOST, now) > 14 * before);
    /* It is tried again later, and well thought of after that. */
    now += 300 * SECOND;
    assert_near(pull_cost_predict(&cost, &prior, 1000000, KV_TIER_HOST, now), 750, .05);
    const struct pull_measurement usual = { 1000000, KV_TIER_HOST, 500, 250 };
    pull_cost_observe(&cost, &prior, &usual, now); /* nor does what has faded come back */
    assert_near(pull_cost_predict(&cost, &prior, 1000000, KV_TIER_HOST, now), 750, .05);
    pull_often(&cost, 500, 1000, KV_TIER_HOST, &now);
    assert_near(pull_cost_predict(&cost, &prior, 1000000, KV_TIER_HOST, now), before, .05);
}

static void test_what_is_old_is_forgotten(void **state)
{
    (void)state;
    struct pull_cost cost = { 0 };
    uint64_t now = SECOND;
    pull_often(&cost, 4500, 4000, KV_TIER_HOST, &now);
    assert_near(pull_cost_predict(&cost, &prior, 0, KV_TIER_HOST, now), 4500, .01);
    assert_near(pull_cost_predict(&cost, &prior, 0, KV_TIER_HOST, now + 30 * SECOND), 2500, .01);
    assert_near(pull_cost_predict(&cost, &prior, 0, KV_TIER_HOST, now + 600 * SECOND), 500, .01);
}

/* A prefix of 16-token blocks of 400 KB, a way of 1 GB/s with 2 ms to an answer, 2000 tokens/s computed: worth it from
 * the first block on. At 200,000 tokens/s a block takes 80 us to compute and 400 to pull, and nothing is worth it; at
 * 20,000 (800 us) it depends on how many. */
static void test_both_sides_of_the_crossover(void **state)
{
    (void)state;
    struct pull_cost cost = { 0 };
    uint64_t now = SECOND, block_bytes = 400000;
    pull_often(&cost, 2000, 1000, KV_TIER_REMOTE, &now);
    const struct {
        double tokens_per_us;
        uint64_t blocks;
        bool pays;
    } cases[] = {
        { .002, 1, true }, { .002, 100, true }, { .2, 1, false }, { .2, 1000, false },
        { .02, 1, false }, { .02, 5, false },   { .02, 8, true }, { .02, 1000, true },
    };
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct prefill_rate rate = { 0 };
        for (int j = 0; j < 10; j++)
            prefill_rate_observe(&rate, 10000, (uint64_t)(10000 / cases[i].tokens_per_us));
        double pull = pull_cost_predict(&cost, &prior, cases[i].blocks * block_bytes, KV_TIER_REMOTE, now);
        assert_int_equal(pull_pays(pull, prefill_rate_predict(&rate, 16 * cases[i].blocks)), cases[i].pays);
    }
}

static void test_nothing_known_of_computing(void **state)
{
    (void)state;
    const struct prefill_rate rate = { 0 };
    assert_true(pull_pays(1e9, prefill_rate_predict(&rate, 16)));
    struct prefill_rate same = { 0 };
    prefill_rate_observe(&same, 0, 5);
    prefill_rate_observe(&same, 5, 0);
    assert_true(prefill_rate_predict(&same, 16) == 0);
}

static void test_the_table_is_bounded(void **state)
{
    (void)state;
    static struct pull_costs costs;
    costs.prior = prior;
    for (uint64_t i = 1; i <= PULL_COSTS_MAX; i++) {
        const struct pull_measurement m = { 1000, KV_TIER_HOST, 10 * i, 1 };
        pull_cost_observe(pull_costs_of(&costs, i), &prior, &m, 100 * i);
    }
    assert_non_null(pull_costs_find(&costs, 1));
    struct pull_cost *first = pull_costs_of(&costs, 1);
    pull_cost_observe(first, &prior, &(struct pull_measurement){ 1000, KV_TIER_HOST, 10, 1 }, 100000);
    assert_int_equal(pull_costs_of(&costs, 5000)->pulls, 0);
    assert_null(pull_costs_find(&costs, 2)); /* measured longest ago */
    assert_ptr_equal(pull_costs_find(&costs, 1), first);
    assert_int_equal(first->pulls, 2);
    assert_int_equal(costs.n, PULL_COSTS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unknown_holders_are_as_assumed),
        cmocka_unit_test(test_what_was_measured_is_predicted),
        cmocka_unit_test(test_the_first_measurement_counts_once),
        cmocka_unit_test(test_pulls_that_fail_make_a_holder_dear),
        cmocka_unit_test(test_what_is_old_is_forgotten),
        cmocka_unit_test(test_both_sides_of_the_crossover),
        cmocka_unit_test(test_nothing_known_of_computing),
        cmocka_unit_test(test_the_table_is_bounded),
    };
    return cmocka_run_group_tests_name("pull_cost", tests, NULL, NULL);
}
