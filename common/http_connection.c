#include "common/http_connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/http_exchange.h"

/* States and deadlines */

static void on_timer(void *arg);

static void arm_timer(struct http_connection *c)
{
    uint64_t due = c->read_deadline_us;
    if (c->write_deadline_us && (!due || c->write_deadline_us < due))
        due = c->write_deadline_us;
    /* A timer that fires too early looks again, which is cheaper than moving it with every request. */
    if (due && (!timer_is_set(&c->timer) || c->timer.due_us > due))
        timer_set(c->server->timers, &c->timer, due, on_timer, c);
}

static uint64_t read_deadline(const struct http_connection *c, enum http_connection_state state)
{
    const struct http_server_options *o = &c->server->options;
    switch (state) {
    case CONNECTION_IDLE:
        return clock_now_us() + o->idle_timeout_us;
    case CONNECTION_HEAD:
        return clock_now_us() + o->request_timeout_us;
    case CONNECTION_BODY:
        return c->read_deadline_us;
    case CONNECTION_LINGERING:
        return clock_now_us() + HTTP_LINGER_US;
    default:
        return 0;
    }
}

static void end_doubt(struct http_connection *c)
{
    struct http_server *server = c->server;
    if (!c->is_doubted)
        return;
    c->is_doubted = false;
    TAILQ_REMOVE(&server->doubted, c, doubted);
    server->n_doubted--;
}

static void on_doubt(void *arg);

/* A reset that came together with the request raises no other edge: it shows at a second look, which most answers
 * are sooner than. */
static void doubt(struct http_connection *c)
{
    struct http_server *server = c->server;
    if (c->is_doubted)
        return;
    c->is_doubted = true;
    TAILQ_INSERT_TAIL(&server->doubted, c, doubted);
    server->n_doubted++;
    if (!timer_is_set(&server->doubt_timer))
        timer_set(server->timers, &server->doubt_timer, clock_now_us() + HTTP_DOUBT_US, on_doubt, server);
}

static void on_doubt(void *arg)
{
    struct http_server *server = arg;
    struct http_connection *c;
    for (uint32_t n = server->n_doubted; n > 0 && (c = TAILQ_FIRST(&server->doubted)); n--) {
        end_doubt(c);
        http_connection_run(c);
    }
    if (server->n_doubted)
        timer_set(server->timers, &server->doubt_timer, clock_now_us() + HTTP_DOUBT_US, on_doubt, server);
}

static void enter(struct http_connection *c, enum http_connection_state state)
{
#define TO(name)      (1u << CONNECTION_##name)
#define X(name, next) [CONNECTION_##name] = (next) | TO(CLOSED),
    static const unsigned legal[] = { HTTP_CONNECTION_STATES(X) };
#undef X
#undef TO
    ASSERT(legal[c->state] & (1u << state));
    c->state = state;
    if (state != CONNECTION_ANSWERING)
        end_doubt(c);
    c->read_deadline_us = read_deadline(c, state);
    if (!c->running)
        arm_timer(c);
}

static bool is_over(const struct http_connection *c)
{
    return c->state == CONNECTION_FLUSHING || c->state == CONNECTION_LINGERING || c->state == CONNECTION_CLOSED;
}

void http_connection_schedule(struct http_connection *c)
{
    struct http_server *server = c->server;
    if (c->is_waiting)
        return;
    c->is_waiting = true;
    TAILQ_INSERT_TAIL(&server->waiting, c, waiting);
    if (server->n_waiting++ == 0)
        event_add(server->resume, &(struct timeval){ 0, 0 });
}

static void close_socket(struct http_connection *c)
{
    struct http_server *server = c->server;
    if (c->reset)
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){ .l_onoff = 1 }, sizeof(struct linger));
    event_del(&c->event);
    timer_cancel(server->timers, &c->timer);
    close(c->fd);
    http_buffer_free(&c->in);
    http_buffer_free(&c->out);
    if (c->is_waiting) {
        TAILQ_REMOVE(&server->waiting, c, waiting);
        server->n_waiting--;
    }
    TAILQ_REMOVE(&server->connections, c, all);
    if (c->refused)
        server->n_refused--;
    else
        server->stats.open_connections--;
    c->write_deadline_us = 0;
    enter(c, CONNECTION_CLOSED);
}

static void abandon_exchange(struct http_connection *c)
{
    struct http_exchange *x = c->exchange;
    c->exchange = NULL;
    if (x)
        http_exchange_abandon(x);
}

static void lose(struct http_connection *c)
{
    if (c->exchange && c->exchange->answer != HTTP_ANSWERED)
        c->server->stats.gone++;
    abandon_exchange(c);
    close_socket(c);
}

void http_connection_break(struct http_connection *c)
{
    c->broken = true;
    if (!c->running)
        http_connection_schedule(c);
}

/* Output */

static void note_sent(struct http_connection *c, size_t n)
{
    c->server->stats.bytes_out += n;
    if (n || !c->write_deadline_us)
        c->write_deadline_us = clock_now_us() + c->server->options.write_timeout_us;
}

static size_t send_parts(struct http_connection *c, const struct iovec *parts, int n)
{
    struct msghdr msg = { .msg_iov = (struct iovec *)(uintptr_t)parts, .msg_iovlen = (size_t)n };
    for (;;) {
        ssize_t sent =
            n == 1 ? send(c->fd, parts->iov_base, parts->iov_len, MSG_NOSIGNAL) : sendmsg(c->fd, &msg, MSG_NOSIGNAL);
        if (sent >= 0)
            return (size_t)sent;
        if (errno == EINTR)
            continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            c->blocked = true;
        else
            http_connection_break(c);
        return 0;
    }
}

static void keep_from(struct http_connection *c, const struct iovec *parts, int n, size_t skip)
{
    for (int i = 0; i < n; i++) {
        size_t gone = skip < parts[i].iov_len ? skip : parts[i].iov_len;
        skip -= gone;
        if (gone == parts[i].iov_len)
            continue;
        if (!http_buffer_append(&c->out, (const char *)parts[i].iov_base + gone, parts[i].iov_len - gone)) {
            http_connection_break(c);
            return;
        }
    }
}

void http_connection_send(struct http_connection *c, const struct iovec *parts, int n, bool later)
{
    ASSERT(n <= HTTP_SEND_PARTS);
    if (c->broken)
        return;
    if (later || c->blocked) {
        keep_from(c, parts, n, 0);
        if (!c->blocked && !c->running)
            http_connection_schedule(c);
        return;
    }
    struct iovec all[HTTP_SEND_PARTS + 1];
    size_t waiting = c->out.len, total = waiting;
    all[0] = (struct iovec){ c->out.data ? c->out.data + c->out.start : NULL, waiting };
    for (int i = 0; i < n; i++) {
        all[i + 1] = parts[i];
        total += parts[i].iov_len;
    }
    size_t sent = send_parts(c, all + (waiting == 0), n + (waiting != 0));
    if (c->broken)
        return;
    c->server->stats.bytes_out += sent;
    http_buffer_consume(&c->out, sent < waiting ? sent : waiting);
    if (sent < total) {
        c->blocked = true; /* a short count: the edge comes when there is room again */
        keep_from(c, parts, n, sent < waiting ? 0 : sent - waiting);
        note_sent(c, 0);
        if (!c->running)
            arm_timer(c);
    }
}

static void flush(struct http_connection *c)
{
    while (c->out.len && !c->blocked && !c->broken) {
        size_t n = send_parts(c, &(struct iovec){ c->out.data + c->out.start, c->out.len }, 1);
        note_sent(c, n);
        http_buffer_consume(&c->out, n);
    }
    if (!c->out.len)
        c->write_deadline_us = 0;
    if (c->exchange && !c->broken)
        http_exchange_drained(c->exchange);
}

/* Requests */

static void fail(struct http_connection *c, const struct http_fault *fault)
{
    bool answered = c->exchange && c->exchange->answer != HTTP_UNANSWERED;
    abandon_exchange(c);
    if (!answered)
        http_exchange_fault(c, fault);
    enter(c, CONNECTION_FLUSHING);
}

static void fail_request(struct http_connection *c, const struct http_fault *fault)
{
    c->server->stats.parse_errors++;
    fail(c, fault);
}

static void request_complete(struct http_connection *c)
{
    struct http_exchange *x = c->exchange;
    if (x->answer == HTTP_ANSWERED) {
        http_exchange_free(x);
        c->exchange = NULL;
        enter(c, CONNECTION_IDLE);
        return;
    }
    enter(c, CONNECTION_ANSWERING);
    if (x->answer == HTTP_UNANSWERED)
        c->server->options.handle(c->server->options.ctx, x);
}

static void send_continue(struct http_connection *c)
{
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    http_connection_send(c, &(struct iovec){ (void *)(uintptr_t)text, sizeof text - 1 }, 1, false);
}

static void head_complete(struct http_connection *c, bool body_follows)
{
    struct http_exchange *x = c->exchange;
    const struct http_server_options *o = &c->server->options;
    bool complete = x->request->complete;
    c->server->stats.requests++;
    enter(c, complete ? CONNECTION_ANSWERING : CONNECTION_BODY);
    if (o->admit)
        o->admit(o->ctx, x);
    /* The exchange may be finished, and then its memory is gone. */
    if (c->exchange != x || c->broken)
        return;
    if (complete && x->answer == HTTP_UNANSWERED)
        o->handle(o->ctx, x);
    else if (!complete && x->answer == HTTP_UNANSWERED && x->request->expects_continue && !body_follows)
        send_continue(c);
}

/* 0: more is needed. */
static size_t take_head(struct http_connection *c, const char *data, size_t len)
{
    struct http_fault fault;
    size_t head_len = 0;
    enum http_step step =
        http_head_find(data, len, c->server->limits.max_header_bytes, &c->head_scanned, &head_len, &fault);
    if (step == HTTP_MORE)
        return 0;
    struct http_request *request =
        step == HTTP_DONE ? http_request_create(data, head_len, &c->server->limits, &fault) : NULL;
    if (!request) {
        fail_request(c, &fault);
        return len;
    }
    c->exchange = http_exchange_create(c, request);
    if (!c->exchange) {
        http_request_destroy(&request);
        fail(c, &(struct http_fault){ 503, "there is no memory for the request" });
        return len;
    }
    head_complete(c, head_len < len);
    return head_len;
}

static size_t take_body(struct http_connection *c, const char *data, size_t len)
{
    struct http_fault fault;
    size_t used = 0;
    switch (http_request_feed(c->exchange->request, data, len, &used, &fault)) {
    case HTTP_FAULTY:
        fail_request(c, &fault);
        return len;
    case HTTP_DONE:
        request_complete(c);
        break;
    case HTTP_MORE:
        break;
    }
    return used;
}

static bool may_parse(const struct http_connection *c)
{
    return (c->state == CONNECTION_IDLE || c->state == CONNECTION_HEAD || c->state == CONNECTION_BODY) && !c->broken &&
           c->out.len <= c->server->options.max_backlog_bytes;
}

/* How many bytes were used; the rest has to wait. */
static size_t parse(struct http_connection *c, const char *data, size_t len)
{
    size_t used = 0;
    while (used < len && may_parse(c)) {
        if (c->state == CONNECTION_IDLE) {
            c->head_scanned = 0;
            enter(c, CONNECTION_HEAD);
        }
        size_t n =
            c->state == CONNECTION_HEAD ? take_head(c, data + used, len - used) : take_body(c, data + used, len - used);
        if (n == 0 && c->state == CONNECTION_HEAD)
            break;
        used += n;
    }
    return is_over(c) ? len : used;
}

static void parse_waiting(struct http_connection *c)
{
    if (c->in.len && may_parse(c))
        http_buffer_consume(&c->in, parse(c, http_buffer_bytes(&c->in), c->in.len));
}

/* Input */

static bool socket_failed(const struct http_connection *c)
{
    int error = 0;
    socklen_t len = sizeof error;
    return getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error;
}

static size_t input_room(const struct http_connection *c)
{
    if (may_parse(c) || is_over(c))
        return HTTP_READ_BYTES;
    return c->in.len < HTTP_READ_BYTES ? HTTP_READ_BYTES - c->in.len : 0;
}

static void take_input(struct http_connection *c, const char *data, size_t len)
{
    c->server->stats.bytes_in += len;
    if (is_over(c)) {
        c->dropped += len;
        if (c->dropped > HTTP_LINGER_BYTES)
            http_connection_break(c);
        return;
    }
    bool joins = c->in.len > 0;
    size_t used = joins ? 0 : parse(c, data, len);
    if (!http_buffer_append(&c->in, data + used, len - used))
        http_connection_break(c);
    else if (joins)
        parse_waiting(c);
}

static void input_ended(struct http_connection *c)
{
    c->input_done = true;
    if (c->state == CONNECTION_ANSWERING || c->state == CONNECTION_LINGERING) {
        lose(c);
    } else if (c->state != CONNECTION_FLUSHING) {
        abandon_exchange(c);
        enter(c, CONNECTION_FLUSHING);
    }
}

/* true: go on. */
static bool read_once(struct http_connection *c, size_t *budget)
{
    size_t room = input_room(c);
    if (room == 0) {
        /* Too much is waiting to look further; the end of the input is still noticed. */
        if (c->peer_closed || socket_failed(c))
            input_ended(c);
        return false;
    }
    ssize_t n = recv(c->fd, c->server->scratch, room, 0);
    if (n < 0 && errno == EINTR)
        return true;
    if (n < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            c->broken = true;
        return false;
    }
    if (n == 0) {
        input_ended(c);
        return false;
    }
    take_input(c, c->server->scratch, (size_t)n);
    /* A short count means that all was read. When something was said about the end, one more look is due. */
    if ((size_t)n < room && !c->peer_closed && !c->in.len) {
        if (c->state == CONNECTION_ANSWERING)
            doubt(c);
        if (c->state == CONNECTION_ANSWERING || c->state == CONNECTION_IDLE)
            return false;
    }
    if ((size_t)n >= *budget) {
        http_connection_schedule(c);
        return false;
    }
    *budget -= (size_t)n;
    return true;
}

/* What to do after whatever happened. */
static void settle(struct http_connection *c)
{
    if (c->state == CONNECTION_CLOSED)
        return;
    if (c->broken) {
        lose(c);
        return;
    }
    if (c->state == CONNECTION_IDLE && !c->in.len && (c->server->draining || c->input_done))
        enter(c, CONNECTION_FLUSHING);
    if (c->state == CONNECTION_FLUSHING && !c->out.len) {
        if (c->input_done || c->reset || shutdown(c->fd, SHUT_WR) < 0)
            close_socket(c);
        else
            enter(c, CONNECTION_LINGERING);
    }
    if (c->state != CONNECTION_CLOSED)
        arm_timer(c);
}

static void finish_running(struct http_connection *c)
{
    flush(c);
    settle(c);
    c->running = false;
    if (c->state == CONNECTION_CLOSED)
        free(c);
    else if (c->in.len && may_parse(c)) /* what a callback or a flush has made possible */
        http_connection_schedule(c);
}

void http_connection_run(struct http_connection *c)
{
    if (c->is_waiting) {
        c->is_waiting = false;
        TAILQ_REMOVE(&c->server->waiting, c, waiting);
        c->server->n_waiting--;
    }
    c->running = true;
    flush(c);
    parse_waiting(c);
    for (size_t budget = HTTP_READ_BUDGET; c->state != CONNECTION_CLOSED && !c->broken;)
        if (!read_once(c, &budget))
            break;
    if (c->state == CONNECTION_CLOSED) {
        free(c);
        return;
    }
    finish_running(c);
}

static void on_event(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    struct http_connection *c = arg;
    if (what & EV_CLOSED)
        c->peer_closed = true;
    if (what & EV_WRITE)
        c->blocked = false;
    http_connection_run(c);
}

static void on_timer(void *arg)
{
    struct http_connection *c = arg;
    uint64_t now = clock_now_us();
    c->running = true;
    if (c->write_deadline_us && now >= c->write_deadline_us) {
        c->server->stats.timeouts++;
        c->broken = true;
    } else if (c->read_deadline_us && now >= c->read_deadline_us) {
        if (c->state == CONNECTION_HEAD || c->state == CONNECTION_BODY) {
            c->server->stats.timeouts++;
            fail(c, &(struct http_fault){ 408, "the request did not arrive in time" });
        } else {
            c->broken = true; /* idle or lingering long enough */
        }
    }
    finish_running(c);
}

/* From accept to the end */

void http_connection_open(struct http_server *server, int fd, const struct sockaddr *peer, size_t peer_len,
                          bool refused)
{
    struct http_connection *c = calloc(1, sizeof *c);
    if (!c) {
        close(fd);
        return;
    }
    c->server = server;
    c->fd = fd;
    c->refused = refused;
    memcpy(&c->peer, peer, peer_len < sizeof c->peer ? peer_len : sizeof c->peer);
    short what = (short)(EV_READ | EV_WRITE | EV_CLOSED | EV_ET | EV_PERSIST);
    if (event_assign(&c->event, server->base, fd, what, on_event, c) < 0 || event_add(&c->event, NULL) < 0) {
        close(fd);
        free(c);
        return;
    }
    TAILQ_INSERT_TAIL(&server->connections, c, all);
    c->running = true;
    c->read_deadline_us = read_deadline(c, CONNECTION_IDLE);
    if (refused) {
        server->n_refused++;
        fail(c, &(struct http_fault){ 503, "too many connections" });
    } else {
        server->stats.open_connections++;
    }
    finish_running(c);
}

void http_connection_drop(struct http_connection *c)
{
    c->running = true;
    lose(c);
    free(c);
}

void http_connection_answered(struct http_connection *c, bool keep_alive)
{
    bool body_pending = c->state == CONNECTION_BODY;
    if (!body_pending || !keep_alive) {
        http_exchange_free(c->exchange);
        c->exchange = NULL;
        enter(c, keep_alive ? CONNECTION_IDLE : CONNECTION_FLUSHING);
    }
    if (!c->running && (c->in.len || c->state == CONNECTION_FLUSHING || c->server->draining))
        http_connection_schedule(c);
}
