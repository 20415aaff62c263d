/* A pool with index, leases and eviction, driven by random operations beside a naive model that knows what each
 * block really holds. Hashes are cut to a few bits, so that they collide all the time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kvbm/block_registry.h"
#include "kvbm/lease.h"
#include "tests/unit/effort.h"

enum { BLOCKS = 48, TOKENS = 2, DEPTH = 8, SEQUENCES = 8, LEASES = 6, SALTS = 3, WORDS = 3 };

struct sequence {
    uint32_t salt, n_tokens, n_blocks, n_full; /* tokens of the prompt; blocks taken; blocks that are full */
    uint32_t n_chained;                        /* leading blocks that are registered */
    uint32_t tokens[DEPTH * TOKENS];
    block_id blocks[DEPTH];
    bool open;
};

struct loan {
    struct lease lease;
    block_id blocks[DEPTH];
    bool open;
};

/* What a block holds: its salt and all tokens from the first one on. */
struct content {
    uint32_t salt, n_tokens;
    uint32_t tokens[DEPTH * TOKENS];
};

struct world {
    struct block_pool *pool;
    struct block_registry *index;
    struct sequence sequences[SEQUENCES];
    struct loan loans[LEASES];
    struct content contents[BLOCKS];
    uint32_t owners[BLOCKS][BLOCK_OWNER_COUNT];
    uint64_t generations[BLOCKS];
    bool registered[BLOCKS];
    uint64_t hash_mask, random;
    uint64_t hit_blocks[SALTS];
    uint64_t unregistered[2], renewed; /* without owners, and with */
};

static uint32_t draw(struct world *w, uint32_t below)
{
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->random >> 33) % below;
}

static struct block_hash seed_of(uint32_t salt)
{
    return (struct block_hash){ salt + 1, 0 };
}

static bool same_content(const struct content *a, const struct content *b)
{
    return a->salt == b->salt && a->n_tokens == b->n_tokens &&
           !memcmp(a->tokens, b->tokens, a->n_tokens * sizeof *a->tokens);
}

static struct content content_of(const struct sequence *s, uint32_t block)
{
    struct content c = { .salt = s->salt, .n_tokens = (block + 1) * TOKENS };
    memcpy(c.tokens, s->tokens, c.n_tokens * sizeof *c.tokens);
    return c;
}

/* ---- the model's side ------------------------------------------------------------------------------------ */

/* The registered block that holds this; there is at most one. */
static block_id model_find(const struct world *w, const struct content *c)
{
    block_id found = BLOCK_NONE;
    for (block_id b = 0; b < BLOCKS; b++)
        if (w->registered[b] && same_content(&w->contents[b], c)) {
            assert_int_equal(found, BLOCK_NONE);
            found = b;
        }
    return found;
}

static bool has_owner(const struct world *w, block_id b)
{
    return w->owners[b][BLOCK_OF_SEQUENCE] || w->owners[b][BLOCK_OF_TRANSFER];
}

static bool stands_behind(const struct world *w, block_id b, block_id ancestor)
{
    const struct content *a = &w->contents[ancestor], *c = &w->contents[b];
    return w->registered[b] && c->salt == a->salt && c->n_tokens > a->n_tokens &&
           !memcmp(c->tokens, a->tokens, a->n_tokens * sizeof *a->tokens);
}

/* Neither it nor anything behind it has an owner. */
static bool model_may_go(const struct world *w, block_id b)
{
    if (!w->registered[b] || has_owner(w, b))
        return false;
    for (block_id other = 0; other < BLOCKS; other++)
        if (stands_behind(w, other, b) && has_owner(w, other))
            return false;
    return true;
}

static uint32_t model_free(const struct world *w)
{
    uint32_t n = 0;
    for (block_id b = 0; b < BLOCKS; b++)
        n += w->registered[b] ? model_may_go(w, b) : !has_owner(w, b);
    return n;
}

/* The pool says what it evicts; only what may go does, and descendants went before. */
static void on_enter(void *ctx, block_id b, enum block_state state)
{
    struct world *w = ctx;
    if (state != BLOCK_EVICTING)
        return;
    assert_true(model_may_go(w, b));
    for (block_id other = 0; other < BLOCKS; other++)
        assert_false(stands_behind(w, other, b));
    w->registered[b] = false;
}

static void let_go(struct world *w, block_id b, enum block_owner owner)
{
    assert_true(w->owners[b][owner] > 0);
    w->owners[b][owner]--;
}

/* ---- operations ------------------------------------------------------------------------------------------ */

static void hashes_of(const struct world *w, const struct sequence *s, struct block_hash out[DEPTH])
{
    struct block_hash last = seed_of(s->salt);
    for (uint32_t i = 0; i < s->n_tokens / TOKENS; i++) {
        last = block_hash_next(last, s->tokens + (size_t)i * TOKENS, TOKENS);
        last.high = 0;
        last.low &= w->hash_mask;
        out[i] = last;
    }
}

static void match(struct world *w, struct sequence *s)
{
    struct block_hash hashes[DEPTH];
    hashes_of(w, s, hashes);
    const struct registry_query query = { seed_of(s->salt), hashes, s->tokens, s->n_tokens / TOKENS };
    uint32_t peeked = block_registry_peek(w->index, &query);
    uint32_t n = block_registry_match(w->index, &query, s->blocks);
    assert_int_equal(n, peeked);
    for (uint32_t i = 0; i <= n && i < query.n_blocks; i++) {
        struct content c = content_of(s, i);
        block_id found = model_find(w, &c);
        assert_int_equal(i < n ? s->blocks[i] : BLOCK_NONE, found);
        if (i == n)
            break;
        w->owners[found][BLOCK_OF_SEQUENCE]++;
        w->hit_blocks[s->salt]++;
    }
    s->n_blocks = s->n_full = s->n_chained = n;
}

static void finish(struct world *w, struct sequence *s)
{
    for (uint32_t i = 0; i < s->n_blocks; i++) {
        let_go(w, s->blocks[i], BLOCK_OF_SEQUENCE);
        block_pool_release(w->pool, s->blocks[i], BLOCK_OF_SEQUENCE);
    }
    s->open = false;
}

static void start(struct world *w, struct sequence *s)
{
    *s = (struct sequence){ .salt = draw(w, SALTS), .n_tokens = 1 + draw(w, DEPTH * TOKENS), .open = true };
    for (uint32_t i = 0; i < s->n_tokens; i++)
        s->tokens[i] = draw(w, WORDS) ? 0 : draw(w, WORDS);
    match(w, s);
    uint32_t need = (s->n_tokens + TOKENS - 1) / TOKENS - s->n_blocks, can = model_free(w);
    status st = block_pool_take(w->pool, need, draw(w, 2) ? BLOCK_RESERVED : BLOCK_FILLING, s->blocks + s->n_blocks);
    assert_int_equal(st, need <= can ? ST_OK : ST_AGAIN);
    if (st != ST_OK) {
        finish(w, s);
        return;
    }
    for (uint32_t i = 0; i < need; i++) {
        block_id b = s->blocks[s->n_blocks + i];
        assert_false(w->registered[b] || has_owner(w, b));
        w->owners[b][BLOCK_OF_SEQUENCE] = 1;
        w->contents[b] = (struct content){ .salt = SALTS };
        assert_int_equal(block_pool_generation(w->pool, b), ++w->generations[b]);
    }
    s->n_blocks += need;
}

static bool hash_is_used(const struct world *w, struct block_hash hash)
{
    for (block_id b = 0; b < BLOCKS; b++)
        if (w->registered[b] && block_hash_equal(block_registry_at(w->index, b).hash, hash))
            return true;
    return false;
}

/* Registers the block that was filled last, as a worker does as soon as it can. */
static void offer(struct world *w, struct sequence *s, uint32_t i)
{
    struct block_hash hashes[DEPTH];
    struct content c = content_of(s, i);
    block_id before = s->blocks[i], there = model_find(w, &c);
    hashes_of(w, s, hashes);
    bool collides = hash_is_used(w, hashes[i]);
    const struct registry_block what = { seed_of(s->salt), hashes[i], s->tokens + (size_t)i * TOKENS,
                                         i ? s->blocks[i - 1] : BLOCK_NONE };
    enum registry_outcome outcome = block_registry_register(w->index, &what, &s->blocks[i]);
    if (s->n_chained < i) {
        assert_int_equal(outcome, REGISTRY_REFUSED);
    } else if (there != BLOCK_NONE) {
        assert_int_equal(outcome, REGISTRY_SHARED);
        assert_int_equal(s->blocks[i], there);
        w->owners[there][BLOCK_OF_SEQUENCE]++;
        let_go(w, before, BLOCK_OF_SEQUENCE);
    } else {
        assert_int_equal(outcome, collides ? REGISTRY_REFUSED : REGISTRY_STORED);
        w->registered[before] = !collides;
    }
    assert_true(outcome == REGISTRY_SHARED || s->blocks[i] == before);
    s->n_chained += outcome != REGISTRY_REFUSED;
}

static void fill(struct world *w, struct sequence *s)
{
    uint32_t i = s->n_full;
    if (i >= s->n_blocks)
        return;
    uint32_t valid = s->n_tokens - i * TOKENS < TOKENS ? s->n_tokens - i * TOKENS : TOKENS;
    block_pool_filled(w->pool, s->blocks[i], valid);
    if (valid < TOKENS)
        return;
    w->contents[s->blocks[i]] = content_of(s, i);
    s->n_full++;
    if (draw(w, 8))
        offer(w, s, i);
}

static void lend(struct world *w, struct loan *loan, const struct sequence *s)
{
    if (!s->open || s->n_blocks == 0)
        return;
    uint32_t first = draw(w, s->n_blocks), n = 1 + draw(w, s->n_blocks - first);
    memcpy(loan->blocks, s->blocks + first, n * sizeof *s->blocks);
    lease_open(&loan->lease, w->pool, loan->blocks, n);
    for (uint32_t i = 0; i < n; i++)
        w->owners[loan->blocks[i]][BLOCK_OF_TRANSFER]++;
    loan->open = true;
}

static void take_back(struct world *w, struct loan *loan)
{
    for (uint32_t i = 0; i < loan->lease.n_blocks; i++)
        let_go(w, loan->blocks[i], BLOCK_OF_TRANSFER);
    lease_end(&loan->lease);
    loan->open = false;
}

static bool has_children(const struct world *w, block_id b)
{
    for (block_id other = 0; other < BLOCKS; other++)
        if (stands_behind(w, other, b))
            return true;
    return false;
}

/* What is damaged or wiped shall not be found any more; sequences that have it can register nothing behind it. */
static void unregister(struct world *w, block_id b)
{
    if (!w->registered[b] || has_children(w, b))
        return;
    const bool owned = has_owner(w, b);
    block_pool_unregister(w->pool, b);
    assert_true(owned == w->registered[b]); /* without owners it was seen to go */
    w->registered[b] = false;
    w->unregistered[owned]++;
    assert_int_equal(block_pool_state(w->pool, b), owned ? BLOCK_COMPLETE : BLOCK_FREE);
    for (struct sequence *s = w->sequences; s < w->sequences + SEQUENCES; s++)
        for (uint32_t i = 0; s->open && i < s->n_chained; i++)
            if (s->blocks[i] == b)
                s->n_chained = i;
}

static void renew(struct world *w, block_id b)
{
    if (w->registered[b] || has_owner(w, b))
        return;
    block_pool_renew(w->pool, b);
    w->generations[b]++;
    w->renewed++;
}

static void operate(struct world *w)
{
    struct sequence *s = &w->sequences[draw(w, SEQUENCES)];
    struct loan *loan = &w->loans[draw(w, LEASES)];
    switch (draw(w, 9)) {
    case 0:
        if (loan->open)
            take_back(w, loan);
        else
            lend(w, loan, s);
        break;
    case 1:
        if (s->open)
            finish(w, s);
        break;
    case 2:
        if (draw(w, 4) == 0)
            unregister(w, draw(w, BLOCKS));
        else
            renew(w, draw(w, BLOCKS));
        break;
    default:
        if (s->open)
            fill(w, s);
        else
            start(w, s);
    }
}

static void check_block(const struct world *w, block_id b)
{
    enum block_state state = block_pool_state(w->pool, b);
    assert_int_equal(state == BLOCK_REGISTERED, w->registered[b]);
    assert_int_equal(state == BLOCK_FREE, !w->registered[b] && !has_owner(w, b));
    assert_int_equal(block_pool_owners(w->pool, b, BLOCK_OF_SEQUENCE), w->owners[b][BLOCK_OF_SEQUENCE]);
    assert_int_equal(block_pool_owners(w->pool, b, BLOCK_OF_TRANSFER), w->owners[b][BLOCK_OF_TRANSFER]);
    assert_int_equal(block_pool_generation(w->pool, b), w->generations[b]);
}

static void run(const struct eviction_policy *policy, uint64_t hash_mask, uint64_t seed, uint32_t operations)
{
    struct world *w = calloc(1, sizeof *w);
    const struct block_pool_options pool = {
        .n_blocks = BLOCKS, .block_tokens = TOKENS, .policy = policy, .entered = on_enter, .ctx = w
    };
    w->hash_mask = hash_mask;
    w->random = seed;
    assert_int_equal(block_pool_create(&pool, &w->pool), ST_OK);
    const struct block_registry_options index = { w->pool, TOKENS };
    assert_int_equal(block_registry_create(&index, &w->index), ST_OK);
    for (uint32_t i = 0; i < operations; i++) {
        operate(w);
        check_block(w, draw(w, BLOCKS));
        if (i % 16 == 0)
            assert_int_equal(block_pool_free(w->pool), model_free(w));
    }
    for (int i = 0; i < SEQUENCES; i++)
        if (w->sequences[i].open)
            finish(w, &w->sequences[i]);
    for (int i = 0; i < LEASES; i++)
        if (w->loans[i].open)
            take_back(w, &w->loans[i]);
    assert_int_equal(block_pool_free(w->pool), BLOCKS);
    const struct registry_counters *c = block_registry_counters(w->index);
    assert_true(c->hits > 0 && c->stored > 0 && c->shared > 0 && c->refused > 0 && c->evicted > 0);
    assert_true(w->unregistered[false] > 0 && w->unregistered[true] > 0 && w->renewed > 0);
    assert_true(hash_mask == UINT64_MAX || c->mismatches > 0);
    assert_int_equal(c->hits, w->hit_blocks[0] + w->hit_blocks[1] + w->hit_blocks[2]);
    block_registry_destroy(&w->index);
    block_pool_destroy(&w->pool);
    free(w);
}

static void test_pool_index_leases_and_eviction(void **state)
{
    (void)state;
    static const struct eviction_policy *const policies[] = { &eviction_s3fifo, &eviction_lru, &eviction_fifo,
                                                              &eviction_s3fifo_plain };
    const uint32_t operations = is_long() ? 1000000 : 10000;
    const uint64_t seed = test_seed();
    for (int i = 0; i < 4; i++) {
        run(policies[i], UINT64_MAX, seed, operations);
        run(policies[i], UINT64_C(0xf00000000), seed, operations);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_pool_index_leases_and_eviction) };
    return cmocka_run_group_tests_name("KV pool", tests, NULL, NULL);
}
