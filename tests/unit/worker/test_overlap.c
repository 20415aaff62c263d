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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_comes_is_here_when_it_is_needed),
        cmocka_unit_test(test_nothing_is_known),
        cmocka_unit_test(test_patience),
    };
    return cmocka_run_group_tests_name("overlap", tests, NULL, NULL);
}
