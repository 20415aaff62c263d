#include <stdio.h>
#include <string.h>

#include "proto/kv_events.h"
#include "router/fetch_hints.h"
#include "router/flow_internal.h"
#include "router/kv_view.h"

#define RETRY_MAX_US 800000u
#define MAX_HOLDINGS 32u /* of those that hold most of a prompt */

/* Whom a flow is to go to, and who holds what of its tokens. */
struct chosen {
    struct fleet_picked picked;
    struct kv_match matches[MAX_HOLDINGS]; /* what they name is borrowed until the index is told of something */
    uint32_t n_matches;
};

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

struct packed_hints {
    Baton__Holding holdings[FETCH_HINTS_MAX], *pointers[FETCH_HINTS_MAX];
    Baton__Instance instances[FETCH_HINTS_MAX];
};

/* Who may be asked for KV. */
static void fill_have(const struct flow *flow, const struct chosen *chosen, struct packed_hints *packed,
                      Baton__Generate *body)
{
    const struct fleet_picked *picked = &chosen->picked;
    const struct fetch_ask ask = { .matches = chosen->matches,
                                   .n_matches = chosen->n_matches,
                                   .n_tokens = flow->n_tokens,
                                   .decode = &picked->decode->instance,
                                   .prefill = picked->n_prefills ? &picked->prefills[0]->instance : NULL };
    struct fetch_hint hints[FETCH_HINTS_MAX];
    body->have = packed->pointers;
    body->n_have = fetch_hints_choose(&ask, hints);
    for (size_t i = 0; i < body->n_have; i++) {
        packed->pointers[i] = &packed->holdings[i];
        baton__holding__init(&packed->holdings[i]);
        baton__instance__init(&packed->instances[i]);
        packed->instances[i].id = (char *)hints[i].holder->id;
        packed->instances[i].address = (char *)hints[i].holder->address;
        packed->holdings[i].instance = &packed->instances[i];
        packed->holdings[i].tokens = hints[i].tokens;
        packed->holdings[i].tier = (uint32_t)hints[i].tier;
    }
}

static status send_generate(struct flow *flow, const struct chosen *chosen, uint64_t number)
{
    const struct fleet_picked *picked = &chosen->picked;
    struct packed_hints hints;
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
    fill_have(flow, chosen, &hints, &body);
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

/* Who holds what of the tokens and can be asked for it; they are hashed once for all workers. */
static uint32_t find_holders(const struct flow *flow, struct kv_match out[MAX_HOLDINGS])
{
    const struct kv_prompt prompt = { .model = flow->request.model,
                                      .adapter = flow->request.adapter,
                                      .salt = flow->request.salt,
                                      .tokens = flow->tokens,
                                      .n_tokens = flow->n_tokens };
    uint32_t found, n = 0;
    if (flow->request.no_cache)
        return 0;
    found = kv_view_find(flow->flows->options.kv_view, &prompt, out, MAX_HOLDINGS);
    for (uint32_t i = 0; i < found; i++)
        if (out[i].address[0])
            out[n++] = out[i];
    return n;
}

static struct fleet_holding holding_of(const struct kv_match *m)
{
    struct fleet_holding out = { .id = m->id, .number = m->number, .weights = m->weights };
    memcpy(out.tokens, m->tokens, sizeof out.tokens);
    if (!strcmp(m->role, "kvbm")) {
        out.host = m->host;
        out.format = m->format;
    }
    return out;
}

/* An answer stays in its class while that has a worker. */
static bool pick_worker(struct flow *flow, struct chosen *out)
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
    };
    out->n_matches = ask.n_holdings = find_holders(flow, out->matches);
    for (uint32_t i = 0; i < out->n_matches; i++)
        holdings[i] = holding_of(&out->matches[i]);
    if (fleet_pick(fleet, &ask, &out->picked))
        return true;
    ask.want.class = "";
    return flow->class[0] && !flow->flows->options.keep_class && fleet_pick(fleet, &ask, &out->picked);
}

/* What the workers' figures do not hold yet: the context at one, the tokens to compute at the other. */
static void count(struct flow *flow, const struct fleet_picked *picked, uint64_t number)
{
    fleet_count(picked->decode, &flow->dispatch, number, flow->n_tokens);
    if (picked->n_prefills == 0)
        return;
    fleet_count_remote(&flow->dispatch);
    fleet_count(picked->prefills[0], &flow->help, number, picked->predicted.computed);
    fleet_count_most(&flow->help, flow->n_tokens);
}

static void dispatch_to(struct flow *flow, const struct chosen *chosen)
{
    struct flows *flows = flow->flows;
    const struct fleet_picked *picked = &chosen->picked;
    timer_cancel(flows->options.timers, &flow->retry);
    if (flow->runs >= flows->options.max_attempts) {
        flow_fail(flow, flow->deaths ? FLOW_INTERNAL : error_of_waiting(flow),
                  flow->last_text[0] ? flow->last_text : "every attempt failed");
        return;
    }
    flow->attempt++;
    uint64_t number = fleet_next_number(flows->options.fleet);
    if (send_generate(flow, chosen, number) != ST_OK) {
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
    struct chosen chosen;
    if (pick_worker(flow, &chosen))
        dispatch_to(flow, &chosen);
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
    struct chosen chosen;
    if (pick_worker(flow, &chosen) && !is_avoided(flow, chosen.picked.decode))
        dispatch_to(flow, &chosen);
    else
        wait_for_worker(flow);
}
