/* prefix_index.h - which worker holds which KV block, and in which tier: chained block hash -> set of (worker, tier).
 *
 * A table of buckets, each a cache line with five blocks (64 bits of the hash and who holds it, owner_sets.h). A block
 * lies in one of two buckets, the emptier one when it was stored. When both are full one of their blocks is moved to
 * its other bucket, and when those are full, too, one is evicted: of the ten one held by a single owner before a shared
 * one, and of these the one stored longest ago. So all memory is taken at create, nothing is ever rehashed, and a block
 * costs at most two cache lines. A false match needs two blocks whose hashes share 64 bits; the index only advises, and
 * the worker compares the tokens.
 *
 * One thread writes; any number read at the same time and are never blocked. Each bucket has a version, odd while the
 * writer is in it: the writer stores the odd version, then (each store with release) keys and owners, then the even
 * version with release. A reader loads the version, keys, owners and the words of the set (each with acquire), and then
 * the version again. If a load saw anything of a later change, it synchronised with a store behind the odd version, so
 * the second load finds another version and the reader looks again. Sets are reused after the last bucket that referred
 * to them has changed, and a worker's place in sets after a whole turn of the sweep: a lookup during which one ended is
 * done again. A reader that met changes PREFIX_MAX_TRIES times (the writer may have been interrupted inside the bucket)
 * takes the block for absent rather than wait; a lookup that met as many turns finds nobody. */
#ifndef BATON_ROUTER_PREFIX_INDEX_H
#define BATON_ROUTER_PREFIX_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "kvbm/block_hash.h"
#include "proto/kv_events.h"

/* Of max_bytes: so many blocks are held for certain, if most have few sets of owners. */
#define PREFIX_BYTES_A_BLOCK 24
#define PREFIX_MAX_WORKERS   32000u
#define PREFIX_MAX_TRIES     32

struct prefix_index;

struct prefix_index_options {
    size_t max_bytes;     /* of everything, also what readers share */
    uint32_t max_workers; /* workers are numbered from 0 by the caller */
    bool huge_pages;      /* where there are any: faster when it is full, but a few blocks make all of it resident */
};

/* ST_INVALID: no workers, too many, or not even PREFIX_BYTES_A_BLOCK for each of them. */
MUST_CHECK status prefix_index_create(const struct prefix_index_options *options, struct prefix_index **out,
                                      struct error *err);
void prefix_index_destroy(struct prefix_index **index);

/* --- the writer --- */

void prefix_index_store(struct prefix_index *index, uint32_t worker, enum kv_tier tier,
                        const struct block_hash hashes[], uint32_t n);
void prefix_index_remove(struct prefix_index *index, uint32_t worker, enum kv_tier tier,
                         const struct block_hash hashes[], uint32_t n);
/* The worker left or forgot all: at once for readers, in whatever time is right for the memory (prefix_index_sweep).
 * The number may be used again at once. Sweeps what is left of earlier ones first when those have used up all room. */
void prefix_index_clear(struct prefix_index *index, uint32_t worker);
/* Looks through at most so many blocks for those of cleared workers. True: there is more to do. */
bool prefix_index_sweep(struct prefix_index *index, uint32_t max_blocks);

struct prefix_index_stats {
    uint64_t stored, removed, moved, evicted;
    uint64_t not_kept; /* owners that were not recorded, or blocks dropped, as there was no room for their set */
    uint64_t blocks, sets, bytes, max_blocks;
};
void prefix_index_stats(const struct prefix_index *index, struct prefix_index_stats *out);

/* --- readers --- */

/* A reader's own memory; one for each thread. */
struct prefix_reader;
MUST_CHECK status prefix_reader_create(const struct prefix_index *index, struct prefix_reader **out);
void prefix_reader_destroy(struct prefix_reader **reader);

/* How many leading blocks of a chain a worker holds: in its device, in device or host, ... */
struct prefix_match {
    uint32_t worker;
    uint32_t blocks[KV_TIER_COUNT]; /* ascending */
};

/* The workers with the longest beginnings of the chain, longest first by the last tier, at most max; returns how many.
 * Not every block is looked at. Where the workers evict from the end of chains, what they hold is a beginning of the
 * chain, and the owners can only become fewer along it: between two blocks with the same owners nothing changes, and
 * each change is found by halving. The last block of each beginning has been looked up, and the one behind it; blocks
 * between them may be missing at the worker when events came out of order, which the worker finds out. */
uint32_t prefix_index_lookup(const struct prefix_index *index, struct prefix_reader *reader,
                             const struct block_hash hashes[], uint32_t n, struct prefix_match out[], uint32_t max);
/* Blocks that the reader has looked at, since it was made. */
uint64_t prefix_reader_looked_at(const struct prefix_reader *reader);

#endif
