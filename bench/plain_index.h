/* plain_index.h - what the prefix index is compared with: a hash map with chains, a node for each block with the list
 * of its owners, and a lookup that goes from block to block. */
#ifndef BATON_BENCH_PLAIN_INDEX_H
#define BATON_BENCH_PLAIN_INDEX_H

#include "common/status.h"
#include "kvbm/block_hash.h"

struct plain_index;

MUST_CHECK status plain_index_create(uint32_t n_buckets, struct plain_index **out);
void plain_index_destroy(struct plain_index **index);
/* Aborts when memory runs out. */
void plain_index_store(struct plain_index *index, uint32_t worker, const struct block_hash hashes[], uint32_t n);
void plain_index_remove(struct plain_index *index, uint32_t worker, const struct block_hash hashes[], uint32_t n);
/* Leading blocks of the chain at each of n_workers; returns how many blocks were looked at. */
uint32_t plain_index_lookup(const struct plain_index *index, const struct block_hash hashes[], uint32_t n,
                            uint32_t leading[], uint32_t n_workers);
/* Bytes of nodes and table, without the allocator's own. */
uint64_t plain_index_bytes(const struct plain_index *index);

#endif
