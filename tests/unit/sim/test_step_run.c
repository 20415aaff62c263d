#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "sim/spread.h"
#include "sim/step_run.h"

#define STEPS 3000u

static const struct step_run runs[] = { { 1e6, 0 }, { 29.8e6, 177.76 * 40 }, { 1, 1 }, { 1234.5, 0.001 } };
#define N_RUNS (sizeof runs / sizeof *runs)

static void a_run_is_its_steps(void **state)
{
    (void)state;
    for (size_t r = 0; r < N_RUNS; r++) {
        double sum = 0;
        for (uint32_t k = 0; k <= STEPS; k++) {
            double time = (double)step_run_time(&runs[r], k);
            assert_true(time <= sum + 1e-3 && time > sum - 1.001);
            sum += step_run_step(&runs[r], k);
        }
    }
}

static void steps_are_over_when_their_time_is(void **state)
{
    (void)state;
    for (size_t r = 0; r < N_RUNS; r++)
        for (uint32_t k = 1; k <= STEPS; k++) {
            uint64_t end = step_run_time(&runs[r], k);
            assert_int_equal(step_run_over(&runs[r], end), k);
            assert_int_equal(step_run_over(&runs[r], end - 1), k - 1);
        }
    assert_int_equal(step_run_over(&runs[0], 0), 0);
}

static void a_run_is_spread_as_its_steps(void **state)
{
    struct spread *all = calloc(1, sizeof *all), *single = calloc(1, sizeof *single);
    (void)state;
    assert_non_null(all);
    assert_non_null(single);
    for (size_t r = 0; r < 2; r++) {
        spread_add_run(all, &runs[r], 2, STEPS, 3);
        for (uint32_t k = 2; k < 2 + STEPS; k++)
            spread_add(single, step_run_step(&runs[r], k) / 1e3, 3);
    }
    assert_int_equal(all->n, single->n);
    assert_int_equal(all->n, 2 * 3 * STEPS);
    assert_true(fabs(all->sum / single->sum - 1) < 1e-9);
    for (uint32_t i = 0; i < SPREAD_CLASSES; i++)
        assert_true(labs((long)all->counts[i] - (long)single->counts[i]) <= 3); /* at an edge rounding may differ */
    free(all);
    free(single);
}

static void percentiles_are_near(void **state)
{
    struct spread *s = calloc(1, sizeof *s);
    (void)state;
    assert_non_null(s);
    assert_true(spread_at(s, 0.5) == 0);
    for (uint32_t i = 1; i <= 100000; i++)
        spread_add(s, 10.0 * i, 1);
    for (int percent = 1; percent < 100; percent++)
        assert_true(fabs(spread_at(s, percent / 100.0) / (1e4 * percent) - 1) < 0.003);
    assert_true(spread_at(s, 1) <= 1e6);
    assert_true(fabs(spread_mean(s) - 500005) < 1e-3);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(a_run_is_its_steps),
                                        cmocka_unit_test(steps_are_over_when_their_time_is),
                                        cmocka_unit_test(a_run_is_spread_as_its_steps),
                                        cmocka_unit_test(percentiles_are_near) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
