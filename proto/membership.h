/* membership.h - a daemon's place in its cluster: its own record in etcd while it takes work, the records of the
 * others, and what its links to them have in common. Loop thread only. */
#ifndef BATON_PROTO_MEMBERSHIP_H
#define BATON_PROTO_MEMBERSHIP_H

#include "common/daemon.h"
#include "proto/instance.h"
#include "proto/link.h"

struct membership;

struct membership_options {
    struct loop *loop;
    const struct daemon_config *config; /* borrowed: cluster, and where etcd is */
    const struct instance *self;        /* copied */
    /* A record appeared or changed; this daemon's own is told like any other. */
    void (*on_member)(void *arg, const struct instance *instance);
    void (*on_gone)(void *arg, const char *id);
    /* Another process that lives holds this one's name, and this one never had it: it should end. Said in the log. */
    void (*on_refused)(void *arg);
    void *arg;
};

/* Registers and follows from now on, whether etcd is up or not; callbacks come from the loop. */
MUST_CHECK status membership_create(const struct membership_options *options, struct membership **out,
                                    struct error *err);
/* Takes the own record back: others give no more work. Still follows. */
void membership_leave(struct membership *m);
/* Another process holds the name, which is this one's no longer or never was. */
bool membership_name_is_taken(const struct membership *m);
bool membership_etcd_up(const struct membership *m);
/* What the own record says from now on, under the same role and id. */
void membership_update(struct membership *m, const struct instance *self);
void membership_destroy(struct membership **m);

/* What every daemon publishes of itself: id, role, incarnation, host, rack, zone, version, pid, process and admin;
 * the rest is empty. */
void membership_describe(const struct daemon *d, struct instance *out);
/* Name, incarnation and times, the same on all links of a cluster; the rest is the caller's. */
void membership_link_options(struct daemon *d, struct links_options *out);

/* Endpoints for a daemon's sockets: --listen as "tcp://HOST:PORT", any port of the same host, and --event-listen or
 * that. */
struct membership_endpoints {
    char control[CONFIG_TEXT_BYTES + 8], any[CONFIG_TEXT_BYTES + 8], events[CONFIG_TEXT_BYTES + 8];
};
MUST_CHECK status membership_endpoints(const struct daemon *d, struct membership_endpoints *out, struct error *err);
/* A bound endpoint as others reach it: with the advertised host where there is one. */
void membership_advertised(const struct daemon *d, const char *endpoint, char *out, size_t size);

#endif
