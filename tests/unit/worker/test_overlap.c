/* When a prompt is computed behind its pull. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "worker/overlap.h"

/* Half came in 1000 us, so the other half takes as long. */
static void test_what_comes_is_here_when_it_is_needed(void **state)
{
    (void)state;
    assert_true(overlap_begins(1000, 0.5, 1000));
    assert_true(overlap_begins(1000, 0.5, 5000));
    assert_false(overlap_begins(1000, 0.5, 999));
    assert_false(overlap_begins(1000, 0.1, 8999));
    assert_true(overlap_begins(1000, 0.1, 9001));
    assert_true(overlap_begins(1000000, 1, 1));
}

static void test_nothing_is_known(void **state)
{
    (void)state;
    assert_false(overlap_begins(0, 0, 1000));
    assert_false(overlap_begins(1000, 0.5, 0));
    assert_false(overlap_begins(0, 1, 0));
}

static void test_patience(void **state)
{
    (void)state;
    assert_int_equal(overlap_patience_us(300), 600);
    assert_int_equal(overlap_patience_us(0), 0);
}

/* Half as many again as take as long as the step, or, where they are handed over, half of that long. */
static void test_how_many_come_by_layer(void **state)
{
    (void)state;
    assert_int_equal(overlap_blocks(100, 10000, 2000, false), 31);
    assert_int_equal(overlap_blocks(100, 10000, 2000, true), 11);
    assert_int_equal(overlap_blocks(100, 10000, 7000, false), 100);
    assert_int_equal(overlap_blocks(100, 10000, 20000, true), 100);
    assert_int_equal(overlap_blocks(100, 10000, 0, false), 0);
    assert_int_equal(overlap_blocks(100, 10000, 1, true), 1);
    assert_int_equal(overlap_blocks(1, 0, 1, true), 1);
    for (double us = 1; us < 20000; us *= 1.3) {
        assert_true(overlap_blocks(3, 10000, us, false) >= overlap_blocks(3, 10000, us, true));
        assert_in_range(overlap_blocks(3, 10000, us, true), 1, 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_comes_is_here_when_it_is_needed),
        cmocka_unit_test(test_nothing_is_known),
        cmocka_unit_test(test_patience),
        cmocka_unit_test(test_how_many_come_by_layer),
    };
    return cmocka_run_group_tests_name("overlap", tests, NULL, NULL);
}
