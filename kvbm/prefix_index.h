/* prefix_index.h - which blocks of one pool hold the beginning of a sequence.
 * A registered block is found by its chained hash. Before it is used, its token ids, the seed of its chain and its
 * parent are compared: the parent must be the block that was verified just before, which the pool does not let go
 * while its children are there. So a hit is right even where hashes collide, and chains of two seeds (two salts, two
 * models) share nothing. Owned by the loop thread of the pool; all memory is taken at create: 40 + 4 * block_tokens
 * bytes a block, and 8 of the table. */
#ifndef BATON_KVBM_PREFIX_INDEX_H
#define BATON_KVBM_PREFIX_INDEX_H

#include <stdint.h>

#include "kvbm/block_hash.h"
#include "kvbm/block_pool.h"

struct prefix_index;

struct prefix_index_options {
    struct block_pool *pool; /* borrowed; has a policy, and is destroyed after the index, without a call between */
    uint32_t block_tokens;   /* the pool's */
};

MUST_CHECK status prefix_index_create(const struct prefix_index_options *options, struct prefix_index **out);
void prefix_index_destroy(struct prefix_index **index);

/* The beginning of a sequence: full blocks only. */
struct prefix_query {
    struct block_hash seed;
    const struct block_hash *hashes; /* [n_blocks] */
    const uint32_t *tokens;          /* [n_blocks * block_tokens] */
    uint32_t n_blocks;
};

/* How many blocks of the leading run are here. Nothing is pinned, nothing counts as used. */
uint32_t prefix_index_peek(struct prefix_index *index, const struct prefix_query *query);
/* The leading run; each block comes out held for a sequence, so that nothing evicts it until the sequence to which it
 * is attached, or the caller who changes his mind, releases it. */
uint32_t prefix_index_match(struct prefix_index *index, const struct prefix_query *query, block_id out[]);

struct prefix_block {
    struct block_hash seed, hash;
    const uint32_t *tokens; /* [block_tokens] */
    block_id parent;        /* the block before it in its sequence, held by that; BLOCK_NONE for the first one */
};

enum prefix_outcome {
    PREFIX_STORED,  /* the block is REGISTERED */
    PREFIX_SHARED,  /* another one had been registered with the same content: it is held instead, this one released */
    PREFIX_REFUSED, /* the parent is not registered, or a block with other content has the hash; it stays COMPLETE */
};

/* Registers a COMPLETE block that a sequence holds. Where two sequences computed the same at once the second goes on
 * with the first one's: *block is replaced (a lease keeps its own hold on the old one). */
enum prefix_outcome prefix_index_register(struct prefix_index *index, const struct prefix_block *what, block_id *block);

/* Of a registered block, also while it enters EVICTING. */
struct block_hash prefix_index_hash(const struct prefix_index *index, block_id block);

#define PREFIX_COUNTERS(X)                                                                                             \
    X(hits, "blocks found by match")                                                                                   \
    X(misses, "blocks asked for and not found by match")                                                               \
    X(mismatches, "blocks whose hash was right and content was not")                                                   \
    X(stored, "blocks registered")                                                                                     \
    X(shared, "blocks computed twice and kept once")                                                                   \
    X(refused, "complete blocks that could not be registered")                                                         \
    X(evicted, "blocks that made room for others")

struct prefix_counters {
#define X(name, help) uint64_t name;
    PREFIX_COUNTERS(X)
#undef X
};

const struct prefix_counters *prefix_index_counters(const struct prefix_index *index);

#endif
