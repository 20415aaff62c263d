#include "bench/load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <llhttp.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/process_probe.h"
#include "bench/sse_parser.h"
#include "common/clock.h"

#define READ_BYTES (256u << 10)
#define MAX_HEADER (64u << 10) /* bytes of one name or value */

struct connection {
    struct load *load;
    int fd; /* -1: closed */
    struct event *readable, *writable;
    llhttp_t parser;
    struct sse_parser events;
    struct text_buffer out, header, body;
    size_t out_sent;
    bool is_busy;  /* a request is under way */
    bool complete; /* its answer is here */
    bool keep_alive;
    bool in_type;  /* the header being read is Content-Type */
    bool is_open;  /* bytes have gone out or come in */
    bool is_stale; /* it may have been closed by the server while it waited: the request goes out once more */
    uint32_t failures;
    struct timer timer; /* ends the request */
    struct load_answer answer;
};

struct load {
    struct load_options options;
    struct sockaddr_storage address;
    socklen_t address_len;
    char host[64];
    struct connection *connections; /* [n_connections] */
    struct connection **idle;       /* [n_connections], of which n_idle wait; used last first */
    uint32_t n_busy, n_idle;        /* not given up or ended; of them waiting */
    uint64_t next_number;
    bool stopping;
    struct text_buffer request; /* the body that is being written */
    struct timer done;
    struct load_stats stats;
    uint64_t started_us, ended_us;
    struct process_probe probe_start, probe_end;
    uint64_t received_us; /* of the bytes that are being parsed */
    char *bytes;          /* [READ_BYTES] */
};

static void start_next(struct connection *c);
static void send_request(struct connection *c);

/* ---- parsing ---------------------------------------------------------------- */

/* Both may come in pieces. */
static int on_header_piece(llhttp_t *parser, const char *at, size_t len)
{
    struct connection *c = parser->data;
    text_buffer_append(&c->header, at, len);
    return c->header.state == ST_OK ? 0 : HPE_USER;
}

static int on_field_complete(llhttp_t *parser)
{
    struct connection *c = parser->data;
    c->in_type = strcasecmp(text_buffer_text(&c->header), "content-type") == 0;
    text_buffer_clear(&c->header);
    return 0;
}

static int on_value_complete(llhttp_t *parser)
{
    struct connection *c = parser->data;
    if (c->in_type)
        c->answer.is_stream = strncasecmp(text_buffer_text(&c->header), "text/event-stream", 17) == 0;
    text_buffer_clear(&c->header);
    return 0;
}

static int on_head(llhttp_t *parser)
{
    struct connection *c = parser->data;
    c->answer.status = parser->status_code;
    return 0;
}

static void on_sse_event(void *arg, const char *data, size_t len)
{
    struct connection *c = arg;
    struct load *load = c->load;
    load->stats.events++;
    c->answer.n_events++;
    if (!load->options.on_event)
        return;
    bool token = load->options.on_event(load->options.ctx, c->answer.number, data, len, load->received_us);
    if (token && !c->answer.first_us)
        c->answer.first_us = load->received_us;
}

static int on_body(llhttp_t *parser, const char *at, size_t len)
{
    struct connection *c = parser->data;
    if (c->answer.is_stream)
        return sse_parser_feed(&c->events, at, len) == ST_OK ? 0 : HPE_USER;
    if (!c->answer.first_us)
        c->answer.first_us = c->load->received_us;
    text_buffer_append(&c->body, at, len);
    return c->body.state == ST_OK ? 0 : HPE_USER;
}

static int on_complete(llhttp_t *parser)
{
    struct connection *c = parser->data;
    if (parser->status_code < 200)
        return 0;
    c->complete = true;
    c->keep_alive = llhttp_should_keep_alive(parser); /* known here only: the parser forgets the head next */
    return 0;
}

static const llhttp_settings_t settings = {
    .on_header_field = on_header_piece,
    .on_header_field_complete = on_field_complete,
    .on_header_value = on_header_piece,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_head,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

/* ---- one connection --------------------------------------------------------- */

static void hang_up(struct connection *c)
{
    if (c->readable)
        event_free(c->readable);
    if (c->writable)
        event_free(c->writable);
    c->readable = c->writable = NULL;
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->is_open = false;
}

static void on_all_done(void *arg)
{
    struct load *load = arg;
    load->options.on_done(load->options.ctx);
}

/* From a timer, so that it never comes from inside load_start or another callback. */
static void leave(struct load *load)
{
    load->n_busy--;
    if (load->n_busy > 0)
        return;
    load->ended_us = clock_now_us();
    process_probe_thread(&load->probe_end);
    timer_set(loop_timers(load->options.loop), &load->done, load->ended_us, on_all_done, load);
}

static void end_answer(struct connection *c, uint64_t done_us)
{
    struct load *load = c->load;
    timer_cancel(loop_timers(load->options.loop), &c->timer);
    c->is_busy = false;
    c->answer.done_us = done_us;
    c->answer.body = text_buffer_text(&c->body);
    c->answer.len = c->body.len;
    bool good = !c->answer.error && c->answer.status == 200;
    c->failures = c->answer.error ? c->failures + 1 : 0;
    load->stats.answers += good;
    load->stats.errors += !good;
    load->options.on_answer(load->options.ctx, &c->answer);
}

static void on_failed(void *arg)
{
    struct connection *c = arg;
    end_answer(c, c->answer.done_us);
    start_next(c);
}

/* From a timer: connections that fail at once do not call each other deeper and deeper. */
static void fail(struct connection *c, enum load_failure failure, const char *error)
{
    hang_up(c);
    c->answer.failure = failure;
    c->answer.error = error;
    c->answer.done_us = clock_now_us();
    timer_set(loop_timers(c->load->options.loop), &c->timer, c->answer.done_us, on_failed, c);
}

static void on_timeout(void *arg)
{
    struct connection *c = arg;
    fail(c, c->is_open ? LOAD_TIMED_OUT : LOAD_NOT_CONNECTED, "no end of the answer in time");
}

/* Refused, reset or closed. A server may close a connection that waits while a request goes out on it. */
static void lose(struct connection *c, const char *error)
{
    bool was_open = c->is_open;
    if (!c->is_stale) {
        fail(c, was_open ? LOAD_CLOSED : LOAD_NOT_CONNECTED, error);
        return;
    }
    hang_up(c);
    c->is_stale = false;
    c->out_sent = 0;
    send_request(c);
}

static void flush(struct connection *c)
{
    while (c->out_sent < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + c->out_sent, c->out.len - c->out_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == ENOTCONN)) {
            event_add(c->writable, NULL);
            return;
        }
        if (n < 0) {
            lose(c, strerror(errno));
            return;
        }
        c->is_open = true;
        c->out_sent += (size_t)n;
        c->load->stats.bytes_out += (uint64_t)n;
    }
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    struct connection *c = arg;
    int error = 0;
    socklen_t len = sizeof error;
    (void)what;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error != 0)
        lose(c, strerror(error));
    else
        flush(c);
}

static void finish(struct connection *c, bool at_end)
{
    if (at_end || !c->keep_alive)
        hang_up(c);
    end_answer(c, c->load->received_us);
    start_next(c);
}

/* The next request is written after the parser has returned. */
static void parse(struct connection *c, const char *bytes, size_t len)
{
    llhttp_errno_t error = len ? llhttp_execute(&c->parser, bytes, len) : llhttp_finish(&c->parser);
    if (len == 0 && !c->complete)
        lose(c, "the connection was closed inside an answer");
    else if (error != HPE_OK)
        fail(c, LOAD_NOT_HTTP, llhttp_errno_name(error));
    else if (c->complete)
        finish(c, len == 0);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    struct connection *c = arg;
    struct load *load = c->load;
    (void)what;
    ssize_t n = recv(fd, load->bytes, READ_BYTES, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    load->received_us = clock_now_us();
    if (n > 0) {
        load->stats.bytes_in += (uint64_t)n;
        c->is_stale = false;
    }
    if (!c->is_busy)
        hang_up(c);
    else if (n < 0)
        lose(c, strerror(errno));
    else
        parse(c, load->bytes, (size_t)n);
}

static bool dial(struct connection *c)
{
    struct load *load = c->load;
    int one = 1;
    if (c->fd >= 0)
        return true;
    c->fd = socket(load->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return false;
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->readable = event_new(loop_base(load->options.loop), c->fd, EV_READ | EV_PERSIST, on_readable, c);
    c->writable = event_new(loop_base(load->options.loop), c->fd, EV_WRITE, on_writable, c);
    load->stats.connects++;
    if (c->readable && c->writable && event_add(c->readable, NULL) == 0 &&
        (connect(c->fd, (const struct sockaddr *)&load->address, load->address_len) == 0 || errno == EINPROGRESS))
        return true;
    int error = errno;
    hang_up(c);
    errno = error;
    return false;
}

static void send_request(struct connection *c)
{
    if (!dial(c))
        fail(c, LOAD_NOT_CONNECTED, strerror(errno));
    else
        flush(c);
}

static enum load_next write_request(struct connection *c)
{
    struct load *load = c->load;
    const char *path = "/";
    text_buffer_clear(&load->request);
    enum load_next next = load->options.next(load->options.ctx, load->next_number, &path, &load->request);
    if (next != LOAD_REQUEST)
        return next;
    ASSERT(load->request.state == ST_OK);
    text_buffer_clear(&c->out);
    text_buffer_printf(&c->out, "%s %s HTTP/1.1\r\nHost: %s:%u\r\n", load->request.len ? "POST" : "GET", path,
                       load->host, load->options.port);
    if (load->request.len)
        text_buffer_printf(&c->out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", load->request.len);
    text_buffer_add(&c->out, "\r\n");
    text_buffer_append(&c->out, load->request.data, load->request.len);
    ASSERT(c->out.state == ST_OK);
    return next;
}

static void begin_request(struct connection *c)
{
    struct load *load = c->load;
    llhttp_init(&c->parser, HTTP_RESPONSE, &settings);
    c->parser.data = c;
    sse_parser_reset(&c->events);
    text_buffer_clear(&c->header);
    text_buffer_clear(&c->body);
    c->out_sent = 0;
    c->complete = c->keep_alive = c->in_type = false;
    c->is_busy = true;
    c->is_stale = c->fd >= 0;
    c->answer = (struct load_answer){ .number = load->next_number++, .sent_us = clock_now_us() };
    load->stats.requests++;
    if (load->options.timeout_us)
        timer_set(loop_timers(load->options.loop), &c->timer, c->answer.sent_us + load->options.timeout_us, on_timeout,
                  c);
    send_request(c);
}

static bool is_given_up(const struct connection *c)
{
    return !c->load->options.keeps_trying && c->failures >= LOAD_MAX_FAILURES;
}

static void start_next(struct connection *c)
{
    struct load *load = c->load;
    enum load_next next = load->stopping || is_given_up(c) ? LOAD_NO_MORE : write_request(c);
    if (next == LOAD_REQUEST)
        begin_request(c);
    else if (next == LOAD_NOTHING_YET)
        load->idle[load->n_idle++] = c;
    else
        leave(load);
}

/* ---- all of them ------------------------------------------------------------ */

static bool read_address(struct load *load)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&load->address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&load->address;
    const char *host = load->options.host;
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(load->options.port);
        load->address_len = sizeof *v4;
    } else if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(load->options.port);
        load->address_len = sizeof *v6;
    }
    (void)snprintf(load->host, sizeof load->host, strchr(host, ':') ? "[%.50s]" : "%.50s", host);
    return load->address_len != 0;
}

status load_create(const struct load_options *options, struct load **out, struct error *err)
{
    ASSERT(options->n_connections > 0 && options->n_connections <= LOAD_MAX_CONNECTIONS);
    struct load *load = calloc(1, sizeof *load);
    if (!load)
        return error_set(err, ST_NO_MEMORY, "no memory for a load client");
    load->options = *options;
    load->next_number = options->first_number;
    text_buffer_init(&load->request, LOAD_MAX_REQUEST);
    load->connections = calloc(options->n_connections, sizeof *load->connections);
    load->idle = calloc(options->n_connections, sizeof *load->idle);
    load->bytes = malloc(READ_BYTES);
    bool has_memory = load->connections && load->idle && load->bytes;
    if (!has_memory || !read_address(load)) {
        status st = has_memory ? ST_INVALID : ST_NO_MEMORY;
        load->options.n_connections = 0;
        load_destroy(&load);
        return error_set(err, st, "no load client for %s: %s", options->host,
                         st == ST_INVALID ? "not a numeric address" : "no memory");
    }
    for (uint32_t i = 0; i < options->n_connections; i++) {
        struct connection *c = &load->connections[i];
        c->load = load;
        c->fd = -1;
        sse_parser_init(&c->events, on_sse_event, c);
        text_buffer_init(&c->out, LOAD_MAX_REQUEST + 4096);
        text_buffer_init(&c->header, MAX_HEADER);
        text_buffer_init(&c->body, LOAD_MAX_BODY);
    }
    *out = load;
    return ST_OK;
}

void load_destroy(struct load **p)
{
    struct load *load = *p;
    if (!load)
        return;
    *p = NULL;
    timer_cancel(loop_timers(load->options.loop), &load->done);
    for (uint32_t i = 0; i < load->options.n_connections; i++) {
        struct connection *c = &load->connections[i];
        hang_up(c);
        timer_cancel(loop_timers(load->options.loop), &c->timer);
        sse_parser_free(&c->events);
        text_buffer_free(&c->out);
        text_buffer_free(&c->header);
        text_buffer_free(&c->body);
    }
    text_buffer_free(&load->request);
    free(load->connections);
    free(load->idle);
    free(load->bytes);
    free(load);
}

void load_start(struct load *load)
{
    ASSERT(!load->started_us);
    load->started_us = clock_now_us();
    process_probe_thread(&load->probe_start);
    load->n_busy = load->options.n_connections;
    for (uint32_t i = 0; i < load->options.n_connections; i++)
        start_next(&load->connections[i]);
}

void load_wake(struct load *load)
{
    for (uint32_t n = load->n_idle; n > 0 && load->n_idle == n; n--)
        start_next(load->idle[--load->n_idle]);
}

uint32_t load_idle(const struct load *load)
{
    return load->n_idle;
}

void load_stop(struct load *load)
{
    load->stopping = true;
    for (; load->n_idle > 0; load->n_idle--)
        leave(load);
}

void load_stats(const struct load *load, struct load_stats *out)
{
    struct process_probe end = load->probe_end;
    uint64_t ended = load->ended_us;
    *out = load->stats;
    if (!ended) {
        ended = clock_now_us();
        process_probe_thread(&end);
    }
    out->elapsed_us = ended - load->started_us;
    uint64_t busy_ns = end.cpu_ns - load->probe_start.cpu_ns + end.runqueue_ns - load->probe_start.runqueue_ns;
    out->busy = out->elapsed_us ? (double)busy_ns / 1000.0 / (double)out->elapsed_us : 0;
}
