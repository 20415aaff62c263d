/* offers.h - offers the blocks that were computed here to the KV block manager of this host.
 * Blocks wait in a bounded queue, go in batches, and are lent (held for a transfer) from Offer until OfferTaken, for
 * the lifetime at most, or until the manager is lost. A bounded number of offers is under way; what the queue cannot
 * hold is not offered, and counted: nothing here waits for the manager, and it may be dead or frozen.
 * Loop thread only. */
#ifndef BATON_KVBM_OFFERS_H
#define BATON_KVBM_OFFERS_H

#include "common/timers.h"
#include "kvbm/block_pool.h"
#include "kvbm/exchange.h"

struct offers;

#define OFFER_MAX_BLOCKS 256u /* of one Offer */

struct offers_options {
    const struct exchange_io *io; /* borrowed */
    struct timers *timers;        /* borrowed; on the same clock as io->now */
    struct block_pool *pool;      /* borrowed; outlives it */
    char kv_format[128];
    uint32_t block_tokens;
    uint64_t incarnation;
    uint32_t max_queue;   /* blocks that wait */
    uint32_t max_chain;   /* blocks of a sequence: what lies behind is not offered */
    uint32_t batch;       /* blocks of one Offer, at most OFFER_MAX_BLOCKS */
    uint32_t max_offers;  /* under way */
    uint64_t linger_us;   /* how long a batch that is not full waits for more */
    uint64_t lifetime_us; /* of an offer */
    /* An offer has ended by time: its blocks are held no longer. May be NULL. */
    void (*released)(void *ctx);
    void *ctx;
};

/* Consecutive complete blocks of one sequence, with their checksums. They need no owner: what is used again before its
 * turn is not offered. */
struct offered_run {
    struct block_seed_parts parts;
    const uint32_t *tokens;    /* [(first + n) * block_tokens], from the sequence's beginning; copied */
    uint32_t first, n;         /* which blocks of the sequence */
    const block_id *blocks;    /* [n] */
    const uint64_t *checksums; /* [n] */
    const bool *shared;        /* [n]: more than one sequence used it. NULL: none */
};

MUST_CHECK status offers_create(const struct offers_options *options, struct offers **out);
/* Ends all loans. */
void offers_destroy(struct offers **offers);

/* The manager to offer to; NULL: none, and nothing is queued (what is queued is forgotten). */
void offers_set_manager(struct offers *offers, void *manager);
/* How many of the run, from its first block on, will be offered: fewer when the queue is full, none without a manager;
 * the rest is counted. A run that goes on where the last one in the queue ends joins it. */
uint32_t offers_add(struct offers *offers, const struct offered_run *run);

/* True when the frame was one of these (OfferTaken). */
bool offers_on_message(struct offers *offers, void *peer, const struct frame *frame);
/* Also when it is not the manager. */
void offers_on_peer_lost(struct offers *offers, void *peer);
uint32_t offers_under_way(const struct offers *offers);
uint32_t offers_waiting(const struct offers *offers); /* blocks in the queue */

#define OFFERS_COUNTERS(X)                                                                                             \
    X(offered, "blocks offered")                                                                                       \
    X(taken, "blocks that the manager took")                                                                           \
    X(present, "blocks that it had")                                                                                   \
    X(declined, "blocks that it did not want")                                                                         \
    X(refused, "blocks that it had no room or time for, or of another format")                                         \
    X(stale, "blocks reused before it had them")                                                                       \
    X(damaged, "blocks that did not arrive as their checksum says")                                                    \
    X(failed, "blocks whose taking failed")                                                                            \
    X(no_manager, "blocks not offered for want of a manager")                                                          \
    X(queue_full, "blocks not offered because too many waited")                                                        \
    X(gone, "blocks reused while they waited to be offered")                                                           \
    X(expired, "offers that ended by time")                                                                            \
    X(lost, "offers that ended because the manager was lost, or could not be sent")                                    \
    X(late, "answers to offers that were over")                                                                        \
    X(malformed, "answers that made no sense")

struct offers_counters {
#define X(name, help) uint64_t name;
    OFFERS_COUNTERS(X)
#undef X
};
const struct offers_counters *offers_counters(const struct offers *offers);

#endif
