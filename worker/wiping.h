/* wiping.h - zeroes the KV of a salt, or all, in a worker's pool, and reads that back.
 * It knows of each block which salts its bytes may be of: that of the sequence that took it last and, until every slot
 * is filled, those of the lives before. A wipe marks the blocks whose bytes it covers when it begins. Those that are
 * free, or as soon as they are, get a new generation and zeros, some bytes at a time; one that is taken again before
 * its turn is left to its new life, which writes over all of it or gives it back. A deadline ends the call, not the
 * work: what was marked is zeroed when its last owner lets go. Loop thread only; all memory is taken at create. */
#ifndef BATON_WORKER_WIPING_H
#define BATON_WORKER_WIPING_H

#include <stdbool.h>

#include "common/timers.h"
#include "kvbm/block_hash.h"
#include "kvbm/block_pool.h"

struct wiping;

#define WIPING_TURN_BYTES ((size_t)4 << 20) /* zeroed and read back in one turn of the loop, or one block */
#define WIPING_PAUSE_US   500u              /* between two such turns */

struct wiping_options {
    struct block_pool *pool; /* borrowed; outlives it */
    struct timers *timers;   /* borrowed */
    uint8_t *memory;         /* [n_blocks][block_bytes]; borrowed */
    size_t block_bytes;
    /* Zeroes some of the KV outside the pool, of all salts; begins: for a new wipe. ST_AGAIN: there is more;
     * ST_CORRUPT: it does not take zeros. NULL: there is none. */
    status (*erase_beside)(void *ctx, bool begins);
    void *ctx;
};

MUST_CHECK status wiping_create(const struct wiping_options *options, struct wiping **out);
/* A wipe that is going on is not told its end. */
void wiping_destroy(struct wiping **wiping);

/* From the pool: a block entered a state. */
void wiping_entered(struct wiping *wiping, block_id block, enum block_state state);
/* From who takes: these are a sequence's of the salt now. */
void wiping_taken(struct wiping *wiping, const block_id blocks[], uint32_t n, struct block_hash salt);
/* What the block's sequence computed is to be zeroed, so nobody may find it. */
bool wiping_awaits(const struct wiping *wiping, block_id block);

struct wiped {
    uint32_t blocks_zeroed; /* and read back as zeros */
    uint32_t blocks_left;   /* not yet: in use, or not reached by the deadline */
    uint32_t blocks_bad;    /* that do not take zeros */
    uint64_t bytes_zeroed;
};

struct wipe_call {
    const struct block_hash *salt; /* NULL: all; borrowed during the call */
    uint64_t deadline_us;
    /* From a timer. ST_OK: no byte of what was covered is left; ST_TIMEOUT: blocks_left, or some outside the pool;
     * ST_CORRUPT: blocks_bad, or likewise. */
    void (*done)(void *ctx, status st, const struct wiped *wiped);
    void *ctx;
};

/* Nothing of it can be found any more (prefix_cache_wipe). ST_AGAIN: another wipe is going on. */
MUST_CHECK status wiping_begin(struct wiping *wiping, const struct wipe_call *call);
bool wiping_is_active(const struct wiping *wiping);

#define WIPING_COUNTERS(X)                                                                                             \
    X(begun, "wipes begun")                                                                                            \
    X(zeroed, "blocks zeroed and read back")                                                                           \
    X(bad, "blocks that did not read back as zeros")                                                                   \
    X(late, "wipes that ended before all of theirs was zeroed")

struct wiping_counters {
#define X(name, help) uint64_t name;
    WIPING_COUNTERS(X)
#undef X
};
const struct wiping_counters *wiping_counters(const struct wiping *wiping);

#endif
