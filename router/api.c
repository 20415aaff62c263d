#include "router/api.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/clock.h"
#include "common/log.h"
#include "router/answer.h"
#include "router/api_call.h"
#include "router/trace_parent.h"

#define JSON_TYPE "application/json"

static const struct endpoint endpoints[] = {
    { "/v1/chat/completions", "chat", "POST", false, REQUEST_CHAT, NULL },
    { "/v1/completions", "completions", "POST", false, REQUEST_TEXT, NULL },
    { "/v1/models", "models", "GET", false, 0, api_list_models },
    { "/v1/models/", "models", "GET", true, 0, api_show_model },
    { "/tokenize", "tokenize", "POST", false, REQUEST_TOKENS, NULL },
    { "/detokenize", "detokenize", "POST", false, REQUEST_IDS, NULL },
};

static const char *const health_paths[] = { "/health", "/healthz", "/readyz", "/metrics" };

static const struct endpoint *find_endpoint(const char *path)
{
    for (size_t i = 0; i < sizeof endpoints / sizeof *endpoints; i++) {
        const struct endpoint *e = &endpoints[i];
        size_t len = strlen(e->path);
        if (e->is_prefix ? !strncmp(path, e->path, len) && path[len] : !strcmp(path, e->path))
            return e;
    }
    return NULL;
}

static bool is_health(const char *path)
{
    for (size_t i = 0; i < sizeof health_paths / sizeof *health_paths; i++)
        if (!strcmp(path, health_paths[i]))
            return true;
    return false;
}

/* ---- counting -------------------------------------------------------------------- */

static void count_answer(struct api *api, const char *name, int code)
{
    char text[] = "000";
    ASSERT(code >= 100 && code <= 999);
    for (int i = 2, rest = code; i >= 0; i--, rest /= 10)
        text[i] = (char)('0' + rest % 10);
    metric_add(
        metrics_series(api->options.metrics, &router_metric_table, ROUTER_REQUESTS, (const char *[]){ name, text }), 1);
}

static void count_refusal(struct api *api, const char *reason)
{
    metric_add(metrics_series(api->options.metrics, &router_metric_table, ROUTER_REFUSED, (const char *[]){ reason }),
               1);
}

/* ---- errors ------------------------------------------------------------------------ */

static void respond_error(struct http_exchange *x, const struct api_error *err)
{
    struct text_buffer body;
    const char *retry = api_error_retry_after(err);
    text_buffer_init(&body, 4096);
    api_error_write(err, &body);
    if (retry)
        http_header_add(x, "Retry-After", retry);
    http_respond(x, api_error_status(err), JSON_TYPE, text_buffer_text(&body), body.len);
    text_buffer_free(&body);
}

void api_refuse(struct api *api, struct http_exchange *x, const char *name, const struct api_error *err)
{
    count_answer(api, name, api_error_status(err));
    respond_error(x, err);
}

static size_t server_error_body(void *ctx, int code, const char *reason, char *buf, size_t size,
                                const char **content_type)
{
    const struct api *api = ctx;
    struct api_error err;
    struct text_buffer body;
    (void)api_error_sentence(&err, api_error_of_status(code), reason);
    if (code == 413)
        (void)api_error_set(&err, API_BODY_TOO_LARGE, NULL, "The request body is too large: the limit is %llu bytes.",
                            (unsigned long long)api->options.config->max_body);
    text_buffer_init(&body, size);
    api_error_write(&err, &body);
    size_t len = body.state == ST_OK ? body.len : 0;
    if (len)
        memcpy(buf, body.data, len);
    text_buffer_free(&body);
    *content_type = JSON_TYPE;
    return len;
}

/* ---- calls --------------------------------------------------------------------------- */

/* Printable and short enough to be repeated in a header and a log line. */
static bool is_sane_id(const char *id)
{
    size_t len = strlen(id);
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)id[i]) && !strchr("-_.:/+=@", id[i]))
            return false;
    return len > 0 && len < CALL_REQUEST_ID_BYTES;
}

/* All its digits, at least so many. */
static char *add_hex(char *out, uint64_t v, int least)
{
    int n = least;
    while (n < 16 && v >> (4 * n))
        n++;
    for (int i = n - 1; i >= 0; i--, v >>= 4)
        out[i] = "0123456789abcdef"[v & 15];
    return out + n;
}

static void make_id(const struct api *api, uint64_t number, const char *prefix, char out[CALL_ID_BYTES])
{
    text_copy(out, CALL_ID_PREFIX_BYTES, prefix);
    char *end = add_hex(out + strlen(out), api->options.incarnation, 16);
    *add_hex(end, number, 8) = '\0';
}

void call_id(const struct call *call, const char *prefix, char out[CALL_ID_BYTES])
{
    make_id(call->api, call->number, prefix, out);
}

static void call_free(struct call *call)
{
    struct api *api = call->api;
    TAILQ_REMOVE(&api->calls, call, entry);
    api->n_calls--;
    api->held_bytes -= call->reserved;
    free(call);
}

void call_end(struct call *call, int code)
{
    struct api *api = call->api;
    uint64_t took = clock_now_us() - call->started_us;
    count_answer(api, call->endpoint->name, code);
    metric_observe_us(metrics_series(api->options.metrics, &router_metric_table, ROUTER_REQUEST_SECONDS,
                                     (const char *[]){ call->endpoint->name }),
                      took);
    call_log(call, code, took);
    call_free(call);
}

static void on_gone(void *arg)
{
    struct call *call = arg;
    call_forget_job(call);
    if (call->answer)
        answer_abandon(&call->answer);
    call_end(call, 499);
}

void call_headers(const struct call *call, const struct request *request)
{
    if (request->ignored[0])
        http_header_add(call->x, "x-baton-ignored", request->ignored);
}

void call_respond(struct call *call, const struct text_buffer *body)
{
    if (body->state != ST_OK) {
        struct api_error err;
        (void)api_error_set(&err, API_INTERNAL, NULL, "The answer is larger than this server can hold.");
        respond_error(call->x, &err);
        call_end(call, api_error_status(&err));
        return;
    }
    http_respond(call->x, 200, JSON_TYPE, body->data, body->len);
    call_end(call, 200);
}

void call_fail(struct call *call, const struct api_error *err)
{
    respond_error(call->x, err);
    call_end(call, api_error_status(err));
}

uint32_t call_max_model_len(const struct call *call, const struct served_model *model)
{
    uint32_t most = fleet_max_model_len(call->api->options.fleet, model->name);
    return most ? most : model->max_positions;
}

/* What the server refuses by itself has no exchange: a name of our own. */
static void server_error_name(void *ctx, int code, char *buf, size_t size)
{
    struct api *api = ctx;
    char id[CALL_ID_BYTES];
    make_id(api, ++api->next_number, "req-", id);
    text_copy(buf, size, id);
    log_debug("refused", "id=%s status=%d", id, code);
}

/* ---- admission ------------------------------------------------------------------------- */

/* Absent, or JSON in UTF-8. */
static bool is_json_type(const char *type)
{
    static const char json[] = JSON_TYPE;
    if (!type)
        return true;
    if (strncasecmp(type, json, sizeof json - 1) != 0)
        return false;
    type += sizeof json - 1;
    type += strspn(type, " \t");
    if (*type && *type != ';')
        return false;
    const char *charset = strcasestr(type, "charset=");
    if (!charset)
        return true;
    charset += strlen("charset=");
    charset += *charset == '"';
    return !strncasecmp(charset, "utf-8", 5) && !isalnum((unsigned char)charset[5]);
}

static status check_head(const struct endpoint *e, struct http_exchange *x, struct api_error *err)
{
    const char *method = http_method(x), *type = http_header(x, "content-type");
    const char *encoding = http_header(x, "content-encoding");
    if (strcmp(method, e->method) != 0 && (strcmp(e->method, "GET") != 0 || strcmp(method, "HEAD") != 0)) {
        http_header_add(x, "Allow", e->get ? "GET, HEAD" : e->method);
        return api_error_set(err, API_WRONG_METHOD, NULL, "Not allowed to %.32s on %.200s; use %s.", method,
                             http_path(x), e->method);
    }
    if (e->get)
        return ST_OK;
    if (!is_json_type(type))
        return api_error_set(err, API_WRONG_MEDIA, NULL,
                             "Unsupported content type '%.100s'; send application/json in UTF-8.", type);
    if (encoding && strcasecmp(encoding, "identity") != 0)
        return api_error_set(err, API_WRONG_MEDIA, NULL,
                             "Unsupported content encoding '%.100s'; send the body as it is.", encoding);
    return ST_OK;
}

/* A chunked body may become as long as any, until it has come. */
static uint64_t bytes_to_reserve(const struct api *api, struct http_exchange *x)
{
    return http_header(x, "transfer-encoding") ? api->options.config->max_body : http_content_length(x);
}

static status check_room(struct api *api, uint64_t bytes, struct api_error *err)
{
    const struct router_config *c = api->options.config;
    if (api->draining) {
        count_refusal(api, "draining");
        return api_error_set(err, API_DRAINING, NULL, "This router is shutting down; try again.");
    }
    if (api->n_calls >= (uint64_t)c->max_queued) {
        count_refusal(api, "queue_requests");
        return api_error_set(err, API_QUEUE_FULL, NULL,
                             "The server is overloaded: %u requests are waiting or running, the limit is %lld.",
                             api->n_calls, (long long)c->max_queued);
    }
    if (api->held_bytes + bytes > c->max_queued_bytes && api->n_calls > 0) {
        count_refusal(api, "queue_bytes");
        return api_error_set(err, API_QUEUE_FULL, NULL,
                             "The server is overloaded: the request's %llu bytes and the %llu of others are over the "
                             "limit of %llu.",
                             (unsigned long long)bytes, (unsigned long long)api->held_bytes,
                             (unsigned long long)c->max_queued_bytes);
    }
    return ST_OK;
}

/* The answer carries the name, whatever it will be. */
static void name_exchange(struct api *api, struct http_exchange *x, char out[CALL_REQUEST_ID_BYTES])
{
    const char *given = http_header(x, "x-request-id");
    api->next_number++;
    if (given && is_sane_id(given))
        text_copy(out, CALL_REQUEST_ID_BYTES, given);
    else
        make_id(api, api->next_number, "req-", out);
    http_header_add(x, "x-request-id", out);
}

static void take_call(struct api *api, struct http_exchange *x, const struct endpoint *e, const char *id)
{
    struct api_error err;
    uint64_t bytes = bytes_to_reserve(api, x);
    struct call *call = NULL;
    status st = check_room(api, bytes, &err);
    if (st == ST_OK && !(call = calloc(1, sizeof *call)))
        st = api_error_set(&err, API_QUEUE_FULL, NULL, "There is not enough memory for another request.");
    if (st != ST_OK) {
        api_refuse(api, x, e->name, &err);
        return;
    }
    ASSERT(call);
    *call = (struct call){ .api = api, .x = x, .endpoint = e, .reserved = bytes, .number = api->next_number };
    call->started_us = clock_now_us();
    api->held_bytes += bytes;
    api->n_calls++;
    TAILQ_INSERT_TAIL(&api->calls, call, entry);
    text_copy(call->request_id, sizeof call->request_id, id);
    trace_parent_read(http_header(x, "traceparent"), &call->trace);
    http_set_user(x, call);
    http_on_gone(x, on_gone, call);
}

static void admit(void *ctx, struct http_exchange *x)
{
    struct api *api = ctx;
    struct api_error err;
    char id[CALL_REQUEST_ID_BYTES];
    const struct endpoint *e = find_endpoint(http_path(x));
    name_exchange(api, x, id);
    if (is_health(http_path(x)))
        return;
    if (!e) {
        (void)api_error_set(&err, API_NO_PAGE, NULL, "Unknown request URL: %.16s %.300s.", http_method(x),
                            http_path(x));
        api_refuse(api, x, "other", &err);
    } else if (check_head(e, x, &err) != ST_OK) {
        api_refuse(api, x, e->name, &err);
    } else if (!e->get) {
        take_call(api, x, e, id);
    }
}

static void handle(void *ctx, struct http_exchange *x)
{
    struct api *api = ctx;
    struct call *call = http_user(x);
    if (!call) {
        const struct endpoint *e = find_endpoint(http_path(x));
        if (e)
            e->get(api, x);
        else
            ASSERT(api->options.answer_health(api->options.ctx, x));
        return;
    }
    size_t len;
    (void)http_body(x, &len);
    api->held_bytes = api->held_bytes - call->reserved + len;
    call->reserved = len;
    call_read(call);
}

/* ---- all of it --------------------------------------------------------------------------- */

static status open_server(struct api *api, struct error *err)
{
    const struct router_config *c = api->options.config;
    const struct http_server_options http = {
        .loop = api->options.loop,
        .listen = c->http_listen,
        .max_header_bytes = c->max_header,
        .max_body_bytes = c->max_body,
        .max_connections = (uint32_t)c->max_connections,
        .request_timeout_us = c->request_timeout,
        .idle_timeout_us = c->idle_timeout,
        .write_timeout_us = c->write_timeout,
        .max_backlog_bytes = c->max_backlog,
        .admit = admit,
        .handle = handle,
        .error_body = server_error_body,
        .error_field = "x-request-id",
        .error_field_value = server_error_name,
        .retry_after_s = API_RETRY_AFTER_S,
        .ctx = api,
    };
    return http_server_create(&http, &api->server, err);
}

status api_create(const struct api_options *options, struct api **out, struct error *err)
{
    struct api *api = calloc(1, sizeof *api);
    if (!api)
        return error_set(err, ST_NO_MEMORY, "no memory");
    api->options = *options;
    api->rules = (struct request_rules){ options->models, (uint32_t)options->config->max_choices,
                                         options->config->debug_extensions, options->salt_key };
    TAILQ_INIT(&api->calls);
    text_buffer_init(&api->out, CALL_MAX_PIECE_BYTES);
    text_buffer_init(&api->piece, CALL_MAX_PIECE_BYTES);
    status st = open_server(api, err);
    if (st != ST_OK) {
        free(api);
        return st;
    }
    *out = api;
    return ST_OK;
}

void api_destroy(struct api **handle_out)
{
    struct api *api = *handle_out;
    if (!api)
        return;
    *handle_out = NULL;
    http_server_destroy(&api->server); /* tells every call that its client is gone */
    ASSERT(TAILQ_EMPTY(&api->calls));
    text_buffer_free(&api->out);
    text_buffer_free(&api->piece);
    free(api);
}

uint16_t api_port(const struct api *api)
{
    return http_server_port(api->server);
}

void api_drain(struct api *api)
{
    api->draining = true;
    http_server_drain(api->server);
}

uint32_t api_held(const struct api *api)
{
    return api->n_calls;
}

uint64_t api_held_bytes(const struct api *api)
{
    return api->held_bytes;
}

void api_http_stats(const struct api *api, struct http_server_stats *out)
{
    http_server_stats(api->server, out);
}
