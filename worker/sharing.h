/* sharing.h - a worker's KV blocks beyond its own requests, and others' for its requests: the four cores of
 * kvbm/exchange.h in a worker. What is registered is checksummed on the transfer thread, in the order of registration
 * and some blocks at a time; from then on it is lent to whoever looks for it, and offered to the manager of this host.
 * Nothing waits for the manager. Loop thread only. */
#ifndef BATON_WORKER_SHARING_H
#define BATON_WORKER_SHARING_H

#include "kvbm/borrower.h"
#include "kvbm/lender.h"
#include "kvbm/offers.h"
#include "kvbm/pull_cost.h"
#include "worker/prefix_cache.h"

struct sharing;

#define SHARING_PULL_BATCH 16u /* blocks that a pull takes together, where they do not come by layer */

struct sharing_options {
    const struct worker_io *io; /* borrowed */
    struct timers *timers;      /* borrowed */
    struct block_pool *pool;    /* borrowed; outlives it */
    struct prefix_cache *cache; /* borrowed; enabled; outlives it */
    struct transfer_geometry geometry;
    const char *kv_format; /* as the worker publishes it */
    uint64_t incarnation;
    uint32_t max_tokens;      /* of a sequence */
    uint64_t pull_timeout_us; /* for a holder's first answer */
    uint64_t take_timeout_us; /* for checksums */
    uint32_t pull_take_bytes; /* that a pull takes together; 0: as many as are worth it */
    /* Blocks that were held are free: whoever waits for blocks may go on. From a timer. */
    void (*released)(void *ctx);
    void *ctx;
};

MUST_CHECK status sharing_create(const struct sharing_options *options, struct sharing **out);
/* The transfer thread must have ended. */
void sharing_destroy(struct sharing **sharing);

/* True when the frame was one for it. */
bool sharing_on_message(struct sharing *sharing, struct worker_peer *peer, const struct frame *frame,
                        uint64_t deadline_us);
void sharing_on_peer_lost(struct sharing *sharing, struct worker_peer *peer);
/* The manager of this host, as long as its link is up; NULL: none. */
void sharing_set_manager(struct sharing *sharing, struct worker_peer *manager);
struct worker_peer *sharing_manager(const struct sharing *sharing);
/* Has checksums made, and offers what has them. */
void sharing_pump(struct sharing *sharing);
/* Nothing is lent any more. */
void sharing_drain(struct sharing *sharing);
/* No block is lent, offered, pulled or checksummed, or waits for its turn. */
bool sharing_is_idle(const struct sharing *sharing);

/* A checksum that came with a COMPLETE block, and was verified. */
void sharing_know_checksum(struct sharing *sharing, block_id block, uint64_t checksum);
/* False: not known, or of an earlier life of the block. */
bool sharing_knows_checksum(const struct sharing *sharing, block_id block, uint64_t *out);

struct borrower *sharing_borrower(struct sharing *sharing);
struct pull_costs *sharing_costs(struct sharing *sharing);
/* A holder that did not answer is not asked again until then. */
void sharing_note_silent(struct sharing *sharing, uint64_t holder, uint64_t until_us);
bool sharing_is_silent(const struct sharing *sharing, uint64_t holder, uint64_t now_us);
const struct lender_counters *sharing_lender_counters(const struct sharing *sharing);
const struct offers_counters *sharing_offers_counters(const struct sharing *sharing);
uint32_t sharing_loans(const struct sharing *sharing);

/* Under way; of blocks that still wait for their turn nothing is held. */
struct sharing_exchanges {
    uint32_t pulls, offers, checksums;
};
struct sharing_exchanges sharing_exchanges(const struct sharing *sharing);
/* Blocks that a borrower got damaged, and that were damaged here. */
uint64_t sharing_damaged_here(const struct sharing *sharing);

#endif
