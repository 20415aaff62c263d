/* The server runs on a thread of its own; the tests are blocking clients. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/http_connection.h"

#define MS          1000u
#define PATIENCE_MS 3000 /* for what must come */
#define QUIET_MS    60   /* for what must not come */

static struct {
    struct loop *loop;
    struct http_server *server;
    pthread_t thread;
    uint16_t port;
    atomic_int handled, gone, writable, again;
    struct http_exchange *held; /* loop thread only, as the next */
    bool writing;
} rig;

static void on_gone(void *arg)
{
    if (rig.held == arg)
        rig.held = NULL;
    atomic_fetch_add(&rig.gone, 1);
}

static void write_much(void *arg)
{
    static char block[16384];
    memset(block, 'x', sizeof block);
    status st;
    int n = 0;
    while ((st = http_stream_write(arg, block, sizeof block)) == ST_OK && n < 4000)
        n++;
    if (st == ST_AGAIN)
        atomic_fetch_add(&rig.again, 1);
    else if (n == 4000)
        http_stream_end(arg);
}

static void on_writable(void *arg)
{
    atomic_fetch_add(&rig.writable, 1);
    http_stream_end(arg);
}

static void respond_text(struct http_exchange *x, int code, const char *text)
{
    http_respond(x, code, "text/plain", text, strlen(text));
}

static void handle_stream(struct http_exchange *x)
{
    bool aborts = !strcmp(http_query(x), "abort");
    http_header_add(x, "x-kind", "stream");
    http_stream_begin(x, 200, "text/event-stream");
    assert_int_equal(http_stream_write(x, "data: 1\n\n", 9), ST_OK);
    assert_int_equal(http_stream_write(x, "data: 2\n\n", 9), ST_OK);
    if (aborts)
        http_stream_abort(x);
    else
        http_stream_end(x);
}

static void describe(struct http_exchange *x)
{
    char text[1024];
    const char *agent = http_header(x, "User-Agent");
    snprintf(text, sizeof text, "%s|%s|%s|%s|%d", http_method(x), http_path(x), http_query(x), agent ? agent : "none",
             strncmp(http_peer(x), "127.0.0.1:", 10) == 0);
    respond_text(x, 200, text);
}

static void handle(void *ctx, struct http_exchange *x)
{
    assert_ptr_equal(ctx, &rig);
    const char *path = http_path(x);
    size_t len;
    const char *body = http_body(x, &len);
    atomic_fetch_add(&rig.handled, 1);
    if (!strcmp(path, "/echo")) {
        http_respond(x, 200, "application/octet-stream", body, len);
    } else if (!strcmp(path, "/stream")) {
        handle_stream(x);
    } else if (!strcmp(path, "/hold") || !strcmp(path, "/much") || !strcmp(path, "/endless")) {
        http_on_gone(x, on_gone, x);
        rig.held = x;
        if (strcmp(path, "/hold") != 0) {
            http_on_writable(x, on_writable, x);
            http_stream_begin(x, 200, "text/plain");
            write_much(x);
        }
    } else {
        describe(x);
    }
}

static void admit(void *ctx, struct http_exchange *x)
{
    (void)ctx;
    if (!strcmp(http_path(x), "/full"))
        respond_text(x, 429, "full");
    else if (!strcmp(http_path(x), "/watched"))
        http_on_gone(x, on_gone, x);
}

static size_t error_body(void *ctx, int code, const char *reason, char *buf, size_t size, const char **content_type)
{
    (void)ctx;
    *content_type = "application/json";
    return (size_t)snprintf(buf, size, "{\"error\":{\"code\":%d,\"message\":\"%s\"}}", code, reason);
}

static void *run_loop(void *arg)
{
    loop_run(arg);
    return NULL;
}

static const struct http_server_options usual = {
    .listen = "127.0.0.1:0",
    .max_header_bytes = 4096,
    .max_body_bytes = 100000,
    .max_connections = 100,
    .request_timeout_us = 10000 * MS,
    .idle_timeout_us = 10000 * MS,
    .write_timeout_us = 10000 * MS,
    .max_backlog_bytes = 65536,
};

static void start(struct http_server_options options)
{
    struct error err;
    memset(&rig, 0, sizeof rig);
    assert_int_equal(loop_create(&rig.loop), ST_OK);
    options.loop = rig.loop;
    options.handle = handle;
    options.admit = admit;
    options.ctx = &rig;
    assert_int_equal(http_server_create(&options, &rig.server, &err), ST_OK);
    rig.port = http_server_port(rig.server);
    assert_int_equal(pthread_create(&rig.thread, NULL, run_loop, rig.loop), 0);
}

static void stop(void)
{
    loop_stop(rig.loop);
    pthread_join(rig.thread, NULL);
    http_server_destroy(&rig.server);
    loop_destroy(&rig.loop);
}

struct call {
    void (*fn)(void *);
    void *arg;
    atomic_bool done;
};

static void run_call(void *arg)
{
    struct call *call = arg;
    call->fn(call->arg);
    atomic_store(&call->done, true);
}

/* Runs fn on the loop thread and waits for it. */
static void on_loop(void (*fn)(void *), void *arg)
{
    struct call call = { .fn = fn, .arg = arg };
    loop_post(rig.loop, run_call, &call);
    while (!atomic_load(&call.done))
        usleep(200);
}

static void read_stats(void *arg)
{
    http_server_stats(rig.server, arg);
}

static struct http_server_stats stats(void)
{
    struct http_server_stats out;
    on_loop(read_stats, &out);
    return out;
}

static bool reaches(atomic_int *value, int target)
{
    for (int i = 0; i < PATIENCE_MS && atomic_load(value) < target; i++)
        usleep(1000);
    return atomic_load(value) == target;
}

/* The client's side */

static int new_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    return fd;
}

static void connect_socket(int fd)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(rig.port) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
}

static int dial(void)
{
    int fd = new_socket();
    connect_socket(fd);
    return fd;
}

static void put(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* Reads until `until` was seen, the end, or the time is over; the end appends "<end>", a reset "<reset>". */
static char *get(int fd, const char *until, int patience_ms)
{
    static char text[1 << 18];
    size_t len = 0;
    uint64_t deadline = clock_now_us() + (uint64_t)patience_ms * MS;
    for (;;) {
        text[len] = '\0';
        if (until && strstr(text, until))
            return text;
        uint64_t now = clock_now_us();
        struct pollfd p = { .fd = fd, .events = POLLIN };
        if (now >= deadline || poll(&p, 1, (int)((deadline - now) / MS) + 1) <= 0)
            return text;
        ssize_t n = recv(fd, text + len, sizeof text - len - 16, 0);
        if (n <= 0) {
            strcpy(text + len, n == 0 ? "<end>" : "<reset>");
            return text;
        }
        len += (size_t)n;
    }
}

static char *ask(const char *request)
{
    int fd = dial();
    put(fd, request);
    char *answer = get(fd, "<end>", PATIENCE_MS);
    close(fd);
    return answer;
}

static void reset_on_close(int fd)
{
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ .l_onoff = 1 }, sizeof(struct linger));
}

#define HOST  "Host: a\r\n"
#define CLOSE "Connection: close\r\n"

/* Tests */

static void answers_and_keeps_the_connection(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    for (int i = 0; i < 3; i++) {
        put(fd, "GET /a%20b?c=%20 HTTP/1.1\r\n" HOST "user-agent: me\r\n\r\n");
        assert_string_equal(get(fd, "|1", PATIENCE_MS), "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
                                                        "Content-Length: 19\r\n\r\nGET|/a b|c=%20|me|1");
    }
    put(fd, "GET / HTTP/1.1\r\n" HOST CLOSE "\r\n");
    assert_non_null(strstr(get(fd, "<end>", PATIENCE_MS), "Connection: close\r\n"));
    close(fd);
    assert_int_equal(stats().requests, 4);
    assert_int_equal(stats().connections, 1);
    stop();
}

static void release_held(void *arg)
{
    respond_text(rig.held, 200, arg);
    rig.held = NULL;
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    put(fd, "GET /1 HTTP/1.1\r\n" HOST "\r\nGET /hold HTTP/1.1\r\n" HOST "\r\nPOST /echo HTTP/1.1\r\n" HOST
            "Content-Length: 5\r\n\r\nthirdGET /stream HTTP/1.1\r\n" HOST "\r\nGET /hold HTTP/1.1\r\n" HOST "\r\n");
    assert_true(reaches(&rig.handled, 2));
    char *first = get(fd, "third", QUIET_MS);
    assert_non_null(strstr(first, "GET|/1|"));
    assert_null(strstr(first, "third"));
    on_loop(release_held, "second");
    char *rest = get(fd, "0\r\n\r\n", PATIENCE_MS);
    assert_true(strstr(rest, "second") < strstr(rest, "third") && strstr(rest, "third") < strstr(rest, "data: 1"));
    assert_true(reaches(&rig.handled, 5));
    on_loop(release_held, "last");
    assert_non_null(strstr(get(fd, "last", PATIENCE_MS), "last"));
    close(fd);
    stop();
}

static void half_closed_clients_get_their_answers(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    put(fd, "GET /1 HTTP/1.1\r\n" HOST "\r\nGET /2 HTTP/1.1\r\n" HOST "\r\n");
    shutdown(fd, SHUT_WR);
    char *text = get(fd, "<end>", PATIENCE_MS);
    assert_non_null(strstr(text, "GET|/1|"));
    assert_non_null(strstr(text, "GET|/2|"));
    assert_non_null(strstr(text, "<end>"));
    close(fd);
    stop();
}

static void bytes_may_come_one_by_one(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    static const char text[] = "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n" CLOSE "\r\n"
                               "3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: 1\r\n\r\n";
    for (const char *at = text; *at; at++) {
        assert_int_equal(send(fd, at, 1, 0), 1);
        usleep(200);
    }
    assert_non_null(strstr(get(fd, "<end>", PATIENCE_MS), "\r\n\r\nabcde"));
    close(fd);
    stop();
}

static void expect_continue(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    put(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_string_equal(get(fd, "\r\n\r\n", PATIENCE_MS), "HTTP/1.1 100 Continue\r\n\r\n");
    put(fd, "abc");
    assert_non_null(strstr(get(fd, "abc", PATIENCE_MS), "HTTP/1.1 200 OK"));
    /* With the body in the same packet nobody waits for it. */
    put(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 3\r\n\r\ndef");
    assert_true(strncmp(get(fd, "def", PATIENCE_MS), "HTTP/1.1 200 OK", 15) == 0);
    close(fd);
    char *refused = ask("POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 100001\r\n\r\n");
    assert_true(strncmp(refused, "HTTP/1.1 413 ", 13) == 0);
    refused = ask("POST /full HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_true(strncmp(refused, "HTTP/1.1 429 ", 13) == 0);
    assert_non_null(strstr(refused, "Connection: close\r\n"));
    stop();
}

static void early_answers_drop_the_body(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    put(fd, "POST /full HTTP/1.1\r\n" HOST "Content-Length: 6\r\n\r\n");
    assert_non_null(strstr(get(fd, "full", PATIENCE_MS), " 429 Too Many Requests"));
    put(fd, "abc");
    usleep(10000);
    put(fd, "defGET /next HTTP/1.1\r\n" HOST "\r\n");
    assert_non_null(strstr(get(fd, "|1", PATIENCE_MS), "GET|/next|"));
    assert_int_equal(atomic_load(&rig.handled), 1);
    close(fd);
    char *chunked = ask("POST /full HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    assert_non_null(strstr(chunked, "Connection: close\r\n"));
    assert_non_null(strstr(chunked, "<end>"));
    stop();
}

static void head_has_no_body(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    put(fd, "HEAD /1 HTTP/1.1\r\n" HOST "\r\n");
    char *text = get(fd, "\r\n\r\n", PATIENCE_MS);
    assert_non_null(strstr(text, "Content-Length: 15\r\n\r\n"));
    assert_string_equal(strstr(text, "\r\n\r\n"), "\r\n\r\n");
    put(fd, "HEAD /stream HTTP/1.1\r\n" HOST "\r\n");
    assert_string_equal(strstr(get(fd, "\r\n\r\n", PATIENCE_MS), "\r\n\r\n"), "\r\n\r\n");
    put(fd, "GET /2 HTTP/1.1\r\n" HOST "\r\n");
    assert_true(strncmp(get(fd, "|1", PATIENCE_MS), "HTTP/1.1 200 OK", 15) == 0);
    close(fd);
    stop();
}

static void http_1_0(void **state)
{
    (void)state;
    start(usual);
    char *text = ask("GET /1 HTTP/1.0\r\n\r\n");
    assert_non_null(strstr(text, "Connection: close\r\n"));
    assert_non_null(strstr(text, "<end>"));
    text = ask("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_null(strstr(text, "chunked"));
    assert_string_equal(strstr(text, "\r\n\r\n"), "\r\n\r\ndata: 1\n\ndata: 2\n\n<end>");
    text = ask("GET /stream?abort HTTP/1.0\r\n\r\n");
    assert_null(strstr(text, "<end>"));
    int fd = dial();
    put(fd, "GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_non_null(strstr(get(fd, "|1", PATIENCE_MS), "Connection: keep-alive\r\n"));
    put(fd, "GET /1 HTTP/1.0\r\n\r\n");
    assert_non_null(strstr(get(fd, "<end>", PATIENCE_MS), "<end>"));
    close(fd);
    stop();
}

static void streams_are_chunked(void **state)
{
    (void)state;
    start(usual);
    char *text = ask("GET /stream HTTP/1.1\r\n" HOST CLOSE "\r\n");
    assert_string_equal(text, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
                              "Connection: close\r\nx-kind: stream\r\n\r\n"
                              "9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n<end>");
    text = ask("GET /stream?abort HTTP/1.1\r\n" HOST "\r\n");
    assert_non_null(strstr(text, "data: 2\n\n\r\n<end>"));
    stop();
}

static void faults_have_a_body_and_end_the_connection(void **state)
{
    (void)state;
    struct http_server_options o = usual;
    o.error_body = error_body;
    start(o);
    assert_string_equal(ask("GET / HTTP/1.1\r\n\r\n"),
                        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 69\r\n"
                        "Connection: close\r\n\r\n"
                        "{\"error\":{\"code\":400,\"message\":\"exactly one Host field is required\"}}"
                        "<end>");
    assert_int_equal(stats().parse_errors, 1);
    assert_int_equal(atomic_load(&rig.handled), 0);
    /* What came before a bad request is answered, what follows it is not. */
    char *text = ask("GET /1 HTTP/1.1\r\n" HOST "\r\nGET / HTTP/9.9\r\n" HOST "\r\nGET /3 HTTP/1.1\r\n" HOST "\r\n");
    assert_non_null(strstr(text, "GET|/1|"));
    assert_non_null(strstr(text, "505"));
    assert_null(strstr(text, "GET|/3|"));
    stop();
}

static void a_refused_upload_still_sees_its_answer(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    put(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 8000000\r\n\r\n");
    char *block = calloc(1, 8000000);
    for (size_t sent = 0; sent < 8000000;) {
        ssize_t n = send(fd, block + sent, 8000000 - sent, MSG_NOSIGNAL);
        assert_true(n > 0);
        sent += (size_t)n;
    }
    free(block);
    assert_true(strncmp(get(fd, "<end>", PATIENCE_MS), "HTTP/1.1 413 ", 13) == 0);
    close(fd);
    stop();
}

static void slow_requests_time_out(void **state)
{
    (void)state;
    struct http_server_options o = usual;
    o.request_timeout_us = 150 * MS;
    o.idle_timeout_us = 400 * MS;
    start(o);
    uint64_t begin = clock_now_us();
    int head = dial(), body = dial(), idle = dial(), drip = dial();
    put(head, "GET / HT");
    put(body, "POST /watched HTTP/1.1\r\n" HOST "Content-Length: 10\r\n\r\nabc");
    for (int i = 0; i < 20; i++) {
        send(drip, "G", 1, MSG_NOSIGNAL);
        usleep(10 * MS);
    }
    assert_true(strncmp(get(head, "<end>", PATIENCE_MS), "HTTP/1.1 408 ", 13) == 0);
    assert_true(strncmp(get(body, "<end>", PATIENCE_MS), "HTTP/1.1 408 ", 13) == 0);
    assert_true(strncmp(get(drip, "<", PATIENCE_MS), "HTTP/1.1 408 ", 13) == 0);
    assert_true(clock_now_us() - begin > 140 * MS);
    assert_true(clock_now_us() - begin < 390 * MS);
    assert_string_equal(get(idle, "<end>", PATIENCE_MS), "<end>");
    assert_true(clock_now_us() - begin > 390 * MS);
    assert_true(reaches(&rig.gone, 1)); /* who was admitted hears of it */
    assert_int_equal(stats().timeouts, 3);
    close(head);
    close(body);
    close(idle);
    close(drip);
    stop();
}

static void slow_readers_push_back(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    put(fd, "GET /much HTTP/1.1\r\n" HOST CLOSE "\r\n");
    assert_true(reaches(&rig.again, 1));
    usleep(QUIET_MS * MS);
    assert_int_equal(atomic_load(&rig.writable), 0);
    size_t total = 0;
    static char block[65536];
    ssize_t n;
    while ((n = recv(fd, block, sizeof block, 0)) > 0)
        total += (size_t)n;
    assert_int_equal(n, 0);
    assert_int_equal(atomic_load(&rig.writable), 1);
    assert_int_equal(atomic_load(&rig.gone), 0);
    assert_true(total > 65536);
    close(fd);
    stop();
}

/* One that never reads costs its window, what the kernel may keep unsent, and the backlog: not megabytes. */
static void unread_bytes_are_bounded(void **state)
{
    (void)state;
    const int window = 4096;
    start(usual);
    int fd = new_socket();
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &window, sizeof window);
    connect_socket(fd);
    put(fd, "GET /endless HTTP/1.1\r\n" HOST "\r\n");
    assert_true(reaches(&rig.again, 1));
    assert_in_range(stats().bytes_out, 1, 2 * HTTP_UNSENT_BYTES);
    close(fd);
    stop();
}

static void write_on(void *arg)
{
    static char block[16384];
    int *closed = arg;
    for (int i = 0; i < 100 && rig.held && !*closed; i++)
        *closed = http_stream_write(rig.held, block, sizeof block) == ST_CLOSED;
}

static void readers_who_stop_are_dropped(void **state)
{
    (void)state;
    struct http_server_options o = usual;
    o.write_timeout_us = 200 * MS;
    start(o);
    int fd = dial();
    put(fd, "GET /endless HTTP/1.1\r\n" HOST "\r\n");
    assert_true(reaches(&rig.again, 1));
    uint64_t begin = clock_now_us();
    assert_true(reaches(&rig.gone, 1));
    assert_in_range(clock_now_us() - begin, 100 * MS, 600 * MS);
    close(fd);
    /* A handler that writes on regardless loses the client at a bound. */
    fd = dial();
    put(fd, "GET /endless HTTP/1.1\r\n" HOST "\r\n");
    assert_true(reaches(&rig.again, 2));
    int closed = 0;
    on_loop(write_on, &closed);
    assert_int_equal(closed, 1);
    assert_true(reaches(&rig.gone, 2));
    close(fd);
    stop();
}

static void check_gone(bool by_reset, bool with_more_input)
{
    start(usual);
    int fd = dial();
    put(fd, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    assert_true(reaches(&rig.handled, 1));
    if (with_more_input) { /* more than the server cares to read, so that the end stands behind it */
        static char junk[100000];
        memset(junk, 'x', sizeof junk);
        assert_int_equal(send(fd, junk, sizeof junk, MSG_NOSIGNAL), sizeof junk);
        usleep(QUIET_MS * MS);
    }
    assert_int_equal(atomic_load(&rig.gone), 0);
    if (by_reset) {
        reset_on_close(fd);
        close(fd);
    } else {
        shutdown(fd, SHUT_WR);
    }
    uint64_t begin = clock_now_us();
    assert_true(reaches(&rig.gone, 1));
    assert_true(clock_now_us() - begin < 100 * MS);
    if (!by_reset)
        close(fd);
    assert_int_equal(stats().open_connections, 0);
    assert_int_equal(stats().gone, 1);
    stop();
}

static void gone_clients_are_noticed(void **state)
{
    (void)state;
    check_gone(false, false);
    check_gone(false, true);
    check_gone(true, false);
    check_gone(true, true);
}

static void reset_right_after_the_request(void **state)
{
    (void)state;
    start(usual);
    for (int i = 1; i <= 50; i++) {
        int fd = dial();
        reset_on_close(fd);
        put(fd, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
        close(fd);
    }
    for (int i = 0; i < PATIENCE_MS && stats().open_connections; i++)
        usleep(1000);
    assert_int_equal(stats().open_connections, 0);
    assert_int_equal(atomic_load(&rig.gone), atomic_load(&rig.handled));
    stop();
}

static void connections_are_limited(void **state)
{
    (void)state;
    struct http_server_options o = usual;
    o.max_connections = 2;
    start(o);
    int a = dial(), b = dial();
    put(a, "GET /a HTTP/1.1\r\n" HOST "\r\n");
    get(a, "|1", PATIENCE_MS);
    put(b, "GET /b HTTP/1.1\r\n" HOST "\r\n");
    get(b, "|1", PATIENCE_MS);
    assert_true(strncmp(ask("GET /c HTTP/1.1\r\n" HOST "\r\n"), "HTTP/1.1 503 ", 13) == 0);
    assert_int_equal(stats().refused, 1);
    close(a);
    usleep(20 * MS);
    assert_non_null(strstr(ask("GET /d HTTP/1.1\r\n" HOST CLOSE "\r\n"), "GET|/d|"));
    close(b);
    stop();
}

static void accepting_pauses_without_descriptors(void **state)
{
    (void)state;
    start(usual);
    int fd = new_socket();
    struct rlimit old, none;
    getrlimit(RLIMIT_NOFILE, &old);
    none = old;
    none.rlim_cur = (rlim_t)fd + 1;
    setrlimit(RLIMIT_NOFILE, &none);
    connect_socket(fd);
    put(fd, "GET /1 HTTP/1.1\r\n" HOST "\r\n");
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    usleep(300 * MS);
    getrusage(RUSAGE_SELF, &after);
    setrlimit(RLIMIT_NOFILE, &old);
    int64_t cpu_us =
        (after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000 +
        (after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec);
    assert_true(cpu_us < 100000);
    assert_non_null(strstr(get(fd, "|1", PATIENCE_MS), "GET|/1|"));
    close(fd);
    stop();
}

static void drain(void *arg)
{
    (void)arg;
    http_server_drain(rig.server);
}

static void draining(void **state)
{
    (void)state;
    start(usual);
    int idle = dial(), busy = dial();
    put(idle, "GET /1 HTTP/1.1\r\n" HOST "\r\n");
    get(idle, "|1", PATIENCE_MS);
    put(busy, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    assert_true(reaches(&rig.handled, 2));
    on_loop(drain, NULL);
    assert_string_equal(get(idle, "<end>", PATIENCE_MS), "<end>");
    assert_string_equal(get(busy, "<", QUIET_MS), "");
    int late = new_socket();
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(rig.port) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(late, (struct sockaddr *)&a, sizeof a), -1);
    on_loop(release_held, "done");
    char *text = get(busy, "<end>", PATIENCE_MS);
    assert_non_null(strstr(text, "Connection: close\r\n"));
    assert_non_null(strstr(text, "done<end>"));
    close(idle);
    close(busy);
    close(late);
    stop();
}

static void destroy_tells_who_waits(void **state)
{
    (void)state;
    start(usual);
    int a = dial(), b = dial();
    put(a, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    put(b, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    assert_true(reaches(&rig.handled, 2));
    stop();
    assert_int_equal(atomic_load(&rig.gone), 2);
    close(a);
    close(b);
}

static void bad_addresses_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",       ":80",   "127.0.0.1",    "127.0.0.1:",   "127.0.0.1:x",   "127.0.0.1:99999",
        "::1:80", "[]:80", "127.0.0.1:-1", "256.0.0.1:80", "203.0.113.77:1"
    };
    struct http_server_options o = usual;
    struct http_server *server;
    struct error err;
    assert_int_equal(loop_create(&o.loop), ST_OK);
    o.handle = handle;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        o.listen = bad[i];
        err.text[0] = '\0';
        assert_int_not_equal(http_server_create(&o, &server, &err), ST_OK);
        assert_true(strlen(err.text) > 10);
    }
    o.listen = "[::1]:0";
    if (http_server_create(&o, &server, &err) == ST_OK) /* where there is IPv6 */
        http_server_destroy(&server);
    loop_destroy(&o.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_and_keeps_the_connection),
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(half_closed_clients_get_their_answers),
        cmocka_unit_test(bytes_may_come_one_by_one),
        cmocka_unit_test(expect_continue),
        cmocka_unit_test(early_answers_drop_the_body),
        cmocka_unit_test(head_has_no_body),
        cmocka_unit_test(http_1_0),
        cmocka_unit_test(streams_are_chunked),
        cmocka_unit_test(faults_have_a_body_and_end_the_connection),
        cmocka_unit_test(a_refused_upload_still_sees_its_answer),
        cmocka_unit_test(slow_requests_time_out),
        cmocka_unit_test(slow_readers_push_back),
        cmocka_unit_test(unread_bytes_are_bounded),
        cmocka_unit_test(readers_who_stop_are_dropped),
        cmocka_unit_test(gone_clients_are_noticed),
        cmocka_unit_test(reset_right_after_the_request),
        cmocka_unit_test(connections_are_limited),
        cmocka_unit_test(accepting_pauses_without_descriptors),
        cmocka_unit_test(draining),
        cmocka_unit_test(destroy_tells_who_waits),
        cmocka_unit_test(bad_addresses_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
