/* Written JSON, compared as text and read back with jansson. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/json_writer.h"

static struct text_buffer out;
static struct json_writer w;

static int begin(void **state)
{
    (void)state;
    text_buffer_init(&out, 1 << 20);
    json_writer_init(&w, &out);
    return 0;
}

static int end(void **state)
{
    (void)state;
    text_buffer_free(&out);
    return 0;
}

static void test_nesting_and_commas(void **state)
{
    (void)state;
    json_write_object(&w);
    json_field_int(&w, "a", -1);
    json_write_key(&w, "b");
    json_write_array(&w);
    json_write_uint(&w, UINT64_MAX);
    json_write_object(&w);
    json_write_end(&w);
    json_write_array(&w);
    json_write_int(&w, 1);
    json_write_end(&w);
    json_write_array(&w);
    json_write_int(&w, 2);
    json_write_end(&w);
    json_write_null(&w);
    assert_false(json_writer_complete(&w));
    json_write_end(&w);
    json_field_bool(&w, "c", true);
    json_field_string(&w, "d\"", "x");
    json_write_key(&w, "e");
    json_write_raw(&w, "[1,2]", 5);
    json_field_real(&w, "f", 0.1);
    json_write_end(&w);
    assert_string_equal(text_buffer_text(&out),
                        "{\"a\":-1,\"b\":[18446744073709551615,{},[1],[2],null],\"c\":true,\"d\\\"\":\"x\",\"e\":[1,2],"
                        "\"f\":0.1}");
    assert_true(json_writer_complete(&w));
}

static void test_escapes(void **state)
{
    (void)state;
    json_write_bytes(&w, "a\"\\/\b\f\n\r\t\x01\x1f\x7f\0z", 14);
    assert_string_equal(text_buffer_text(&out), "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f\\u0000z\"");
}

/* Each byte that is part of no valid sequence becomes one U+FFFD. */
static void test_invalid_utf8(void **state)
{
    (void)state;
#define R "\xEF\xBF\xBD"
    static const struct {
        const char *in, *out;
    } cases[] = {
        { "\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80", "\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80" },
        { "\x80", R },
        { "\xC3", R },
        { "\xC0\xAF", R R },                /* overlong */
        { "\xE0\x80\x80", R R R },          /* overlong */
        { "\xED\xA0\x80", R R R },          /* surrogate */
        { "\xED\x9F\xBF", "\xED\x9F\xBF" }, /* the last one before them */
        { "\xF4\x90\x80\x80", R R R R },    /* above U+10FFFF */
        { "\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF" },
        { "\xF0\x8F\xBF\xBF", R R R R }, /* overlong */
        { "\xE2\x82", R R },             /* cut off */
        { "\xE2\x82x", R R "x" },
        { "\xFF\xFEq", R R "q" },
        { "\xF5\x80\x80\x80", R R R R },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        text_buffer_clear(&out);
        json_escape(&out, cases[i].in, strlen(cases[i].in));
        assert_string_equal(text_buffer_text(&out), cases[i].out);
    }
}

/* jansson, which is strict, reads back whatever random bytes were written. */
static void test_random_bytes_are_valid_json(void **state)
{
    (void)state;
    srand(11);
    for (int round = 0; round < 3000; round++) {
        char bytes[64];
        size_t len = (size_t)rand() % sizeof bytes;
        for (size_t i = 0; i < len; i++)
            bytes[i] = (char)(rand() % 3 ? rand() % 256 : "\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80"[rand() % 9]);
        text_buffer_clear(&out);
        json_writer_init(&w, &out);
        json_write_array(&w);
        json_write_bytes(&w, bytes, len);
        json_write_end(&w);
        json_error_t error;
        json_t *read = json_loadb(out.data, out.len, JSON_ALLOW_NUL, &error);
        assert_non_null(read);
        json_decref(read);
    }
}

static void test_reals_read_back_equal(void **state)
{
    (void)state;
    static const double values[] = { 0.0, -0.0, 1.0, 0.1, 1.0 / 3, 1e300, 5e-324, 123456789012345680.0, -2.5, 1e-7 };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        text_buffer_clear(&out);
        json_writer_init(&w, &out);
        json_write_real(&w, values[i]);
        assert_true(strtod(text_buffer_text(&out), NULL) == values[i]);
    }
    for (int i = 1; i < 5000; i++) {
        float v = -logf((float)i * 0.731f);
        text_buffer_clear(&out);
        json_writer_init(&w, &out);
        json_write_float(&w, v);
        assert_true(strtof(text_buffer_text(&out), NULL) == v);
        assert_true(out.len <= 13);
    }
}

static void test_no_number_for_nan_and_infinity(void **state)
{
    (void)state;
    json_write_array(&w);
    json_write_real(&w, NAN);
    json_write_real(&w, INFINITY);
    json_write_float(&w, -INFINITY);
    json_write_float(&w, 0.1f);
    json_write_end(&w);
    assert_string_equal(text_buffer_text(&out), "[null,null,null,0.1]");
}

static void test_the_deepest_nesting(void **state)
{
    (void)state;
    for (int i = 0; i < JSON_WRITER_MAX_DEPTH; i++)
        json_write_array(&w);
    for (int i = 0; i < JSON_WRITER_MAX_DEPTH; i++)
        json_write_end(&w);
    assert_int_equal(out.len, 2 * JSON_WRITER_MAX_DEPTH);
    assert_true(json_writer_complete(&w));
}

static void test_a_full_buffer_is_not_complete(void **state)
{
    (void)state;
    text_buffer_free(&out);
    text_buffer_init(&out, 8);
    json_write_array(&w);
    json_write_string(&w, "longer than that");
    json_write_end(&w);
    assert_false(json_writer_complete(&w));
    assert_int_equal(out.state, ST_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nesting_and_commas, begin, end),
        cmocka_unit_test_setup_teardown(test_escapes, begin, end),
        cmocka_unit_test_setup_teardown(test_invalid_utf8, begin, end),
        cmocka_unit_test_setup_teardown(test_random_bytes_are_valid_json, begin, end),
        cmocka_unit_test_setup_teardown(test_reals_read_back_equal, begin, end),
        cmocka_unit_test_setup_teardown(test_no_number_for_nan_and_infinity, begin, end),
        cmocka_unit_test_setup_teardown(test_the_deepest_nesting, begin, end),
        cmocka_unit_test_setup_teardown(test_a_full_buffer_is_not_complete, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
