#include "bench/router_traffic.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/direct_worker.h"
#include "common/clock.h"

#define N_LETTERS ((uint32_t)sizeof TRAFFIC_LETTERS - 1)
#define DEATH_US  200000u
#define STALL_US  15000000u /* without one answer: the router hangs */

/* One request under way. */
struct exchange {
    uint64_t number;
    uint32_t want, received;
    _Atomic uint64_t emitted_us[TRAFFIC_MAX_TOKENS]; /* 0: not yet. A direct worker's thread writes them, too */
};

struct traffic {
    struct router_rig *rig;
    struct load *load;
    struct direct_worker *direct; /* of a direct phase */
    struct traffic_phase phase;
    uint64_t next_number; /* of the next phase */
    uint64_t n_sent, n_streams;
    uint64_t emitted, received; /* tokens of this phase */
    uint64_t streamed, unmatched;
    uint64_t answers_seen; /* by the last look of the watchdog */
    struct timer end, watchdog;
    uint32_t *samples; /* [TRAFFIC_MAX_SAMPLES] latencies of streamed tokens, us */
    uint32_t *first;   /* [TRAFFIC_MAX_SAMPLES] sent to first token, us */
    size_t n_samples, n_first;
    uint64_t n_wrong;
    struct error wrong; /* the first */
    bool stalled;
    struct exchange *exchanges; /* [TRAFFIC_MAX_REQUESTS] */
};

/* With the number in front fifty words, as the prompts that peers were measured with. */
static const char prompt[] =
    "The harbour was quiet before dawn and the fishing boats lay close together under a thin fog while an old man on "
    "the pier counted crates of ice, called each captain by name, and wrote down in a small book what the night had "
    "brought home from the sea";

static struct exchange *exchange_of(struct traffic *t, uint64_t number)
{
    return &t->exchanges[number % TRAFFIC_MAX_REQUESTS];
}

static void note_wrong(struct traffic *t, uint64_t number, const char *what, const char *text, size_t len)
{
    if (t->n_wrong++ == 0)
        (void)error_set(&t->wrong, ST_CORRUPT, "request %llu: %s%s%.*s", (unsigned long long)number, what,
                        len ? ": " : "", (int)(len < 300 ? len : 300), text);
}

/* ---- at the worker ------------------------------------------------------------- */

static void on_emit(void *ctx, uint64_t seed, uint32_t index, uint64_t now_us)
{
    struct traffic *t = ctx;
    struct exchange *x = exchange_of(t, seed);
    t->emitted++;
    if (x->number != seed || index >= TRAFFIC_MAX_TOKENS)
        t->unmatched++;
    else if (!x->emitted_us[index])
        x->emitted_us[index] = now_us; /* when sent again, the first time counts */
}

/* On the direct worker's thread: it touches nothing but the time, which the client reads after the token. */
static void on_direct_emit(void *ctx, uint64_t seed, uint32_t index, uint64_t now_us)
{
    struct exchange *x = exchange_of(ctx, seed);
    if (index < TRAFFIC_MAX_TOKENS)
        atomic_store_explicit(&x->emitted_us[index], now_us, memory_order_release);
}

static bool may_step(void *ctx)
{
    const struct traffic *t = ctx;
    return t->phase.window == 0 || t->emitted < t->received + t->phase.window;
}

void traffic_attach(struct traffic *traffic, struct mock_worker_options *worker)
{
    worker->on_emit = on_emit;
    worker->may_step = may_step;
    worker->ctx = traffic;
}

/* ---- at the client --------------------------------------------------------------- */

static bool is_streamed(const struct traffic *t, uint64_t number)
{
    return t->phase.stream_every && number % t->phase.stream_every == 0;
}

static enum load_next next_request(void *ctx, uint64_t number, const char **path, struct text_buffer *body)
{
    struct traffic *t = ctx;
    struct exchange *x = exchange_of(t, number);
    if (t->phase.n_requests && t->n_sent >= t->phase.n_requests)
        return LOAD_NO_MORE;
    t->n_sent++;
    x->number = number;
    x->want = is_streamed(t, number) ? t->phase.stream_tokens : 1;
    x->received = 0;
    for (uint32_t i = 0; i < x->want; i++)
        atomic_store_explicit(&x->emitted_us[i], 0, memory_order_relaxed);
    *path = "/v1/chat/completions";
    /* The seed tells worker and client which request it is; the number makes each prompt another one. */
    text_buffer_printf(body,
                       "{\"model\":\"" RIG_MODEL "\",\"messages\":[{\"role\":\"user\",\"content\":\"%llu: %s\"}],"
                       "\"max_tokens\":%u,\"seed\":%llu%s}",
                       (unsigned long long)number, prompt, x->want, (unsigned long long)number,
                       is_streamed(t, number) ? ",\"stream\":true" : "");
    return LOAD_REQUEST;
}

static void take_sample(uint32_t *samples, size_t *n, uint64_t from_us, uint64_t to_us)
{
    if (*n < TRAFFIC_MAX_SAMPLES)
        samples[(*n)++] = to_us > from_us ? (uint32_t)(to_us - from_us) : 0;
}

/* The letters of one delta or message; false: not what the worker sent. */
static bool take_letters(struct traffic *t, struct exchange *x, const char *text, size_t len, uint64_t received_us)
{
    for (size_t i = 0; i < len; i++) {
        uint32_t index = x->received;
        if (index >= x->want || text[i] != TRAFFIC_LETTERS[mock_worker_token(x->number, index, N_LETTERS)] ||
            !x->emitted_us[index])
            return false;
        if (x->want > 1)
            take_sample(t->samples, &t->n_samples, x->emitted_us[index], received_us);
        x->received++;
        t->received++;
    }
    return true;
}

/* The value of "content", which needs no unescaping as the mock's tokens are letters. NULL: there is none. */
static const char *find_content(const char *json, size_t len, size_t *content_len)
{
    static const char key[] = "\"content\":";
    const char *at = memmem(json, len, key, sizeof key - 1), *end = json + len;
    if (!at)
        return NULL;
    at += sizeof key - 1;
    while (at < end && *at == ' ')
        at++;
    if (at == end || *at != '"')
        return NULL;
    const char *quote = memchr(at + 1, '"', (size_t)(end - at - 1));
    *content_len = quote ? (size_t)(quote - at - 1) : 0;
    return quote ? at + 1 : NULL;
}

static bool on_event(void *ctx, uint64_t number, const char *data, size_t len, uint64_t received_us)
{
    struct traffic *t = ctx;
    struct exchange *x = exchange_of(t, number);
    size_t n = 0;
    const char *content = find_content(data, len, &n);
    if (!content || n == 0)
        return false;
    if (!take_letters(t, x, content, n, received_us))
        note_wrong(t, number, "a wrong token", data, len);
    t->streamed += n;
    return true;
}

static void on_answer(void *ctx, const struct load_answer *answer)
{
    struct traffic *t = ctx;
    struct exchange *x = exchange_of(t, answer->number);
    size_t n = 0;
    if (answer->error || answer->status != 200) {
        note_wrong(t, answer->number, answer->error ? answer->error : "refused", answer->body, answer->len);
        load_stop(t->load);
        return;
    }
    const char *content = answer->is_stream ? NULL : find_content(answer->body, answer->len, &n);
    if (content && !take_letters(t, x, content, n, answer->first_us))
        note_wrong(t, answer->number, "a wrong answer", answer->body, answer->len);
    if (x->received != x->want)
        note_wrong(t, answer->number, "tokens are missing", answer->body, answer->len);
    if (answer->is_stream && answer->first_us)
        take_sample(t->first, &t->n_first, answer->sent_us, answer->first_us);
}

static void on_done(void *ctx)
{
    struct traffic *t = ctx;
    router_rig_done(t->rig);
}

/* ---- a phase ----------------------------------------------------------------------- */

static void on_end(void *arg)
{
    struct traffic *t = arg;
    load_stop(t->load);
}

static void watch(void *arg)
{
    struct traffic *t = arg;
    struct load_stats stats;
    load_stats(t->load, &stats);
    uint64_t seen = stats.answers + stats.events;
    t->stalled = seen == t->answers_seen;
    t->answers_seen = seen;
    if (t->stalled)
        router_rig_done(t->rig);
    else
        timer_set(loop_timers(t->rig->loop), &t->watchdog, clock_now_us() + STALL_US, watch, t);
}

static void begin(struct traffic *t, struct router_rig *rig, const struct traffic_phase *phase)
{
    ASSERT(phase->n_connections < TRAFFIC_MAX_REQUESTS && phase->stream_tokens <= TRAFFIC_MAX_TOKENS);
    t->rig = rig;
    t->phase = *phase;
    t->n_sent = t->emitted = t->received = t->streamed = t->unmatched = t->answers_seen = t->n_wrong = 0;
    t->n_samples = t->n_first = 0;
    t->stalled = false;
    router_rig_set_step(rig, phase->step_us);
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile(const uint32_t *sorted, size_t n, double q)
{
    return n ? sorted[(size_t)(q * (double)(n - 1))] : 0;
}

/* What the kernel knew before and after. */
struct reading {
    struct process_probe router, client;
    uint64_t steal_us, at_us;
};

static status read_all(const struct router_rig *rig, struct reading *out, struct error *err)
{
    out->at_us = clock_now_us();
    out->steal_us = process_probe_steal_us(rig->router_processor);
    process_probe_thread(&out->client);
    return process_probe_read(rig->router_child.pid, &out->router, err);
}

static double wait_per_wakeup(const struct process_probe *a, const struct process_probe *b)
{
    uint64_t turns = b->wakeups - a->wakeups;
    return turns ? (double)(b->runqueue_ns - a->runqueue_ns) / 1000.0 / (double)turns : 0;
}

static void conclude(struct traffic *t, const struct reading *a, const struct reading *b, struct traffic_result *out)
{
    *out = (struct traffic_result){ .steal = -1 };
    load_stats(t->load, &out->load);
    out->requests = out->load.answers;
    out->tokens = t->received;
    out->streamed = t->streamed;
    out->router_cpu_us = (double)(b->router.cpu_ns - a->router.cpu_ns) / 1000.0;
    out->router_wait_us = wait_per_wakeup(&a->router, &b->router);
    out->client_wait_us = wait_per_wakeup(&a->client, &b->client);
    if (a->steal_us != UINT64_MAX)
        out->steal = (double)(b->steal_us - a->steal_us) / (double)(b->at_us - a->at_us);
    out->rss_bytes = b->router.rss_bytes;
    qsort(t->samples, t->n_samples, sizeof *t->samples, by_value);
    qsort(t->first, t->n_first, sizeof *t->first, by_value);
    out->token_p50_us = quantile(t->samples, t->n_samples, 0.5);
    out->token_p99_us = quantile(t->samples, t->n_samples, 0.99);
    out->ttft_p50_us = quantile(t->first, t->n_first, 0.5);
}

/* When the router has died, that is the reason; its sockets close a little before its end is told. */
static status explain_wrong(struct traffic *t, struct error *err)
{
    status st = router_rig_run(t->rig, DEATH_US, err);
    if (st != ST_TIMEOUT)
        return st;
    return error_set(err, ST_CORRUPT, "%llu answers or tokens are wrong; the first: %s", (unsigned long long)t->n_wrong,
                     t->wrong.text);
}

static status run(struct traffic *t, struct traffic_result *out, struct error *err)
{
    struct timers *timers = loop_timers(t->rig->loop);
    struct reading before, after;
    uint64_t now = clock_now_us();
    status st = read_all(t->rig, &before, err);
    if (st != ST_OK)
        return st;
    if (!t->phase.n_requests)
        timer_set(timers, &t->end, now + t->phase.duration_us, on_end, t);
    timer_set(timers, &t->watchdog, now + STALL_US, watch, t);
    load_start(t->load);
    st = router_rig_run(t->rig, UINT64_MAX / 2, err);
    timer_cancel(timers, &t->end);
    timer_cancel(timers, &t->watchdog);
    if (st == ST_OK && t->n_wrong)
        st = explain_wrong(t, err);
    if (st == ST_OK && t->stalled)
        st = error_set(err, ST_TIMEOUT, "no answer and no token for %u s", STALL_US / 1000000u);
    if (st == ST_OK && t->unmatched)
        st = error_set(err, ST_CORRUPT, "the worker got %llu tokens' requests with another seed than was sent",
                       (unsigned long long)t->unmatched);
    if (st == ST_OK)
        st = read_all(t->rig, &after, err);
    if (st == ST_OK)
        conclude(t, &before, &after, out);
    return st;
}

static status start_direct(struct traffic *t, struct error *err)
{
    const struct traffic_phase *phase = &t->phase;
    uint32_t n_workers = t->rig->options.n_workers;
    const struct direct_worker_options options = {
        .processor = t->rig->router_processor,
        .step_us = phase->step_us,
        .batch = (phase->n_connections + n_workers - 1) / n_workers,
        .letters = TRAFFIC_LETTERS,
        .on_emit = on_direct_emit,
        .ctx = t,
    };
    ASSERT(phase->stream_every == 1);
    return direct_worker_start(&options, &t->direct, err);
}

status traffic_run(struct traffic *t, struct router_rig *rig, const struct traffic_phase *phase,
                   struct traffic_result *out, struct error *err)
{
    begin(t, rig, phase);
    status st = phase->direct ? start_direct(t, err) : ST_OK;
    if (st != ST_OK)
        return st;
    struct load_options options = {
        .loop = rig->loop,
        .host = "127.0.0.1",
        .port = t->direct ? direct_worker_port(t->direct) : rig->port,
        .n_connections = phase->n_connections,
        .first_number = t->next_number,
        .next = next_request,
        .on_event = on_event,
        .on_answer = on_answer,
        .on_done = on_done,
        .ctx = t,
    };
    st = load_create(&options, &t->load, err);
    if (st == ST_OK)
        st = run(t, out, err);
    t->next_number += t->n_sent;
    load_destroy(&t->load);
    direct_worker_stop(&t->direct);
    return st;
}

status traffic_create(struct traffic **out, struct error *err)
{
    struct traffic *t = calloc(1, sizeof *t);
    if (t) {
        t->exchanges = calloc(TRAFFIC_MAX_REQUESTS, sizeof *t->exchanges);
        t->samples = malloc(TRAFFIC_MAX_SAMPLES * sizeof *t->samples);
        t->first = malloc(TRAFFIC_MAX_SAMPLES * sizeof *t->first);
        t->next_number = 1; /* no exchange has number 0 but those that never began */
    }
    if (!t || !t->exchanges || !t->samples || !t->first) {
        traffic_destroy(&t);
        return error_set(err, ST_NO_MEMORY, "no memory for the figures");
    }
    *out = t;
    return ST_OK;
}

void traffic_destroy(struct traffic **p)
{
    struct traffic *t = *p;
    if (!t)
        return;
    *p = NULL;
    free(t->exchanges);
    free(t->samples);
    free(t->first);
    free(t);
}
