/* Metrics of the manager, brought up to date when somebody asks. */
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
    for (int t = TRANSPORT_SHM; t <= TRANSPORT_TCP; t++) {
        const char *name = transfer_transport_name((enum transfer_transport)t);
        set(p, KVBM_TRANSFER_BYTES, name, (double)s.bytes_taken[t]);
        set(p, KVBM_TRANSFER_SECONDS, name, (double)s.busy_us[t] / 1e6);
        set(p, KVBM_TRANSFERS, name, (double)s.takes[t]);
    }
    set(p, KVBM_TRANSFER_FAULTS, "stale", (double)s.stale);
    set(p, KVBM_TRANSFER_FAULTS, "timeout", (double)s.timeouts);
    set(p, KVBM_TRANSFER_FAULTS, "lost_peer", (double)s.lost_peers);
    set(p, KVBM_TRANSFER_FAULTS, "malformed", (double)s.malformed);
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
