#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"

#define R UTF8_REPLACEMENT

static void expect_replaced(const char *text, size_t len, const char *wanted)
{
    char *out = NULL;
    size_t n = 0;
    assert_int_equal(utf8_replace(text, len, &out, &n), ST_OK);
    assert_int_equal(n, strlen(wanted));
    assert_memory_equal(out, wanted, n);
    assert_int_equal(utf8_valid_prefix(out, n), n);
    assert_int_equal(utf8_valid_prefix(text, len) == len, n == len && memcmp(out, text, len) == 0);
    free(out);
}

#define REPLACED(text, wanted) expect_replaced(text, sizeof(text) - 1, wanted)

/* What CPython answers for bytes.decode("utf-8", "replace"). */
static void test_replacement_of_maximal_subparts(void **state)
{
    (void)state;
    REPLACED("plain ascii, longer than a word", "plain ascii, longer than a word");
    REPLACED("\xC3\xA9\xE6\x97\xA5\xF0\x9F\x98\x80", "\xC3\xA9\xE6\x97\xA5\xF0\x9F\x98\x80");
    REPLACED("\x80", R);
    REPLACED("\xC0\xAF", R R);
    REPLACED("\xC3(", R "(");
    REPLACED("\xE0\x80\xAF", R R R);
    REPLACED("\xE6\x97", R);
    REPLACED("\xE6\x97z", R "z");
    REPLACED("\xED\xA0\x80", R R R);
    REPLACED("\xF0\x8F\xBF\xBF", R R R R);
    REPLACED("\xF0\x9F\x98", R);
    REPLACED("\xF0\x9F\xF0\x9F\x98\x80", R "\xF0\x9F\x98\x80");
    REPLACED("\xF4\x90\x80\x80", R R R R);
    REPLACED("\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF");
    REPLACED("\xF5\xFF\xFE", R R R);
    REPLACED("\xE6\xC3\xA9", R "\xC3\xA9");
}

static void test_code_points_round_trip(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        if (cp >= 0xD800 && cp < 0xE000)
            continue;
        char text[4];
        size_t len = utf8_put(cp, text);
        const char *p = text;
        assert_int_equal(utf8_valid_prefix(text, len), len);
        assert_int_equal(utf8_next(&p), cp);
        assert_ptr_equal(p, text + len);
    }
}

/* Well-formed, cut off, overlong, surrogates, beyond Unicode. */
static void test_sequences(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t left, wanted;
    } cases[] = {
        { "a", 1, 1 },
        { "\0", 1, 1 },
        { "\xC3\xA9", 2, 2 },
        { "\xC3\xA9", 1, 0 }, /* cut off */
        { "\xC1\x80", 2, 0 }, /* overlong */
        { "\xE0\x9F\xBF", 3, 0 },
        { "\xE0\xA0\x80", 3, 3 },
        { "\xED\x9F\xBF", 3, 3 },
        { "\xED\xA0\x80", 3, 0 }, /* a surrogate */
        { "\xE6\x97\xA5", 2, 0 },
        { "\xE6\x97z", 3, 0 },
        { "\xF0\x8F\xBF\xBF", 4, 0 },
        { "\xF4\x8F\xBF\xBF", 4, 4 },
        { "\xF4\x90\x80\x80", 4, 0 }, /* beyond Unicode */
        { "\xF5\x80\x80\x80", 4, 0 },
        { "\x80", 1, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (utf8_sequence(cases[i].text, cases[i].left) != cases[i].wanted)
            fail_msg("case %zu gives %zu", i, utf8_sequence(cases[i].text, cases[i].left));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replacement_of_maximal_subparts),
        cmocka_unit_test(test_code_points_round_trip),
        cmocka_unit_test(test_sequences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
