/* The parts of a router's process, but for members.c. */
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "kvbm/kv_page.h"
#include "router/api.h"
#include "router/message_memory.h"
#include "router/process.h"

#define SILENT_US 2000000u /* a prefill worker publishes its load every 50 ms */

struct router_process *router_process_of(struct daemon *d)
{
    return daemon_state(d, &part_models);
}

/* ---- models --------------------------------------------------------------------- */

static status models_start(struct daemon *d, struct error *err)
{
    struct router_process *p = calloc(1, sizeof *p);
    if (!p)
        return error_set(err, ST_NO_MEMORY, "no memory");
    p->daemon = d;
    p->config = daemon_config(d);
    status st = models_open(p->config->models, p->config->generation_config == GENERATION_CONFIG_AUTO, &p->models, err);
    if (st != ST_OK) {
        free(p);
        return st;
    }
    daemon_set_state(d, &part_models, p);
    return ST_OK;
}

static void models_stop(struct daemon *d)
{
    struct router_process *p = router_process_of(d);
    models_close(&p->models);
    free(p);
}

const struct part part_models = { .name = "models", .start = models_start, .stop = models_stop };

/* ---- fleet and flows ------------------------------------------------------------------ */

static uint64_t now(void *ctx)
{
    (void)ctx;
    return clock_now_us();
}

static void on_message(void *ctx, struct fleet_worker *worker, const struct frame *frame)
{
    struct router_process *p = ctx;
    if (frame->type == FRAME_TOKENS) {
        loop_more_follows(daemon_loop(p->daemon));
        ProtobufCAllocator *memory = message_memory_begin();
        Baton__Tokens *msg = baton__tokens__unpack(memory, frame->payload_len, frame->payload);
        if (!msg) {
            log_warn("malformed tokens", "worker=%s bytes=%u", worker->instance.id, frame->payload_len);
            return;
        }
        flows_on_tokens(p->flows, worker, frame, msg);
        baton__tokens__free_unpacked(msg, memory);
    } else if (frame->type == FRAME_STALE) {
        flows_on_stale(p->flows, worker, frame);
    }
}

static void on_ready(void *ctx, struct fleet_worker *worker)
{
    (void)worker;
    flows_on_worker_ready(((struct router_process *)ctx)->flows);
}

static void on_again(void *ctx, struct fleet_worker *worker, Baton__Live *const *live, size_t n_live)
{
    flows_on_worker_again(((struct router_process *)ctx)->flows, worker, live, n_live);
}

static void on_lost(void *ctx, struct fleet_worker *worker)
{
    flows_on_worker_lost(((struct router_process *)ctx)->flows, worker, true);
}

static size_t live(void *ctx, struct fleet_worker *worker, Baton__Live *out, size_t max)
{
    return flows_live(((struct router_process *)ctx)->flows, worker, out, max);
}

static status open_links(struct router_process *p, struct error *err)
{
    struct links_options options;
    membership_link_options(p->daemon, &options);
    options.model = options.kv_format = "";
    options.on_up = fleet_on_up;
    options.on_lost = fleet_on_lost;
    options.on_message = fleet_on_message;
    options.live = fleet_live;
    options.ctx = p->fleet;
    return links_create(&options, &p->links, err);
}

static void open_prediction_errors(struct router_process *p, struct metric *series[DECISION_PART_COUNT])
{
    for (int i = 0; i < DECISION_PART_COUNT; i++)
        series[i] = metrics_series(daemon_metrics(p->daemon), &router_metric_table, ROUTER_PREDICTION_ERROR,
                                   (const char *[]){ decision_part_name((enum decision_part)i) });
}

static status open_decision_log(struct router_process *p, struct error *err)
{
    const struct router_config *c = p->config;
    if (!c->decision_log[0])
        return ST_OK;
    return decision_log_open(c->decision_log, daemon_id(p->daemon), c->decision_log_size, &p->decision_log, err);
}

static status open_flows(struct router_process *p, struct error *err)
{
    struct flows_options options = {
        .fleet = p->fleet,
        .timers = loop_timers(daemon_loop(p->daemon)),
        .now = now,
        .incarnation = daemon_incarnation(p->daemon),
        .max_attempts = (uint32_t)p->config->max_attempts,
        .worker_wait_us = p->config->worker_wait,
        .kv_view = p->kv_view,
        .keep_class = p->config->class_lost == CLASS_LOST_ERROR,
    };
    status opened = open_decision_log(p, err);
    if (opened != ST_OK)
        return opened;
    options.decision_log = p->decision_log;
    open_prediction_errors(p, options.prediction_error);
    status st = flows_create(&options, &p->flows);
    return st == ST_OK ? ST_OK : error_set(err, st, "no memory");
}

static void fleet_stop(struct daemon *d)
{
    struct router_process *p = router_process_of(d);
    flows_destroy(&p->flows);
    decision_log_close(&p->decision_log);
    fleet_destroy(&p->fleet);
    links_destroy(&p->links);
}

static status fleet_start(struct daemon *d, struct error *err)
{
    struct router_process *p = router_process_of(d);
    const struct fleet_options options = {
        .incarnation = daemon_incarnation(d),
        .policy = (enum pick_policy)p->config->policy,
        .itl_target_us = p->config->itl_target,
        .now = now,
        .silent_us = SILENT_US,
        .callbacks = { on_message, on_ready, on_again, on_lost, live, p },
    };
    status st = fleet_create(&options, &p->fleet);
    if (st != ST_OK)
        return error_set(err, st, "no memory");
    st = open_flows(p, err);
    loop_set_poll(daemon_loop(d), p->config->busy_poll);
    if (st == ST_OK)
        st = open_links(p, err);
    if (st == ST_OK)
        fleet_set_links(p->fleet, p->links);
    else
        fleet_stop(d);
    return st;
}

const struct part part_fleet = { .name = "fleet", .start = fleet_start, .stop = fleet_stop };

/* ---- pool ----------------------------------------------------------------------------------- */

static status tokenize_start(struct daemon *d, struct error *err)
{
    struct router_process *p = router_process_of(d);
    if (p->config->tokenize_threads == 0)
        return ST_OK;
    status st = tokenize_pool_create(daemon_loop(d), (uint32_t)p->config->tokenize_threads, &p->pool);
    return st == ST_OK ? ST_OK : error_set(err, st, "the threads that tokenise could not be started");
}

static void tokenize_stop(struct daemon *d)
{
    tokenize_pool_destroy(&router_process_of(d)->pool);
}

const struct part part_tokenize = { .name = "tokenize", .start = tokenize_start, .stop = tokenize_stop };

/* ---- API -------------------------------------------------------------------------------------- */

static bool answer_health(void *ctx, struct http_exchange *x)
{
    return daemon_answer_health(ctx, x);
}

/* Workers and managers are compared with it before a salt is wiped. */
static void page_salt_key(void *arg, struct http_exchange *x)
{
    const struct router_process *p = arg;
    kv_page_answer_salt_key(x, daemon_id(p->daemon), daemon_role(p->daemon), &p->salt_key);
}

static status http_start(struct daemon *d, struct error *err)
{
    struct router_process *p = router_process_of(d);
    const struct api_options options = {
        .loop = daemon_loop(d),
        .config = p->config,
        .models = p->models,
        .fleet = p->fleet,
        .flows = p->flows,
        .pool = p->pool,
        .metrics = daemon_metrics(d),
        .incarnation = daemon_incarnation(d),
        .salt_key = &p->salt_key,
        .answer_health = answer_health,
        .ctx = d,
    };
    status st = salt_key_read(p->config->salt_key_file, &p->salt_key, err);
    if (st == ST_OK)
        st = api_create(&options, &p->api, err);
    if (st != ST_OK)
        return st;
    daemon_add_page(d, "GET", "/kv/salt-key", page_salt_key, p);
    daemon_report_port(d, "http", api_port(p->api));
    log_info("api listens", "address=%s port=%u models=%zu", p->config->http_listen, api_port(p->api),
             models_count(p->models));
    return ST_OK;
}

static void http_drain(struct daemon *d)
{
    api_drain(router_process_of(d)->api);
}

static bool http_drained(struct daemon *d)
{
    return api_held(router_process_of(d)->api) == 0;
}

static void http_stop(struct daemon *d)
{
    api_destroy(&router_process_of(d)->api);
}

const struct part part_http = {
    .name = "http", .start = http_start, .drain = http_drain, .drained = http_drained, .stop = http_stop
};
