/* etcd: publishes this worker, and tells peers.c who else is there. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "worker/process.h"

/* As others reach us: the bound endpoint, with the advertised host where there is one. */
static void advertised(const char *endpoint, const char *host, char *out, size_t size)
{
    const char *port = strrchr(endpoint, ':');
    if (host[0] && port)
        snprintf(out, size, strchr(host, ':') ? "tcp://[%.90s]%.8s" : "tcp://%.90s%.8s", host, port);
    else
        snprintf(out, size, "%s", endpoint);
}

static void describe_self(struct worker_process *p)
{
    const struct daemon_config *c = daemon_shared_config(p->daemon);
    struct instance *self = &p->self;
    snprintf(self->id, sizeof self->id, "%s", daemon_id(p->daemon));
    snprintf(self->role, sizeof self->role, "%s", worker_role_name(p->role));
    self->incarnation = daemon_incarnation(p->daemon);
    snprintf(self->model, sizeof self->model, "%s", p->model_name);
    snprintf(self->kv_format, sizeof self->kv_format, "%s", p->kv_format);
    advertised(links_endpoint(p->links), c->advertise, self->control, sizeof self->control);
    advertised(links_events_endpoint(p->links), c->advertise, self->events, sizeof self->events);
    snprintf(self->host, sizeof self->host, "%s", daemon_host(p->daemon));
    snprintf(self->rack, sizeof self->rack, "%.63s", c->rack);
    snprintf(self->zone, sizeof self->zone, "%.63s", c->zone);
    snprintf(self->version, sizeof self->version, "%s", BATON_VERSION);
    self->max_model_len = p->max_model_len;
    self->kv_tokens = (uint64_t)p->n_blocks * p->layout.block_tokens;
    self->pid = (uint32_t)getpid();
}

static void on_put(void *arg, const char *key, const char *value, size_t len)
{
    struct worker_process *p = arg;
    struct instance instance;
    struct error err;
    if (instance_read(value, len, &instance, &err) != ST_OK)
        log_warn("membership record ignored", "key=%s reason=\"%s\"", key, err.text);
    else
        peers_member(p, &instance);
}

static void on_delete(void *arg, const char *key)
{
    char id[64];
    if (instance_id_of_key(key, id, sizeof id))
        peers_member_gone(arg, id);
}

static status members_start(struct daemon *d, struct error *err)
{
    struct worker_process *p = worker_process_of(d);
    const struct daemon_config *c = daemon_shared_config(d);
    char key[INSTANCE_MAX_KEY];
    if (!c->etcd[0])
        return error_set(err, ST_INVALID, "--etcd is empty: a worker cannot be found without it");
    struct etcd_options options = {
        .loop = daemon_loop(d),
        .urls = c->etcd,
        .request_timeout_us = c->etcd_timeout,
        .lease_ttl_us = c->etcd_lease,
        .retry_min_us = 100000,
        .retry_max_us = 2000000,
    };
    status st = etcd_create(&options, &p->etcd, err);
    if (st != ST_OK)
        return st;
    describe_self(p);
    struct text_buffer record;
    text_buffer_init(&record, 4096);
    instance_write(&p->self, &record);
    st = etcd_register(p->etcd, instance_key(key, sizeof key, c->cluster, &p->self), text_buffer_text(&record), NULL,
                       NULL, &p->registration);
    text_buffer_free(&record);
    struct etcd_watch_callbacks callbacks = { on_put, on_delete, NULL, p };
    if (st == ST_OK)
        st = etcd_watch(p->etcd, instance_prefix(key, sizeof key, c->cluster), &callbacks, &p->watch);
    if (st != ST_OK) {
        etcd_destroy(&p->etcd);
        return error_set(err, st, "etcd at %s: %s", c->etcd, status_text(st));
    }
    return ST_OK;
}

/* Routers stop choosing a worker that is not registered. */
static void members_drain(struct daemon *d)
{
    struct worker_process *p = worker_process_of(d);
    if (p->registration)
        etcd_unregister(&p->registration, NULL, NULL);
}

static void members_stop(struct daemon *d)
{
    etcd_destroy(&worker_process_of(d)->etcd);
}

const struct part part_members = {
    .name = "members", .start = members_start, .drain = members_drain, .stop = members_stop
};
