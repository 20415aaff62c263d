/* The cluster's etcd: an own process on free ports, or a given one. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/supervisor_internal.h"
#include "common/log.h"
#include "proto/instance.h"

#define ETCD_REQUEST_TIMEOUT_US 2000000u
#define ETCD_RETRY_MIN_US       50000u
#define ETCD_RETRY_MAX_US       1000000u

/* Two ports that are free now, both held until both are known. */
static bool pick_ports(uint16_t ports[2])
{
    int fds[2] = { -1, -1 };
    bool ok = true;
    for (int i = 0; i < 2; i++) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t len = sizeof address;
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ok = ok && fds[i] >= 0 && bind(fds[i], (struct sockaddr *)&address, len) == 0 &&
             getsockname(fds[i], (struct sockaddr *)&address, &len) == 0;
        ports[i] = ntohs(address.sin_port);
    }
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return ok;
}

void supervisor_etcd_look(struct supervisor *s)
{
    if (s->etcd_synced && s->named && s->leftovers == 0)
        supervisor_etcd_ready(s);
}

static void on_deleted(void *arg, status st)
{
    struct supervisor *s = arg;
    (void)st; /* a record that stays is gone with its lease */
    s->leftovers--;
    supervisor_etcd_look(s);
}

/* An own etcd keeps its data between runs. Who is registered before anything was started is long dead. */
static void on_put(void *arg, const char *key, const char *value, size_t len)
{
    struct supervisor *s = arg;
    (void)value;
    (void)len;
    if (s->phase != PHASE_ETCD || s->cluster.etcd[0])
        return;
    s->leftovers++;
    etcd_delete(s->etcd, key, on_deleted, s);
}

static void on_delete(void *arg, const char *key)
{
    (void)arg;
    (void)key;
}

static void on_synced(void *arg, bool in_sync)
{
    struct supervisor *s = arg;
    s->etcd_synced = in_sync;
    if (in_sync)
        supervisor_etcd_look(s);
}

static status create_client(struct supervisor *s, struct error *err)
{
    char prefix[INSTANCE_MAX_KEY];
    struct etcd_options options = {
        .loop = s->loop,
        .urls = s->etcd_url,
        .request_timeout_us = ETCD_REQUEST_TIMEOUT_US,
        .lease_ttl_us = SUPERVISOR_LEASE_US,
        .retry_min_us = ETCD_RETRY_MIN_US,
        .retry_max_us = ETCD_RETRY_MAX_US,
    };
    struct etcd_watch_callbacks callbacks = { on_put, on_delete, on_synced, s };
    status st = etcd_create(&options, &s->etcd, err);
    if (st != ST_OK)
        return st;
    st = etcd_watch(s->etcd, instance_prefix(prefix, sizeof prefix, s->options.dir->cluster), &callbacks, &s->watch);
    return st == ST_OK ? supervisor_name_take(s, err) : error_set(err, st, "cannot watch etcd: %s", status_text(st));
}

void supervisor_etcd_stop_client(struct supervisor *s)
{
    s->etcd_synced = s->named = false; /* first: what is still under way is called back */
    if (s->watch)
        etcd_unwatch(&s->watch);
    etcd_destroy(&s->etcd);
    s->leftovers = 0;
}

status supervisor_etcd_start(struct supervisor *s, struct error *err)
{
    uint16_t ports[2];
    supervisor_etcd_stop_client(s);
    s->etcd_attempts++;
    if (s->cluster.etcd[0]) {
        snprintf(s->etcd_url, sizeof s->etcd_url, "%s", s->cluster.etcd);
        return create_client(s, err);
    }
    if (!pick_ports(ports))
        return error_set(err, ST_IO, "there is no free port on 127.0.0.1");
    s->plan.etcd_client_port = ports[0];
    s->plan.etcd_peer_port = ports[1];
    snprintf(s->etcd_url, sizeof s->etcd_url, "http://127.0.0.1:%u", ports[0]);
    struct member *m = roster_find(&s->roster, "etcd");
    ASSERT(m && m->state == MEMBER_PENDING);
    timer_cancel(loop_timers(s->loop), &m->timer);
    member_launch(s, m);
    return create_client(s, err);
}
