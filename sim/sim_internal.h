/* sim_internal.h - what the files of a simulation share; nobody else includes it.
 *   sim.c           life, and which event is whose
 *   sim_router.c    choosing workers, counting at them and learning of them: the router
 *   sim_prefill.c   a prompt at a prefill worker
 *   sim_decode.c    a request at a decode worker
 *   sim_steps.c     the steps of either
 *   sim_fetch.c     KV from other workers
 *   sim_failures.c  deaths, and what they cost */
#ifndef BATON_SIM_SIM_INTERNAL_H
#define BATON_SIM_SIM_INTERNAL_H

#include <sys/queue.h>

#include "engine/scheduler.h"
#include "kvbm/block_hash.h"
#include "kvbm/pull_cost.h"
#include "router/fetch_hints.h"
#include "router/fleet.h"
#include "router/prefix_index.h"
#include "sim/event_heap.h"
#include "sim/kv_blocks.h"
#include "sim/sim.h"

#define SIM_MAX_HOLDINGS 32u /* of one prompt, as the router looks at */
#define SIM_MAX_HINTS    (FETCH_HINTS_MAX + 1u)
#define NS               1000u /* of a microsecond */

/* Where a request is, and what it waits for. */
#define FLIGHT_STATES(X)                                                                                               \
    X(NEW, TO(HELD) | TO(SENT))                                                                                        \
    X(HELD, TO(SENT) | TO(HELD))                                       /* nobody takes it: the next try */             \
    X(SENT, TO(ASKED) | TO(WAITING) | TO(HELD))                        /* Generate is on its way to decode */          \
    X(ASKED, TO(QUEUED) | TO(ASKED) | TO(WAITING))                     /* Prefill is on its way */                     \
    X(QUEUED, TO(ASKING) | TO(ASKED) | TO(WAITING))                    /* at prefill, for blocks */                    \
    X(ASKING, TO(CLAIMING) | TO(ASKED) | TO(WAITING))                  /* GrantAsk is on its way to decode */          \
    X(CLAIMING, TO(GRANTED) | TO(ASKED) | TO(WAITING))                 /* at decode, for blocks to receive in */       \
    X(GRANTED, TO(PULLING) | TO(PREFILLING) | TO(ASKED) | TO(WAITING)) /* Grant is on its way to prefill */            \
    X(PULLING, TO(PREFILLING) | TO(ASKED) | TO(WAITING))               /* KV is on its way to prefill */               \
    X(PREFILLING, TO(HANDING) | TO(ASKED) | TO(WAITING))               /* in prefill's batch */                        \
    X(HANDING, TO(DECODING) | TO(ASKED) | TO(WAITING))                 /* the last KV is on its way to decode */       \
    X(WAITING, TO(FETCHING) | TO(COMPUTING))                           /* at decode, for blocks to compute in */       \
    X(FETCHING, TO(COMPUTING))                                         /* KV is on its way to decode */                \
    X(COMPUTING, TO(DECODING) | TO(WAITING))                           /* in decode's batch, with its prompt */        \
    X(DECODING, TO(WAITING))                                           /* in decode's batch, a token a step */         \
    X(ENDED, 0)

enum flight_state {
#define X(name, next) FLIGHT_##name,
    FLIGHT_STATES(X)
#undef X
        FLIGHT_STATE_COUNT
};

struct sim_worker;

/* A request on its way. */
struct flight {
    TAILQ_ENTRY(flight) link; /* of the one list that it is in: prefill's queue or decode's claims */
    enum flight_state state;
    uint32_t source;    /* of its events */
    uint32_t request;   /* of the workload */
    uint32_t n_tokens;  /* prompt, and what was generated before this attempt */
    uint32_t generated; /* tokens that the client has */
    uint32_t attempts, legs, preempted;
    uint64_t retry_us, held_since_ns;

    /* The router's. */
    struct fleet_dispatch dispatch, help;
    struct pick_parts predicted;
    uint64_t number;
    bool is_local, is_auto;
    struct sim_worker *decode, *prefill; /* prefill: of the current leg, NULL: none */
    uint32_t prefills[PICK_MAX_RANKED], n_prefills, next_prefill;
    uint32_t avoid; /* decode worker that refused it last; UINT32_MAX: none */

    /* The workers'. */
    struct kv_hold at_prefill, at_decode;
    uint64_t arrival;   /* at the worker that it is at */
    uint32_t computed;  /* tokens that are there where it is computed */
    uint32_t committed; /* at decode: tokens whose KV is there */
    uint32_t found, pulled;
    uint32_t step_rows;
    bool in_window, is_active, is_growing, is_preempted;
    uint32_t queued_at_prefill, queued_at_decode; /* tokens that the worker counts for it */
    uint64_t claim_since_ns, served_ns, born_ns, granted_ns, started_ns, step_end_ns, prefill_done_ns;
    uint64_t moved_tokens, handed_ns; /* until all that was computed is at decode */
    uint32_t sent, safe;              /* tokens whose KV is at decode or on its way; is there for certain */
    uint64_t last_token_ns, first_token_ns;

    /* A fetch. */
    struct {
        uint32_t worker, tokens;
    } hints[SIM_MAX_HINTS];
    uint32_t n_hints;
    uint32_t fetch_from, fetch_incarnation, fetch_first, fetch_blocks; /* fetch_blocks 0: none is under way */
    uint64_t fetch_began_ns, fetch_ends_ns, fetch_us, fetch_answer_us, fetch_bytes;
};
TAILQ_HEAD(flight_list, flight);

/* A sequence that decodes. Steps are the worker's, counted from its start. */
struct sim_slot {
    struct flight *flight;
    uint64_t begin_step, end_step; /* its first and behind its last */
    uint64_t room_step;            /* before this one it needs no further block */
    bool fresh;                    /* its last token did not come with the step before */
    bool in_step;
};

enum sim_step { STEP_NONE, STEP_RUN, STEP_MIXED, STEP_SETTLING };

struct sim_worker {
    struct sim *sim;
    uint32_t source, place; /* place: of its role; the number in the index is the source */
    bool is_decode, alive;
    uint32_t incarnation;
    struct fleet_worker *fleet; /* NULL: the router does not know it */
    struct kv_blocks *blocks;
    struct pull_costs *costs;
    uint64_t arrivals, seen_number; /* of Generates */
    uint32_t held;                  /* requests */
    uint64_t queued_tokens, running_tokens;
    uint64_t out_ns, in_ns; /* until when its link is taken, each way */

    struct flight_list queue; /* prefill's queue, decode's claims */
    uint32_t in_window;       /* prefill */
    uint32_t active, growing; /* decode: sequences that hold blocks; that will ask for more */
    struct sim_slot *slots;   /* [max_seqs] */
    struct flight **prompts;  /* [max_seqs or grant_window]: in the batch, in order of arrival */
    uint32_t n_slots, n_prompts;

    enum sim_step step;
    struct step_run run;
    uint64_t step_from_ns, run_steps;
    uint32_t run_slots;
    uint64_t steps, context; /* context: tokens of all slots */
    double step_us;          /* smoothed, as a worker tells it */
    uint32_t kv_free;        /* blocks, as kv_blocks keeps it */
    uint32_t loads;          /* told since its rates were read */

    uint64_t up_since_ns, up_ns, busy_ns;
    uint64_t n_steps, prompt_tokens;
};

struct sim {
    const struct sim_options *options;
    const struct workload *workload;
    struct sim_result *result;
    struct event_heap *heap;
    uint64_t now_ns;
    struct fleet *fleet;
    struct prefix_index *index;
    struct prefix_reader *reader;
    struct sim_worker *workers; /* prefill first */
    uint32_t n_workers;
    uint32_t arrivals_source, loads_source, failures_source, first_flight;
    struct flight *flights; /* [max_flights]; used up to n_flights, of which those in the list are free */
    uint32_t n_flights, max_flights;
    struct flight_list spare;
    size_t next_request;
    uint64_t ended;
    uint32_t next_group; /* of workers that tell their load */
    struct sim_event *deaths;
    uint32_t n_deaths, next_death;
    struct step_cost cost; /* what a worker knows of its steps */
    struct scheduler_limits limits;
    uint32_t ids_a_block, blocks_an_id;
    /* Scratch. */
    uint32_t *keys;            /* [most blocks of a prompt] */
    struct block_hash *hashes; /* likewise */
    struct scheduler_want *wants;
    uint32_t *order, *rows;
};

/* What happens to workers by schedule. */
enum sim_event_kind { SIM_DIES, SIM_NOTICED, SIM_RETURNS };
struct sim_event {
    uint64_t at_ns;
    enum sim_event_kind kind;
    uint32_t worker;
};

static inline uint64_t sim_us(const struct sim *s)
{
    return s->now_ns / NS;
}

static inline uint64_t sim_latency_ns(const struct sim *s)
{
    return (uint64_t)(s->options->profile->link_latency_us * NS);
}

static inline uint32_t sim_blocks_for(const struct sim *s, uint64_t tokens)
{
    return (uint32_t)((tokens + s->options->block_tokens - 1) / s->options->block_tokens);
}

/* sim.c */
void flight_enter(struct flight *f, enum flight_state state);
/* Its next event. */
void flight_wait(struct sim *s, struct flight *f, uint64_t at_ns);
struct flight *flight_take(struct sim *s);
void flight_end(struct sim *s, struct flight *f, enum sim_end end);
/* Keys of the blocks that the first `tokens` of its prompt fill, in s->keys; returns how many. */
uint32_t sim_keys(struct sim *s, const struct flight *f, uint32_t tokens);
struct block_hash sim_hash(uint32_t key);
/* The time of bytes from one worker to another, that could have begun earlier: when they are there. */
uint64_t sim_move(struct sim *s, struct sim_worker *from, struct sim_worker *to, double bytes, uint64_t earliest_ns);
/* What the worker counts for a flight changes. */
void sim_queue_tokens(struct sim_worker *w, uint32_t *counted, uint32_t now);

/* sim_router.c */
status sim_router_begin(struct sim *s);
void sim_router_end(struct sim *s);
void sim_router_arrival(struct sim *s);
void sim_router_dispatch(struct sim *s, struct flight *f);
/* The decode worker would not have it. */
void sim_router_refused(struct sim *s, struct flight *f);
void sim_router_learn(struct sim *s, struct flight *f, uint32_t computed);
/* A token that is not one of a run of steps. */
void sim_router_token(struct sim *s, struct flight *f);
/* The attempt is over; nothing of it is counted any more. */
void sim_router_uncount(struct flight *f);
void sim_router_load(struct sim *s, struct sim_worker *w);
void sim_router_know(struct sim *s, struct sim_worker *w);
void sim_router_forget(struct sim *s, struct sim_worker *w);
bool sim_router_knows_prefill(const struct sim_worker *w);

/* sim_prefill.c */
void sim_prefill_arrival(struct sim *s, struct flight *f);
void sim_prefill_pump(struct sim *s, struct sim_worker *w);
void sim_prefill_granted(struct sim *s, struct flight *f);
void sim_prefill_pulled(struct sim *s, struct flight *f);
/* A step computed rows of it. */
void sim_prefill_rows(struct sim *s, struct flight *f);
/* Gives back what it holds there; the worker may be dead. */
void sim_prefill_leave(struct sim *s, struct flight *f);

/* sim_decode.c */
void sim_decode_arrival(struct sim *s, struct flight *f);
void sim_decode_asked(struct sim *s, struct flight *f);
void sim_decode_answer_claims(struct sim *s, struct sim_worker *w);
void sim_decode_received(struct sim *s, struct flight *f);
void sim_decode_fetched(struct sim *s, struct flight *f);
void sim_decode_rows(struct sim *s, struct flight *f);
/* The prefill worker failed: the next one, or the prompt is computed here. */
void sim_decode_next_leg(struct sim *s, struct flight *f);
void sim_decode_preempt(struct sim *s, struct sim_worker *w, uint32_t slot);
/* The sequence of this slot has its last token. */
void sim_decode_finish(struct sim *s, struct sim_worker *w, uint32_t slot);
void sim_decode_leave(struct sim *s, struct flight *f);

/* sim_steps.c */
/* Begins a step where none runs, or has a run of steps end for who joined. */
void sim_steps_kick(struct sim *s, struct sim_worker *w);
void sim_steps_done(struct sim *s, struct sim_worker *w);
void sim_steps_join_prompt(struct sim *s, struct sim_worker *w, struct flight *f);
void sim_steps_join_decode(struct sim *s, struct sim_worker *w, struct flight *f);
void sim_steps_remove_slot(struct sim_worker *w, uint32_t slot);
/* The worker dies: the steps that were over count. */
void sim_steps_stop(struct sim *s, struct sim_worker *w);
/* Tokens in its running sequences now. */
uint64_t sim_steps_running_tokens(const struct sim *s, const struct sim_worker *w);

/* sim_fetch.c */
/* Begins one where it pays; the flight holds `held` tokens at w, and blocks for the others. */
void sim_fetch_begin(struct sim *s, struct sim_worker *w, struct flight *f, uint32_t held);
/* It ended. Returns the tokens that came, which are in f->computed then. */
uint32_t sim_fetch_end(struct sim *s, struct sim_worker *w, struct flight *f, struct kv_hold *hold);

/* sim_failures.c */
status sim_failures_begin(struct sim *s, struct error *err);
void sim_failures_next(struct sim *s);

#endif
