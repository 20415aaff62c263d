/* What a worker says of itself: load figures for routers, metrics for operators. */
#include "common/clock.h"
#include "worker/prefix_cache.h"
#include "worker/process.h"
#include "worker/pulling.h"
#include "worker/sharing.h"
#include "worker/wiping.h"

static void publish_load(void *arg)
{
    struct worker_process *p = arg;
    Baton__Load load;
    worker_load(p->worker, &load);
    links_publish(p->links, "load", &load.base);
    timer_set(loop_timers(daemon_loop(p->daemon)), &p->load_timer, clock_now_us() + p->config->load_interval,
              publish_load, p);
}

static void set(struct worker_process *p, size_t id, const char *label, double value)
{
    metric_set(
        metrics_series(daemon_metrics(p->daemon), &worker_metric_table, id, label ? (const char *[]){ label } : NULL),
        value);
}

static void report_transfer(struct worker_process *p)
{
    struct transfer_stats s;
    transfer_stats(p->transfer, &s);
    for (int t = TRANSPORT_SHM; t < TRANSPORT_COUNT; t++) {
        const char *name = transfer_transport_name((enum transfer_transport)t);
        set(p, WORKER_TRANSFER_BYTES, name, (double)s.bytes_taken[t]);
        set(p, WORKER_TRANSFER_SECONDS, name, (double)s.busy_us[t] / 1e6);
        set(p, WORKER_TRANSFERS, name, (double)s.takes[t]);
    }
#define X(label, member) set(p, WORKER_TRANSFER_FAULTS, #label, (double)s.member);
    TRANSFER_FAULTS(X)
#undef X
}

static void report_links(struct worker_process *p)
{
    struct links_stats s;
    links_stats(p->links, &s);
    set(p, WORKER_LINKS, NULL, s.up);
#define X(label, member) set(p, WORKER_LINK_FAULTS, #label, (double)s.member);
    LINKS_FAULTS(X)
#undef X
}

static void report_schedule(struct worker_process *p)
{
    const struct worker_counters *c = worker_counters(p->worker);
    const struct step_cost *cost = worker_step_cost(p->worker);
    set(p, WORKER_DRAFT_ACCEPTANCE, NULL, c->drafted ? (double)c->drafts_accepted / (double)c->drafted : 0);
    set(p, WORKER_DRAFT_PAUSED, NULL, worker_paused_drafts(p->worker));
    set(p, WORKER_STEP_COST, "step", cost->drift * cost->base_us / 1e6);
    set(p, WORKER_STEP_COST, "row", cost->drift * cost->row_us / 1e6);
    set(p, WORKER_STEP_COST, "position", cost->drift * cost->position_us / 1e6);
}

static void report_prefix_cache(struct worker_process *p)
{
    struct prefix_cache_counters c = prefix_cache_counters(worker_prefix_cache(p->worker));
#define X(name, help) set(p, WORKER_PREFIX_CACHE, #name, (double)c.name);
    PREFIX_CACHE_COUNTERS(X)
#undef X
    set(p, WORKER_PREFIX_HIT_TOKENS, "device", (double)c.hit_tokens);
}

static void report_wipes(struct worker_process *p)
{
    const struct wiping_counters *c = wiping_counters(worker_wiping(p->worker));
#define X(name, help) set(p, WORKER_WIPES, #name, (double)c->name);
    WIPING_COUNTERS(X)
#undef X
}

static void report_pulls(struct worker_process *p)
{
    const struct pull_counters *c = worker_pull_counters(p->worker);
    for (int kind = 0; kind < HOLDER_KIND_COUNT; kind++) {
        const char *labels[2] = { holder_kind_name((enum holder_kind)kind) };
        for (int outcome = 0; outcome < PULL_OUTCOME_COUNT; outcome++) {
            labels[1] = pull_outcome_name((enum pull_outcome)outcome);
            metric_set(metrics_series(daemon_metrics(p->daemon), &worker_metric_table, WORKER_PULLS, labels),
                       (double)c->pulls[kind][outcome]);
        }
        set(p, WORKER_PULL_BLOCKS, labels[0], (double)c->blocks[kind]);
        set(p, WORKER_PULL_BYTES, labels[0], (double)c->bytes[kind]);
        set(p, WORKER_PULL_SECONDS, labels[0], (double)c->us[kind] / 1e6);
    }
    set(p, WORKER_PULLED_TOKENS, "host", (double)c->tokens[KV_TIER_HOST]);
    set(p, WORKER_PULLED_TOKENS, "disk", (double)c->tokens[KV_TIER_DISK]);
    set(p, WORKER_PULLED_TOKENS, "remote", (double)c->tokens[KV_TIER_REMOTE]);
    set(p, WORKER_PULL_DAMAGED, "fetched", (double)c->damaged);
    set(p, WORKER_PULL_PREDICTION, "measured", (double)c->measured_us / 1e6);
    set(p, WORKER_PULL_PREDICTION, "predicted", (double)c->predicted_us / 1e6);
    set(p, WORKER_PULL_PREDICTION, "error", (double)c->error_us / 1e6);
}

static void report_sharing(struct worker_process *p)
{
    const struct sharing *sharing = worker_sharing(p->worker);
    if (!sharing)
        return;
    const struct lender_counters *lent = sharing_lender_counters(sharing);
#define X(name, help) set(p, WORKER_LENT, #name, (double)lent->name);
    LENDER_COUNTERS(X)
#undef X
    const struct offers_counters *offered = sharing_offers_counters(sharing);
#define X(name, help) set(p, WORKER_OFFERED, #name, (double)offered->name);
    OFFERS_COUNTERS(X)
#undef X
    const struct sharing_exchanges exchanges = sharing_exchanges(sharing);
    set(p, WORKER_EXCHANGES, "pulls", exchanges.pulls);
    set(p, WORKER_EXCHANGES, "offers", exchanges.offers);
    set(p, WORKER_EXCHANGES, "checksums", exchanges.checksums);
    set(p, WORKER_LOANS, NULL, sharing_loans(sharing));
    set(p, WORKER_PULL_DAMAGED, "lent", (double)sharing_damaged_here(sharing));
}

static void report_kv_events(struct worker_process *p)
{
    struct kv_publisher_stats s = { 0 };
    if (p->kv_publish)
        kv_publisher_stats(kv_publish_publisher(p->kv_publish), &s);
    set(p, WORKER_KV_EVENTS, "events", (double)s.events);
    set(p, WORKER_KV_EVENTS, "batches", (double)s.batches);
    set(p, WORKER_KV_EVENTS, "bytes", (double)s.bytes);
    set(p, WORKER_KV_EVENTS, "lost", (double)s.lost);
    set(p, WORKER_KV_EVENTS, "requests", (double)s.requests);
    set(p, WORKER_KV_EVENTS, "replayed", (double)s.replayed);
    set(p, WORKER_KV_EVENTS, "dumps", (double)s.dumps);
    set(p, WORKER_KV_EVENTS, "left_out", (double)s.dump_events_left_out);
    set(p, WORKER_KV_EVENTS, "unsent", (double)s.unsent);
    set(p, WORKER_KV_EVENTS, "hostile", (double)s.hostile);
}

static void report(void *arg)
{
    struct worker_process *p = arg;
    const struct worker_counters *c = worker_counters(p->worker);
    const struct block_pool *pool = worker_pool(p->worker);
    Baton__Load load;
#define X(name, help) set(p, WORKER_EVENTS, #name, (double)c->name);
    WORKER_COUNTERS(X)
#undef X
    for (int state = 0; state < BLOCK_STATE_COUNT; state++)
        set(p, WORKER_BLOCKS, block_state_name((enum block_state)state),
            block_pool_in_state(pool, (enum block_state)state));
    set(p, WORKER_KV_USED, NULL, 1.0 - (double)block_pool_free(pool) / block_pool_size(pool));
    worker_load(p->worker, &load);
    set(p, WORKER_REQUESTS, NULL, load.queued_requests);
    set(p, WORKER_RUNNING, NULL, load.running_sequences);
    set(p, WORKER_QUEUED_TOKENS, NULL, (double)load.queued_tokens);
    set(p, WORKER_ETCD_UP, NULL, membership_etcd_up(p->membership));
    report_schedule(p);
    report_prefix_cache(p);
    report_wipes(p);
    report_pulls(p);
    report_sharing(p);
    report_transfer(p);
    report_links(p);
    report_kv_events(p);
}

static status report_start(struct daemon *d, struct error *err)
{
    (void)err;
    metrics_on_render(daemon_metrics(d), report, worker_process_of(d));
    publish_load(worker_process_of(d));
    return ST_OK;
}

static void report_stop(struct daemon *d)
{
    timer_cancel(loop_timers(daemon_loop(d)), &worker_process_of(d)->load_timer);
}

const struct part part_report = { .name = "report", .start = report_start, .stop = report_stop };
