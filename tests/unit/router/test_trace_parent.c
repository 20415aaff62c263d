/* The traceparent header. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "router/trace_parent.h"

#define TRACE "0af7651916cd43dd8448eb211c80319c"
#define SPAN  "b7ad6b7169203331"

static void test_valid(void **state)
{
    (void)state;
    struct trace_context t;
    assert_true(trace_parent_read("00-" TRACE "-" SPAN "-01", &t));
    assert_int_equal(t.trace_id[0], 0x0a);
    assert_int_equal(t.trace_id[15], 0x9c);
    assert_int_equal(t.span_id[0], 0xb7);
    assert_int_equal(t.span_id[7], 0x31);
    assert_true(trace_parent_read("01-" TRACE "-" SPAN "-00-later", &t));
}

static void test_invalid(void **state)
{
    (void)state;
    static const char *const texts[] = {
        NULL,
        "",
        "00",
        "00-" TRACE "-" SPAN,
        "00-" TRACE "-" SPAN "-0",
        "00-" TRACE "-" SPAN "-01-x", /* version 0 has no more */
        "01-" TRACE "-" SPAN "-01x",
        "ff-" TRACE "-" SPAN "-01",
        "00-00000000000000000000000000000000-" SPAN "-01",
        "00-" TRACE "-0000000000000000-01",
        "00-0AF7651916cd43dd8448eb211c80319c-" SPAN "-01",
        "00_" TRACE "-" SPAN "-01",
        "00-" TRACE "-" SPAN "-zz",
    };
    const struct trace_context zero = { 0 };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct trace_context t;
        memset(&t, 0xaa, sizeof t);
        assert_false(trace_parent_read(texts[i], &t));
        assert_memory_equal(&t, &zero, sizeof t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_valid), cmocka_unit_test(test_invalid) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
