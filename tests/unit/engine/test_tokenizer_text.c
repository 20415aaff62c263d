#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/pretokenizer.h"
#include "engine/tokenizer_added.h"
#include "engine/tokenizer_nfc.h"

static void expect_nfc(const char *text, const char *wanted)
{
    char *out = NULL;
    size_t n = strlen(text);
    assert_int_equal(nfc_normalize(text, n, &out, &n), ST_OK);
    const char *got = out ? out : text;
    assert_int_equal(n, strlen(wanted));
    assert_memory_equal(got, wanted, n);
    free(out);
}

static void test_nfc(void **state)
{
    (void)state;
    expect_nfc("plain", "plain");
    expect_nfc("e\xCC\x81", "\xC3\xA9");
    expect_nfc("\xE2\x84\xAB", "\xC3\x85");                             /* the angstrom sign */
    expect_nfc("q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87");               /* classes 230, 220 */
    expect_nfc("\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", "\xEA\xB0\x81"); /* Hangul */
    expect_nfc("\xE0\xA5\x98", "\xE0\xA4\x95\xE0\xA4\xBC");             /* excluded from composition */
    expect_nfc("q\xDF\xBD\xCC\xB4", "q\xDF\xBD\xCC\xB4");               /* U+07FD is newer than Unicode 9 */
    expect_nfc("e\xCC\x81x\xCC\x81", "\xC3\xA9x\xCC\x81");
    expect_nfc("\xF0\x91\xA4\xB5\xF0\x91\xA4\xB0", "\xF0\x91\xA4\xB5\xF0\x91\xA4\xB0"); /* U+11935 U+11930 */
}

static void push(struct added_set *set, const char *text, uint32_t id, bool special)
{
    struct added_token token = { .text = (char *)text, .len = strlen(text), .id = id, .special = special };
    assert_int_equal(added_set_push(set, &token), ST_OK);
}

static void expect_walk(const struct added_set *set, bool with_special, const char *text, const char *wanted)
{
    struct added_walk walk = { .set = set, .text = text, .len = strlen(text), .with_special = with_special };
    char got[256] = "";
    struct added_span span;
    do {
        added_walk_next(&walk, &span);
        strncat(got, text + span.start, span.end - span.start);
        if (span.token)
            (void)snprintf(got + strlen(got), sizeof got - strlen(got), "[%u]", (unsigned)span.token->id);
    } while (span.token);
    assert_string_equal(got, wanted);
}

static void test_added_tokens_leftmost_longest(void **state)
{
    (void)state;
    struct added_set set = { 0 };
    push(&set, "", 9, false);
    push(&set, "ab", 1, false);
    push(&set, "abcd", 2, true);
    push(&set, "bc", 3, false);
    push(&set, "\xFF", 4, false);
    push(&set, "ab", 5, true);
    added_set_freeze(&set);
    expect_walk(&set, true, "xabcdy", "x[2]y");
    expect_walk(&set, true, "abc", "[5]c");
    expect_walk(&set, true, "abcabcd\xFF", "[5]c[2][4]");
    /* A special token that is only text takes its place all the same. */
    expect_walk(&set, false, "abcdbc", "abcd[3]");
    expect_walk(&set, true, "", "");
    assert_int_equal(added_set_exact(&set, "bc", 2)->id, 3);
    assert_null(added_set_exact(&set, "abc", 3));
    assert_null(added_set_exact(&set, "", 0));
    added_set_free(&set);
}

struct pieces {
    char text[256];
};

static status collect(void *ctx, const char *piece, size_t len)
{
    struct pieces *pieces = ctx;
    strncat(pieces->text, piece, len);
    strcat(pieces->text, "|");
    return ST_OK;
}

static void expect_split(const char *pattern, enum split_behavior behavior, bool invert, const char *text,
                         const char *wanted)
{
    struct pretokenizer pre = { .n_steps = 0 };
    struct pretokenizer_scratch scratch = { 0 };
    struct pieces pieces = { "" };
    struct error err = { "" };
    assert_int_equal(pretokenizer_add_split(&pre, pattern, strlen(pattern), false, behavior, invert, &err), ST_OK);
    assert_int_equal(pretokenizer_run(&pre, &scratch, text, strlen(text), collect, &pieces), ST_OK);
    assert_string_equal(pieces.text, wanted);
    pretokenizer_scratch_free(&scratch);
    pretokenizer_free(&pre);
}

/* The table in the documentation of tokenizers' Split, and its mirror. */
static void test_split_behaviors(void **state)
{
    (void)state;
    const char *text = "the-final--countdown";
    expect_split("-", SPLIT_REMOVED, false, text, "the|final|countdown|");
    expect_split("-", SPLIT_ISOLATED, false, text, "the|-|final|-|-|countdown|");
    expect_split("-", SPLIT_CONTIGUOUS, false, text, "the|-|final|--|countdown|");
    expect_split("-", SPLIT_MERGED_WITH_PREVIOUS, false, text, "the-|final-|-|countdown|");
    expect_split("-", SPLIT_MERGED_WITH_NEXT, false, text, "the|-final|-|-countdown|");
    expect_split("[a-z]+", SPLIT_REMOVED, true, text, "the|final|countdown|");
    expect_split("[a-z]+", SPLIT_MERGED_WITH_NEXT, true, "a-b", "a|-b|");
    expect_split("b*", SPLIT_ISOLATED, false, "abba", "a|bb|a|");
}

static void test_published_patterns(void **state)
{
    (void)state;
    expect_split(PATTERN_GPT2, SPLIT_ISOLATED, false, "I'll  go 42km!\n\n x", "I|'ll| | go| 42|km|!|\n\n| x|");
    expect_split(PATTERN_DIGIT, SPLIT_ISOLATED, false, "a12\xC2\xBD", "a|1|2|\xC2\xBD|");
    expect_split(PATTERN_DIGIT, SPLIT_CONTIGUOUS, false, "a12b", "a|12|b|");
    /* U+31350, a letter since Unicode 15, and U+11DE0, a digit since Unicode 17. */
    expect_split(PATTERN_GPT2, SPLIT_ISOLATED, false, "a\xF0\xB1\x8D\x90.", "a\xF0\xB1\x8D\x90|.|");
    expect_split(PATTERN_DIGIT, SPLIT_ISOLATED, false, "a\xF0\x91\xB7\xA0", "a|\xF0\x91\xB7\xA0|");
}

static status refuse_second(void *ctx, const char *piece, size_t len)
{
    (void)piece;
    (void)len;
    return ++*(int *)ctx == 2 ? ST_LIMIT : ST_OK;
}

static void test_emit_ends_the_run(void **state)
{
    (void)state;
    struct pretokenizer pre = { .n_steps = 0 };
    struct pretokenizer_scratch scratch = { 0 };
    int seen = 0;
    assert_int_equal(pretokenizer_add_split(&pre, "a", 1, true, SPLIT_ISOLATED, false, NULL), ST_OK);
    assert_int_equal(pretokenizer_run(&pre, &scratch, "aaaa", 4, refuse_second, &seen), ST_LIMIT);
    assert_int_equal(seen, 2);
    for (size_t i = 1; i < PRETOKENIZER_MAX_STEPS; i++)
        assert_int_equal(pretokenizer_add_split(&pre, ".", 1, true, SPLIT_ISOLATED, false, NULL), ST_OK);
    assert_int_equal(pretokenizer_add_split(&pre, ".", 1, true, SPLIT_ISOLATED, false, NULL), ST_LIMIT);
    pretokenizer_scratch_free(&scratch);
    pretokenizer_free(&pre);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nfc),
        cmocka_unit_test(test_added_tokens_leftmost_longest),
        cmocka_unit_test(test_split_behaviors),
        cmocka_unit_test(test_published_patterns),
        cmocka_unit_test(test_emit_ends_the_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
