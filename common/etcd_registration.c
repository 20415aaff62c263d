/* A key that is kept alive under a lease: granted, put, renewed, for ever.
 * It is put by a transaction that compares the revision in which the key was last seen, so that nothing is overwritten
 * that was not looked at; and each renewal is followed by a look at whose lease the key hangs on. */
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
    bool (*on_held)(void *arg, const char *value, size_t len);
    void *arg;
    int64_t lease;           /* 0: none */
    int64_t revision;        /* of the key when it was last seen; 0: it was not there */
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

static void stand(struct etcd_registration *reg)
{
    reg->failures = 0;
    step_after(reg, reg->value_is_new ? 0 : reg->etcd->options.lease_ttl_us / 3);
    (void)tell(reg, true);
}

static void put_at(struct etcd_registration *reg, int64_t revision)
{
    reg->revision = revision;
    reg->value_is_new = true;
    step(reg);
}

/* Another lease holds the key. */
static void ask_owner(struct etcd_registration *reg, const json_t *kv)
{
    size_t len;
    char *value = etcd_json_text(kv, "value", &len);
    bool take = !value || !reg->on_held || reg->on_held(reg->arg, value, len);
    free(value);
    if (take) {
        put_at(reg, etcd_json_int(kv, "mod_revision"));
        return;
    }
    reg->value_is_new = true;
    step_after(reg, etcd_retry_delay(reg->etcd, ++reg->failures));
    (void)tell(reg, false);
}

/* The key is not as it was expected: this is how it is. */
static void look_at_key(struct etcd_registration *reg, const struct etcd_answer *answer)
{
    const json_t *range =
        json_object_get(json_array_get(json_object_get(answer->json, "responses"), 0), "response_range");
    const json_t *kv = json_array_get(json_object_get(range, "kvs"), 0);
    if (!kv) {
        if (reg->registered)
            log_warn("registration was deleted, putting it back", "key=%s", reg->key);
        put_at(reg, 0);
    } else if (etcd_json_int(kv, "lease") != reg->lease) {
        ask_owner(reg, kv);
    } else {
        put_at(reg, etcd_json_int(kv, "mod_revision")); /* ours, but the answer to the put was lost */
    }
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
    } else if (json_is_true(json_object_get(answer->json, "succeeded"))) {
        reg->revision = etcd_json_int(json_object_get(answer->json, "header"), "revision");
        stand(reg);
    } else {
        look_at_key(reg, answer);
    }
}

static void on_checked(void *arg, const struct etcd_answer *answer)
{
    struct etcd_registration *reg = arg;
    reg->call = NULL;
    if (answer->st != ST_OK)
        retry(reg);
    else if (json_is_true(json_object_get(answer->json, "succeeded")))
        stand(reg);
    else
        look_at_key(reg, answer);
}

static void call(struct etcd_registration *reg, const char *path, json_t *body,
                 void (*done)(void *, const struct etcd_answer *))
{
    reg->asked_us = clock_now_us();
    reg->call =
        etcd_call_start(reg->etcd, &(struct etcd_call_options){ .path = path, .body = body, .done = done, .arg = reg });
}

static json_t *key_of(const struct etcd_registration *reg)
{
    return etcd_json_bytes(reg->key, strlen(reg->key));
}

/* If the key's field (MOD, LEASE) has this value, then what is given is done; else the key is read. */
static json_t *when(const struct etcd_registration *reg, const char *target, const char *field, int64_t value,
                    json_t *then)
{
    return json_pack("{s:[{s:o, s:s, s:s, s:o}], s:o, s:[{s:{s:o}}]}", "compare", "key", key_of(reg), "target", target,
                     "result", "EQUAL", field, etcd_json_int_string(value), "success", then, "failure", "request_range",
                     "key", key_of(reg));
}

static void put(struct etcd_registration *reg)
{
    json_t *body =
        json_pack("[{s:{s:o, s:o, s:o}}]", "request_put", "key", key_of(reg), "value",
                  etcd_json_bytes(reg->value, strlen(reg->value)), "lease", etcd_json_int_string(reg->lease));
    reg->value_is_new = false;
    call(reg, "/v3/kv/txn", when(reg, "MOD", "mod_revision", reg->revision, body), on_put);
}

static void check(struct etcd_registration *reg)
{
    call(reg, "/v3/kv/txn", when(reg, "LEASE", "lease", reg->lease, json_array()), on_checked);
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
    if (reg->value_is_new)
        put(reg);
    else
        check(reg);
}

static int64_t ttl_seconds(const struct etcd *etcd)
{
    int64_t seconds = (int64_t)((etcd->options.lease_ttl_us + 999999) / 1000000);
    return seconds > 0 ? seconds : 1;
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
        put(reg);
    } else {
        call(reg, "/v3/lease/keepalive", json_pack("{s:o}", "ID", etcd_json_int_string(reg->lease)), on_renewed);
    }
}

status etcd_register(struct etcd *etcd, const struct etcd_registration_options *o, struct etcd_registration **out)
{
    struct etcd_registration *reg = calloc(1, sizeof *reg);
    if (!reg)
        return ST_NO_MEMORY;
    *reg = (struct etcd_registration){ .etcd = etcd,
                                       .key = strdup(o->key),
                                       .value = strdup(o->value),
                                       .on_state = o->on_state,
                                       .on_held = o->on_held,
                                       .arg = o->arg };
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

void etcd_registration_check(struct etcd_registration *reg)
{
    if (!reg->lease || reg->call || reg->value_is_new)
        return; /* what is under way looks at the key as well */
    timer_cancel(reg->etcd->timers, &reg->timer);
    check(reg);
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
