#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/text_buffer.h"

static void test_appends_and_terminates(void **state)
{
    (void)state;
    struct text_buffer b;
    text_buffer_init(&b, 1000);
    assert_string_equal(text_buffer_text(&b), "");
    text_buffer_add(&b, "one ");
    text_buffer_append(&b, "two\0x", 3);
    text_buffer_char(&b, ' ');
    text_buffer_printf(&b, "%d-%s", 3, "three");
    assert_string_equal(text_buffer_text(&b), "one two 3-three");
    assert_int_equal(b.len, 15);
    assert_int_equal(b.state, ST_OK);
    text_buffer_free(&b);
    assert_null(b.data);
}

static void test_grows(void **state)
{
    (void)state;
    struct text_buffer b;
    text_buffer_init(&b, 1 << 20);
    for (int i = 0; i < 10000; i++)
        text_buffer_printf(&b, "%05d,", i);
    assert_int_equal(b.len, 60000);
    assert_int_equal(b.state, ST_OK);
    assert_memory_equal(b.data + 6 * 9999, "09999,", 7);
    text_buffer_free(&b);
}

static void test_the_bound_is_exact_and_the_failure_stays(void **state)
{
    (void)state;
    struct text_buffer b;
    text_buffer_init(&b, 5);
    text_buffer_add(&b, "abcde");
    assert_int_equal(b.state, ST_OK);
    text_buffer_char(&b, 'f');
    assert_int_equal(b.state, ST_LIMIT);
    assert_string_equal(text_buffer_text(&b), "abcde");
    text_buffer_append(&b, "", 0);
    assert_int_equal(b.state, ST_LIMIT);
    text_buffer_clear(&b);
    assert_int_equal(b.state, ST_OK);
    text_buffer_printf(&b, "%s", "123456");
    assert_int_equal(b.state, ST_LIMIT);
    assert_string_equal(text_buffer_text(&b), "");
    text_buffer_add(&b, "1");
    assert_string_equal(text_buffer_text(&b), "");
    text_buffer_free(&b);
}

static void test_printf_at_every_fill(void **state)
{
    (void)state;
    char expected[1200];
    for (size_t before = 0; before < 600; before++) {
        struct text_buffer b;
        text_buffer_init(&b, 1000);
        for (size_t i = 0; i < before; i++)
            text_buffer_char(&b, 'x');
        text_buffer_printf(&b, "%s", "the tail");
        memset(expected, 'x', before);
        strcpy(expected + before, "the tail");
        assert_string_equal(text_buffer_text(&b), expected);
        text_buffer_free(&b);
    }
}

static void test_reserve_and_advance(void **state)
{
    (void)state;
    struct text_buffer b;
    text_buffer_init(&b, 10);
    char *to = text_buffer_reserve(&b, 10);
    assert_non_null(to);
    memcpy(to, "0123456789", 10);
    text_buffer_advance(&b, 4);
    assert_string_equal(text_buffer_text(&b), "0123");
    assert_null(text_buffer_reserve(&b, 7));
    assert_int_equal(b.state, ST_LIMIT);
    text_buffer_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_appends_and_terminates),
        cmocka_unit_test(test_grows),
        cmocka_unit_test(test_the_bound_is_exact_and_the_failure_stays),
        cmocka_unit_test(test_printf_at_every_fill),
        cmocka_unit_test(test_reserve_and_advance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
