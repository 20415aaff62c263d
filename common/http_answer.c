/* The answering half of http_server.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/http_exchange.h"

#define HEAD_BYTES             640 /* status line and the fields that the server writes itself */
#define MAX_CONTENT_TYPE_BYTES 256
#define FAULT_BODY_BYTES       2048
#define MAX_FAULT_FIELD_BYTES  64

static const char *reason_phrase(int code)
{
    switch (code) {
#define X(number, name, text)                                                                                          \
    case number:                                                                                                       \
        return text;
        X(200, OK, "OK")
        X(201, CREATED, "Created")
        X(202, ACCEPTED, "Accepted")
        X(204, NO_CONTENT, "No Content")
        X(304, NOT_MODIFIED, "Not Modified")
        X(400, BAD_REQUEST, "Bad Request")
        X(401, UNAUTHORIZED, "Unauthorized")
        X(403, FORBIDDEN, "Forbidden")
        X(404, NOT_FOUND, "Not Found")
        X(405, METHOD_NOT_ALLOWED, "Method Not Allowed")
        X(406, NOT_ACCEPTABLE, "Not Acceptable")
        X(408, REQUEST_TIMEOUT, "Request Timeout")
        X(409, CONFLICT, "Conflict")
        X(410, GONE, "Gone")
        X(411, LENGTH_REQUIRED, "Length Required")
        X(413, PAYLOAD_TOO_LARGE, "Payload Too Large")
        X(414, URI_TOO_LONG, "URI Too Long")
        X(415, UNSUPPORTED_MEDIA_TYPE, "Unsupported Media Type")
        X(417, EXPECTATION_FAILED, "Expectation Failed")
        X(422, UNPROCESSABLE_ENTITY, "Unprocessable Entity")
        X(429, TOO_MANY_REQUESTS, "Too Many Requests")
        X(431, REQUEST_HEADER_FIELDS_TOO_LARGE, "Request Header Fields Too Large")
        X(500, INTERNAL_SERVER_ERROR, "Internal Server Error")
        X(501, NOT_IMPLEMENTED, "Not Implemented")
        X(502, BAD_GATEWAY, "Bad Gateway")
        X(503, SERVICE_UNAVAILABLE, "Service Unavailable")
        X(504, GATEWAY_TIMEOUT, "Gateway Timeout")
        X(505, HTTP_VERSION_NOT_SUPPORTED, "HTTP Version Not Supported")
#undef X
    default:
        return "Other";
    }
}

struct head {
    char text[HEAD_BYTES];
    size_t len;
};

static void head_add(struct head *h, const char *text, size_t len)
{
    ASSERT(len <= sizeof h->text - h->len);
    memcpy(h->text + h->len, text, len);
    h->len += len;
}
#define HEAD_LITERAL(h, text) head_add(h, text, sizeof(text) - 1)

static size_t decimal(char out[20], uint64_t value)
{
    char digits[20];
    size_t n = 0;
    do
        digits[n++] = (char)('0' + value % 10);
    while (value /= 10);
    for (size_t i = 0; i < n; i++)
        out[i] = digits[n - 1 - i];
    return n;
}

static void head_number(struct head *h, uint64_t value)
{
    char text[20];
    head_add(h, text, decimal(text, value));
}

static bool has_control(const char *text)
{
    for (const unsigned char *s = (const unsigned char *)text; *s; s++)
        if ((*s < 0x20 && *s != '\t') || *s == 0x7f)
            return true;
    return false;
}

static void head_start(struct head *h, int code, const char *content_type)
{
    const char *phrase = reason_phrase(code);
    ASSERT(code >= 200 && code <= 999);
    h->len = 0;
    HEAD_LITERAL(h, "HTTP/1.1 ");
    head_number(h, (uint64_t)code);
    HEAD_LITERAL(h, " ");
    head_add(h, phrase, strlen(phrase));
    HEAD_LITERAL(h, "\r\n");
    if (content_type) {
        size_t len = strlen(content_type);
        ASSERT(len <= MAX_CONTENT_TYPE_BYTES && !has_control(content_type));
        HEAD_LITERAL(h, "Content-Type: ");
        head_add(h, content_type, len);
        HEAD_LITERAL(h, "\r\n");
    }
}

static void head_connection(struct head *h, bool keep_alive, bool http_1_0)
{
    if (!keep_alive)
        HEAD_LITERAL(h, "Connection: close\r\n");
    else if (http_1_0)
        HEAD_LITERAL(h, "Connection: keep-alive\r\n");
}

static bool has_no_body(int code)
{
    return code == 204 || code == 304;
}

static struct iovec part(const void *data, size_t len)
{
    return (struct iovec){ (void *)(uintptr_t)data, len };
}

/* Whether the connection can go on after this answer. */
static bool may_keep_alive(const struct http_exchange *x)
{
    const struct http_connection *c = x->connection;
    const struct http_request *r = x->request;
    if (!r->keep_alive || c->server->draining || c->input_done)
        return false;
    /* An early answer: a client that waits for 100 may send its body or not, so nothing after it can be trusted. */
    return r->complete ||
           (!r->chunked && !r->expects_continue && r->content_length - r->body_seen <= HTTP_EARLY_DISCARD_BYTES);
}

static void begin_answer(struct http_exchange *x, int code, enum http_answer answer)
{
    ASSERT(x->answer == HTTP_UNANSWERED);
    x->answer = answer;
    x->keep_alive = may_keep_alive(x);
    x->without_body = x->request->is_head || has_no_body(code);
    x->request->discard_body = true;
}

void http_header_add(struct http_exchange *x, const char *name, const char *value)
{
    size_t name_len = strlen(name), value_len = strlen(value), need = name_len + value_len + 4;
    ASSERT(x->answer == HTTP_UNANSWERED && name_len > 0 && !has_control(value));
    for (size_t i = 0; i < name_len; i++)
        ASSERT(http_is_token_char((unsigned char)name[i]));
    ASSERT(x->fields_len + need <= HTTP_MAX_ANSWER_FIELD_BYTES);
    if (x->fields_len + need > x->fields_capacity) {
        size_t capacity = x->fields_capacity ? 2 * x->fields_capacity : 256;
        if (capacity < x->fields_len + need)
            capacity = x->fields_len + need;
        char *fields = realloc(x->fields, capacity);
        ASSERT(fields != NULL);
        x->fields = fields;
        x->fields_capacity = capacity;
    }
    char *at = x->fields + x->fields_len;
    memcpy(at, name, name_len);
    memcpy(at + name_len, ": ", 2);
    memcpy(at + name_len + 2, value, value_len);
    memcpy(at + name_len + 2 + value_len, "\r\n", 2);
    x->fields_len += need;
}

void http_respond(struct http_exchange *x, int code, const char *content_type, const void *body, size_t len)
{
    struct http_connection *c = x->connection;
    struct head h;
    begin_answer(x, code, HTTP_ANSWERED);
    head_start(&h, code, content_type);
    if (!has_no_body(code)) {
        HEAD_LITERAL(&h, "Content-Length: ");
        head_number(&h, len);
        HEAD_LITERAL(&h, "\r\n");
    }
    head_connection(&h, x->keep_alive, x->request->http_1_0);
    struct iovec parts[] = { part(h.text, h.len), part(x->fields, x->fields_len), part("\r\n", 2),
                             part(body, x->without_body ? 0 : len) };
    /* When more input waits, the answers to all of it leave together. */
    http_connection_send(c, parts, 4, c->running);
    http_connection_answered(c, x->keep_alive);
}

void http_stream_begin(struct http_exchange *x, int code, const char *content_type)
{
    struct head h;
    begin_answer(x, code, HTTP_STREAMING);
    x->chunked = !x->request->http_1_0 && !has_no_body(code);
    x->keep_alive = x->keep_alive && x->chunked;
    head_start(&h, code, content_type);
    if (x->chunked)
        HEAD_LITERAL(&h, "Transfer-Encoding: chunked\r\n");
    head_connection(&h, x->keep_alive, x->request->http_1_0);
    struct iovec parts[] = { part(h.text, h.len), part(x->fields, x->fields_len), part("\r\n", 2) };
    http_connection_send(x->connection, parts, 3, true);
}

static size_t chunk_line(char out[20], size_t len)
{
    char digits[16];
    size_t n = 0;
    do
        digits[n++] = "0123456789abcdef"[len & 15];
    while (len >>= 4);
    for (size_t i = 0; i < n; i++)
        out[i] = digits[n - 1 - i];
    memcpy(out + n, "\r\n", 2);
    return n + 2;
}

status http_stream_write(struct http_exchange *x, const void *data, size_t len)
{
    struct http_connection *c = x->connection;
    size_t most = c->server->options.max_backlog_bytes;
    ASSERT(x->answer == HTTP_STREAMING);
    if (c->broken)
        return ST_CLOSED;
    if (len == 0 || x->without_body)
        return ST_OK;
    if (x->wants_writable && c->out.len + len > most * HTTP_BACKLOG_HARD_FACTOR) {
        http_connection_break(c);
        return ST_CLOSED;
    }
    char line[20];
    struct iovec parts[] = { part(line, x->chunked ? chunk_line(line, len) : 0), part(data, len),
                             part("\r\n", x->chunked ? 2 : 0) };
    http_connection_send(c, parts, 3, false);
    if (c->broken)
        return ST_CLOSED;
    if (c->out.len <= most)
        return ST_OK;
    x->wants_writable = true;
    return ST_AGAIN;
}

void http_stream_end(struct http_exchange *x)
{
    struct http_connection *c = x->connection;
    ASSERT(x->answer == HTTP_STREAMING);
    x->answer = HTTP_ANSWERED;
    if (x->chunked && !x->without_body)
        http_connection_send(c, &(struct iovec){ (void *)(uintptr_t) "0\r\n\r\n", 5 }, 1, c->running);
    http_connection_answered(c, x->keep_alive);
}

void http_stream_abort(struct http_exchange *x)
{
    struct http_connection *c = x->connection;
    ASSERT(x->answer == HTTP_STREAMING);
    x->answer = HTTP_ANSWERED;
    /* A body that ends with the connection is only incomplete to the client when the end is not a clean one. */
    c->reset = !x->chunked;
    http_connection_answered(c, false);
}

static size_t fault_body(const struct http_server_options *o, const struct http_fault *fault, char *buf, size_t size,
                         const char **content_type)
{
    *content_type = "text/plain; charset=utf-8";
    if (o->error_body)
        return o->error_body(o->ctx, fault->status, fault->reason, buf, size, content_type);
    int n = snprintf(buf, size, "%d %s\n", fault->status, fault->reason);
    return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

static void fault_field(struct head *h, const struct http_server_options *o, const struct http_fault *fault)
{
    char value[MAX_FAULT_FIELD_BYTES] = "";
    if (!o->error_field)
        return;
    o->error_field_value(o->ctx, fault->status, value, sizeof value);
    ASSERT(strlen(o->error_field) <= MAX_FAULT_FIELD_BYTES && !has_control(value));
    head_add(h, o->error_field, strlen(o->error_field));
    HEAD_LITERAL(h, ": ");
    head_add(h, value, strlen(value));
    HEAD_LITERAL(h, "\r\n");
}

void http_exchange_fault(struct http_connection *c, const struct http_fault *fault)
{
    char body[FAULT_BODY_BYTES];
    const char *content_type;
    struct head h;
    size_t len = fault_body(&c->server->options, fault, body, sizeof body, &content_type);
    ASSERT(len <= sizeof body);
    head_start(&h, fault->status, content_type);
    HEAD_LITERAL(&h, "Content-Length: ");
    head_number(&h, len);
    HEAD_LITERAL(&h, "\r\nConnection: close\r\n");
    if (fault->status == 503 && c->server->options.retry_after_s) {
        HEAD_LITERAL(&h, "Retry-After: ");
        head_number(&h, c->server->options.retry_after_s);
        HEAD_LITERAL(&h, "\r\n");
    }
    fault_field(&h, &c->server->options, fault);
    HEAD_LITERAL(&h, "\r\n");
    struct iovec parts[] = { part(h.text, h.len), part(body, len) };
    http_connection_send(c, parts, 2, true);
}
