/* Stop strings across pieces: fixed cases, and random ones against a naive search. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "router/stop_match.h"

struct answer_text {
    struct text_buffer shown;
    bool stopped;
};

/* Pushes text in pieces of the given length (0: random lengths). */
static void feed(const struct stop_set *set, const char *text, size_t len, size_t piece, struct answer_text *out)
{
    struct arena *arena = arena_create(1 << 20);
    struct stop_match m;
    assert_int_equal(stop_match_init(&m, set, arena), ST_OK);
    text_buffer_init(&out->shown, 1 << 20);
    out->stopped = false;
    for (size_t at = 0; at < len && !out->stopped;) {
        size_t n = piece ? piece : (size_t)(rand() % 4);
        n = n < len - at ? n : len - at;
        out->stopped = stop_match_push(&m, text + at, n, &out->shown);
        at += n;
        /* Nothing is shown that belongs to a later cut. */
        assert_true(out->shown.len <= at);
    }
    if (!out->stopped)
        stop_match_finish(&m, &out->shown);
    arena_destroy(&arena);
}

static struct stop_set *make_set(struct arena *arena, const char *const strings[], bool keep)
{
    struct stop_set *set = arena_take(arena, sizeof *set);
    set->keep = keep;
    for (size_t i = 0; strings[i]; i++)
        assert_int_equal(stop_set_add(set, arena, strings[i], strlen(strings[i])), ST_OK);
    return set;
}

static void expect(const char *const strings[], bool keep, const char *text, const char *shown, bool stopped)
{
    struct arena *arena = arena_create(1 << 20);
    const struct stop_set *set = make_set(arena, strings, keep);
    for (size_t piece = 1; piece <= strlen(text) + 1; piece++) {
        struct answer_text got;
        feed(set, text, strlen(text), piece, &got);
        assert_string_equal(text_buffer_text(&got.shown), shown);
        assert_int_equal(got.stopped, stopped);
        text_buffer_free(&got.shown);
    }
    arena_destroy(&arena);
}

#define STRINGS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void test_fixed(void **state)
{
    (void)state;
    expect(STRINGS("END"), false, "some text END more", "some text ", true);
    expect(STRINGS("END"), true, "some text END more", "some text END", true);
    expect(STRINGS("END"), false, "some text EN", "some text EN", false);
    expect(STRINGS("aab"), false, "aaaab", "aa", true);
    expect(STRINGS("abab"), false, "abaababab", "aba", true);
    expect(STRINGS("\n\n", "\nUser:"), false, "hi\nUser: x", "hi", true);
    expect(STRINGS("b", "abc"), false, "abc", "a", true);     /* the first to be complete */
    expect(STRINGS("c", "bc", "x"), false, "abc", "a", true); /* together: the longest */
    expect(STRINGS("\xe4\xb8\xad"), false,
           "a\xe4\xb8\xad"
           "b",
           "a", true);
}

static void test_nothing_to_match(void **state)
{
    (void)state;
    struct stop_set none = { 0 };
    struct answer_text got;
    feed(&none, "text", 4, 1, &got);
    assert_string_equal(text_buffer_text(&got.shown), "text");
    text_buffer_free(&got.shown);
}

static void test_withheld_no_longer_than_needed(void **state)
{
    (void)state;
    struct arena *arena = arena_create(1 << 20);
    const struct stop_set *set = make_set(arena, STRINGS("abc"), false);
    struct stop_match m;
    struct text_buffer out;
    text_buffer_init(&out, 1 << 10);
    assert_int_equal(stop_match_init(&m, set, arena), ST_OK);
    assert_false(stop_match_push(&m, "xab", 3, &out));
    assert_string_equal(text_buffer_text(&out), "x");
    assert_false(stop_match_push(&m, "ab", 2, &out));
    assert_string_equal(text_buffer_text(&out), "xab");
    assert_false(stop_match_push(&m, "d", 1, &out));
    assert_string_equal(text_buffer_text(&out), "xababd");
    text_buffer_free(&out);
    arena_destroy(&arena);
}

/* The naive answer: the first end of any string, of those that end there the longest. */
static size_t naive_cut(const char *text, size_t len, char *const strings[], size_t n, bool *stopped)
{
    for (size_t end = 1; end <= len; end++) {
        size_t longest = 0;
        for (size_t i = 0; i < n; i++) {
            size_t l = strlen(strings[i]);
            if (l <= end && l > longest && !memcmp(text + end - l, strings[i], l))
                longest = l;
        }
        *stopped = longest > 0;
        if (longest)
            return end - longest;
    }
    *stopped = false;
    return len;
}

static void random_text(char *out, size_t len)
{
    for (size_t i = 0; i < len; i++)
        out[i] = "ab"[rand() % 2];
    out[len] = '\0';
}

static void test_random(void **state)
{
    (void)state;
    srand(1);
    for (int round = 0; round < 20000; round++) {
        struct arena *arena = arena_create(1 << 20);
        struct stop_set set = { 0 };
        char buffers[4][8], *strings[4], text[40];
        size_t n = 1 + (size_t)(rand() % 4), len = (size_t)(rand() % 39);
        for (size_t i = 0; i < n; i++) {
            strings[i] = buffers[i];
            random_text(buffers[i], 1 + (size_t)(rand() % 7));
            assert_int_equal(stop_set_add(&set, arena, buffers[i], strlen(buffers[i])), ST_OK);
        }
        random_text(text, len);
        bool stopped;
        size_t cut = naive_cut(text, len, strings, n, &stopped);
        struct answer_text got;
        feed(&set, text, len, 0, &got);
        assert_int_equal(got.stopped, stopped);
        assert_int_equal(got.shown.len, cut);
        if (cut)
            assert_memory_equal(got.shown.data, text, cut);
        text_buffer_free(&got.shown);
        arena_destroy(&arena);
    }
}

static void test_limit(void **state)
{
    (void)state;
    struct arena *arena = arena_create(1 << 20);
    struct stop_set set = { 0 };
    for (int i = 0; i < STOP_MAX_STRINGS; i++)
        assert_int_equal(stop_set_add(&set, arena, "x", 1), ST_OK);
    assert_int_equal(stop_set_add(&set, arena, "x", 1), ST_LIMIT);
    arena_destroy(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixed),  cmocka_unit_test(test_nothing_to_match),
        cmocka_unit_test(test_random), cmocka_unit_test(test_withheld_no_longer_than_needed),
        cmocka_unit_test(test_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
