/* etcd: publishes the manager, and tells of which format the blocks of this host's workers are. Until the first of
 * them is there the manager is registered without an address: there is nothing to ask it for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "kvbm/daemon/process.h"

/* A worker of this host whose blocks have another format than those that are kept. */
struct other_worker {
    TAILQ_ENTRY(other_worker) link;
    char id[64];
};

static void describe_self(const struct kvbm_process *p, struct instance *self)
{
    membership_describe(p->daemon, self);
    if (!p->is_open)
        return;
    snprintf(self->kv_format, sizeof self->kv_format, "%s", p->kv_format);
    membership_advertised(p->daemon, links_endpoint(p->links), self->control, sizeof self->control);
    membership_advertised(p->daemon, links_events_endpoint(p->links), self->events, sizeof self->events);
    self->kv_tokens = (uint64_t)p->n_blocks * p->layout.block_tokens;
}

static bool is_worker_here(const struct kvbm_process *p, const struct instance *instance)
{
    return (!strcmp(instance->role, "prefill") || !strcmp(instance->role, "decode")) &&
           !strcmp(instance->host, daemon_host(p->daemon));
}

static void forget_other(struct kvbm_process *p, const char *id)
{
    struct other_worker *o;
    TAILQ_FOREACH(o, &p->others, link)
    if (!strcmp(o->id, id)) {
        TAILQ_REMOVE(&p->others, o, link);
        p->n_others--;
        free(o);
        return;
    }
}

static void note_other(struct kvbm_process *p, const struct instance *instance, const char *why)
{
    struct other_worker *o = p->n_others < KVBM_MAX_OTHERS ? calloc(1, sizeof *o) : NULL;
    log_warn("blocks of a worker are not taken", "worker=%s format=%s reason=\"%s\"", instance->id, instance->kv_format,
             why);
    if (!o)
        return;
    snprintf(o->id, sizeof o->id, "%s", instance->id);
    TAILQ_INSERT_TAIL(&p->others, o, link);
    p->n_others++;
}

static void open_for(struct kvbm_process *p, const struct kv_format *format)
{
    struct instance self;
    struct error err;
    status st = tiers_open(p, format, &err);
    if (st == ST_OK)
        st = peers_open(p, &err);
    if (st != ST_OK) {
        log_error("cannot keep blocks", "error=\"%s\"", err.text);
        daemon_end(p->daemon, 1);
        return;
    }
    describe_self(p, &self);
    membership_update(p->membership, &self);
}

static void on_member(void *arg, const struct instance *instance)
{
    struct kvbm_process *p = arg;
    struct kv_format format;
    struct error err;
    if (!is_worker_here(p, instance))
        return;
    const char *text = kv_format_of_worker(instance->kv_format);
    forget_other(p, instance->id);
    if (!text || kv_format_parse(text, &format, &err) != ST_OK) {
        note_other(p, instance, "not understood");
        return;
    }
    if (!p->is_open)
        open_for(p, &format);
    enum kv_format_difference difference = kv_format_compare(&p->format, &format);
    if (difference != KV_FORMAT_DIFFERS_NONE)
        note_other(p, instance, kv_format_difference_text(difference));
}

static void on_gone(void *arg, const char *id)
{
    forget_other(arg, id);
}

static void on_refused(void *arg)
{
    daemon_end(((struct kvbm_process *)arg)->daemon, 1);
}

static status members_start(struct daemon *d, struct error *err)
{
    struct kvbm_process *p = kvbm_process_of(d);
    struct instance self;
    status st = p->is_open ? peers_open(p, err) : ST_OK;
    if (st != ST_OK)
        return st;
    describe_self(p, &self);
    const struct membership_options options = {
        .loop = daemon_loop(d),
        .config = daemon_shared_config(d),
        .self = &self,
        .on_member = on_member,
        .on_gone = on_gone,
        .on_refused = on_refused,
        .arg = p,
    };
    st = membership_create(&options, &p->membership, err);
    if (st != ST_OK)
        peers_close(p);
    return st;
}

/* Workers stop asking a manager that is not registered. */
static void members_drain(struct daemon *d)
{
    membership_leave(kvbm_process_of(d)->membership);
}

static void members_stop(struct daemon *d)
{
    struct kvbm_process *p = kvbm_process_of(d);
    membership_destroy(&p->membership);
    while (!TAILQ_EMPTY(&p->others))
        forget_other(p, TAILQ_FIRST(&p->others)->id);
    peers_close(p);
}

const struct part part_members = {
    .name = "members", .start = members_start, .drain = members_drain, .stop = members_stop
};
