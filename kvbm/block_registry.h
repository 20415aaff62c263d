/* block_registry.h - which blocks of one pool hold the beginning of a sequence.
 * A registered block is found by its chained hash. Before it is used, its token ids, the seed of its chain and its
 * parent are compared: the parent must be the block that was verified just before, which the pool does not let go
 * while its children are there. So a hit is right even where hashes collide, and chains of two seeds (two salts, two
 * models) share nothing. Owned by the loop thread of the pool; all memory is taken at create: 40 + 4 * block_tokens
 * bytes a block, and 8 of the table. */
#ifndef BATON_KVBM_BLOCK_REGISTRY_H
#define BATON_KVBM_BLOCK_REGISTRY_H

#include <stdint.h>

#include "kvbm/block_hash.h"
#include "kvbm/block_pool.h"

struct block_registry;

struct block_registry_options {
    struct block_pool *pool; /* borrowed; has a policy, and is destroyed after the index, without a call between */
    uint32_t block_tokens;   /* the pool's */
};

MUST_CHECK status block_registry_create(const struct block_registry_options *options, struct block_registry **out);
void block_registry_destroy(struct block_registry **index);

/* The beginning of a sequence: full blocks only. */
struct registry_query {
    struct block_hash seed;
    const struct block_hash *hashes; /* [n_blocks] */
    const uint32_t *tokens;          /* [n_blocks * block_tokens] */
    uint32_t n_blocks;
};

/* How many blocks of the leading run are here. Nothing is pinned, nothing counts as used. */
uint32_t block_registry_peek(struct block_registry *index, const struct registry_query *query);
/* The leading run; each block comes out held for a sequence, so that nothing evicts it until the sequence to which it
 * is attached, or the caller who changes his mind, releases it. It counts as used when the caller says so. */
uint32_t block_registry_pin(struct block_registry *index, const struct registry_query *query, block_id out[]);
/* n blocks that pin gave are used, of `asked`. */
void block_registry_used(struct block_registry *index, const block_id blocks[], uint32_t n, uint32_t asked);
/* Both. */
uint32_t block_registry_match(struct block_registry *index, const struct registry_query *query, block_id out[]);

struct registry_block {
    struct block_hash seed, hash;
    const uint32_t *tokens; /* [block_tokens] */
    block_id parent;        /* the block before it in its sequence, held by that; BLOCK_NONE for the first one */
};

enum registry_outcome {
    REGISTRY_STORED,  /* the block is REGISTERED */
    REGISTRY_SHARED,  /* another one had been registered with the same content: it is held instead, this one released */
    REGISTRY_REFUSED, /* the parent is not registered, or a block with other content has the hash; it stays COMPLETE */
};

/* Registers a COMPLETE block that a sequence holds. Where two sequences computed the same at once the second goes on
 * with the first one's: *block is replaced (a lease keeps its own hold on the old one). */
enum registry_outcome block_registry_register(struct block_registry *index, const struct registry_block *what,
                                              block_id *block);

/* Of a registered block, also while it is EVICTING. Its tokens are borrowed until then. */
struct registry_block block_registry_at(const struct block_registry *index, block_id block);
/* Zeroes the token ids of all blocks that are not registered. */
void block_registry_erase_unused(struct block_registry *index);
/* Told of each block that is EVICTING. */
void block_registry_on_evicting(struct block_registry *index, void (*evicting)(void *ctx, block_id block), void *ctx);

#define REGISTRY_COUNTERS(X)                                                                                           \
    X(hits, "blocks found by match")                                                                                   \
    X(misses, "blocks asked for and not found by match")                                                               \
    X(mismatches, "blocks whose hash was right and content was not")                                                   \
    X(stored, "blocks registered")                                                                                     \
    X(shared, "blocks computed twice and kept once")                                                                   \
    X(refused, "complete blocks that could not be registered")                                                         \
    X(evicted, "blocks that made room for others")

struct registry_counters {
#define X(name, help) uint64_t name;
    REGISTRY_COUNTERS(X)
#undef X
};

const struct registry_counters *block_registry_counters(const struct block_registry *index);

#endif
