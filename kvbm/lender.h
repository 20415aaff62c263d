/* lender.h - lends KV blocks to whoever looks for them: the holder's side of Find, Found and Pulled (baton.proto).
 * A Find is answered at once with what lies ready, nothing included; what a source has to fetch first (from disk)
 * follows in order as it becomes ready. The blocks of one Find are one loan, named as loans.h has it by request,
 * attempt and leg: it ends with Pulled, a newer Find of its request by the same borrower, the request's deadline, the
 * borrower lost, or no ping answered for the lifetime. A Find that comes again gets the same answer again. Loop thread
 * only. */
#ifndef BATON_KVBM_LENDER_H
#define BATON_KVBM_LENDER_H

#include "common/timers.h"
#include "kvbm/exchange.h"
#include "proto/kv_events.h"

struct lender;

struct lent_block {
    uint32_t block; /* in the pool that borrowers map */
    uint64_t generation;
    uint64_t checksum; /* whole_checksum.h */
    enum kv_tier tier; /* where it lay when it was looked for */
};

/* One Find, as its source sees it. Made and freed by the lender; the source writes where it says so. */
struct lender_find {
    struct block_seed_parts parts; /* the salt is in here */
    struct block_hash seed;
    const struct block_hash *hashes; /* [n_blocks], of the chain from its beginning */
    const uint32_t *tokens;          /* [n_blocks * block_tokens] */
    uint32_t n_blocks;
    uint32_t first; /* the block of the chain from which on blocks are wanted */
    uint32_t max;   /* how many at most */
    uint64_t deadline_us;
    double tokens_per_s;       /* how fast the borrower would compute them; 0: it does not say */
    bool local_only;           /* it wants nothing that has to come from another holder */
    struct lent_block *blocks; /* source: [max], blocks first, first + 1... of the chain; each held until close */
    uint32_t n_ready;          /* source: of them */
    uint32_t run;              /* source: blocks that are ready or will be, at most max; only gets less */
    void *source;              /* source: its own */
};

/* Where blocks come from: a worker's registry (registry_source.h), a manager's store (store_source.h). */
struct lender_source {
    void *ctx;
    /* Looks for the leading run from block `first` on: fills in what is ready now, sets run, and goes for the rest. It
     * must not call lender_progress in here. Whatever is lent matched in tokens, seed and parents. */
    void (*open)(void *ctx, struct lender_find *find);
    /* Releases all blocks and gives up what is on its way: no lender_progress for this find after it. */
    void (*close)(void *ctx, struct lender_find *find);
    /* The borrower lives: what the source keeps for a time of its own is kept until then. May be NULL. */
    void (*renew)(void *ctx, struct lender_find *find, uint64_t until_us);
    /* A borrower got other bytes than the checksum says: look at your own. The block is held during the call. */
    void (*suspect)(void *ctx, const struct lender_find *find, uint32_t index);
};

struct lender_options {
    const struct exchange_io *io;       /* borrowed */
    const struct lender_source *source; /* borrowed */
    struct timers *timers;              /* borrowed; on the same clock as io->now */
    char kv_format[128];
    uint32_t block_tokens;
    uint32_t max_loans;   /* at one time; beyond, nothing is found */
    uint32_t max_blocks;  /* of one loan: a longer run is cut */
    uint32_t max_chain;   /* blocks of a chain that is asked for */
    uint64_t lifetime_us; /* of a loan whose borrower answers no ping */
};

MUST_CHECK status lender_create(const struct lender_options *options, struct lender **out);
/* Ends all loans; nobody is told. */
void lender_destroy(struct lender **lender);

/* True when the frame was one for a lender (Find, Pulled). */
bool lender_on_message(struct lender *lender, void *peer, const struct frame *frame, uint64_t deadline_us);
void lender_on_peer_lost(struct lender *lender, void *peer);
/* From the source: n_ready of this find has grown, or its run has got shorter. Not from within its open or close. */
void lender_progress(struct lender *lender, struct lender_find *find);
/* From the source: it holds nothing for this find any more, which ends the loan. Calls close. */
void lender_withdrawn(struct lender *lender, struct lender_find *find);
/* Draining: what is lent stays lent, and nothing more is found. */
void lender_drain(struct lender *lender);
uint32_t lender_open_loans(const struct lender *lender);

#define LENDER_COUNTERS(X)                                                                                             \
    X(finds, "Finds that opened a loan or found nothing")                                                              \
    X(found_blocks, "blocks lent")                                                                                     \
    X(nothing_found, "Finds answered with no block")                                                                   \
    X(pulled_blocks, "blocks that borrowers said they took")                                                           \
    X(repeated, "Finds that came again")                                                                               \
    X(stale, "Finds older than what is known of their request")                                                        \
    X(busy, "Finds refused because too many loans were open")                                                          \
    X(cut, "runs longer than a loan may be")                                                                           \
    X(other_format, "Finds of another kv_format")                                                                      \
    X(lost_blocks, "blocks announced that could not be read")                                                          \
    X(damaged, "blocks that did not arrive as their checksum says, as borrowers told")                                 \
    X(ended_by_time, "loans that ended without Pulled by time, or a newer one")                                        \
    X(ended_by_loss, "loans that ended because the borrower was lost")                                                 \
    X(malformed, "messages whose payload made no sense")

struct lender_counters {
#define X(name, help) uint64_t name;
    LENDER_COUNTERS(X)
#undef X
};
const struct lender_counters *lender_counters(const struct lender *lender);

#endif
