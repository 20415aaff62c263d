#include <string.h>

#include "router/flow_internal.h"

#define LEAST_US 1000u /* errors of shorter times are told as shares of this */

/* Microseconds, as they came. */
struct outcome {
    bool is_remote;
    struct fleet_worker *computed_at; /* NULL: not known any more */
    uint32_t computed;
    uint32_t fetched; /* tokens that came from below the device, or from others */
    enum kv_tier source;
    uint64_t us[FLOW_PREDICTED_COUNT];
};

static struct fleet_worker *where_computed(struct flow *flow, const Baton__Timing *timing)
{
    struct fleet_worker *helper = flow->help.worker;
    const char *id = timing->prefill_worker;
    if (helper && !strcmp(helper->instance.id, id))
        return helper;
    if (!strcmp(flow->worker->instance.id, id))
        return flow->worker;
    return fleet_find(flow->flows->options.fleet, id);
}

/* Where most of what was fetched came from. */
static void note_fetched(const Baton__Timing *timing, struct outcome *out)
{
    uint32_t most = 0;
    for (size_t tier = KV_TIER_DEVICE + 1; tier < timing->n_cached_tokens && tier < KV_TIER_COUNT; tier++) {
        out->fetched += timing->cached_tokens[tier];
        if (timing->cached_tokens[tier] > most) {
            most = timing->cached_tokens[tier];
            out->source = (enum kv_tier)tier;
        }
    }
}

/* Fetching and computing are one time to the worker: what computing alone should take is known from prompts of which
 * nothing was fetched, the rest is the fetch. */
static void split_pull(const struct flow *flow, struct outcome *o)
{
    uint64_t whole = o->us[FLOW_PREDICTED_PREFILL], compute = flow->predicted.prefill_us;
    if (!o->fetched)
        return;
    o->us[FLOW_PREDICTED_PREFILL] = whole < compute ? whole : compute;
    o->us[FLOW_PREDICTED_PULL] = whole - o->us[FLOW_PREDICTED_PREFILL];
}

static void read_timing(struct flow *flow, const Baton__Timing *timing, struct outcome *out)
{
    *out = (struct outcome){ .is_remote = !strcmp(timing->route, "remote"),
                             .computed_at = where_computed(flow, timing),
                             .computed = timing->computed_tokens,
                             .source = KV_TIER_DEVICE };
    out->us[FLOW_PREDICTED_QUEUE] = out->is_remote ? timing->prefill_queue_us : timing->queue_us;
    out->us[FLOW_PREDICTED_PREFILL] = timing->prefill_us;
    out->us[FLOW_PREDICTED_HANDOFF] = out->is_remote ? timing->handoff_us : 0;
    note_fetched(timing, out);
    split_pull(flow, out);
}

static void learn(struct flow *flow, const Baton__Timing *timing, const struct outcome *o)
{
    struct fleet_worker *at = o->computed_at;
    if (!at)
        return;
    if (!o->fetched)
        fleet_learn_prefill(at, flow->dispatch.n_tokens, o->computed, timing->prefill_us);
    else if (o->us[FLOW_PREDICTED_PULL] > 0)
        fleet_learn_pull(at, o->source, fleet_kv_bytes(at, o->fetched), o->us[FLOW_PREDICTED_PULL]);
    if (o->is_remote)
        fleet_learn_handoff(flow->worker, strcmp(at->instance.host, flow->worker->instance.host) != 0,
                            timing->moved_bytes, timing->handoff_us);
}

static double error_of(uint64_t predicted, uint64_t real)
{
    uint64_t far = predicted > real ? predicted - real : real - predicted;
    return (double)far / (double)(real > LEAST_US ? real : LEAST_US);
}

static void compare(const struct flow *flow, const struct outcome *o)
{
    const struct pick_parts *p = &flow->predicted;
    const uint64_t predicted[] = { p->wait_us, p->prefill_us, p->pull_us, p->handoff_us };
    for (int i = 0; i < FLOW_PREDICTED_COUNT; i++) {
        struct metric *m = flow->flows->options.prediction_error[i];
        bool part =
            (i != FLOW_PREDICTED_PULL || o->fetched || p->pulled) && (i != FLOW_PREDICTED_HANDOFF || o->is_remote);
        if (m && part)
            metric_observe_us(m, (uint64_t)(1e6 * error_of(predicted[i], o->us[i])));
    }
}

void flow_learn(struct flow *flow, const Baton__Timing *timing)
{
    struct outcome outcome;
    flow->told = true;
    read_timing(flow, timing, &outcome);
    /* A prompt that was preempted, or computed in several legs, teaches nothing. */
    if (timing->legs > 1 || timing->preempted > 0 || outcome.computed == 0)
        return;
    if (outcome.is_remote == flow->dispatch.is_remote)
        compare(flow, &outcome);
    learn(flow, timing, &outcome);
}
