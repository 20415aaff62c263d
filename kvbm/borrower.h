/* borrower.h - fetches a run of KV blocks from one holder: a KV block manager of this host or another, or a worker.
 * A pull asks (Find), takes what is announced into blocks that the caller reserved, reads generations again, verifies
 * each block's checksum, and ends the loan (Pulled). Blocks come one batch behind the other, so that what came first
 * can be used first; the last of the run may come by layer instead, the first layer of all of them before the second
 * of any, so that what is missing can be computed behind them meanwhile. Whatever goes wrong makes the run shorter,
 * never wrong: the blocks that were verified before it stay good. Each pull ends exactly once, by its deadline at the
 * latest (and by answer_us when the holder says nothing), plus the moment in which the transfer thread gives up its
 * takes. Loop thread only. */
#ifndef BATON_KVBM_BORROWER_H
#define BATON_KVBM_BORROWER_H

#include "common/timers.h"
#include "kvbm/block_pool.h"
#include "kvbm/exchange.h"
#include "proto/kv_events.h"

struct borrower;
struct pull;

struct borrower_options {
    const struct exchange_io *io; /* borrowed */
    struct timers *timers;        /* borrowed; on the same clock as io->now */
    char kv_format[128];
    struct transfer_geometry geometry;
    uint32_t max_pulls;        /* at one time */
    uint32_t max_blocks;       /* of one pull */
    uint32_t batch_blocks;     /* taken together: how many are lost at most when one of them was reused meanwhile */
    uint32_t takes;            /* of one pull at one time */
    uint64_t answer_us;        /* for the first Found to come */
    uint32_t take_bytes;       /* layers are taken together until they are so many: 1 MiB is worth a take */
    uint32_t layer_take_bytes; /* the same where blocks come by layer: first blocks are taken together, then layers */
};

/* How a pull went. */
struct pull_result {
    status st;         /* OK: the whole run that was announced is here. Otherwise why it is shorter: TIMEOUT, CANCELLED,
                          CLOSED (peer or way lost), STALE (reused meanwhile), CORRUPT (a checksum, or an answer that made
                          no sense), AGAIN (the holder is busy), UNSUPPORTED (its format is another), LIMIT (takes) */
    uint32_t n_blocks; /* verified, from the first one on; none may be normal */
    uint32_t announced;              /* how many the holder said it had */
    uint32_t damaged;                /* of those taken, did not come as their checksum says */
    uint32_t by_tier[KV_TIER_COUNT]; /* of n_blocks, where they lay at the holder */
    uint64_t bytes;                  /* taken, of all blocks */
    uint64_t answer_us;              /* from Find to the first Found; 0: none came */
    uint64_t take_us;                /* from the first take to the last one's end */
};

struct pull_options {
    void *holder; /* peer */
    struct request_key key;
    uint32_t attempt;
    const struct trace_context *trace; /* may be NULL; copied */
    struct block_seed_parts parts;
    const uint32_t *tokens; /* [(first + n_blocks) * block_tokens], from the sequence's beginning; read in the call */
    uint32_t first;         /* the block of the sequence that is wanted first */
    uint32_t n_blocks;
    const block_id *blocks; /* [n_blocks], of the pool that takes write to: reserved, and nobody else's until ended */
    uint64_t deadline_us;
    double tokens_per_s; /* how fast they would be computed, so that a manager can tell whether to ask another; 0: not
                            known */
    bool local_only;     /* only what the holder itself has */
    uint32_t n_by_layer; /* so many blocks at the end of the run come by layer; all of them are lost where one is */
    /* The holder says how many blocks, from the first on, are there or will be: again when they become fewer.
     * May be NULL. */
    void (*announced)(void *arg, uint32_t run);
    /* Layers [0, layers) of the whole run are here, more each time and never all, with `arrived` of its bytes (0 to 1).
     * They have not been verified: what is computed from them has to be dropped when the pull ends with fewer blocks.
     * Told where blocks come by layer. May be NULL. */
    void (*layers)(void *arg, uint32_t layers, double arrived);
    /* Blocks [first, first + n) are here and verified; first counts from the pull's first block. In order. May be
     * NULL. */
    void (*verified)(void *arg, uint32_t first, uint32_t n);
    /* Nothing writes into the blocks any more, and the pull is gone. Not called from within borrower_pull. */
    void (*ended)(void *arg, const struct pull_result *result);
    void *arg;
};

MUST_CHECK status borrower_create(const struct borrower_options *options, struct borrower **out);
/* Nobody is told. The transfer thread must have ended: takes are not waited for. */
void borrower_destroy(struct borrower **borrower);

/* ST_LIMIT: too many pulls or blocks, or the link takes no more; ST_CLOSED: no way to the holder's blocks;
 * ST_NO_MEMORY; ST_TIMEOUT: the deadline has passed. */
MUST_CHECK status borrower_pull(struct borrower *borrower, const struct pull_options *options, struct pull **out);
/* Ends it with ST_CANCELLED as soon as its takes have stopped: ended may be called in here, or later. What has been
 * verified by then counts. */
void borrower_cancel(struct pull *pull);

/* Of a verified block; i counts from the pull's first block. For calls from within `verified`. */
struct pulled_block {
    uint64_t checksum;
    enum kv_tier tier; /* where it lay at the holder */
};
struct pulled_block borrower_pulled(const struct pull *pull, uint32_t i);

/* True when the frame was one for a borrower (Found). */
bool borrower_on_message(struct borrower *borrower, void *peer, const struct frame *frame);
void borrower_on_peer_lost(struct borrower *borrower, void *peer);
uint32_t borrower_open_pulls(const struct borrower *borrower);

#define BORROWER_COUNTERS(X)                                                                                           \
    X(pulls, "pulls begun")                                                                                            \
    X(whole, "pulls that brought all that was asked for")                                                              \
    X(partial, "pulls that brought a shorter run")                                                                     \
    X(empty, "pulls that brought nothing")                                                                             \
    X(blocks, "blocks pulled and verified")                                                                            \
    X(bytes, "bytes taken")                                                                                            \
    X(damaged, "blocks whose checksum was wrong")                                                                      \
    X(stale, "batches that were reused while they were taken")                                                         \
    X(timeouts, "pulls that came to their deadline")                                                                   \
    X(lost, "pulls whose holder, or the way to it, was lost")                                                          \
    X(cancelled, "pulls cancelled")                                                                                    \
    X(late, "answers to pulls that were over")                                                                         \
    X(malformed, "answers that made no sense")

struct borrower_counters {
#define X(name, help) uint64_t name;
    BORROWER_COUNTERS(X)
#undef X
};
const struct borrower_counters *borrower_counters(const struct borrower *borrower);

#endif
