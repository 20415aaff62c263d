/* A key that is kept alive under a lease: granted, put, renewed, for ever. */
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/etcd_call.h"
#include "common/etcd_json.h"
#include "common/etcd_parts.h"
#include "common/log.h"

struct etcd_registration {
    struct etcd *etcd;
    LIST_ENTRY(etcd_registration) link;
    char *key, *value;
    void (*on_state)(void *arg, bool registered);
    void *arg;
    int64_t lease;           /* 0: none */
    uint64_t asked_us;       /* when the running call began */
    uint64_t lease_until_us; /* it lives at least so long */
    bool value_is_new;       /* has to be put */
    bool registered;         /* what on_state was last told */
    uint32_t failures;
    struct etcd_call *call;
    struct timer timer;
    bool calling_back, ended;
};

static void step(void *arg);

static void free_registration(struct etcd_registration *reg)
{
    free(reg->key);
    free(reg->value);
    free(reg);
}

/* false: the callback ended the registration, which is gone. */
static bool tell(struct etcd_registration *reg, bool registered)
{
    if (reg->registered == registered)
        return true;
    reg->registered = registered;
    log_info(registered ? "registered" : "no longer registered", "key=%s lease=%llx", reg->key,
             (unsigned long long)reg->lease);
    if (!reg->on_state)
        return true;
    reg->calling_back = true;
    reg->on_state(reg->arg, registered);
    reg->calling_back = false;
    if (!reg->ended)
        return true;
    free_registration(reg);
    return false;
}

static void step_after(struct etcd_registration *reg, uint64_t delay_us)
{
    timer_set(reg->etcd->timers, &reg->timer, clock_now_us() + delay_us, step, reg);
}

static void retry(struct etcd_registration *reg)
{
    uint64_t delay = etcd_retry_delay(reg->etcd, ++reg->failures), now = clock_now_us();
    uint64_t third = reg->etcd->options.lease_ttl_us / 3;
    bool alive = reg->lease && now < reg->lease_until_us;
    step_after(reg, alive && delay > third ? third : delay);
    if (!alive)
        (void)tell(reg, false);
}

static void lose_lease(struct etcd_registration *reg)
{
    log_warn("lease lost", "key=%s lease=%llx", reg->key, (unsigned long long)reg->lease);
    reg->etcd->stats.leases_lost++;
    reg->lease = 0;
    if (tell(reg, false))
        step_after(reg, etcd_retry_delay(reg->etcd, ++reg->failures));
}

static void on_granted(void *arg, const struct etcd_answer *answer)
{
    struct etcd_registration *reg = arg;
    reg->call = NULL;
    int64_t lease = answer->st == ST_OK ? etcd_json_int(answer->json, "ID") : 0;
    if (lease == 0) {
        retry(reg);
        return;
    }
    reg->lease = lease;
    reg->lease_until_us = reg->asked_us + reg->etcd->options.lease_ttl_us;
    reg->value_is_new = true;
    step(reg);
}

static void on_put(void *arg, const struct etcd_answer *answer)
{
    struct etcd_registration *reg = arg;
    reg->call = NULL;
    if (answer->st == ST_NOT_FOUND) {
        lose_lease(reg);
    } else if (answer->st != ST_OK) {
        reg->value_is_new = true;
        retry(reg);
    } else {
        reg->failures = 0;
        step_after(reg, reg->value_is_new ? 0 : reg->etcd->options.lease_ttl_us / 3);
        (void)tell(reg, true);
    }
}

static void on_renewed(void *arg, const struct etcd_answer *answer)
{
    struct etcd_registration *reg = arg;
    reg->call = NULL;
    const json_t *result = answer->st == ST_OK ? json_object_get(answer->json, "result") : NULL;
    if (!result) {
        retry(reg);
        return;
    }
    if (etcd_json_int(result, "TTL") <= 0) { /* a lost lease is answered so, not with an error */
        lose_lease(reg);
        return;
    }
    reg->lease_until_us = reg->asked_us + reg->etcd->options.lease_ttl_us;
    /* After an outage the key itself is written again, whatever became of it meanwhile. */
    if (reg->failures)
        reg->value_is_new = true;
    step_after(reg, reg->value_is_new ? 0 : reg->etcd->options.lease_ttl_us / 3);
}

static int64_t ttl_seconds(const struct etcd *etcd)
{
    int64_t seconds = (int64_t)((etcd->options.lease_ttl_us + 999999) / 1000000);
    return seconds > 0 ? seconds : 1;
}

static void call(struct etcd_registration *reg, const char *path, json_t *body,
                 void (*done)(void *, const struct etcd_answer *))
{
    reg->asked_us = clock_now_us();
    reg->call =
        etcd_call_start(reg->etcd, &(struct etcd_call_options){ .path = path, .body = body, .done = done, .arg = reg });
}

/* What is missing comes next. */
static void step(void *arg)
{
    struct etcd_registration *reg = arg;
    timer_cancel(reg->etcd->timers, &reg->timer);
    if (reg->call)
        return;
    if (!reg->lease) {
        call(reg, "/v3/lease/grant", json_pack("{s:o}", "TTL", etcd_json_int_string(ttl_seconds(reg->etcd))),
             on_granted);
    } else if (reg->value_is_new) {
        reg->value_is_new = false;
        call(reg, "/v3/kv/put",
             json_pack("{s:o, s:o, s:o}", "key", etcd_json_bytes(reg->key, strlen(reg->key)), "value",
                       etcd_json_bytes(reg->value, strlen(reg->value)), "lease", etcd_json_int_string(reg->lease)),
             on_put);
    } else {
        call(reg, "/v3/lease/keepalive", json_pack("{s:o}", "ID", etcd_json_int_string(reg->lease)), on_renewed);
    }
}

status etcd_register(struct etcd *etcd, const char *key, const char *value,
                     void (*on_state)(void *arg, bool registered), void *arg, struct etcd_registration **out)
{
    struct etcd_registration *reg = calloc(1, sizeof *reg);
    if (!reg)
        return ST_NO_MEMORY;
    *reg = (struct etcd_registration){
        .etcd = etcd, .key = strdup(key), .value = strdup(value), .on_state = on_state, .arg = arg
    };
    if (!reg->key || !reg->value) {
        free_registration(reg);
        return ST_NO_MEMORY;
    }
    LIST_INSERT_HEAD(&etcd->registrations, reg, link);
    step(reg);
    *out = reg;
    return ST_OK;
}

void etcd_registration_update(struct etcd_registration *reg, const char *value)
{
    char *copy = strdup(value);
    ASSERT(copy != NULL);
    free(reg->value);
    reg->value = copy;
    reg->value_is_new = true;
    if (reg->lease && !reg->call && !reg->failures)
        step(reg);
}

void etcd_registration_end(struct etcd_registration *reg)
{
    LIST_REMOVE(reg, link);
    timer_cancel(reg->etcd->timers, &reg->timer);
    etcd_call_cancel(&reg->call);
    reg->ended = true;
    if (!reg->calling_back)
        free_registration(reg);
}

void etcd_unregister(struct etcd_registration **p, void (*done)(void *arg), void *arg)
{
    struct etcd_registration *reg = *p;
    if (!reg)
        return;
    *p = NULL;
    etcd_revoke(reg->etcd, reg->lease, done, arg);
    etcd_registration_end(reg);
}
