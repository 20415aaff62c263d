/* A worker that hears anything from its peers, in any order: random bytes as
 * payloads, and well-formed messages with numbers from the edges. It must not crash,
 * and once its peers are gone nothing may be left of what they asked for. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "worker/worker.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LAYERS       2u
#define BLOCKS       24u
#define BLOCK_TOKENS 4u
#define VOCAB        50u
#define PEERS        3u /* a router, a prefill worker, a decode worker; any of them may say anything */
#define MAX_ITEMS    40u
#define MAX_TAKES    256u

/* The leg that the worker started last: random numbers alone would never follow it. */
struct leg {
    bool known;
    struct request_key key;
    uint32_t attempt, leg;
    uint32_t index, first, end; /* of the next chunk */
};

/* The Find that it sent last. */
struct asked {
    struct worker_peer *holder; /* NULL: none */
    struct request_key key;
    uint32_t attempt, leg, first;
};

struct world {
    const uint8_t *data;
    size_t left;
    uint64_t now;
    struct timers timers;
    struct worker *worker;
    struct worker_peer peers[PEERS];
    bool up[PEERS];
    struct step *step;
    struct transfer_take *takes[MAX_TAKES];
    size_t n_takes;
    struct leg leg;
    struct asked asked;
    bool follow;       /* the message under way belongs to leg */
    uint64_t zero_sum; /* checksum of a block whose layers all sum to 0 */
};

static uint8_t byte(struct world *w)
{
    if (w->left == 0)
        return 0;
    w->left--;
    return *w->data++;
}

static uint32_t number(struct world *w)
{
    static const uint32_t edges[] = { 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 0xfffffff0, 65536, 255, 100 };
    uint8_t b = byte(w);
    return b < 200 ? b % 50u : edges[b % 8];
}

static uint64_t io_now(void *ctx)
{
    return ((struct world *)ctx)->now;
}

static status io_send(void *ctx, struct worker_peer *to, const struct message_head *head, const ProtobufCMessage *body,
                      bool acked)
{
    struct world *w = ctx;
    (void)acked;
    if (head->type == FRAME_PREFILL)
        w->leg = (struct leg){
            true, head->key, head->attempt, head->leg, 0, 0, (uint32_t)((const Baton__Prefill *)body)->n_tokens
        };
    if (head->type == FRAME_GRANT)
        w->leg.first = ((const Baton__Grant *)body)->from_token;
    if (head->type == FRAME_FIND)
        w->asked = (struct asked){ to, head->key, head->attempt, head->leg, ((const Baton__Find *)body)->first };
    ASSERT(w->up[to - w->peers]);
    uint8_t *packed = malloc(protobuf_c_message_get_packed_size(body) + 1);
    ASSERT(packed);
    protobuf_c_message_pack(body, packed); /* whatever is sent can be packed */
    free(packed);
    return byte(w) % 16 == 15 ? ST_LIMIT : ST_OK;
}

static void io_forget(void *ctx, struct worker_peer *to, struct request_key key, uint32_t attempt)
{
    (void)ctx, (void)to, (void)key, (void)attempt;
}

static struct worker_peer *io_find_prefill(void *ctx, const char *id)
{
    struct world *w = ctx;
    return w->up[1] && !strcmp(id, w->peers[1].id) ? &w->peers[1] : NULL;
}

static bool io_is_alive(void *ctx, struct worker_peer *peer)
{
    struct world *w = ctx;
    return w->up[peer - w->peers];
}

static struct worker_peer *io_find_holder(void *ctx, const char *id)
{
    struct world *w = ctx;
    for (uint32_t i = 0; i < PEERS; i++)
        if (w->up[i] && !strcmp(id, w->peers[i].id))
            return &w->peers[i];
    return NULL;
}

static void io_run(void *ctx, struct step *step, struct drafts *drafts)
{
    (void)drafts;
    ((struct world *)ctx)->step = step;
}

static status io_take(void *ctx, struct transfer_take *take)
{
    struct world *w = ctx;
    if (w->n_takes == MAX_TAKES || byte(w) % 16 == 15)
        return ST_LIMIT;
    for (uint32_t i = 0; i < take->n_spans; i++)
        ASSERT(take->spans[i].local_block < BLOCKS && take->spans[i].n > 0 &&
               (uint32_t)take->spans[i].first + take->spans[i].n <= BLOCK_TOKENS);
    ASSERT(take->n_layers > 0 && take->first_layer + take->n_layers <= LAYERS);
    w->takes[w->n_takes++] = take;
    return ST_OK;
}

static void io_cancel_take(void *ctx, struct transfer_take *take)
{
    (void)ctx;
    atomic_store(&take->cancelled, true);
}

static void io_entered(void *ctx, const char *what, const char *state)
{
    (void)ctx, (void)what, (void)state;
}

static void end_take(struct world *w, status st)
{
    struct transfer_take *take = w->takes[0];
    memmove(w->takes, w->takes + 1, --w->n_takes * sizeof w->takes[0]);
    take->st = atomic_load(&take->cancelled) ? ST_CANCELLED : st;
    memset(take->checksums, 0, (size_t)take->n_layers * take->n_spans * sizeof *take->checksums);
    take->done(take);
}

static void end_step(struct world *w)
{
    struct step *step = w->step;
    w->step = NULL;
    for (uint32_t l = byte(w) % 4 == 3 ? LAYERS : 0; l < LAYERS; l++)
        worker_layers_done(w->worker, l + 1);
    for (uint32_t i = 0; i < step->n_seqs; i++) {
        step->seqs[i].done = !atomic_load(step->seqs[i].cancelled);
        step->seqs[i].sampled = (struct sampled){ .id = byte(w) % VOCAB, .is_stop = byte(w) % 8 == 7 };
    }
    worker_step_done(w->worker);
}

/* ---- messages ------------------------------------------------------------------ */

struct items {
    uint32_t u32[MAX_ITEMS];
    uint64_t u64[MAX_ITEMS];
};

static size_t fill(struct world *w, struct items *items)
{
    size_t n = byte(w) % MAX_ITEMS;
    bool wild = byte(w) % 4 == 3;
    for (size_t i = 0; i < n; i++) {
        items->u32[i] = wild ? number(w) : (uint32_t)(i * 7 % VOCAB);
        items->u64[i] = wild ? number(w) : w->zero_sum;
    }
    return n;
}

static void fill_sampling(struct world *w, Baton__Sampling *out, Baton__LogitBias *bias, size_t n_tokens)
{
    static float values[] = { 1, -1 };
    static uint32_t ids[] = { 1, 2 };
    baton__sampling__init(out);
    baton__logit_bias__init(bias);
    bool wild = byte(w) % 4 == 3;
    out->prompt_len = wild ? number(w) : (uint32_t)n_tokens;
    out->max_tokens = wild ? number(w) : 1 + byte(w) % 20u;
    out->min_tokens = wild ? number(w) : 0;
    out->top_p = out->repetition_penalty = 1;
    out->top_k = wild ? (int32_t)number(w) : 0;
    out->n_logprobs = wild ? (int32_t)number(w) : -1;
    out->want_hash = byte(w) & 1;
    bias->ids = ids;
    bias->biases = values;
    bias->n_ids = 2;
    bias->n_biases = wild ? byte(w) % 3 : 2;
    out->bias = byte(w) & 1 ? bias : NULL;
}

static size_t pack(const void *message, uint8_t *out)
{
    const ProtobufCMessage *base = message;
    return protobuf_c_message_pack(base, out);
}

static size_t pack_generate(struct world *w, struct items *items, uint8_t *out)
{
    Baton__Generate msg = BATON__GENERATE__INIT;
    Baton__Sampling sampling;
    Baton__LogitBias bias;
    Baton__Instance instance = BATON__INSTANCE__INIT, *instances[] = { &instance };
    msg.model = byte(w) % 8 == 7 ? "other" : "m";
    msg.n_tokens = fill(w, items);
    msg.tokens = items->u32;
    msg.route = (Baton__Route)(byte(w) % 4);
    fill_sampling(w, &sampling, &bias, msg.n_tokens);
    msg.sampling = byte(w) % 16 == 15 ? NULL : &sampling;
    instance.id = "peer-1";
    msg.prefills = instances;
    msg.n_prefills = byte(w) % 4 ? 1 : 0;
    return pack(&msg, out);
}

static size_t pack_prefill(struct world *w, struct items *items, uint8_t *out)
{
    Baton__Prefill msg = BATON__PREFILL__INIT;
    Baton__Sampling sampling;
    Baton__LogitBias bias;
    msg.model = "m";
    msg.kv_format = byte(w) % 8 == 7 ? "other" : "f";
    msg.n_tokens = fill(w, items);
    msg.tokens = items->u32;
    msg.held = number(w);
    fill_sampling(w, &sampling, &bias, msg.n_tokens);
    msg.sampling = &sampling;
    return pack(&msg, out);
}

static void fill_chunk(struct world *w, struct items *items, Baton__Chunk *out)
{
    baton__chunk__init(out);
    out->index = number(w);
    out->first = number(w);
    out->n = number(w);
    if (w->follow && byte(w) % 16 != 15) {
        out->index = w->leg.index;
        out->first = w->leg.first;
        out->n %= 9;
        out->n = out->n < w->leg.end - out->first ? out->n : w->leg.end - out->first;
    }
    out->blocks = items->u32;
    out->generations = items->u64;
    out->n_blocks = out->n_generations = fill(w, items);
    if (byte(w) % 4) /* as many as there should be */
        out->n_blocks = out->n_generations =
            out->n && out->n < 60 ? ((out->first + out->n - 1) / BLOCK_TOKENS - out->first / BLOCK_TOKENS + 1) % 16 : 0;
}

static size_t pack_layers(struct world *w, struct items *items, uint8_t *out)
{
    Baton__LayersReady msg = BATON__LAYERS_READY__INIT;
    Baton__Chunk chunk;
    fill_chunk(w, items, &chunk);
    msg.chunk = byte(w) % 16 == 15 ? NULL : &chunk;
    msg.layers = number(w) % 4;
    return pack(&msg, out);
}

static size_t pack_done(struct world *w, struct items *items, uint8_t *out)
{
    Baton__ChunkDone msg = BATON__CHUNK_DONE__INIT;
    Baton__Chunk chunk;
    Baton__Token token = BATON__TOKEN__INIT;
    uint64_t sums[MAX_ITEMS];
    for (size_t i = 0; i < MAX_ITEMS; i++)
        sums[i] = byte(w) == 255 ? 1 : w->zero_sum;
    fill_chunk(w, items, &chunk);
    msg.chunk = byte(w) % 16 == 15 ? NULL : &chunk;
    msg.checksums = sums;
    msg.n_checksums = byte(w) % 16 == 15 ? byte(w) % MAX_ITEMS : chunk.n_blocks;
    msg.last = byte(w) & 1;
    if (w->follow && byte(w) % 16 != 15) {
        w->leg.index++;
        w->leg.first += chunk.n;
        msg.last = w->leg.first == w->leg.end;
    }
    token.id = byte(w) % 8 == 7 ? number(w) : byte(w) % VOCAB;
    msg.token = byte(w) % 16 == 15 ? NULL : &token;
    msg.token_stops = byte(w) & 1;
    return pack(&msg, out);
}

static size_t pack_failed(struct world *w, uint8_t *out)
{
    Baton__PrefillFailed msg = BATON__PREFILL_FAILED__INIT;
    Baton__Failure failure = BATON__FAILURE__INIT;
    failure.code = number(w);
    msg.failure = byte(w) & 1 ? &failure : NULL;
    return pack(&msg, out);
}

/* TokensAck, Resume, Grant and ChunkTaken are one number in field 1; GrantAsk too. */
static size_t pack_number(struct world *w, uint8_t *out)
{
    Baton__Resume msg = BATON__RESUME__INIT;
    msg.position = number(w);
    return pack(&msg, out);
}

static size_t pack_random(struct world *w, uint8_t *out)
{
    size_t n = byte(w);
    for (size_t i = 0; i < n; i++)
        out[i] = byte(w);
    return n;
}

static size_t pack_message(struct world *w, enum frame_type type, uint8_t *out)
{
    struct items items = { { 0 }, { 0 } };
    if (byte(w) % 8 == 7)
        return pack_random(w, out);
    switch (type) {
    case FRAME_GENERATE:
        return pack_generate(w, &items, out);
    case FRAME_PREFILL:
        return pack_prefill(w, &items, out);
    case FRAME_LAYERS_READY:
        return pack_layers(w, &items, out);
    case FRAME_CHUNK_DONE:
        return pack_done(w, &items, out);
    case FRAME_PREFILL_FAILED:
        return pack_failed(w, out);
    default:
        return pack_number(w, out);
    }
}

static void say(struct world *w)
{
    static const enum frame_type types[] = {
#define X(name, value) FRAME_##name,
        FRAME_TYPES(X)
#undef X
    };
    static uint8_t payload[16384];
    uint8_t who = byte(w) % PEERS, when = byte(w);
    struct frame frame = {
        .type = types[byte(w) % (sizeof types / sizeof types[0])],
        .key = { 1, byte(w) % 4 },
        .attempt = byte(w) % 3,
        .leg = byte(w) % 4,
        .payload = payload,
    };
    w->follow = w->leg.known && when % 2;
    if (w->follow) {
        static const enum frame_type of_leg[] = { FRAME_GRANT_ASK, FRAME_LAYERS_READY, FRAME_CHUNK_DONE };
        who = 1;
        frame.type = of_leg[byte(w) % 3];
        frame.key = w->leg.key;
        frame.attempt = w->leg.attempt;
        frame.leg = w->leg.leg;
    }
    if (!w->up[who])
        return;
    frame.payload_len = (uint32_t)pack_message(w, frame.type, payload);
    worker_on_message(w->worker, &w->peers[who], &frame, when < 200 ? FRAME_NO_DEADLINE : w->now + when);
}

/* An answer to the last Find: mostly one that makes sense. */
static void found(struct world *w)
{
    static uint8_t payload[4096];
    struct items items = { { 0 }, { 0 } };
    uint64_t sums[MAX_ITEMS];
    uint32_t tiers[MAX_ITEMS];
    Baton__Found msg = BATON__FOUND__INIT;
    if (!w->asked.holder || !w->up[w->asked.holder - w->peers])
        return;
    size_t n = fill(w, &items) % 4;
    bool wild = byte(w) % 8 == 7;
    for (size_t i = 0; i < MAX_ITEMS; i++) {
        sums[i] = byte(w) % 16 == 15 ? 1 : w->zero_sum;
        tiers[i] = wild ? number(w) : 1;
    }
    msg.first = w->asked.first + (wild ? number(w) : 0);
    msg.run = (uint32_t)n + byte(w) % 2;
    msg.blocks = items.u32;
    msg.generations = items.u64;
    msg.checksums = sums;
    msg.tiers = tiers;
    msg.n_blocks = msg.n_generations = msg.n_checksums = msg.n_tiers = n;
    struct frame frame = {
        .type = FRAME_FOUND, .key = w->asked.key, .attempt = w->asked.attempt, .leg = w->asked.leg, .payload = payload
    };
    frame.payload_len = (uint32_t)pack(&msg, payload);
    worker_on_message(w->worker, w->asked.holder, &frame, FRAME_NO_DEADLINE);
}

static void meet_again(struct world *w)
{
    Baton__Live live[3], *pointers[3] = { &live[0], &live[1], &live[2] };
    uint8_t who = byte(w) % PEERS;
    for (size_t i = 0; i < 3; i++) {
        baton__live__init(&live[i]);
        live[i].router = 1;
        live[i].seq = byte(w) % 4;
        live[i].attempt = byte(w) % 3;
        live[i].leg = byte(w) % 4;
    }
    if (w->up[who])
        worker_on_peer_again(w->worker, &w->peers[who], pointers, byte(w) % 4);
}

static void lose(struct world *w, uint32_t who)
{
    if (!w->up[who])
        return;
    if (who == 1)
        w->peers[1].id[0] = '\0'; /* what is lost is not found any more */
    worker_on_peer_lost(w->worker, &w->peers[who]);
    w->up[who] = false;
}

static void pass_time(struct world *w, uint64_t us)
{
    w->now += us;
    timers_run(&w->timers, w->now);
}

static void act(struct world *w)
{
    uint8_t op = byte(w);
    if (op < 150)
        say(w);
    else if (op < 190 && w->step)
        end_step(w);
    else if (op < 230 && w->n_takes)
        end_take(w, byte(w) % 8 == 7 ? ST_STALE : ST_OK);
    else if (op < 240)
        pass_time(w, (uint64_t)byte(w) * 1000);
    else if (op < 250)
        meet_again(w);
    else if (op < 252)
        lose(w, op % PEERS);
    else
        found(w);
}

static void settle(struct world *w)
{
    for (uint32_t i = 0; i < PEERS; i++)
        lose(w, i);
    while (w->n_takes || w->step) {
        while (w->n_takes)
            end_take(w, ST_OK);
        if (w->step)
            end_step(w);
        pass_time(w, 0);
    }
    ASSERT(!w->step && w->n_takes == 0);
    ASSERT(worker_is_idle(w->worker));
    ASSERT(block_pool_free(worker_pool(w->worker)) == BLOCKS);
    ASSERT(timers_next(&w->timers) == TIMERS_NEVER);
}

static void start(struct world *w, const struct worker_io *io)
{
    struct worker_options o = {
        .io = io,
        .timers = &w->timers,
        .role = WORKER_DECODE,
        .id = "me",
        .model = "m",
        .kv_format = "f",
        .layout = { LAYERS, 1, 8, BLOCK_TOKENS, DTYPE_BF16 },
        .n_blocks = BLOCKS,
        .eviction = &eviction_s3fifo,
        .n_vocab = VOCAB,
        .max_model_len = 64,
        .max_requests = 4,
        .limits = { .budget_rows = 16, .max_seqs = 4, .chunk_tokens = 8, .patience = 1000000 },
        .grant_window = 2,
        .chunks_in_flight = 2,
        .reserve_blocks = 2,
        .local_tokens = 4,
        .max_legs = 3,
        .aside_us = 1000,
        .keep_finished_us = 5000,
        .take_timeout_us = 1000,
        .pull_timeout_us = 100000,
        .incarnation = 9,
    };
    ASSERT(worker_create(&o, &w->worker) == ST_OK);
    for (uint32_t i = 0; i < PEERS; i++) {
        w->up[i] = true;
        memcpy(w->peers[i].id, (char[]){ 'p', 'e', 'e', 'r', '-', (char)('0' + i), 0 }, 7);
        w->peers[i].transfer = (struct transfer_peer *)(void *)&w->peers[i]; /* never followed */
        w->peers[i].transport = "shm";
        w->peers[i].incarnation = 100 + i;
        w->peers[i].same_host = i != 2;
    }
    worker_set_manager(w->worker, &w->peers[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world *w = calloc(1, sizeof *w);
    ASSERT(w);
    log_init("fuzz", LOG_OFF);
    *w = (struct world){ .data = data, .left = size, .now = 1000 };
    uint64_t zeros[LAYERS] = { 0 };
    w->zero_sum = transfer_block_checksum(zeros, LAYERS);
    timers_init(&w->timers);
    timers_set_now(&w->timers, w->now);
    struct worker_io io = { w,          io_now, io_send, io_forget,   io_find_prefill, io_run, io_take, io_cancel_take,
                            io_entered, NULL,   NULL,    io_is_alive, io_find_holder };
    start(w, &io);
    while (w->left)
        act(w);
    settle(w);
    worker_destroy(&w->worker);
    timers_free(&w->timers);
    free(w);
    return 0;
}
