/* flow_internal.h - what the files of flows share; nobody else includes it.
 *   flow.c           one flow: its states, its beginning and its end
 *   flow_dispatch.c  to a worker, to another, or later
 *   flow_receive.c   tokens, failures and the last word of a worker
 *   flow_learn.c     what its timing teaches
 *   flow_log.c       lines of the decision log
 *   flows.c          all of them: by key, and when workers come and go */
#ifndef BATON_ROUTER_FLOW_INTERNAL_H
#define BATON_ROUTER_FLOW_INTERNAL_H

#include <sys/queue.h>

#include "router/fleet.h"
#include "router/flow.h"

#define FLOW_MAX_AVOIDED 8
#define FLOW_RETRY_US    50000u /* between tries while no worker takes a flow; doubled each time */
#define FLOW_BUCKETS     4096u

struct flow {
    TAILQ_ENTRY(flow) order;
    struct flow *next_in_bucket;
    struct flows *flows;
    enum flow_state state;
    uint64_t seq;
    uint32_t attempt, deaths;
    uint32_t runs; /* attempts that no worker refused */
    struct flow_request request;
    struct logit_bias *bias;
    uint32_t *stop_ids;
    uint32_t *tokens; /* prompt and what came */
    uint32_t n_tokens, capacity;
    char class[32]; /* of the tokens that came; "": none came, or its worker did not say */
    bool class_changed;
    struct fleet_worker *worker;    /* NULL while waiting */
    struct fleet_dispatch dispatch; /* as counted at the worker */
    struct fleet_dispatch help;     /* as counted at the prefill worker that was named first */
    struct pick_parts predicted;
    bool told; /* its worker said how the prompt fared */
    char avoid[FLOW_MAX_AVOIDED][64];
    uint32_t n_avoid;
    struct timer deadline, retry;
    uint64_t submitted_us, dispatched_us, first_token_us, waiting_since_us, retry_us;
    uint64_t resume_asked_us; /* 0: not since the last token */
    Baton__FailureCode last_failure;
    char last_text[160];
};

TAILQ_HEAD(flow_list, flow);

struct flows {
    struct flows_options options;
    struct flow_list list; /* by priority, then as they came */
    struct flow *cursor;   /* the next one of the walk under way: callbacks may cancel any flow */
    struct flow *buckets[FLOW_BUCKETS];
    uint64_t next_seq;
    uint32_t in_state[FLOW_STATE_COUNT];
    struct flow_counters counters;
    struct text_buffer line; /* of the decision log */
};

/* flow.c */
/* The only place that assigns a flow's state. */
void flow_enter(struct flow *flow, enum flow_state state);
/* It is no longer counted anywhere. */
void flow_uncount(struct flow *flow);
/* The worker's loads and messages no longer count this flow. */
void flow_leave_worker(struct flow *flow);
/* Leaves the worker with a Cancel. */
void flow_send_cancel(struct flow *flow, const char *reason);
void flow_free(struct flow *flow);
/* Ends it with on_error. */
void flow_fail(struct flow *flow, enum flow_error error, const char *text);

/* flow_dispatch.c. All that dispatch may fail the flow, which is gone then. */
/* To a worker, or later where there is none. */
void flow_dispatch(struct flow *flow);
/* Back to waiting, and on at another worker at once where there is one. */
void flow_dispatch_again(struct flow *flow);
/* Its worker refused it: on to one that did not refuse yet; where all did, a little later. */
void flow_dispatch_elsewhere(struct flow *flow);
void flow_avoid(struct flow *flow, const struct fleet_worker *worker);

/* flow_learn.c */
/* The worker says how the prompt fared: rates are learned from it, and compared with what was predicted. */
void flow_learn(struct flow *flow, const Baton__Timing *timing);

/* flow_log.c */
/* What the fleet picked last is sent as this attempt. */
void flow_log_decision(struct flow *flow);
/* Fills time and key, and logs it. */
void flow_log_outcome(struct flow *flow, struct decision_outcome *outcome);

/* flows.c */
uint64_t flows_now(const struct flows *flows);
/* NULL where it is over, or another router's. */
struct flow *flows_find(struct flows *flows, struct request_key key);

#endif
