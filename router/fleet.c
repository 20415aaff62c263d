#include "router/fleet_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

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
    fleet_drop_counts(worker);
    fleet_leave_candidate(worker);
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

struct fleet_worker *fleet_find(struct fleet *fleet, const char *id)
{
    struct fleet_worker *worker;
    TAILQ_FOREACH(worker, &fleet->workers, entry)
    if (!strcmp(worker->instance.id, id))
        return worker;
    return NULL;
}

/* ---- membership --------------------------------------------------------------- */

static const Baton__RouterMark *our_mark(const struct fleet *fleet, const Baton__Load *load)
{
    for (size_t i = 0; i < load->n_marks; i++)
        if (load->marks[i]->router == fleet->options.incarnation)
            return load->marks[i];
    return NULL;
}

void fleet_hear(struct fleet_worker *worker, const Baton__Load *load)
{
    const struct fleet *fleet = worker->fleet;
    if (worker->instance.incarnation != load->incarnation)
        return;
    worker->load_us = fleet_now(fleet);
    worker->draining = load->draining;
    worker->running_tokens = load->running_tokens;
    worker->requests = load->queued_requests;
    worker->running = load->running_sequences;
    worker->kv_blocks = load->kv_blocks;
    worker->kv_free = load->kv_free;
    const Baton__RouterMark *ours = our_mark(fleet, load);
    if (worker->is_decode)
        fleet_on_mark(worker, ours ? ours->dispatch : 0);
    else
        fleet_on_prefill_load(worker);
    fleet_on_queue(worker, load->queued_tokens, ours ? ours->queued_tokens : 0);
    fleet_refresh(worker);
}

static void on_load(struct fleet_worker *worker, const Baton__Load *load)
{
    fleet_hear(worker, load);
    fleet_refresh_rates(worker, 1e3 * load->step_ms);
}

void fleet_on_load(struct fleet *fleet, const Baton__Load *load)
{
    struct fleet_worker *worker = fleet_find(fleet, load->id);
    if (worker)
        on_load(worker, load);
}

static void on_event(void *arg, const uint8_t *payload, size_t len)
{
    struct fleet_worker *worker = arg;
    Baton__Load *load = baton__load__unpack(NULL, len, payload);
    if (!load)
        return;
    if (!strcmp(load->id, worker->instance.id))
        on_load(worker, load);
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
    TAILQ_INIT(&worker->held_list);
    TAILQ_INSERT_TAIL(&fleet->workers, worker, entry);
    fleet->n_workers++;
    fleet_enter_candidate(worker);
    if (connect_worker(worker))
        return worker;
    log_error("cannot connect to a worker", "id=%s address=%s", instance->id, instance->control);
    worker_free(worker);
    return NULL;
}

void fleet_set_up(struct fleet_worker *worker, bool up)
{
    worker->up = up;
    fleet_refresh(worker);
}

void fleet_forgive(struct fleet_worker *worker)
{
    worker->faults = 0;
    fleet_refresh(worker);
}

static void tell_lost(struct fleet_worker *worker)
{
    struct fleet *fleet = worker->fleet;
    worker->faults++;
    worker->fault_us = fleet_now(fleet);
    fleet_set_up(worker, false);
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
    struct fleet_worker *worker = fleet_find(fleet, instance->id);
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
    fleet_refresh(worker);
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
    struct fleet_worker *worker = fleet_find(fleet, id);
    if (!worker)
        return;
    worker->is_member = false;
    fleet_refresh(worker);
    if (!worker->up)
        worker_free(worker);
}

static void forget_load(struct fleet_worker *worker)
{
    worker->load_us = 0;
    worker->draining = false;
    worker->running_tokens = 0;
    fleet_on_queue(worker, 0, 0);
    worker->requests = worker->running = worker->kv_blocks = worker->kv_free = 0;
    fleet_refresh(worker);
}

void fleet_on_up(void *ctx, struct link *link, const Baton__Hello *hello, bool first)
{
    struct fleet *fleet = ctx;
    struct fleet_worker *worker = link_user(link);
    if (!worker)
        return;
    fleet_set_up(worker, true);
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

/* ---- for others ------------------------------------------------------------------------------ */

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

static bool decode_usable(const struct fleet_worker *worker, const char *model)
{
    return worker->is_decode && worker->up && worker->is_member && !worker->draining &&
           !strcmp(worker->instance.model, model);
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
