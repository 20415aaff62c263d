#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/pretokenizer.h"
#include "engine/pretokenizer_scan.h"

#define MAX_PIECES 512

static const char *const patterns[] = { PATTERN_GPT2, PATTERN_LLAMA3, PATTERN_QWEN2, PATTERN_DIGIT };
#define N_PATTERNS (sizeof patterns / sizeof *patterns)

/* What the patterns tell apart: letters of contractions in both cases, the kinds of white space, and characters
 * beyond ASCII of each kind, among them those whose lower case is in ASCII. */
static const char *const atoms[] = {
    "'",
    "s",
    "S",
    "l",
    "L",
    "v",
    "e",
    "r",
    "a",
    " ",
    "\n",
    "\r",
    "\t",
    "\x1F",
    "1",
    "23",
    ".",
    "<",
    "\xC3\xA9",
    "\xC5\xBF",
    "\xE2\x84\xAA",
    "\xC2\x85",
    "\xC2\xA0",
    "\xE2\x80\xA8",
    "\xD9\xA3",
    "\xCC\x81",
    "\xE3\x80\x82",
    "\xF0\x9F\x98\x80",
    "m",
    "   ",
    "\v",
};
#define N_ATOMS (sizeof atoms / sizeof *atoms)

static uint64_t random_state = 7;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

struct cuts {
    const char *text;
    size_t ends[MAX_PIECES];
    size_t n;
};

static status take(void *ctx, const char *piece, size_t len)
{
    struct cuts *cuts = ctx;
    assert_true(cuts->n < MAX_PIECES);
    cuts->ends[cuts->n++] = (size_t)(piece - cuts->text) + len;
    return ST_OK;
}

/* One pattern, by hand and as a regular expression. */
struct both {
    struct pretokenizer scanned, matched;
    struct pretokenizer_scratch scanned_scratch, matched_scratch;
};

static void add(struct pretokenizer *pre, const char *pattern, enum split_behavior behavior)
{
    struct error err = { "" };
    if (pretokenizer_add_split(pre, pattern, strlen(pattern), false, behavior, false, &err) != ST_OK)
        fail_msg("%s", err.text);
}

/* In a group it is no pattern that the scanners know. */
static void open_both(struct both *b, const char *pattern, enum split_behavior behavior)
{
    char group[512];
    *b = (struct both){ 0 };
    snprintf(group, sizeof group, "(?:%s)", pattern);
    assert_non_null(scanner_of(pattern, strlen(pattern)));
    assert_null(scanner_of(group, strlen(group)));
    add(&b->scanned, pattern, behavior);
    add(&b->matched, group, behavior);
}

static void close_both(struct both *b)
{
    pretokenizer_scratch_free(&b->scanned_scratch);
    pretokenizer_scratch_free(&b->matched_scratch);
    pretokenizer_free(&b->scanned);
    pretokenizer_free(&b->matched);
}

static void expect_equal(struct both *b, const char *text, size_t len)
{
    struct cuts scanned = { .text = text }, matched = { .text = text };
    assert_int_equal(pretokenizer_run(&b->scanned, &b->scanned_scratch, text, len, take, &scanned), ST_OK);
    assert_int_equal(pretokenizer_run(&b->matched, &b->matched_scratch, text, len, take, &matched), ST_OK);
    bool equal = scanned.n == matched.n && memcmp(scanned.ends, matched.ends, matched.n * sizeof *matched.ends) == 0;
    if (!equal)
        fail_msg("\"%.*s\" is cut otherwise", (int)len, text);
}

/* What came from the exact size of memory shows reads beyond it under a sanitizer. */
static void try_atoms(struct both *b, const size_t *which, size_t n)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++)
        len += strlen(atoms[which[i]]);
    char *text = malloc(len ? len : 1);
    assert_non_null(text);
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(text + at, atoms[which[i]], strlen(atoms[which[i]]));
        at += strlen(atoms[which[i]]);
    }
    expect_equal(b, text, len);
    free(text);
}

static void test_three_atoms_are_cut_as_the_pattern_says(void **state)
{
    (void)state;
    for (size_t p = 0; p < N_PATTERNS; p++) {
        struct both b;
        open_both(&b, patterns[p], SPLIT_ISOLATED);
        for (size_t i = 0; i < N_ATOMS * N_ATOMS * N_ATOMS; i++)
            try_atoms(&b, (size_t[]){ i % N_ATOMS, i / N_ATOMS % N_ATOMS, i / N_ATOMS / N_ATOMS }, 3);
        close_both(&b);
    }
}

static void test_random_texts_are_cut_as_the_pattern_says(void **state)
{
    (void)state;
    const int rounds = getenv("BATON_TEST_LONG") ? 1000000 : 5000;
    for (size_t p = 0; p < N_PATTERNS * 2; p++) {
        struct both b;
        open_both(&b, patterns[p / 2], p % 2 ? SPLIT_CONTIGUOUS : SPLIT_ISOLATED);
        for (int round = 0; round < rounds; round++) {
            size_t which[40], n = random_below(40);
            uint32_t variety = 2 + random_below(N_ATOMS - 1), first = random_below(N_ATOMS);
            for (size_t i = 0; i < n; i++)
                which[i] = (first + random_below(variety)) % N_ATOMS;
            try_atoms(&b, which, n);
        }
        close_both(&b);
    }
}

static void test_every_ascii_pair_is_cut_as_the_pattern_says(void **state)
{
    (void)state;
    for (size_t p = 0; p < N_PATTERNS; p++) {
        struct both b;
        open_both(&b, patterns[p], SPLIT_ISOLATED);
        for (unsigned i = 0; i < 128 * 128; i++)
            expect_equal(&b, (char[]){ (char)(i / 128), (char)(i % 128) }, 2);
        close_both(&b);
    }
}

static void test_ascii_needs_no_regular_expression(void **state)
{
    (void)state;
    static const char text[] = "It's 12 o'clock,\r\n\n  and \tall's WE'LL. 1234";
    for (size_t p = 0; p < N_PATTERNS; p++) {
        struct both b;
        open_both(&b, patterns[p], SPLIT_ISOLATED);
        expect_equal(&b, text, sizeof text - 1);
        assert_null(b.scanned_scratch.regex);
        assert_non_null(b.matched_scratch.regex);
        close_both(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_three_atoms_are_cut_as_the_pattern_says),
        cmocka_unit_test(test_random_texts_are_cut_as_the_pattern_says),
        cmocka_unit_test(test_every_ascii_pair_is_cut_as_the_pattern_says),
        cmocka_unit_test(test_ascii_needs_no_regular_expression),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
