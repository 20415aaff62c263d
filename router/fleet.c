#include "router/fleet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

struct fleet {
    struct fleet_options options;
    struct links *links;
    struct fleet_list workers;
    uint32_t n_workers;
    uint64_t turn, last_number;
    struct known_adapters adapters;
    /* scratch of choosing */
    struct fleet_worker *listed[FLEET_MAX_WORKERS];
    struct pick_candidate candidates[FLEET_MAX_WORKERS];
};

static status send_by_link(void *ctx, struct fleet_worker *worker, const struct message_head *head,
                           const ProtobufCMessage *body, bool acked)
{
    (void)ctx;
    return acked ? link_send_acked(worker->link, head, body) : link_send(worker->link, head, body);
}

static void forget_by_link(void *ctx, struct fleet_worker *worker, struct request_key key, uint32_t attempt)
{
    (void)ctx;
    link_forget(worker->link, key, attempt);
}

status fleet_create(const struct fleet_options *options, struct fleet **out)
{
    struct fleet *fleet = calloc(1, sizeof *fleet);
    if (!fleet)
        return ST_NO_MEMORY;
    fleet->options = *options;
    fleet->links = options->links;
    if (!fleet->options.send)
        fleet->options.send = send_by_link;
    if (!fleet->options.forget)
        fleet->options.forget = forget_by_link;
    TAILQ_INIT(&fleet->workers);
    *out = fleet;
    return ST_OK;
}

void fleet_set_links(struct fleet *fleet, struct links *links)
{
    fleet->links = links;
}

void fleet_set_callbacks(struct fleet *fleet, const struct fleet_callbacks *callbacks)
{
    fleet->options.callbacks = *callbacks;
}

static void worker_free(struct fleet_worker *worker)
{
    TAILQ_REMOVE(&worker->fleet->workers, worker, entry);
    worker->fleet->n_workers--;
    subscription_close(&worker->loads);
    if (worker->link)
        link_close(&worker->link);
    free(worker);
}

void fleet_destroy(struct fleet **fleet)
{
    struct fleet_worker *worker;
    if (!*fleet)
        return;
    while ((worker = TAILQ_FIRST(&(*fleet)->workers)))
        worker_free(worker);
    free(*fleet);
    *fleet = NULL;
}

static struct fleet_worker *find(const struct fleet *fleet, const char *id)
{
    struct fleet_worker *worker;
    TAILQ_FOREACH(worker, &fleet->workers, entry)
    if (!strcmp(worker->instance.id, id))
        return worker;
    return NULL;
}

/* ---- membership --------------------------------------------------------------- */

static void on_event(void *arg, const uint8_t *payload, size_t len)
{
    struct fleet_worker *worker = arg;
    Baton__Load *load = baton__load__unpack(NULL, len, payload);
    if (!load)
        return;
    if (!strcmp(load->id, worker->instance.id))
        fleet_on_load(worker->fleet, load);
    baton__load__free_unpacked(load, NULL);
}

static bool connect_worker(struct fleet_worker *worker)
{
    struct fleet *fleet = worker->fleet;
    const struct instance *in = &worker->instance;
    if (!fleet->links)
        return true;
    if (in->events[0] && links_subscribe(fleet->links, in->events, "load", on_event, worker, &worker->loads) != ST_OK)
        return false;
    if (!worker->is_decode)
        return true;
    if (links_connect(fleet->links, in->id, in->control, &worker->link) != ST_OK)
        return false;
    link_set_user(worker->link, worker);
    return true;
}

static struct fleet_worker *add_worker(struct fleet *fleet, const struct instance *instance)
{
    struct fleet_worker *worker = fleet->n_workers < FLEET_MAX_WORKERS ? calloc(1, sizeof *worker) : NULL;
    if (!worker) {
        log_error("no room for a worker", "id=%s most=%d", instance->id, FLEET_MAX_WORKERS);
        return NULL;
    }
    worker->fleet = fleet;
    worker->instance = *instance;
    worker->is_decode = !strcmp(instance->role, "decode");
    TAILQ_INIT(&worker->later_list);
    TAILQ_INSERT_TAIL(&fleet->workers, worker, entry);
    fleet->n_workers++;
    if (connect_worker(worker))
        return worker;
    log_error("cannot connect to a worker", "id=%s address=%s", instance->id, instance->control);
    worker_free(worker);
    return NULL;
}

static void tell_lost(struct fleet_worker *worker)
{
    struct fleet *fleet = worker->fleet;
    worker->up = false;
    worker->faults++;
    worker->fault_us = fleet->options.now(fleet->options.now_ctx);
    if (worker->is_decode && fleet->options.callbacks.on_lost)
        fleet->options.callbacks.on_lost(fleet->options.callbacks.ctx, worker);
}

static void learn_adapters(struct fleet *fleet, const char *model)
{
    const struct fleet_worker *worker;
    known_adapters_forget(&fleet->adapters, model);
    TAILQ_FOREACH(worker, &fleet->workers, entry)
    if (worker->is_decode && !strcmp(worker->instance.model, model))
        known_adapters_add(&fleet->adapters, &worker->instance);
}

void fleet_member(struct fleet *fleet, const struct instance *instance)
{
    if (strcmp(instance->role, "decode") != 0 && strcmp(instance->role, "prefill") != 0)
        return;
    struct fleet_worker *worker = find(fleet, instance->id);
    if (worker && (worker->instance.incarnation != instance->incarnation ||
                   strcmp(worker->instance.control, instance->control) != 0)) {
        /* The same name, another process. */
        if (worker->up)
            tell_lost(worker);
        worker_free(worker);
        worker = NULL;
    }
    if (!worker)
        worker = add_worker(fleet, instance);
    if (!worker)
        return;
    worker->is_member = true;
    worker->instance.max_model_len = instance->max_model_len;
    memcpy(worker->instance.adapters, instance->adapters, sizeof instance->adapters);
    if (worker->is_decode)
        learn_adapters(fleet, worker->instance.model);
    log_info("worker known", "id=%s role=%s model=%s address=%s", instance->id, instance->role, instance->model,
             instance->control);
    if (!worker->is_decode && fleet->options.callbacks.on_ready)
        fleet->options.callbacks.on_ready(fleet->options.callbacks.ctx, worker);
}

/* A decode worker whose link is up is kept: etcd may be wrong, the pings are
 * not. But it gets nothing new: it has taken itself out, or its lease ran out. */
void fleet_member_gone(struct fleet *fleet, const char *id)
{
    struct fleet_worker *worker = find(fleet, id);
    if (!worker)
        return;
    worker->is_member = false;
    if (!worker->up)
        worker_free(worker);
}

static void forget_load(struct fleet_worker *worker)
{
    worker->load_us = 0;
    worker->draining = false;
    worker->queued_tokens = worker->running_tokens = 0;
    worker->requests = worker->kv_blocks = worker->kv_free = 0;
}

void fleet_on_up(void *ctx, struct link *link, const Baton__Hello *hello, bool first)
{
    struct fleet *fleet = ctx;
    struct fleet_worker *worker = link_user(link);
    if (!worker)
        return;
    worker->up = true;
    if (hello->incarnation != worker->instance.incarnation) {
        /* It restarted at its address, and says so before etcd does. */
        worker->instance.incarnation = hello->incarnation;
        forget_load(worker);
    }
    log_info("worker up", "id=%s first=%d", worker->instance.id, first);
    if (!first && fleet->options.callbacks.on_again)
        fleet->options.callbacks.on_again(fleet->options.callbacks.ctx, worker, hello->live, hello->n_live);
    if (fleet->options.callbacks.on_ready)
        fleet->options.callbacks.on_ready(fleet->options.callbacks.ctx, worker);
}

void fleet_on_lost(void *ctx, struct link *link, const char *reason)
{
    struct fleet_worker *worker = link_user(link);
    (void)ctx;
    if (!worker)
        return;
    log_warn("worker lost", "id=%s reason=%s", worker->instance.id, reason);
    tell_lost(worker);
    if (!worker->is_member)
        worker_free(worker);
}

void fleet_on_message(void *ctx, struct link *link, const struct frame *frame, uint64_t deadline_us)
{
    struct fleet *fleet = ctx;
    struct fleet_worker *worker = link_user(link);
    (void)deadline_us;
    if (worker && fleet->options.callbacks.on_message)
        fleet->options.callbacks.on_message(fleet->options.callbacks.ctx, worker, frame);
}

size_t fleet_live(void *ctx, struct link *link, Baton__Live *out, size_t max)
{
    struct fleet *fleet = ctx;
    struct fleet_worker *worker = link_user(link);
    if (!worker || !fleet->options.callbacks.live)
        return 0;
    return fleet->options.callbacks.live(fleet->options.callbacks.ctx, worker, out, max);
}

static void no_longer_later(struct fleet_worker *worker, struct fleet_dispatch *dispatch)
{
    TAILQ_REMOVE(&worker->later_list, dispatch, entry);
    dispatch->is_later = false;
    worker->later--;
    worker->later_tokens -= dispatch->n_tokens;
}

/* The figures of this load hold what we dispatched up to our mark. */
static void on_mark(struct fleet_worker *worker, uint64_t number)
{
    struct fleet_dispatch *dispatch;
    while ((dispatch = TAILQ_FIRST(&worker->later_list)) && dispatch->number <= number)
        no_longer_later(worker, dispatch);
}

void fleet_on_load(struct fleet *fleet, const Baton__Load *load)
{
    struct fleet_worker *worker = find(fleet, load->id);
    if (!worker || worker->instance.incarnation != load->incarnation)
        return;
    worker->load_us = fleet->options.now(fleet->options.now_ctx);
    worker->draining = load->draining;
    worker->queued_tokens = load->queued_tokens;
    worker->running_tokens = load->running_tokens;
    worker->requests = load->queued_requests;
    worker->kv_blocks = load->kv_blocks;
    worker->kv_free = load->kv_free;
    for (size_t i = 0; i < load->n_marks; i++)
        if (load->marks[i]->router == fleet->options.incarnation)
            on_mark(worker, load->marks[i]->dispatch);
}

/* ---- choosing ------------------------------------------------------------------------ */

static bool avoided(const struct fleet_worker *worker, const char (*avoid)[64], uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(worker->instance.id, avoid[i]))
            return true;
    return false;
}

#define FAULT_TOKENS    4096u /* what each loss in a row weighs at first, in prompt tokens waiting */
#define MAX_FAULTS      16u
#define FAULT_MEMORY_US 10000000u /* then it is forgotten: a worker that nobody chooses could never redeem itself */

static uint64_t fault_weight(const struct fleet_worker *worker)
{
    const struct fleet_options *options = &worker->fleet->options;
    uint64_t age = options->now(options->now_ctx) - worker->fault_us;
    uint64_t faults = worker->faults < MAX_FAULTS ? worker->faults : MAX_FAULTS;
    return age < FAULT_MEMORY_US ? FAULT_TOKENS * faults * (FAULT_MEMORY_US - age) / FAULT_MEMORY_US : 0;
}

/* What the worker said, and what we gave it since. */
static struct pick_candidate snapshot(const struct fleet_worker *worker, bool usable)
{
    return (struct pick_candidate){
        .queued_tokens = worker->queued_tokens + worker->later_tokens + fault_weight(worker),
        .running_tokens = worker->running_tokens,
        .requests = worker->requests + worker->later,
        .kv_blocks = worker->kv_blocks,
        .kv_free = worker->kv_free,
        .usable = usable,
    };
}

static bool decode_usable(const struct fleet_worker *worker, const char *model)
{
    return worker->is_decode && worker->up && worker->is_member && !worker->draining &&
           !strcmp(worker->instance.model, model);
}

static bool has_adapter(const struct fleet_worker *worker, const char *adapter)
{
    return !adapter[0] || instance_has_adapter(&worker->instance, adapter);
}

static bool is_of_class(const struct fleet_worker *worker, const char *class)
{
    return !class[0] || !strcmp(worker->instance.class, class);
}

static struct fleet_worker *choose(struct fleet *fleet, const struct fleet_want *want, const char (*avoid)[64],
                                   uint32_t n_avoid)
{
    struct fleet_worker *worker;
    uint32_t n = 0;
    TAILQ_FOREACH(worker, &fleet->workers, entry)
    if (decode_usable(worker, want->model) && has_adapter(worker, want->adapter) && is_of_class(worker, want->class)) {
        fleet->listed[n] = worker;
        fleet->candidates[n++] = snapshot(worker, !avoided(worker, avoid, n_avoid));
    }
    uint32_t i = pick_worker(fleet->options.policy, fleet->candidates, n, fleet->turn++);
    return i == PICK_NONE ? NULL : fleet->listed[i];
}

struct fleet_worker *fleet_pick_decode(struct fleet *fleet, const struct fleet_want *want, const char (*avoid)[64],
                                       uint32_t n_avoid)
{
    struct fleet_worker *worker = choose(fleet, want, avoid, n_avoid);
    return worker || n_avoid == 0 ? worker : choose(fleet, want, NULL, 0);
}

static bool prefill_usable(const struct fleet *fleet, const struct fleet_worker *worker,
                           const struct fleet_worker *decode)
{
    uint64_t now = fleet->options.now(fleet->options.now_ctx);
    bool silent = worker->load_us && now - worker->load_us > fleet->options.silent_us;
    return !worker->is_decode && worker->is_member && !worker->draining && !silent &&
           !strcmp(worker->instance.kv_format, decode->instance.kv_format) &&
           !strcmp(worker->instance.model, decode->instance.model);
}

uint32_t fleet_rank_prefills(struct fleet *fleet, const struct fleet_worker *decode, const char *adapter,
                             struct fleet_worker **out, uint32_t max)
{
    struct fleet_worker *worker;
    uint32_t order[64], n = 0;
    TAILQ_FOREACH(worker, &fleet->workers, entry)
    if (prefill_usable(fleet, worker, decode) && has_adapter(worker, adapter)) {
        fleet->listed[n] = worker;
        fleet->candidates[n++] = snapshot(worker, true);
    }
    uint32_t ranked = pick_rank(fleet->candidates, n, fleet->turn, order, max < 64 ? max : 64);
    for (uint32_t i = 0; i < ranked; i++)
        out[i] = fleet->listed[order[i]];
    return ranked;
}

uint64_t fleet_next_number(struct fleet *fleet)
{
    return ++fleet->last_number;
}

void fleet_count(struct fleet_worker *worker, struct fleet_dispatch *dispatch, uint64_t number, uint32_t n_tokens)
{
    const struct fleet_dispatch *last = TAILQ_LAST(&worker->later_list, fleet_dispatches);
    ASSERT(!last || last->number < number);
    *dispatch = (struct fleet_dispatch){ .number = number, .n_tokens = n_tokens, .is_later = true };
    TAILQ_INSERT_TAIL(&worker->later_list, dispatch, entry);
    worker->ours++;
    worker->later++;
    worker->later_tokens += n_tokens;
}

void fleet_uncount(struct fleet_worker *worker, struct fleet_dispatch *dispatch)
{
    ASSERT(worker->ours > 0);
    worker->ours--;
    if (dispatch->is_later)
        no_longer_later(worker, dispatch);
}

status fleet_send(struct fleet_worker *worker, const struct message_head *head, const ProtobufCMessage *body,
                  bool acked)
{
    struct fleet *fleet = worker->fleet;
    return fleet->options.send(fleet->options.io_ctx, worker, head, body, acked);
}

void fleet_forget(struct fleet_worker *worker, struct request_key key, uint32_t attempt)
{
    struct fleet *fleet = worker->fleet;
    fleet->options.forget(fleet->options.io_ctx, worker, key, attempt);
}

bool fleet_has_decode(const struct fleet *fleet, const char *model)
{
    const struct fleet_worker *worker;
    TAILQ_FOREACH(worker, &fleet->workers, entry)
    if (decode_usable(worker, model ? model : worker->instance.model))
        return true;
    return false;
}

uint32_t fleet_max_model_len(const struct fleet *fleet, const char *model)
{
    const struct fleet_worker *worker;
    uint32_t most = 0;
    TAILQ_FOREACH(worker, &fleet->workers, entry)
    if (worker->is_decode && !strcmp(worker->instance.model, model) && worker->instance.max_model_len > most)
        most = worker->instance.max_model_len;
    return most;
}

const struct known_adapters *fleet_adapters(const struct fleet *fleet)
{
    return &fleet->adapters;
}

const struct fleet_list *fleet_workers(const struct fleet *fleet)
{
    return &fleet->workers;
}

uint32_t fleet_ours(const struct fleet *fleet)
{
    const struct fleet_worker *worker;
    uint32_t n = 0;
    TAILQ_FOREACH(worker, &fleet->workers, entry)
    n += worker->ours;
    return n;
}
