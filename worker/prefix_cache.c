#include "worker/prefix_cache.h"

#include <stdlib.h>
#include <string.h>

#include "worker/wiping.h"

/* What a block's chain was computed with, as far as its hash does not tell. */
struct origin {
    const char *adapter_id; /* borrowed of the worker's adapters */
    struct block_hash salt;
};

struct prefix_cache {
    struct prefix_cache_options options;
    struct block_registry *registry; /* NULL: nothing is kept */
    struct origin *origins;          /* [n_blocks], of those registered */
    struct prefix_cache_watch watch;
    uint64_t hits, misses, hit_tokens, forgotten;
};

struct wiped_salt {
    const struct prefix_cache *cache;
    const struct block_hash *salt; /* NULL: all */
};

static bool has_salt(struct block_hash salt)
{
    const struct block_hash none = { 0, 0 };
    return !block_hash_equal(salt, none);
}

/* ---- telling others ---------------------------------------------------------------------------------------- */

static struct block_stored describe(const struct prefix_cache *cache, block_id block)
{
    struct registry_block what = block_registry_at(cache->registry, block);
    bool has_parent = what.parent != BLOCK_NONE;
    return (struct block_stored){
        .hash = what.hash,
        .has_parent = has_parent,
        .parent = has_parent ? block_registry_at(cache->registry, what.parent).hash : what.seed,
        .tokens = what.tokens,
        .n_tokens = cache->options.block_tokens,
        .adapter_id = cache->origins[block].adapter_id,
        .has_salt = has_salt(cache->origins[block].salt),
    };
}

static void tell_stored(const struct prefix_cache *cache, block_id block)
{
    const struct worker_io *io = cache->options.io;
    if (!io->blocks_stored)
        return;
    struct block_stored what = describe(cache, block);
    io->blocks_stored(io->ctx, &what);
}

static void on_evicting(void *ctx, block_id block)
{
    struct prefix_cache *cache = ctx;
    const struct worker_io *io = cache->options.io;
    struct block_hash hash = block_registry_at(cache->registry, block).hash;
    if (io->blocks_removed)
        io->blocks_removed(io->ctx, &hash, 1);
}

/* Adds a block, and before it those before it that were not visited. Returns how many stand in order[] then. */
static uint32_t list_chain(const struct prefix_cache *cache, block_id block, bool visited[], block_id order[],
                           uint32_t n)
{
    uint32_t length = 0;
    for (block_id b = block; b != BLOCK_NONE && !visited[b]; b = block_registry_at(cache->registry, b).parent) {
        visited[b] = true;
        length++;
    }
    for (uint32_t i = length; i > 0; i--) {
        order[n + i - 1] = block;
        block = block_registry_at(cache->registry, block).parent;
    }
    return n + length;
}

/* All registered blocks, parents first; the caller frees. NULL: no memory. */
static block_id *list_registered(const struct prefix_cache *cache, uint32_t *n)
{
    const struct block_pool *pool = cache->options.pool;
    uint32_t n_blocks = block_pool_size(pool);
    bool *visited = calloc(n_blocks, sizeof *visited);
    block_id *order = visited ? calloc(n_blocks, sizeof *order) : NULL;
    *n = 0;
    for (block_id block = 0; order && block < n_blocks; block++)
        if (block_pool_state(pool, block) == BLOCK_REGISTERED)
            *n = list_chain(cache, block, visited, order, *n);
    free(visited);
    return order;
}

status prefix_cache_each(const struct prefix_cache *cache, void (*visit)(void *ctx, const struct block_stored *what),
                         void *ctx)
{
    uint32_t n;
    if (!cache->registry)
        return ST_OK;
    block_id *blocks = list_registered(cache, &n);
    if (!blocks)
        return ST_NO_MEMORY;
    for (uint32_t i = 0; i < n; i++) {
        struct block_stored what = describe(cache, blocks[i]);
        visit(ctx, &what);
    }
    free(blocks);
    return ST_OK;
}

uint32_t prefix_cache_forget(struct prefix_cache *cache, bool (*matches)(void *ctx, block_id block), void *ctx)
{
    uint32_t n, n_forgotten = 0;
    if (!cache->registry)
        return 0;
    block_id *blocks = list_registered(cache, &n);
    bool *goes = blocks ? calloc(block_pool_size(cache->options.pool), sizeof *goes) : NULL;
    for (uint32_t i = 0; goes && i < n; i++) {
        block_id parent = block_registry_at(cache->registry, blocks[i]).parent;
        goes[blocks[i]] = (parent != BLOCK_NONE && goes[parent]) || matches(ctx, blocks[i]);
        n_forgotten += goes[blocks[i]];
    }
    for (uint32_t i = n; goes && i > 0; i--)
        if (goes[blocks[i - 1]])
            block_pool_unregister(cache->options.pool, blocks[i - 1]);
    if (goes)
        cache->forgotten += n_forgotten;
    else
        n_forgotten = UINT32_MAX;
    free(goes);
    free(blocks);
    return n_forgotten;
}

static bool is_of_salt(void *ctx, block_id block)
{
    const struct prefix_cache *cache = ((const struct wiped_salt *)ctx)->cache;
    const struct block_hash *salt = ((const struct wiped_salt *)ctx)->salt;
    return !salt || block_hash_equal(cache->origins[block].salt, *salt);
}

uint32_t prefix_cache_wipe(struct prefix_cache *cache, const struct block_hash *salt)
{
    struct wiped_salt what = { cache, salt };
    uint32_t n = prefix_cache_forget(cache, is_of_salt, &what);
    if (cache->registry)
        block_registry_erase_unused(cache->registry);
    return n;
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

status prefix_cache_create(const struct prefix_cache_options *options, struct prefix_cache **out)
{
    struct prefix_cache *cache = calloc(1, sizeof *cache);
    if (!cache)
        return ST_NO_MEMORY;
    cache->options = *options;
    const struct block_registry_options registry = { options->pool, options->block_tokens };
    if (options->enabled) {
        cache->origins = calloc(block_pool_size(options->pool), sizeof *cache->origins);
        if (!cache->origins || block_registry_create(&registry, &cache->registry) != ST_OK) {
            prefix_cache_destroy(&cache);
            return ST_NO_MEMORY;
        }
        block_registry_on_evicting(cache->registry, on_evicting, cache);
    }
    *out = cache;
    return ST_OK;
}

void prefix_cache_destroy(struct prefix_cache **cache)
{
    if (!*cache)
        return;
    block_registry_destroy(&(*cache)->registry);
    free((*cache)->origins);
    free(*cache);
    *cache = NULL;
}

struct block_registry *prefix_cache_registry(const struct prefix_cache *cache)
{
    return cache->registry;
}

void prefix_cache_watch(struct prefix_cache *cache, const struct prefix_cache_watch *watch)
{
    cache->watch = *watch;
}

/* ---- a sequence's chain ------------------------------------------------------------------------------------------ */

/* Of "NAME@FINGERPRINT", in hexadecimal digits; 0 for no adapter. */
static uint64_t adapter_fingerprint(const char *adapter_id)
{
    const char *at = strchr(adapter_id, '@');
    return at ? strtoull(at + 1, NULL, 16) : 0;
}

static struct block_seed_parts make_parts(const struct prefix_cache *cache, const char *adapter_id,
                                          struct block_hash salt)
{
    return (struct block_seed_parts){
        .weights = cache->options.weights,
        .tokenizer = cache->options.tokenizer,
        .adapter = adapter_fingerprint(adapter_id),
        .salt = salt,
    };
}

struct block_seed_parts prefix_cache_parts(const struct prefix_cache *cache, block_id block)
{
    return make_parts(cache, cache->origins[block].adapter_id, cache->origins[block].salt);
}

struct block_seed_parts prefix_cache_parts_of(const struct prefix_cache *cache, const struct sequence *seq)
{
    return make_parts(cache, seq->adapter_id, seq->salt);
}

void prefix_cache_join(const struct prefix_cache *cache, struct sequence *seq)
{
    struct sequence_chain *chain = &seq->chain;
    uint32_t bt = cache->options.block_tokens, longest = seq->tokens_capacity / bt;
    if (!cache->registry || longest == 0)
        return;
    chain->hashes = calloc(longest, sizeof *chain->hashes);
    if (!chain->hashes)
        return;
    const struct block_seed_parts parts = prefix_cache_parts_of(cache, seq);
    chain->takes_part = true;
    chain->seed = block_seed(&parts);
    block_hasher_init(&chain->hasher, chain->seed, bt);
}

/* Has the hashes of all full blocks of the first n tokens, each made once; returns how many these are. */
static uint32_t hash_upto(struct sequence *seq, uint32_t n)
{
    struct sequence_chain *chain = &seq->chain;
    uint32_t full = n / chain->hasher.block_tokens;
    if (full > chain->hasher.n_blocks)
        (void)block_hasher_grow(&chain->hasher, seq->tokens, n, chain->hashes + chain->hasher.n_blocks,
                                full - chain->hasher.n_blocks);
    return full;
}

static struct registry_query query_of(struct sequence *seq)
{
    uint32_t n = hash_upto(seq, seq->n_tokens - 1);
    return (struct registry_query){ seq->chain.seed, seq->chain.hashes, seq->tokens, n };
}

/* ---- finding -------------------------------------------------------------------------------------------------------
 */

uint32_t prefix_cache_peek(struct prefix_cache *cache, struct sequence *seq)
{
    if (!seq->chain.takes_part)
        return 0;
    struct registry_query query = query_of(seq);
    return block_registry_peek(cache->registry, &query) * cache->options.block_tokens;
}

static status take_rest(struct prefix_cache *cache, struct sequence *seq, uint32_t n, uint32_t spare,
                        enum block_state state)
{
    uint32_t bt = cache->options.block_tokens, need = blocks_for(n, bt);
    uint64_t rest = need > seq->n_blocks ? need - seq->n_blocks : 0;
    if (block_pool_free(cache->options.pool) < rest + spare)
        return ST_AGAIN;
    const uint32_t first = seq->n_blocks;
    status st = sequence_reserve(seq, cache->options.pool, bt, n, state);
    if (st == ST_OK && cache->options.wiping)
        wiping_taken(cache->options.wiping, seq->blocks + first, seq->n_blocks - first, seq->salt);
    return st;
}

status prefix_cache_grow(struct prefix_cache *cache, struct sequence *seq, uint32_t n)
{
    return take_rest(cache, seq, n, 0, BLOCK_FILLING);
}

static void count_found(struct prefix_cache *cache, const struct sequence *seq, uint32_t asked)
{
    if (asked == 0)
        return;
    block_registry_used(cache->registry, seq->blocks, seq->chain.n_registered, asked);
    if (cache->watch.used)
        cache->watch.used(cache->watch.ctx, seq->blocks, seq->chain.n_registered);
    cache->hits += seq->chain.n_registered > 0;
    cache->misses += seq->chain.n_registered == 0;
    cache->hit_tokens += (uint64_t)seq->chain.n_registered * cache->options.block_tokens;
}

status prefix_cache_take(struct prefix_cache *cache, struct sequence *seq, uint32_t n, uint32_t spare,
                         enum block_state state, uint32_t *held)
{
    uint32_t bt = cache->options.block_tokens, need = blocks_for(n, bt);
    if (seq->n_blocks > 0 || !seq->chain.takes_part)
        return take_rest(cache, seq, n, spare, state);
    struct registry_query query = query_of(seq);
    /* Whoever waits asks again and again: no search where all that could be found would not be enough. */
    if ((uint64_t)block_pool_free(cache->options.pool) + query.n_blocks < (uint64_t)need + spare)
        return ST_AGAIN;
    status st = sequence_make_room(seq, bt, need);
    if (st != ST_OK)
        return st;
    seq->n_blocks = seq->chain.n_registered = block_registry_pin(cache->registry, &query, seq->blocks);
    uint32_t found = seq->n_blocks;
    st = take_rest(cache, seq, n, spare, state);
    if (st != ST_OK) {
        sequence_release_blocks(seq, cache->options.pool);
        return st;
    }
    count_found(cache, seq, query.n_blocks);
    *held = found * bt;
    return ST_OK;
}

/* ---- keeping
 * --------------------------------------------------------------------------------------------------------- */

/* The next block of the sequence is full. */
static void register_next(struct prefix_cache *cache, struct sequence *seq)
{
    struct sequence_chain *chain = &seq->chain;
    uint32_t i = chain->n_registered;
    const struct registry_block what = {
        .seed = chain->seed,
        .hash = chain->hashes[i],
        .tokens = seq->tokens + (size_t)i * cache->options.block_tokens,
        .parent = i ? seq->blocks[i - 1] : BLOCK_NONE,
    };
    enum registry_outcome outcome = block_registry_register(cache->registry, &what, &seq->blocks[i]);
    if (outcome == REGISTRY_REFUSED) {
        chain->ends = true;
        return;
    }
    chain->n_registered++;
    if (outcome == REGISTRY_SHARED) {
        if (cache->watch.used)
            cache->watch.used(cache->watch.ctx, &seq->blocks[i], 1);
        return;
    }
    cache->origins[seq->blocks[i]] = (struct origin){ seq->adapter_id, seq->salt };
    tell_stored(cache, seq->blocks[i]);
    if (cache->watch.registered)
        cache->watch.registered(cache->watch.ctx, seq, seq->blocks[i]);
}

/* A wipe waits for its end: it was begun before. */
static bool is_awaited(const struct prefix_cache *cache, block_id block)
{
    return cache->options.wiping && wiping_awaits(cache->options.wiping, block);
}

void prefix_cache_filled(struct prefix_cache *cache, struct sequence *seq, uint32_t first, uint32_t n)
{
    sequence_filled(seq, cache->options.pool, cache->options.block_tokens, first, n);
    if (!seq->chain.takes_part)
        return;
    uint32_t full = hash_upto(seq, first + n);
    while (seq->chain.n_registered < full && !seq->chain.ends)
        if (is_awaited(cache, seq->blocks[seq->chain.n_registered]))
            seq->chain.ends = true;
        else
            register_next(cache, seq);
}

/* ---- counters
 * --------------------------------------------------------------------------------------------------------- */

struct prefix_cache_counters prefix_cache_counters(const struct prefix_cache *cache)
{
    struct prefix_cache_counters out = { .hit = cache->hits, .miss = cache->misses, .hit_tokens = cache->hit_tokens };
    if (!cache->registry)
        return out;
    const struct registry_counters *blocks = block_registry_counters(cache->registry);
    out.registered = blocks->stored;
    out.shared = blocks->shared;
    out.refused = blocks->refused;
    out.mismatch = blocks->mismatches;
    out.evicted = blocks->evicted - cache->forgotten;
    out.forgotten = cache->forgotten;
    return out;
}
