/* etcd: publishes this router's API, and tells the fleet which workers are there. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "router/api.h"
#include "router/process.h"

/* As others reach the API: the bound port, with the advertised host where there is one. */
static status describe_self(struct router_process *p, struct error *err)
{
    const struct daemon_config *c = daemon_shared_config(p->daemon);
    struct instance *self = &p->self;
    char host[CONFIG_TEXT_BYTES];
    uint16_t port;
    if (config_split_address(p->config->http_listen, host, sizeof host, &port) != ST_OK)
        return error_set(err, ST_INVALID, "--http-listen %s is no address", p->config->http_listen);
    if (c->advertise[0])
        snprintf(host, sizeof host, "%s", c->advertise);
    snprintf(self->id, sizeof self->id, "%s", daemon_id(p->daemon));
    snprintf(self->role, sizeof self->role, "%s", daemon_role(p->daemon));
    self->incarnation = daemon_incarnation(p->daemon);
    snprintf(self->api, sizeof self->api, strchr(host, ':') ? "http://[%.100s]:%u" : "http://%.100s:%u", host,
             api_port(p->api));
    snprintf(self->host, sizeof self->host, "%s", daemon_host(p->daemon));
    snprintf(self->rack, sizeof self->rack, "%.63s", c->rack);
    snprintf(self->zone, sizeof self->zone, "%.63s", c->zone);
    snprintf(self->version, sizeof self->version, "%s", BATON_VERSION);
    self->pid = (uint32_t)getpid();
    return ST_OK;
}

static void on_put(void *arg, const char *key, const char *value, size_t len)
{
    struct router_process *p = arg;
    struct instance instance;
    struct error err;
    if (instance_read(value, len, &instance, &err) != ST_OK)
        log_warn("membership record ignored", "key=%s reason=\"%s\"", key, err.text);
    else
        fleet_member(p->fleet, &instance);
}

static void on_delete(void *arg, const char *key)
{
    struct router_process *p = arg;
    char id[64];
    if (instance_id_of_key(key, id, sizeof id))
        fleet_member_gone(p->fleet, id);
}

static status register_and_watch(struct router_process *p)
{
    const struct daemon_config *c = daemon_shared_config(p->daemon);
    char key[INSTANCE_MAX_KEY];
    struct text_buffer record;
    const struct etcd_watch_callbacks callbacks = { on_put, on_delete, NULL, p };
    text_buffer_init(&record, 4096);
    instance_write(&p->self, &record);
    status st = etcd_register(p->etcd, instance_key(key, sizeof key, c->cluster, &p->self), text_buffer_text(&record),
                              NULL, NULL, &p->registration);
    text_buffer_free(&record);
    if (st == ST_OK)
        st = etcd_watch(p->etcd, instance_prefix(key, sizeof key, c->cluster), &callbacks, &p->watch);
    return st;
}

static status members_start(struct daemon *d, struct error *err)
{
    struct router_process *p = router_process_of(d);
    const struct daemon_config *c = daemon_shared_config(d);
    if (!c->etcd[0])
        return error_set(err, ST_INVALID, "--etcd is empty: a router cannot find workers without it");
    const struct etcd_options options = {
        .loop = daemon_loop(d),
        .urls = c->etcd,
        .request_timeout_us = c->etcd_timeout,
        .lease_ttl_us = c->etcd_lease,
        .retry_min_us = 100000,
        .retry_max_us = 2000000,
    };
    status st = describe_self(p, err);
    if (st == ST_OK)
        st = etcd_create(&options, &p->etcd, err);
    if (st != ST_OK)
        return st;
    st = register_and_watch(p);
    if (st != ST_OK) {
        etcd_destroy(&p->etcd);
        return error_set(err, st, "etcd at %s: %s", c->etcd, status_text(st));
    }
    return ST_OK;
}

static void members_drain(struct daemon *d)
{
    struct router_process *p = router_process_of(d);
    if (p->registration)
        etcd_unregister(&p->registration, NULL, NULL);
}

static void members_stop(struct daemon *d)
{
    etcd_destroy(&router_process_of(d)->etcd);
}

const struct part part_members = {
    .name = "members", .start = members_start, .drain = members_drain, .stop = members_stop
};
