/* The prefix index against a table of who holds what. BATON_TEST_LONG=1 runs more of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "router/prefix_index.h"
#include "tests/unit/effort.h"

#define N_NODES   400u /* blocks, in a tree of chains */
#define N_WORKERS 12u
#define STEPS     30000

struct world {
    unsigned seed;
    struct prefix_index *index;
    struct prefix_reader *reader;
    struct block_hash hash[N_NODES];
    uint32_t parent[N_NODES];         /* of node 0, which is no block: itself */
    uint8_t held[N_WORKERS][N_NODES]; /* bit: tier */
};

static uint64_t mixed(uint64_t v)
{
    v = (v + UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xbf58476d1ce4e5b9);
    v = (v ^ v >> 27) * UINT64_C(0x94d049bb133111eb);
    return v ^ v >> 31;
}

static struct block_hash hash_of(uint64_t v)
{
    return (struct block_hash){ mixed(v), mixed(~v) };
}

static unsigned draw(struct world *w, unsigned n)
{
    return (unsigned)rand_r(&w->seed) % n;
}

static void create(struct world *w, unsigned seed, size_t max_bytes)
{
    struct error err = { "" };
    *w = (struct world){ .seed = seed };
    struct prefix_index_options o = { .max_bytes = max_bytes, .max_workers = N_WORKERS };
    if (prefix_index_create(&o, &w->index, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_int_equal(prefix_reader_create(w->index, &w->reader), ST_OK);
    for (uint32_t i = 1; i < N_NODES; i++) {
        w->hash[i] = hash_of(i + 1000 * (uint64_t)seed);
        /* Mostly long chains, some of which fork. */
        w->parent[i] = draw(w, 10) ? i - 1 : draw(w, i);
    }
}

static void destroy(struct world *w)
{
    prefix_reader_destroy(&w->reader);
    prefix_index_destroy(&w->index);
}

/* The chain of nodes that ends in node: returns how many. */
static uint32_t chain_of(const struct world *w, uint32_t node, uint32_t nodes[], struct block_hash hashes[])
{
    uint32_t n = 0, up[N_NODES];
    for (; node; node = w->parent[node])
        up[n++] = node;
    for (uint32_t i = 0; i < n; i++) {
        nodes[i] = up[n - 1 - i];
        hashes[i] = w->hash[nodes[i]];
    }
    return n;
}

static void store(struct world *w, uint32_t worker, unsigned tier)
{
    uint32_t nodes[N_NODES];
    struct block_hash hashes[N_NODES];
    uint32_t n = chain_of(w, draw(w, N_NODES), nodes, hashes);
    prefix_index_store(w->index, worker, (enum kv_tier)tier, hashes, n);
    for (uint32_t i = 0; i < n; i++)
        w->held[worker][nodes[i]] |= (uint8_t)(1u << tier);
}

/* A node, and all behind it: what is left are beginnings of chains. */
static void remove_from(struct world *w, uint32_t worker, unsigned tier)
{
    bool below[N_NODES] = { false };
    struct block_hash hashes[N_NODES];
    uint32_t n = 0;
    below[1 + draw(w, N_NODES - 1)] = true;
    for (uint32_t i = 1; i < N_NODES; i++) {
        below[i] |= below[w->parent[i]];
        if (!below[i])
            continue;
        hashes[n++] = w->hash[i];
        w->held[worker][i] &= (uint8_t) ~(1u << tier);
    }
    prefix_index_remove(w->index, worker, (enum kv_tier)tier, hashes, n);
}

static uint32_t leading(const struct world *w, uint32_t worker, unsigned tiers, const uint32_t nodes[], uint32_t n)
{
    uint32_t i = 0;
    while (i < n && w->held[worker][nodes[i]] & tiers)
        i++;
    return i;
}

static const struct prefix_match *match_of(const struct prefix_match *matches, uint32_t n, uint32_t worker)
{
    for (uint32_t i = 0; i < n; i++)
        if (matches[i].worker == worker)
            return &matches[i];
    return NULL;
}

/* All that the table knows, when max allows it, and longest first. */
static void compare(struct world *w, uint32_t max)
{
    uint32_t nodes[N_NODES];
    struct block_hash hashes[N_NODES];
    struct prefix_match matches[N_WORKERS];
    uint32_t n = chain_of(w, 1 + draw(w, N_NODES - 1), nodes, hashes);
    uint32_t found = prefix_index_lookup(w->index, w->reader, hashes, n, matches, max);
    uint32_t longest = 0, holders = 0;
    for (uint32_t worker = 0; worker < N_WORKERS; worker++) {
        const struct prefix_match *m = match_of(matches, found, worker);
        uint32_t all = leading(w, worker, 15, nodes, n);
        longest = all > longest ? all : longest;
        holders += all > 0;
        if (max < N_WORKERS && !m)
            continue;
        for (unsigned t = 0; t < KV_TIER_COUNT; t++)
            assert_int_equal(m ? m->blocks[t] : 0, leading(w, worker, (2u << t) - 1, nodes, n));
    }
    assert_int_equal(found, holders < max ? holders : max);
    if (found)
        assert_int_equal(matches[0].blocks[KV_TIER_COUNT - 1], longest);
    for (uint32_t i = 1; i < found; i++)
        assert_true(matches[i - 1].blocks[KV_TIER_COUNT - 1] >= matches[i].blocks[KV_TIER_COUNT - 1]);
}

static void change(struct world *w)
{
    uint32_t worker = draw(w, N_WORKERS);
    unsigned tier = draw(w, KV_TIER_COUNT), what = draw(w, 200);
    if (what == 0) {
        prefix_index_clear(w->index, worker);
        memset(w->held[worker], 0, sizeof w->held[worker]);
    } else if (what < 80) {
        store(w, worker, tier);
    } else {
        remove_from(w, worker, tier);
    }
    if (!draw(w, 3))
        prefix_index_sweep(w->index, draw(w, 200));
}

/* When all is taken out, nothing is left: no block, no set. */
static void check_empty(struct world *w)
{
    struct prefix_index_stats stats;
    for (uint32_t worker = 0; worker < N_WORKERS; worker++)
        prefix_index_clear(w->index, worker);
    while (prefix_index_sweep(w->index, 100))
        ;
    prefix_index_stats(w->index, &stats);
    assert_int_equal(stats.blocks, 0);
    assert_int_equal(stats.sets, 0);
}

static unsigned rounds(void)
{
    return is_long() ? 60 : 3;
}

static void test_equals_the_table(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= rounds(); seed++) {
        struct world w;
        struct prefix_index_stats stats;
        create(&w, seed, 256u << 10);
        for (int i = 0; i < STEPS; i++) {
            change(&w);
            compare(&w, draw(&w, 2) ? N_WORKERS : 1 + draw(&w, 3));
        }
        prefix_index_stats(w.index, &stats);
        assert_int_equal(stats.evicted + stats.not_kept, 0);
        check_empty(&w);
        destroy(&w);
    }
}

/* Too small for all blocks: some are missing, and then more may seem to lie before them than does; but the last block
 * of what is found is always there. */
static void test_a_small_index_forgets_and_never_invents(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= rounds(); seed++) {
        struct world w;
        struct prefix_index_stats stats;
        create(&w, seed, 6000);
        for (int i = 0; i < STEPS; i++) {
            uint32_t nodes[N_NODES];
            struct block_hash hashes[N_NODES];
            struct prefix_match matches[N_WORKERS];
            change(&w);
            uint32_t n = chain_of(&w, 1 + draw(&w, N_NODES - 1), nodes, hashes);
            uint32_t found = prefix_index_lookup(w.index, w.reader, hashes, n, matches, N_WORKERS);
            for (uint32_t k = 0; k < found; k++)
                for (unsigned t = 0; t < KV_TIER_COUNT; t++)
                    if (matches[k].blocks[t])
                        assert_true(w.held[matches[k].worker][nodes[matches[k].blocks[t] - 1]] & ((2u << t) - 1));
        }
        prefix_index_stats(w.index, &stats);
        assert_true(stats.evicted > 0 && stats.not_kept > 0);
        assert_true(stats.bytes <= 6000);
        check_empty(&w);
        destroy(&w);
    }
}

/* A fleet of a thousand, each with blocks of its own, and a system prompt that all of them hold. */
#define FLEET  1000u
#define OWN    1000u
#define SHARED 10000u

static void check_fleet(struct prefix_index *x, const struct block_hash *shared)
{
    struct prefix_reader *reader;
    struct prefix_index_stats stats;
    struct prefix_match *matches = calloc(FLEET, sizeof *matches);
    struct block_hash own[OWN];
    assert_int_equal(prefix_reader_create(x, &reader), ST_OK);
    assert_int_equal(prefix_index_lookup(x, reader, shared, SHARED, matches, FLEET), FLEET);
    for (uint32_t i = 0; i < FLEET; i++)
        assert_int_equal(matches[i].blocks[KV_TIER_DEVICE], SHARED);
    for (uint32_t worker = 0; worker < FLEET; worker += 37) {
        for (uint32_t i = 0; i < OWN; i++)
            own[i] = hash_of((uint64_t)worker << 32 | i);
        assert_int_equal(prefix_index_lookup(x, reader, own, OWN, matches, FLEET), 1);
        assert_int_equal(matches[0].worker, worker);
        assert_int_equal(matches[0].blocks[KV_TIER_DEVICE], OWN);
    }
    prefix_index_stats(x, &stats);
    assert_int_equal(stats.blocks, FLEET * OWN + SHARED);
    assert_int_equal(stats.evicted + stats.not_kept, 0);
    free(matches);
    prefix_reader_destroy(&reader);
}

static void test_a_million_blocks_over_a_thousand_workers(void **state)
{
    (void)state;
    struct prefix_index *x;
    struct prefix_index_stats stats;
    size_t max_bytes = (size_t)PREFIX_BYTES_A_BLOCK * (FLEET * OWN + SHARED);
    struct prefix_index_options o = { .max_bytes = max_bytes, .max_workers = FLEET };
    struct block_hash *shared = calloc(SHARED, sizeof *shared), own[OWN];
    assert_int_equal(prefix_index_create(&o, &x, NULL), ST_OK);
    for (uint32_t i = 0; i < SHARED; i++)
        shared[i] = hash_of(UINT64_C(1) << 60 | i);
    for (uint32_t worker = 0; worker < FLEET; worker++) {
        for (uint32_t i = 0; i < OWN; i++)
            own[i] = hash_of((uint64_t)worker << 32 | i);
        prefix_index_store(x, worker, KV_TIER_DEVICE, own, OWN);
        /* In pieces, so that many workers have got different parts of it at times. */
        for (uint32_t k = 0; k < 4; k++)
            if (worker >= k)
                prefix_index_store(x, worker - k, KV_TIER_DEVICE, shared + SHARED / 4 * k, SHARED / 4);
    }
    for (uint32_t k = 1; k < 4; k++)
        for (uint32_t worker = FLEET - k; worker < FLEET; worker++)
            prefix_index_store(x, worker, KV_TIER_DEVICE, shared + SHARED / 4 * k, SHARED / 4);
    check_fleet(x, shared);
    prefix_index_stats(x, &stats);
    assert_true(stats.bytes <= max_bytes);
    for (uint32_t worker = 0; worker < FLEET; worker++)
        prefix_index_clear(x, worker);
    while (prefix_index_sweep(x, 10000))
        ;
    prefix_index_stats(x, &stats);
    assert_int_equal(stats.blocks + stats.sets, 0);
    free(shared);
    prefix_index_destroy(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_the_table),
        cmocka_unit_test(test_a_small_index_forgets_and_never_invents),
        cmocka_unit_test(test_a_million_blocks_over_a_thousand_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
