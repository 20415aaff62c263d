/* generation.h - one Generate on its way through a decode worker.
 *
 *             +-> ASKED -> CLAIMING -> RECEIVING --+
 *   Generate -+                                    +-> DECODING -> FINISHED -> ENDED
 *             +-> WAITING -> (PULLING ->) COMPUTING +
 *
 * A prefill worker that is lost, fails or sends what does not verify takes a
 * generation back to ASKED with a higher leg, or to WAITING when none is left.
 * A preempted sequence goes from DECODING (or COMPUTING) to WAITING. */
#ifndef BATON_WORKER_GENERATION_H
#define BATON_WORKER_GENERATION_H

#include "proto/kv_events.h"
#include "worker/core.h"

#define GENERATION_STATES(X) /* any state may go to ENDED */                                                           \
    X(NEW, TO(WAITING) | TO(ASKED))                                                                                    \
    X(WAITING, TO(PULLING) | TO(COMPUTING))              /* in the claim list, for blocks to compute in     */         \
    X(PULLING, TO(COMPUTING))                            /* fetches KV of its beginning from elsewhere      */         \
    X(ASKED, TO(CLAIMING) | TO(ASKED) | TO(WAITING))     /* Prefill sent, its Grant ask is awaited          */         \
    X(CLAIMING, TO(RECEIVING) | TO(ASKED) | TO(WAITING)) /* in the claim list, for blocks to receive in     */         \
    X(RECEIVING, TO(DECODING) | TO(FINISHED) | TO(ASKED) | TO(WAITING)) /* chunks come in                   */         \
    X(COMPUTING, TO(DECODING) | TO(FINISHED) | TO(WAITING)) /* in the batch, with its prompt                */         \
    X(DECODING, TO(FINISHED) | TO(WAITING))                 /* in the batch, a token a step                    */      \
    X(FINISHED, 0)                                          /* ids are kept until the router has them          */      \
    X(ENDED, 0)                                             /* waits for a step or a take that uses its blocks */

enum generation_state {
#define X(name, next) GENERATION_##name,
    GENERATION_STATES(X)
#undef X
        GENERATION_STATE_COUNT
};

/* A sampled token as it is kept until the router has it. */
struct kept_token {
    uint32_t id;
    float logprob;
    uint32_t n_top;
    struct token_logprob *top; /* owned, NULL without */
    uint8_t hash[16];          /* XXH3-128 canonical (big-endian) */
};

#define MAX_PREFILLS   16 /* candidates of one request */
#define MAX_TAKE_TRIES 2  /* of one chunk, before the leg is given up */

struct layer_take;
TAILQ_HEAD(layer_take_list, layer_take);

/* Layers of a chunk on their way into our blocks. */
struct incoming_chunk {
    TAILQ_ENTRY(incoming_chunk) link;
    struct generation *generation;
    uint32_t index, first, n;
    uint32_t n_spans;
    struct transfer_span *spans;  /* [n_spans] */
    uint64_t *sums;               /* [n_layers][n_spans], as copied */
    uint64_t *announced_sums;     /* [n_spans] of the whole chunk; NULL before ChunkDone */
    uint32_t layers_asked;        /* takes were started for [0, layers_asked) */
    uint32_t layers_taken;        /* how many layers have come */
    struct layer_take_list takes; /* under way */
    uint32_t tries;
    bool last;
    bool failed;             /* of a leg that was given up: freed by its last take */
    struct kept_token token; /* with the last chunk */
    bool token_stops;
    /* Of the whole prompt, as prefill counted it; with the last chunk. */
    uint64_t prefill_us, pull_us, pull_wait_us;
    uint32_t computed, cached[KV_TIER_COUNT];
};
TAILQ_HEAD(incoming_list, incoming_chunk);

struct generation {
    struct request_node node; /* first: found by key */
    TAILQ_ENTRY(generation) order, claim, dying, unsent;
    struct sequence seq;
    struct worker *worker;
    enum generation_state state;
    uint32_t attempt, leg;
    uint64_t deadline_us;
    struct trace_context trace;
    struct worker_peer *router;
    bool no_cache;
    uint64_t arrival; /* order of Generates; a preempted one keeps its own */
    bool in_claims, in_unsent, preempted;
    bool sheltered; /* struct scheduler_claim says what it is */
    uint64_t claim_since_us;
    struct timer timer; /* deadline; after FINISHED: how long ids are kept */

    struct pulling pulling; /* for a prompt that is computed here; what the request says of holders */

    /* remote prefill */
    struct worker_peer *prefill; /* of the current leg; NULL: none */
    char prefills[MAX_PREFILLS][64];
    uint32_t n_prefills, next_prefill;
    uint32_t committed; /* tokens whose KV came in and was verified */
    uint32_t next_chunk;
    struct incoming_list chunks;
    uint32_t takes_out; /* of all legs */

    /* output */
    struct kept_token *kept; /* positions kept_first .. */
    uint32_t kept_first, n_kept, kept_capacity;
    uint32_t sent; /* positions below were sent to the router */
    Baton__Finish finish;

    /* how it went */
    uint64_t born_us, started_us, granted_us, first_token_us, prefill_started_us, prefill_done_us;
    uint64_t prefill_us, prefill_queue_us, prefill_pull_us, handoff_us, moved_bytes;
    const char *transport;
    char prefill_worker[64];
    uint32_t computed_tokens, n_preempted;
    uint32_t cached[KV_TIER_COUNT]; /* tokens whose KV was found, by where */
    bool was_remote;
};

/* generation.c */
void generation_enter(struct generation *g, enum generation_state state);
/* Ends it with a failure that the router is told. */
void generation_fail(struct generation *g, Baton__FailureCode code, bool retry, const char *text);
/* Ends it without a word; frees it when nothing uses its blocks. */
void generation_end(struct generation *g);
/* Frees an ended generation when its last step or take is over. */
void generation_settle(struct generation *g);
/* Sends it to the next prefill worker, or to the claim list for local work. */
void generation_prefill_somewhere(struct generation *g);
/* The current leg is given up: chunks that are not committed are forgotten. */
void generation_drop_leg(struct generation *g, const char *why);
/* The current leg went wrong: the next prefill worker is asked, or the rest is computed here. */
void generation_leg_failed(struct generation *g, const char *why);

/* As the scheduler orders those that wait for blocks or could give theirs back. */
struct scheduler_claim generation_claim(const struct generation *g, uint64_t now);

/* generation_claims.c */
void claim_add(struct generation *g);
void claim_remove(struct generation *g);

/* generation_output.c */
/* Appends a sampled token, and finishes the generation when it was the last. */
void generation_append(struct generation *g, const struct kept_token *token, bool stops);
void kept_token_from_sampled(const struct generation *g, const struct sampled *sampled, struct kept_token *out);
void generation_wants_to_send(struct generation *g);
void generation_free_output(struct generation *g);
void output_send_failure(struct worker *worker, struct worker_peer *router, const struct message_head *head,
                         uint32_t position, Baton__FailureCode code, bool retry, const char *text);

/* generation_receive.c */
void incoming_layers(struct generation *g, const Baton__Chunk *chunk, uint32_t layers);
void incoming_done(struct generation *g, const Baton__ChunkDone *msg);
void incoming_drop_all(struct generation *g);

#endif
