#include "bench/mock_worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/mock_worker_internal.h"
#include "common/clock.h"
#include "common/log.h"
#include "proto/instance.h"

#define LOAD_INTERVAL_US 50000u
#define KV_BLOCKS        65536u

static struct mock_request *find(struct mock_worker *w, struct request_key key)
{
    return (struct mock_request *)request_table_find(&w->table, key);
}

static void end_request(struct mock_worker *w, struct mock_request *r)
{
    TAILQ_REMOVE(r->list, r, entry);
    request_table_remove(&w->table, &r->node);
    w->running_tokens -= r->sent;
    free(r);
}

void mock_request_move(struct mock_request *r, struct mock_list *to)
{
    if (r->list)
        TAILQ_REMOVE(r->list, r, entry);
    TAILQ_INSERT_TAIL(to, r, entry);
    r->list = to;
}

static void on_step(void *arg);

static void plan_step(struct mock_worker *w)
{
    if (!timer_is_set(&w->step) && !TAILQ_EMPTY(&w->running))
        timer_set(loop_timers(w->options.loop), &w->step, w->last_step_us + w->options.step_us, on_step, w);
}

static void on_step(void *arg)
{
    struct mock_worker *w = arg;
    uint64_t now = clock_now_us(), due = w->last_step_us + w->options.step_us;
    /* The pace holds on average; a worker that is late does not catch up on more than one step. */
    w->last_step_us = now - due < w->options.step_us ? due : now;
    if (!w->options.may_step || w->options.may_step(w->options.ctx))
        mock_send_step(w);
    plan_step(w);
}

/* At once, as prompts cost nothing. */
static void on_first(void *arg)
{
    struct mock_worker *w = arg;
    mock_send_first(w);
    plan_step(w);
}

/* ---- messages in ------------------------------------------------------------ */

static void accept_generate(struct mock_worker *w, struct link *router, const struct frame *frame,
                            const Baton__Generate *msg)
{
    const Baton__Sampling *s = msg->sampling;
    uint64_t end = s ? (uint64_t)s->prompt_len + s->max_tokens : 0;
    if (end > w->options.max_model_len)
        end = w->options.max_model_len;
    if (!s || s->prompt_len > msg->n_tokens || msg->n_tokens >= end) {
        mock_refuse(w, router, frame, msg->n_tokens, BATON__FAILURE_CODE__FAILURE_INVALID,
                    "nothing is left to generate");
        return;
    }
    struct mock_request *r = w->table.n < MOCK_MAX_REQUESTS ? calloc(1, sizeof *r) : NULL;
    if (!r) {
        mock_refuse(w, router, frame, msg->n_tokens, BATON__FAILURE_CODE__FAILURE_BUSY, "the worker is full");
        return;
    }
    r->node.key = frame->key;
    r->router = router;
    r->attempt = frame->attempt;
    r->seed = s->seed;
    r->prompt_len = s->prompt_len;
    r->first = r->sent = (uint32_t)msg->n_tokens;
    r->end = (uint32_t)end;
    mock_chain_init(&r->chain);
    for (uint32_t i = 0; i < r->sent; i++)
        mock_blocks_token(&w->blocks, &r->chain, i, msg->tokens[i]);
    request_table_add(&w->table, &r->node);
    mock_request_move(r, &w->fresh);
    w->running_tokens += r->sent;
    w->stats.generates++;
    if (!timer_is_set(&w->first))
        timer_set(loop_timers(w->options.loop), &w->first, clock_now_us(), on_first, w);
}

static void answer_stale(struct link *router, const struct frame *frame, uint32_t attempt)
{
    Baton__Stale body = BATON__STALE__INIT;
    struct message_head head = { FRAME_STALE, frame->key, frame->attempt, frame->leg, FRAME_NO_DEADLINE, NULL };
    body.attempt = attempt;
    (void)link_send(router, &head, &body.base); /* its question will be repeated */
}

/* Everything from position on again, and the last word with it when it was said. */
static void send_again(struct mock_worker *w, struct mock_request *r, uint32_t position)
{
    uint32_t upto = r->sent;
    w->running_tokens -= upto - position;
    r->sent = position;
    w->stats.resumed++;
    while (r->sent < upto)
        mock_send_upto(w, r, upto);
}

static void on_generate(struct mock_worker *w, struct link *router, const struct frame *frame,
                        const Baton__Generate *msg)
{
    struct mock_request *old = find(w, frame->key);
    router_marks_note(&w->marks, frame->key.router, msg->dispatch);
    if (old && old->attempt > frame->attempt) {
        answer_stale(router, frame, old->attempt);
        return;
    }
    if (old && old->attempt == frame->attempt) {
        send_again(w, old, old->first);
        return;
    }
    if (old)
        end_request(w, old);
    accept_generate(w, router, frame, msg);
}

static void on_resume(struct mock_worker *w, const struct frame *frame, uint32_t position)
{
    struct mock_request *r = find(w, frame->key);
    if (r && r->attempt == frame->attempt && position >= r->first && position < r->sent)
        send_again(w, r, position);
}

static void on_tokens_ack(struct mock_worker *w, const struct frame *frame, uint32_t position)
{
    struct mock_request *r = find(w, frame->key);
    if (r && r->attempt == frame->attempt && r->finished_us && position >= r->end)
        end_request(w, r);
}

static void on_cancel(struct mock_worker *w, const struct frame *frame)
{
    struct mock_request *r = find(w, frame->key);
    if (!r || frame->attempt < r->attempt)
        return;
    w->stats.cancelled++;
    end_request(w, r);
}

#define WITH(type, name, call)                                                                                         \
    do {                                                                                                               \
        Baton__##type *msg = baton__##name##__unpack(NULL, frame->payload_len, frame->payload);                        \
        if (msg) {                                                                                                     \
            call;                                                                                                      \
            baton__##name##__free_unpacked(msg, NULL);                                                                 \
        }                                                                                                              \
    } while (0)

static void on_message(void *ctx, struct link *link, const struct frame *frame, uint64_t deadline_us)
{
    struct mock_worker *w = ctx;
    (void)deadline_us; /* steps are short; a Cancel comes when it has passed */
    switch (frame->type) {
    case FRAME_GENERATE:
        WITH(Generate, generate, on_generate(w, link, frame, msg));
        break;
    case FRAME_TOKENS_ACK:
        WITH(TokensAck, tokens_ack, on_tokens_ack(w, frame, msg->position));
        break;
    case FRAME_RESUME:
        WITH(Resume, resume, on_resume(w, frame, msg->position));
        break;
    case FRAME_CANCEL:
    case FRAME_STALE:
        on_cancel(w, frame);
        break;
    default:
        break;
    }
}

/* ---- routers come and go ------------------------------------------------------ */

static bool is_held(Baton__Live *const *live, size_t n, const struct mock_request *r)
{
    for (size_t i = 0; i < n; i++)
        if (live[i]->router == r->node.key.router && live[i]->seq == r->node.key.seq && live[i]->attempt == r->attempt)
            return true;
    return false;
}

static void drop_from(struct mock_worker *w, struct mock_list *list, const struct link *router,
                      Baton__Live *const *held, size_t n_held)
{
    struct mock_request *r, *next;
    for (r = TAILQ_FIRST(list); r; r = next) {
        next = TAILQ_NEXT(r, entry);
        if (r->router == router && !is_held(held, n_held, r))
            end_request(w, r);
    }
}

/* All that the router does not hold. */
static void drop_of_router(struct mock_worker *w, const struct link *router, Baton__Live *const *held, size_t n_held)
{
    drop_from(w, &w->fresh, router, held, n_held);
    drop_from(w, &w->running, router, held, n_held);
    drop_from(w, &w->finished, router, held, n_held);
}

static void on_up(void *ctx, struct link *link, const Baton__Hello *hello, bool first)
{
    struct mock_worker *w = ctx;
    if (!first) {
        drop_of_router(w, link, hello->live, hello->n_live);
    }
    if (w->options.on_router)
        w->options.on_router(w->options.on_router_arg);
}

static void on_lost(void *ctx, struct link *link, const char *reason)
{
    struct mock_worker *w = ctx;
    log_warn("router lost", "id=%s router=%s reason=%s", w->options.id, link_peer_id(link), reason);
    drop_of_router(w, link, NULL, 0);
}

static size_t list_live(const struct mock_list *list, const struct link *router, Baton__Live *out, size_t max)
{
    size_t n = 0;
    const struct mock_request *r;
    TAILQ_FOREACH(r, list, entry)
    {
        if (r->router != router || n == max)
            continue;
        out[n].router = r->node.key.router;
        out[n].seq = r->node.key.seq;
        out[n++].attempt = r->attempt;
    }
    return n;
}

static size_t on_live(void *ctx, struct link *link, Baton__Live *out, size_t max)
{
    const struct mock_worker *w = ctx;
    size_t n = list_live(&w->fresh, link, out, max);
    n += list_live(&w->running, link, out + n, max - n);
    return n + list_live(&w->finished, link, out + n, max - n);
}

/* ---- published state ---------------------------------------------------------- */

static void forget_old(struct mock_worker *w, uint64_t now)
{
    struct mock_request *r;
    while ((r = TAILQ_FIRST(&w->finished)) && now - r->finished_us > MOCK_KEEP_US) {
        w->stats.expired++;
        end_request(w, r);
    }
}

static void publish_load(void *arg)
{
    struct mock_worker *w = arg;
    Baton__Load load = BATON__LOAD__INIT;
    uint64_t now = clock_now_us(), blocks = w->running_tokens / MOCK_BLOCK_TOKENS;
    const struct mock_request *r;
    forget_old(w, now);
    load.id = (char *)w->options.id;
    load.incarnation = w->incarnation;
    load.role = (char *)"decode";
    load.queued_requests = w->table.n;
    TAILQ_FOREACH(r, &w->running, entry)
    load.running_sequences++;
    load.running_tokens = w->running_tokens;
    load.kv_blocks = KV_BLOCKS;
    load.kv_free = KV_BLOCKS - (uint32_t)(blocks < KV_BLOCKS ? blocks : KV_BLOCKS);
    load.step_ms = (double)w->options.step_us / 1000.0;
    router_marks_fill(&w->marks, &load);
    links_publish(w->links, "load", &load.base);
    timer_set(loop_timers(w->options.loop), &w->load, now + LOAD_INTERVAL_US, publish_load, w);
}

static status open_links(struct mock_worker *w, struct error *err)
{
    struct links_options options = {
        .loop = w->options.loop,
        .listen = "tcp://127.0.0.1:0",
        .listen_events = "tcp://127.0.0.1:0",
        .id = w->options.id,
        .role = "decode",
        .cluster = w->options.cluster,
        .model = w->options.model,
        .kv_format = "mock",
        .incarnation = w->incarnation,
        .ping_interval_us = 300000,
        .frozen_us = 3000000,
        .closed_us = 500000,
        .repeat_us = 250000,
        .max_pending = MOCK_MAX_REQUESTS,
        .on_up = on_up,
        .on_lost = on_lost,
        .on_message = on_message,
        .live = on_live,
        .ctx = w,
    };
    return links_create(&options, &w->links, err);
}

static status publish_record(struct mock_worker *w, struct error *err)
{
    struct instance self = { .incarnation = w->incarnation,
                             .max_model_len = w->options.max_model_len,
                             .kv_tokens = (uint64_t)KV_BLOCKS * MOCK_BLOCK_TOKENS,
                             .weights = MOCK_WEIGHTS,
                             .tokenizer = MOCK_TOKENIZER,
                             .block_tokens = MOCK_BLOCK_TOKENS,
                             .pid = (uint32_t)getpid() };
    const struct kv_publisher *publisher = kv_publish_publisher(w->blocks.publish);
    char key[INSTANCE_MAX_KEY];
    struct text_buffer record;
    (void)snprintf(self.id, sizeof self.id, "%s", w->options.id);
    (void)snprintf(self.role, sizeof self.role, "decode");
    (void)snprintf(self.model, sizeof self.model, "%s", w->options.model);
    (void)snprintf(self.kv_format, sizeof self.kv_format, "mock");
    (void)snprintf(self.control, sizeof self.control, "%s", links_endpoint(w->links));
    (void)snprintf(self.events, sizeof self.events, "%s", links_events_endpoint(w->links));
    (void)snprintf(self.kv_events, sizeof self.kv_events, "%s", kv_publisher_endpoint(publisher));
    (void)snprintf(self.kv_replay, sizeof self.kv_replay, "%s", kv_publisher_replay_endpoint(publisher));
    (void)snprintf(self.host, sizeof self.host, "localhost");
    (void)snprintf(self.version, sizeof self.version, "%s", BATON_VERSION);
    text_buffer_init(&record, 4096);
    instance_write(&self, &record);
    status st = record.state;
    if (st == ST_OK)
        st = etcd_register(
            w->options.etcd,
            &(struct etcd_registration_options){ .key = instance_key(key, sizeof key, w->options.cluster, &self),
                                                 .value = text_buffer_text(&record) },
            &w->registration);
    text_buffer_free(&record);
    return st == ST_OK ? ST_OK : error_set(err, st, "mock worker %s: %s", w->options.id, status_text(st));
}

status mock_worker_create(const struct mock_worker_options *options, struct mock_worker **out, struct error *err)
{
    ASSERT(options->n_token_ids > 0 && options->step_us > 0);
    struct mock_worker *w = calloc(1, sizeof *w);
    if (!w)
        return error_set(err, ST_NO_MEMORY, "no memory for a mock worker");
    w->options = *options;
    (void)snprintf(w->id, sizeof w->id, "%s", options->id);
    (void)snprintf(w->cluster, sizeof w->cluster, "%s", options->cluster);
    (void)snprintf(w->model, sizeof w->model, "%s", options->model);
    w->options.id = w->id;
    w->options.cluster = w->cluster;
    w->options.model = w->model;
    w->incarnation = clock_now_us() * 0x9e3779b97f4a7c15u ^ (uintptr_t)w ^ (uint64_t)getpid() << 48;
    TAILQ_INIT(&w->fresh);
    TAILQ_INIT(&w->running);
    TAILQ_INIT(&w->finished);
    status st = open_links(w, err);
    if (st == ST_OK)
        st = mock_blocks_open(&w->blocks, w->options.loop, links_context(w->links), err);
    if (st == ST_OK)
        st = publish_record(w, err);
    if (st != ST_OK) {
        mock_worker_destroy(&w);
        return st;
    }
    publish_load(w);
    *out = w;
    return ST_OK;
}

void mock_worker_destroy(struct mock_worker **p)
{
    struct mock_worker *w = *p;
    struct mock_request *r;
    if (!w)
        return;
    *p = NULL;
    timer_cancel(loop_timers(w->options.loop), &w->first);
    timer_cancel(loop_timers(w->options.loop), &w->step);
    timer_cancel(loop_timers(w->options.loop), &w->load);
    if (w->registration)
        etcd_unregister(&w->registration, NULL, NULL);
    mock_blocks_close(&w->blocks);
    links_destroy(&w->links);
    while ((r = TAILQ_FIRST(&w->fresh)) || (r = TAILQ_FIRST(&w->running)) || (r = TAILQ_FIRST(&w->finished)))
        end_request(w, r);
    free(w);
}

void mock_worker_set_step(struct mock_worker *worker, uint64_t step_us)
{
    ASSERT(step_us > 0);
    worker->options.step_us = step_us;
}

void mock_worker_stats(const struct mock_worker *worker, struct mock_worker_stats *out)
{
    *out = worker->stats;
    out->live = worker->table.n;
}
