/* Lengths that are drawn: their means, their ends, and that they depend on nothing but their place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "common/distribution.h"
#include "common/draw.h"

#define N 20000u

static struct distribution parsed(const char *text)
{
    struct distribution d;
    struct error err;
    assert_int_equal(distribution_parse(text, &d, &err), ST_OK);
    return d;
}

static double mean_of(const char *text)
{
    struct distribution d = parsed(text);
    double sum = 0;
    for (uint64_t i = 0; i < N; i++)
        sum += (double)distribution_draw(&d, 1, 2, i, 0, 1000000);
    return sum / N;
}

static void test_means(void **state)
{
    (void)state;
    assert_true(mean_of("512") == 512);
    assert_true(fabs(mean_of("uniform:100,300") - 200) < 2);
    assert_true(fabs(mean_of("normal:1000,50") - 1000) < 2);
    assert_true(fabs(mean_of("exponential:400") - 400) < 12);
    assert_true(fabs(mean_of("lognormal:100,0.5") / (100 * exp(0.125)) - 1) < 0.02);
}

static void test_ends(void **state)
{
    struct distribution uniform = parsed("uniform:3,5"), wide = parsed("normal:10,1000");
    uint32_t counts[6] = { 0 };
    (void)state;
    for (uint64_t i = 0; i < N; i++) {
        counts[distribution_draw(&uniform, 7, 0, i, 0, 5)]++;
        uint64_t v = distribution_draw(&wide, 7, 0, i, 1, 20);
        assert_true(v >= 1 && v <= 20);
    }
    assert_int_equal(counts[0] + counts[1] + counts[2], 0);
    for (int v = 3; v <= 5; v++)
        assert_true(fabs(counts[v] / (double)N - 1.0 / 3) < 0.02);
}

static void test_place_decides(void **state)
{
    struct distribution d = parsed("uniform:0,1000000");
    (void)state;
    uint64_t v = distribution_draw(&d, 1, 2, 3, 0, 1000000);
    assert_int_equal(distribution_draw(&d, 1, 2, 3, 0, 1000000), v);
    assert_int_not_equal(distribution_draw(&d, 2, 2, 3, 0, 1000000), v);
    assert_int_not_equal(distribution_draw(&d, 1, 3, 3, 0, 1000000), v);
    assert_int_not_equal(distribution_draw(&d, 1, 2, 4, 0, 1000000), v);
}

/* Of which time between arrivals is made. */
static void test_exponential_has_no_memory(void **state)
{
    uint32_t beyond[3] = { 0 };
    (void)state;
    for (uint64_t i = 0; i < N; i++)
        for (int k = 0; k < 3; k++)
            beyond[k] += draw_exponential(9, 0, i) > k + 1;
    for (int k = 0; k < 3; k++)
        assert_true(fabs(beyond[k] / (double)N - exp(-k - 1)) < 0.01);
}

static void test_refused(void **state)
{
    static const char *const bad[] = {
        "",          "x",   "-1",  "1x",   "uniform:1", "uniform:5,3", "normal:1", "normal:1,-2", "exponential:",
        "gamma:1,2", "1,2", "nan", "1e300"
    };
    struct distribution d = { .a = 42 };
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(distribution_parse(bad[i], &d, &err), ST_INVALID);
        assert_non_null(strstr(err.text, "uniform:LOW,HIGH"));
    }
    assert_true(d.a == 42);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_means),         cmocka_unit_test(test_ends),
        cmocka_unit_test(test_place_decides), cmocka_unit_test(test_exponential_has_no_memory),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
