/* etcd: publishes this router's API, and tells the fleet which workers are there. */
#include <stdio.h>
#include <string.h>

#include "router/api.h"
#include "router/process.h"

/* As others reach the API: the bound port, with the advertised host where there is one. */
static status describe_self(const struct router_process *p, struct instance *self, struct error *err)
{
    const struct daemon_config *c = daemon_shared_config(p->daemon);
    char host[CONFIG_TEXT_BYTES];
    uint16_t port;
    if (config_split_address(p->config->http_listen, host, sizeof host, &port) != ST_OK)
        return error_set(err, ST_INVALID, "--http-listen %s is no address", p->config->http_listen);
    if (c->advertise[0])
        snprintf(host, sizeof host, "%s", c->advertise);
    membership_describe(p->daemon, self);
    snprintf(self->api, sizeof self->api, strchr(host, ':') ? "http://[%.100s]:%u" : "http://%.100s:%u", host,
             api_port(p->api));
    return ST_OK;
}

/* What holds KV of a model that is not served here is of no use; what holds KV of any is. */
static bool holds_ours(const struct router_process *p, const struct instance *instance)
{
    return !instance->model[0] || models_find(p->models, instance->model, strlen(instance->model));
}

static void on_member(void *arg, const struct instance *instance)
{
    struct router_process *p = arg;
    fleet_member(p->fleet, instance);
    if (p->kv_feeds && holds_ours(p, instance))
        kv_feeds_member(p->kv_feeds, instance);
}

static void on_gone(void *arg, const char *id)
{
    struct router_process *p = arg;
    fleet_member_gone(p->fleet, id);
    if (p->kv_feeds)
        kv_feeds_member_gone(p->kv_feeds, id);
}

static void on_refused(void *arg)
{
    daemon_end(((struct router_process *)arg)->daemon, 1);
}

static status members_start(struct daemon *d, struct error *err)
{
    struct router_process *p = router_process_of(d);
    struct instance self;
    const struct membership_options options = {
        .loop = daemon_loop(d),
        .config = daemon_shared_config(d),
        .self = &self,
        .on_member = on_member,
        .on_gone = on_gone,
        .on_refused = on_refused,
        .arg = p,
    };
    status st = describe_self(p, &self, err);
    return st == ST_OK ? membership_create(&options, &p->membership, err) : st;
}

static void members_drain(struct daemon *d)
{
    membership_leave(router_process_of(d)->membership);
}

static void members_stop(struct daemon *d)
{
    membership_destroy(&router_process_of(d)->membership);
}

const struct part part_members = {
    .name = "members", .start = members_start, .drain = members_drain, .stop = members_stop
};
