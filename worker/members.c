/* etcd: publishes this worker, and tells peers.c who else is there. */
#include <stdio.h>

#include "worker/process.h"

static void describe_self(const struct worker_process *p, struct instance *self)
{
    membership_describe(p->daemon, self);
    snprintf(self->model, sizeof self->model, "%s", p->model_name);
    snprintf(self->kv_format, sizeof self->kv_format, "%s", p->kv_format);
    adapters_describe(&p->adapters, self->adapters, sizeof self->adapters);
    snprintf(self->class, sizeof self->class, "%s", p->class);
    membership_advertised(p->daemon, links_endpoint(p->links), self->control, sizeof self->control);
    membership_advertised(p->daemon, links_events_endpoint(p->links), self->events, sizeof self->events);
    if (p->kv_publish) {
        const struct kv_publisher *publisher = kv_publish_publisher(p->kv_publish);
        membership_advertised(p->daemon, kv_publisher_endpoint(publisher), self->kv_events, sizeof self->kv_events);
        membership_advertised(p->daemon, kv_publisher_replay_endpoint(publisher), self->kv_replay,
                              sizeof self->kv_replay);
    }
    self->weights = model_fingerprint(p->model);
    self->tokenizer = model_text_fingerprint(p->model);
    self->block_tokens = p->layout.block_tokens;
    self->computes_all = p->config->fetch == FETCH_NEVER || !p->config->prefix_cache;
    self->max_model_len = p->max_model_len;
    self->kv_tokens = (uint64_t)p->n_blocks * p->layout.block_tokens;
}

static void on_member(void *arg, const struct instance *instance)
{
    peers_member(arg, instance);
}

static void on_gone(void *arg, const char *id)
{
    peers_member_gone(arg, id);
}

static void on_refused(void *arg)
{
    daemon_end(((struct worker_process *)arg)->daemon, 1);
}

static status members_start(struct daemon *d, struct error *err)
{
    struct worker_process *p = worker_process_of(d);
    struct instance self;
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
    return membership_create(&options, &p->membership, err);
}

/* Routers stop choosing a worker that is not registered. */
static void members_drain(struct daemon *d)
{
    membership_leave(worker_process_of(d)->membership);
}

static void members_stop(struct daemon *d)
{
    membership_destroy(&worker_process_of(d)->membership);
}

const struct part part_members = {
    .name = "members", .start = members_start, .drain = members_drain, .stop = members_stop
};
