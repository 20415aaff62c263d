#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "engine/bpe_cache.h"

#define THREADS    3
#define MAX_LENGTH (BPE_CACHE_MAX_PIECE_BYTES + 1)

static uint32_t random_below(uint64_t *state, uint32_t n)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % n;
}

/* Ids that follow from the bytes, so that those of another piece are noticed. */
static size_t ids_of(const char *piece, size_t len, uint32_t ids[BPE_CACHE_MAX_IDS])
{
    uint64_t state = len;
    for (size_t i = 0; i < len; i++)
        state = state * 0x9E3779B97F4A7C15u + (uint8_t)piece[i];
    size_t n = 1 + random_below(&state, BPE_CACHE_MAX_IDS);
    for (size_t i = 0; i < n; i++)
        ids[i] = random_below(&state, 1u << 20);
    return n;
}

/* False when another list was found than was kept. */
static bool is_right(const struct bpe_cache *cache, const char *piece, size_t len, bool *found)
{
    uint32_t wanted[BPE_CACHE_MAX_IDS], ids[BPE_CACHE_MAX_IDS];
    size_t n_wanted = ids_of(piece, len, wanted), n = bpe_cache_find(cache, piece, len, ids);
    *found = n > 0;
    return n == 0 || (n == n_wanted && memcmp(ids, wanted, n * sizeof *ids) == 0);
}

static void keep(struct bpe_cache *cache, const char *piece, size_t len)
{
    uint32_t ids[BPE_CACHE_MAX_IDS];
    bpe_cache_keep(cache, piece, len, ids, ids_of(piece, len, ids));
}

static struct bpe_cache *create(void)
{
    struct bpe_cache *cache = NULL;
    assert_int_equal(bpe_cache_create(&cache), ST_OK);
    return cache;
}

static void test_finds_what_was_kept(void **state)
{
    (void)state;
    struct bpe_cache *cache = create();
    char piece[MAX_LENGTH] = { 0 };
    bool found;
    for (size_t len = 1; len <= BPE_CACHE_MAX_PIECE_BYTES; len++) {
        assert_true(is_right(cache, piece, len, &found));
        assert_false(found);
        keep(cache, piece, len);
        assert_true(is_right(cache, piece, len, &found));
        assert_true(found);
    }
    bpe_cache_destroy(&cache);
    assert_null(cache);
    bpe_cache_destroy(&cache);
}

static void test_one_byte_makes_another_piece(void **state)
{
    (void)state;
    struct bpe_cache *cache = create();
    char piece[MAX_LENGTH];
    bool found;
    memset(piece, 'a', sizeof piece);
    for (size_t len = 1; len <= BPE_CACHE_MAX_PIECE_BYTES; len++) {
        keep(cache, piece, len);
        for (size_t i = 0; i < len; i++) {
            piece[i] = 'b';
            assert_true(is_right(cache, piece, len, &found));
            assert_false(found);
            piece[i] = 'a';
        }
    }
    bpe_cache_destroy(&cache);
}

static void test_what_does_not_fit_is_left_out(void **state)
{
    (void)state;
    struct bpe_cache *cache = create();
    const char piece[MAX_LENGTH] = "a piece too long";
    uint32_t ids[BPE_CACHE_MAX_IDS + 1] = { 1 };
    bpe_cache_keep(cache, piece, MAX_LENGTH, ids, 1);
    assert_int_equal(bpe_cache_find(cache, piece, MAX_LENGTH, ids), 0);
    bpe_cache_keep(cache, piece, 0, ids, 1);
    assert_int_equal(bpe_cache_find(cache, piece, 0, ids), 0);
    bpe_cache_keep(cache, piece, 3, ids, BPE_CACHE_MAX_IDS + 1);
    bpe_cache_keep(cache, piece, 3, ids, 0);
    assert_int_equal(bpe_cache_find(cache, piece, 3, ids), 0);
    bpe_cache_destroy(&cache);
}

#define RIVALS       4 /* pieces that have one place in the table */
#define RIVAL_LENGTH 8

struct visitor {
    struct bpe_cache *cache;
    const char (*rivals)[RIVAL_LENGTH];
    uint64_t random_state;
    uint32_t n_found, n_wrong;
};

static void *visit(void *arg)
{
    struct visitor *v = arg;
    for (int i = 0; i < 1000000; i++) {
        const char *piece = v->rivals[random_below(&v->random_state, RIVALS)];
        bool found;
        v->n_wrong += !is_right(v->cache, piece, RIVAL_LENGTH, &found);
        v->n_found += found;
        if (!found)
            keep(v->cache, piece, RIVAL_LENGTH);
    }
    return NULL;
}

/* The first piece and others that push it out. */
static void find_rivals(struct bpe_cache *cache, char rivals[RIVALS][RIVAL_LENGTH])
{
    uint64_t random_state = 5;
    memcpy(rivals[0], "thefirst", RIVAL_LENGTH);
    for (int n = 1; n < RIVALS;) {
        bool found;
        keep(cache, rivals[0], RIVAL_LENGTH);
        for (int i = 0; i < RIVAL_LENGTH; i++)
            rivals[n][i] = (char)('a' + random_below(&random_state, 26));
        keep(cache, rivals[n], RIVAL_LENGTH);
        assert_true(is_right(cache, rivals[0], RIVAL_LENGTH, &found));
        n += !found;
    }
}

static void test_threads_never_find_a_mixture(void **state)
{
    (void)state;
    struct visitor visitors[THREADS];
    pthread_t threads[THREADS];
    struct bpe_cache *cache = create();
    char rivals[RIVALS][RIVAL_LENGTH];
    find_rivals(cache, rivals);
    for (int i = 0; i < THREADS; i++) {
        visitors[i] = (struct visitor){ .cache = cache,
                                        .rivals = (const char(*)[RIVAL_LENGTH])rivals,
                                        .random_state = (uint64_t)i + 1 };
        assert_int_equal(pthread_create(&threads[i], NULL, visit, &visitors[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(visitors[i].n_wrong, 0);
        assert_true(visitors[i].n_found > 0);
    }
    bpe_cache_destroy(&cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_what_was_kept),
        cmocka_unit_test(test_one_byte_makes_another_piece),
        cmocka_unit_test(test_what_does_not_fit_is_left_out),
        cmocka_unit_test(test_threads_never_find_a_mixture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
