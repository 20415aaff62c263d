/* prefix_cache.h - KV that outlives its request: the blocks of a worker under their hashes.
 * Every full block of a sequence that takes part is registered as soon as its KV is there, computed here or taken from
 * another worker, and a sequence that gets its blocks first gets those of its beginning that are here. What is
 * registered is never written again. Used by the worker's loop thread only; all memory but a sequence's own hashes is
 * taken at create. */
#ifndef BATON_WORKER_PREFIX_CACHE_H
#define BATON_WORKER_PREFIX_CACHE_H

#include "kvbm/block_registry.h"
#include "worker/io.h"
#include "worker/sequence.h"

struct prefix_cache;
struct wiping;

struct prefix_cache_options {
    struct block_pool *pool; /* borrowed; destroyed afterwards, without a call between */
    uint32_t block_tokens;   /* the pool's */
    bool enabled;            /* the pool has a policy; false: nothing is kept, nothing is found */
    uint64_t weights, tokenizer;
    const struct worker_io *io; /* borrowed: blocks_stored, blocks_removed */
    struct wiping *wiping;      /* borrowed: hears whose blocks are taken; NULL: nothing is ever wiped */
};

MUST_CHECK status prefix_cache_create(const struct prefix_cache_options *options, struct prefix_cache **out);
void prefix_cache_destroy(struct prefix_cache **cache);

/* From now on the sequence takes part, under its adapter and salt. Without memory for its hashes it does not. */
void prefix_cache_join(const struct prefix_cache *cache, struct sequence *seq);

/* How many tokens of the sequence's beginning are here: whole blocks, and not its last token, as the row of that must
 * be computed to sample from. */
uint32_t prefix_cache_peek(struct prefix_cache *cache, struct sequence *seq);

/* Takes blocks until n tokens fit and `spare` blocks stay free: all or none. The first ones of a sequence that holds
 * none are those of its beginning that are here, and *held becomes the tokens in them; the others come out in `state`.
 */
MUST_CHECK status prefix_cache_take(struct prefix_cache *cache, struct sequence *seq, uint32_t n, uint32_t spare,
                                    enum block_state state, uint32_t *held);

/* Takes blocks for a running sequence until n tokens fit: all or none. */
MUST_CHECK status prefix_cache_grow(struct prefix_cache *cache, struct sequence *seq, uint32_t n);

/* KV of [first, first + n) was written behind what was there: blocks that are full now can be found. A block whose
 * content another sequence registered first is replaced by that one in seq->blocks; no take that is under way may
 * write into it, and who lent it keeps a hold of its own. */
void prefix_cache_filled(struct prefix_cache *cache, struct sequence *seq, uint32_t first, uint32_t n);

/* All blocks that can be found, parents first. ST_NO_MEMORY before any. */
MUST_CHECK status prefix_cache_each(const struct prefix_cache *cache,
                                    void (*visit)(void *ctx, const struct block_stored *what), void *ctx);

/* Who else wants to know of blocks. */
struct prefix_cache_watch {
    void (*registered)(void *ctx, const struct sequence *seq, block_id block); /* by this sequence */
    void (*used)(void *ctx, const block_id blocks[], uint32_t n);              /* found for another one, in order */
    void *ctx;
};
void prefix_cache_watch(struct prefix_cache *cache, const struct prefix_cache_watch *watch);
struct block_registry *prefix_cache_registry(const struct prefix_cache *cache); /* NULL: nothing is kept */
/* What the hashes of a registered block's chain, or of a sequence's, begin with. */
struct block_seed_parts prefix_cache_parts(const struct prefix_cache *cache, block_id block);
struct block_seed_parts prefix_cache_parts_of(const struct prefix_cache *cache, const struct sequence *seq);
/* No longer finds the registered blocks that match, nor those behind them: free at once, or when their last owner goes.
 * Returns how many these are; UINT32_MAX: there was no memory to look. */
uint32_t prefix_cache_forget(struct prefix_cache *cache, bool (*matches)(void *ctx, block_id block), void *ctx);
/* The same of all blocks of a salt (NULL: all blocks); their token ids, and of what is in no use, are zeroed. */
uint32_t prefix_cache_wipe(struct prefix_cache *cache, const struct block_hash *salt);

/* Label of the metric, and what is counted. */
#define PREFIX_CACHE_COUNTERS(X)                                                                                       \
    X(hit, "sequences whose beginning was found")                                                                      \
    X(miss, "sequences that looked for their beginning in vain")                                                       \
    X(registered, "blocks that can be found")                                                                          \
    X(shared, "blocks computed twice and kept once")                                                                   \
    X(refused, "blocks that could not be registered, as another one has their hash")                                   \
    X(mismatch, "blocks whose hash was right and content was not")                                                     \
    X(evicted, "blocks that made room for others")                                                                     \
    X(forgotten, "blocks that were damaged or wiped, and those behind them")

struct prefix_cache_counters {
    uint64_t hit_tokens;
#define X(name, help) uint64_t name;
    PREFIX_CACHE_COUNTERS(X)
#undef X
};
struct prefix_cache_counters prefix_cache_counters(const struct prefix_cache *cache);

#endif
