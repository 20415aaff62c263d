#include "worker/daemon.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/failpoint.h"
#include "common/log.h"
#include "kvbm/kv_format.h"
#include "worker/kv_memory.h"
#include "worker/process.h"
#include "worker/weights_client.h"
#include "worker/wiping.h"

static const struct config_field config_rows[] = {
#define FIELD(...) CONFIG_ROW(struct worker_config, __VA_ARGS__)
#include "worker/config.def"
#undef FIELD
};
const struct config_table worker_config_table = CONFIG_TABLE(struct worker_config, config_rows);

static const struct metric_row metric_rows[] = {
#define METRIC METRIC_ROW
#include "worker/metrics.def"
#undef METRIC
};
const struct metric_table worker_metric_table = METRIC_TABLE(metric_rows);

static enum worker_role process_role; /* of this process, set once by worker_daemon_run */

struct worker_process *worker_process_of(struct daemon *d)
{
    return daemon_state(d, &part_model);
}

static void note_load(const struct worker_process *p, const char *phase, uint64_t begin_us)
{
    struct metric *seconds =
        metrics_series(daemon_metrics(p->daemon), &worker_metric_table, WORKER_LOAD_SECONDS, (const char *[]){ phase });
    metric_set(seconds, (double)(clock_now_us() - begin_us) / 1e6);
}

/* ---- model ------------------------------------------------------------------ */

static status model_start(struct daemon *d, struct error *err)
{
    struct worker_process *p = calloc(1, sizeof *p);
    if (!p)
        return error_set(err, ST_NO_MEMORY, "no memory");
    TAILQ_INIT(&p->peers);
    TAILQ_INIT(&p->holders);
    p->daemon = d;
    p->config = daemon_config(d);
    p->role = process_role;
    daemon_set_state(d, &part_model, p);
    uint64_t begin = clock_now_us();
    status st = model_open(p->config->model, MODEL_WEIGHTS | MODEL_NO_TEXT, &p->model, err);
    if (st != ST_OK) {
        free(p);
        return st;
    }
    const char *name = p->config->model_name[0] ? p->config->model_name : model_name(p->model);
    snprintf(p->model_name, sizeof p->model_name, "%.255s", name);
    st = adapters_open(p->config->adapters, p->model_name, model_config(p->model), &p->adapters, err);
    if (st != ST_OK) {
        model_close(&p->model);
        free(p);
        return st;
    }
    note_load(p, "map", begin);
    return ST_OK;
}

static void model_stop(struct daemon *d)
{
    struct worker_process *p = worker_process_of(d);
    adapters_close(&p->adapters);
    model_close(&p->model);
    free(p);
}

const struct part part_model = { .name = "model", .start = model_start, .stop = model_stop };

/* ---- KV pool --------------------------------------------------------------------- */

/* The choices of kv_dtype. */
static const struct {
    enum dtype type;
    const char *word;
} kv_dtypes[] = { { DTYPE_BF16, "bf16" }, { DTYPE_F16, "f16" }, { DTYPE_F32, "f32" }, { DTYPE_INT8, "int8" } };

/* Defaults that fit the machine, and a maximum length that fits the pool. */
static status size_pool(struct worker_process *p, struct error *err)
{
    const struct worker_config *c = p->config;
    const struct model_config *m = model_config(p->model);
    model_kv_layout(m, (uint32_t)c->block_tokens, kv_dtypes[c->kv_dtype].type, &p->layout);
    uint64_t wanted = c->max_model_len ? (uint64_t)c->max_model_len : m->max_positions;
    if (wanted > m->max_positions)
        return error_set(err, ST_INVALID, "--max-model-len %" PRIu64 " is beyond the model's %u positions", wanted,
                         m->max_positions);
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t longest = (wanted + p->layout.block_tokens) * kv_token_bytes(&p->layout);
    uint64_t bytes = c->kv_memory ? c->kv_memory : kv_memory_default(memory, (uint64_t)c->host_workers, longest);
    uint64_t blocks = bytes / kv_block_bytes(&p->layout), slots = blocks * p->layout.block_tokens;
    if (blocks < 2 || blocks > UINT32_MAX / 2)
        return error_set(err, ST_INVALID, "--kv-memory of %" PRIu64 " bytes gives %" PRIu64 " blocks of %zu bytes",
                         bytes, blocks, kv_block_bytes(&p->layout));
    if (c->max_model_len && wanted > slots - 1)
        return error_set(err, ST_INVALID,
                         "--max-model-len %" PRIu64 " does not fit: --kv-memory holds %" PRIu64 " tokens", wanted,
                         slots - 1);
    p->n_blocks = (uint32_t)blocks;
    p->max_model_len = (uint32_t)(wanted < slots ? wanted : slots - 1);
    return ST_OK;
}

/* What must be equal for answers to be. */
static void name_class(struct worker_process *p)
{
    const struct worker_config *c = p->config;
    snprintf(p->class, sizeof p->class, "%s-%s", c->f32_math ? "f32" : engine_class_name((enum contract_class)c->class),
             kv_dtypes[c->kv_dtype].word);
}

/* Everything that must be equal for KV to be exchanged. */
static void name_format(struct worker_process *p)
{
    struct kv_format format = { .type = p->layout.type,
                                .order = KV_ORDER_LAYER_SIDE_HEAD_TOKEN,
                                .n_layers = p->layout.n_layers,
                                .n_kv_heads = p->layout.n_kv_heads,
                                .head_dim = p->layout.head_dim,
                                .block_tokens = p->layout.block_tokens,
                                .tensor_parallel = 1 };
    char text[KV_FORMAT_TEXT_BYTES];
    snprintf(format.class, sizeof format.class, "%s",
             p->config->f32_math ? "f32" : engine_class_name((enum contract_class)p->config->class));
    snprintf(p->kv_format, sizeof p->kv_format, "%016" PRIx64 "-%016" PRIx64 "-%s", model_fingerprint(p->model),
             model_text_fingerprint(p->model), kv_format_text(&format, text));
}

static status pool_start(struct daemon *d, struct error *err)
{
    struct worker_process *p = worker_process_of(d);
    status st = size_pool(p, err);
    if (st != ST_OK)
        return st;
    name_class(p);
    name_format(p);
    uint64_t begin = clock_now_us();
    struct transfer_options options = {
        .loop = daemon_loop(d),
        .geometry = { p->layout.n_layers, 2 * p->layout.n_kv_heads, p->layout.block_tokens,
                      (uint32_t)kv_slot_bytes(&p->layout) },
        .n_blocks = p->n_blocks,
        .mode = (enum transfer_mode)p->config->transfer,
        .network_address = p->config->daemon.advertise[0] ? p->config->daemon.advertise : NULL,
        .cluster_key_file = p->config->daemon.cluster_key_file,
        .incarnation = daemon_incarnation(d),
        .busy_poll = p->config->busy_poll,
    };
    st = transfer_create(&options, &p->transfer, err);
    note_load(p, "pool", begin);
    if (st == ST_OK)
        log_info("kv pool", "blocks=%u tokens=%llu bytes=%llu max_model_len=%u format=%s", p->n_blocks,
                 (unsigned long long)p->n_blocks * p->layout.block_tokens,
                 (unsigned long long)p->n_blocks * kv_block_bytes(&p->layout), p->max_model_len, p->kv_format);
    return st;
}

static void pool_stop(struct daemon *d)
{
    transfer_destroy(&worker_process_of(d)->transfer);
}

const struct part part_pool = { .name = "pool", .start = pool_start, .stop = pool_stop };

/* ---- engine -------------------------------------------------------------------------- */

static void on_layers(void *ctx, uint32_t layers)
{
    worker_layers_done(((struct worker_process *)ctx)->worker, layers);
}

/* A piece of a wipe, while the engine's thread rests. */
static void erase_drafts(struct worker_process *p)
{
    if (p->erased == ST_AGAIN)
        p->erased = drafter_erase(p->drafter, WIPING_TURN_BYTES);
}

/* Where one step follows the other their ends bring it on. */
static status on_erase(void *ctx, bool begins)
{
    struct worker_process *p = ctx;
    if (begins)
        p->erased = ST_AGAIN;
    if (!p->step_runs)
        erase_drafts(p);
    return p->erased;
}

static void on_step_done(void *ctx)
{
    struct worker_process *p = ctx;
    p->step_runs = false;
    erase_drafts(p);
    metric_observe_us(p->step_seconds, clock_now_us() - p->step_started_us);
    worker_step_done(p->worker);
}

static uint32_t usable_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

static void log_engine(const struct worker_process *p, uint32_t n_threads)
{
    struct engine_weights w = engine_weights(p->engine);
    log_info("engine ready",
             "model=%s isa=%s class=%s threads=%u pinned=%s weights=%s weights_bytes=%zu pages=%s shared=%s",
             p->model_name, engine_isa_name(p->engine), engine_class_name((enum contract_class)p->config->class),
             n_threads, engine_is_pinned(p->engine) ? "true" : "false", w.packed_here ? "packed" : "mapped", w.bytes,
             page_kind_name(w.pages), w.shared ? "true" : "false");
}

static status create_engine(struct worker_process *p, struct engine_options *options, struct error *err)
{
    const struct worker_config *c = p->config;
    struct weights_client_options weights = { c->weights_holder, c->weights_timeout, daemon_signal_came };
    if (weights_client_create(&weights, &p->weights) != ST_OK)
        return error_set(err, ST_NO_MEMORY, "no memory");
    options->weights_store = weights_client_store(p->weights);
    status st = engine_create(options, &p->engine, err);
    if (st != ST_OK)
        weights_client_destroy(&p->weights);
    return st;
}

static void engine_stop(struct daemon *d)
{
    struct worker_process *p = worker_process_of(d);
    drafter_destroy(&p->drafter);
    model_close(&p->draft_model);
    engine_destroy(&p->engine);
    weights_client_destroy(&p->weights);
}

static void before_step(void *ctx, struct step *step)
{
    struct worker_process *p = ctx;
    if (p->drafts)
        drafter_run(p->drafter, step, p->drafts);
}

static status start_drafter(struct worker_process *p, const struct engine_options *engine, struct error *err)
{
    const struct worker_config *c = p->config;
    if (p->role != WORKER_DECODE || c->speculation != SPECULATION_MODEL)
        return ST_OK;
    status st = model_open(c->draft_model, MODEL_WEIGHTS, &p->draft_model, err);
    if (st != ST_OK)
        return st;
    struct drafter_options options = {
        .model = p->draft_model,
        .isa = engine->isa,
        .f32_math = engine->f32_math,
        .n_threads = engine->n_threads,
        .pin_threads = engine->pin_threads,
        .n_blocks = p->n_blocks,
        .max_seqs = engine->max_seqs,
        .max_len = p->max_model_len,
    };
    model_kv_layout(model_config(p->draft_model), p->layout.block_tokens, p->layout.type, &options.kv);
    struct model *served = NULL; /* once more, with its vocabulary */
    st = model_open(c->model, 0, &served, err);
    if (st == ST_OK)
        st = drafter_create(&options, served, &p->drafter, err);
    model_close(&served);
    return st;
}

static status engine_start(struct daemon *d, struct error *err)
{
    struct worker_process *p = worker_process_of(d);
    const struct worker_config *c = p->config;
    uint64_t begin = clock_now_us();
    struct engine_options options = {
        .model = p->model,
        .isa = (enum engine_isa)c->isa,
        .class = (enum contract_class)c->class,
        .f32_math = c->f32_math,
        .n_threads = c->threads ? (uint32_t)c->threads : usable_cores(),
        .pin_threads = c->pin_threads,
        .kv = p->layout,
        .kv_pool.host = transfer_blocks(p->transfer),
        .kv_blocks = p->n_blocks,
        .max_rows = (uint32_t)(c->step_tokens > c->max_seqs ? c->step_tokens : c->max_seqs),
        .max_seqs = (uint32_t)c->max_seqs,
        .adapters = (const struct adapter *const *)p->adapters.list,
        .n_adapters = p->adapters.n,
    };
    status st = create_engine(p, &options, err);
    if (st != ST_OK)
        return st;
    struct engine_thread_options thread = { daemon_loop(d), p->engine, before_step, on_layers, on_step_done, p };
    st = start_drafter(p, &options, err);
    if (st == ST_OK && engine_thread_create(&thread, &p->thread) != ST_OK)
        st = error_set(err, ST_NO_MEMORY, "the engine thread could not be started");
    if (st != ST_OK) {
        engine_stop(d);
        return st;
    }
    p->step_seconds = metrics_series(daemon_metrics(d), &worker_metric_table, WORKER_STEP_SECONDS, NULL);
    note_load(p, "pack", begin);
    log_engine(p, options.n_threads);
    return ST_OK;
}

const struct part part_engine = { .name = "engine", .start = engine_start, .stop = engine_stop };

/* ---- protocol ----------------------------------------------------------------------------- */

static uint64_t io_now(void *ctx)
{
    (void)ctx;
    return clock_now_us();
}

static status io_send(void *ctx, struct worker_peer *to, const struct message_head *head, const ProtobufCMessage *body,
                      bool acked)
{
    (void)ctx;
    char name[64];
    snprintf(name, sizeof name, "worker.send.%s", frame_type_name(head->type));
    if (FAILPOINT(name) == FAILPOINT_DROP && !acked)
        return ST_OK;
    return acked ? link_send_acked(to->link, head, body) : link_send(to->link, head, body);
}

static void io_forget(void *ctx, struct worker_peer *to, struct request_key key, uint32_t attempt)
{
    (void)ctx;
    link_forget(to->link, key, attempt);
}

static void io_run(void *ctx, struct step *step, struct drafts *drafts)
{
    struct worker_process *p = ctx;
    p->drafts = drafts;
    p->step_runs = true;
    for (uint32_t i = 0; p->erased == ST_AGAIN && drafts && i < drafts->n; i++)
        drafts->asks[i].wanted = 0;
    p->step_started_us = clock_now_us();
    engine_thread_run(p->thread, step);
}

static status io_take(void *ctx, struct transfer_take *take)
{
    return transfer_take(((struct worker_process *)ctx)->transfer, take);
}

static void io_cancel_take(void *ctx, struct transfer_take *take)
{
    transfer_cancel(((struct worker_process *)ctx)->transfer, take);
}

static void io_entered(void *ctx, const char *what, const char *state)
{
    (void)ctx;
    char name[64];
    snprintf(name, sizeof name, "%s.%s", what, state);
    (void)FAILPOINT(name);
}

/* The choices of the row. */
static const struct eviction_policy *const eviction_policies[] = { &eviction_s3fifo, &eviction_lru, &eviction_fifo };

static status protocol_start(struct daemon *d, struct error *err)
{
    struct worker_process *p = worker_process_of(d);
    const struct worker_config *c = p->config;
    bool decodes = p->role == WORKER_DECODE;
    p->io = (struct worker_io){ p,
                                io_now,
                                io_send,
                                io_forget,
                                peers_find_prefill,
                                io_run,
                                io_take,
                                io_cancel_take,
                                io_entered,
                                kv_events_stored,
                                kv_events_removed,
                                peers_is_alive,
                                peers_find_holder };
    struct worker_options options = {
        .io = &p->io,
        .timers = loop_timers(daemon_loop(d)),
        .role = p->role,
        .adapters = &p->adapters,
        .layout = p->layout,
        .n_blocks = p->n_blocks,
        .generations = transfer_generations(p->transfer),
        .blocks = transfer_blocks(p->transfer),
        .erase_beside = p->drafter ? on_erase : NULL,
        .erase_ctx = p,
        .eviction = c->prefix_cache ? eviction_policies[c->eviction] : NULL,
        .weights = model_fingerprint(p->model),
        .tokenizer = model_text_fingerprint(p->model),
        .n_vocab = model_config(p->model)->n_vocab,
        .max_model_len = p->max_model_len,
        .max_requests = (uint32_t)c->max_requests,
        .limits = { .budget_rows = (uint32_t)c->step_tokens,
                    .max_seqs = (uint32_t)c->max_seqs,
                    .chunk_tokens = (uint32_t)c->chunk_tokens,
                    .beside_rows = decodes ? (uint32_t)c->beside_tokens : 0,
                    .target_us = decodes ? c->itl_target : 0,
                    .patience = c->patience },
        .speculation = decodes ? (enum worker_speculation)c->speculation : SPECULATION_OFF,
        .draft_tokens = (uint32_t)c->draft_tokens,
        .grant_window = (uint32_t)c->grant_window,
        .chunks_in_flight = (uint32_t)c->chunks_in_flight,
        .reserve_blocks = (uint32_t)c->reserve_blocks,
        .local_tokens = (uint32_t)c->local_tokens,
        .max_legs = (uint32_t)c->max_legs,
        .aside_us = c->claim_aside,
        .keep_finished_us = c->keep_finished,
        .take_timeout_us = c->take_timeout,
        .fetch = (enum worker_fetch)c->fetch,
        .pull_timeout_us = c->pull_timeout,
        .overlap = (enum worker_overlap)c->overlap,
        .incarnation = daemon_incarnation(d),
    };
    snprintf(options.id, sizeof options.id, "%s", daemon_id(d));
    snprintf(options.model, sizeof options.model, "%s", p->model_name);
    snprintf(options.kv_format, sizeof options.kv_format, "%s", p->kv_format);
    status st = worker_create(&options, &p->worker);
    return st == ST_OK ? ST_OK : error_set(err, st, "no memory for %u blocks", p->n_blocks);
}

static void protocol_drain(struct daemon *d)
{
    worker_drain(worker_process_of(d)->worker);
}

static bool protocol_drained(struct daemon *d)
{
    return worker_is_idle(worker_process_of(d)->worker);
}

/* The engine's and the transfer's threads work on blocks of the requests that
 * end here, so they are stopped first. */
static void protocol_stop(struct daemon *d)
{
    struct worker_process *p = worker_process_of(d);
    engine_thread_destroy(&p->thread);
    transfer_destroy(&p->transfer);
    worker_destroy(&p->worker);
}

const struct part part_protocol = {
    .name = "protocol",
    .start = protocol_start,
    .drain = protocol_drain,
    .drained = protocol_drained,
    .stop = protocol_stop,
};

static status check_config(const void *config, struct error *err)
{
    const struct worker_config *c = config;
    if (!c->model[0])
        return error_set(err, ST_INVALID, "--model is missing: a GGUF file or a Hugging Face folder");
    if (c->speculation == SPECULATION_MODEL && !c->draft_model[0])
        return error_set(err, ST_INVALID, "--draft-model is missing, which --speculation model needs");
    return ST_OK;
}

static bool is_ready(struct daemon *d, struct text_buffer *why)
{
    if (daemon_draining(d))
        text_buffer_add(why, "draining");
    else if (membership_name_is_taken(worker_process_of(d)->membership))
        text_buffer_add(why, "another process has this one's name in the cluster");
    return why->len == 0;
}

int worker_daemon_run(int argc, char **argv, enum worker_role role)
{
    static const struct part *const parts[] = {                  /* started down, stopped up */
                                                &part_model,     /* the model, mapped                       */
                                                &part_pool,      /* KV blocks, in memory others can map     */
                                                &part_engine,    /* the engine and its thread               */
                                                &part_protocol,  /* requests, steps, blocks: worker.h       */
                                                &part_peers,     /* links to routers and other workers      */
                                                &part_kv_wipe,   /* POST /kv/wipe                           */
                                                &part_kv_events, /* which blocks are here, for routers      */
                                                &part_members,   /* etcd: who we are and who is there       */
                                                &part_report,    /* load figures for routers, metrics       */
                                                NULL
    };
    process_role = role;
    return daemon_run(argc, argv,
                      &(struct daemon_spec){
                          .role = worker_role_name(role),
                          .about = role == WORKER_PREFILL ? "computes prompts and lends their KV to decode workers"
                                                          : "generates tokens, from KV that prefill workers computed",
                          .config = &worker_config_table,
                          .metrics = &worker_metric_table,
                          .parts = parts,
                          .check = check_config,
                          .ready = is_ready,
                      });
}
