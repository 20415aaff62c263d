/* A server that speaks as much of etcd's gateway as a test tells it to, and a loop to wait on. */
#ifndef BATON_TESTS_FAKE_ETCD_H
#define BATON_TESTS_FAKE_ETCD_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/etcd_json.h"
#include "common/http_server.h"
#include "common/loop.h"
#include "common/quantity.h"

static struct loop *loop;

/* Runs the loop until *value is at least target (true) or the time is over. */
struct wait {
    struct timer timer;
    const int *value;
    int target;
    uint64_t deadline_us;
};

static inline void look(void *arg)
{
    struct wait *w = arg;
    if (*w->value >= w->target || clock_now_us() > w->deadline_us)
        loop_stop(loop);
    else
        timer_set(loop_timers(loop), &w->timer, clock_now_us() + MS(2), look, w);
}

static inline bool reaches(const int *value, int target, uint64_t patience_ms)
{
    struct wait w = { .value = value, .target = target, .deadline_us = clock_now_us() + MS(patience_ms) };
    timer_set(loop_timers(loop), &w.timer, clock_now_us(), look, &w);
    loop_run(loop);
    timer_cancel(loop_timers(loop), &w.timer);
    return *value >= target;
}

static struct {
    struct http_server *server;
    char url[64];
    json_t *kvs;
    json_t *put;    /* the body of the last one */
    json_t *holder; /* of the key that is registered: as a range answers it, NULL while it is not there */
    int revision, reads, watches, grants, puts, checks, revokes, keepalives;
    bool hangs;      /* answers nothing */
    bool lost_lease; /* the next renewal finds none */
    struct http_exchange *stream;
} fake;

static inline void stream_gone(void *arg)
{
    (void)arg;
    fake.stream = NULL;
}

static inline void stream_line(const char *line)
{
    assert_non_null(fake.stream);
    assert_int_not_equal(http_stream_write(fake.stream, line, strlen(line)), ST_CLOSED);
}

static inline void answer(struct http_exchange *x, json_t *json)
{
    char *text = json_dumps(json, 0);
    http_respond(x, 200, "application/json", text, strlen(text));
    free(text);
    json_decref(json);
}

#define FAKE_LEASE "7587"

/* Another's key in the place of the one that is registered; NULL: it is deleted. */
static inline void hold_key(const char *value)
{
    json_decref(fake.holder);
    fake.revision++;
    fake.holder = !value ? NULL
                         : json_pack("{s:o, s:s, s:o}", "value", etcd_json_bytes(value, strlen(value)), "lease", "99",
                                     "mod_revision", etcd_json_int_string(fake.revision));
}

static inline bool compares(const json_t *compare)
{
    if (json_object_get(compare, "lease"))
        return etcd_json_int(fake.holder, "lease") == etcd_json_int(compare, "lease");
    return etcd_json_int(fake.holder, "mod_revision") == etcd_json_int(compare, "mod_revision");
}

static inline void note_put(json_t *put)
{
    fake.puts++;
    fake.revision++;
    json_decref(fake.put);
    fake.put = json_incref(put);
    json_decref(fake.holder);
    fake.holder = json_pack("{s:O, s:O, s:o}", "value", json_object_get(put, "value"), "lease",
                            json_object_get(put, "lease"), "mod_revision", etcd_json_int_string(fake.revision));
}

/* Of a registration: a put or a look at one key. */
static inline void answer_txn(struct http_exchange *x)
{
    size_t len;
    const char *body = http_body(x, &len);
    json_t *txn = json_loadb(body, len, 0, NULL);
    json_t *put = json_object_get(json_array_get(json_object_get(txn, "success"), 0), "request_put");
    fake.checks += !put;
    if (!compares(json_array_get(json_object_get(txn, "compare"), 0))) {
        answer(x, json_pack("{s:[{s:{s:o}}]}", "responses", "response_range", "kvs",
                            fake.holder ? json_pack("[O]", fake.holder) : json_array()));
    } else {
        if (put)
            note_put(put);
        answer(x,
               json_pack("{s:{s:o}, s:b}", "header", "revision", etcd_json_int_string(fake.revision), "succeeded", 1));
    }
    json_decref(txn);
}

static inline void handle(void *ctx, struct http_exchange *x)
{
    (void)ctx;
    const char *path = http_path(x);
    if (fake.hangs)
        return;
    if (!strcmp(path, "/v3/kv/range")) {
        fake.reads++;
        answer(x,
               json_pack("{s:{s:o}, s:O}", "header", "revision", etcd_json_int_string(fake.revision), "kvs", fake.kvs));
    } else if (!strcmp(path, "/v3/watch")) {
        fake.watches++;
        if (fake.stream)
            http_stream_end(fake.stream);
        fake.stream = x;
        http_on_gone(x, stream_gone, NULL);
        http_stream_begin(x, 200, "application/json");
        stream_line("{\"result\":{\"header\":{},\"created\":true}}\n");
    } else if (!strcmp(path, "/v3/lease/grant")) {
        fake.grants++;
        answer(x, json_pack("{s:s, s:s}", "ID", FAKE_LEASE, "TTL", "1"));
    } else if (!strcmp(path, "/v3/lease/keepalive")) {
        fake.keepalives++;
        bool lost = fake.lost_lease;
        fake.lost_lease = false;
        if (lost)
            hold_key(NULL);
        answer(x, lost ? json_pack("{s:{s:s}}", "result", "ID", FAKE_LEASE)
                       : json_pack("{s:{s:s, s:s}}", "result", "ID", FAKE_LEASE, "TTL", "1"));
    } else if (!strcmp(path, "/v3/kv/txn")) {
        answer_txn(x);
    } else {
        fake.revokes += !strcmp(path, "/v3/lease/revoke");
        answer(x, json_object());
    }
}

static inline void set_key(const char *key, const char *value)
{
    fake.revision++;
    json_array_append_new(fake.kvs, json_pack("{s:o, s:o, s:o}", "key", etcd_json_bytes(key, strlen(key)), "value",
                                              etcd_json_bytes(value, strlen(value)), "mod_revision",
                                              etcd_json_int_string(fake.revision)));
}

static inline void start_fake(void)
{
    struct error err;
    memset(&fake, 0, sizeof fake);
    fake.kvs = json_array();
    struct http_server_options o = {
        .loop = loop,
        .listen = "127.0.0.1:0",
        .max_header_bytes = 8192,
        .max_body_bytes = 1 << 20,
        .max_connections = 50,
        .request_timeout_us = MS(5000),
        .idle_timeout_us = MS(5000),
        .write_timeout_us = MS(5000),
        .max_backlog_bytes = 16 << 20,
        .handle = handle,
    };
    assert_int_equal(http_server_create(&o, &fake.server, &err), ST_OK);
    snprintf(fake.url, sizeof fake.url, "http://127.0.0.1:%u", http_server_port(fake.server));
}

static inline void stop_fake(void)
{
    http_server_destroy(&fake.server);
    json_decref(fake.kvs);
    json_decref(fake.put);
    json_decref(fake.holder);
}

#endif
