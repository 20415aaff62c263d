#include <string.h>

#include "router/flow_internal.h"

#define MISSED_COUNTS                                                                                                  \
    2u /* times what it cost, so that computing is predicted from then on, and not either by turns                     \
        */

/* A worker links to a holder when it first wants something of it, and computes meanwhile: that says nothing yet. */
#define MISSED_PATIENCE_US 1000000u
#define MISSED_MEMORY_US   60000000u

/* What a worker's timing says of a prompt. */
struct fared {
    bool is_remote;
    struct fleet_worker *computed_at; /* NULL: not known any more */
    uint32_t fetched;                 /* tokens that came from below the device, or from others */
    bool was_missed;     /* none did that should have: they were computed, which is what fetching costs there */
    enum kv_tier source; /* the slowest of those that they came from, as in a prediction */
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

static void read_cached(const Baton__Timing *timing, struct fared *fared, uint32_t cached[KV_TIER_COUNT])
{
    for (size_t tier = 0; tier < timing->n_cached_tokens && tier < KV_TIER_COUNT; tier++) {
        cached[tier] = timing->cached_tokens[tier];
        if (tier == KV_TIER_DEVICE)
            continue;
        fared->fetched += cached[tier];
        if (cached[tier])
            fared->source = (enum kv_tier)tier;
    }
}

/* What prefill fetched of what decode had is told as decode's: it is what prefill neither had nor computed. */
static void note_fetched(const struct flow *flow, const Baton__Timing *timing, struct fared *fared)
{
    const struct pick_parts *p = &flow->predicted;
    uint32_t known = timing->computed_tokens + p->cached, n = flow->dispatch.n_tokens;
    if (!timing->pull_us || !fared->is_remote || fared->computed_at != flow->help.worker || known >= n)
        return;
    if (!fared->fetched)
        fared->source = p->pulled ? p->source : KV_TIER_REMOTE;
    if (fared->fetched < n - known)
        fared->fetched = n - known;
}

static void note_missed(const struct pick_parts *predicted, uint32_t computed, struct fared *fared)
{
    if (fared->fetched || !predicted->pulled || computed <= predicted->computed)
        return;
    uint32_t more = computed - predicted->computed;
    fared->was_missed = true;
    fared->fetched = more < predicted->pulled ? more : predicted->pulled;
    fared->source = predicted->source;
}

/* Of what was computed instead of fetched, the time beyond what computing the rest was predicted to take is what
 * fetching cost, with what was tried in vain. */
static void move_missed(const struct flow *flow, const struct fared *fared, struct decision_outcome *o)
{
    uint64_t whole = o->us[DECISION_PREFILL], compute = flow->predicted.prefill_us;
    if (!fared->was_missed || whole <= compute)
        return;
    o->us[DECISION_PREFILL] = compute;
    o->us[DECISION_PULL] += whole - compute;
}

static void read_timing(struct flow *flow, const Baton__Timing *timing, struct fared *fared, struct decision_outcome *o)
{
    const struct pick_parts *p = &flow->predicted;
    *fared = (struct fared){ .is_remote = !strcmp(timing->route, "remote"),
                             .computed_at = where_computed(flow, timing),
                             .source = KV_TIER_DEVICE };
    *o = (struct decision_outcome){
        .route = timing->route,
        .prefill_worker = timing->prefill_worker,
        .decode_worker = timing->decode_worker,
        .computed = timing->computed_tokens,
        .predicted_us = { p->wait_us, p->prefill_us, p->pull_us, p->handoff_us },
        .us = { fared->is_remote ? timing->prefill_queue_us : timing->queue_us, timing->prefill_us, timing->pull_us,
                fared->is_remote ? timing->handoff_us : 0 },
    };
    read_cached(timing, fared, o->cached);
    note_fetched(flow, timing, fared);
    note_missed(p, o->computed, fared);
    move_missed(flow, fared, o);
    o->has[DECISION_QUEUE] = o->has[DECISION_PREFILL] = true;
    o->has[DECISION_PULL] = fared->fetched > 0 || p->pulled > 0; /* asking in vain is nobody's wait */
    o->has[DECISION_HANDOFF] = fared->is_remote;
    for (int i = 0; i < DECISION_PART_COUNT; i++)
        o->error[i] = decision_error(o->predicted_us[i], o->us[i]);
}

/* Whether computing what should have been fetched is what the worker does. */
static bool keeps_missing(struct fleet_worker *at, uint64_t now)
{
    if (!at->missed_us || now - at->missed_us > MISSED_MEMORY_US)
        at->missed_us = now;
    return now - at->missed_us >= MISSED_PATIENCE_US;
}

/* What fetching cost, or computing instead. */
static void learn_pull(struct flow *flow, struct fleet_worker *at, const struct fared *fared, uint64_t us)
{
    uint64_t bytes = fleet_kv_bytes(at, fared->fetched);
    if (fared->was_missed && keeps_missing(at, flows_now(flow->flows)))
        fleet_learn_missed(at, fared->source, bytes, MISSED_COUNTS * us);
    if (fared->was_missed)
        return;
    at->missed_us = 0;
    fleet_learn_pull(at, fared->source, bytes, us);
}

static void learn(struct flow *flow, const Baton__Timing *timing, const struct fared *fared,
                  const struct decision_outcome *o)
{
    struct fleet_worker *at = fared->computed_at;
    if (!at)
        return;
    fleet_learn_queue(at, o->predicted_us[DECISION_QUEUE], o->us[DECISION_QUEUE]);
    fleet_learn_prefill(at, flow->dispatch.n_tokens, o->computed, timing->prefill_us);
    if (fared->fetched && o->us[DECISION_PULL] > 0)
        learn_pull(flow, at, fared, o->us[DECISION_PULL]);
    if (fared->is_remote)
        fleet_learn_handoff(flow->worker, strcmp(at->instance.host, flow->worker->instance.host) != 0,
                            timing->moved_bytes, timing->handoff_us);
}

static void observe(const struct flow *flow, const struct decision_outcome *o)
{
    for (int i = 0; i < DECISION_PART_COUNT; i++) {
        struct metric *m = flow->flows->options.prediction_error[i];
        if (m && o->has[i])
            metric_observe_us(m, (uint64_t)(1e6 * o->error[i]));
    }
}

void flow_learn(struct flow *flow, const Baton__Timing *timing)
{
    struct fared fared;
    struct decision_outcome outcome;
    flow->told = true;
    read_timing(flow, timing, &fared, &outcome);
    /* A prompt that was preempted, or computed in several legs, is no measure of anything. */
    if (timing->legs > 1 || timing->preempted > 0 || outcome.computed == 0)
        return;
    if (fared.is_remote == flow->dispatch.is_remote) {
        observe(flow, &outcome);
        flow_log_outcome(flow, &outcome);
    }
    learn(flow, timing, &fared, &outcome);
}
