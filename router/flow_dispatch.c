#include <stdio.h>
#include <string.h>

#include "proto/kv_events.h"
#include "router/flow_internal.h"
#include "router/kv_view.h"

#define RETRY_MAX_US 800000u
#define MAX_HOLDINGS 32u /* of those that hold most of a prompt */

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
    out->adapter = (char *)flow->request.adapter;
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

static ProtobufCBinaryData salt_bytes(struct block_hash salt, uint8_t bytes[BLOCK_HASH_BYTES])
{
    if (block_hash_equal(salt, (struct block_hash){ 0, 0 }))
        return (ProtobufCBinaryData){ 0, NULL };
    kv_sequence_write(salt.high, bytes);
    kv_sequence_write(salt.low, bytes + 8);
    return (ProtobufCBinaryData){ BLOCK_HASH_BYTES, bytes };
}

_Static_assert((int)PICK_ROUTE_AUTO == (int)BATON__ROUTE__ROUTE_AUTO &&
                   (int)PICK_ROUTE_LOCAL == (int)BATON__ROUTE__ROUTE_LOCAL &&
                   (int)PICK_ROUTE_REMOTE == (int)BATON__ROUTE__ROUTE_REMOTE,
               "routes have the numbers of the wire");

static status send_generate(struct flow *flow, const struct fleet_picked *picked, uint64_t number)
{
    Baton__Instance instances[PICK_MAX_RANKED], *pointers[PICK_MAX_RANKED];
    Baton__Generate body = BATON__GENERATE__INIT;
    Baton__Sampling sampling;
    Baton__LogitBias bias;
    uint32_t bias_ids[SAMPLING_MAX_BIAS];
    float bias_values[SAMPLING_MAX_BIAS];
    uint8_t salt[BLOCK_HASH_BYTES];
    uint32_t n = picked->n_prefills;
    for (uint32_t i = 0; i < n; i++) {
        baton__instance__init(&instances[i]);
        instances[i].id = picked->prefills[i]->instance.id;
        instances[i].address = picked->prefills[i]->instance.control;
        pointers[i] = &instances[i];
    }
    fill_sampling(flow, &sampling, &bias, bias_ids, bias_values);
    body.model = (char *)flow->request.model;
    body.tokens = flow->tokens;
    body.n_tokens = flow->n_tokens;
    body.sampling = &sampling;
    body.route = (Baton__Route)picked->route;
    body.prefills = pointers;
    body.n_prefills = n;
    body.no_cache = flow->request.no_cache;
    body.priority = flow->request.priority;
    body.salt = salt_bytes(flow->request.salt, salt);
    body.dispatch = number;
    struct message_head head = { FRAME_GENERATE,      flow_key(flow), flow->attempt, 0, flow->request.deadline_us,
                                 &flow->request.trace };
    return fleet_send(picked->decode, &head, &body.base, true);
}

static void on_retry(void *arg)
{
    flow_dispatch(arg);
}

static enum flow_error error_of_waiting(const struct flow *flow)
{
    return flow->last_failure == BATON__FAILURE_CODE__FAILURE_BUSY ? FLOW_BUSY : FLOW_NO_WORKER;
}

static void say_why_waiting(const struct flow *flow, char *text, size_t size)
{
    if (flow->last_text[0])
        snprintf(text, size, "%s", flow->last_text);
    else if (flow->class[0] && fleet_has_decode(flow->flows->options.fleet, flow->request.model))
        snprintf(text, size, "no worker of the class %s, in which the answer began, is left", flow->class);
    else
        snprintf(text, size, "no decode worker is there");
}

/* Nobody takes it now: again soon, until its patience ends. */
static void wait_for_worker(struct flow *flow)
{
    struct flows *flows = flow->flows;
    uint64_t now = flows_now(flows);
    if (now - flow->waiting_since_us >= flows->options.worker_wait_us) {
        char text[160];
        say_why_waiting(flow, text, sizeof text);
        flow_fail(flow, error_of_waiting(flow), text);
        return;
    }
    uint64_t patience = flow->waiting_since_us + flows->options.worker_wait_us, retry = now + flow->retry_us;
    timer_set(flows->options.timers, &flow->retry, retry < patience ? retry : patience, on_retry, flow);
    flow->retry_us = 2 * flow->retry_us < RETRY_MAX_US ? 2 * flow->retry_us : RETRY_MAX_US;
}

/* Who holds what of the tokens; they are hashed once for all workers. */
static uint32_t find_holdings(const struct flow *flow, struct fleet_holding out[MAX_HOLDINGS])
{
    struct kv_match matches[MAX_HOLDINGS];
    const struct kv_prompt prompt = { .model = flow->request.model,
                                      .adapter = flow->request.adapter,
                                      .salt = flow->request.salt,
                                      .tokens = flow->tokens,
                                      .n_tokens = flow->n_tokens };
    if (flow->request.no_cache)
        return 0;
    uint32_t n = kv_view_find(flow->flows->options.kv_view, &prompt, matches, MAX_HOLDINGS);
    for (uint32_t i = 0; i < n; i++) {
        out[i].id = matches[i].id;
        out[i].number = matches[i].number;
        memcpy(out[i].tokens, matches[i].tokens, sizeof out[i].tokens);
    }
    return n;
}

/* An answer stays in its class while that has a worker. */
static bool pick_worker(struct flow *flow, struct fleet_picked *out)
{
    struct fleet *fleet = flow->flows->options.fleet;
    struct fleet_holding holdings[MAX_HOLDINGS];
    struct fleet_ask ask = {
        .want = { flow->request.model, flow->request.adapter, flow->class },
        .avoid = (const char(*)[64])flow->avoid,
        .n_avoid = flow->n_avoid,
        .n_tokens = flow->n_tokens,
        .route = (enum pick_route)flow->request.route,
        .holdings = holdings,
        .n_holdings = find_holdings(flow, holdings),
    };
    if (fleet_pick(fleet, &ask, out))
        return true;
    ask.want.class = "";
    return flow->class[0] && !flow->flows->options.keep_class && fleet_pick(fleet, &ask, out);
}

/* What the workers' figures do not hold yet: the context at one, the tokens to compute at the other. */
static void count(struct flow *flow, const struct fleet_picked *picked, uint64_t number)
{
    fleet_count(picked->decode, &flow->dispatch, number, flow->n_tokens);
    if (picked->n_prefills == 0)
        return;
    fleet_count_remote(&flow->dispatch);
    fleet_count(picked->prefills[0], &flow->help, number, picked->predicted.computed);
}

static void dispatch_to(struct flow *flow, const struct fleet_picked *picked)
{
    struct flows *flows = flow->flows;
    timer_cancel(flows->options.timers, &flow->retry);
    if (flow->runs >= flows->options.max_attempts) {
        flow_fail(flow, flow->deaths ? FLOW_INTERNAL : error_of_waiting(flow),
                  flow->last_text[0] ? flow->last_text : "every attempt failed");
        return;
    }
    flow->attempt++;
    uint64_t number = fleet_next_number(flows->options.fleet);
    if (send_generate(flow, picked, number) != ST_OK) {
        wait_for_worker(flow);
        return;
    }
    flow->runs++;
    flow->worker = picked->decode;
    flow->predicted = picked->predicted;
    flow->told = false;
    flow_log_decision(flow);
    count(flow, picked, number);
    flow->dispatched_us = flows_now(flows);
    flow->resume_asked_us = 0;
    flows->counters.dispatched++;
    flows->counters.replayed += flow->attempt > 1 && flow->n_tokens > flow->request.n_prompt;
    flow_enter(flow, FLOW_DISPATCHED);
}

void flow_dispatch(struct flow *flow)
{
    struct fleet_picked picked;
    if (pick_worker(flow, &picked))
        dispatch_to(flow, &picked);
    else
        wait_for_worker(flow);
}

void flow_dispatch_again(struct flow *flow)
{
    ASSERT(flow->worker);
    if (flow->worker->up)
        flow_send_cancel(flow, "replaced"); /* a Generate under way must not start it there once more */
    flow_leave_worker(flow);
    flow_enter(flow, FLOW_WAITING);
    flow->waiting_since_us = flows_now(flow->flows);
    flow->retry_us = FLOW_RETRY_US;
    flow_dispatch(flow);
}

static bool is_avoided(const struct flow *flow, const struct fleet_worker *worker)
{
    for (uint32_t i = 0; i < flow->n_avoid; i++)
        if (!strcmp(flow->avoid[i], worker->instance.id))
            return true;
    return false;
}

void flow_avoid(struct flow *flow, const struct fleet_worker *worker)
{
    if (is_avoided(flow, worker))
        return;
    char *slot = flow->avoid[flow->n_avoid % FLOW_MAX_AVOIDED];
    snprintf(slot, sizeof flow->avoid[0], "%s", worker->instance.id);
    if (flow->n_avoid < FLOW_MAX_AVOIDED)
        flow->n_avoid++;
}

/* A refusal is no attempt that ran, and its patience goes on where it stood. */
void flow_dispatch_elsewhere(struct flow *flow)
{
    flow_avoid(flow, flow->worker);
    flow_leave_worker(flow);
    flow->runs -= flow->state == FLOW_DISPATCHED;
    flow_enter(flow, FLOW_WAITING);
    flow->waiting_since_us += flows_now(flow->flows) - flow->dispatched_us;
    struct fleet_picked picked;
    if (pick_worker(flow, &picked) && !is_avoided(flow, picked.decode))
        dispatch_to(flow, &picked);
    else
        wait_for_worker(flow);
}
