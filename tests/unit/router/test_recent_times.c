/* What the last times say of the next. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "router/recent_times.h"

#define BASE     400.0
#define PER_BYTE 0.0003

static uint32_t below(uint32_t n)
{
    return (uint32_t)rand() % n;
}

static bool is_near(double a, double b, double share)
{
    return fabs(a - b) <= share * b;
}

static uint64_t true_us(uint64_t bytes)
{
    return (uint64_t)(BASE + PER_BYTE * (double)bytes);
}

/* 16 tokens to 8192, of 23040 bytes each. */
static uint64_t some_bytes(void)
{
    return 368640u * (1 + below(1u << below(10)));
}

static void test_nothing_and_little(void **state)
{
    (void)state;
    struct recent_times times = { 0 };
    struct pick_line line;
    const struct pick_line said = { 1000, 0.001f };
    double share = 7;
    assert_false(recent_times_line(&times, &line));
    assert_false(recent_times_against(&times, &said, &share));
    recent_times_add(&times, 0, 5000); /* says nothing of bytes */
    assert_false(recent_times_against(&times, &said, &share));
    for (int i = 0; i < 10; i++) /* of one size no line follows, but a speed */
        recent_times_add(&times, 1000000, 500);
    assert_false(recent_times_line(&times, &line));
    assert_true(recent_times_against(&times, &said, &share) && is_near(share, 0.25, 1e-6));
    recent_times_add(&times, 4000000, 1000);
    assert_true(recent_times_line(&times, &line));
    recent_times_add(&times, UINT64_MAX, UINT64_MAX);
    recent_times_add(&times, 1, 0);
    assert_true(recent_times_line(&times, &line));
    assert_true(line.base >= 0 && line.byte >= 0 && isfinite(line.base) && isfinite(line.byte));
}

static void test_a_line(void **state)
{
    (void)state;
    struct recent_times times = { 0 };
    struct pick_line line;
    for (uint64_t bytes = 400000; bytes <= 100000000; bytes *= 2)
        recent_times_add(&times, bytes, true_us(bytes));
    assert_true(recent_times_line(&times, &line));
    assert_true(is_near((double)line.base, BASE, 0.02) && is_near((double)line.byte, PER_BYTE, 0.02));
}

/* More bytes never take less time, and none takes less than nothing. */
static void test_no_term_is_negative(void **state)
{
    (void)state;
    struct recent_times falls = { 0 }, steep = { 0 };
    struct pick_line line;
    for (uint32_t i = 1; i <= 20; i++) {
        recent_times_add(&falls, i * 1000000u, 50000 - i * 1000);
        recent_times_add(&steep, i * 1000000u, i * 10000u - 9000);
    }
    assert_true(recent_times_line(&falls, &line) && line.byte == 0 && line.base > 0);
    assert_true(recent_times_line(&steep, &line) && line.base == 0 && line.byte > 0);
}

/* A quarter of the times is two to ten times too long, the rest off by a tenth: the line is that of the rest. */
static void test_what_is_far_off_does_not_count(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 200; seed++) {
        struct recent_times times = { 0 };
        struct pick_line line;
        srand(seed);
        for (uint32_t i = 0; i < 3 * RECENT_TIMES; i++) {
            uint64_t bytes = i % 8 ? some_bytes() : 368640u << i % 10, us = true_us(bytes);
            us = us * (90 + below(21)) / 100;
            recent_times_add(&times, bytes, below(4) ? us : us * (2 + below(9)));
        }
        assert_true(recent_times_line(&times, &line));
        for (uint64_t bytes = 1u << 20; bytes <= 1u << 27; bytes *= 2)
            assert_true(is_near((double)line.base + (double)line.byte * (double)bytes, (double)true_us(bytes), 0.25));
    }
}

/* After as many times as are kept nothing is left of what was before. */
static void test_what_is_long_ago_is_forgotten(void **state)
{
    (void)state;
    struct recent_times times = { 0 };
    struct pick_line line;
    for (uint32_t i = 0; i < RECENT_TIMES; i++)
        recent_times_add(&times, 1000000u << i % 5, 77777);
    for (uint32_t i = 0; i < RECENT_TIMES; i++)
        recent_times_add(&times, 1000000u << i % 5, true_us(1000000u << i % 5));
    assert_true(recent_times_line(&times, &line));
    assert_true(is_near((double)line.base, BASE, 0.02) && is_near((double)line.byte, PER_BYTE, 0.02));
}

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void test_the_median_of_waits(void **state)
{
    (void)state;
    struct recent_waits waits = { 0 };
    float all[300], last[RECENT_WAITS];
    srand(3);
    for (uint32_t i = 0; i < 300; i++) {
        uint64_t us = below(10) ? 1 + below(500) : 1000000;
        all[i] = (float)us;
        recent_waits_add(&waits, us);
        uint32_t n = i + 1 < RECENT_WAITS ? i + 1 : RECENT_WAITS;
        memcpy(last, all + i + 1 - n, n * sizeof last[0]);
        qsort(last, n, sizeof last[0], compare);
        assert_true(waits.median >= last[(n - 1) / 2] && waits.median <= last[n / 2]);
    }
    recent_waits_add(&waits, 0);
    assert_true(waits.median > 0); /* 0 is that nothing is known */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_and_little),
        cmocka_unit_test(test_a_line),
        cmocka_unit_test(test_no_term_is_negative),
        cmocka_unit_test(test_what_is_far_off_does_not_count),
        cmocka_unit_test(test_what_is_long_ago_is_forgotten),
        cmocka_unit_test(test_the_median_of_waits),
    };
    return cmocka_run_group_tests_name("recent_times", tests, NULL, NULL);
}
