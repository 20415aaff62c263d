/* core.h - the inside of struct worker, shared by the files of worker/ that make
 * up the protocol: worker.c (dispatch), batch.c (steps), generation*.c (Generate),
 * prefill_job.c (Prefill). */
#ifndef BATON_WORKER_CORE_H
#define BATON_WORKER_CORE_H

#include "worker/drafter.h"
#include "worker/prefix_cache.h"
#include "worker/pulling.h"
#include "worker/request_table.h"
#include "worker/router_marks.h"
#include "worker/sequence.h"
#include "worker/sharing.h"
#include "worker/wiping.h"
#include "worker/worker.h"

TAILQ_HEAD(sequence_list, sequence);
struct generation;
struct prefill_job;
TAILQ_HEAD(generation_list, generation);
TAILQ_HEAD(prefill_job_list, prefill_job);

/* The step that the engine runs, or the room for the next one. */
struct batch {
    bool is_running;
    struct step step;
    struct step_seq *seqs;        /* [limits.max_seqs] */
    struct sequence **owners;     /* [limits.max_seqs] */
    struct sampled *sampled;      /* [limits.max_seqs][draft_tokens + 1], where guesses are made */
    struct scheduler_want *wants; /* [2 * max_requests], scratch of forming */
    uint32_t *order, *rows;       /* likewise */
    struct sequence **waiting;    /* likewise */
    struct drafts drafts;         /* asks [limits.max_seqs], where a model guesses */
    double draft_us;              /* smoothed time of one of its guesses */
    double draft_price;           /* of the step that is being formed, for speculation_depth */
};

struct worker {
    struct worker_options options;
    const struct worker_io *io;
    struct timers *timers;
    struct block_pool *pool;
    struct prefix_cache *cache;
    struct sharing *sharing; /* NULL: nothing is kept */
    struct wiping *wiping;   /* NULL: without memory */
    struct pull_counters pulls;
    struct worker_counters counters;
    bool draining;
    bool is_pumping, pump_again;
    struct sequence_list running; /* want rows, in order of arrival */
    struct batch batch;
    struct step_cost cost;

    struct request_table generations; /* current ones, by key */
    struct generation_list generation_order;
    struct generation_list claims; /* preempted first, then by arrival */
    struct generation_list dying;  /* ended, but a step or a take still uses their blocks */
    struct generation_list unsent; /* have tokens for their router */
    uint64_t arrivals;
    struct router_marks marks;

    struct request_table jobs;
    struct prefill_job_list job_order;
    struct prefill_job_list job_queue; /* wait for blocks and their Grant */
    struct prefill_job_list jobs_dying;
    uint32_t jobs_in_window;

    uint64_t prefill_rows, prefill_busy_us; /* for the measured rate */
    uint64_t step_started_us;
    double prefill_tokens_per_s, step_ms;
};

/* Does all that can be done now: answers claims, asks grants, sends tokens,
 * starts a step. Safe to call from anywhere in the core; nested calls coalesce. */
void worker_pump(struct worker *worker);
/* Whether the adapter that a request names is here. */
bool worker_has_adapter(const struct worker *worker, const Baton__Sampling *sampling);

/* What Generate and Prefill alike say of a sequence. */
struct sequence_request {
    const uint32_t *tokens;
    size_t n_tokens;
    const Baton__Sampling *sampling; /* its adapter is here */
    ProtobufCBinaryData salt;
    int32_t priority;
    bool no_cache;
};
/* ST_INVALID, ST_LIMIT with a sentence, ST_NO_MEMORY; on failure nothing is held. */
MUST_CHECK status worker_begin_sequence(const struct worker *worker, const struct sequence_request *request,
                                        const struct sequence_ops *ops, struct sequence *seq, struct error *err);

/* batch.c */
status batch_init(struct worker *worker);
void batch_free(struct worker *worker);
void batch_add(struct worker *worker, struct sequence *seq);
void batch_remove(struct worker *worker, struct sequence *seq);
/* Forms and starts a step when none is running and somebody wants rows. */
void batch_start(struct worker *worker);

/* drafts.c */
/* What a further guess costs in a step of so many decoding sequences, in tokens. */
double drafts_price(const struct worker *worker, uint32_t n_decoding, uint64_t attended);
/* How many guesses pay; those of lookup are written behind the sequence's tokens. */
uint32_t drafts_propose(struct worker *worker, struct sequence *seq);
/* Has a model make n guesses for this sequence of the step, before the step runs. */
void drafts_ask(struct worker *worker, struct sequence *seq, uint32_t in_step, uint32_t n);
/* How long a model will take for n guesses. */
uint64_t drafts_expected(const struct worker *worker, uint32_t n);
/* How long the step took but for the guesses made before it; learns what they cost. */
uint64_t drafts_took(struct worker *worker, uint64_t us);
/* How many of the guesses among the rows that ran were right. */
uint32_t drafts_accepted(struct worker *worker, struct sequence *seq, const struct step_seq *ran);

/* generation.c */
void generation_on_generate(struct worker *worker, struct worker_peer *router, const struct frame *frame,
                            uint64_t deadline_us, const Baton__Generate *msg);
/* True when key names a generation of this router here (any attempt). */
bool generation_on_cancel(struct worker *worker, struct worker_peer *from, const struct frame *frame);
void generation_on_tokens_ack(struct worker *worker, struct worker_peer *from, const struct frame *frame,
                              uint32_t position);
void generation_on_resume(struct worker *worker, struct worker_peer *from, const struct frame *frame,
                          uint32_t position);
void generation_on_grant_ask(struct worker *worker, struct worker_peer *from, const struct frame *frame);
void generation_on_layers(struct worker *worker, struct worker_peer *from, const struct frame *frame,
                          const Baton__LayersReady *msg);
void generation_on_chunk_done(struct worker *worker, struct worker_peer *from, const struct frame *frame,
                              const Baton__ChunkDone *msg);
void generation_on_prefill_failed(struct worker *worker, struct worker_peer *from, const struct frame *frame,
                                  const Baton__PrefillFailed *msg);
void generation_on_stale(struct worker *worker, struct worker_peer *from, const struct frame *frame);
void generations_on_peer_lost(struct worker *worker, struct worker_peer *peer);
void generations_on_peer_again(struct worker *worker, struct worker_peer *peer, Baton__Live *const *live,
                               size_t n_live);
/* Prompt tokens that are to be computed here, or whose KV is to come from a prefill worker; adds each router's share to
 * its mark. */
uint64_t generations_count_queued(struct worker *worker);
size_t generations_live(struct worker *worker, struct worker_peer *peer, Baton__Live *out, size_t max);
void generations_answer_claims(struct worker *worker);
void generations_send_tokens(struct worker *worker);
/* Takes the blocks of the last decoding sequence by priority and arrival back, to be recomputed; false when there is
 * none. */
bool generations_preempt(struct worker *worker);
void generations_destroy(struct worker *worker);

/* prefill_job.c */
void prefill_on_prefill(struct worker *worker, struct worker_peer *decode, const struct frame *frame,
                        uint64_t deadline_us, const Baton__Prefill *msg);
bool prefill_on_cancel(struct worker *worker, struct worker_peer *from, const struct frame *frame);
void prefill_on_grant(struct worker *worker, struct worker_peer *from, const struct frame *frame, uint32_t from_token);
void prefill_on_chunk_taken(struct worker *worker, struct worker_peer *from, const struct frame *frame, uint32_t index);
void prefill_on_stale(struct worker *worker, struct worker_peer *from, const struct frame *frame);
void prefills_on_peer_lost(struct worker *worker, struct worker_peer *peer);
void prefills_on_peer_again(struct worker *worker, struct worker_peer *peer, Baton__Live *const *live, size_t n_live);
size_t prefills_live(struct worker *worker, struct worker_peer *peer, Baton__Live *out, size_t max);
void prefills_ask_grants(struct worker *worker);
/* Prompt tokens that are to be computed here; adds each router's share to its mark. */
uint64_t prefills_count_queued(struct worker *worker);
void prefills_destroy(struct worker *worker);

/* Tells the sender of an old attempt or leg so. */
void worker_answer_stale(struct worker *worker, struct worker_peer *to, const struct frame *frame, uint32_t attempt,
                         uint32_t leg);
/* True when live names (key, attempt, leg). */
bool live_contains(Baton__Live *const *live, size_t n_live, struct request_key key, uint32_t attempt, uint32_t leg);

#endif
