/* The API over real sockets, with a fleet that only notes what it was sent: one thread is client, server
 * and worker in turn. */
#ifndef BATON_TESTS_API_RIG_H
#define BATON_TESTS_API_RIG_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "fake_fleet.h"
#include "router/api.h"

#define PATIENCE_US 20000000u
#define MODEL       "baton-tiny"
#define HI          "\"model\":\"baton-tiny\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]"
#define ONCE        "\"model\":\"baton-tiny\",\"prompt\":\"Hello world\""

static struct {
    struct loop *loop;
    struct fake_fleet fake;
    struct fleet_worker *worker;
    struct flows *flows;
    struct models *models;
    struct metrics *metrics;
    struct config *values;
    struct tokenize_pool *pool;
    const struct salt_key *salt_key;
    struct api *api;
} rig;

struct client {
    int fd;
    bool closed;
    char *text;
    size_t len, capacity;
};

static inline uint64_t real_now(void *ctx)
{
    (void)ctx;
    return clock_now_us();
}

static inline bool answer_health(void *ctx, struct http_exchange *x)
{
    (void)ctx;
    http_respond(x, 200, "text/plain", "ok\n", 3);
    return true;
}

static inline void set(const char *key, const char *value)
{
    struct error err;
    if (config_set(rig.values, key, value, CONFIG_FROM_FLAG, "test", &err) != ST_OK)
        fail_msg("%s", err.text);
}

static inline void open_api(void)
{
    struct error err;
    const struct api_options options = {
        rig.loop,     config_values(rig.values),
        rig.models,   rig.fake.fleet,
        rig.flows,    rig.pool,
        rig.metrics,  FAKE_ROUTER,
        rig.salt_key, answer_health,
        NULL,
    };
    if (api_create(&options, &rig.api, &err) != ST_OK)
        fail_msg("%s", err.text);
}

static inline int open_all(void **state)
{
    static const struct config_table *tables[] = { &daemon_config_table, &router_config_table };
    struct error err;
    (void)state;
    log_init("test", LOG_OFF);
    assert_int_equal(loop_create(&rig.loop), ST_OK);
    fake_fleet_open(&rig.fake, real_now);
    const struct flows_options flows = {
        .fleet = rig.fake.fleet,
        .timers = loop_timers(rig.loop),
        .now = real_now,
        .incarnation = FAKE_ROUTER,
        .max_attempts = 3,
        .worker_wait_us = 50000,
    };
    assert_int_equal(flows_create(&flows, &rig.flows), ST_OK);
    assert_int_equal(models_open(BATON_SOURCE_DIR "/models/baton-tiny", true, &rig.models, &err), ST_OK);
    assert_int_equal(metrics_create("router", &rig.metrics), ST_OK);
    metrics_add_table(rig.metrics, &router_metric_table);
    assert_int_equal(config_create("router", tables, 2, &rig.values, &err), ST_OK);
    set("http_listen", "127.0.0.1:0");
    set("debug_extensions", "true");
    rig.worker = fake_worker(&rig.fake, "w0", "decode", MODEL);
    rig.pool = NULL;
    rig.salt_key = NULL;
    open_api();
    return 0;
}

static inline int close_all(void **state)
{
    (void)state;
    api_destroy(&rig.api);
    tokenize_pool_destroy(&rig.pool);
    assert_int_equal(flows_in_state(rig.flows, FLOW_WAITING) + flows_in_state(rig.flows, FLOW_DISPATCHED) +
                         flows_in_state(rig.flows, FLOW_STREAMING),
                     0);
    flows_destroy(&rig.flows);
    assert_int_equal(fleet_ours(rig.fake.fleet), 0);
    fleet_destroy(&rig.fake.fleet);
    models_close(&rig.models);
    metrics_destroy(&rig.metrics);
    config_destroy(&rig.values);
    loop_destroy(&rig.loop);
    return 0;
}

static inline void reopen_api(void)
{
    api_destroy(&rig.api);
    open_api();
}

/* ---- client ----------------------------------------------------------------------- */

static inline void stop_loop(void *arg)
{
    loop_stop(arg);
}

static inline void turn(void)
{
    struct timer timer = { 0 };
    timer_set(loop_timers(rig.loop), &timer, clock_now_us() + 500, stop_loop, rig.loop);
    loop_run(rig.loop);
    timer_cancel(loop_timers(rig.loop), &timer);
}

static inline void receive(struct client *c)
{
    char buf[65536];
    ssize_t n;
    while ((n = recv(c->fd, buf, sizeof buf, 0)) > 0) {
        if (c->len + (size_t)n + 1 > c->capacity) {
            c->capacity = 2 * (c->len + (size_t)n + 1);
            c->text = realloc(c->text, c->capacity);
        }
        memcpy(c->text + c->len, buf, (size_t)n);
        c->len += (size_t)n;
        c->text[c->len] = '\0';
    }
    c->closed = c->closed || n == 0 || (n < 0 && errno != EAGAIN);
}

static inline struct client *connect_client(int receive_buffer)
{
    struct client *c = calloc(1, sizeof *c);
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(api_port(rig.api)) };
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (receive_buffer)
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    assert_int_equal(connect(c->fd, (struct sockaddr *)&to, sizeof to), 0);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->text = calloc(1, 1);
    return c;
}

static inline void client_free(struct client *c)
{
    close(c->fd);
    free(c->text);
    free(c);
}

static inline void send_all(const struct client *c, const char *text, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = send(c->fd, text + at, len - at, MSG_NOSIGNAL);
        if (n > 0)
            at += (size_t)n;
        else
            turn();
    }
}

/* head: further header lines, each with \r\n. */
static inline void post(const struct client *c, const char *path, const char *head, const char *body)
{
    char *text = NULL;
    int n = asprintf(&text,
                     "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n%s",
                     path, head, strlen(body), body);
    assert_true(n > 0);
    send_all(c, text, (size_t)n);
    free(text);
}

static inline struct client *ask(const char *path, const char *body)
{
    struct client *c = connect_client(0);
    post(c, path, "", body);
    return c;
}

static inline void expect_text(struct client *c, const char *part)
{
    uint64_t end = clock_now_us() + PATIENCE_US;
    size_t looked = 0; /* what was searched is not searched again: answers may be long */
    while (!strstr(c->text + looked, part)) {
        if (clock_now_us() > end || c->closed)
            fail_msg("'%s' did not come; came:\n%s", part, c->text);
        looked = c->len > strlen(part) ? c->len - strlen(part) : 0;
        turn();
        receive(c);
    }
}

static inline void quiet_turns(struct client *c)
{
    for (int i = 0; i < 20; i++) {
        turn();
        receive(c);
    }
}

/* The n-th Generate from now on (0: the next). */
static inline const struct fake_sent *expect_sent(enum frame_type type, size_t n)
{
    uint64_t end = clock_now_us() + PATIENCE_US;
    while (fake_count(&rig.fake, type) <= n) {
        if (clock_now_us() > end)
            fail_msg("no %s was sent", frame_type_name(type));
        turn();
    }
    for (size_t i = 0; i < rig.fake.n_sent; i++)
        if (rig.fake.sent[i].type == type && n-- == 0)
            return &rig.fake.sent[i];
    return NULL;
}

/* The body of the only answer, complete. */
static inline json_t *expect_json(struct client *c, int code)
{
    char line[32];
    snprintf(line, sizeof line, "HTTP/1.1 %d ", code);
    expect_text(c, "\r\n\r\n");
    if (strncmp(c->text, line, strlen(line)) != 0)
        fail_msg("not %d: %s", code, c->text);
    const char *body = strstr(c->text, "\r\n\r\n") + 4;
    size_t len = strtoul(strstr(c->text, "Content-Length: ") + 16, NULL, 10);
    while (strlen(body) < len) {
        turn();
        receive(c);
        body = strstr(c->text, "\r\n\r\n") + 4;
    }
    json_error_t err;
    json_t *json = json_loads(body, JSON_REJECT_DUPLICATES, &err);
    if (!json)
        fail_msg("%s in %s", err.text, body);
    return json;
}

/* "choices.0.message.content" */
static inline const json_t *at(const json_t *json, const char *path)
{
    char part[64];
    while (json && *path) {
        size_t n = strcspn(path, ".");
        snprintf(part, sizeof part, "%.*s", (int)n, path);
        json = json_is_array(json) ? json_array_get(json, (size_t)atoi(part)) : json_object_get(json, part);
        path += n + (path[n] == '.');
    }
    return json;
}

static inline void json_says(const json_t *json, const char *path, const char *text)
{
    if (!json_is_string(at(json, path)) || strcmp(json_string_value(at(json, path)), text) != 0) {
        char *all = json_dumps(json, 0);
        fail_msg("%s is not '%s' in %s", path, text, all);
    }
}

static inline uint32_t ids_of(const char *text, uint32_t *out)
{
    struct token_list list = { 0 };
    assert_int_equal(tokenizer_encode(models_at(rig.models, 0)->tokenizer, text, strlen(text), 0, 0, &list), ST_OK);
    memcpy(out, list.ids, list.n * sizeof *out);
    uint32_t n = (uint32_t)list.n;
    token_list_free(&list);
    return n;
}

/* The worker's answer to g: text, then the end of answer. */
static inline void answer_text(const struct fake_sent *g, const char *text, bool ends)
{
    uint32_t ids[256], n = ids_of(text, ids);
    if (ends)
        ids[n++] = 1023;
    fake_tokens(rig.flows, g, g->n_tokens, ids, n, ends ? BATON__FINISH__FINISH_STOP : BATON__FINISH__FINISH_LENGTH,
                NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_all, close_all)

#endif
