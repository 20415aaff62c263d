/* worker_rig.h - one worker under test, whose peers, engine and transfer are the test's own: what it sends is counted
 * and noted, what it takes and computes ends when the test says so. */
#ifndef BATON_TESTS_WORKER_RIG_H
#define BATON_TESTS_WORKER_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/prefix_cache.h"
#include "worker/worker.h"

#define LAYERS       2u
#define BLOCKS       16u
#define BLOCK_TOKENS 4u
#define WINDOW       4u

/* A chunk as a message names it. */
struct noted_chunk {
    uint32_t index, first, n, n_blocks;
    uint32_t blocks[BLOCKS];
    uint64_t generations[BLOCKS];
};

struct world {
    uint64_t now;
    struct timers timers;
    struct worker *worker;
    struct worker_io io;
    struct worker_peer router, other;
    struct step *step;
    struct transfer_take *takes[8];
    uint32_t n_takes;
    struct transfer_take *sums[8]; /* whole checksums, which end when the call is over */
    uint32_t n_sums;
    bool refuse_takes;
    bool other_holds;  /* our blocks' beginnings can be taken from it */
    uint32_t sent[64]; /* by frame type */
    uint32_t leg;      /* of the last Prefill */
    char adapter[64];  /* of the same */
    uint8_t salt[16];  /* of the last Prefill, and its length */
    size_t salt_len;
    uint32_t held;                         /* of the same */
    uint32_t from_token;                   /* of the last Grant */
    struct noted_chunk done[8];            /* of the ChunkDones, in order */
    uint32_t n_done, cached, computed;     /* what the last of them says */
    uint32_t timed_cached, timed_computed; /* of the last Timing */
    /* Told of each message that is sent; may be NULL. */
    void (*on_send)(struct world *w, struct worker_peer *to, const struct message_head *head, const void *body);
    uint64_t dispatch;           /* of the last Generate */
    uint64_t seq;                /* of what is said: the request's */
    int32_t priority;            /* of the next Generate or Prefill */
    uint64_t ended[8], asked[8]; /* requests whose last token was sent, and whose Grant was asked for, in order */
    uint32_t n_ended, n_asked, n_tokens;
    Baton__Finish finish; /* of the last that ended */
};

static inline uint64_t io_now(void *ctx)
{
    return ((struct world *)ctx)->now;
}

static inline void note_tokens(struct world *w, const Baton__Tokens *msg)
{
    for (size_t i = 0; i < msg->n_sequences; i++) {
        const Baton__SequenceTokens *s = msg->sequences[i];
        w->n_tokens += (uint32_t)s->n_tokens;
        if (s->timing && s->timing->n_cached_tokens) {
            w->timed_cached = s->timing->cached_tokens[0];
            w->timed_computed = s->timing->computed_tokens;
        }
        if (s->finish != BATON__FINISH__FINISH_NONE && w->n_ended < 8) {
            w->ended[w->n_ended++] = s->seq;
            w->finish = s->finish;
        }
    }
}

static inline void note_prefill(struct world *w, const Baton__Prefill *msg)
{
    snprintf(w->adapter, sizeof w->adapter, "%s", msg->sampling->adapter);
    w->held = msg->held;
    w->salt_len = msg->salt.len;
    assert_true(msg->salt.len <= sizeof w->salt);
    if (msg->salt.len)
        memcpy(w->salt, msg->salt.data, msg->salt.len);
}

static inline void note_done(struct world *w, const Baton__ChunkDone *msg)
{
    const Baton__Chunk *c = msg->chunk;
    assert_true(w->n_done < 8 && c->n_blocks <= BLOCKS);
    struct noted_chunk *noted = &w->done[w->n_done++];
    *noted = (struct noted_chunk){ c->index, c->first, c->n, (uint32_t)c->n_blocks, { 0 }, { 0 } };
    memcpy(noted->blocks, c->blocks, c->n_blocks * sizeof *c->blocks);
    memcpy(noted->generations, c->generations, c->n_blocks * sizeof *c->generations);
    w->cached = msg->n_cached_tokens ? msg->cached_tokens[0] : 0;
    w->computed = msg->computed_tokens;
}

static inline status io_send(void *ctx, struct worker_peer *to, const struct message_head *head,
                             const ProtobufCMessage *body, bool acked)
{
    struct world *w = ctx;
    (void)acked;
    w->sent[head->type]++;
    if (w->on_send)
        w->on_send(w, to, head, body);
    if (head->type == FRAME_PREFILL) {
        w->leg = head->leg;
        note_prefill(w, (const Baton__Prefill *)(const void *)body);
    }
    if (head->type == FRAME_GRANT)
        w->from_token = ((const Baton__Grant *)(const void *)body)->from_token;
    if (head->type == FRAME_CHUNK_DONE)
        note_done(w, (const Baton__ChunkDone *)(const void *)body);
    if (head->type == FRAME_GRANT_ASK && w->n_asked < 8)
        w->asked[w->n_asked++] = head->key.seq;
    if (head->type == FRAME_TOKENS)
        note_tokens(w, (const Baton__Tokens *)(const void *)body);
    return ST_OK;
}

static inline void io_forget(void *ctx, struct worker_peer *to, struct request_key key, uint32_t attempt)
{
    (void)ctx, (void)to, (void)key, (void)attempt;
}

static inline struct worker_peer *io_find_prefill(void *ctx, const char *id)
{
    struct world *w = ctx;
    return strcmp(id, "p") ? NULL : &w->other;
}

static inline void io_run(void *ctx, struct step *step, struct drafts *drafts)
{
    (void)drafts;
    ((struct world *)ctx)->step = step;
}

static inline status io_take(void *ctx, struct transfer_take *take)
{
    struct world *w = ctx;
    if (w->refuse_takes)
        return ST_LIMIT;
    if (!take->peer && take->arg) { /* kvbm/whole_checksum.c */
        assert_true(w->n_sums < 8);
        w->sums[w->n_sums++] = take;
        return ST_OK;
    }
    assert_true(w->n_takes < 8);
    w->takes[w->n_takes++] = take;
    return ST_OK;
}

static inline void io_cancel_take(void *ctx, struct transfer_take *take)
{
    (void)ctx;
    atomic_store(&take->cancelled, true);
}

static inline void io_entered(void *ctx, const char *what, const char *state)
{
    (void)ctx, (void)what, (void)state;
}

static inline bool io_is_alive(void *ctx, struct worker_peer *peer)
{
    (void)ctx, (void)peer;
    return true;
}

static inline struct worker_peer *io_find_holder(void *ctx, const char *id)
{
    struct world *w = ctx;
    return w->other_holds && !strcmp(id, w->other.id) ? &w->other : NULL;
}

static const struct adapters two_adapters = { .n = 2, .ids = { "red@00000000000000aa", "blue@00000000000000bb" } };

static const struct eviction_policy *eviction; /* of the next worker */
static enum worker_fetch fetch;                /* likewise */
static uint8_t *pool_memory;                   /* likewise; NULL: it has none */
static uint32_t pull_take_bytes;               /* likewise */
static enum worker_overlap overlap;            /* likewise */
static uint32_t window = WINDOW;               /* chunks_in_flight of the next worker */

static inline void start_guessing(struct world *w, uint32_t guesses)
{
    memset(w, 0, sizeof *w);
    w->seq = 1;
    w->now = 1000;
    timers_init(&w->timers);
    w->io =
        (struct worker_io){ w,          io_now, io_send, io_forget,   io_find_prefill, io_run, io_take, io_cancel_take,
                            io_entered, NULL,   NULL,    io_is_alive, io_find_holder };
    struct worker_options o = { .io = &w->io,
                                .timers = &w->timers,
                                .id = "me",
                                .model = "m",
                                .kv_format = "f",
                                .adapters = &two_adapters,
                                .layout = { LAYERS, 1, 8, BLOCK_TOKENS, DTYPE_BF16 },
                                .n_blocks = BLOCKS,
                                .blocks = pool_memory,
                                .eviction = eviction,
                                .weights = 1,
                                .tokenizer = 2,
                                .n_vocab = 50,
                                .max_model_len = 1000, /* more than the pool holds */
                                .max_requests = 4,
                                .limits = { .budget_rows = 16, .max_seqs = 4, .chunk_tokens = 16, .patience = 1000000 },
                                .speculation = guesses ? SPECULATION_LOOKUP : SPECULATION_OFF,
                                .draft_tokens = guesses,
                                .grant_window = 2,
                                .chunks_in_flight = window,
                                .max_legs = 2,
                                .aside_us = 1000,
                                .keep_finished_us = 1000000,
                                .take_timeout_us = 1000,
                                .fetch = fetch,
                                .pull_timeout_us = 1000,
                                .pull_take_bytes = pull_take_bytes,
                                .overlap = overlap };
    assert_int_equal(worker_create(&o, &w->worker), ST_OK);
    w->other.transfer = (struct transfer_peer *)(void *)w; /* never followed */
    w->other.transport = "shm";
}

static inline void start(struct world *w)
{
    start_guessing(w, 0);
}

/* All of the whole checksums are zeros' as well. */
static inline void end_sums(struct world *w)
{
    while (w->n_sums) {
        struct transfer_take *take = w->sums[--w->n_sums];
        memset(take->checksums, 0, (size_t)take->n_layers * take->n_spans * sizeof *take->checksums);
        take->st = ST_OK;
        take->done(take);
        timers_run(&w->timers, w->now);
    }
}

static inline void stop(struct world *w)
{
    worker_on_peer_lost(w->worker, &w->router);
    worker_on_peer_lost(w->worker, &w->other);
    end_sums(w);
    for (uint32_t i = 0; i < w->n_takes; i++) {
        w->takes[i]->st = ST_CANCELLED;
        w->takes[i]->done(w->takes[i]);
    }
    if (w->step)
        worker_step_done(w->worker);
    end_sums(w);
    assert_true(worker_is_idle(w->worker));
    assert_int_equal(block_pool_free(worker_pool(w->worker)), BLOCKS);
    worker_destroy(&w->worker);
    timers_free(&w->timers);
}

static inline void say(struct world *w, struct worker_peer *from, enum frame_type type, uint32_t leg, const void *body)
{
    static uint8_t payload[1024];
    struct frame frame = { .type = type, .key = { 1, w->seq }, .attempt = 1, .leg = leg, .payload = payload };
    frame.payload_len = (uint32_t)protobuf_c_message_pack(body, payload);
    worker_on_message(w->worker, from, &frame, FRAME_NO_DEADLINE);
    end_sums(w);
}

static uint32_t prompt[BLOCKS * BLOCK_TOKENS];
static char *adapter = "";       /* that requests name */
static ProtobufCBinaryData salt; /* that requests bring */
static bool no_cache;

static inline void fill_sampling(Baton__Sampling *s, uint32_t n, uint32_t max_tokens)
{
    baton__sampling__init(s);
    s->prompt_len = n;
    s->max_tokens = max_tokens;
    s->top_p = s->repetition_penalty = 1;
    s->n_logprobs = -1;
    s->adapter = adapter;
}

static inline void say_prefill_from(struct world *w, uint32_t n, uint32_t from_token)
{
    Baton__Prefill msg = BATON__PREFILL__INIT;
    Baton__Sampling s;
    Baton__Grant grant = BATON__GRANT__INIT;
    fill_sampling(&s, n, 1);
    msg.model = "m";
    msg.kv_format = "f";
    msg.priority = w->priority;
    msg.tokens = prompt;
    msg.n_tokens = n;
    msg.sampling = &s;
    msg.salt = salt;
    msg.no_cache = no_cache;
    grant.from_token = from_token;
    say(w, &w->other, FRAME_PREFILL, 1, &msg);
    say(w, &w->other, FRAME_GRANT, 1, &grant);
}

static inline void say_prefill(struct world *w, uint32_t n)
{
    say_prefill_from(w, n, 0);
}

static inline void say_generate(struct world *w, uint32_t n, Baton__Route route, uint32_t max_tokens)
{
    Baton__Generate msg = BATON__GENERATE__INIT;
    Baton__Sampling s;
    Baton__Instance p = BATON__INSTANCE__INIT, *prefills[] = { &p };
    fill_sampling(&s, n, max_tokens);
    p.id = "p";
    msg.model = "m";
    msg.tokens = prompt;
    msg.n_tokens = n;
    msg.sampling = &s;
    msg.route = route;
    msg.prefills = prefills;
    msg.n_prefills = 1;
    msg.salt = salt;
    msg.no_cache = no_cache;
    msg.dispatch = ++w->dispatch;
    msg.priority = w->priority;
    say(w, &w->router, FRAME_GENERATE, 0, &msg);
}

/* A generation of 8 tokens that has its Grant. */
static inline void begin_receiving(struct world *w)
{
    Baton__GrantAsk ask = BATON__GRANT_ASK__INIT;
    start(w);
    say_generate(w, 8, BATON__ROUTE__ROUTE_REMOTE, 4);
    assert_int_equal(w->sent[FRAME_PREFILL], 1);
    say(w, &w->other, FRAME_GRANT_ASK, w->leg, &ask);
    assert_int_equal(w->sent[FRAME_GRANT], 1);
}

static inline void say_chunk(struct world *w, bool done, uint32_t index, uint32_t first, uint32_t n, bool last)
{
    static uint32_t blocks[4];
    static uint64_t generations[4], sums[4];
    uint64_t zeros[LAYERS] = { 0 };
    Baton__Chunk chunk = BATON__CHUNK__INIT;
    Baton__LayersReady ready = BATON__LAYERS_READY__INIT;
    Baton__ChunkDone finished = BATON__CHUNK_DONE__INIT;
    Baton__Token token = BATON__TOKEN__INIT;
    chunk.index = index;
    chunk.first = first;
    chunk.n = n;
    chunk.blocks = blocks;
    chunk.generations = generations;
    chunk.n_blocks = chunk.n_generations = (first + n - 1) / BLOCK_TOKENS - first / BLOCK_TOKENS + 1;
    for (size_t i = 0; i < 4; i++)
        sums[i] = transfer_block_checksum(zeros, LAYERS);
    ready.chunk = finished.chunk = &chunk;
    ready.layers = LAYERS;
    finished.checksums = sums;
    finished.n_checksums = chunk.n_blocks;
    finished.last = last;
    finished.token = &token;
    if (done)
        say(w, &w->other, FRAME_CHUNK_DONE, w->leg, &finished);
    else
        say(w, &w->other, FRAME_LAYERS_READY, w->leg, &ready);
}

static inline void end_take(struct world *w)
{
    struct transfer_take *take = w->takes[0];
    memmove(w->takes, w->takes + 1, --w->n_takes * sizeof w->takes[0]);
    memset(take->checksums, 0, (size_t)take->n_layers * take->n_spans * sizeof *take->checksums);
    take->st = ST_OK;
    take->done(take);
    end_sums(w);
}

static inline void end_step(struct world *w)
{
    struct step *step = w->step;
    w->step = NULL;
    assert_non_null(step);
    for (uint32_t i = 0; i < step->n_seqs; i++)
        step->seqs[i].done = true;
    worker_step_done(w->worker);
    end_sums(w);
}

#endif
