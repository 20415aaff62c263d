/* An HTTP server on a thread of its own, whose handler does what the path says; the tests are blocking clients. */
#ifndef BATON_TESTS_HTTP_RIG_H
#define BATON_TESTS_HTTP_RIG_H

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static inline void on_gone(void *arg)
{
    if (rig.held == arg)
        rig.held = NULL;
    atomic_fetch_add(&rig.gone, 1);
}

static inline void write_much(void *arg)
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

static inline void on_writable(void *arg)
{
    atomic_fetch_add(&rig.writable, 1);
    http_stream_end(arg);
}

static inline void respond_text(struct http_exchange *x, int code, const char *text)
{
    http_respond(x, code, "text/plain", text, strlen(text));
}

static inline void handle_stream(struct http_exchange *x)
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

static inline void describe(struct http_exchange *x)
{
    char text[1024];
    const char *agent = http_header(x, "User-Agent");
    snprintf(text, sizeof text, "%s|%s|%s|%s|%d", http_method(x), http_path(x), http_query(x), agent ? agent : "none",
             strncmp(http_peer(x), "127.0.0.1:", 10) == 0);
    respond_text(x, 200, text);
}

static inline void handle(void *ctx, struct http_exchange *x)
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

static inline void admit(void *ctx, struct http_exchange *x)
{
    (void)ctx;
    if (!strcmp(http_path(x), "/full"))
        respond_text(x, 429, "full");
    else if (!strcmp(http_path(x), "/watched"))
        http_on_gone(x, on_gone, x);
}

static inline size_t error_body(void *ctx, int code, const char *reason, char *buf, size_t size,
                                const char **content_type)
{
    (void)ctx;
    *content_type = "application/json";
    return (size_t)snprintf(buf, size, "{\"error\":{\"code\":%d,\"message\":\"%s\"}}", code, reason);
}

static inline void *run_loop(void *arg)
{
    loop_run(arg);
    return NULL;
}

static const struct http_server_options usual __attribute__((unused)) = {
    .listen = "127.0.0.1:0",
    .max_header_bytes = 4096,
    .max_body_bytes = 100000,
    .max_connections = 100,
    .request_timeout_us = 10000 * MS,
    .idle_timeout_us = 10000 * MS,
    .write_timeout_us = 10000 * MS,
    .max_backlog_bytes = 65536,
};

static inline void start(struct http_server_options options)
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

static inline void stop(void)
{
    loop_stop(rig.loop);
    pthread_join(rig.thread, NULL);
    http_server_destroy(&rig.server);
    loop_destroy(&rig.loop);
}

struct call {
    void (*fn)(void *);
    void *arg;
    sem_t done;
};

static inline void run_call(void *arg)
{
    struct call *call = arg;
    call->fn(call->arg);
    sem_post(&call->done);
}

/* Runs fn on the loop thread and waits for it. */
static inline void on_loop(void (*fn)(void *), void *arg)
{
    struct call call = { .fn = fn, .arg = arg };
    sem_init(&call.done, 0, 0);
    loop_post(rig.loop, run_call, &call);
    while (sem_wait(&call.done) != 0)
        ; /* a signal */
    sem_destroy(&call.done);
}

static inline void read_stats(void *arg)
{
    http_server_stats(rig.server, arg);
}

static inline struct http_server_stats stats(void)
{
    struct http_server_stats out;
    on_loop(read_stats, &out);
    return out;
}

/* The server has read so many bytes in all. */
static inline bool has_read(uint64_t bytes)
{
    for (int i = 0; i < PATIENCE_MS && stats().bytes_in < bytes; i++)
        usleep(1000);
    return stats().bytes_in == bytes;
}

static inline bool has_open(uint32_t connections)
{
    for (int i = 0; i < PATIENCE_MS && stats().open_connections != connections; i++)
        usleep(1000);
    return stats().open_connections == connections;
}

static inline bool reaches(atomic_int *value, int target)
{
    for (int i = 0; i < PATIENCE_MS && atomic_load(value) < target; i++)
        usleep(1000);
    return atomic_load(value) == target;
}

/* The client's side */

static inline int new_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    return fd;
}

static inline void connect_socket(int fd)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(rig.port) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
}

static inline int dial(void)
{
    int fd = new_socket();
    connect_socket(fd);
    return fd;
}

static inline void put(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* Reads until `until` was seen, the end, or the time is over; the end appends "<end>", a reset "<reset>". */
static inline char *get(int fd, const char *until, int patience_ms)
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

static inline char *ask(const char *request)
{
    int fd = dial();
    put(fd, request);
    char *answer = get(fd, "<end>", PATIENCE_MS);
    close(fd);
    return answer;
}

static inline void reset_on_close(int fd)
{
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ .l_onoff = 1 }, sizeof(struct linger));
}

#define HOST  "Host: a\r\n"
#define CLOSE "Connection: close\r\n"

static inline void release_held(void *arg)
{
    respond_text(rig.held, 200, arg);
    rig.held = NULL;
}

#endif
