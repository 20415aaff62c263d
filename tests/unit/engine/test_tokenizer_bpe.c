#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bpe.h"

static uint64_t random_state = 42;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

#define LETTERS    3
#define MAX_MERGES 200

struct naive_merge {
    uint32_t left, right, id;
};

/* A vocabulary over few letters, whose merges are drawn in random order. */
struct random_bpe {
    struct bpe bpe;
    struct naive_merge merges[MAX_MERGES]; /* by rank */
    uint32_t n_merges;
};

static uint32_t find_or_add(struct bpe *bpe, const char *bytes, size_t len)
{
    uint32_t id = bpe_vocab_find(&bpe->vocab, bytes, len);
    if (id != BPE_NO_ID)
        return id;
    id = bpe->vocab.n;
    assert_int_equal(bpe_vocab_add(&bpe->vocab, id, bytes, len, 0), ST_OK);
    assert_int_equal(bpe_vocab_index(&bpe->vocab, id), ST_OK);
    return id;
}

static bool is_known_pair(const struct random_bpe *r, uint32_t left, uint32_t right)
{
    for (uint32_t i = 0; i < r->n_merges; i++)
        if (r->merges[i].left == left && r->merges[i].right == right)
            return true;
    return false;
}

static void add_random_merge(struct random_bpe *r)
{
    struct bpe *bpe = &r->bpe;
    uint32_t left = random_below(bpe->vocab.n), right = random_below(bpe->vocab.n);
    char both[64];
    size_t a, b;
    const char *x = bpe_vocab_bytes(&bpe->vocab, left, &a), *y = bpe_vocab_bytes(&bpe->vocab, right, &b);
    if (a + b > sizeof both || is_known_pair(r, left, right))
        return;
    memcpy(both, x, a);
    memcpy(both + a, y, b);
    uint32_t id = find_or_add(bpe, both, a + b);
    r->merges[r->n_merges++] = (struct naive_merge){ left, right, id };
}

/* Ranks in reverse order of making, or as made: both kinds of file exist. */
static void make_random(struct random_bpe *r, bool reverse)
{
    memset(r, 0, sizeof *r);
    bpe_init(&r->bpe);
    for (char c = 'a'; c < 'a' + LETTERS; c++)
        find_or_add(&r->bpe, &c, 1);
    uint32_t wanted = 1 + random_below(MAX_MERGES);
    for (uint32_t tries = 0; tries < 4 * wanted && r->n_merges < wanted; tries++)
        add_random_merge(r);
    for (uint32_t i = 0; reverse && i < r->n_merges / 2; i++) {
        struct naive_merge m = r->merges[i];
        r->merges[i] = r->merges[r->n_merges - 1 - i];
        r->merges[r->n_merges - 1 - i] = m;
    }
    for (uint32_t i = 0; i < r->n_merges; i++)
        assert_int_equal(bpe_add_merge(&r->bpe, r->merges[i].left, r->merges[i].right, i, r->merges[i].id), ST_OK);
    assert_int_equal(bpe_finish(&r->bpe), ST_OK);
}

/* The definition: lowest rank first, leftmost first, one merge at a time. */
static size_t naive_encode(const struct random_bpe *r, const char *text, size_t len, uint32_t *ids)
{
    size_t n = len;
    for (size_t i = 0; i < len; i++)
        ids[i] = (uint32_t)(text[i] - 'a');
    for (uint32_t rank = 0; rank < r->n_merges;) {
        const struct naive_merge *m = &r->merges[rank];
        size_t i = 0;
        while (i + 1 < n && (ids[i] != m->left || ids[i + 1] != m->right))
            i++;
        if (i + 1 >= n) {
            rank++;
            continue;
        }
        ids[i] = m->id;
        memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof *ids);
        n--;
        rank = 0;
    }
    return n;
}

static void compare_with_naive(const struct random_bpe *r, size_t len, struct bpe_scratch *scratch)
{
    char text[400];
    uint32_t wanted[400];
    uint32_t letters = 1 + random_below(LETTERS);
    for (size_t i = 0; i < len; i++)
        text[i] = (char)('a' + random_below(letters));
    size_t n = naive_encode(r, text, len, wanted);
    struct token_list list = { 0 };
    for (int time = 0; time < 2; time++) { /* short pieces are remembered */
        list.n = 0;
        assert_int_equal(bpe_encode(&r->bpe, text, len, scratch, SIZE_MAX, &list), ST_OK);
        assert_int_equal(list.n, n);
        assert_memory_equal(list.ids, wanted, n * sizeof *wanted);
    }
    token_list_free(&list);
}

static void test_equals_the_definition(void **state)
{
    (void)state;
    static const size_t lengths[] = { 1, 2, 3, 5, 8, 13, 39, 40, 41, 42, 80, 399 };
    struct random_bpe *r = malloc(sizeof *r);
    assert_non_null(r);
    struct bpe_scratch scratch = { 0 };
    for (int round = 0; round < 60; round++) {
        make_random(r, round % 2);
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
            for (int again = 0; again < 4; again++)
                compare_with_naive(r, lengths[i], &scratch);
        bpe_free(&r->bpe);
    }
    bpe_scratch_free(&scratch);
    free(r);
}

/* "a" alone is a token; others are unknown. */
static void expect_unknown(uint32_t unknown, bool fuse, const char *text, size_t len, const uint32_t *ids, size_t n)
{
    struct bpe bpe;
    bpe_init(&bpe);
    assert_int_equal(find_or_add(&bpe, "a", 1), 0);
    assert_int_equal(find_or_add(&bpe, "?", 1), 1);
    assert_int_equal(find_or_add(&bpe, "aa", 2), 2);
    assert_int_equal(bpe_add_merge(&bpe, 0, 0, 0, 2), ST_OK);
    assert_int_equal(bpe_finish(&bpe), ST_OK);
    bpe.unknown = unknown;
    bpe.fuse_unknown = fuse;
    struct bpe_scratch scratch = { 0 };
    struct token_list list = { 0 };
    assert_int_equal(bpe_encode(&bpe, text, len, &scratch, SIZE_MAX, &list), ST_OK);
    assert_int_equal(list.n, n);
    if (n > 0)
        assert_memory_equal(list.ids, ids, n * sizeof *ids);
    token_list_free(&list);
    bpe_scratch_free(&scratch);
    bpe_free(&bpe);
}

static void test_bytes_without_token(void **state)
{
    (void)state;
    const uint32_t dropped[] = { 2 }, kept[] = { 0, 1, 1, 0 }, fused[] = { 0, 1, 0 };
    expect_unknown(BPE_NO_ID, false, "azya", 4, dropped, 1);
    expect_unknown(1, false, "azya", 4, kept, 4);
    expect_unknown(1, true, "azya", 4, fused, 3);
    expect_unknown(BPE_NO_ID, false, "zy", 2, NULL, 0);
    char many[100];
    memset(many, 'z', sizeof many);
    expect_unknown(BPE_NO_ID, false, many, sizeof many, NULL, 0);
    expect_unknown(1, true, many, sizeof many, fused + 1, 1);
}

/* At first when the piece is encoded anew, then when it may be remembered. */
static void expect_prefix(const struct random_bpe *r, const char *text, size_t len)
{
    struct bpe_scratch scratch = { 0 };
    struct token_list all = { 0 }, some = { 0 };
    for (int time = 0; time < 2; time++) {
        all.n = some.n = 0;
        assert_int_equal(bpe_encode(&r->bpe, text, len, &scratch, SIZE_MAX, &all), ST_OK);
        assert_int_equal(bpe_encode(&r->bpe, text, len, &scratch, all.n, &some), ST_OK);
        some.n = 0;
        assert_int_equal(bpe_encode(&r->bpe, text, len, &scratch, all.n - 1, &some), ST_LIMIT);
        assert_int_equal(some.n, all.n - 1);
        if (some.n > 0)
            assert_memory_equal(some.ids, all.ids, some.n * sizeof *some.ids);
    }
    token_list_free(&all);
    token_list_free(&some);
    bpe_scratch_free(&scratch);
}

static void test_limit_leaves_a_prefix(void **state)
{
    (void)state;
    struct random_bpe *r = malloc(sizeof *r);
    assert_non_null(r);
    make_random(r, false);
    char text[300];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + random_below(LETTERS));
    expect_prefix(r, text, sizeof text);
    for (size_t len = 1; len < 40; len++)
        expect_prefix(r, text, len);
    bpe_free(&r->bpe);
    free(r);
}

static void test_vocabulary_bounds(void **state)
{
    (void)state;
    struct bpe_vocab vocab = { 0 };
    char longest[TOKENIZER_MAX_TOKEN_BYTES + 1] = "";
    assert_int_equal(bpe_vocab_add(&vocab, TOKENIZER_MAX_VOCAB, "x", 1, 0), ST_LIMIT);
    assert_int_equal(bpe_vocab_add(&vocab, 0, longest, sizeof longest, 0), ST_LIMIT);
    assert_int_equal(bpe_vocab_add(&vocab, 2, longest, sizeof longest - 1, 0), ST_OK);
    assert_int_equal(bpe_vocab_add(&vocab, 2, "x", 1, 0), ST_INVALID);
    size_t len;
    assert_string_equal(bpe_vocab_bytes(&vocab, 1, &len), "");
    assert_int_equal(len, 0);
    assert_int_equal(bpe_vocab_find(&vocab, "x", 1), BPE_NO_ID);
    assert_int_equal(bpe_vocab_add(&vocab, 0, "x", 1, 0), ST_OK);
    assert_int_equal(bpe_vocab_add(&vocab, 1, "x", 1, 0), ST_OK);
    assert_int_equal(bpe_vocab_index(&vocab, 0), ST_OK);
    assert_int_equal(bpe_vocab_index(&vocab, 1), ST_INVALID);
    assert_int_equal(bpe_vocab_find(&vocab, "x", 1), 0);
    bpe_vocab_free(&vocab);
}

static void test_alphabet_covers_all_bytes(void **state)
{
    (void)state;
    bool seen[256] = { false };
    unsigned letters = 0;
    for (unsigned cp = 1; cp < 0x200; cp++) {
        char text[3] = { (char)cp, '\0', '\0' }, byte;
        size_t len = 1, n;
        if (cp >= 0x80) {
            text[0] = (char)(0xC0 | cp >> 6);
            text[1] = (char)(0x80 | (cp & 0x3F));
            len = 2;
        }
        if (!bpe_alphabet_decode(text, len, &byte, &n))
            continue;
        assert_int_equal(n, 1);
        assert_false(seen[(uint8_t)byte]);
        seen[(uint8_t)byte] = true;
        letters++;
    }
    assert_int_equal(letters, 256);
    char out[8];
    size_t n;
    assert_true(bpe_alphabet_decode("\xC4\xA0the", 5, out, &n)); /* U+0120: a space */
    assert_int_equal(n, 4);
    assert_memory_equal(out, " the", 4);
    assert_true(bpe_alphabet_decode("\xC5\x83", 2, out, &n)); /* U+0143: AD */
    assert_int_equal((uint8_t)out[0], 0xAD);
    assert_false(bpe_alphabet_decode(" ", 1, out, &n));
    assert_false(bpe_alphabet_decode("\xC4", 1, out, &n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_the_definition),     cmocka_unit_test(test_bytes_without_token),
        cmocka_unit_test(test_limit_leaves_a_prefix),     cmocka_unit_test(test_vocabulary_bounds),
        cmocka_unit_test(test_alphabet_covers_all_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
