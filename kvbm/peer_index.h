/* peer_index.h - which of a few other managers have a block, as their KV events tell: hints for remote_tier.h.
 * A row of buckets of eight cells of 24 bytes (the hash's low half, who has it in memory, who on disk), all taken at
 * create and touched as blocks come. In a full bucket the cell that was written longest ago makes room: what is not
 * known costs a fetch that does not take place, and what is known wrongly a fetch that finds less. One thread. */
#ifndef BATON_KVBM_PEER_INDEX_H
#define BATON_KVBM_PEER_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "kvbm/block_hash.h"

struct peer_index;

#define PEER_INDEX_PEERS 64u /* their numbers are below */

/* Room for n_blocks and somewhat more. */
MUST_CHECK status peer_index_create(uint64_t n_blocks, struct peer_index **out);
void peer_index_destroy(struct peer_index **index);

void peer_index_add(struct peer_index *index, uint32_t peer, bool on_disk, struct block_hash hash);
void peer_index_remove(struct peer_index *index, uint32_t peer, bool on_disk, struct block_hash hash);
/* Nothing is known of this peer any more. Looks at every cell: some milliseconds for a million of them. */
void peer_index_clear(struct peer_index *index, uint32_t peer);

/* Who has a block: bit 1 << peer. */
struct peer_set {
    uint64_t in_memory, on_disk;
};
struct peer_set peer_index_find(const struct peer_index *index, struct block_hash hash);
uint64_t peer_index_blocks(const struct peer_index *index); /* known of somebody */

#endif
