#include "proto/membership.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/etcd.h"
#include "common/log.h"
#include "proto/claim.h"

#define RETRY_MIN_US     100000u
#define RETRY_MAX_US     2000000u
#define RECORD_MAX_BYTES 8192
#define LINK_MAX_PENDING 4096u /* acknowledged messages under way on one link */

struct membership {
    struct membership_options options; /* self is not kept */
    struct etcd *etcd;
    struct etcd_registration *registration; /* NULL: it has left. Etcd's, as the watch is */
    char key[INSTANCE_MAX_KEY];             /* of the own record */
    uint64_t incarnation;
    struct claim claim; /* on the own name, while another has it */
    bool registered_once, name_is_taken;
};

static void on_put(void *arg, const char *key, const char *value, size_t len)
{
    struct membership *m = arg;
    struct instance instance;
    struct error err;
    if (instance_read(value, len, &instance, &err) != ST_OK)
        log_warn("membership record ignored", "key=%s reason=\"%s\"", key, err.text);
    else
        m->options.on_member(m->options.arg, &instance);
}

static void on_delete(void *arg, const char *key)
{
    struct membership *m = arg;
    char id[sizeof((struct instance *)NULL)->id];
    if (m->registration && !strcmp(key, m->key))
        etcd_registration_check(m->registration);
    if (instance_id_of_key(key, id, sizeof id))
        m->options.on_gone(m->options.arg, id);
}

static void on_registered(void *arg, bool registered)
{
    struct membership *m = arg;
    if (!registered)
        return;
    m->registered_once = true;
    m->name_is_taken = false;
}

/* Once for each holder. A process that had the name keeps the work it has, and takes the name again when it is free. */
static void refuse(struct membership *m, const struct instance *holder)
{
    if (m->name_is_taken)
        return;
    m->name_is_taken = true;
    log_error("another process has this name",
              "cluster=%s key=%s holder_pid=%u holder_host=%s remedy=\"give one of the two clusters another name "
              "(--cluster; baton up: --name), or this process another --id, or use another --etcd\"",
              m->options.config->cluster, m->key, holder->pid, holder->host);
    if (!m->registered_once && m->options.on_refused)
        m->options.on_refused(m->options.arg);
}

static bool on_held(void *arg, const char *value, size_t len)
{
    struct membership *m = arg;
    struct instance holder;
    struct error err;
    if (instance_read(value, len, &holder, &err) != ST_OK) {
        log_warn("a record under this process's name is none, and is overwritten", "key=%s reason=\"%s\"", m->key,
                 err.text);
        return true;
    }
    if (holder.incarnation == m->incarnation)
        return true; /* put under a lease that was lost since */
    switch (claim_judge(&m->claim, value, len, process_life(holder.process), clock_now_us(),
                        m->options.config->etcd_lease)) {
    case CLAIM_TAKE:
        log_info("the name's last holder has ended", "key=%s holder_pid=%u", m->key, holder.pid);
        return true;
    case CLAIM_WAIT:
        m->name_is_taken = false;
        return false;
    case CLAIM_REFUSE:
        refuse(m, &holder);
        return false;
    }
    return false;
}

static status join(struct membership *m, const struct instance *self)
{
    const char *cluster = m->options.config->cluster;
    const struct etcd_watch_callbacks callbacks = { on_put, on_delete, NULL, m };
    char prefix[INSTANCE_MAX_KEY];
    struct text_buffer record;
    struct etcd_watch *watch;
    text_buffer_init(&record, RECORD_MAX_BYTES);
    instance_write(self, &record);
    status st = record.state;
    m->incarnation = self->incarnation;
    const struct etcd_registration_options registration = { .key = instance_key(m->key, sizeof m->key, cluster, self),
                                                            .value = text_buffer_text(&record),
                                                            .on_state = on_registered,
                                                            .on_held = on_held,
                                                            .arg = m };
    if (st == ST_OK)
        st = etcd_register(m->etcd, &registration, &m->registration);
    text_buffer_free(&record);
    return st == ST_OK ? etcd_watch(m->etcd, instance_prefix(prefix, sizeof prefix, cluster), &callbacks, &watch) : st;
}

static status start(struct membership *m, struct error *err)
{
    const struct daemon_config *c = m->options.config;
    const struct etcd_options options = {
        .loop = m->options.loop,
        .urls = c->etcd,
        .request_timeout_us = c->etcd_timeout,
        .lease_ttl_us = c->etcd_lease,
        .retry_min_us = RETRY_MIN_US,
        .retry_max_us = RETRY_MAX_US,
    };
    status st = etcd_create(&options, &m->etcd, err);
    if (st != ST_OK)
        return st;
    st = join(m, m->options.self);
    return st == ST_OK ? ST_OK : error_set(err, st, "etcd at %s: %s", c->etcd, status_text(st));
}

status membership_create(const struct membership_options *options, struct membership **out, struct error *err)
{
    if (!options->config->etcd[0])
        return error_set(err, ST_INVALID,
                         "--etcd is empty: without it the processes of a cluster do not find each other");
    struct membership *m = calloc(1, sizeof *m);
    if (!m)
        return error_set(err, ST_NO_MEMORY, "no memory");
    m->options = *options;
    status st = start(m, err);
    m->options.self = NULL;
    if (st == ST_OK)
        *out = m;
    else
        membership_destroy(&m);
    return st;
}

void membership_update(struct membership *m, const struct instance *self)
{
    struct text_buffer record;
    text_buffer_init(&record, RECORD_MAX_BYTES);
    instance_write(self, &record);
    if (m->registration && record.state == ST_OK)
        etcd_registration_update(m->registration, text_buffer_text(&record));
    text_buffer_free(&record);
}

void membership_leave(struct membership *m)
{
    if (m->registration)
        etcd_unregister(&m->registration, NULL, NULL);
}

bool membership_name_is_taken(const struct membership *m)
{
    return m->name_is_taken;
}

bool membership_etcd_up(const struct membership *m)
{
    return etcd_healthy(m->etcd);
}

void membership_destroy(struct membership **m)
{
    if (!*m)
        return;
    etcd_destroy(&(*m)->etcd);
    free(*m);
    *m = NULL;
}

static bool is_any_address(const char *host)
{
    return !host[0] || !strcmp(host, "*") || !strcmp(host, "0.0.0.0") || !strcmp(host, "::");
}

/* What listens to its own host only is described so: nobody else should try. */
static void describe_admin(const struct daemon *d, struct instance *out)
{
    const struct daemon_config *c = daemon_shared_config(d);
    char listens[CONFIG_TEXT_BYTES];
    uint16_t port; /* as asked for, which may be 0 */
    if (config_split_address(c->admin_listen, listens, sizeof listens, &port) != ST_OK)
        return;
    const char *host = !is_any_address(listens) ? listens : c->advertise[0] ? c->advertise : daemon_host(d);
    snprintf(out->admin, sizeof out->admin, strchr(host, ':') ? "http://[%.90s]:%u" : "http://%.90s:%u", host,
             daemon_admin_port(d));
}

void membership_describe(const struct daemon *d, struct instance *out)
{
    const struct daemon_config *c = daemon_shared_config(d);
    *out = (struct instance){ .incarnation = daemon_incarnation(d), .pid = (uint32_t)getpid() };
    snprintf(out->id, sizeof out->id, "%s", daemon_id(d));
    snprintf(out->role, sizeof out->role, "%s", daemon_role(d));
    snprintf(out->host, sizeof out->host, "%s", daemon_host(d));
    snprintf(out->rack, sizeof out->rack, "%.63s", c->rack);
    snprintf(out->zone, sizeof out->zone, "%.63s", c->zone);
    snprintf(out->version, sizeof out->version, "%s", BATON_VERSION);
    process_name(out->process);
    describe_admin(d, out);
}

void membership_link_options(struct daemon *d, struct links_options *out)
{
    const struct daemon_config *c = daemon_shared_config(d);
    *out = (struct links_options){
        .loop = daemon_loop(d),
        .id = daemon_id(d),
        .role = daemon_role(d),
        .cluster = c->cluster,
        .incarnation = daemon_incarnation(d),
        .ping_interval_us = c->ping_interval,
        .frozen_us = c->ping_timeout,
        .closed_us = c->ping_timeout / 6,
        .repeat_us = c->repeat_interval,
        .max_pending = LINK_MAX_PENDING,
    };
}

status membership_endpoints(const struct daemon *d, struct membership_endpoints *out, struct error *err)
{
    const struct daemon_config *c = daemon_shared_config(d);
    char host[CONFIG_TEXT_BYTES];
    uint16_t port;
    if (config_split_address(c->listen, host, sizeof host, &port) != ST_OK)
        return error_set(err, ST_INVALID, "--listen %s is no address", c->listen);
    snprintf(out->control, sizeof out->control, "tcp://%s", c->listen);
    snprintf(out->any, sizeof out->any, strchr(host, ':') ? "tcp://[%.200s]:0" : "tcp://%.200s:0", host);
    if (c->event_listen[0])
        snprintf(out->events, sizeof out->events, "tcp://%s", c->event_listen);
    else
        snprintf(out->events, sizeof out->events, "%s", out->any);
    return ST_OK;
}

void membership_advertised(const struct daemon *d, const char *endpoint, char *out, size_t size)
{
    const char *host = daemon_shared_config(d)->advertise, *port = strrchr(endpoint, ':');
    if (host[0] && port)
        snprintf(out, size, strchr(host, ':') ? "tcp://[%.90s]%.8s" : "tcp://%.90s%.8s", host, port);
    else
        snprintf(out, size, "%s", endpoint);
}
