/* Which worker is chosen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "router/pick.h"

#define N 4

static struct pick_candidate idle(void)
{
    return (struct pick_candidate){ .kv_blocks = 100, .kv_free = 100, .usable = true };
}

static void fill(struct pick_candidate *c)
{
    for (int i = 0; i < N; i++)
        c[i] = idle();
}

static void test_cost_rises(void **state)
{
    (void)state;
    struct pick_candidate a = idle(), b = idle();
    b.queued_tokens = 10;
    assert_true(pick_cost(&b) > pick_cost(&a));
    b = idle();
    b.requests = 1;
    assert_true(pick_cost(&b) > pick_cost(&a));
    double last = -1;
    for (uint32_t free = 100; free <= 100; free -= 10) { /* the fuller the steeper */
        b = idle();
        b.kv_free = free;
        assert_true(pick_cost(&b) > last);
        last = pick_cost(&b);
    }
    b.kv_blocks = b.kv_free = 0; /* nothing heard yet */
    assert_true(pick_cost(&b) == 0);
}

static void test_least_loaded(void **state)
{
    (void)state;
    struct pick_candidate c[N];
    fill(c);
    c[0].queued_tokens = c[1].queued_tokens = c[3].queued_tokens = 500;
    for (uint64_t turn = 0; turn < 10; turn++)
        assert_int_equal(pick_worker(PICK_LEAST_LOADED, c, N, turn), 2);
    c[2].usable = false;
    assert_int_not_equal(pick_worker(PICK_LEAST_LOADED, c, N, 0), 2);
}

static void test_equals_share(void **state)
{
    (void)state;
    struct pick_candidate c[N];
    int hits[N] = { 0 };
    fill(c);
    for (uint64_t turn = 0; turn < 40; turn++)
        hits[pick_worker(PICK_LEAST_LOADED, c, N, turn)]++;
    for (int i = 0; i < N; i++)
        assert_int_equal(hits[i], 10);
}

static void test_nobody(void **state)
{
    (void)state;
    struct pick_candidate c[N];
    fill(c);
    for (int i = 0; i < N; i++)
        c[i].usable = false;
    for (int policy = PICK_LEAST_LOADED; policy <= PICK_POWER_OF_TWO; policy++) {
        assert_int_equal(pick_worker((enum pick_policy)policy, c, N, 3), PICK_NONE);
        assert_int_equal(pick_worker((enum pick_policy)policy, c, 0, 3), PICK_NONE);
    }
}

static void test_every_policy_keeps_to_the_usable(void **state)
{
    (void)state;
    struct pick_candidate c[N];
    fill(c);
    c[0].usable = c[2].usable = false;
    for (int policy = PICK_LEAST_LOADED; policy <= PICK_POWER_OF_TWO; policy++) {
        int hits[N] = { 0 };
        for (uint64_t turn = 0; turn < 200; turn++)
            hits[pick_worker((enum pick_policy)policy, c, N, turn)]++;
        assert_int_equal(hits[0] + hits[2], 0);
        assert_true(hits[1] > 20 && hits[3] > 20);
    }
}

static void test_round_robin_looks_at_no_load(void **state)
{
    (void)state;
    struct pick_candidate c[N];
    fill(c);
    c[1].queued_tokens = 100000;
    for (uint64_t turn = 0; turn < 8; turn++)
        assert_int_equal(pick_worker(PICK_ROUND_ROBIN, c, N, turn), turn % N);
}

static void test_rank(void **state)
{
    (void)state;
    struct pick_candidate c[N];
    uint32_t order[N];
    fill(c);
    c[0].queued_tokens = 30;
    c[1].queued_tokens = 10;
    c[2].queued_tokens = 20;
    c[3].usable = false;
    assert_int_equal(pick_rank(c, N, 0, order, N), 3);
    assert_int_equal(order[0], 1);
    assert_int_equal(order[1], 2);
    assert_int_equal(order[2], 0);
    assert_int_equal(pick_rank(c, N, 0, order, 1), 1);
    assert_int_equal(order[0], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cost_rises),
        cmocka_unit_test(test_least_loaded),
        cmocka_unit_test(test_equals_share),
        cmocka_unit_test(test_nobody),
        cmocka_unit_test(test_every_policy_keeps_to_the_usable),
        cmocka_unit_test(test_round_robin_looks_at_no_load),
        cmocka_unit_test(test_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
