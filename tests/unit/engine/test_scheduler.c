/* Which rows a step computes: bounds hold for random inputs, decodes go first, nobody starves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/scheduler.h"

static uint32_t draw(uint32_t below)
{
    return (uint32_t)random() % below;
}

static void test_bounds(void **state)
{
    (void)state;
    for (int round = 0; round < 20000; round++) {
        uint32_t wanted[40], rows[40], n = draw(40), sum = 0, seqs = 0;
        struct scheduler_limits limits = { 1 + draw(100), 1 + draw(20), 1 + draw(50) };
        for (uint32_t i = 0; i < n; i++)
            wanted[i] = draw(3) ? 1 : 1 + draw(200);
        uint32_t told = scheduler_form(&limits, wanted, n, rows);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(rows[i] <= wanted[i] && rows[i] <= limits.chunk_tokens);
            sum += rows[i];
            seqs += rows[i] > 0;
        }
        assert_int_equal(sum, told);
        assert_true(sum <= limits.budget_rows && seqs <= limits.max_seqs);
        assert_true(n == 0 || sum > 0);
    }
}

static void test_decodes_first_then_prefills_by_arrival(void **state)
{
    (void)state;
    struct scheduler_limits limits = { 10, 8, 6 };
    uint32_t wanted[] = { 100, 1, 50, 1 }, rows[4];
    assert_int_equal(scheduler_form(&limits, wanted, 4, rows), 10);
    assert_int_equal(rows[1], 1);
    assert_int_equal(rows[3], 1);
    assert_int_equal(rows[0], 6);
    assert_int_equal(rows[2], 2);
}

/* As long as decodes leave budget, the first prefill advances in every step. */
static void test_first_prefill_progresses(void **state)
{
    (void)state;
    struct scheduler_limits limits = { 16, 64, 16 };
    uint32_t wanted[12], rows[12], left = 500, steps = 0;
    while (left > 0) {
        wanted[0] = left;
        for (int i = 1; i < 12; i++)
            wanted[i] = 1 + draw(2) * draw(100);
        scheduler_form(&limits, wanted, 12, rows);
        assert_true(rows[0] > 0);
        left -= rows[0];
        assert_true(++steps < 500);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_decodes_first_then_prefills_by_arrival),
        cmocka_unit_test(test_first_prefill_progresses),
    };
    return cmocka_run_group_tests_name("scheduler", tests, NULL, NULL);
}
