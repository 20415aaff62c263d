/* whole_checksum.h - the checksum of a whole KV block: XXH3-64 over its layers' XXH3-64 values as little-endian u64
 * (transfer.h). It is made once, where the block is completed, on the transfer thread, and goes with the block from
 * then on: it is compared wherever the bytes have moved. Loop thread only. */
#ifndef BATON_KVBM_WHOLE_CHECKSUM_H
#define BATON_KVBM_WHOLE_CHECKSUM_H

#include "kvbm/block_pool.h"
#include "kvbm/exchange.h"

/* Of block i, when sums are those that a take of all layers gave: [n_layers][n_spans]. */
uint64_t whole_checksum_of(const uint64_t *sums, uint32_t n_layers, uint32_t n_spans, uint32_t i);

/* Of a block's bytes, for who has them but no take. Any thread. */
uint64_t whole_checksum_of_bytes(const struct transfer_geometry *geometry, const uint8_t *block);

struct whole_checksums;

struct whole_checksums_options {
    const struct exchange_io *io; /* borrowed */
    struct block_pool *pool;      /* borrowed; outlives it */
    struct transfer_geometry geometry;
    uint32_t max_takes; /* under way at one time */
    uint64_t take_us;   /* for one of them */
    /* The checksum of a complete block is known; it is still what it was. May be NULL. */
    void (*done)(void *ctx, block_id block, uint64_t checksum);
    /* A take has ended: its blocks are held no longer. May be NULL. */
    void (*released)(void *ctx);
    void *ctx;
};

MUST_CHECK status whole_checksums_create(const struct whole_checksums_options *options, struct whole_checksums **out);
/* The transfer thread must have ended. Releases the blocks of takes that it did not end. */
void whole_checksums_destroy(struct whole_checksums **sums);

/* Has the checksums of COMPLETE (or registered) blocks made; they are held for a transfer meanwhile. ST_LIMIT:
 * max_takes are under way, or the transfer thread takes no more; ST_NO_MEMORY: then their checksums stay unknown. */
MUST_CHECK status whole_checksums_make(struct whole_checksums *sums, const block_id blocks[], uint32_t n);
/* One that came with the block from elsewhere and was verified. */
void whole_checksums_set(struct whole_checksums *sums, block_id block, uint64_t checksum);
/* False: not known, or of an earlier life of the block. */
bool whole_checksums_get(const struct whole_checksums *sums, block_id block, uint64_t *out);
uint32_t whole_checksums_under_way(const struct whole_checksums *sums);

#endif
