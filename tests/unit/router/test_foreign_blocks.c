#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "router/foreign_blocks.h"

#define OURS     16u
#define N_TOKENS 256u
#define MAX_HELD 4096u

/* What was told, as a multiset of (tier, hash) that must never be removed before it was stored. */
struct world {
    struct foreign_blocks *blocks;
    struct held {
        enum kv_tier tier;
        struct block_hash hash;
    } held[MAX_HELD];
    uint32_t n_held;
};

static bool same(const struct block_hash *a, const struct block_hash *b)
{
    return a->low == b->low && a->high == b->high;
}

static uint32_t find_held(const struct world *w, enum kv_tier tier, const struct block_hash *hash)
{
    for (uint32_t i = 0; i < w->n_held; i++)
        if (w->held[i].tier == tier && same(&w->held[i].hash, hash))
            return i;
    return w->n_held;
}

static bool seed(void *ctx, const struct kv_event *event, struct block_hash *out)
{
    (void)ctx;
    *out = (struct block_hash){ 1, event->has_adapter };
    return !event->adapter || event->adapter_len == 4;
}

/* Not a good hash, but one that covers everything. */
static void chain(void *ctx, const struct block_hash *parent, const uint32_t tokens[], uint32_t n,
                  struct block_hash *out)
{
    (void)ctx;
    assert_int_equal(n, OURS);
    *out = *parent;
    for (uint32_t i = 0; i < n; i++)
        out->low = (out->low + tokens[i] + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

static void stored(void *ctx, enum kv_tier tier, const struct block_hash hashes[], uint32_t n)
{
    struct world *w = ctx;
    for (uint32_t i = 0; i < n; i++) {
        if (find_held(w, tier, &hashes[i]) < w->n_held)
            continue;
        assert_true(w->n_held < MAX_HELD);
        w->held[w->n_held++] = (struct held){ tier, hashes[i] };
    }
}

static void removed(void *ctx, enum kv_tier tier, const struct block_hash hashes[], uint32_t n)
{
    struct world *w = ctx;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = find_held(w, tier, &hashes[i]);
        assert_true(at < w->n_held);
        w->held[at] = w->held[--w->n_held];
    }
}

static struct world *created(size_t max_bytes)
{
    struct world *w = calloc(1, sizeof *w);
    struct foreign_blocks_options o = { .block_tokens = OURS,
                                        .max_bytes = max_bytes,
                                        .seed = seed,
                                        .chain = chain,
                                        .stored = stored,
                                        .removed = removed,
                                        .ctx = w };
    assert_int_equal(foreign_blocks_create(&o, &w->blocks), ST_OK);
    return w;
}

static void destroy(struct world *w)
{
    foreign_blocks_destroy(&w->blocks);
    free(w);
}

static void fill(uint32_t tokens[N_TOKENS], struct kv_event_hash names[N_TOKENS])
{
    for (uint32_t i = 0; i < N_TOKENS; i++) {
        tokens[i] = i * 7 + 3;
        names[i] = (struct kv_event_hash){ 1000 + i, 0 };
    }
}

static status apply_stored(struct world *w, uint32_t theirs, uint32_t from, uint32_t to, const uint32_t *tokens,
                           const struct kv_event_hash *names)
{
    struct kv_event e = { .kind = KV_BLOCK_STORED,
                          .hashes = names + from,
                          .n_hashes = to - from,
                          .has_parent = from > 0,
                          .tokens = tokens + from * theirs,
                          .n_tokens = (to - from) * theirs,
                          .block_size = theirs };
    if (from)
        e.parent = names[from - 1];
    return foreign_blocks_apply(w->blocks, &e);
}

static void apply_removed(struct world *w, uint32_t from, uint32_t to, const struct kv_event_hash *names)
{
    struct kv_event e = { .kind = KV_BLOCK_REMOVED, .hashes = names + from, .n_hashes = to - from };
    assert_int_equal(foreign_blocks_apply(w->blocks, &e), ST_OK);
}

/* Our chain over n tokens is what is held, and nothing else. */
static void assert_chain(struct world *w, const uint32_t *tokens, uint32_t n)
{
    struct block_hash hash = { 1, 0 };
    assert_int_equal(w->n_held, n / OURS);
    for (uint32_t i = 0; i + OURS <= n; i += OURS) {
        struct block_hash parent = hash;
        chain(NULL, &parent, tokens + i, OURS, &hash);
        assert_true(find_held(w, KV_TIER_DEVICE, &hash) < w->n_held);
    }
}

static void test_sizes_that_divide(void **state)
{
    (void)state;
    static const uint32_t sizes[] = { 1, 2, 4, 8, 16, 32, 64 };
    uint32_t tokens[N_TOKENS];
    struct kv_event_hash names[N_TOKENS];
    fill(tokens, names);
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        uint32_t theirs = sizes[s], n = N_TOKENS / theirs;
        struct world *w = created(1u << 20);
        /* One event, then one for each block, the first of them again. */
        assert_int_equal(apply_stored(w, theirs, 0, n / 2, tokens, names), ST_OK);
        assert_chain(w, tokens, n / 2 * theirs);
        for (uint32_t i = n / 2 - 1; i < n; i++)
            assert_int_equal(apply_stored(w, theirs, i, i + 1, tokens, names), ST_OK);
        assert_chain(w, tokens, N_TOKENS);
        for (uint32_t i = n; i-- > n / 4;) {
            apply_removed(w, i, i + 1, names);
            assert_chain(w, tokens, i * theirs);
        }
        apply_removed(w, 0, n / 4, names);
        assert_int_equal(w->n_held, 0);
        destroy(w);
    }
}

static void test_sizes_that_do_not(void **state)
{
    (void)state;
    uint32_t tokens[N_TOKENS];
    struct kv_event_hash names[N_TOKENS];
    fill(tokens, names);
    struct world *w = created(1u << 20);
    assert_int_equal(apply_stored(w, 24, 0, 1, tokens, names), ST_LIMIT);
    assert_int_equal(apply_stored(w, 3, 0, 1, tokens, names), ST_LIMIT);
    assert_int_equal(apply_stored(w, 16, 0, 1, tokens, names), ST_OK);
    assert_int_equal(apply_stored(w, 32, 0, 1, tokens, names), ST_LIMIT);
    destroy(w);
    w = created(10);
    assert_int_equal(apply_stored(w, 16, 0, 1, tokens, names), ST_LIMIT);
    destroy(w);
}

/* What falls out of a small map is told as removed, and what stands behind it is not mapped. */
static void test_a_full_map(void **state)
{
    (void)state;
    uint32_t tokens[N_TOKENS];
    struct kv_event_hash names[N_TOKENS];
    struct foreign_blocks_stats stats;
    fill(tokens, names);
    struct world *w = created(500);
    assert_int_equal(apply_stored(w, 16, 0, 16, tokens, names), ST_OK);
    foreign_blocks_stats(w->blocks, &stats);
    assert_true(stats.max_blocks > 2 && stats.max_blocks < 16 && stats.blocks == stats.max_blocks);
    assert_int_equal(stats.evicted, 16 - stats.max_blocks);
    assert_int_equal(w->n_held, stats.max_blocks);
    assert_int_equal(apply_stored(w, 16, 1, 2, tokens, names), ST_OK);
    apply_removed(w, 0, 1, names);
    foreign_blocks_stats(w->blocks, &stats);
    assert_true(stats.no_parent == 1 && stats.unknown == 1);
    apply_removed(w, 0, 16, names);
    assert_int_equal(w->n_held, 0);
    destroy(w);
}

static void test_what_cannot_be_mapped(void **state)
{
    (void)state;
    uint32_t tokens[N_TOKENS];
    struct kv_event_hash names[N_TOKENS];
    struct foreign_blocks_stats stats;
    fill(tokens, names);
    struct world *w = created(1u << 20);
    struct kv_event e = {
        .kind = KV_BLOCK_STORED, .hashes = names, .n_hashes = 1, .tokens = tokens, .n_tokens = 16, .block_size = 16
    };
    struct kv_event extra = e, group = e, medium = e, adapter = e, silent = e;
    extra.has_extra_keys = true;
    group.has_group = true, group.group = 1;
    medium.tier = KV_TIER_COUNT;
    adapter.has_adapter = true, adapter.adapter = "unknown", adapter.adapter_len = 7;
    silent.n_tokens = 0;
    const struct kv_event *all[] = { &extra, &group, &medium, &adapter, &silent };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        assert_int_equal(foreign_blocks_apply(w->blocks, all[i]), ST_OK);
    foreign_blocks_stats(w->blocks, &stats);
    assert_true(stats.not_mappable == 4 && stats.no_tokens == 1 && stats.mapped == 0 && w->n_held == 0);
    destroy(w);
}

static void test_tiers_and_clear(void **state)
{
    (void)state;
    uint32_t tokens[N_TOKENS];
    struct kv_event_hash names[N_TOKENS];
    struct foreign_blocks_stats stats;
    fill(tokens, names);
    struct world *w = created(1u << 20);
    struct kv_event e = {
        .kind = KV_BLOCK_STORED, .hashes = names, .n_hashes = 2, .tokens = tokens, .n_tokens = 32, .block_size = 16
    };
    assert_int_equal(foreign_blocks_apply(w->blocks, &e), ST_OK);
    e.tier = KV_TIER_HOST;
    assert_int_equal(foreign_blocks_apply(w->blocks, &e), ST_OK);
    assert_int_equal(w->n_held, 4);
    apply_removed(w, 0, 2, names);
    assert_int_equal(w->n_held, 2);
    assert_int_equal(w->held[0].tier, KV_TIER_HOST);
    foreign_blocks_clear(w->blocks);
    foreign_blocks_stats(w->blocks, &stats);
    assert_int_equal(stats.blocks, 0);
    w->n_held = 0;
    assert_int_equal(apply_stored(w, 16, 0, 2, tokens, names), ST_OK);
    assert_chain(w, tokens, 32);
    destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_that_divide), cmocka_unit_test(test_sizes_that_do_not),
        cmocka_unit_test(test_a_full_map),        cmocka_unit_test(test_what_cannot_be_mapped),
        cmocka_unit_test(test_tiers_and_clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
