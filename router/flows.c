#include <stdlib.h>

#include "router/flow_internal.h"

#define MAX_DEATHS 3 /* workers that died while this flow ran on them: then it is not tried again */

status flows_create(const struct flows_options *options, struct flows **out)
{
    struct flows *flows = calloc(1, sizeof *flows);
    if (!flows)
        return ST_NO_MEMORY;
    flows->options = *options;
    TAILQ_INIT(&flows->list);
    text_buffer_init(&flows->line, DECISION_LINE_BYTES);
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
    text_buffer_free(&(*flows)->line);
    free(*flows);
    *flows = NULL;
}

uint64_t flows_now(const struct flows *flows)
{
    return flows->options.now(flows->options.ctx);
}

struct flow *flows_find(struct flows *flows, struct request_key key)
{
    if (key.router != flows->options.incarnation)
        return NULL;
    struct flow *flow = flows->buckets[key.seq % FLOW_BUCKETS];
    while (flow && flow->seq != key.seq)
        flow = flow->next_in_bucket;
    return flow;
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
        flow_avoid(flow, worker);
        if (restarted_or_dead && ++flow->deaths >= MAX_DEATHS)
            flow_fail(flow, FLOW_INTERNAL, "three workers were lost while they ran this request");
        else
            flow_dispatch_again(flow);
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
            flow_dispatch_again(flow);
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
            flow_dispatch(flow);
    }
}

/* ---- figures ------------------------------------------------------------------------------- */

const struct flow_counters *flows_counters(const struct flows *flows)
{
    return &flows->counters;
}

uint32_t flows_in_state(const struct flows *flows, enum flow_state state)
{
    return flows->in_state[state];
}
