/* worker.h - the protocol of a worker, without sockets, threads or a clock:
 * it serves Generate (decode side) and Prefill (prefill side), owns the KV
 * blocks and forms the engine's steps. Its role is run-time state and decides only what
 * is admitted. Everything happens in calls from the loop thread; the world is
 * reached through struct worker_io. */
#ifndef BATON_WORKER_WORKER_H
#define BATON_WORKER_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/timers.h"
#include "engine/kv_layout.h"
#include "engine/scheduler.h"
#include "kvbm/block_pool.h"
#include "worker/adapters.h"
#include "worker/io.h"

struct worker;
struct prefix_cache;

enum worker_role { WORKER_PREFILL, WORKER_DECODE };
enum worker_speculation { SPECULATION_OFF, SPECULATION_LOOKUP, SPECULATION_MODEL };
/* Fetch KV from others: where it is predicted to be faster than computing, wherever somebody has it, not at all. */
enum worker_fetch { FETCH_AUTO, FETCH_ALWAYS, FETCH_NEVER };
/* Compute behind what is fetched: where that is predicted to be faster, as soon as the first layer is here, not at all.
 */
enum worker_overlap { OVERLAP_AUTO, OVERLAP_ALWAYS, OVERLAP_OFF };
const char *worker_role_name(enum worker_role role);

struct worker_options {
    const struct worker_io *io; /* borrowed */
    struct timers *timers;      /* borrowed; on the same clock as io->now */
    enum worker_role role;
    char id[64];
    char model[256];
    char kv_format[128];
    const struct adapters *adapters; /* borrowed; NULL: none */
    struct kv_layout layout;
    uint32_t n_blocks;
    _Atomic uint64_t *generations;                  /* [n_blocks], lent memory */
    uint8_t *blocks;                                /* borrowed: the bytes of the blocks; NULL: cannot be wiped */
    status (*erase_beside)(void *ctx, bool begins); /* of struct wiping_options */
    void *erase_ctx;
    const struct eviction_policy *eviction; /* of the prefix cache; NULL: nothing is kept for others */
    uint64_t weights, tokenizer;            /* fingerprints, for the hashes of blocks: block_seed_parts */
    uint32_t n_vocab;
    uint32_t max_model_len;         /* prompt and answer */
    uint32_t max_requests;          /* held at one time: beyond, FAILURE_BUSY */
    struct scheduler_limits limits; /* waits in microseconds */
    enum worker_speculation speculation;
    uint32_t draft_tokens;     /* guesses of one sequence in one step at most */
    uint32_t grant_window;     /* prefill: requests that hold blocks at one time */
    uint32_t chunks_in_flight; /* prefill: chunks of one request not yet taken */
    uint32_t reserve_blocks;   /* decode: blocks kept for the growth of running sequences */
    uint32_t local_tokens;     /* decode: prompts of at most so many tokens stay here */
    uint32_t max_legs;         /* prefill workers tried for one request */
    uint64_t aside_us;         /* 100 ms: then freed blocks are set aside for the first claim */
    uint64_t keep_finished_us; /* 10 s */
    uint64_t take_timeout_us;  /* 3 s */
    enum worker_fetch fetch;
    uint64_t pull_timeout_us; /* 500 ms: what a pull may take beyond its prediction, and its holder to answer */
    uint32_t pull_take_bytes; /* that are fetched together; 0: as many as are worth it */
    enum worker_overlap overlap;
    uint64_t incarnation;
};

MUST_CHECK status worker_create(const struct worker_options *options, struct worker **out);
/* The engine and the transfer thread must have ended: what they were given is not waited for. */
void worker_destroy(struct worker **worker);

/* From the links. peer stays valid until worker_on_peer_lost returned. */
void worker_on_message(struct worker *worker, struct worker_peer *peer, const struct frame *frame,
                       uint64_t deadline_us);
void worker_on_peer_lost(struct worker *worker, struct worker_peer *peer);
/* The link came back with the same incarnation: what the peer does not hold any more is cancelled here or sent again.
 */
void worker_on_peer_again(struct worker *worker, struct worker_peer *peer, Baton__Live *const *live, size_t n_live);
size_t worker_live(struct worker *worker, struct worker_peer *peer, Baton__Live *out, size_t max);

/* From the engine, on the loop thread. */
void worker_layers_done(struct worker *worker, uint32_t layers);
void worker_step_done(struct worker *worker);

/* Refuses what is new; worker_is_idle tells when nothing is left. */
void worker_drain(struct worker *worker);
bool worker_is_idle(const struct worker *worker);

void worker_load(struct worker *worker, Baton__Load *out); /* strings and marks are borrowed until the next message */

#define WORKER_COUNTERS(X)                                                                                             \
    X(generations, "Generate requests accepted")                                                                       \
    X(prefills, "Prefill requests accepted")                                                                           \
    X(refused, "requests refused")                                                                                     \
    X(finished, "generations finished")                                                                                \
    X(failed, "generations failed")                                                                                    \
    X(cancelled, "requests cancelled by their sender or replaced by a newer attempt")                                  \
    X(stale, "messages of an older attempt or leg")                                                                    \
    X(malformed, "messages whose payload made no sense")                                                               \
    X(tokens_generated, "tokens sampled for clients")                                                                  \
    X(tokens_computed, "rows computed by the engine")                                                                  \
    X(steps, "engine steps")                                                                                           \
    X(overlapped, "prompts computed while the end of their pull was on its way")                                       \
    X(overlaps_void, "such whose pull ended short or late: computed again")                                            \
    X(preemptions, "sequences whose blocks were taken back")                                                           \
    X(drafted, "tokens guessed ahead")                                                                                 \
    X(drafts_accepted, "guesses that were right")                                                                      \
    X(legs_failed, "prefills that had to be started again elsewhere")                                                  \
    X(chunks_taken, "chunks committed")                                                                                \
    X(chunks_sent, "chunks handed over")                                                                               \
    X(bytes_taken, "KV bytes taken from prefill workers")                                                              \
    X(bad_checksums, "blocks whose checksum was wrong")                                                                \
    X(stale_takes, "takes that found a block reused")

struct worker_counters {
#define X(name, help) uint64_t name;
    WORKER_COUNTERS(X)
#undef X
};
const struct worker_counters *worker_counters(const struct worker *worker);
uint32_t worker_paused_drafts(const struct worker *worker);
const struct step_cost *worker_step_cost(const struct worker *worker);
/* The manager of this host's KV blocks, as long as its link is up; NULL: none. */
void worker_set_manager(struct worker *worker, struct worker_peer *manager);
struct pull_counters;
const struct pull_counters *worker_pull_counters(const struct worker *worker);
struct sharing;
const struct sharing *worker_sharing(const struct worker *worker); /* NULL: nothing is kept for others */
struct block_pool *worker_pool(struct worker *worker);
struct prefix_cache *worker_prefix_cache(struct worker *worker);
struct wipe_call;
/* Forgets the KV of a salt, or all, at once, and zeroes it (wiping.h). *forgotten: blocks that could be found.
 * ST_AGAIN: another wipe is going on; ST_NO_MEMORY; ST_UNSUPPORTED: the worker was not given its memory. */
MUST_CHECK status worker_wipe(struct worker *worker, const struct wipe_call *call, uint32_t *forgotten);
struct wiping;
const struct wiping *worker_wiping(const struct worker *worker); /* NULL: without memory */

#endif
