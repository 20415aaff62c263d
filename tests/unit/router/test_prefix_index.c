#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "router/prefix_index.h"

#define N_CHAINS  8u
#define N_WORKERS 64u
#define LENGTH    40u
#define N_READERS 3
#if defined(__SANITIZE_THREAD__)
#define CHANGES 8000u
#elif defined(__SANITIZE_ADDRESS__)
#define CHANGES 60000u
#else
#define CHANGES 600000u
#endif

static struct block_hash hash_of(uint64_t v)
{
    uint64_t h = (v + 1) * UINT64_C(0x9e3779b97f4a7c15);
    h = (h ^ h >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
    return (struct block_hash){ h ^ h >> 32, v };
}

static struct prefix_index *created(size_t max_bytes, uint32_t max_workers)
{
    struct prefix_index *x;
    struct prefix_index_options o = { .max_bytes = max_bytes, .max_workers = max_workers };
    assert_int_equal(prefix_index_create(&o, &x, NULL), ST_OK);
    return x;
}

static void test_bad_options(void **state)
{
    (void)state;
    static const struct prefix_index_options bad[] = { { 1u << 20, 0, false },
                                                       { 1u << 20, PREFIX_MAX_WORKERS + 1, false },
                                                       { 1000, 100, false } };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct prefix_index *x = NULL;
        struct error err = { "" };
        assert_int_equal(prefix_index_create(&bad[i], &x, &err), ST_INVALID);
        assert_true(strlen(err.text) > 0);
        assert_null(x);
    }
}

static void test_tiers_and_who_left(void **state)
{
    (void)state;
    struct prefix_index *x = created(1u << 16, 4);
    struct prefix_reader *r;
    struct prefix_match m[4];
    struct block_hash chain[10];
    assert_int_equal(prefix_reader_create(x, &r), ST_OK);
    for (uint32_t i = 0; i < 10; i++)
        chain[i] = hash_of(i);
    assert_int_equal(prefix_index_lookup(x, r, chain, 10, m, 4), 0);
    assert_int_equal(prefix_index_lookup(x, r, chain, 0, m, 4), 0);
    prefix_index_store(x, 2, KV_TIER_DEVICE, chain, 3);
    prefix_index_store(x, 2, KV_TIER_DISK, chain, 7);
    prefix_index_store(x, 1, KV_TIER_HOST, chain, 5);
    assert_int_equal(prefix_index_lookup(x, r, chain, 10, m, 4), 2);
    assert_int_equal(m[0].worker, 2);
    static const uint32_t of_2[] = { 3, 3, 7, 7 }, of_1[] = { 0, 5, 5, 5 };
    assert_memory_equal(m[0].blocks, of_2, sizeof of_2);
    assert_int_equal(m[1].worker, 1);
    assert_memory_equal(m[1].blocks, of_1, sizeof of_1);
    assert_int_equal(prefix_index_lookup(x, r, chain, 10, m, 1), 1);
    assert_int_equal(m[0].worker, 2);
    prefix_index_clear(x, 2);
    assert_int_equal(prefix_index_lookup(x, r, chain, 10, m, 4), 1);
    assert_int_equal(m[0].worker, 1);
    prefix_index_store(x, 2, KV_TIER_DEVICE, chain, 1); /* back before its blocks were swept */
    while (prefix_index_sweep(x, 1))
        ;
    assert_int_equal(prefix_index_lookup(x, r, chain, 10, m, 4), 2);
    assert_int_equal(m[1].worker, 2);
    assert_int_equal(m[1].blocks[KV_TIER_REMOTE], 1);
    prefix_reader_destroy(&r);
    prefix_index_destroy(&x);
}

/* More clears than there is room for: the index sweeps by itself. */
static void test_many_clears(void **state)
{
    (void)state;
    struct prefix_index *x = created(1u << 16, 3);
    struct prefix_index_stats stats;
    struct block_hash chain[10];
    for (uint32_t i = 0; i < 10; i++)
        chain[i] = hash_of(i);
    for (uint32_t i = 0; i < 100; i++) {
        prefix_index_store(x, i % 3, KV_TIER_DEVICE, chain, 10);
        prefix_index_clear(x, i % 3);
    }
    while (prefix_index_sweep(x, 1000))
        ;
    prefix_index_stats(x, &stats);
    assert_int_equal(stats.blocks, 0);
    prefix_index_destroy(&x);
}

/* What is stored last stays, and a block with many owners stays longest. */
static void test_what_is_evicted(void **state)
{
    (void)state;
    struct prefix_index *x = created(24000, 2);
    struct prefix_reader *r;
    struct prefix_match m[2];
    struct prefix_index_stats stats;
    assert_int_equal(prefix_reader_create(x, &r), ST_OK);
    for (uint64_t i = 0; i < 100; i++)
        for (uint32_t worker = 0; worker < 2; worker++)
            prefix_index_store(x, worker, KV_TIER_DEVICE, &(struct block_hash){ hash_of(i).low, 0 }, 1);
    for (uint64_t i = 100; i < 4000; i++)
        prefix_index_store(x, 0, KV_TIER_DEVICE, &(struct block_hash){ hash_of(i).low, 0 }, 1);
    prefix_index_stats(x, &stats);
    assert_true(stats.evicted > 2000 && stats.blocks >= stats.max_blocks);
    uint32_t shared = 0, old = 0, late = 0;
    for (uint64_t i = 0; i < 4000; i++) {
        struct block_hash h = hash_of(i);
        uint32_t found = prefix_index_lookup(x, r, &h, 1, m, 2) > 0;
        *(i < 100 ? &shared : i < 2000 ? &old : &late) += found;
    }
    assert_int_equal(shared, 100);
    assert_true(late > 10 * old);
    prefix_reader_destroy(&r);
    prefix_index_destroy(&x);
}

/* --- one who writes and some who read --- */

struct shared {
    struct prefix_index *index;
    struct block_hash chains[N_CHAINS][LENGTH];
    atomic_bool done;
    atomic_uint wrong, found;
};

/* A chain is only ever at workers of its own number: whoever mixes the owners of two blocks finds others. */
static void *reads(void *arg)
{
    struct shared *s = arg;
    struct prefix_reader *r = NULL;
    struct prefix_match m[N_WORKERS];
    if (prefix_reader_create(s->index, &r) != ST_OK)
        return NULL;
    for (unsigned i = 0; !atomic_load(&s->done); i++) {
        uint32_t chain = i % N_CHAINS;
        uint32_t n = prefix_index_lookup(s->index, r, s->chains[chain], LENGTH, m, N_WORKERS);
        for (uint32_t k = 0; k < n; k++)
            if (m[k].worker % N_CHAINS != chain || m[k].blocks[KV_TIER_DEVICE] > LENGTH)
                atomic_fetch_add(&s->wrong, 1);
        atomic_fetch_add(&s->found, n);
    }
    prefix_reader_destroy(&r);
    return NULL;
}

static void writes(struct shared *s)
{
    unsigned seed = 7;
    for (unsigned i = 0; i < CHANGES; i++) {
        uint32_t worker = (uint32_t)rand_r(&seed) % N_WORKERS, from = (uint32_t)rand_r(&seed) % LENGTH;
        struct block_hash *chain = s->chains[worker % N_CHAINS];
        if (rand_r(&seed) % 2)
            prefix_index_store(s->index, worker, KV_TIER_DEVICE, chain, from + 1);
        else
            prefix_index_remove(s->index, worker, KV_TIER_DEVICE, chain + from, LENGTH - from);
        if (i % 1000 == 0)
            prefix_index_clear(s->index, worker);
        prefix_index_sweep(s->index, 20);
    }
}

static void test_readers_beside_the_writer(void **state)
{
    (void)state;
    static struct shared s;
    pthread_t threads[N_READERS];
    s.index = created(16384, N_WORKERS); /* full, so that blocks are moved and sets are used again */
    for (uint32_t c = 0; c < N_CHAINS; c++)
        for (uint32_t i = 0; i < LENGTH; i++)
            s.chains[c][i] = hash_of(c * 1000 + i);
    for (int i = 0; i < N_READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reads, &s), 0);
    writes(&s);
    atomic_store(&s.done, true);
    for (int i = 0; i < N_READERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&s.wrong), 0);
    assert_true(atomic_load(&s.found) > 0);
    prefix_index_destroy(&s.index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_tiers_and_who_left),
        cmocka_unit_test(test_many_clears),
        cmocka_unit_test(test_what_is_evicted),
        cmocka_unit_test(test_readers_beside_the_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
