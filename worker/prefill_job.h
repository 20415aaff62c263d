/* prefill_job.h - one Prefill on its way through a prefill worker.
 *
 *   Prefill -> QUEUED -> ASKING -> (PULLING ->) COMPUTING -> HANDING -> ENDED
 *
 * The job reserves blocks for the whole prompt, asks decode for a Grant and fetches
 * meanwhile what is not here and faster fetched than computed, computes the rest
 * chunk after chunk and lends each until decode has taken it. */
#ifndef BATON_WORKER_PREFILL_JOB_H
#define BATON_WORKER_PREFILL_JOB_H

#include "kvbm/lease.h"
#include "worker/core.h"

#define PREFILL_STATES(X)                  /* any state may go to ENDED */                                             \
    X(QUEUED, TO(ASKING))                  /* waits for its turn and for blocks                 */                     \
    X(ASKING, TO(PULLING) | TO(COMPUTING)) /* has blocks, waits for decode's Grant; may be fetching KV */              \
    X(PULLING, TO(COMPUTING))              /* has its Grant, and is fetching KV still           */                     \
    X(COMPUTING, TO(HANDING))              /* in the batch                                      */                     \
    X(HANDING, 0)                          /* computed; waits until every chunk is taken        */                     \
    X(ENDED, 0)                            /* waits for a step, a pull or a checksum that uses its blocks */

enum prefill_state {
#define X(name, next) PREFILL_##name,
    PREFILL_STATES(X)
#undef X
        PREFILL_STATE_COUNT
};

/* A chunk that was computed and is being checksummed, announced and taken. */
struct outgoing_chunk {
    TAILQ_ENTRY(outgoing_chunk) link;
    struct prefill_job *job;
    uint32_t index, first, n;
    uint32_t n_blocks, first_block; /* in seq.blocks */
    block_id *blocks;               /* [n_blocks], as they were when the chunk began */
    uint64_t *generations;          /* [n_blocks] */
    struct transfer_span *spans;    /* [n_blocks]: our own slots, to checksum */
    uint64_t *sums;                 /* [n_layers][n_blocks] */
    uint32_t layers_asked, layers_summed, sums_out;
    bool computed; /* all layers, and sampled where it is the last */
    bool is_known; /* its checksums were: sums[i] is that of block i */
    bool last, sent, failed;
};
TAILQ_HEAD(outgoing_list, outgoing_chunk);

struct prefill_job {
    struct request_node node; /* first: found by key */
    TAILQ_ENTRY(prefill_job) order, queue, dying;
    struct sequence seq;
    struct worker *worker;
    enum prefill_state state;
    uint32_t attempt, leg;
    uint64_t deadline_us;
    struct trace_context trace;
    struct worker_peer *decode;
    struct timer timer;
    struct lease lease;
    block_id *lent; /* owned: which blocks the lease holds; the sequence may go on with others of the same content */
    bool in_queue, in_window;
    struct pulling pulling;
    uint8_t *tiers;      /* owned, [blocks of the prompt]: where those of the tokens found were */
    uint32_t found;      /* tokens whose KV was here, or was fetched */
    uint32_t from_token; /* decode needs KV from here on */
    uint32_t next_found; /* what was found is handed over from here on */
    uint32_t next_index; /* of chunks */
    uint32_t not_taken;  /* chunks begun and not yet taken */
    uint32_t sums_out;
    struct outgoing_list chunks;
    struct outgoing_chunk *current; /* the one that the running step computes */
    struct sampled sampled;         /* the first token */
    uint64_t arrival;               /* order of Prefills */
    uint64_t born_us, granted_us, started_us, done_us;
};

/* prefill_job.c */
void prefill_end(struct prefill_job *job);
void prefill_fail(struct prefill_job *job, Baton__FailureCode code, bool retry, const char *text);
void prefill_settle(struct prefill_job *job);
void prefill_enter(struct prefill_job *job, enum prefill_state state);

/* prefill_send.c */
/* Hands over what was found and decode lacks, as far as the window lets it; rows that are computed come behind. The
 * job may fail, and be gone. */
void outgoing_found(struct prefill_job *job);
/* The window lets all go that would be found if the first upto tokens were. */
bool outgoing_has_room(const struct prefill_job *job, uint32_t upto);
/* Layers [0, layers) of rows [first, first + n) are in the blocks. */
void outgoing_layers(struct prefill_job *job, uint32_t first, uint32_t n, uint32_t layers);
/* All of them are. */
void outgoing_computed(struct prefill_job *job, uint32_t first, uint32_t n, bool last);
/* True when the chunk was known: it is over. */
bool outgoing_taken(struct prefill_job *job, uint32_t index);
void outgoing_drop_all(struct prefill_job *job);

#endif
