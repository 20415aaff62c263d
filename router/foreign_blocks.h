/* foreign_blocks.h - the blocks of one publisher that is not ours (vLLM, SGLang), under our hashes.
 * Their names say nothing to us, so each block that they store is hashed again from its token ids, behind its parent's
 * hash; a map from their name to ours makes children and removals possible. Their blocks may be of another size, as
 * long as one size divides the other: a larger one makes several of ours, of smaller ones as many as make one of ours.
 * The map is bounded: when it is full the block that has been in it longest goes, and is told as removed, so that
 * nothing is told as stored that could not be taken back. Left out and counted are blocks without token ids, behind a
 * parent that is not in the map, with keys beside the tokens (images, salts), or of a further group of layers. One
 * thread. */
#ifndef BATON_ROUTER_FOREIGN_BLOCKS_H
#define BATON_ROUTER_FOREIGN_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "kvbm/block_hash.h"
#include "proto/kv_events.h"

#define FOREIGN_MAX_RATIO 16u /* of their block to ours */

struct foreign_blocks;

struct foreign_blocks_options {
    uint32_t block_tokens; /* of ours */
    size_t max_bytes;
    /* What stands before a chain's first block for this event's model and adapter; false: we do not know them. */
    bool (*seed)(void *ctx, const struct kv_event *event, struct block_hash *out);
    /* The hash of a block of ours behind its parent. */
    void (*chain)(void *ctx, const struct block_hash *parent, const uint32_t tokens[], uint32_t n,
                  struct block_hash *out);
    /* What the publisher has now, or has not any more. */
    void (*stored)(void *ctx, enum kv_tier tier, const struct block_hash hashes[], uint32_t n);
    void (*removed)(void *ctx, enum kv_tier tier, const struct block_hash hashes[], uint32_t n);
    void *ctx;
};

MUST_CHECK status foreign_blocks_create(const struct foreign_blocks_options *options, struct foreign_blocks **out);
void foreign_blocks_destroy(struct foreign_blocks **blocks);

/* BlockStored and BlockRemoved. ST_LIMIT: the size of their blocks and ours do not divide one another, or max_bytes is
 * not enough for one block; ST_NO_MEMORY. Of AllBlocksCleared the owner is to empty its index by itself and call
 * foreign_blocks_clear, which tells nothing. */
MUST_CHECK status foreign_blocks_apply(struct foreign_blocks *blocks, const struct kv_event *event);
void foreign_blocks_clear(struct foreign_blocks *blocks);

struct foreign_blocks_stats {
    uint64_t mapped, evicted;
    uint64_t no_tokens, no_parent, not_mappable; /* blocks left out */
    uint64_t unknown;                            /* removals of blocks that are not in the map */
    uint32_t blocks, max_blocks;                 /* of theirs; max_blocks is 0 before the first event */
};
void foreign_blocks_stats(const struct foreign_blocks *blocks, struct foreign_blocks_stats *out);

#endif
