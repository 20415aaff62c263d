#include "common/etcd.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/etcd_call.h"
#include "common/etcd_json.h"
#include "common/etcd_parts.h"

#define ETCD_OPERATION_TRIES 3

/* A put, delete or revocation: tried a few times, then given up. */
struct etcd_operation {
    struct etcd *etcd;
    LIST_ENTRY(etcd_operation) link;
    const char *path;
    json_t *body; /* NULL: nothing to send */
    uint32_t tries, failures;
    struct etcd_call *call;
    struct timer timer;
    void (*done)(void *arg, status st);
    void (*done_plain)(void *arg);
    void *arg;
};

static status split_urls(struct etcd *etcd, const char *text, struct error *err)
{
    char *rest = NULL;
    etcd->url_text = strdup(text);
    if (!etcd->url_text)
        return error_set(err, ST_NO_MEMORY, "no memory for an etcd client");
    for (char *url = strtok_r(etcd->url_text, ", ", &rest); url; url = strtok_r(NULL, ", ", &rest)) {
        size_t len = strlen(url);
        while (len > 0 && url[len - 1] == '/')
            url[--len] = '\0';
        size_t scheme = !strncmp(url, "http://", 7) ? 7 : !strncmp(url, "https://", 8) ? 8 : 0;
        if (!scheme || !url[scheme])
            return error_set(err, ST_INVALID, "'%s' is no etcd URL; write http://HOST:PORT", url);
        if (etcd->n_urls == ETCD_MAX_URLS)
            return error_set(err, ST_LIMIT, "more than %d etcd URLs", ETCD_MAX_URLS);
        etcd->urls[etcd->n_urls++] = url;
    }
    return etcd->n_urls ? ST_OK : error_set(err, ST_INVALID, "no etcd URL is given");
}

status etcd_create(const struct etcd_options *options, struct etcd **out, struct error *err)
{
    ASSERT(options->request_timeout_us && options->lease_ttl_us && options->retry_min_us &&
           options->retry_min_us <= options->retry_max_us);
    struct etcd *etcd = calloc(1, sizeof *etcd);
    if (!etcd)
        return error_set(err, ST_NO_MEMORY, "no memory for an etcd client");
    etcd->options = *options;
    etcd->options.urls = NULL;
    etcd->base = loop_base(options->loop);
    etcd->timers = loop_timers(options->loop);
    etcd->random = (clock_now_us() << 20) ^ (uint64_t)getpid() ^ 0x9e3779b97f4a7c15u;
    LIST_INIT(&etcd->registrations);
    LIST_INIT(&etcd->watches);
    LIST_INIT(&etcd->operations);
    status st = etcd_transport_open(etcd, err);
    if (st == ST_OK)
        st = split_urls(etcd, options->urls, err);
    if (st != ST_OK)
        etcd_destroy(&etcd);
    else
        *out = etcd;
    return st;
}

/* Operations */

static void end_operation(struct etcd_operation *op, status st)
{
    LIST_REMOVE(op, link);
    timer_cancel(op->etcd->timers, &op->timer);
    etcd_call_cancel(&op->call);
    if (op->done)
        op->done(op->arg, st);
    if (op->done_plain)
        op->done_plain(op->arg);
    json_decref(op->body);
    free(op);
}

static void try_operation(void *arg);

static void on_operation(void *arg, const struct etcd_answer *answer)
{
    struct etcd_operation *op = arg;
    op->call = NULL;
    bool is_final = answer->st == ST_OK || answer->st == ST_NOT_FOUND || answer->st == ST_INVALID;
    if (is_final || ++op->failures >= op->tries)
        end_operation(op, answer->st);
    else
        timer_set(op->etcd->timers, &op->timer, clock_now_us() + etcd_retry_delay(op->etcd, op->failures),
                  try_operation, op);
}

static void try_operation(void *arg)
{
    struct etcd_operation *op = arg;
    if (!op->body) {
        end_operation(op, ST_OK);
        return;
    }
    op->call = etcd_call_start(op->etcd,
                               &(struct etcd_call_options){
                                   .path = op->path, .body = json_incref(op->body), .done = on_operation, .arg = op });
}

static void start_operation(struct etcd *etcd, const struct etcd_operation *what)
{
    struct etcd_operation *op = malloc(sizeof *op);
    ASSERT(op != NULL);
    *op = *what;
    op->etcd = etcd;
    LIST_INSERT_HEAD(&etcd->operations, op, link);
    /* From the loop, so that no callback comes from inside the user's call. */
    timer_set(etcd->timers, &op->timer, clock_now_us(), try_operation, op);
}

void etcd_put(struct etcd *etcd, const char *key, const char *value, void (*done)(void *arg, status st), void *arg)
{
    json_t *body = json_pack("{s:o, s:o}", "key", etcd_json_bytes(key, strlen(key)), "value",
                             etcd_json_bytes(value, strlen(value)));
    ASSERT(body != NULL);
    start_operation(etcd,
                    &(struct etcd_operation){
                        .path = "/v3/kv/put", .body = body, .tries = ETCD_OPERATION_TRIES, .done = done, .arg = arg });
}

void etcd_delete(struct etcd *etcd, const char *key, void (*done)(void *arg, status st), void *arg)
{
    json_t *body = json_pack("{s:o}", "key", etcd_json_bytes(key, strlen(key)));
    ASSERT(body != NULL);
    start_operation(
        etcd,
        &(struct etcd_operation){
            .path = "/v3/kv/deleterange", .body = body, .tries = ETCD_OPERATION_TRIES, .done = done, .arg = arg });
}

void etcd_revoke(struct etcd *etcd, int64_t lease, void (*done)(void *arg), void *arg)
{
    json_t *body = lease ? json_pack("{s:o}", "ID", etcd_json_int_string(lease)) : NULL;
    start_operation(etcd, &(struct etcd_operation){
                              .path = "/v3/lease/revoke", .body = body, .tries = 1, .done_plain = done, .arg = arg });
}

void etcd_destroy(struct etcd **p)
{
    struct etcd *etcd = *p;
    if (!etcd)
        return;
    *p = NULL;
    ASSERT(!etcd->pumping); /* not from inside a callback */
    struct etcd_registration *reg;
    struct etcd_watch *watch;
    struct etcd_operation *op;
    while ((reg = LIST_FIRST(&etcd->registrations)))
        etcd_registration_end(reg);
    while ((watch = LIST_FIRST(&etcd->watches)))
        etcd_unwatch(&watch);
    while ((op = LIST_FIRST(&etcd->operations)))
        end_operation(op, ST_CANCELLED);
    etcd_transport_close(etcd);
    free(etcd->url_text);
    free(etcd);
}

bool etcd_healthy(const struct etcd *etcd)
{
    return etcd->healthy;
}

void etcd_stats(const struct etcd *etcd, struct etcd_stats *out)
{
    *out = etcd->stats;
}
