#include "router/flow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/log.h"
#include "router/fleet.h"

#define MAX_PREFILL_CANDIDATES 8
#define MAX_AVOIDED            8
#define MAX_DEATHS             3      /* workers that died while this flow ran on them: then it is not tried again */
#define RETRY_US               50000u /* between tries while no worker takes a flow; doubled each time */
#define RETRY_MAX_US           800000u
#define RESUME_AGAIN_US        250000u
#define FLOW_BUCKETS           4096u

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
    struct fleet_worker *worker; /* NULL while waiting */
    uint32_t counted;            /* tokens counted at the worker */
    char avoid[MAX_AVOIDED][64];
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
    struct flow_list list;
    struct flow *cursor; /* the next one of the walk under way: callbacks may cancel any flow */
    struct flow *buckets[FLOW_BUCKETS];
    uint64_t next_seq;
    uint32_t in_state[FLOW_STATE_COUNT];
    struct flow_counters counters;
};

static const char *const state_names[] = {
#define X(name, next) #name,
    FLOW_STATES(X)
#undef X
};

static const unsigned legal_next[] = {
#define TO(name)      (1u << FLOW_##name)
#define X(name, next) (next) | (1u << FLOW_ENDED),
    FLOW_STATES(X)
#undef X
#undef TO
};

const char *flow_state_name(enum flow_state state)
{
    return (unsigned)state < FLOW_STATE_COUNT ? state_names[state] : "?";
}

/* The only place that assigns a flow's state. */
static void flow_enter(struct flow *flow, enum flow_state state)
{
    struct flows *flows = flow->flows;
    ASSERT(legal_next[flow->state] & (1u << state));
    flows->in_state[flow->state]--;
    flows->in_state[state]++;
    flow->state = state;
}

static uint64_t now_of(const struct flows *flows)
{
    return flows->options.now(flows->options.ctx);
}

static struct flow *flow_find(struct flows *flows, struct request_key key)
{
    if (key.router != flows->options.incarnation)
        return NULL;
    struct flow *flow = flows->buckets[key.seq % FLOW_BUCKETS];
    while (flow && flow->seq != key.seq)
        flow = flow->next_in_bucket;
    return flow;
}

struct request_key flow_key(const struct flow *flow)
{
    return (struct request_key){ flow->flows->options.incarnation, flow->seq };
}

const char *flow_worker_id(const struct flow *flow)
{
    return flow->worker ? flow->worker->instance.id : "";
}

/* ---- ending -------------------------------------------------------------------- */

static void leave_worker(struct flow *flow)
{
    if (!flow->worker)
        return;
    fleet_forget(flow->worker, flow_key(flow), flow->attempt);
    fleet_uncount(flow->worker, flow->counted);
    flow->worker = NULL;
}

static void flow_free(struct flow *flow)
{
    struct flows *flows = flow->flows;
    struct flow **link = &flows->buckets[flow->seq % FLOW_BUCKETS];
    leave_worker(flow);
    timer_cancel(flows->options.timers, &flow->deadline);
    timer_cancel(flows->options.timers, &flow->retry);
    flow_enter(flow, FLOW_ENDED);
    flows->in_state[FLOW_ENDED]--;
    while (*link != flow)
        link = &(*link)->next_in_bucket;
    *link = flow->next_in_bucket;
    if (flows->cursor == flow)
        flows->cursor = TAILQ_NEXT(flow, order);
    TAILQ_REMOVE(&flows->list, flow, order);
    free(flow->bias);
    free(flow->stop_ids);
    free(flow->tokens);
    free(flow);
}

static void send_cancel(struct flow *flow, const char *reason)
{
    struct message_head head = {
        FRAME_CANCEL, flow_key(flow), flow->attempt, 0, FRAME_NO_DEADLINE, &flow->request.trace
    };
    Baton__Cancel body = BATON__CANCEL__INIT;
    struct fleet_worker *worker = flow->worker;
    body.reason = (char *)reason;
    /* Before the Cancel, which must not be forgotten with the rest. */
    fleet_forget(worker, flow_key(flow), flow->attempt);
    (void)fleet_send(worker, &head, &body.base, true);
    fleet_uncount(worker, flow->counted);
    flow->worker = NULL;
}

static void flow_fail(struct flow *flow, enum flow_error error, const char *text)
{
    const struct flow_callbacks *callbacks = flow->request.callbacks;
    void *arg = flow->request.arg;
    char copy[256];
    snprintf(copy, sizeof copy, "%s", text);
    log_warn("request failed", "request=%llx.%llx attempts=%u reason=\"%s\"",
             (unsigned long long)flow->flows->options.incarnation, (unsigned long long)flow->seq, flow->attempt, copy);
    flow->flows->counters.failed++;
    if (flow->worker)
        send_cancel(flow, "failed");
    flow_free(flow);
    callbacks->on_error(arg, error, copy);
}

void flow_cancel(struct flow **handle, const char *reason)
{
    struct flow *flow = *handle;
    if (!flow)
        return;
    *handle = NULL;
    flow->flows->counters.cancelled++;
    if (flow->worker)
        send_cancel(flow, reason);
    flow_free(flow);
}

static void on_deadline(void *arg)
{
    flow_fail(arg, FLOW_DEADLINE, "the deadline of the request has passed");
}

/* ---- dispatch ------------------------------------------------------------------------ */

static void fill_sampling(const struct flow *flow, Baton__Sampling *out, Baton__LogitBias *bias, uint32_t *ids,
                          float *values)
{
    const struct sampling *s = &flow->request.sampling;
    baton__sampling__init(out);
    out->seed = s->seed;
    out->choice = s->choice;
    out->prompt_len = flow->request.n_prompt;
    out->max_tokens = s->max_tokens;
    out->min_tokens = s->min_tokens;
    out->temperature = s->temperature;
    out->top_p = s->top_p;
    out->min_p = s->min_p;
    out->top_k = s->top_k;
    out->repetition_penalty = s->repetition_penalty;
    out->presence_penalty = s->presence_penalty;
    out->frequency_penalty = s->frequency_penalty;
    out->ignore_eos = s->ignore_eos;
    out->n_logprobs = s->n_logprobs;
    out->want_hash = s->want_hash;
    out->stop_ids = flow->stop_ids;
    out->n_stop_ids = s->n_stop_ids;
    if (s->n_bias == 0)
        return;
    baton__logit_bias__init(bias);
    for (uint32_t i = 0; i < s->n_bias; i++) {
        ids[i] = flow->bias[i].id;
        values[i] = flow->bias[i].bias;
    }
    bias->ids = ids;
    bias->biases = values;
    bias->n_ids = bias->n_biases = s->n_bias;
    out->bias = bias;
}

static status send_generate(struct flow *flow, struct fleet_worker *worker)
{
    struct fleet_worker *prefills[MAX_PREFILL_CANDIDATES];
    Baton__Instance instances[MAX_PREFILL_CANDIDATES], *pointers[MAX_PREFILL_CANDIDATES];
    Baton__Generate body = BATON__GENERATE__INIT;
    Baton__Sampling sampling;
    Baton__LogitBias bias;
    uint32_t bias_ids[SAMPLING_MAX_BIAS];
    float bias_values[SAMPLING_MAX_BIAS];
    uint32_t n = fleet_rank_prefills(flow->flows->options.fleet, worker, prefills, MAX_PREFILL_CANDIDATES);
    for (uint32_t i = 0; i < n; i++) {
        baton__instance__init(&instances[i]);
        instances[i].id = prefills[i]->instance.id;
        instances[i].address = prefills[i]->instance.control;
        pointers[i] = &instances[i];
    }
    fill_sampling(flow, &sampling, &bias, bias_ids, bias_values);
    body.model = (char *)flow->request.model;
    body.tokens = flow->tokens;
    body.n_tokens = flow->n_tokens;
    body.sampling = &sampling;
    body.route = flow->request.route;
    body.prefills = pointers;
    body.n_prefills = n;
    body.no_cache = flow->request.no_cache;
    struct message_head head = { FRAME_GENERATE,      flow_key(flow), flow->attempt, 0, flow->request.deadline_us,
                                 &flow->request.trace };
    return fleet_send(worker, &head, &body.base, true);
}

static void try_dispatch(struct flow *flow);

static void on_retry(void *arg)
{
    try_dispatch(arg);
}

static enum flow_error error_of_waiting(const struct flow *flow)
{
    return flow->last_failure == BATON__FAILURE_CODE__FAILURE_BUSY ? FLOW_BUSY : FLOW_NO_WORKER;
}

/* Nobody takes it now: again soon, until its patience ends. */
static void wait_for_worker(struct flow *flow)
{
    struct flows *flows = flow->flows;
    uint64_t now = now_of(flows);
    if (now - flow->waiting_since_us >= flows->options.worker_wait_us) {
        flow_fail(flow, error_of_waiting(flow), flow->last_text[0] ? flow->last_text : "no decode worker is there");
        return;
    }
    uint64_t patience = flow->waiting_since_us + flows->options.worker_wait_us, retry = now + flow->retry_us;
    timer_set(flows->options.timers, &flow->retry, retry < patience ? retry : patience, on_retry, flow);
    flow->retry_us = 2 * flow->retry_us < RETRY_MAX_US ? 2 * flow->retry_us : RETRY_MAX_US;
}

static struct fleet_worker *pick(struct flow *flow)
{
    return fleet_pick_decode(flow->flows->options.fleet, flow->request.model, flow->n_tokens,
                             (const char(*)[64])flow->avoid, flow->n_avoid);
}

static void dispatch_to(struct flow *flow, struct fleet_worker *worker)
{
    struct flows *flows = flow->flows;
    timer_cancel(flows->options.timers, &flow->retry);
    if (flow->runs >= flows->options.max_attempts) {
        flow_fail(flow, flow->deaths ? FLOW_INTERNAL : error_of_waiting(flow),
                  flow->last_text[0] ? flow->last_text : "every attempt failed");
        return;
    }
    flow->attempt++;
    if (send_generate(flow, worker) != ST_OK) {
        wait_for_worker(flow);
        return;
    }
    flow->runs++;
    flow->worker = worker;
    flow->counted = flow->n_tokens;
    fleet_count(worker, flow->counted);
    flow->dispatched_us = now_of(flows);
    flow->resume_asked_us = 0;
    flows->counters.dispatched++;
    flows->counters.replayed += flow->attempt > 1 && flow->n_tokens > flow->request.n_prompt;
    flow_enter(flow, FLOW_DISPATCHED);
}

static void try_dispatch(struct flow *flow)
{
    struct fleet_worker *worker = pick(flow);
    if (worker)
        dispatch_to(flow, worker);
    else
        wait_for_worker(flow);
}

/* Back to waiting, and on at another worker at once where there is one. */
static void dispatch_again(struct flow *flow)
{
    ASSERT(flow->worker);
    if (flow->worker->up)
        send_cancel(flow, "replaced"); /* a Generate under way must not start it there once more */
    leave_worker(flow);
    flow_enter(flow, FLOW_WAITING);
    flow->waiting_since_us = now_of(flow->flows);
    flow->retry_us = RETRY_US;
    try_dispatch(flow);
}

static bool is_avoided(const struct flow *flow, const struct fleet_worker *worker)
{
    for (uint32_t i = 0; i < flow->n_avoid; i++)
        if (!strcmp(flow->avoid[i], worker->instance.id))
            return true;
    return false;
}

static void avoid_worker(struct flow *flow, const struct fleet_worker *worker)
{
    if (is_avoided(flow, worker))
        return;
    char *slot = flow->avoid[flow->n_avoid % MAX_AVOIDED];
    snprintf(slot, sizeof flow->avoid[0], "%s", worker->instance.id);
    if (flow->n_avoid < MAX_AVOIDED)
        flow->n_avoid++;
}

static void on_first_try(void *arg)
{
    try_dispatch(arg);
}

static status copy_request(struct flow *flow, const struct flow_request *request)
{
    const struct sampling *s = &request->sampling;
    flow->request = *request;
    flow->capacity = request->n_prompt + (s->max_tokens < 256 ? s->max_tokens : 256) + 1;
    flow->tokens = malloc(flow->capacity * sizeof *flow->tokens);
    flow->bias = s->n_bias ? malloc(s->n_bias * sizeof *flow->bias) : NULL;
    flow->stop_ids = s->n_stop_ids ? malloc(s->n_stop_ids * sizeof *flow->stop_ids) : NULL;
    if (!flow->tokens || (s->n_bias && !flow->bias) || (s->n_stop_ids && !flow->stop_ids))
        return ST_NO_MEMORY;
    memcpy(flow->tokens, request->prompt, request->n_prompt * sizeof *flow->tokens);
    flow->n_tokens = request->n_prompt;
    if (flow->bias)
        memcpy(flow->bias, s->bias, s->n_bias * sizeof *flow->bias);
    if (flow->stop_ids)
        memcpy(flow->stop_ids, s->stop_ids, s->n_stop_ids * sizeof *flow->stop_ids);
    flow->request.prompt = NULL;
    flow->request.sampling.bias = flow->bias;
    flow->request.sampling.stop_ids = flow->stop_ids;
    return ST_OK;
}

status flow_submit(struct flows *flows, const struct flow_request *request, struct flow **out)
{
    struct flow *flow = calloc(1, sizeof *flow);
    if (!flow)
        return ST_NO_MEMORY;
    if (copy_request(flow, request) != ST_OK) {
        free(flow->tokens);
        free(flow->bias);
        free(flow->stop_ids);
        free(flow);
        return ST_NO_MEMORY;
    }
    flow->flows = flows;
    flow->seq = ++flows->next_seq;
    flow->submitted_us = flow->waiting_since_us = now_of(flows);
    flow->retry_us = RETRY_US;
    flow->next_in_bucket = flows->buckets[flow->seq % FLOW_BUCKETS];
    flows->buckets[flow->seq % FLOW_BUCKETS] = flow;
    TAILQ_INSERT_TAIL(&flows->list, flow, order);
    flows->in_state[FLOW_WAITING]++;
    flows->counters.submitted++;
    timer_set(flows->options.timers, &flow->deadline, request->deadline_us, on_deadline, flow);
    timer_set(flows->options.timers, &flow->retry, flow->submitted_us, on_first_try, flow);
    *out = flow;
    return ST_OK;
}

/* ---- what comes back --------------------------------------------------------------------- */

static void send_resume(struct flow *flow)
{
    struct message_head head = {
        FRAME_RESUME, flow_key(flow), flow->attempt, 0, FRAME_NO_DEADLINE, &flow->request.trace
    };
    Baton__Resume body = BATON__RESUME__INIT;
    body.position = flow->n_tokens;
    flow->flows->counters.gaps_resumed++;
    flow->resume_asked_us = now_of(flow->flows);
    (void)fleet_send(flow->worker, &head, &body.base, true);
}

static void send_tokens_ack(struct fleet_worker *worker, struct request_key key, uint32_t attempt, uint32_t position)
{
    struct message_head head = { FRAME_TOKENS_ACK, key, attempt, 0, FRAME_NO_DEADLINE, NULL };
    Baton__TokensAck body = BATON__TOKENS_ACK__INIT;
    body.position = position;
    (void)fleet_send(worker, &head, &body.base, true);
}

/* The worker runs what nobody waits for: it frees all of it. */
static void send_stale(struct fleet_worker *worker, struct request_key key, uint32_t attempt)
{
    struct message_head head = { FRAME_STALE, key, attempt, 0, FRAME_NO_DEADLINE, NULL };
    Baton__Stale body = BATON__STALE__INIT;
    (void)fleet_send(worker, &head, &body.base, false);
}

static bool keep_tokens(struct flow *flow, const Baton__SequenceTokens *msg, size_t skip)
{
    size_t n = msg->n_tokens - skip;
    if (flow->n_tokens + n > flow->capacity) {
        size_t capacity = 2 * (flow->n_tokens + n);
        uint32_t *grown = realloc(flow->tokens, capacity * sizeof *grown);
        if (!grown)
            return false;
        flow->tokens = grown;
        flow->capacity = (uint32_t)capacity;
    }
    for (size_t i = 0; i < n; i++)
        flow->tokens[flow->n_tokens++] = msg->tokens[skip + i]->id;
    return true;
}

/* On to a worker that did not refuse yet; where all did, a little later. A
 * refusal is no attempt that ran, and its patience goes on where it stood. */
static void on_refusal(struct flow *flow)
{
    avoid_worker(flow, flow->worker);
    leave_worker(flow);
    flow->runs -= flow->state == FLOW_DISPATCHED;
    flow_enter(flow, FLOW_WAITING);
    flow->waiting_since_us += now_of(flow->flows) - flow->dispatched_us;
    struct fleet_worker *other = pick(flow);
    if (other && !is_avoided(flow, other))
        dispatch_to(flow, other);
    else
        wait_for_worker(flow);
}

static void on_failure(struct flow *flow, const Baton__Failure *failure)
{
    const char *text = failure ? failure->text : "the worker failed";
    Baton__FailureCode code = failure ? (Baton__FailureCode)failure->code : BATON__FAILURE_CODE__FAILURE_INTERNAL;
    flow->last_failure = code;
    snprintf(flow->last_text, sizeof flow->last_text, "%s", text);
    if (failure && failure->retry) {
        on_refusal(flow);
        return;
    }
    flow_fail(flow,
              code == BATON__FAILURE_CODE__FAILURE_INVALID || code == BATON__FAILURE_CODE__FAILURE_LIMIT ? FLOW_INVALID
              : code == BATON__FAILURE_CODE__FAILURE_DEADLINE                                            ? FLOW_DEADLINE
                                                              : FLOW_INTERNAL,
              text);
}

static void on_finish(struct flow *flow, const Baton__SequenceTokens *msg)
{
    const struct flow_callbacks *callbacks = flow->request.callbacks;
    void *arg = flow->request.arg;
    uint64_t now = now_of(flow->flows);
    struct flow_timing timing = {
        .wait_us = flow->dispatched_us - flow->submitted_us,
        .first_token_us = flow->first_token_us ? flow->first_token_us - flow->submitted_us : 0,
        .total_us = now - flow->submitted_us,
        .attempts = flow->attempt,
        .worker = msg->timing,
    };
    ASSERT(flow->worker);
    flow->flows->counters.finished++;
    send_tokens_ack(flow->worker, flow_key(flow), flow->attempt, flow->n_tokens);
    /* The worker is done with it: nothing is cancelled, and the acknowledgement is not forgotten. */
    fleet_uncount(flow->worker, flow->counted);
    flow->worker->faults = 0;
    flow->worker = NULL;
    flow_free(flow);
    callbacks->on_finish(arg, msg->finish, &timing);
}

/* New tokens go to the client, in a call that may cancel the flow: false then. */
static bool deliver(struct flows *flows, struct flow *flow, const Baton__SequenceTokens *msg, size_t skip)
{
    struct request_key key = flow_key(flow);
    uint32_t position = flow->n_tokens;
    if (msg->n_tokens == skip)
        return true;
    uint64_t most = (uint64_t)flow->request.n_prompt + flow->request.sampling.max_tokens;
    if (flow->n_tokens + (uint64_t)(msg->n_tokens - skip) > most + (flow->request.sampling.max_tokens == 0)) {
        flow_fail(flow, FLOW_INTERNAL, "the worker sent more tokens than were asked for");
        return false;
    }
    if (!keep_tokens(flow, msg, skip)) {
        flow_fail(flow, FLOW_INTERNAL, "out of memory");
        return false;
    }
    if (!flow->first_token_us)
        flow->first_token_us = now_of(flows);
    if (flow->state == FLOW_DISPATCHED)
        flow_enter(flow, FLOW_STREAMING);
    flow->resume_asked_us = 0;
    flow->request.callbacks->on_tokens(flow->request.arg, position, (const Baton__Token *const *)msg->tokens + skip,
                                       msg->n_tokens - skip);
    return flow_find(flows, key) == flow;
}

static void on_sequence(struct flows *flows, struct fleet_worker *worker, const Baton__SequenceTokens *msg)
{
    struct request_key key = { msg->router, msg->seq };
    struct flow *flow = flow_find(flows, key);
    if (!flow || flow->worker != worker || flow->attempt != msg->attempt) {
        /* Over, or on elsewhere: the worker may forget it. */
        flows->counters.stale++;
        if (msg->finish)
            send_tokens_ack(worker, key, msg->attempt, UINT32_MAX);
        else
            send_stale(worker, key, msg->attempt);
        return;
    }
    if (msg->finish == BATON__FINISH__FINISH_FAILED) {
        on_failure(flow, msg->failure);
        return;
    }
    if (msg->position > flow->n_tokens) {
        if (!flow->resume_asked_us || msg->finish || now_of(flows) - flow->resume_asked_us >= RESUME_AGAIN_US)
            send_resume(flow);
        return;
    }
    size_t skip = flow->n_tokens - msg->position;
    if (skip > msg->n_tokens)
        skip = msg->n_tokens;
    flows->counters.repeats_dropped += skip;
    if (deliver(flows, flow, msg, skip) && msg->finish)
        on_finish(flow, msg);
}

void flows_on_tokens(struct flows *flows, struct fleet_worker *worker, const struct frame *frame,
                     const Baton__Tokens *msg)
{
    (void)frame;
    for (size_t i = 0; i < msg->n_sequences; i++)
        on_sequence(flows, worker, msg->sequences[i]);
}

void flows_on_stale(struct flows *flows, struct fleet_worker *worker, const struct frame *frame)
{
    struct flow *flow = flow_find(flows, frame->key);
    flows->counters.stale++;
    if (flow && flow->worker == worker && flow->attempt == frame->attempt)
        dispatch_again(flow);
}

/* ---- workers come and go ---------------------------------------------------------------- */

/* Of a walk that began with cursor at the first one. */
static struct flow *next_flow(struct flows *flows)
{
    struct flow *flow = flows->cursor;
    if (flow)
        flows->cursor = TAILQ_NEXT(flow, order);
    return flow;
}

void flows_on_worker_lost(struct flows *flows, struct fleet_worker *worker, bool restarted_or_dead)
{
    struct flow *flow;
    flows->cursor = TAILQ_FIRST(&flows->list);
    while ((flow = next_flow(flows))) {
        if (flow->worker != worker)
            continue;
        avoid_worker(flow, worker);
        if (restarted_or_dead && ++flow->deaths >= MAX_DEATHS)
            flow_fail(flow, FLOW_INTERNAL, "three workers were lost while they ran this request");
        else
            dispatch_again(flow);
    }
}

void flows_on_worker_again(struct flows *flows, struct fleet_worker *worker, Baton__Live *const *live, size_t n_live)
{
    struct flow *flow;
    flows->cursor = TAILQ_FIRST(&flows->list);
    while ((flow = next_flow(flows))) {
        if (flow->worker != worker)
            continue;
        bool held = false;
        for (size_t i = 0; i < n_live && !held; i++)
            held = live[i]->router == flows->options.incarnation && live[i]->seq == flow->seq &&
                   live[i]->attempt == flow->attempt;
        if (!held)
            dispatch_again(flow);
    }
}

size_t flows_live(struct flows *flows, struct fleet_worker *worker, Baton__Live *out, size_t max)
{
    size_t n = 0;
    const struct flow *flow;
    TAILQ_FOREACH(flow, &flows->list, order)
    {
        if (flow->worker != worker || n == max)
            continue;
        baton__live__init(&out[n]);
        out[n].router = flows->options.incarnation;
        out[n].seq = flow->seq;
        out[n++].attempt = flow->attempt;
    }
    return n;
}

void flows_on_worker_ready(struct flows *flows)
{
    struct flow *flow;
    flows->cursor = TAILQ_FIRST(&flows->list);
    while ((flow = next_flow(flows))) {
        if (flow->state == FLOW_WAITING)
            try_dispatch(flow);
    }
}

/* ---- all of them -------------------------------------------------------------------------- */

status flows_create(const struct flows_options *options, struct flows **out)
{
    struct flows *flows = calloc(1, sizeof *flows);
    if (!flows)
        return ST_NO_MEMORY;
    flows->options = *options;
    TAILQ_INIT(&flows->list);
    *out = flows;
    return ST_OK;
}

void flows_destroy(struct flows **flows)
{
    struct flow *flow;
    if (!*flows)
        return;
    while ((flow = TAILQ_FIRST(&(*flows)->list)))
        flow_cancel(&flow, "router_stops");
    free(*flows);
    *flows = NULL;
}

const struct flow_counters *flows_counters(const struct flows *flows)
{
    return &flows->counters;
}

uint32_t flows_in_state(const struct flows *flows, enum flow_state state)
{
    return flows->in_state[state];
}
