/* How fast a worker is taken to be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "router/fleet_rates.h"

static void read_rates(const struct fleet_rates *own, const struct fleet_rates *typical, struct pick_rates *out)
{
    static const struct fleet_rates none;
    const struct fleet_rates *const from[] = { own, typical, &none };
    fleet_rates_read(from, out);
}

static bool is_near(double a, double b)
{
    return a > 0.9 * b && a < 1.1 * b;
}

static void test_defaults_until_something_was_measured(void **state)
{
    (void)state;
    const struct fleet_rates none = { 0 };
    struct pick_rates r;
    read_rates(&none, &none, &r);
    assert_true(r.prefill_token == RATE_PREFILL_TOKEN_US && r.prefill_base == 0 && r.prefill_pair == 0);
    assert_true(r.handoff[0].base == RATE_HANDOFF_BASE_US && r.handoff[1].byte == RATE_HANDOFF_BYTE_US);
    assert_true(r.pull[KV_TIER_REMOTE].base == RATE_PULL_BASE_US && r.pull[KV_TIER_HOST].byte == RATE_PULL_BYTE_US);
}

/* One size says nothing of others: a long prompt is not taken to be as quick as a short one. */
static void test_one_size(void **state)
{
    (void)state;
    struct fleet_rates own = { 0 };
    const struct fleet_rates none = { 0 };
    struct pick_rates r;
    for (int i = 0; i < 20; i++)
        fleet_rates_prefill(&own, 20, 20, 1000);
    read_rates(&own, &none, &r);
    assert_true(is_near((double)r.prefill_token, 50) && r.prefill_base == 0);
}

/* A line through two; what would begin below nothing goes through nothing, between them. */
static void test_two_sizes(void **state)
{
    (void)state;
    struct fleet_rates own = { 0 }, cold = { 0 };
    const struct fleet_rates none = { 0 };
    struct pick_rates r;
    fleet_rates_prefill(&own, 20, 20, 2000);
    fleet_rates_prefill(&own, 200, 200, 11000);
    read_rates(&own, &none, &r);
    assert_true(is_near((double)r.prefill_base, 1000) && is_near((double)r.prefill_token, 50));
    fleet_rates_prefill(&cold, 200, 200, 60000); /* the first one of a worker */
    fleet_rates_prefill(&cold, 20, 20, 2000);
    read_rates(&cold, &none, &r);
    assert_true(r.prefill_base == 0.0f && r.prefill_token > 100.0f && r.prefill_token < 150.0f);
}

static double predicted(const struct pick_rates *r, double context, double n)
{
    return (double)r->prefill_base + (double)r->prefill_token * n +
           (double)r->prefill_pair * (n * context + n * (n + 1) / 2);
}

static void test_the_square_is_learned(void **state)
{
    (void)state;
    struct fleet_rates own = { 0 };
    const struct fleet_rates none = { 0 };
    struct pick_rates r;
    for (int i = 0; i < 60; i++)
        for (uint32_t n = 8; n <= 16384; n *= 2) {
            double us = 2000 + 30.0 * n + 0.02 * n * (n + 1) / 2;
            fleet_rates_prefill(&own, n, n, (uint64_t)us);
        }
    read_rates(&own, &none, &r);
    assert_true(is_near(predicted(&r, 0, 64), 2000 + 30 * 64 + 0.02 * 64 * 65 / 2));
    assert_true(is_near(predicted(&r, 0, 10000), 2000 + 30 * 10000 + 0.02 * 10000.0 * 10001 / 2));
    assert_true(is_near(predicted(&r, 9000, 1000), 2000 + 30 * 1000 + 0.02 * (1000.0 * 9000 + 1000.0 * 1001 / 2)));
}

static void test_lines(void **state)
{
    (void)state;
    struct fleet_rates own = { 0 };
    const struct fleet_rates none = { 0 };
    struct pick_rates r;
    for (int i = 0; i < 60; i++)
        for (uint64_t kib = 16; kib <= 16384; kib *= 4) {
            fleet_rates_handoff(&own, true, kib << 10, 400 + kib);
            fleet_rates_pull(&own, KV_TIER_DISK, kib << 10, 5000 + 2 * kib);
        }
    read_rates(&own, &none, &r);
    assert_true(is_near((double)r.handoff[1].base, 400) && is_near(1024 * (double)r.handoff[1].byte, 1));
    assert_true(is_near((double)r.pull[KV_TIER_DISK].base, 5000) &&
                is_near(1024 * (double)r.pull[KV_TIER_DISK].byte, 2));
    assert_true(r.handoff[0].base == RATE_HANDOFF_BASE_US); /* each by itself */
    assert_true(r.pull[KV_TIER_HOST].base == RATE_PULL_BASE_US);
}

/* One that was fetched at one size only says how quick it is; what other sizes take is as others', or as nobody's. */
static void test_own_speed_of_fetching(void **state)
{
    (void)state;
    struct fleet_rates own = { 0 }, typical = { 0 };
    struct pick_rates r;
    fleet_rates_pull(&own, KV_TIER_HOST, 1000000, 2000);
    read_rates(&own, &typical, &r); /* half of the 2 + 2 ms that are taken for a million bytes */
    assert_true(is_near((double)r.pull[KV_TIER_HOST].base, 1000) &&
                is_near(1e6 * (double)r.pull[KV_TIER_HOST].byte, 1000));
    assert_true(r.pull[KV_TIER_DISK].base == RATE_PULL_BASE_US);
    for (uint64_t bytes = 1000000; bytes <= 64000000; bytes *= 2)
        fleet_rates_pull(&typical, KV_TIER_HOST, bytes, 500 + bytes / 1000);
    read_rates(&own, &typical, &r); /* 2 ms for what takes others 1.5 */
    assert_true(is_near((double)r.pull[KV_TIER_HOST].base, 667) &&
                is_near(1e6 * (double)r.pull[KV_TIER_HOST].byte, 1333));
    const struct fleet_rates none = { 0 };
    read_rates(&none, &typical, &r);
    assert_true(is_near((double)r.pull[KV_TIER_HOST].base, 500));
    fleet_rates_missed(&typical, KV_TIER_HOST, 1000000, 400000); /* from now on it is another */
    read_rates(&none, &typical, &r);
    assert_true(is_near((double)r.pull[KV_TIER_HOST].base + 1e6 * (double)r.pull[KV_TIER_HOST].byte, 400000));
}

/* Its own figures count before those of its like. */
static void test_own_before_typical(void **state)
{
    (void)state;
    struct fleet_rates own = { 0 }, typical = { 0 };
    struct pick_rates r;
    fleet_rates_prefill(&typical, 100, 100, 2000);
    read_rates(&own, &typical, &r);
    assert_true(is_near((double)r.prefill_token, 20));
    fleet_rates_prefill(&own, 100, 100, 8000);
    read_rates(&own, &typical, &r);
    assert_true(is_near((double)r.prefill_token, 80));
}

/* Its own speed at the one size that it was measured at, the others' shape beyond. */
static void test_own_speed_in_the_shape_of_others(void **state)
{
    (void)state;
    struct fleet_rates own = { 0 }, typical = { 0 };
    struct pick_rates r;
    for (int i = 0; i < 60; i++)
        for (uint64_t kib = 16; kib <= 16384; kib *= 4)
            fleet_rates_handoff(&typical, false, kib << 10, 400 + kib);
    for (int i = 0; i < 20; i++)
        fleet_rates_handoff(&own, false, 64 << 10, 2 * (400 + 64));
    read_rates(&own, &typical, &r);
    assert_true(is_near((double)r.handoff[0].base, 800) && is_near(1024 * (double)r.handoff[0].byte, 2));
    const struct fleet_rates none = { 0 };
    const struct fleet_rates *const other_role[] = { &none, &none, &typical };
    fleet_rates_read(other_role, &r);
    assert_true(is_near((double)r.handoff[0].base, 400));
}

/* The median: what was long because of others that nobody knew of does not count for more. */
static void test_the_wait_of_an_empty_queue(void **state)
{
    (void)state;
    struct fleet_rates typical = { 0 };
    struct fleet_rates own = { 0 };
    struct pick_rates r;
    fleet_rates_queue(&own, 5); /* that of its like is taken */
    read_rates(&own, &typical, &r);
    assert_true(r.queue == 0);
    for (int i = 0; i < 100; i++)
        fleet_rates_queue(&typical, i % 4 ? 280 + 10 * (uint64_t)(i % 3) : 1000000);
    read_rates(&own, &typical, &r);
    assert_true(is_near((double)r.queue, 290));
    for (int i = 0; i < 100; i++)
        fleet_rates_queue(&typical, 0);
    read_rates(&own, &typical, &r);
    assert_true(r.queue <= 1);
}

static void test_nonsense_teaches_nothing(void **state)
{
    (void)state;
    struct fleet_rates own = { 0 };
    const struct fleet_rates none = { 0 };
    struct pick_rates r;
    fleet_rates_prefill(&own, 10, 11, 1000);
    fleet_rates_prefill(&own, 10, 0, 1000);
    fleet_rates_handoff(&own, false, 0, 1000);
    read_rates(&own, &none, &r);
    assert_true(r.prefill_token == RATE_PREFILL_TOKEN_US && r.handoff[0].base == RATE_HANDOFF_BASE_US);
    fleet_rates_handoff(&own, false, UINT64_MAX, UINT64_MAX);
    read_rates(&own, &none, &r);
    assert_true(r.handoff[0].base >= 0 && r.handoff[0].byte >= 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_until_something_was_measured),
        cmocka_unit_test(test_one_size),
        cmocka_unit_test(test_two_sizes),
        cmocka_unit_test(test_the_square_is_learned),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_own_speed_of_fetching),
        cmocka_unit_test(test_own_before_typical),
        cmocka_unit_test(test_own_speed_in_the_shape_of_others),
        cmocka_unit_test(test_the_wait_of_an_empty_queue),
        cmocka_unit_test(test_nonsense_teaches_nothing),
    };
    return cmocka_run_group_tests_name("fleet_rates", tests, NULL, NULL);
}
