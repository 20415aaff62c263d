/* The API over real sockets, with a fleet that only notes what it was sent: one thread is client, server
 * and worker in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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
    struct api *api;
} rig;

struct client {
    int fd;
    bool closed;
    char *text;
    size_t len, capacity;
};

static uint64_t real_now(void *ctx)
{
    (void)ctx;
    return clock_now_us();
}

static bool answer_health(void *ctx, struct http_exchange *x)
{
    (void)ctx;
    http_respond(x, 200, "text/plain", "ok\n", 3);
    return true;
}

static void set(const char *key, const char *value)
{
    struct error err;
    if (config_set(rig.values, key, value, CONFIG_FROM_FLAG, "test", &err) != ST_OK)
        fail_msg("%s", err.text);
}

static void open_api(void)
{
    struct error err;
    const struct api_options options = {
        rig.loop,      config_values(rig.values),
        rig.models,    rig.fake.fleet,
        rig.flows,     rig.pool,
        rig.metrics,   FAKE_ROUTER,
        answer_health, NULL,
    };
    if (api_create(&options, &rig.api, &err) != ST_OK)
        fail_msg("%s", err.text);
}

static int open_all(void **state)
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
    open_api();
    return 0;
}

static int close_all(void **state)
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

static void reopen_api(void)
{
    api_destroy(&rig.api);
    open_api();
}

/* ---- client ----------------------------------------------------------------------- */

static void stop_loop(void *arg)
{
    loop_stop(arg);
}

static void turn(void)
{
    struct timer timer = { 0 };
    timer_set(loop_timers(rig.loop), &timer, clock_now_us() + 500, stop_loop, rig.loop);
    loop_run(rig.loop);
    timer_cancel(loop_timers(rig.loop), &timer);
}

static void receive(struct client *c)
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

static struct client *connect_client(int receive_buffer)
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

static void client_free(struct client *c)
{
    close(c->fd);
    free(c->text);
    free(c);
}

static void send_all(const struct client *c, const char *text, size_t len)
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
static void post(const struct client *c, const char *path, const char *head, const char *body)
{
    char *text = NULL;
    int n = asprintf(&text,
                     "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n%s",
                     path, head, strlen(body), body);
    assert_true(n > 0);
    send_all(c, text, (size_t)n);
    free(text);
}

static struct client *ask(const char *path, const char *body)
{
    struct client *c = connect_client(0);
    post(c, path, "", body);
    return c;
}

static void expect_text(struct client *c, const char *part)
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

static void quiet_turns(struct client *c)
{
    for (int i = 0; i < 20; i++) {
        turn();
        receive(c);
    }
}

/* The n-th Generate from now on (0: the next). */
static const struct fake_sent *expect_sent(enum frame_type type, size_t n)
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
static json_t *expect_json(struct client *c, int code)
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
static const json_t *at(const json_t *json, const char *path)
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

static void json_says(const json_t *json, const char *path, const char *text)
{
    if (!json_is_string(at(json, path)) || strcmp(json_string_value(at(json, path)), text) != 0) {
        char *all = json_dumps(json, 0);
        fail_msg("%s is not '%s' in %s", path, text, all);
    }
}

static uint32_t ids_of(const char *text, uint32_t *out)
{
    struct token_list list = { 0 };
    assert_int_equal(tokenizer_encode(models_at(rig.models, 0)->tokenizer, text, strlen(text), 0, 0, &list), ST_OK);
    memcpy(out, list.ids, list.n * sizeof *out);
    uint32_t n = (uint32_t)list.n;
    token_list_free(&list);
    return n;
}

/* The worker's answer to g: text, then the end of answer. */
static void answer_text(const struct fake_sent *g, const char *text, bool ends)
{
    uint32_t ids[256], n = ids_of(text, ids);
    if (ends)
        ids[n++] = 1023;
    fake_tokens(rig.flows, g, g->n_tokens, ids, n, ends ? BATON__FINISH__FINISH_STOP : BATON__FINISH__FINISH_LENGTH,
                NULL);
}

/* ---- heads -------------------------------------------------------------------------- */

static void test_heads(void **state)
{
    static const struct {
        const char *request;
        int code;
        const char *part;
    } cases[] = {
        { "GET /nope HTTP/1.1\r\nHost: x\r\n\r\n", 404, "\"code\":\"unknown_url\"" },
        { "GET /v1/models/ HTTP/1.1\r\nHost: x\r\n\r\n", 404, "unknown_url" },
        { "GET /v1/models/none HTTP/1.1\r\nHost: x\r\n\r\n", 404, "model_not_found" },
        { "GET /v1/models/baton%2dtiny HTTP/1.1\r\nHost: x\r\n\r\n", 200, "\"id\":\"baton-tiny\"" },
        { "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 200, "\"object\":\"list\"" },
        { "GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200, "ok" },
        { "GET /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n", 405, "Allow: POST" },
        { "POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405, "Allow: GET, HEAD" },
        { "DELETE /tokenize HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_allowed" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415,
          "unsupported_media_type" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/jsonx\r\nContent-Length: 2\r\n\r\n{}", 415,
          "jsonx" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json; charset=latin1\r\nContent-Length: "
          "2\r\n\r\n{}",
          415, "UTF-8" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", 415, "gzip" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: Application/JSON ; charset=\"UTF-8\"\r\nContent-Length: "
          "2\r\n\r\n{}",
          400, "missing_required_parameter" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"a\"}", 200, "\"count\":1" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", 413, "8388608 bytes" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 400, "malformed_json" },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct client *c = connect_client(0);
        char line[32];
        snprintf(line, sizeof line, "HTTP/1.1 %d ", cases[i].code);
        send_all(c, cases[i].request, strlen(cases[i].request));
        expect_text(c, "\r\n\r\n");
        quiet_turns(c);
        if (strncmp(c->text, line, strlen(line)) != 0 || !strstr(c->text, cases[i].part))
            fail_msg("%s\ngives %s", cases[i].request, c->text);
        if (!strstr(c->text, "\r\nx-request-id: req-"))
            fail_msg("%s\nhas no name: %s", cases[i].request, c->text);
        client_free(c);
    }
    assert_int_equal(api_held(rig.api), 0);
    assert_int_equal(api_held_bytes(rig.api), 0);
}

static void test_tokenize(void **state)
{
    (void)state;
    struct client *c =
        ask("/tokenize", "{\"model\":\"baton-tiny\",\"prompt\":\"Hello world\",\"return_token_strs\":true}");
    json_t *json = expect_json(c, 200);
    assert_int_equal(json_integer_value(at(json, "count")), 4);
    assert_int_equal(json_integer_value(at(json, "max_model_len")), 4096);
    assert_int_equal(json_integer_value(at(json, "tokens.0")), 908);
    assert_int_equal(json_array_size(at(json, "token_strs")), 4);
    json_decref(json);
    client_free(c);
    c = ask("/detokenize", "{\"tokens\":[1022,908,271,285,639]}");
    json = expect_json(c, 200);
    json_says(json, "prompt", "<|im_start|>Hello world");
    json_decref(json);
    client_free(c);
}

/* ---- whole answers --------------------------------------------------------------------- */

static void test_chat(void **state)
{
    (void)state;
    struct client *c = connect_client(0);
    post(c, "/v1/chat/completions",
         "x-request-id: mine-1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
         "{" HI ",\"seed\":5,\"max_tokens\":50,\"strange\":1}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    assert_int_equal(g->seed, 5);
    assert_int_equal(g->max_tokens, 50);
    assert_int_equal(g->n_stop_ids, 2);
    assert_int_equal(g->trace.trace_id[0], 0x0a);
    assert_int_equal(api_held(rig.api), 1);
    answer_text(g, "Two \"words\"\n", true);
    json_t *json = expect_json(c, 200);
    assert_non_null(strstr(c->text, "\r\nx-request-id: mine-1\r\n"));
    assert_non_null(strstr(c->text, "\r\nx-baton-ignored: strange\r\n"));
    json_says(json, "object", "chat.completion");
    json_says(json, "choices.0.message.content", "Two \"words\"\n");
    json_says(json, "choices.0.message.role", "assistant");
    json_says(json, "choices.0.finish_reason", "stop");
    assert_true(json_is_null(at(json, "choices.0.logprobs")));
    assert_null(at(json, "choices.0.baton"));
    assert_int_equal(json_integer_value(at(json, "usage.prompt_tokens")), g->n_tokens);
    uint32_t ids[64];
    assert_int_equal(json_integer_value(at(json, "usage.completion_tokens")), ids_of("Two \"words\"\n", ids) + 1);
    assert_int_equal(json_integer_value(at(json, "usage.prompt_tokens_details.cached_tokens")), 0);
    assert_int_equal(api_held(rig.api), 0);
    json_decref(json);
    client_free(c);
}

/* ---- the log ----------------------------------------------------------------------------- */

/* Standard error goes into a file from here on. */
static FILE *catch_log(int *saved)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    *saved = dup(STDERR_FILENO);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    log_init("test", LOG_INFO);
    return file;
}

static void caught_log(FILE *file, int saved, char *out, size_t size)
{
    log_init("test", LOG_OFF);
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    rewind(file);
    out[fread(out, 1, size - 1, file)] = '\0';
    fclose(file);
}

static void expect_logged(const char *log, const char *const *parts)
{
    for (; *parts; parts++)
        if (!strstr(log, *parts))
            fail_msg("'%s' is not in %s", *parts, log);
    const char *first = strstr(log, "msg=\"answered\"");
    assert_non_null(first);
    assert_null(strstr(first + 1, "msg=\"answered\""));
}

static void test_answer_is_logged(void **state)
{
    (void)state;
    char log[4096], key[64];
    int saved;
    FILE *file = catch_log(&saved);
    struct client *c = connect_client(0);
    post(c, "/v1/completions",
         "x-request-id: a=b\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n", "{" ONCE "}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    snprintf(key, sizeof key, " request=%llx.%llx ", (unsigned long long)g->key.router, (unsigned long long)g->key.seq);
    answer_text(g, "a", true);
    json_decref(expect_json(c, 200));
    client_free(c);
    caught_log(file, saved, log, sizeof log);
    expect_logged(log,
                  (const char *[]){ " info test msg=\"answered\" id=\"a=b\" endpoint=completions status=200", key,
                                    " model=\"" MODEL "\" choices=1 prompt_tokens=4 completion_tokens=2 finish=stop",
                                    " first_token_ms=", " total_ms=", " worker=\"w0\"",
                                    " trace=0af7651916cd43dd8448eb211c80319c\n", NULL });
}

static void test_cancelled_answer_is_logged(void **state)
{
    (void)state;
    char log[4096];
    int saved;
    FILE *file = catch_log(&saved);
    struct client *c = ask("/v1/completions", "{" ONCE ",\"n\":2}");
    (void)expect_sent(FRAME_GENERATE, 1);
    client_free(c);
    (void)expect_sent(FRAME_CANCEL, 1);
    for (int i = 0; i < 1000 && api_held(rig.api); i++)
        turn();
    caught_log(file, saved, log, sizeof log);
    expect_logged(log, (const char *[]){ " status=499 request=abc.1 ", " choices=2 ", " completion_tokens=0 ",
                                         " finish=cancelled", " worker=\"w0\"", NULL });
    assert_null(strstr(log, "first_token_ms"));
}

static void test_several_prompts_and_choices(void **state)
{
    (void)state;
    struct client *c = ask("/v1/completions", "{\"model\":\"baton-tiny\",\"prompt\":[\"a\",\"b c\"],\"n\":2}");
    struct fake_sent g[4];
    for (size_t i = 0; i < 4; i++) { /* they are sent in any order */
        const struct fake_sent *sent = expect_sent(FRAME_GENERATE, i);
        assert_in_range(sent->key.seq, 1, 4);
        g[sent->key.seq - 1] = *sent;
    }
    assert_int_equal(g[0].choice, 0);
    assert_int_equal(g[1].choice, 1);
    assert_int_equal(g[2].choice, 0);
    assert_int_equal(g[0].seed, g[3].seed);
    assert_int_equal(g[0].max_tokens, 16);
    static const char *const texts[] = { "one", "two", "three", "four" };
    for (int i = 3; i >= 0; i--) /* they end in any order */
        answer_text(&g[i], texts[i], false);
    json_t *json = expect_json(c, 200);
    for (int i = 0; i < 4; i++) {
        char path[64];
        snprintf(path, sizeof path, "choices.%d.text", i);
        json_says(json, path, texts[i]);
        snprintf(path, sizeof path, "choices.%d.finish_reason", i);
        json_says(json, path, "length");
    }
    assert_int_equal(json_integer_value(at(json, "usage.prompt_tokens")), g[0].n_tokens + g[2].n_tokens);
    json_decref(json);
    client_free(c);
}

static void test_stop_text(void **state)
{
    (void)state;
    struct client *c = ask("/v1/completions", "{" ONCE ",\"stop\":[\"wor\"],\"logprobs\":1}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    uint32_t ids[64], n = ids_of("Big words here", ids);
    for (uint32_t i = 0; i < n && !fake_last(&rig.fake, FRAME_CANCEL); i++)
        fake_tokens(rig.flows, g, g->n_tokens + i, &ids[i], 1, 0, NULL);
    assert_string_equal(fake_last(&rig.fake, FRAME_CANCEL)->reason, "stop_string");
    json_t *json = expect_json(c, 200);
    json_says(json, "choices.0.text", "Big ");
    json_says(json, "choices.0.finish_reason", "stop");
    /* Log-probabilities of what is shown, and of nothing behind the cut. */
    const json_t *tokens = at(json, "choices.0.logprobs.tokens"), *offsets = at(json, "choices.0.logprobs.text_offset");
    assert_true(json_array_size(tokens) > 0);
    size_t last = (size_t)json_integer_value(json_array_get(offsets, json_array_size(offsets) - 1));
    assert_true(last < 4);
    json_decref(json);
    client_free(c);
}

static void test_logprobs(void **state)
{
    (void)state;
    struct client *c = ask("/v1/chat/completions", "{" HI ",\"logprobs\":true,\"top_logprobs\":2}");
    answer_text(expect_sent(FRAME_GENERATE, 0), "yes", true);
    json_t *json = expect_json(c, 200);
    const json_t *content = at(json, "choices.0.logprobs.content");
    char text[64] = "";
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *entry = json_array_get(content, i);
        strcat(text, json_string_value(json_object_get(entry, "token")));
        assert_true(json_number_value(json_object_get(entry, "logprob")) == -0.5);
        assert_int_equal(json_array_size(json_object_get(entry, "top_logprobs")), 2);
        assert_int_equal(json_integer_value(at(entry, "bytes.0")),
                         (unsigned char)json_string_value(json_object_get(entry, "token"))[0]);
    }
    assert_string_equal(text, "yes"); /* and none for the end of answer */
    json_decref(json);
    client_free(c);
}

static void test_baton_object(void **state)
{
    (void)state;
    struct client *c =
        ask("/v1/completions", "{" ONCE ",\"baton\":{\"route\":\"local\",\"timing\":true,\"logits_hash\":true,"
                               "\"no_cache\":true}}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    assert_true(g->want_hash && g->no_cache);
    assert_int_equal(g->route, BATON__ROUTE__ROUTE_LOCAL);
    Baton__Timing timing = BATON__TIMING__INIT;
    timing.route = "local";
    timing.decode_worker = "w0";
    timing.queue_us = 1500;
    fake_tokens(rig.flows, g, g->n_tokens, (uint32_t[]){ 908, 1023 }, 2, BATON__FINISH__FINISH_STOP, &timing);
    json_t *json = expect_json(c, 200);
    json_says(json, "choices.0.baton.route", "local");
    json_says(json, "choices.0.baton.timing.decode_worker", "w0");
    assert_true(json_number_value(at(json, "choices.0.baton.timing.queue_ms")) == 1.5);
    assert_int_equal(json_array_size(at(json, "choices.0.baton.logits_hash")), 2);
    json_says(json, "choices.0.baton.logits_hash.1", "ffffffffffffffffffffffffffffffff");
    json_decref(json);
    client_free(c);
}

/* "Big words here" with a stop text that only its later tokens complete, told how it went with the first one. */
static struct client *ask_for_a_cut_answer(const char *stream)
{
    char body[512];
    rig.fake.n_sent = 0;
    snprintf(body, sizeof body, "{" ONCE "%s,\"stop\":[\"here\"],\"baton\":{\"timing\":true}}", stream);
    struct client *c = ask("/v1/completions", body);
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    Baton__Timing timing = BATON__TIMING__INIT;
    timing.route = "remote";
    timing.transport = "shm";
    timing.prefill_worker = "p0";
    timing.decode_worker = "w0";
    timing.queue_us = 1500;
    timing.prefill_us = 2500;
    timing.handoff_us = 500;
    timing.moved_bytes = 4096;
    uint32_t ids[64], n = ids_of("Big words here", ids);
    for (uint32_t i = 0; i < n && !fake_last(&rig.fake, FRAME_CANCEL); i++) {
        fake_tokens(rig.flows, g, g->n_tokens + i, &ids[i], 1, 0, i ? NULL : &timing);
        quiet_turns(c);
    }
    assert_string_equal(fake_last(&rig.fake, FRAME_CANCEL)->reason, "stop_string");
    return c;
}

/* The worker is cut off before it has told all, but what it knew at the first token is told. */
static void test_timing_of_a_cut_answer(void **state)
{
    (void)state;
    struct client *c = ask_for_a_cut_answer("");
    json_t *json = expect_json(c, 200);
    const json_t *timing = at(json, "choices.0.baton.timing");
    json_says(json, "choices.0.finish_reason", "stop");
    json_says(json, "choices.0.baton.route", "remote");
    json_says(timing, "prefill_worker", "p0");
    json_says(timing, "decode_worker", "w0");
    assert_true(json_number_value(at(timing, "queue_ms")) == 1.5);
    assert_true(json_number_value(at(timing, "prefill_ms")) == 2.5);
    assert_true(json_number_value(at(timing, "handoff_ms")) == 0.5);
    assert_int_equal(json_integer_value(at(timing, "moved_bytes")), 4096);
    assert_int_equal(json_integer_value(at(timing, "attempts")), 1);
    double first = json_number_value(at(timing, "first_token_ms")), decode = json_number_value(at(timing, "decode_ms"));
    double total = json_number_value(at(timing, "total_ms"));
    assert_true(decode > 0 && first + decode <= total + 0.01);
    assert_true(json_is_number(at(timing, "route_ms")));
    json_decref(json);
    client_free(c);
    c = ask_for_a_cut_answer(",\"stream\":true");
    expect_text(c, "\"queue_ms\":1.5,");
    expect_text(c, "\"prefill_worker\":\"p0\"");
    expect_text(c, "[DONE]");
    client_free(c);
}

static void test_echo_without_tokens(void **state)
{
    (void)state;
    struct client *c = ask("/v1/completions", "{" ONCE ",\"echo\":true,\"max_tokens\":0}");
    json_t *json = expect_json(c, 200);
    json_says(json, "choices.0.text", "Hello world");
    assert_int_equal(json_integer_value(at(json, "usage.completion_tokens")), 0);
    assert_int_equal(rig.fake.n_sent, 0);
    json_decref(json);
    client_free(c);
}

/* ---- streams ---------------------------------------------------------------------------------- */

static void test_stream(void **state)
{
    (void)state;
    struct client *c =
        ask("/v1/chat/completions", "{" HI ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    quiet_turns(c);
    assert_int_equal(c->len, 0); /* a failure before the first token would still have its status */
    uint32_t ids[8], n = ids_of("Hello", ids);
    fake_tokens(rig.flows, g, g->n_tokens, ids, n, 0, NULL);
    expect_text(c, "text/event-stream");
    expect_text(c, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],"
                   "\"usage\":null}\n\n");
    expect_text(c, "\"}"); /* it came before anything followed */
    quiet_turns(c);
    assert_null(strstr(c->text, "[DONE]"));
    fake_tokens(rig.flows, g, g->n_tokens + n, (uint32_t[]){ 1023 }, 1, BATON__FINISH__FINISH_STOP, NULL);
    expect_text(c, "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]");
    expect_text(c, "\"choices\":[],\"usage\":{\"prompt_tokens\":");
    expect_text(c, "data: [DONE]\n\n\r\n0\r\n\r\n");
    assert_int_equal(api_held(rig.api), 0);
    post(c, "/tokenize", "", "{\"prompt\":\"a\"}"); /* the connection goes on */
    expect_text(c, "\"count\":1");
    client_free(c);
}

static void test_half_characters_wait(void **state)
{
    (void)state;
    struct client *c = ask("/v1/completions", "{" ONCE ",\"stream\":true}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    uint32_t ids[16], n = ids_of("\xe4\xb8\xad", ids); /* three bytes, three tokens */
    assert_true(n > 1);
    fake_tokens(rig.flows, g, g->n_tokens, ids, n - 1, 0, NULL);
    quiet_turns(c);
    assert_null(strstr(c->text, "\"text\""));
    fake_tokens(rig.flows, g, g->n_tokens + n - 1, &ids[n - 1], 1, 0, NULL);
    expect_text(c, "\"text\":\"\xe4\xb8\xad\"");
    fake_tokens(rig.flows, g, g->n_tokens + n, ids, 1, BATON__FINISH__FINISH_LENGTH, NULL);
    expect_text(c, "\"text\":\"\xef\xbf\xbd\""); /* cut off by the limit */
    expect_text(c, "[DONE]");
    client_free(c);
}

static void test_client_gone(void **state)
{
    (void)state;
    struct client *c = ask("/v1/chat/completions", "{" HI ",\"stream\":true,\"n\":2}");
    struct fake_sent g = *expect_sent(FRAME_GENERATE, 1);
    fake_tokens(rig.flows, &g, g.n_tokens, (uint32_t[]){ 908 }, 1, 0, NULL);
    expect_text(c, "role");
    client_free(c);
    (void)expect_sent(FRAME_CANCEL, 1);
    assert_string_equal(fake_last(&rig.fake, FRAME_CANCEL)->reason, "client_gone");
    assert_int_equal(fake_count(&rig.fake, FRAME_CANCEL), 2);
    assert_int_equal(api_held(rig.api), 0);
    assert_int_equal(api_held_bytes(rig.api), 0);
}

/* Not by strstr, whose sanitised form reads all of a long text for each hit. */
static size_t count_text(const struct client *c, const char *part)
{
    size_t n = 0, len = strlen(part);
    for (size_t i = 0; i + len <= c->len; i++)
        n += c->text[i] == part[0] && !memcmp(c->text + i, part, len);
    return n;
}

static void test_slow_client(void **state)
{
    enum { TOKENS = 3000 }; /* more than a window, the kernel and the backlog hold */
    (void)state;
    set("max_backlog", "4096");
    rig.worker->instance.max_model_len = 2 * TOKENS;
    reopen_api();
    struct client *c = connect_client(4096);
    post(c, "/v1/completions", "", "{" ONCE ",\"stream\":true,\"max_tokens\":4000,\"logprobs\":1,\"ignore_eos\":true}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    uint32_t id;
    assert_int_equal(ids_of("a", &id), 1);
    for (uint32_t i = 0; i < TOKENS; i++) {
        bool last = i + 1 == TOKENS;
        fake_tokens(rig.flows, g, g->n_tokens + i, &id, 1, last ? BATON__FINISH__FINISH_LENGTH : 0, NULL);
    }
    struct metric *blocked = metrics_series(rig.metrics, &router_metric_table, ROUTER_BLOCKED, NULL);
    assert_true(metric_value(blocked) >= 1);
    assert_int_equal(api_held(rig.api), 1); /* the flow is over, the answer is not */
    expect_text(c, "[DONE]");
    assert_int_equal(count_text(c, "\"text\":\"a\""), TOKENS);
    assert_int_equal(count_text(c, "\"tokens\":[\"a\"]"), TOKENS);
    assert_int_equal(count_text(c, "\"text_offset\":[2999]"), 1);
    assert_int_equal(api_held(rig.api), 0);
    client_free(c);
}

static void test_stop_text_of_a_slow_client(void **state)
{
    (void)state;
    set("max_backlog", "4096");
    rig.worker->instance.max_model_len = 100000;
    reopen_api();
    struct client *c = connect_client(4096);
    post(c, "/v1/completions", "", "{" ONCE ",\"stream\":true,\"max_tokens\":40000,\"stop\":\"b\",\"logprobs\":0}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    uint32_t a, b, n = g->n_tokens;
    (void)ids_of("a", &a);
    (void)ids_of("b", &b);
    for (uint32_t i = 0; i < 3000; i++)
        fake_tokens(rig.flows, g, n + i, i == 2900 ? &b : &a, 1, 0, NULL);
    assert_null(fake_last(&rig.fake, FRAME_CANCEL)); /* nobody has looked at it yet */
    expect_text(c, "[DONE]");
    assert_int_equal(count_text(c, "\"text\":\"a\""), 2900);
    assert_int_equal(count_text(c, "\"finish_reason\":\"stop\""), 1);
    assert_string_equal(fake_last(&rig.fake, FRAME_CANCEL)->reason, "stop_string");
    client_free(c);
}

/* ---- failures -------------------------------------------------------------------------------------- */

static void test_no_worker(void **state)
{
    (void)state;
    rig.worker->up = false;
    struct client *c = ask("/v1/chat/completions", "{" HI ",\"stream\":true}");
    json_t *json = expect_json(c, 503);
    assert_non_null(strstr(c->text, "\r\nRetry-After: 1\r\n"));
    json_says(json, "error.code", "no_worker");
    assert_non_null(strstr(json_string_value(at(json, "error.message")), "'" MODEL "'"));
    json_decref(json);
    client_free(c);
}

static void test_worker_refuses(void **state)
{
    (void)state;
    struct client *c = ask("/v1/chat/completions", "{" HI ",\"n\":3}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 2);
    fake_failure(rig.flows, g, BATON__FAILURE_CODE__FAILURE_LIMIT, false, "5000 tokens, at most 4000 fit");
    json_t *json = expect_json(c, 400);
    json_says(json, "error.message", "5000 tokens, at most 4000 fit");
    assert_int_equal(fake_count(&rig.fake, FRAME_CANCEL), 3); /* nothing goes on for nobody */
    json_decref(json);
    client_free(c);
}

static void test_failure_in_a_stream(void **state)
{
    (void)state;
    struct client *c = ask("/v1/chat/completions", "{" HI ",\"stream\":true}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    fake_tokens(rig.flows, g, g->n_tokens, (uint32_t[]){ 908 }, 1, 0, NULL);
    expect_text(c, "content");
    fake_failure(rig.flows, g, BATON__FAILURE_CODE__FAILURE_INTERNAL, false, "it broke");
    expect_text(c, "data: {\"error\":{\"message\":\"it broke\"");
    quiet_turns(c);
    assert_true(c->closed);
    assert_null(strstr(c->text, "[DONE]"));
    assert_null(strstr(c->text, "\r\n0\r\n")); /* the client must not take it for the end */
    client_free(c);
}

static void test_too_long(void **state)
{
    (void)state;
    struct client *c = ask("/v1/chat/completions", "{" HI ",\"max_tokens\":4096}");
    json_t *json = expect_json(c, 400);
    json_says(json, "error.code", "context_length_exceeded");
    assert_int_equal(rig.fake.n_sent, 0);
    json_decref(json);
    client_free(c);
}

static void test_queue_is_bounded(void **state)
{
    (void)state;
    set("max_queued", "2");
    reopen_api();
    struct client *a = ask("/v1/completions", "{" ONCE "}"), *b = ask("/v1/completions", "{" ONCE "}");
    (void)expect_sent(FRAME_GENERATE, 1);
    struct client *c = connect_client(0);
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n";
    send_all(c, head, sizeof head - 1); /* refused before its body is there */
    json_t *json = expect_json(c, 429);
    assert_non_null(strstr(c->text, "\r\nRetry-After: 1\r\n"));
    json_says(json, "error.code", "queue_full");
    json_decref(json);
    client_free(c);
    client_free(a);
    (void)expect_sent(FRAME_CANCEL, 0);
    c = ask("/v1/completions", "{" ONCE "}");
    (void)expect_sent(FRAME_GENERATE, 2);
    client_free(b);
    client_free(c);
    (void)expect_sent(FRAME_CANCEL, 2);
}

static void test_bytes_are_bounded(void **state)
{
    (void)state;
    set("max_queued_bytes", "65536");
    reopen_api();
    struct client *a = ask("/v1/completions", "{" ONCE "}");
    (void)expect_sent(FRAME_GENERATE, 0);
    struct client *c = connect_client(0);
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 65530\r\n\r\n";
    send_all(c, head, sizeof head - 1);
    json_decref(expect_json(c, 429));
    client_free(c);
    client_free(a);
    (void)expect_sent(FRAME_CANCEL, 0);
}

static void test_body_that_never_comes(void **state)
{
    (void)state;
    struct client *c = connect_client(0);
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{";
    send_all(c, head, sizeof head - 1);
    quiet_turns(c);
    assert_int_equal(api_held(rig.api), 1);
    assert_int_equal(api_held_bytes(rig.api), 500);
    client_free(c);
    for (int i = 0; i < 100 && api_held(rig.api); i++)
        turn();
    assert_int_equal(api_held(rig.api), 0);
    assert_int_equal(api_held_bytes(rig.api), 0);
}

static void test_draining(void **state)
{
    (void)state;
    struct client *c = ask("/v1/completions", "{" ONCE "}");
    struct fake_sent g = *expect_sent(FRAME_GENERATE, 0);
    api_drain(rig.api);
    turn();
    answer_text(&g, "fin", true);
    json_t *json = expect_json(c, 200); /* what runs goes on to its end */
    json_decref(json);
    client_free(c);
}

/* ---- large bodies ------------------------------------------------------------------------------------ */

static char *large_body(size_t words)
{
    char *body = malloc(words * 5 + 200);
    size_t n = (size_t)sprintf(body, "{\"model\":\"baton-tiny\",\"prompt\":\"");
    for (size_t i = 0; i < words; i++)
        n += (size_t)sprintf(body + n, "word ");
    strcpy(body + n, "\"}");
    return body;
}

static void open_pool(uint32_t threads)
{
    assert_int_equal(tokenize_pool_create(rig.loop, threads, &rig.pool), ST_OK);
    reopen_api();
}

static void test_large_body(void **state)
{
    (void)state;
    open_pool(2);
    char *body = large_body(5000);
    struct client *c = ask("/tokenize", body);
    json_t *json = expect_json(c, 200);
    assert_true(json_integer_value(at(json, "count")) >= 5000);
    assert_int_equal(tokenize_pool_pending(rig.pool), 0);
    json_decref(json);
    client_free(c);
    c = ask("/v1/completions", body);
    json = expect_json(c, 400);
    json_says(json, "error.code", "context_length_exceeded");
    json_decref(json);
    client_free(c);
    free(body);
}

static void test_gone_while_parsing(void **state)
{
    (void)state;
    open_pool(0); /* no thread: the job stays where it is */
    char *body = large_body(5000);
    struct client *c = ask("/v1/completions", body);
    for (int i = 0; i < 1000 && tokenize_pool_pending(rig.pool) == 0; i++)
        turn();
    assert_int_equal(tokenize_pool_pending(rig.pool), 1);
    client_free(c);
    for (int i = 0; i < 1000 && api_held(rig.api); i++)
        turn();
    assert_int_equal(api_held(rig.api), 0);
    tokenize_pool_destroy(&rig.pool);
    assert_int_equal(rig.fake.n_sent, 0);
    free(body);
}

static void test_end_of_everything(void **state)
{
    (void)state;
    struct client *c = ask("/v1/chat/completions", "{" HI ",\"stream\":true}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    fake_tokens(rig.flows, g, g->n_tokens, (uint32_t[]){ 908 }, 1, 0, NULL);
    api_destroy(&rig.api);
    assert_int_equal(fake_count(&rig.fake, FRAME_CANCEL), 1);
    client_free(c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_all, close_all)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_heads),
        TEST(test_tokenize),
        TEST(test_chat),
        TEST(test_answer_is_logged),
        TEST(test_cancelled_answer_is_logged),
        TEST(test_several_prompts_and_choices),
        TEST(test_stop_text),
        TEST(test_logprobs),
        TEST(test_baton_object),
        TEST(test_timing_of_a_cut_answer),
        TEST(test_echo_without_tokens),
        TEST(test_stream),
        TEST(test_half_characters_wait),
        TEST(test_client_gone),
        TEST(test_slow_client),
        TEST(test_stop_text_of_a_slow_client),
        TEST(test_no_worker),
        TEST(test_worker_refuses),
        TEST(test_failure_in_a_stream),
        TEST(test_too_long),
        TEST(test_queue_is_bounded),
        TEST(test_bytes_are_bounded),
        TEST(test_body_that_never_comes),
        TEST(test_draining),
        TEST(test_large_body),
        TEST(test_gone_while_parsing),
        TEST(test_end_of_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
