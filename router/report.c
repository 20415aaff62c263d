/* Gauges of a router, brought up to date when somebody asks. */
#include <string.h>

#include "router/api.h"
#include "router/process.h"

static void set(struct router_process *p, size_t id, const char *const labels[], double value)
{
    metric_set(metrics_series(daemon_metrics(p->daemon), &router_metric_table, id, labels), value);
}

#define LABELS(...) ((const char *[]){ __VA_ARGS__ })

static void report_links(struct router_process *p)
{
    struct links_stats s;
    links_stats(p->links, &s);
    set(p, ROUTER_LINKS, NULL, s.up);
#define X(label, member) set(p, ROUTER_LINK_FAULTS, LABELS(#label), (double)s.member);
    LINKS_FAULTS(X)
#undef X
}

static void report_http(struct router_process *p)
{
    struct http_server_stats s;
    api_http_stats(p->api, &s);
    set(p, ROUTER_HTTP_OPEN, NULL, s.open_connections);
    set(p, ROUTER_HTTP, LABELS("connections"), (double)s.connections);
    set(p, ROUTER_HTTP, LABELS("requests"), (double)s.requests);
    set(p, ROUTER_HTTP, LABELS("refused"), (double)s.refused);
    set(p, ROUTER_HTTP, LABELS("timeouts"), (double)s.timeouts);
    set(p, ROUTER_HTTP, LABELS("parse_errors"), (double)s.parse_errors);
    set(p, ROUTER_HTTP, LABELS("gone"), (double)s.gone);
    set(p, ROUTER_HTTP, LABELS("bytes_in"), (double)s.bytes_in);
    set(p, ROUTER_HTTP, LABELS("bytes_out"), (double)s.bytes_out);
}

static void report_index(struct router_process *p)
{
    struct prefix_index_stats s;
    kv_view_stats(p->kv_view, &s);
    set(p, ROUTER_KV_INDEX_BLOCKS, NULL, (double)s.blocks);
    set(p, ROUTER_KV_INDEX_BYTES, NULL, (double)s.bytes);
    set(p, ROUTER_KV_INDEX, LABELS("stored"), (double)s.stored);
    set(p, ROUTER_KV_INDEX, LABELS("removed"), (double)s.removed);
    set(p, ROUTER_KV_INDEX, LABELS("moved"), (double)s.moved);
    set(p, ROUTER_KV_INDEX, LABELS("evicted"), (double)s.evicted);
    set(p, ROUTER_KV_INDEX, LABELS("not_kept"), (double)s.not_kept);
}

static void report_kv_feeds(struct router_process *p)
{
    struct kv_feeds_stats s = { 0 };
    if (p->kv_feeds)
        kv_feeds_stats(p->kv_feeds, &s);
    set(p, ROUTER_KV_PUBLISHERS, LABELS("followed"), s.followed);
    set(p, ROUTER_KV_PUBLISHERS, LABELS("complete"), s.complete);
    set(p, ROUTER_KV_PUBLISHERS, LABELS("silent"), s.silent);
#define X(name, help) set(p, ROUTER_KV_EVENTS, LABELS(#name), (double)s.follow.name);
    KV_FOLLOW_COUNTERS(X)
#undef X
    set(p, ROUTER_KV_EVENTS, LABELS("events"), (double)s.events);
    set(p, ROUTER_KV_EVENTS, LABELS("unknown"), (double)s.unknown);
    set(p, ROUTER_KV_EVENTS, LABELS("hostile"), (double)s.hostile);
    set(p, ROUTER_KV_EVENTS, LABELS("left_out"), (double)s.left_out);
}

static bool is_usable(const struct fleet_worker *w)
{
    return w->is_member && !w->draining && (w->up || !w->is_decode);
}

static void report_workers(struct router_process *p)
{
    static const char *const roles[] = { "prefill", "decode" };
    for (size_t i = 0; i < models_count(p->models); i++) {
        const char *model = models_at(p->models, i)->name;
        uint32_t n[2] = { 0 };
        const struct fleet_worker *w;
        TAILQ_FOREACH(w, fleet_workers(p->fleet), entry)
        if (is_usable(w) && !strcmp(w->instance.model, model))
            n[w->is_decode]++;
        for (int role = 0; role < 2; role++)
            set(p, ROUTER_WORKERS, LABELS(roles[role], model), n[role]);
    }
}

static void report_dispatched(struct router_process *p)
{
    static const char *const roles[] = { "prefill", "decode" };
    for (int role = 0; role < 2; role++) {
        struct fleet_counted counted = fleet_counted(p->fleet, role == 1);
        set(p, ROUTER_DISPATCHED, LABELS(roles[role]), (double)counted.dispatches);
        set(p, ROUTER_DISPATCHED_TOKENS, LABELS(roles[role]), (double)counted.tokens);
    }
}

static void report_decision_log(struct router_process *p)
{
    struct decision_log_stats s = { 0 };
    if (p->decision_log)
        decision_log_stats(p->decision_log, &s);
    set(p, ROUTER_DECISION_LINES, LABELS("written"), (double)s.lines);
    set(p, ROUTER_DECISION_LINES, LABELS("dropped"), (double)s.dropped);
}

static void report(void *arg)
{
    struct router_process *p = arg;
    const struct flow_counters *c = flows_counters(p->flows);
#define X(name, help) set(p, ROUTER_CHOICE_EVENTS, LABELS(#name), (double)c->name);
    FLOW_COUNTERS(X)
#undef X
    for (int state = 0; state < FLOW_ENDED; state++)
        set(p, ROUTER_CHOICES, LABELS(flow_state_name((enum flow_state)state)),
            flows_in_state(p->flows, (enum flow_state)state));
    set(p, ROUTER_HELD, NULL, api_held(p->api));
    set(p, ROUTER_HELD_BYTES, NULL, (double)api_held_bytes(p->api));
    set(p, ROUTER_POLLED, NULL, (double)loop_polled_us(daemon_loop(p->daemon)) / 1e6);
    set(p, ROUTER_POOL, NULL, p->pool ? tokenize_pool_pending(p->pool) : 0);
    set(p, ROUTER_ETCD_UP, NULL, membership_etcd_up(p->membership));
    report_workers(p);
    report_dispatched(p);
    report_decision_log(p);
    report_links(p);
    report_http(p);
    report_index(p);
    report_kv_feeds(p);
}

static status report_start(struct daemon *d, struct error *err)
{
    (void)err;
    metrics_on_render(daemon_metrics(d), report, router_process_of(d));
    return ST_OK;
}

const struct part part_report = { .name = "report", .start = report_start };
