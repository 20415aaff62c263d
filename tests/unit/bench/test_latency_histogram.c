/* Quantiles are those of the sorted times, within the stated error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "bench/latency_histogram.h"
#include "common/draw.h"

#define N 50000u

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void check_against_sorted(double scale, double sigma)
{
    static struct latency_histogram h;
    static uint64_t all[N];
    static const double quantiles[] = { 0, 0.001, 0.5, 0.9, 0.95, 0.99, 0.999, 1 };
    double sum = 0;
    h = (struct latency_histogram){ .n = 0 };
    for (uint64_t i = 0; i < N; i++) {
        all[i] = (uint64_t)(scale * exp(sigma * draw_normal(1, 0, i)));
        sum += (double)all[i];
        latency_add(&h, all[i]);
    }
    qsort(all, N, sizeof *all, by_value);
    for (size_t k = 0; k < sizeof quantiles / sizeof *quantiles; k++) {
        size_t rank = (size_t)ceil(quantiles[k] * N);
        double exact = (double)all[rank ? rank - 1 : 0], got = latency_quantile(&h, quantiles[k]);
        assert_true(fabs(got - exact) <= exact * LATENCY_ERROR);
        if (exact < 512)
            assert_true(got == exact);
    }
    assert_true(fabs(latency_mean(&h) - sum / N) < 1e-6 * sum);
    assert_int_equal(h.min, all[0]);
    assert_int_equal(h.max, all[N - 1]);
}

static void test_quantiles(void **state)
{
    (void)state;
    check_against_sorted(100, 0.5);
    check_against_sorted(20000, 1);
    check_against_sorted(1e7, 2);
}

static void test_few(void **state)
{
    static struct latency_histogram h;
    (void)state;
    h = (struct latency_histogram){ .n = 0 };
    assert_true(latency_quantile(&h, 0.5) == 0 && latency_mean(&h) == 0 && latency_share_within(&h, 5) == 0);
    latency_add(&h, 1000001);
    assert_true(latency_quantile(&h, 0) == 1000001 && latency_quantile(&h, 0.5) == 1000001);
    latency_add(&h, UINT64_MAX);
    assert_true(latency_quantile(&h, 1) == (double)LATENCY_MAX_US);
    assert_true(latency_share_within(&h, 2000000) == 0.5);
    assert_true(latency_share_within(&h, UINT64_MAX) == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_quantiles), cmocka_unit_test(test_few) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
