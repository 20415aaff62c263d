/* Metrics of the manager, brought up to date when somebody asks. */
#include <math.h>

#include "kvbm/daemon/events.h"
#include "kvbm/daemon/process.h"

static void set(struct kvbm_process *p, size_t id, const char *label, double value)
{
    metric_set(
        metrics_series(daemon_metrics(p->daemon), &kvbm_metric_table, id, label ? (const char *[]){ label } : NULL),
        value);
}

static void report_transfer(struct kvbm_process *p)
{
    struct transfer_stats s;
    transfer_stats(p->transfer, &s);
    for (int t = TRANSPORT_SHM; t < TRANSPORT_COUNT; t++) {
        const char *name = transfer_transport_name((enum transfer_transport)t);
        set(p, KVBM_TRANSFER_BYTES, name, (double)s.bytes_taken[t]);
        set(p, KVBM_TRANSFER_SECONDS, name, (double)s.busy_us[t] / 1e6);
        set(p, KVBM_TRANSFERS, name, (double)s.takes[t]);
    }
#define X(label, member) set(p, KVBM_TRANSFER_FAULTS, #label, (double)s.member);
    TRANSFER_FAULTS(X)
#undef X
}

static void report_tiers(struct kvbm_process *p, const struct store_stats *s)
{
    static const char *const names[STORE_TIER_COUNT] = { [STORE_HOST] = "host", [STORE_DISK] = "disk" };
    for (int tier = 0; tier < STORE_TIER_COUNT; tier++) {
        const struct store_tier_stats *t = &s->tiers[tier];
        set(p, KVBM_BLOCKS, names[tier], (double)t->blocks);
        set(p, KVBM_BYTES, names[tier], (double)t->bytes);
        set(p, KVBM_CAPACITY, names[tier], (double)t->capacity_bytes);
        set(p, KVBM_OLDEST, names[tier], (double)t->oldest_s);
        uint64_t remote = tier == STORE_HOST ? p->source.remote_blocks : 0; /* to the store they are like any other */
        set(p, KVBM_HIT_BLOCKS, names[tier], (double)(t->hit_blocks - remote));
        set(p, KVBM_HIT_TOKENS, names[tier], (double)(t->hit_tokens - remote * p->layout.block_tokens));
    }
    set(p, KVBM_HIT_BLOCKS, "remote", (double)p->source.remote_blocks);
    set(p, KVBM_HIT_TOKENS, "remote", (double)(p->source.remote_blocks * p->layout.block_tokens));
}

static void report_store(struct kvbm_process *p)
{
    struct store_stats s;
    store_stats(p->store, &s);
    report_tiers(p, &s);
    set(p, KVBM_HOST_USED, NULL, 1.0 - (double)s.slots_free / p->n_blocks);
    set(p, KVBM_SALTS, NULL, s.salts);
    set(p, KVBM_SLOTS, "free", s.slots_free);
    set(p, KVBM_SLOTS, "reserved", s.slots_reserved);
    set(p, KVBM_SLOTS, "held", s.slots_held);
    set(p, KVBM_SLOTS, "pinned", s.slots_pinned);
    for (int i = 0; i < STORE_VERDICT_COUNT; i++)
        set(p, KVBM_OFFERED, store_verdict_name((enum store_verdict)i), (double)s.verdicts[i]);
    for (int i = 0; i < STORE_REMOVAL_COUNT; i++)
        set(p, KVBM_REMOVED, store_removal_name((enum store_removal)i), (double)s.removed[i]);
    for (int i = 0; i < STORE_UNWRITTEN_COUNT; i++)
        set(p, KVBM_UNWRITTEN, store_unwritten_name((enum store_unwritten)i), (double)s.unwritten[i]);
#define X(name, help) set(p, KVBM_STORE, #name, (double)s.name);
    STORE_COUNTERS(X)
#undef X
}

static void report_exchange(struct kvbm_process *p)
{
    const struct lender_counters *l = lender_counters(p->lender);
    const struct acceptor_counters *a = acceptor_counters(p->acceptor);
#define X(name, help) set(p, KVBM_PULLS, #name, (double)l->name);
    LENDER_COUNTERS(X)
#undef X
#define X(name, help) set(p, KVBM_PUSHES, #name, (double)a->name);
    ACCEPTOR_COUNTERS(X)
#undef X
    set(p, KVBM_PULLED_BYTES, NULL, (double)l->pulled_blocks * (double)kv_block_bytes(&p->layout));
    set(p, KVBM_LOANS, NULL, lender_open_loans(p->lender));
    set(p, KVBM_INTAKES, NULL, acceptor_under_way(p->acceptor));
}

static void report_managers(struct kvbm_process *p)
{
    struct managers_stats s;
    managers_stats(p, &s);
    set(p, KVBM_REMOTE_MANAGERS, "followed", s.followed);
    set(p, KVBM_REMOTE_MANAGERS, "up", s.up);
    set(p, KVBM_REMOTE_MANAGERS, "silent", s.silent);
}

static void report_remote(struct kvbm_process *p)
{
    static const struct remote_counters none;
    const struct remote_counters *c = p->remote ? remote_counters(p->remote) : &none;
    report_managers(p);
    set(p, KVBM_REMOTE_KNOWN, NULL, p->remote ? (double)peer_index_blocks(remote_tier_index(p->remote)) : 0);
    set(p, KVBM_REMOTE_UNDER_WAY, NULL, p->remote ? remote_tier_fetches(p->remote) : 0);
    for (int i = 0; i < REMOTE_OUTCOME_COUNT; i++)
        set(p, KVBM_REMOTE_FETCHES, remote_outcome_name((enum remote_outcome)i), (double)c->fetches[i]);
    for (int i = 0; i < REMOTE_REASON_COUNT; i++)
        set(p, KVBM_REMOTE_NOT_ASKED, remote_reason_name((enum remote_reason)i), (double)c->not_asked[i]);
    set(p, KVBM_REMOTE_BLOCKS, NULL, (double)c->blocks);
    set(p, KVBM_REMOTE_BYTES, NULL, (double)c->bytes);
    set(p, KVBM_REMOTE_SECONDS, NULL, (double)c->us / 1e6);
    set(p, KVBM_REMOTE_PREDICTION, "measured", (double)c->measured_us / 1e6);
    set(p, KVBM_REMOTE_PREDICTION, "predicted", (double)c->predicted_us / 1e6);
    set(p, KVBM_REMOTE_PREDICTION, "error", (double)c->error_us / 1e6);
}

static void report_disk(struct kvbm_process *p)
{
    struct disk_metrics m = { .health = DISK_HEALTH_COUNT, .wear_left = INT64_MAX };
    if (p->disk)
        disk_tier_metrics(p->disk, &m);
    for (int i = 0; i < DISK_HEALTH_COUNT; i++)
        set(p, KVBM_DISK_STATE, disk_health_name((enum disk_health)i), (int)m.health == i);
    set(p, KVBM_DISK_IO, "read", (double)m.reads);
    set(p, KVBM_DISK_IO, "written", (double)m.writes);
    set(p, KVBM_DISK_IO, "written_again", (double)m.readmitted);
    set(p, KVBM_DISK_IO, "evicted", (double)m.evicted);
    set(p, KVBM_DISK_IO, "timeout", (double)m.timeouts);
    set(p, KVBM_DISK_BYTES, "read", (double)m.read_bytes);
    set(p, KVBM_DISK_BYTES, "written", (double)m.write_bytes);
    for (int i = 0; i < DISK_REFUSAL_COUNT; i++)
        if (i != DISK_TAKEN)
            set(p, KVBM_DISK_REFUSED, disk_refusal_name((enum disk_refusal)i), (double)m.refused[i]);
    for (int i = 0; i < DISK_ERROR_COUNT; i++)
        set(p, KVBM_DISK_ERRORS, disk_error_name((enum disk_error)i), (double)m.errors[i]);
    set(p, KVBM_DISK_WEAR, NULL, (double)m.wear_bytes);
    set(p, KVBM_DISK_WEAR_LEFT, NULL, m.wear_left == INT64_MAX ? (double)INFINITY : (double)m.wear_left);
}

static void report_events(struct kvbm_process *p)
{
    struct kv_publisher_stats s;
    if (!p->events)
        return;
    kv_publisher_stats(events_publisher(p->events), &s);
    set(p, KVBM_KV_EVENTS, "events", (double)s.events);
    set(p, KVBM_KV_EVENTS, "batches", (double)s.batches);
    set(p, KVBM_KV_EVENTS, "lost", (double)s.lost);
    set(p, KVBM_KV_EVENTS, "requests", (double)s.requests);
    set(p, KVBM_KV_EVENTS, "replayed", (double)s.replayed);
    set(p, KVBM_KV_EVENTS, "dumps", (double)s.dumps);
    set(p, KVBM_KV_EVENTS, "dump_left_out", (double)s.dump_events_left_out);
    set(p, KVBM_KV_EVENTS, "unsent", (double)s.unsent);
    set(p, KVBM_KV_EVENTS, "hostile", (double)s.hostile);
}

static void report_links(struct kvbm_process *p)
{
    struct links_stats s;
    links_stats(p->links, &s);
    set(p, KVBM_LINKS, NULL, s.up);
#define X(label, member) set(p, KVBM_LINK_FAULTS, #label, (double)s.member);
    LINKS_FAULTS(X)
#undef X
}

static void report(void *arg)
{
    struct kvbm_process *p = arg;
    set(p, KVBM_OPEN, NULL, p->is_open);
    set(p, KVBM_OTHER_FORMAT, NULL, p->n_others);
    set(p, KVBM_ETCD_UP, NULL, membership_etcd_up(p->membership));
    if (!p->is_open)
        return;
    report_store(p);
    report_exchange(p);
    report_remote(p);
    report_disk(p);
    report_events(p);
    report_transfer(p);
    report_links(p);
}

static status report_start(struct daemon *d, struct error *err)
{
    (void)err;
    metrics_on_render(daemon_metrics(d), report, kvbm_process_of(d));
    return ST_OK;
}

const struct part part_report = { .name = "report", .start = report_start };
