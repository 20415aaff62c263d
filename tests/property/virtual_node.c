#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtual_internal.h"

#define LOST_US   800000u  /* from a death to its notice */
#define FROZEN_US 3000000u /* from a freeze to its notice */
#define FREEZE_US 10000000u

uint64_t node_time(const struct node *n)
{
    return n->frozen_until > n->vc->now ? n->frozen_until : n->vc->now;
}

uint64_t node_now(void *ctx)
{
    return ((struct node *)ctx)->vc->now;
}

void node_retire(struct node *n)
{
    struct retired *r = malloc(sizeof *r);
    ASSERT(r);
    *r = (struct retired){ n->vc->retired, n->memory, (void *)n->generations };
    n->vc->retired = r;
}

void node_free_worker(struct node *n)
{
    /* What was under way dies with the process. */
    for (size_t i = 0; i < n->vc->n_events; i++) {
        struct event *e = &n->vc->events[i];
        if (e->kind == EV_TAKE && e->node == n->index && e->life == n->life && e->take) {
            e->take->st = ST_CLOSED;
            struct transfer_take *take = e->take;
            e->take = NULL;
            take->done(take);
        }
    }
    if (n->is_manager)
        virtual_manager_free(n);
    worker_destroy(&n->worker);
    free(n->known);
    n->known = NULL;
    timers_free(&n->timers);
    timers_init(&n->timers);
}

static void free_router(struct node *n)
{
    struct vc *vc = n->vc;
    flows_destroy(&n->flows);
    fleet_destroy(&n->fleet);
    timers_free(&n->timers);
    timers_init(&n->timers);
    for (uint32_t i = 0; i < vc->n_requests; i++) {
        struct vc_request *r = &vc->requests[i];
        r->flow = NULL;
        if (r->ended)
            continue;
        r->ended = r->failed = true;
        r->code = FLOW_INTERNAL;
        snprintf(r->error, sizeof r->error, "the router died");
    }
}

void node_kill(struct node *n)
{
    struct vc *vc = n->vc;
    n->alive = false;
    n->doomed = true; /* nothing it does while it is taken down gets out */
    n->step = NULL;
    network_drop(n, -1);
    if (n->is_router)
        free_router(n);
    else
        node_free_worker(n);
    n->doomed = false;
    node_retire(n);
    memset(n->link_up, 0, sizeof n->link_up);
    for (uint32_t i = 0; i < vc->n_nodes; i++)
        if (i != n->index)
            event_push(
                vc,
                (struct event){
                    .at_us = vc->now + LOST_US, .kind = EV_LOST, .node = i, .life = vc->nodes[i].life, .a = n->index });
    if (vc->options.restart && !n->is_router)
        event_push(vc, (struct event){ .at_us = vc->now + 2000000, .kind = EV_RESTART, .node = n->index });
}

static void freeze_node(struct node *n)
{
    struct vc *vc = n->vc;
    n->frozen_until = vc->now + FREEZE_US;
    for (uint32_t i = 0; i < vc->n_nodes; i++)
        if (i != n->index && n->link_up[i]) {
            event_push(vc, (struct event){ .at_us = vc->now + FROZEN_US,
                                           .kind = EV_LOST,
                                           .node = i,
                                           .life = vc->nodes[i].life,
                                           .a = n->index });
            event_push(vc,
                       (struct event){
                           .at_us = n->frozen_until + 1, .kind = EV_AGAIN, .node = n->index, .life = n->life, .a = i });
        }
}

void node_strike(struct node *n, enum fault fault)
{
    if (!n->alive || n->frozen_until > n->vc->now)
        return;
    n->vc->fault_happened = true;
    if (fault == FAULT_FREEZE)
        freeze_node(n);
    else
        n->doomed = true; /* dies when the event that runs now is over; till then nothing gets out of it */
}

static void entered(void *ctx, const char *what, const char *state)
{
    struct node *n = ctx;
    const struct vc_options *o = &n->vc->options;
    char name[64];
    snprintf(name, sizeof name, "%s.%s", what, state);
    if (!o->fault || strcmp(name, o->fault_at) != 0 || (n->vc->fault_happened && !o->fault_always))
        return;
    if (++n->vc->state_hits >= o->fault_nth)
        node_strike(o->fault_of_manager ? &n->vc->nodes[n->vc->n_nodes - 1] : n, o->fault);
}

void node_start_worker(struct node *n)
{
    struct vc *vc = n->vc;
    n->alive = true;
    n->doomed = false;
    n->frozen_until = 0;
    n->life = ++vc->next_life;
    n->memory = calloc(vc->options.n_blocks, kv_block_bytes(&vc->layout));
    n->generations = calloc(vc->options.n_blocks, sizeof *n->generations);
    n->known = calloc(vc->options.n_blocks, sizeof *n->known);
    n->n_known = 0;
    n->io = (struct worker_io){ n,
                                node_now,
                                network_worker_send,
                                network_worker_forget,
                                network_find_prefill,
                                virtual_run,
                                virtual_take,
                                virtual_cancel_take,
                                entered,
                                virtual_blocks_stored,
                                virtual_blocks_removed,
                                network_is_alive,
                                network_find_holder };
    struct worker_options o = {
        .io = &n->io,
        .timers = &n->timers,
        .role = n->is_prefill ? WORKER_PREFILL : WORKER_DECODE,
        .model = "m",
        .kv_format = "f",
        .layout = vc->layout,
        .n_blocks = vc->options.n_blocks,
        .generations = n->generations,
        .eviction = vc->options.no_cache ? NULL : &eviction_s3fifo,
        .n_vocab = VC_VOCAB,
        .max_model_len = 200,
        .max_requests = 64,
        .limits = { .budget_rows = 64,
                    .max_seqs = 16,
                    .chunk_tokens = vc->options.chunk_tokens,
                    .target_us = n->is_prefill ? 0 : vc->options.target_us,
                    .patience = 500000 },
        .speculation = vc->options.guesses ? SPECULATION_LOOKUP : SPECULATION_OFF,
        .draft_tokens = vc->options.guesses,
        .grant_window = 4,
        .chunks_in_flight = 8,
        .reserve_blocks = 4,
        .local_tokens = 8,
        .max_legs = 6,
        .aside_us = 100000,
        .keep_finished_us = 10000000,
        .take_timeout_us = 3000000,
        .pull_timeout_us = 20000,
        .pull_take_bytes = vc->options.pull_take_bytes,
        .incarnation = n->life,
    };
    snprintf(o.id, sizeof o.id, "%s", n->id);
    ASSERT(n->memory && n->generations && n->known && worker_create(&o, &n->worker) == ST_OK);
    event_push(vc, (struct event){ .at_us = vc->now + LOAD_US, .kind = EV_LOAD, .node = n->index, .life = n->life });
}

void node_start_router(struct node *n)
{
    n->is_router = n->alive = true;
    n->life = ++n->vc->next_life;
    struct fleet_options f = { .policy = n->vc->options.policy,
                               .incarnation = n->life,
                               .now = node_now,
                               .now_ctx = n,
                               .silent_us = UINT64_MAX,
                               .send = network_router_send,
                               .forget = network_router_forget,
                               .io_ctx = n };
    ASSERT(fleet_create(&f, &n->fleet) == ST_OK);
    struct flows_options o = { .fleet = n->fleet,
                               .timers = &n->timers,
                               .now = node_now,
                               .ctx = n,
                               .incarnation = n->life,
                               .max_attempts = 6,
                               .worker_wait_us = 20000000 };
    ASSERT(flows_create(&o, &n->flows) == ST_OK);
}
