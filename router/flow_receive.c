#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "router/flow_internal.h"

#define RESUME_AGAIN_US 250000u

static void send_resume(struct flow *flow)
{
    struct message_head head = {
        FRAME_RESUME, flow_key(flow), flow->attempt, 0, FRAME_NO_DEADLINE, &flow->request.trace
    };
    Baton__Resume body = BATON__RESUME__INIT;
    body.position = flow->n_tokens;
    flow->flows->counters.gaps_resumed++;
    flow->resume_asked_us = flows_now(flow->flows);
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

static void on_failure(struct flow *flow, const Baton__Failure *failure)
{
    const char *text = failure ? failure->text : "the worker failed";
    Baton__FailureCode code = failure ? (Baton__FailureCode)failure->code : BATON__FAILURE_CODE__FAILURE_INTERNAL;
    flow->last_failure = code;
    snprintf(flow->last_text, sizeof flow->last_text, "%s", text);
    if (failure && failure->retry) {
        flow_dispatch_elsewhere(flow);
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
    struct flow_timing timing;
    ASSERT(flow->worker);
    flow_timing(flow, &timing);
    flow->flows->counters.finished++;
    send_tokens_ack(flow->worker, flow_key(flow), flow->attempt, flow->n_tokens);
    /* The worker is done with it: nothing is cancelled, and the acknowledgement is not forgotten. */
    flow_uncount(flow);
    fleet_forgive(flow->worker);
    flow->worker = NULL;
    flow_free(flow);
    callbacks->on_finish(arg, msg->finish, &timing);
}

/* Tokens have come from the flow's worker. */
static void note_class(struct flow *flow)
{
    const char *class = flow->worker->instance.class;
    if (!strcmp(flow->class, class))
        return;
    if (flow->class[0]) {
        flow->flows->counters.class_changed += !flow->class_changed;
        flow->class_changed = true;
        log_warn("answer changes its class", "request=%llx.%llx from=%s to=%s",
                 (unsigned long long)flow->flows->options.incarnation, (unsigned long long)flow->seq, flow->class,
                 class);
    }
    snprintf(flow->class, sizeof flow->class, "%s", class);
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
        flow->first_token_us = flows_now(flows);
    if (flow->state == FLOW_DISPATCHED) {
        flow_enter(flow, FLOW_STREAMING);
        fleet_prompt_done(&flow->dispatch);
        if (flow->help.worker)
            fleet_uncount(flow->help.worker, &flow->help);
    }
    flow->resume_asked_us = 0;
    note_class(flow);
    flow->request.callbacks->on_tokens(flow->request.arg, position, (const Baton__Token *const *)msg->tokens + skip,
                                       msg->n_tokens - skip);
    return flows_find(flows, key) == flow;
}

static void on_sequence(struct flows *flows, struct fleet_worker *worker, const Baton__SequenceTokens *msg)
{
    struct request_key key = { msg->router, msg->seq };
    struct flow *flow = flows_find(flows, key);
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
        if (!flow->resume_asked_us || msg->finish || flows_now(flows) - flow->resume_asked_us >= RESUME_AGAIN_US)
            send_resume(flow);
        return;
    }
    size_t skip = flow->n_tokens - msg->position;
    if (skip > msg->n_tokens)
        skip = msg->n_tokens;
    flows->counters.repeats_dropped += skip;
    if (msg->timing && !flow->told)
        flow_learn(flow, msg->timing);
    if (msg->timing)
        flow->request.callbacks->on_timing(flow->request.arg, msg->timing);
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
    struct flow *flow = flows_find(flows, frame->key);
    flows->counters.stale++;
    if (flow && flow->worker == worker && flow->attempt == frame->attempt)
        flow_dispatch_again(flow);
}
