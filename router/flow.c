#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "router/flow_internal.h"

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

void flow_enter(struct flow *flow, enum flow_state state)
{
    struct flows *flows = flow->flows;
    ASSERT(legal_next[flow->state] & (1u << state));
    flows->in_state[flow->state]--;
    flows->in_state[state]++;
    flow->state = state;
}

struct request_key flow_key(const struct flow *flow)
{
    return (struct request_key){ flow->flows->options.incarnation, flow->seq };
}

void flow_timing(const struct flow *flow, struct flow_timing *out)
{
    *out = (struct flow_timing){
        .wait_us = flow->dispatched_us - flow->submitted_us,
        .first_token_us = flow->first_token_us ? flow->first_token_us - flow->submitted_us : 0,
        .total_us = flows_now(flow->flows) - flow->submitted_us,
        .attempts = flow->attempt,
        .class_changed = flow->class_changed,
    };
    text_copy(out->class, sizeof out->class, flow->class);
}

const char *flow_worker_id(const struct flow *flow)
{
    return flow->worker ? flow->worker->instance.id : "";
}

/* ---- ending -------------------------------------------------------------------- */

void flow_uncount(struct flow *flow)
{
    if (flow->dispatch.worker)
        fleet_uncount(flow->dispatch.worker, &flow->dispatch);
    if (flow->help.worker)
        fleet_uncount(flow->help.worker, &flow->help);
}

void flow_leave_worker(struct flow *flow)
{
    if (!flow->worker)
        return;
    fleet_forget(flow->worker, flow_key(flow), flow->attempt);
    flow_uncount(flow);
    flow->worker = NULL;
}

void flow_free(struct flow *flow)
{
    struct flows *flows = flow->flows;
    struct flow **link = &flows->buckets[flow->seq % FLOW_BUCKETS];
    flow_leave_worker(flow);
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

void flow_send_cancel(struct flow *flow, const char *reason)
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
    flow_uncount(flow);
    flow->worker = NULL;
}

void flow_fail(struct flow *flow, enum flow_error error, const char *text)
{
    const struct flow_callbacks *callbacks = flow->request.callbacks;
    void *arg = flow->request.arg;
    char copy[256];
    snprintf(copy, sizeof copy, "%s", text);
    log_warn("request failed", "request=%llx.%llx attempts=%u reason=\"%s\"",
             (unsigned long long)flow->flows->options.incarnation, (unsigned long long)flow->seq, flow->attempt, copy);
    flow->flows->counters.failed++;
    if (flow->worker)
        flow_send_cancel(flow, "failed");
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
        flow_send_cancel(flow, reason);
    flow_free(flow);
}

static void on_deadline(void *arg)
{
    flow_fail(arg, FLOW_DEADLINE, "the deadline of the request has passed");
}

/* ---- beginning ----------------------------------------------------------------- */

static void on_first_try(void *arg)
{
    flow_dispatch(arg);
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

static void insert_by_priority(struct flows *flows, struct flow *flow)
{
    struct flow *before = TAILQ_LAST(&flows->list, flow_list);
    while (before && before->request.priority > flow->request.priority)
        before = TAILQ_PREV(before, flow_list, order);
    if (before)
        TAILQ_INSERT_AFTER(&flows->list, before, flow, order);
    else
        TAILQ_INSERT_HEAD(&flows->list, flow, order);
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
    flow->submitted_us = flow->waiting_since_us = flows_now(flows);
    flow->retry_us = FLOW_RETRY_US;
    flow->next_in_bucket = flows->buckets[flow->seq % FLOW_BUCKETS];
    flows->buckets[flow->seq % FLOW_BUCKETS] = flow;
    insert_by_priority(flows, flow);
    flows->in_state[FLOW_WAITING]++;
    flows->counters.submitted++;
    timer_set(flows->options.timers, &flow->deadline, request->deadline_us, on_deadline, flow);
    timer_set(flows->options.timers, &flow->retry, flow->submitted_us, on_first_try, flow);
    *out = flow;
    return ST_OK;
}
