/* etcd: publishes the manager, and tells of which format the blocks of this host's workers are. Until the first of
 * them is there the manager is registered without an address: there is nothing to ask it for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "kvbm/daemon/events.h"
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
    self->kv_tokens = (uint64_t)p->n_blocks * p->layout.block_tokens;
    self->block_tokens = p->layout.block_tokens;
    if (!p->events)
        return;
    const struct kv_publisher *publisher = events_publisher(p->events);
    membership_advertised(p->daemon, kv_publisher_endpoint(publisher), self->kv_events, sizeof self->kv_events);
    membership_advertised(p->daemon, kv_publisher_replay_endpoint(publisher), self->kv_replay, sizeof self->kv_replay);
}

/* ---- models ---------------------------------------------------------------------- */

const struct served_model *members_model(const struct kvbm_process *p, const char *name)
{
    const struct served_model *m;
    TAILQ_FOREACH(m, &p->models, link)
    if (!strcmp(m->name, name) || (!name[0] && p->n_models == 1))
        return m;
    return NULL;
}

/* Models are remembered when their workers are gone: their blocks are not. The one seen first makes room. */
static void note_model(struct kvbm_process *p, const struct instance *instance)
{
    struct served_model *m = (struct served_model *)(instance->model[0] ? members_model(p, instance->model) : NULL);
    if (!instance->model[0] || !instance->weights)
        return;
    if (!m && p->n_models == KVBM_MAX_MODELS) {
        m = TAILQ_FIRST(&p->models);
        TAILQ_REMOVE(&p->models, m, link);
        TAILQ_INSERT_TAIL(&p->models, m, link);
    } else if (!m) {
        m = calloc(1, sizeof *m);
        if (!m)
            return;
        TAILQ_INSERT_TAIL(&p->models, m, link);
        p->n_models++;
    }
    snprintf(m->name, sizeof m->name, "%s", instance->model);
    m->weights = instance->weights;
    m->tokenizer = instance->tokenizer;
}

/* ---- formats ----------------------------------------------------------------------- */

static bool is_worker(const struct instance *instance)
{
    return !strcmp(instance->role, "prefill") || !strcmp(instance->role, "decode");
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

static status open_for_others(struct kvbm_process *p, struct error *err)
{
    status st = serving_open(p, err);
    if (st == ST_OK)
        st = peers_open(p, err);
    if (st == ST_OK)
        managers_open(p);
    return st;
}

static void close_for_others(struct kvbm_process *p)
{
    managers_close(p);
    peers_close(p);
    serving_close(p);
}

static void open_for(struct kvbm_process *p, const struct kv_format *format)
{
    struct instance self;
    struct error err;
    status st = tiers_open(p, format, &err);
    if (st == ST_OK)
        st = open_for_others(p, &err);
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
    if (is_worker(instance))
        note_model(p, instance);
    else if (!strcmp(instance->role, "kvbm"))
        managers_member(p, instance);
    if (!is_worker(instance) || strcmp(instance->host, daemon_host(p->daemon)) != 0)
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
    managers_gone(arg, id);
}

static void on_refused(void *arg)
{
    daemon_end(((struct kvbm_process *)arg)->daemon, 1);
}

static status members_start(struct daemon *d, struct error *err)
{
    struct kvbm_process *p = kvbm_process_of(d);
    struct instance self;
    status st = p->is_open ? open_for_others(p, err) : ST_OK;
    if (st != ST_OK) {
        close_for_others(p);
        return st;
    }
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
        close_for_others(p);
    return st;
}

/* Workers stop asking a manager that is not registered. */
static void members_drain(struct daemon *d)
{
    struct kvbm_process *p = kvbm_process_of(d);
    membership_leave(p->membership);
    if (p->lender)
        lender_drain(p->lender);
}

static bool members_drained(struct daemon *d)
{
    const struct kvbm_process *p = kvbm_process_of(d);
    return !p->links || (lender_open_loans(p->lender) == 0 && acceptor_under_way(p->acceptor) == 0);
}

static void members_stop(struct daemon *d)
{
    struct kvbm_process *p = kvbm_process_of(d);
    struct served_model *m;
    membership_destroy(&p->membership);
    close_for_others(p);
    while (!TAILQ_EMPTY(&p->others))
        forget_other(p, TAILQ_FIRST(&p->others)->id);
    while ((m = TAILQ_FIRST(&p->models))) {
        TAILQ_REMOVE(&p->models, m, link);
        free(m);
    }
}

const struct part part_members = {
    .name = "members",
    .start = members_start,
    .drain = members_drain,
    .drained = members_drained,
    .stop = members_stop,
};
