/* One value out of a metrics page. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/metrics_text.h"

static const char page[] = "# HELP a_total Things\n# TYPE a_total counter\na_total 17\na_total_more 3\n"
                           "b{state=\"free\"} 2.5\nb{state=\"used\"} 4e2\nbroken\nc x\nlast 1";

static void values(void **state)
{
    (void)state;
    double v = -1;
    assert_true(metrics_text_value(page, "a_total", &v));
    assert_true(v == 17);
    assert_true(metrics_text_value(page, "b{state=\"used\"}", &v));
    assert_true(v == 400);
    assert_true(metrics_text_value(page, "last", &v));
    assert_true(v == 1);
}

static void absent_ones(void **state)
{
    (void)state;
    double v = -1;
    assert_false(metrics_text_value(page, "a", &v));
    assert_false(metrics_text_value(page, "b", &v));
    assert_false(metrics_text_value(page, "broken", &v));
    assert_false(metrics_text_value(page, "c", &v));
    assert_false(metrics_text_value("", "a", &v));
    assert_true(v == -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(values), cmocka_unit_test(absent_ones) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
