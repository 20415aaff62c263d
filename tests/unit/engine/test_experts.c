#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "engine/experts.h"

static void test_choose_the_largest(void **state)
{
    (void)state;
    const float logits[] = { 0.5f, 3.0f, -1.0f, 2.0f, 2.5f };
    uint32_t chosen[3];
    float weights[3];
    experts_choose(logits, 5, 3, true, chosen, weights);
    assert_int_equal(chosen[0], 1);
    assert_int_equal(chosen[1], 3);
    assert_int_equal(chosen[2], 4);
    double sum = exp(3.0) + exp(2.0) + exp(2.5);
    assert_true(fabs((double)weights[0] - exp(3.0) / sum) < 1e-7);
    assert_true(fabs((double)weights[1] - exp(2.0) / sum) < 1e-7);
    assert_true(fabs((double)weights[2] - exp(2.5) / sum) < 1e-7);
    experts_choose(logits, 5, 3, false, chosen, weights);
    sum += exp(0.5) + exp(-1.0);
    assert_true(fabs((double)weights[0] - exp(3.0) / sum) < 1e-7);
    assert_true(fabs((double)weights[1] - exp(2.0) / sum) < 1e-7);
}

/* Of equal ones the first; and where there is no order there are still as many, all different. */
static void test_choose_without_an_order(void **state)
{
    (void)state;
    const float equal[] = { 1.0f, 2.0f, 2.0f, 2.0f };
    const float none[] = { NAN, NAN, NAN, NAN };
    uint32_t chosen[2];
    float weights[2];
    experts_choose(equal, 4, 2, true, chosen, weights);
    assert_int_equal(chosen[0], 1);
    assert_int_equal(chosen[1], 2);
    assert_true(weights[0] == 0.5f && weights[1] == 0.5f);
    experts_choose(none, 4, 2, true, chosen, weights);
    assert_true(chosen[0] < chosen[1] && chosen[1] < 4);
}

static void test_gather(void **state)
{
    (void)state;
    enum { ROWS = 23, USED = 3, N = 9, PAIRS = ROWS * USED };
    uint32_t chosen[PAIRS], first[N + 1], places[PAIRS], row_of[PAIRS];
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t i = 0; i < USED; i++)
            chosen[r * USED + i] = (r * 5 + i * 2) % 7; /* experts 7 and 8 have no row */
    experts_gather(chosen, ROWS, USED, N, first, places, row_of);
    assert_int_equal(first[0], 0);
    assert_int_equal(first[N], PAIRS);
    assert_int_equal(first[7], PAIRS);
    uint32_t place = 0;
    for (uint32_t e = 0; e < N; e++) {
        assert_int_equal(first[e], place);
        for (uint32_t i = 0; i < PAIRS; i++)
            if (chosen[i] == e) {
                assert_int_equal(places[i], place);
                assert_int_equal(row_of[place], i / USED);
                place++;
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choose_the_largest),
        cmocka_unit_test(test_choose_without_an_order),
        cmocka_unit_test(test_gather),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
