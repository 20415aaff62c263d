/* pulling.h - fetching KV that a sequence lacks, where that is faster than computing it.
 * A sequence that has its blocks and found a part of its beginning may get more of it from one holder: the manager of
 * this host, or a worker or manager that its request names (Holding). Which one, and whether at all, is
 * pull_cost.h's to say, from what pulls and steps took of late. What comes is verified, registered like what is
 * computed here, and counts from the first block on; the rest is computed. A pull ends by its predicted time and
 * pull_timeout_us, whatever its holder does.
 * Its last blocks come by layer (overlap.h says how many), and the sequence may be in a step already while they do
 * (overlap.h says when), behind a gate that opens with them. The last layer opens when all blocks are verified: no
 * sooner has the step a result, and none that counts where the pull ends short. Until the step is over no block of the
 * sequence is registered; what is verified is handed over all the same.
 * Loop thread only. */
#ifndef BATON_WORKER_PULLING_H
#define BATON_WORKER_PULLING_H

#include "engine/engine.h"
#include "kvbm/borrower.h"
#include "proto/baton.pb-c.h"
#include "worker/sequence.h"
#include "worker/sharing.h"

struct worker;
struct worker_peer;

#define MAX_HOLDINGS 8u /* of one request; more are not looked at */

/* Who is said to have how much of a request's beginning. */
struct holding {
    char id[64];
    uint32_t tokens;
    enum kv_tier tier;
};

/* Whom a pull is from, for metrics: label. */
#define HOLDER_KINDS(X)                                                                                                \
    X(manager) /* of this host */                                                                                      \
    X(worker)  /* of this host */                                                                                      \
    X(remote)  /* of another host */

enum holder_kind {
#define X(name) HOLDER_##name,
    HOLDER_KINDS(X)
#undef X
        HOLDER_KIND_COUNT
};
const char *holder_kind_name(enum holder_kind kind);

/* How a pull ended: label. */
#define PULL_OUTCOMES(X)                                                                                               \
    X(whole)     /* all that was asked for came */                                                                     \
    X(partial)   /* the holder had less */                                                                             \
    X(empty)     /* it had nothing */                                                                                  \
    X(timeout)   /* its deadline came */                                                                               \
    X(lost)      /* the holder, or the way to its blocks, was lost */                                                  \
    X(damaged)   /* a checksum was wrong */                                                                            \
    X(stale)     /* a block was reused while it was taken */                                                           \
    X(cancelled) /* its request ended */                                                                               \
    X(refused)   /* the holder was busy, or too many takes were under way */

enum pull_outcome {
#define X(name) PULL_##name,
    PULL_OUTCOMES(X)
#undef X
        PULL_OUTCOME_COUNT
};
const char *pull_outcome_name(enum pull_outcome outcome);

struct pull_counters {
    uint64_t pulls[HOLDER_KIND_COUNT][PULL_OUTCOME_COUNT];
    uint64_t blocks[HOLDER_KIND_COUNT], bytes[HOLDER_KIND_COUNT]; /* verified; taken */
    uint64_t us[HOLDER_KIND_COUNT];                               /* of all pulls, and of those that brought blocks: */
    uint64_t measured_us, predicted_us, error_us;                 /* error: absolute difference of the two before */
    uint64_t tokens[KV_TIER_COUNT];                               /* that came, by where they lay */
    uint64_t damaged;                                             /* blocks that arrived damaged */
};

/* Of a sequence's owner: zeroed, then filled in by pulling_hold and pulling_begin. */
struct pulling {
    struct holding holdings[MAX_HOLDINGS];
    uint32_t n_holdings;
    struct pull *pull; /* NULL: none is under way; until then nobody else may have the sequence's blocks */
    uint32_t tokens;   /* that came, all in all */
    uint64_t us;       /* that pulls took */
    /* internal */
    struct worker *worker;
    struct sequence *seq;
    const struct pulling_ops *ops;
    uint64_t holder, begun_us, predicted_us;
    enum holder_kind kind;
    enum kv_tier tier;
    uint32_t first, n;            /* blocks asked for */
    uint32_t run, verified, kept; /* of these: what the holder has, what is right, what is registered */
    uint64_t deadline_us;
    bool is_handed_over;
    struct layer_gate gate; /* while seq->awaits is this */
    double arrived;         /* part of the pull */
    uint64_t ahead_us;      /* since when the sequence is in the batch without a step; 0: it has one, or is not */
};

/* How the owner hears of it. */
struct pulling_ops {
    /* The KV of tokens [first, first + n) is here and verified; by_tier[i]: where block i of them lay. Where the
     * sequence awaits the pull it stands behind them already: `computed` is not the owner's then. */
    void (*came)(struct pulling *pulling, uint32_t first, uint32_t n, const enum kv_tier by_tier[]);
    /* All that is missing of [0, upto) is on its way. True: the sequence is in the batch now. */
    bool (*ahead)(struct pulling *pulling, uint32_t upto);
    /* The pull is over, pulling->pull NULL, and so is a step that computed behind it. */
    void (*ended)(struct pulling *pulling);
};

/* Keeps what the request says of holders. */
void pulling_hold(struct pulling *pulling, Baton__Holding *const *have, size_t n);
/* One more, or more of the same; not kept where there is no room. */
void pulling_hold_one(struct pulling *pulling, const char *id, uint32_t tokens, enum kv_tier tier);

struct pulling_request {
    struct worker *worker;
    struct sequence *seq; /* has blocks for its tokens, of which `held` are there: whole blocks */
    uint32_t held;
    struct request_key key;
    uint32_t attempt;
    uint64_t deadline_us;
    const struct trace_context *trace;
    bool is_handed_over; /* what comes goes on to another worker next */
    const struct pulling_ops *ops;
};

/* True: a pull is under way. ops are not called from within. */
bool pulling_begin(struct pulling *pulling, const struct pulling_request *request);
/* The owner has no use for it any more. True: ended has been called, and may have freed the owner. */
void pulling_cancel(struct pulling *pulling);
/* While a pull is under way: what is before this token is fetched, as far as the holder has said. 0: none is. */
uint32_t pulling_upto(const struct pulling *pulling);

/* Of a sequence that awaits it. Rows that its first step has at most, alone: */
uint32_t pulling_first_rows(const struct pulling *pulling);
/* Whether a step with so many of them may begin now: */
bool pulling_lets_begin(const struct pulling *pulling, uint32_t rows);
/* One begins: with this gate. */
struct layer_gate *pulling_step_begins(struct pulling *pulling, uint32_t rows);
/* It is over. False: its rows are void. ops->ended may have been called. */
MUST_CHECK bool pulling_step_ended(struct pulling *pulling, const struct step_seq *ran);

#endif
