#include "bench/direct_worker.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "bench/mock_worker.h"
#include "common/clock.h"
#include "common/http_server.h"
#include "common/loop.h"

#define MAX_BYTES   (1u << 20) /* of a request, and of what a client has not taken */
#define TIMEOUT_US  60000000u
#define EVENT_BYTES 256
#define MAX_TOKENS  (1u << 20)
#define TYPE        "text/event-stream; charset=utf-8"
#define EVENT_FORMAT                                                                                                   \
    "data: {\"id\":\"chatcmpl-%016llx\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"                  \
    "\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%c\"},\"finish_reason\":null}]}\n\n"

struct stream {
    TAILQ_ENTRY(stream) entry;
    struct direct_worker *worker;
    struct http_exchange *x;
    bool lost; /* on_gone follows */
    uint64_t seed;
    uint32_t sent, end;
};

struct direct_worker {
    struct direct_worker_options options;
    struct loop *loop;
    struct http_server *server;
    pthread_t thread;
    TAILQ_HEAD(, stream) streams;
    uint32_t n_streams;
    struct timer step;
    uint64_t last_step_us;
};

static void forget(struct stream *s)
{
    TAILQ_REMOVE(&s->worker->streams, s, entry);
    s->worker->n_streams--;
    free(s);
}

static void on_gone(void *arg)
{
    forget(arg);
}

static void send_token(struct stream *s, uint64_t now)
{
    const struct direct_worker_options *o = &s->worker->options;
    char event[EVENT_BYTES];
    uint32_t which = mock_worker_token(s->seed, s->sent, (uint32_t)strlen(o->letters));
    int len = snprintf(event, sizeof event, EVENT_FORMAT, (unsigned long long)s->seed, o->letters[which]);
    ASSERT(len > 0 && len < EVENT_BYTES);
    o->on_emit(o->ctx, s->seed, s->sent++, now);
    s->lost = http_stream_write(s->x, event, (size_t)len) == ST_CLOSED;
}

static void finish(struct stream *s)
{
    static const char done[] = "data: [DONE]\n\n";
    s->lost = http_stream_write(s->x, done, sizeof done - 1) == ST_CLOSED;
    if (s->lost)
        return;
    http_stream_end(s->x);
    forget(s);
}

static void on_step(void *arg);

static void plan_step(struct direct_worker *w)
{
    if (!timer_is_set(&w->step) && !TAILQ_EMPTY(&w->streams))
        timer_set(loop_timers(w->loop), &w->step, w->last_step_us + w->options.step_us, on_step, w);
}

static void on_step(void *arg)
{
    struct direct_worker *w = arg;
    struct stream *s, *next;
    uint64_t now = clock_now_us(), due = w->last_step_us + w->options.step_us;
    uint32_t n = 0;
    w->last_step_us = now - due < w->options.step_us ? due : now;
    for (s = TAILQ_FIRST(&w->streams); s; s = next) {
        next = TAILQ_NEXT(s, entry);
        /* What the next worker of several emits waits for nobody's sending. */
        if (n++ % w->options.batch == 0)
            now = clock_now_us();
        if (!s->lost)
            send_token(s, now);
        if (!s->lost && s->sent == s->end)
            finish(s);
    }
    plan_step(w);
}

/* The number behind a key of the body, which needs no reader of JSON as the load client wrote it. */
static uint64_t find_number(const char *body, size_t len, const char *key)
{
    const char *at = memmem(body, len, key, strlen(key));
    return at ? strtoull(at + strlen(key), NULL, 10) : 0; /* the body ends with a NUL */
}

static void handle(void *ctx, struct http_exchange *x)
{
    struct direct_worker *w = ctx;
    size_t len;
    const char *body = http_body(x, &len);
    uint64_t n_tokens = find_number(body, len, "\"max_tokens\":");
    struct stream *s = w->n_streams < DIRECT_MAX_STREAMS ? calloc(1, sizeof *s) : NULL;
    if (!s || n_tokens == 0 || n_tokens > MAX_TOKENS) {
        http_respond(x, s ? 400 : 503, "text/plain", "", 0);
        free(s);
        return;
    }
    *s = (struct stream){ .worker = w, .x = x, .end = (uint32_t)n_tokens };
    s->seed = find_number(body, len, "\"seed\":");
    if (TAILQ_EMPTY(&w->streams))
        w->last_step_us = clock_now_us();
    TAILQ_INSERT_TAIL(&w->streams, s, entry);
    w->n_streams++;
    http_on_gone(x, on_gone, s);
    http_stream_begin(x, 200, TYPE);
    plan_step(w);
}

/* ---- the thread ------------------------------------------------------------- */

static void *work(void *arg)
{
    struct direct_worker *w = arg;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)w->options.processor, &set);
    (void)sched_setaffinity(0, sizeof set, &set);
    loop_run(w->loop);
    timer_cancel(loop_timers(w->loop), &w->step);
    http_server_destroy(&w->server);
    return NULL;
}

/* Signals are for the thread that starts it. */
static bool start_thread(struct direct_worker *w)
{
    sigset_t all, before;
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(&w->thread, NULL, work, w) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

status direct_worker_start(const struct direct_worker_options *options, struct direct_worker **out, struct error *err)
{
    ASSERT(options->step_us > 0 && options->batch > 0 && options->letters[0]);
    struct direct_worker *w = calloc(1, sizeof *w);
    if (!w)
        return error_set(err, ST_NO_MEMORY, "no memory for a worker");
    w->options = *options;
    TAILQ_INIT(&w->streams);
    status st = loop_create(&w->loop);
    if (st != ST_OK) {
        free(w);
        return error_set(err, st, "no event loop");
    }
    const struct http_server_options http = { .loop = w->loop,
                                              .listen = "127.0.0.1:0",
                                              .max_header_bytes = MAX_BYTES,
                                              .max_body_bytes = MAX_BYTES,
                                              .max_connections = DIRECT_MAX_STREAMS,
                                              .request_timeout_us = TIMEOUT_US,
                                              .idle_timeout_us = TIMEOUT_US,
                                              .write_timeout_us = TIMEOUT_US,
                                              .max_backlog_bytes = MAX_BYTES,
                                              .handle = handle,
                                              .ctx = w };
    st = http_server_create(&http, &w->server, err);
    if (st == ST_OK && !start_thread(w)) {
        st = error_set(err, ST_LIMIT, "no thread for a worker");
        http_server_destroy(&w->server);
    }
    if (st != ST_OK) {
        loop_destroy(&w->loop);
        free(w);
        return st;
    }
    *out = w;
    return ST_OK;
}

uint16_t direct_worker_port(const struct direct_worker *worker)
{
    return http_server_port(worker->server);
}

void direct_worker_stop(struct direct_worker **p)
{
    struct direct_worker *w = *p;
    if (!w)
        return;
    *p = NULL;
    loop_stop(w->loop);
    (void)pthread_join(w->thread, NULL);
    loop_destroy(&w->loop);
    free(w);
}
