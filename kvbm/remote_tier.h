/* remote_tier.h - tier 4: blocks that another host's manager has are fetched into this one's store.
 * Who has what follows from the other managers' KV events (peer_index.h). When a borrower wants more of a chain than
 * the store has, the manager is asked that has the most of it worth fetching, and only when the predicted pull
 * (pull_cost.h, from what earlier ones took) beats the borrower's own computing. What is missing goes into reserved
 * slots and is committed as it is verified, so that it lies in memory here from then on. A fetch belongs to nobody but
 * this tier: several Finds may wait for its blocks, the one that began it is not special, and it ends by a deadline of
 * its own, or when none of them waits any more. The other manager is asked for what it has itself only, so that nothing
 * goes in circles. A core like those of exchange.h. Loop thread only. */
#ifndef BATON_KVBM_REMOTE_TIER_H
#define BATON_KVBM_REMOTE_TIER_H

#include "kvbm/borrower.h"
#include "kvbm/lender.h"
#include "kvbm/peer_index.h"
#include "kvbm/pull_cost.h"
#include "kvbm/store.h"

struct remote_tier;

struct remote_tier_options {
    const struct exchange_io *io; /* borrowed */
    struct store *store;          /* borrowed */
    struct borrower *borrower;    /* borrowed; its slots are the store's */
    uint64_t format;              /* store_format_id */
    uint32_t block_tokens;
    uint64_t block_bytes;
    uint64_t incarnation;  /* of this process: names its Finds */
    uint64_t index_blocks; /* of others that are known of */
    uint32_t max_fetches;  /* at one time */
    uint32_t max_blocks;   /* of one */
    uint64_t timeout_us;   /* beyond what was predicted; who lets it pass is not asked for four times as long */
    /* Blocks were committed, or a fetch has ended: the store has something to do. */
    void (*changed)(void *ctx);
    void *ctx;
};

MUST_CHECK status remote_tier_create(const struct remote_tier_options *options, struct remote_tier **out);
/* Its fetches have ended, or the transfer thread has: then nobody is told. Before the borrower. */
void remote_tier_destroy(struct remote_tier **tier);

/* A manager of another host, as exchange_io knows it. *number: in the index. ST_LIMIT: PEER_INDEX_PEERS are known. */
MUST_CHECK status remote_tier_join(struct remote_tier *tier, void *peer, uint64_t incarnation, uint32_t *number);
/* Its fetches have ended (borrower_on_peer_lost). */
void remote_tier_leave(struct remote_tier *tier, uint32_t number);
struct peer_index *remote_tier_index(struct remote_tier *tier);

/* What would be fetched for a Find whose chain's first `have` blocks are here. n_blocks 0: nothing. */
struct remote_plan {
    uint32_t number, first, n_blocks;
    enum kv_tier tier;
    double predicted_us;
};
struct remote_plan remote_tier_plan(struct remote_tier *tier, const struct lender_find *find, uint32_t have);

/* Reserves slots and begins; the blocks before plan->first are in memory. The slots are what tickets await
 * (store_request.await_coming), from this turn of the loop on: fewer than planned where there is no room, none where
 * nothing came about. find is read in the call. */
void remote_tier_fetch(struct remote_tier *tier, const struct lender_find *find, const struct remote_plan *plan);
/* A ticket that awaited has been closed, or could not be opened: fetches for whose blocks nobody waits any more are
 * cancelled. What was verified stays. */
void remote_tier_released(struct remote_tier *tier);
uint32_t remote_tier_fetches(const struct remote_tier *tier);

/* How a fetch ended, for metrics. */
#define REMOTE_OUTCOMES(X)                                                                                             \
    X(whole)     /* all that was asked for came */                                                                     \
    X(partial)   /* the other manager had less */                                                                      \
    X(empty)     /* it had nothing */                                                                                  \
    X(timeout)   /* its deadline came */                                                                               \
    X(lost)      /* the other manager, or the way to its blocks, was lost */                                           \
    X(damaged)   /* a checksum was wrong */                                                                            \
    X(stale)     /* a block was reused while it was taken */                                                           \
    X(cancelled) /* nobody waited for it */                                                                            \
    X(refused)   /* the other manager was busy, or it could not be asked */

enum remote_outcome {
#define X(name) REMOTE_##name,
    REMOTE_OUTCOMES(X)
#undef X
        REMOTE_OUTCOME_COUNT
};
const char *remote_outcome_name(enum remote_outcome outcome);

/* Why nobody was asked, though the store had less than was wanted. */
#define REMOTE_REASONS(X)                                                                                              \
    X(absent)  /* nobody is known to have more */                                                                      \
    X(slower)  /* computing is predicted to be faster, or a fetch to come too late */                                  \
    X(busy)    /* as many fetches as may be */                                                                         \
    X(no_room) /* no slot, or none for its salt */

enum remote_reason {
#define X(name) REMOTE_##name,
    REMOTE_REASONS(X)
#undef X
        REMOTE_REASON_COUNT
};
const char *remote_reason_name(enum remote_reason reason);

struct remote_counters {
    uint64_t fetches[REMOTE_OUTCOME_COUNT], not_asked[REMOTE_REASON_COUNT];
    uint64_t blocks, bytes, us;                   /* verified; taken; of all fetches */
    uint64_t measured_us, predicted_us, error_us; /* of whole ones; error: the absolute differences */
};
const struct remote_counters *remote_counters(const struct remote_tier *tier);

#endif
