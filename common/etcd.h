/* etcd.h - etcd v3 through its JSON gateway, with libcurl's multi interface on the loop.
 * Built for "etcd down is not an outage": registrations and watches are wishes
 * that are retried with back-off for ever; callbacks tell what is known.
 * Callbacks come from the loop, never from inside a call made here, and may end
 * the registration or watch they belong to, but not destroy the client.
 * Loop thread only. */
#ifndef BATON_COMMON_ETCD_H
#define BATON_COMMON_ETCD_H

#include <stdbool.h>
#include <stdint.h>

#include "common/loop.h"
#include "common/status.h"

struct etcd;
struct etcd_registration;
struct etcd_watch;

struct etcd_options {
    struct loop *loop;
    const char *urls;            /* "http://127.0.0.1:2379[,...]" : the next one is tried when one fails */
    uint64_t request_timeout_us; /* each request */
    uint64_t lease_ttl_us;       /* of registrations; kept alive at a third of it */
    uint64_t retry_min_us, retry_max_us;
};

MUST_CHECK status etcd_create(const struct etcd_options *options, struct etcd **out, struct error *err);
void etcd_destroy(struct etcd **etcd);
bool etcd_healthy(const struct etcd *etcd); /* the last request succeeded */

struct etcd_stats {
    uint64_t requests, failures, leases_lost, watch_restarts;
};
void etcd_stats(const struct etcd *etcd, struct etcd_stats *out);

/* Keeps key = value alive under a lease: granted, put, renewed; after a lost lease or an outage, and when somebody
 * deleted the key, registered again. A key that another lease holds is never overwritten unless on_held says so. */
struct etcd_registration_options {
    const char *key, *value;                      /* copied */
    void (*on_state)(void *arg, bool registered); /* hears of changes; may be NULL */
    /* Another lease holds the key, with this value: true takes it over, false leaves it and asks again later, for as
     * long as it is held. May not end the registration. NULL: taken over. */
    bool (*on_held)(void *arg, const char *value, size_t len);
    void *arg;
};
MUST_CHECK status etcd_register(struct etcd *etcd, const struct etcd_registration_options *options,
                                struct etcd_registration **out);
/* New value under the same key, at once or when etcd is back. */
void etcd_registration_update(struct etcd_registration *reg, const char *value);
/* Looks now whether the key is still there, and not only with the next renewal. */
void etcd_registration_check(struct etcd_registration *reg);
/* Revokes the lease (best effort, at most one request_timeout) and frees. done (may be NULL) is
 * called when it was tried. */
void etcd_unregister(struct etcd_registration **reg, void (*done)(void *arg), void *arg);

/* Reads all keys with the prefix, then follows. After an interruption or a
 * compaction it re-reads and reports only differences: what is gone by on_delete.
 * A watch that has silently died is found by comparing, every two lease_ttl_us. */
struct etcd_watch_callbacks {
    void (*on_put)(void *arg, const char *key, const char *value, size_t len);
    void (*on_delete)(void *arg, const char *key);
    void (*on_synced)(void *arg, bool in_sync); /* true: the first read is complete; false: connection lost */
    void *arg;
};
MUST_CHECK status etcd_watch(struct etcd *etcd, const char *prefix, const struct etcd_watch_callbacks *callbacks,
                             struct etcd_watch **out);
void etcd_unwatch(struct etcd_watch **watch);

/* One put without a lease or one delete, tried three times; done(arg, status) is called in any case,
 * with ST_CANCELLED when the client is destroyed before. */
void etcd_put(struct etcd *etcd, const char *key, const char *value, void (*done)(void *arg, status st), void *arg);
void etcd_delete(struct etcd *etcd, const char *key, void (*done)(void *arg, status st), void *arg);

#endif
