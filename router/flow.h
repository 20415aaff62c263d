/* flow.h - one choice of one client request on its way through the cluster: it
 * is dispatched to a decode worker, its tokens come back in order and exactly
 * once, and when a worker is lost it goes on at another with the prompt and what
 * was generated so far, under a higher attempt. No HTTP and no text here.
 * Loop thread only. */
#ifndef BATON_ROUTER_FLOW_H
#define BATON_ROUTER_FLOW_H

#include <stdbool.h>
#include <stdint.h>

#include "common/metrics.h"
#include "common/timers.h"
#include "engine/sampling.h"
#include "kvbm/block_hash.h"
#include "proto/baton.pb-c.h"
#include "proto/frame.h"
#include "router/decision.h"
#include "router/decision_log.h"

struct flow;
struct flows;
struct fleet;
struct fleet_worker;
struct kv_view;

#define FLOW_STATES(X)                         /* any state may go to ENDED */                                         \
    X(WAITING, TO(DISPATCHED))                 /* no decode worker is there, or all refuse */                          \
    X(DISPATCHED, TO(STREAMING) | TO(WAITING)) /* sent; no token yet                     */                            \
    X(STREAMING, TO(WAITING))                  /* tokens come in                          */                           \
    X(ENDED, 0)

enum flow_state {
#define X(name, next) FLOW_##name,
    FLOW_STATES(X)
#undef X
        FLOW_STATE_COUNT
};

/* What a client must be told when a flow fails. */
enum flow_error {
    FLOW_INVALID,   /* 400: the request can never be served; text says why, with the numbers */
    FLOW_NO_WORKER, /* 503 + Retry-After */
    FLOW_BUSY,      /* 429 + Retry-After */
    FLOW_DEADLINE,  /* 504 */
    FLOW_INTERNAL,  /* 500 */
};

/* Microseconds. */
struct flow_timing {
    uint64_t wait_us;        /* from submit to the dispatch that succeeded */
    uint64_t first_token_us; /* from submit */
    uint64_t total_us;       /* from submit */
    uint32_t attempts;
    char class[32];     /* of the last tokens; "" before the first */
    bool class_changed; /* tokens before them were of another */
};

struct flow_callbacks {
    /* How it fared at the worker that runs it now, as far as that knows: before the first tokens of an attempt, and
     * before the last ones. Must not cancel the flow. timing is borrowed. */
    void (*on_timing)(void *arg, const Baton__Timing *timing);
    /* Tokens in order, without gap or repeat. position: of the first. May cancel the flow. */
    void (*on_tokens)(void *arg, uint32_t position, const Baton__Token *const *tokens, size_t n);
    /* The last word, once: STOP or LENGTH. The flow is gone after it. */
    void (*on_finish)(void *arg, Baton__Finish finish, const struct flow_timing *timing);
    /* Or this. text is borrowed. */
    void (*on_error)(void *arg, enum flow_error error, const char *text);
};

struct flow_request {
    const char *model;      /* borrowed for the life of the flow */
    const char *adapter;    /* borrowed as well: its id; "": none */
    const uint32_t *prompt; /* copied */
    uint32_t n_prompt;
    struct sampling sampling; /* bias and stop_ids are copied; prompt_len is set by the flow */
    Baton__Route route;
    bool no_cache;
    int32_t priority;       /* lower is sooner */
    struct block_hash salt; /* of its KV blocks; {0, 0}: none */
    uint64_t deadline_us;   /* absolute, on the clock of flows_options.now */
    struct trace_context trace;
    const struct flow_callbacks *callbacks;
    void *arg;
};

struct flows_options {
    struct fleet *fleet;
    struct timers *timers;
    uint64_t (*now)(void *ctx);
    void *ctx;
    uint64_t incarnation; /* the router's: first half of every request key */
    uint32_t max_attempts;
    uint64_t worker_wait_us;
    struct kv_view *kv_view; /* borrowed; who holds what of a prompt. NULL: nobody knows */
    bool keep_class;         /* an answer that began in a class never goes on in another */
    /* Where predictions are compared with what came; NULL: nowhere. */
    struct metric *prediction_error[DECISION_PART_COUNT];
    struct decision_log *decision_log; /* NULL: decisions are not logged */
};

MUST_CHECK status flows_create(const struct flows_options *options, struct flows **out);
void flows_destroy(struct flows **flows); /* cancels what is left, without callbacks */

/* The request key stands in log lines as "%llx.%llx". Callbacks come later, never from inside this call. */
MUST_CHECK status flow_submit(struct flows *flows, const struct flow_request *request, struct flow **out);
/* No callback comes after it. Sends a Cancel where there is something to cancel. */
void flow_cancel(struct flow **flow, const char *reason);
struct request_key flow_key(const struct flow *flow);
/* As of now. */
void flow_timing(const struct flow *flow, struct flow_timing *out);
const char *flow_worker_id(const struct flow *flow); /* "" while waiting */

/* From the fleet. */
void flows_on_tokens(struct flows *flows, struct fleet_worker *worker, const struct frame *frame,
                     const Baton__Tokens *msg);
void flows_on_stale(struct flows *flows, struct fleet_worker *worker, const struct frame *frame);
void flows_on_worker_lost(struct flows *flows, struct fleet_worker *worker, bool restarted_or_dead);
void flows_on_worker_again(struct flows *flows, struct fleet_worker *worker, Baton__Live *const *live, size_t n_live);
size_t flows_live(struct flows *flows, struct fleet_worker *worker, Baton__Live *out, size_t max);
/* A worker became available: waiting flows are dispatched. */
void flows_on_worker_ready(struct flows *flows);

#define FLOW_COUNTERS(X)                                                                                               \
    X(submitted, "choices accepted")                                                                                   \
    X(finished, "choices finished")                                                                                    \
    X(failed, "choices that ended with an error")                                                                      \
    X(cancelled, "choices cancelled")                                                                                  \
    X(dispatched, "Generate messages sent, further attempts included")                                                 \
    X(replayed, "choices that went on at another worker")                                                              \
    X(class_changed, "choices whose answers went on in another class of arithmetic")                                   \
    X(repeats_dropped, "tokens that had come before")                                                                  \
    X(gaps_resumed, "gaps in positions that were asked for again")                                                     \
    X(stale, "messages of an older attempt")

struct flow_counters {
#define X(name, help) uint64_t name;
    FLOW_COUNTERS(X)
#undef X
};
const struct flow_counters *flows_counters(const struct flows *flows);
uint32_t flows_in_state(const struct flows *flows, enum flow_state state);
const char *flow_state_name(enum flow_state state);

#endif
