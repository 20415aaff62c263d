#include "worker/worker.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "worker/core.h"

const char *worker_role_name(enum worker_role role)
{
    return role == WORKER_PREFILL ? "prefill" : "decode";
}

static void block_entered(void *ctx, block_id block, enum block_state state)
{
    struct worker *worker = ctx;
    if (worker->wiping)
        wiping_entered(worker->wiping, block, state);
    worker->io->entered(worker->io->ctx, "block", block_state_name(state));
}

static status create_wiping(struct worker *worker)
{
    const struct wiping_options options = {
        .pool = worker->pool,
        .timers = worker->timers,
        .memory = worker->options.blocks,
        .block_bytes = kv_block_bytes(&worker->options.layout),
        .erase_beside = worker->options.erase_beside,
        .ctx = worker->options.erase_ctx,
    };
    return options.memory ? wiping_create(&options, &worker->wiping) : ST_OK;
}

static status create_cache(struct worker *worker)
{
    const struct prefix_cache_options options = {
        .pool = worker->pool,
        .block_tokens = worker->options.layout.block_tokens,
        .enabled = worker->options.eviction,
        .weights = worker->options.weights,
        .tokenizer = worker->options.tokenizer,
        .io = worker->io,
        .wiping = worker->wiping,
    };
    return prefix_cache_create(&options, &worker->cache);
}

static void on_released(void *ctx)
{
    worker_pump(ctx);
}

static status create_sharing(struct worker *worker)
{
    const struct worker_options *o = &worker->options;
    const struct sharing_options options = {
        .io = worker->io,
        .timers = worker->timers,
        .pool = worker->pool,
        .cache = worker->cache,
        .geometry = { o->layout.n_layers, 2 * o->layout.n_kv_heads, o->layout.block_tokens,
                      (uint32_t)kv_slot_bytes(&o->layout) },
        .kv_format = o->kv_format,
        .incarnation = o->incarnation,
        .max_tokens = o->max_model_len,
        .pull_timeout_us = o->pull_timeout_us,
        .take_timeout_us = o->take_timeout_us,
        .pull_take_bytes = o->pull_take_bytes,
        .released = on_released,
        .ctx = worker,
    };
    return o->eviction ? sharing_create(&options, &worker->sharing) : ST_OK;
}

status worker_create(const struct worker_options *options, struct worker **out)
{
    struct worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return ST_NO_MEMORY;
    worker->options = *options;
    worker->io = options->io;
    worker->timers = options->timers;
    /* The longest sequence fits the pool even when it is alone: else it would wait for blocks for ever. */
    uint64_t slots = (uint64_t)options->n_blocks * options->layout.block_tokens;
    if (worker->options.max_model_len >= slots)
        worker->options.max_model_len = slots ? (uint32_t)slots - 1 : 0;
    TAILQ_INIT(&worker->running);
    TAILQ_INIT(&worker->generation_order);
    TAILQ_INIT(&worker->claims);
    TAILQ_INIT(&worker->dying);
    TAILQ_INIT(&worker->unsent);
    TAILQ_INIT(&worker->job_order);
    TAILQ_INIT(&worker->job_queue);
    TAILQ_INIT(&worker->jobs_dying);
    struct block_pool_options pool = {
        .n_blocks = options->n_blocks,
        .block_tokens = options->layout.block_tokens,
        .generations = options->generations,
        .policy = options->eviction,
        .entered = block_entered,
        .ctx = worker,
    };
    status st = block_pool_create(&pool, &worker->pool);
    if (st == ST_OK)
        st = create_wiping(worker);
    if (st == ST_OK)
        st = create_cache(worker);
    if (st == ST_OK)
        st = create_sharing(worker);
    if (st == ST_OK)
        st = batch_init(worker);
    if (st != ST_OK) {
        worker_destroy(&worker);
        return st;
    }
    *out = worker;
    return ST_OK;
}

void worker_destroy(struct worker **worker)
{
    struct worker *w = *worker;
    if (!w)
        return;
    w->batch.is_running = false;
    w->is_pumping = true; /* nothing begins any more */
    generations_destroy(w);
    prefills_destroy(w);
    batch_free(w);
    sharing_destroy(&w->sharing);
    prefix_cache_destroy(&w->cache);
    wiping_destroy(&w->wiping);
    block_pool_destroy(&w->pool);
    free(w);
    *worker = NULL;
}

/* place: as the engine knows it. */
static bool find_adapter(const struct worker *worker, const Baton__Sampling *sampling, uint32_t *place)
{
    const struct adapters *adapters = worker->options.adapters;
    const char *id = sampling ? sampling->adapter : "";
    *place = 0;
    return adapters ? adapters_find(adapters, id, place) : id[0] == '\0';
}

bool worker_has_adapter(const struct worker *worker, const Baton__Sampling *sampling)
{
    uint32_t place;
    return find_adapter(worker, sampling, &place);
}

status worker_begin_sequence(const struct worker *worker, const struct sequence_request *request,
                             const struct sequence_ops *ops, struct sequence *seq, struct error *err)
{
    const struct worker_options *o = &worker->options;
    status st = sequence_init(seq, ops, request->tokens, request->n_tokens, request->sampling, o->n_vocab,
                              o->max_model_len, err);
    if (st != ST_OK)
        return st;
    st = sequence_read_salt(seq, request->salt, err);
    if (st != ST_OK) {
        sequence_free(seq);
        return st;
    }
    seq->priority = request->priority;
    bool is_here = find_adapter(worker, request->sampling, &seq->adapter);
    ASSERT(is_here);
    if (seq->adapter != 0)
        seq->adapter_id = o->adapters->ids[seq->adapter - 1];
    if (!request->no_cache)
        prefix_cache_join(worker->cache, seq);
    return ST_OK;
}

void worker_pump(struct worker *worker)
{
    if (worker->is_pumping) {
        worker->pump_again = true;
        return;
    }
    worker->is_pumping = true;
    do {
        worker->pump_again = false;
        generations_answer_claims(worker);
        prefills_ask_grants(worker);
        batch_start(worker);
        generations_send_tokens(worker);
        if (worker->sharing)
            sharing_pump(worker->sharing);
    } while (worker->pump_again);
    worker->is_pumping = false;
}

void worker_answer_stale(struct worker *worker, struct worker_peer *to, const struct frame *frame, uint32_t attempt,
                         uint32_t leg)
{
    Baton__Stale body = BATON__STALE__INIT;
    struct message_head head = { FRAME_STALE, frame->key, frame->attempt, frame->leg, FRAME_NO_DEADLINE, NULL };
    body.attempt = attempt;
    body.leg = leg;
    worker->counters.stale++;
    (void)worker->io->send(worker->io->ctx, to, &head, &body.base, false);
}

bool live_contains(Baton__Live *const *live, size_t n_live, struct request_key key, uint32_t attempt, uint32_t leg)
{
    for (size_t i = 0; i < n_live; i++)
        if (live[i]->router == key.router && live[i]->seq == key.seq && live[i]->attempt == attempt &&
            live[i]->leg == leg)
            return true;
    return false;
}

/* One case a message: unpack, call, free. A payload that does not unpack is counted and dropped. */
#define UNPACKED(type, call)                                                                                           \
    do {                                                                                                               \
        Baton__##type *msg = NULL;                                                                                     \
        msg = unpack_##type(frame);                                                                                    \
        if (msg) {                                                                                                     \
            call;                                                                                                      \
            protobuf_c_message_free_unpacked(&msg->base, NULL);                                                        \
        } else {                                                                                                       \
            worker->counters.malformed++;                                                                              \
        }                                                                                                              \
    } while (0)

#define UNPACKER(type, descriptor)                                                                                     \
    static Baton__##type *unpack_##type(const struct frame *frame)                                                     \
    {                                                                                                                  \
        return (Baton__##type *)protobuf_c_message_unpack(&descriptor, NULL, frame->payload_len, frame->payload);      \
    }

UNPACKER(Generate, baton__generate__descriptor)
UNPACKER(TokensAck, baton__tokens_ack__descriptor)
UNPACKER(Resume, baton__resume__descriptor)
UNPACKER(Prefill, baton__prefill__descriptor)
UNPACKER(Grant, baton__grant__descriptor)
UNPACKER(LayersReady, baton__layers_ready__descriptor)
UNPACKER(ChunkDone, baton__chunk_done__descriptor)
UNPACKER(ChunkTaken, baton__chunk_taken__descriptor)
UNPACKER(PrefillFailed, baton__prefill_failed__descriptor)

static void on_generation_message(struct worker *worker, struct worker_peer *peer, const struct frame *frame,
                                  uint64_t deadline_us)
{
    switch (frame->type) {
    case FRAME_GENERATE:
        UNPACKED(Generate, generation_on_generate(worker, peer, frame, deadline_us, msg));
        break;
    case FRAME_TOKENS_ACK:
        UNPACKED(TokensAck, generation_on_tokens_ack(worker, peer, frame, msg->position));
        break;
    case FRAME_RESUME:
        UNPACKED(Resume, generation_on_resume(worker, peer, frame, msg->position));
        break;
    case FRAME_GRANT_ASK:
        generation_on_grant_ask(worker, peer, frame);
        break;
    case FRAME_LAYERS_READY:
        UNPACKED(LayersReady, generation_on_layers(worker, peer, frame, msg));
        break;
    case FRAME_CHUNK_DONE:
        UNPACKED(ChunkDone, generation_on_chunk_done(worker, peer, frame, msg));
        break;
    case FRAME_PREFILL_FAILED:
        UNPACKED(PrefillFailed, generation_on_prefill_failed(worker, peer, frame, msg));
        break;
    default:
        worker->counters.malformed++;
        break;
    }
}

void worker_on_message(struct worker *worker, struct worker_peer *peer, const struct frame *frame, uint64_t deadline_us)
{
    if (worker->sharing && sharing_on_message(worker->sharing, peer, frame, deadline_us)) {
        worker_pump(worker);
        return;
    }
    switch (frame->type) {
    case FRAME_PREFILL:
        UNPACKED(Prefill, prefill_on_prefill(worker, peer, frame, deadline_us, msg));
        break;
    case FRAME_GRANT:
        UNPACKED(Grant, prefill_on_grant(worker, peer, frame, msg->from_token));
        break;
    case FRAME_CHUNK_TAKEN:
        UNPACKED(ChunkTaken, prefill_on_chunk_taken(worker, peer, frame, msg->index));
        break;
    case FRAME_CANCEL:
        if (!prefill_on_cancel(worker, peer, frame))
            (void)generation_on_cancel(worker, peer, frame);
        break;
    case FRAME_STALE:
        prefill_on_stale(worker, peer, frame);
        generation_on_stale(worker, peer, frame);
        break;
    default:
        on_generation_message(worker, peer, frame, deadline_us);
        break;
    }
    worker_pump(worker);
}

void worker_on_peer_lost(struct worker *worker, struct worker_peer *peer)
{
    generations_on_peer_lost(worker, peer);
    prefills_on_peer_lost(worker, peer);
    if (worker->sharing)
        sharing_on_peer_lost(worker->sharing, peer);
    worker_pump(worker);
}

void worker_on_peer_again(struct worker *worker, struct worker_peer *peer, Baton__Live *const *live, size_t n_live)
{
    generations_on_peer_again(worker, peer, live, n_live);
    prefills_on_peer_again(worker, peer, live, n_live);
    worker_pump(worker);
}

size_t worker_live(struct worker *worker, struct worker_peer *peer, Baton__Live *out, size_t max)
{
    size_t n = generations_live(worker, peer, out, max);
    return n + prefills_live(worker, peer, out + n, max - n);
}

void worker_drain(struct worker *worker)
{
    worker->draining = true;
    if (worker->sharing)
        sharing_drain(worker->sharing);
}

void worker_set_manager(struct worker *worker, struct worker_peer *manager)
{
    if (worker->sharing)
        sharing_set_manager(worker->sharing, manager);
}

bool worker_is_idle(const struct worker *worker)
{
    return !worker->batch.is_running && TAILQ_EMPTY(&worker->generation_order) && TAILQ_EMPTY(&worker->dying) &&
           TAILQ_EMPTY(&worker->job_order) && TAILQ_EMPTY(&worker->jobs_dying) &&
           (!worker->sharing || sharing_is_idle(worker->sharing));
}

void worker_load(struct worker *worker, Baton__Load *out)
{
    baton__load__init(out);
    out->id = (char *)worker->options.id;
    out->role = (char *)worker_role_name(worker->options.role);
    out->incarnation = worker->options.incarnation;
    out->draining = worker->draining;
    out->kv_blocks = block_pool_size(worker->pool);
    out->kv_free = block_pool_free(worker->pool);
    out->queued_requests = worker->generations.n + worker->jobs.n;
    out->prefill_tokens_per_s = worker->prefill_tokens_per_s;
    out->step_ms = worker->step_ms;
    const struct sequence *seq;
    TAILQ_FOREACH(seq, &worker->running, running)
    {
        out->running_sequences++;
        out->running_tokens += seq->computed;
    }
    router_marks_clear_queued(&worker->marks);
    out->queued_tokens = prefills_count_queued(worker) + generations_count_queued(worker);
    router_marks_fill(&worker->marks, out);
}

const struct worker_counters *worker_counters(const struct worker *worker)
{
    return &worker->counters;
}

uint32_t worker_paused_drafts(const struct worker *worker)
{
    uint32_t n = 0;
    const struct sequence *seq;
    TAILQ_FOREACH(seq, &worker->running, running)
    n += seq->speculation.paused;
    return n;
}

const struct step_cost *worker_step_cost(const struct worker *worker)
{
    return &worker->cost;
}

const struct pull_counters *worker_pull_counters(const struct worker *worker)
{
    return &worker->pulls;
}

const struct sharing *worker_sharing(const struct worker *worker)
{
    return worker->sharing;
}

struct prefix_cache *worker_prefix_cache(struct worker *worker)
{
    return worker->cache;
}

const struct wiping *worker_wiping(const struct worker *worker)
{
    return worker->wiping;
}

status worker_wipe(struct worker *worker, const struct wipe_call *call, uint32_t *forgotten)
{
    if (!worker->wiping)
        return ST_UNSUPPORTED;
    if (wiping_is_active(worker->wiping))
        return ST_AGAIN;
    const uint32_t n = prefix_cache_wipe(worker->cache, call->salt);
    if (n == UINT32_MAX)
        return ST_NO_MEMORY;
    *forgotten = n;
    return wiping_begin(worker->wiping, call);
}

struct block_pool *worker_pool(struct worker *worker)
{
    return worker->pool;
}
