#include <stdio.h>
#include <stdlib.h>

#include "virtual_internal.h"

struct vc *vc_create(const struct vc_options *options)
{
    struct vc *vc = calloc(1, sizeof *vc);
    ASSERT(vc);
    vc->options = *options;
    vc->random = vc_mix(options->seed);
    vc->now = 1000000;
    vc->layout = (struct kv_layout){ LAYERS, HEADS, HEAD_DIM, BLOCK_TOKENS, DTYPE_BF16 };
    vc->geometry = (struct transfer_geometry){ LAYERS, 2 * HEADS, BLOCK_TOKENS, (uint32_t)kv_slot_bytes(&vc->layout) };
    uint32_t n_workers = options->n_decodes + options->n_prefills;
    vc->n_nodes = 1 + n_workers + (options->manager_blocks > 0);
    for (uint32_t i = 0; i < vc->n_nodes; i++) {
        struct node *n = &vc->nodes[i];
        n->vc = vc;
        n->index = i;
        n->is_prefill = i > options->n_decodes && i <= n_workers;
        snprintf(n->id, sizeof n->id, "node-%u", i);
        timers_init(&n->timers);
        if (i == 0)
            node_start_router(n);
        else if (i > n_workers)
            node_start_manager(n);
        else
            node_start_worker(n);
    }
    for (uint32_t i = 0; i < vc->n_nodes; i++)
        for (uint32_t j = 0; j < vc->n_nodes; j++)
            if (i != j)
                virtual_link_up(&vc->nodes[i], j);
    return vc;
}

void vc_destroy(struct vc *vc)
{
    flows_destroy(&vc->nodes[0].flows);
    for (uint32_t i = 1; i < vc->n_nodes; i++)
        if (vc->nodes[i].alive) {
            vc->nodes[i].doomed = true;
            node_free_worker(&vc->nodes[i]);
            node_retire(&vc->nodes[i]);
        }
    for (uint32_t i = 0; i < vc->n_nodes; i++) {
        network_drop(&vc->nodes[i], -1);
        timers_free(&vc->nodes[i].timers);
    }
    while (vc->n_events) {
        struct event e = event_pop(vc);
        if (e.message && --e.message->uses == 0)
            message_release(e.message);
    }
    fleet_destroy(&vc->nodes[0].fleet);
    for (struct retired *r = vc->retired, *next; r; r = next) {
        next = r->next;
        free(r->memory);
        free(r->generations);
        free(r);
    }
    for (uint32_t i = 0; i < vc->n_requests; i++)
        free(vc->requests[i].tokens);
    free(vc->events);
    free(vc);
}

uint32_t vc_submit(struct vc *vc, const struct vc_request *request)
{
    ASSERT(vc->n_requests < MAX_REQUESTS);
    uint32_t i = vc->n_requests++;
    struct vc_request *r = &vc->requests[i];
    *r = *request;
    vc->clients[i] = (struct client){ vc, r };
    r->tokens = calloc(r->n_prompt + r->max_tokens, sizeof *r->tokens);
    if (vc->options.texts && !r->text) {
        r->text = 1 + (uint32_t)(vc_draw(vc) % vc->options.texts);
        r->n_text = (uint32_t)(vc_draw(vc) % (r->n_prompt + 1));
    }
    for (uint32_t k = 0; k < r->n_prompt; k++)
        r->tokens[k] = (uint32_t)(k < r->n_text ? vc_mix(vc_mix(r->text) + k) : vc_draw(vc)) % VC_VOCAB;
    r->n_tokens = r->n_prompt;
    event_push(vc, (struct event){ .at_us = vc->now + r->at_us, .kind = EV_SUBMIT, .life = vc->nodes[0].life, .a = i });
    if (r->cancel_at_us)
        event_push(vc, (struct event){
                           .at_us = vc->now + r->cancel_at_us, .kind = EV_CANCEL, .life = vc->nodes[0].life, .a = i });
    return i;
}

struct vc_request *vc_request(struct vc *vc, uint32_t i)
{
    return &vc->requests[i];
}

void vc_fault(struct vc *vc, uint32_t node, enum fault fault, uint64_t at_us)
{
    event_push(vc, (struct event){ .at_us = vc->now + at_us,
                                   .kind = EV_FAULT,
                                   .node = node,
                                   .a = (uint32_t)fault,
                                   .life = vc->nodes[node].life });
}

void vc_drain(struct vc *vc, uint32_t worker, uint64_t at_us)
{
    event_push(vc, (struct event){
                       .at_us = vc->now + at_us, .kind = EV_DRAIN, .node = worker, .life = vc->nodes[worker].life });
}

bool vc_fault_happened(const struct vc *vc)
{
    return vc->fault_happened;
}

uint32_t vc_overruns(const struct vc *vc)
{
    return vc->overruns;
}

uint32_t vc_refusals(const struct vc *vc)
{
    return vc->refusals;
}

uint64_t vc_now(const struct vc *vc)
{
    return vc->now;
}

static void handle(struct vc *vc, struct event *e)
{
    struct node *n = &vc->nodes[e->node];
    switch (e->kind) {
    case EV_DELIVER:
        virtual_deliver(n, e->message);
        break;
    case EV_REPEAT:
        if (e->message->pending)
            message_transmit(e->message);
        break;
    case EV_LAYER:
        virtual_layer_done(n, e->a);
        break;
    case EV_STEP:
        virtual_step_done(n);
        break;
    case EV_TAKE:
        if (e->take)
            virtual_take_done(n, e->take);
        break;
    case EV_LOST:
        if (!vc->nodes[e->a].alive || vc->nodes[e->a].frozen_until > vc->now)
            virtual_link_lost(n, e->a);
        break;
    case EV_AGAIN:
        virtual_link_again(n, e->a);
        break;
    case EV_OVERRUN:
        virtual_link_overrun(n, e->a);
        break;
    case EV_FAULT:
        node_strike(n, (enum fault)e->a);
        break;
    case EV_SUBMIT:
        client_submit(vc, &vc->requests[e->a]);
        break;
    case EV_CANCEL:
        client_cancel(&vc->requests[e->a]);
        break;
    case EV_RESTART:
        if (n->is_manager)
            node_start_manager(n);
        else
            node_start_worker(n);
        virtual_link_all(n);
        break;
    case EV_LOAD:
        virtual_load(n);
        break;
    case EV_DRAIN:
        worker_drain(n->worker);
        break;
    }
}

static void run_timers(struct vc *vc)
{
    for (uint32_t i = 0; i < vc->n_nodes; i++)
        if (vc->nodes[i].alive && vc->nodes[i].frozen_until <= vc->now)
            timers_run(&vc->nodes[i].timers, vc->now);
}

static uint64_t next_timer(const struct vc *vc)
{
    uint64_t next = TIMERS_NEVER;
    for (uint32_t i = 0; i < vc->n_nodes; i++) {
        uint64_t due = vc->nodes[i].alive ? timers_next(&vc->nodes[i].timers) : TIMERS_NEVER;
        if (due != TIMERS_NEVER && due < vc->nodes[i].frozen_until)
            due = vc->nodes[i].frozen_until;
        next = due < next ? due : next;
    }
    return next;
}

static bool all_quiet(struct vc *vc)
{
    for (uint32_t i = 0; i < vc->n_requests; i++)
        if (!vc->requests[i].ended)
            return false;
    for (uint32_t i = 1; i < vc->n_nodes; i++) {
        const struct node *n = &vc->nodes[i];
        if (n->alive &&
            (n->frozen_until > vc->now || !(n->is_manager ? virtual_manager_is_idle(n) : worker_is_idle(n->worker))))
            return false;
    }
    return true;
}

static void bury(struct vc *vc)
{
    for (uint32_t i = 0; i < vc->n_nodes; i++)
        if (vc->nodes[i].doomed && vc->nodes[i].alive)
            node_kill(&vc->nodes[i]);
}

static void step_event(struct vc *vc)
{
    struct event e = event_pop(vc);
    struct node *n = &vc->nodes[e.node];
    vc->now = e.at_us > vc->now ? e.at_us : vc->now;
    bool outside = e.kind == EV_RESTART;
    if (!outside && (!n->alive || n->life != e.life)) {
        /* of an earlier life */
    } else if (!outside && n->frozen_until > vc->now) {
        e.at_us = n->frozen_until;
        event_push(vc, e);
        return;
    } else {
        handle(vc, &e);
    }
    if (e.message && --e.message->uses == 0)
        message_release(e.message);
}

void vc_run(struct vc *vc, uint64_t until_us)
{
    until_us += vc->now;
    while (vc->now < until_us && !all_quiet(vc)) {
        uint64_t timer = next_timer(vc);
        if (vc->n_events && vc->events[0].at_us <= timer)
            step_event(vc);
        else if (timer == TIMERS_NEVER)
            return;
        else if (timer > vc->now)
            vc->now = timer;
        bury(vc);
        run_timers(vc);
        bury(vc);
    }
}

uint32_t vc_held(struct vc *vc, uint32_t worker)
{
    struct worker *w = vc->nodes[worker].worker;
    return block_pool_size(worker_pool(w)) - block_pool_free(worker_pool(w)) + !worker_is_idle(w);
}

uint32_t vc_leaks(struct vc *vc, char *what, size_t size)
{
    uint32_t leaks = vc->nodes[0].alive ? fleet_ours(vc->nodes[0].fleet) : 0;
    int at = snprintf(what, size, "router=%u", leaks);
    for (uint32_t i = 1; i < vc->n_nodes; i++) {
        if (!vc->nodes[i].alive)
            continue;
        bool is_manager = vc->nodes[i].is_manager;
        uint32_t held = is_manager ? virtual_manager_held(&vc->nodes[i]) : vc_held(vc, i);
        if (!is_manager)
            virtual_blocks_check(&vc->nodes[i]);
        leaks += held;
        at += snprintf(what + at, size - (size_t)at, " %s=%u", vc->nodes[i].id, held);
    }
    return leaks;
}

const struct worker_counters *vc_counters(struct vc *vc, uint32_t worker)
{
    return worker_counters(vc->nodes[worker].worker);
}

struct prefix_cache_counters vc_prefix_cache(struct vc *vc, uint32_t worker)
{
    return prefix_cache_counters(worker_prefix_cache(vc->nodes[worker].worker));
}

const struct pull_counters *vc_pulls(struct vc *vc, uint32_t worker)
{
    return vc->nodes[worker].alive ? worker_pull_counters(vc->nodes[worker].worker) : NULL;
}

const struct worker_counters *vc_worker_counters(struct vc *vc, uint32_t worker)
{
    return vc->nodes[worker].alive ? worker_counters(vc->nodes[worker].worker) : NULL;
}

const struct sharing *vc_sharing(struct vc *vc, uint32_t worker)
{
    return worker_sharing(vc->nodes[worker].worker);
}

uint32_t vc_flips(const struct vc *vc)
{
    return vc->flips;
}

const struct flow_counters *vc_flow_counters(struct vc *vc)
{
    return flows_counters(vc->nodes[0].flows);
}
