#include "virtual_cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/link_pending.h"
#include "router/fleet.h"
#include "transfer/transfer.h"

#define LAYERS       3u
#define HEADS        2u
#define HEAD_DIM     8u
#define BLOCK_TOKENS 4u
#define MAX_REQUESTS 2048u
#define LOST_US      800000u  /* from a death to its notice */
#define FROZEN_US    3000000u /* from a freeze to its notice */
#define FREEZE_US    10000000u
#define REPEAT_US    250000u
#define LOAD_US      50000u
#define OVERRUN_US   300000u /* from the loss of an overrun link to the next greeting */

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* ---- world ------------------------------------------------------------------------ */

enum event_kind {
    EV_DELIVER,
    EV_REPEAT,
    EV_LAYER,
    EV_STEP,
    EV_TAKE,
    EV_LOST,
    EV_AGAIN,
    EV_OVERRUN,
    EV_FAULT,
    EV_RESTART,
    EV_DRAIN,
    EV_SUBMIT,
    EV_CANCEL,
    EV_LOAD
};

struct node;

struct message {
    struct message *next; /* pending list of the sender */
    struct node *from;
    uint32_t to;
    uint64_t id, to_life;
    bool acked_kind, pending;
    uint32_t uses; /* events that hold it */
    struct frame frame;
    uint8_t *payload;
    uint64_t deadline_us;
};

struct event {
    uint64_t at_us, order;
    enum event_kind kind;
    uint32_t node; /* where it happens */
    uint64_t life; /* of that node: an event of an earlier life is dropped */
    uint32_t a;
    struct message *message;
    struct transfer_take *take;
};

struct node {
    struct vc *vc;
    uint32_t index;
    char id[64];
    bool is_router, is_prefill, alive;
    uint64_t life; /* incarnation */
    uint64_t frozen_until;
    bool doomed;
    struct timers timers;
    struct worker_io io;
    struct worker *worker;
    uint8_t *memory;
    _Atomic uint64_t *generations;
    struct worker_peer peers[VC_MAX_NODES];
    bool link_up[VC_MAX_NODES];
    uint64_t next_free_us[VC_MAX_NODES]; /* keeps messages of a pair in order */
    struct step *step;
    struct message *pending;
    struct fleet *fleet; /* router */
    struct flows *flows;
};

/* What a client's callbacks get. */
struct client {
    struct vc *vc;
    struct vc_request *request;
};

struct retired {
    struct retired *next;
    uint8_t *memory;
    void *generations;
};

struct vc {
    struct vc_options options;
    struct kv_layout layout;
    struct transfer_geometry geometry;
    uint64_t now, random, next_id, next_order, next_life;
    struct event *events; /* binary heap */
    size_t n_events, capacity;
    struct node nodes[VC_MAX_NODES];
    uint32_t n_nodes;
    struct vc_request requests[MAX_REQUESTS];
    struct client clients[MAX_REQUESTS];
    uint32_t n_requests;
    uint32_t state_hits;
    bool fault_happened;
    uint32_t overruns, refusals;
    struct retired *retired;
};

static uint64_t draw(struct vc *vc)
{
    return mix(vc->random++);
}

static bool chance(struct vc *vc, double p)
{
    return (double)(draw(vc) >> 11) / 9007199254740992.0 < p;
}

static bool event_before(const struct event *a, const struct event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

static void push(struct vc *vc, struct event e)
{
    if (vc->n_events == vc->capacity) {
        vc->capacity = vc->capacity ? 2 * vc->capacity : 1024;
        vc->events = realloc(vc->events, vc->capacity * sizeof *vc->events);
        ASSERT(vc->events);
    }
    e.order = vc->next_order++;
    size_t i = vc->n_events++;
    for (; i && event_before(&e, &vc->events[(i - 1) / 2]); i = (i - 1) / 2)
        vc->events[i] = vc->events[(i - 1) / 2];
    vc->events[i] = e;
}

static struct event pop(struct vc *vc)
{
    struct event top = vc->events[0], last = vc->events[--vc->n_events];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < vc->n_events; i = child) {
        if (child + 1 < vc->n_events && event_before(&vc->events[child + 1], &vc->events[child]))
            child++;
        if (!event_before(&vc->events[child], &last))
            break;
        vc->events[i] = vc->events[child];
    }
    vc->events[i] = last;
    return top;
}

static uint64_t node_time(const struct node *n)
{
    return n->frozen_until > n->vc->now ? n->frozen_until : n->vc->now;
}

static uint64_t io_now(void *ctx)
{
    return ((struct node *)ctx)->vc->now;
}

/* ---- messages ------------------------------------------------------------------------ */

static void message_release(struct message *m)
{
    if (m->uses || m->pending)
        return;
    free(m->payload);
    free(m);
}

static void unpend(struct node *from, struct message *m)
{
    struct message **link = &from->pending;
    while (*link && *link != m)
        link = &(*link)->next;
    if (*link)
        *link = m->next;
    m->pending = false;
    message_release(m);
}

static void post_message(struct message *m, enum event_kind kind, uint64_t at)
{
    struct node *from = m->from;
    m->uses++;
    push(from->vc, (struct event){ .at_us = at,
                                   .kind = kind,
                                   .node = kind == EV_REPEAT ? from->index : m->to,
                                   .life = kind == EV_REPEAT ? from->life : m->to_life,
                                   .message = m });
}

static void transmit(struct message *m)
{
    struct node *from = m->from;
    struct vc *vc = from->vc;
    uint64_t at = node_time(from) + 20 + draw(vc) % 180;
    if (at <= from->next_free_us[m->to])
        at = from->next_free_us[m->to] + 1;
    from->next_free_us[m->to] = at;
    if (!chance(vc, vc->options.drop))
        post_message(m, EV_DELIVER, at);
    if (chance(vc, vc->options.repeat))
        post_message(m, EV_DELIVER, at + draw(vc) % 2000);
    if (m->acked_kind)
        post_message(m, EV_REPEAT, node_time(from) + REPEAT_US);
}

/* What proto/link_pending.c and proto/link_send.c do when a link keeps too much. */
static bool is_refused(struct node *from, uint32_t to, enum frame_type type)
{
    struct vc *vc = from->vc;
    uint32_t n = 0, room = vc->options.max_pending * (link_may_refuse(type) ? 1 : PENDING_SPARE);
    for (const struct message *m = from->pending; m; m = m->next)
        n += m->to == to;
    if (!room || n < room)
        return false;
    vc->refusals += link_may_refuse(type);
    if (!link_may_refuse(type))
        push(vc,
             (struct event){ .at_us = vc->now, .kind = EV_OVERRUN, .node = from->index, .life = from->life, .a = to });
    return true;
}

static status send_from(struct node *from, uint32_t to, const struct message_head *head, const ProtobufCMessage *body,
                        bool acked)
{
    struct vc *vc = from->vc;
    if (from->doomed)
        return ST_OK; /* it died at an earlier line */
    if (!from->link_up[to])
        return ST_CLOSED;
    if (acked && is_refused(from, to, head->type))
        return ST_LIMIT;
    struct message *m = calloc(1, sizeof *m);
    size_t len = protobuf_c_message_get_packed_size(body);
    ASSERT(m);
    m->from = from;
    m->to = to;
    m->to_life = vc->nodes[to].life;
    m->id = ++vc->next_id;
    m->acked_kind = m->pending = acked;
    m->payload = malloc(len ? len : 1);
    protobuf_c_message_pack(body, m->payload);
    m->frame = (struct frame){ .type = head->type,
                               .key = head->key,
                               .attempt = head->attempt,
                               .leg = head->leg,
                               .payload = m->payload,
                               .payload_len = (uint32_t)len };
    m->deadline_us = head->deadline_us;
    if (acked) {
        m->next = from->pending;
        from->pending = m;
    }
    m->uses++; /* this function's */
    transmit(m);
    m->uses--;
    message_release(m);
    return ST_OK;
}

static void forget_from(struct node *from, uint32_t to, struct request_key key, uint32_t attempt)
{
    struct message *m, *next;
    for (m = from->pending; m; m = next) {
        next = m->next;
        if (m->to == to && m->frame.key.router == key.router && m->frame.key.seq == key.seq &&
            m->frame.attempt <= attempt)
            unpend(from, m);
    }
}

static uint32_t peer_index(struct node *n, const struct worker_peer *peer)
{
    return (uint32_t)(peer - n->peers);
}

static status io_send(void *ctx, struct worker_peer *to, const struct message_head *head, const ProtobufCMessage *body,
                      bool acked)
{
    return send_from(ctx, peer_index(ctx, to), head, body, acked);
}

static void io_forget(void *ctx, struct worker_peer *to, struct request_key key, uint32_t attempt)
{
    forget_from(ctx, peer_index(ctx, to), key, attempt);
}

static struct worker_peer *io_find_prefill(void *ctx, const char *id)
{
    struct node *n = ctx;
    for (uint32_t i = 0; i < n->vc->n_nodes; i++)
        if (n->link_up[i] && n->vc->nodes[i].is_prefill && !strcmp(n->vc->nodes[i].id, id))
            return &n->peers[i];
    return NULL;
}

/* ---- engine ----------------------------------------------------------------------------- */

/* What the slot of position p holds in one (layer, side, head): a chain over the tokens up to p. */
static uint64_t chain(uint64_t before, uint32_t token, uint32_t layer, uint32_t segment)
{
    return mix(before ^ mix(((uint64_t)token << 16) + layer * 64 + segment + 1));
}

static uint64_t *slot(struct node *n, const uint32_t *blocks, uint32_t pos, uint32_t layer, uint32_t segment)
{
    const struct kv_layout *l = &n->vc->layout;
    uint8_t *block = n->memory + (size_t)blocks[pos / BLOCK_TOKENS] * kv_block_bytes(l);
    return (uint64_t *)(void *)(block + kv_offset(l, layer, (enum kv_side)(segment / HEADS), segment % HEADS,
                                                  pos % BLOCK_TOKENS));
}

static void compute_layer(struct node *n, struct step_seq *seq, uint32_t layer)
{
    for (uint32_t s = 0; s < 2 * HEADS; s++)
        for (uint32_t r = 0; r < seq->n_rows; r++) {
            uint32_t pos = seq->first_pos + r;
            uint64_t before = pos ? slot(n, seq->blocks, pos - 1, layer, s)[0] : 0;
            uint64_t *out = slot(n, seq->blocks, pos, layer, s);
            out[0] = chain(before, seq->tokens[r], layer, s);
            out[1] = ~out[0];
        }
}

/* Reads every slot, as attention does. */
static uint32_t sample(struct node *n, const struct step_seq *seq)
{
    uint64_t sum = 0;
    uint32_t end = seq->first_pos + seq->n_rows;
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t s = 0; s < 2 * HEADS; s++)
            for (uint32_t pos = 0; pos < end; pos++) {
                const uint64_t *v = slot(n, seq->blocks, pos, l, s);
                sum += mix(v[0]) + 3 * mix(v[1]);
            }
    return (uint32_t)(mix(sum) % VC_VOCAB);
}

uint32_t vc_next_token(const uint32_t *tokens, uint32_t n)
{
    uint64_t sum = 0;
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t s = 0; s < 2 * HEADS; s++) {
            uint64_t v = 0;
            for (uint32_t pos = 0; pos < n; pos++) {
                v = chain(v, tokens[pos], l, s);
                sum += mix(v) + 3 * mix(~v);
            }
        }
    return (uint32_t)(mix(sum) % VC_VOCAB);
}

static void io_run(void *ctx, struct step *step)
{
    struct node *n = ctx;
    uint64_t rows = 0, at = node_time(n);
    for (uint32_t i = 0; i < step->n_seqs; i++)
        rows += step->seqs[i].n_rows;
    n->step = step;
    for (uint32_t l = 0; l < LAYERS; l++)
        push(n->vc, (struct event){ .at_us = at + (300 + 20 * rows) * (l + 1) / LAYERS,
                                    .kind = EV_LAYER,
                                    .node = n->index,
                                    .life = n->life,
                                    .a = l });
    push(n->vc, (struct event){ .at_us = at + 310 + 20 * rows, .kind = EV_STEP, .node = n->index, .life = n->life });
}

static void on_layer(struct node *n, uint32_t layer)
{
    for (uint32_t i = 0; i < n->step->n_seqs; i++) {
        struct step_seq *seq = &n->step->seqs[i];
        if (layer == 0)
            seq->done = true;
        if (atomic_load(seq->cancelled))
            seq->done = false;
        if (seq->done)
            compute_layer(n, seq, layer);
    }
    worker_layers_done(n->worker, layer + 1);
}

static void on_step(struct node *n)
{
    for (uint32_t i = 0; i < n->step->n_seqs; i++) {
        struct step_seq *seq = &n->step->seqs[i];
        if (!seq->done || seq->logits != STEP_SAMPLE)
            continue;
        seq->sampled = (struct sampled){ .id = sample(n, seq), .hash = { seq->n_history, 7 } };
    }
    n->step = NULL;
    worker_step_done(n->worker);
}

/* ---- transfers ----------------------------------------------------------------------------- */

static status io_take(void *ctx, struct transfer_take *take)
{
    struct node *n = ctx;
    uint64_t slow = chance(n->vc, n->vc->options.slow) ? draw(n->vc) % SLOW_TAKE_US : 0;
    push(n->vc, (struct event){ .at_us = node_time(n) + 10 + 5 * take->n_spans * take->n_layers + slow,
                                .kind = EV_TAKE,
                                .node = n->index,
                                .life = n->life,
                                .take = take });
    return ST_OK;
}

static void io_cancel_take(void *ctx, struct transfer_take *take)
{
    (void)ctx;
    atomic_store(&take->cancelled, true);
}

static uint8_t *layer_of(const struct vc *vc, uint8_t *memory, uint32_t block, uint32_t layer)
{
    return memory + (size_t)block * kv_block_bytes(&vc->layout) + layer * kv_layer_bytes(&vc->layout);
}

static void copy_span(struct vc *vc, uint8_t *to, const uint8_t *from, const struct transfer_span *span)
{
    size_t slot_bytes = kv_slot_bytes(&vc->layout), head = kv_head_bytes(&vc->layout);
    for (uint32_t s = 0; s < 2 * HEADS; s++)
        memcpy(to + s * head + span->first * slot_bytes, from + s * head + span->first * slot_bytes,
               span->n * slot_bytes);
    if (chance(vc, vc->options.flip))
        to[span->first * slot_bytes] ^= 4;
}

/* A copy that was under way when it was cancelled: until it ends it writes, and by
 * now the lender may have put anything into the blocks. */
static void write_leftovers(struct node *n, const struct transfer_take *take)
{
    struct vc *vc = n->vc;
    size_t slot_bytes = kv_slot_bytes(&vc->layout), head = kv_head_bytes(&vc->layout);
    for (uint32_t l = 0; l < take->n_layers; l++)
        for (uint32_t i = 0; i < take->n_spans; i++) {
            const struct transfer_span *span = &take->spans[i];
            uint8_t *to = layer_of(vc, n->memory, span->local_block, take->first_layer + l);
            for (uint32_t s = 0; s < 2 * HEADS; s++)
                memset(to + s * head + span->first * slot_bytes, (int)(draw(vc) & 255), span->n * slot_bytes);
        }
}

/* transfer.h names the peer by a pointer; here it is the lender itself. */
static status do_take(struct node *n, struct transfer_take *take)
{
    struct vc *vc = n->vc;
    struct node *lender = (struct node *)(void *)take->peer;
    if (atomic_load(&take->cancelled)) {
        if (lender)
            write_leftovers(n, take);
        return ST_CANCELLED;
    }
    if (take->deadline_us < vc->now)
        return ST_TIMEOUT;
    for (uint32_t l = 0; l < take->n_layers; l++)
        for (uint32_t i = 0; i < take->n_spans; i++) {
            const struct transfer_span *span = &take->spans[i];
            uint32_t layer = take->first_layer + l;
            uint8_t *mine = layer_of(vc, n->memory, span->local_block, layer);
            if (lender) {
                if (atomic_load(&lender->generations[span->remote_block]) != span->remote_generation)
                    return ST_STALE;
                copy_span(vc, mine, layer_of(vc, lender->memory, span->remote_block, layer), span);
                take->bytes += span->n * kv_token_bytes(&vc->layout) / LAYERS;
            }
            if (take->checksums)
                take->checksums[l * take->n_spans + i] = transfer_layer_checksum(
                    &vc->geometry, n->memory + (size_t)span->local_block * kv_block_bytes(&vc->layout), layer,
                    span->first, span->n);
        }
    return ST_OK;
}

static void on_take(struct node *n, struct transfer_take *take)
{
    take->st = do_take(n, take);
    take->done(take);
}

/* ---- faults -------------------------------------------------------------------------------- */

static void drop_pending(struct node *from, int to)
{
    struct message *m, *next;
    for (m = from->pending; m; m = next) {
        next = m->next;
        if (to < 0 || m->to == (uint32_t)to)
            unpend(from, m);
    }
}

static void retire(struct node *n)
{
    struct retired *r = malloc(sizeof *r);
    ASSERT(r);
    *r = (struct retired){ n->vc->retired, n->memory, (void *)n->generations };
    n->vc->retired = r;
}

static void free_worker(struct node *n)
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
    worker_destroy(&n->worker);
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

static void kill_node(struct node *n)
{
    struct vc *vc = n->vc;
    n->alive = false;
    n->doomed = true; /* nothing it does while it is taken down gets out */
    n->step = NULL;
    drop_pending(n, -1);
    if (n->is_router)
        free_router(n);
    else
        free_worker(n);
    n->doomed = false;
    retire(n);
    memset(n->link_up, 0, sizeof n->link_up);
    for (uint32_t i = 0; i < vc->n_nodes; i++)
        if (i != n->index)
            push(
                vc,
                (struct event){
                    .at_us = vc->now + LOST_US, .kind = EV_LOST, .node = i, .life = vc->nodes[i].life, .a = n->index });
    if (vc->options.restart && !n->is_router)
        push(vc, (struct event){ .at_us = vc->now + 2000000, .kind = EV_RESTART, .node = n->index });
}

static void freeze_node(struct node *n)
{
    struct vc *vc = n->vc;
    n->frozen_until = vc->now + FREEZE_US;
    for (uint32_t i = 0; i < vc->n_nodes; i++)
        if (i != n->index && n->link_up[i]) {
            push(vc, (struct event){ .at_us = vc->now + FROZEN_US,
                                     .kind = EV_LOST,
                                     .node = i,
                                     .life = vc->nodes[i].life,
                                     .a = n->index });
            push(vc, (struct event){
                         .at_us = n->frozen_until + 1, .kind = EV_AGAIN, .node = n->index, .life = n->life, .a = i });
        }
}

static void strike(struct node *n, enum fault fault)
{
    if (!n->alive || n->frozen_until > n->vc->now)
        return;
    n->vc->fault_happened = true;
    if (fault == FAULT_FREEZE)
        freeze_node(n);
    else
        n->doomed = true; /* dies when the event that runs now is over; till then nothing gets out of it */
}

static void io_entered(void *ctx, const char *what, const char *state)
{
    struct node *n = ctx;
    const struct vc_options *o = &n->vc->options;
    char name[64];
    snprintf(name, sizeof name, "%s.%s", what, state);
    if (!o->fault || strcmp(name, o->fault_at) != 0 || (n->vc->fault_happened && !o->fault_always))
        return;
    if (++n->vc->state_hits >= o->fault_nth)
        strike(n, o->fault);
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static struct fleet_worker *fleet_entry(struct node *router, uint32_t index)
{
    struct fleet_worker *w;
    TAILQ_FOREACH(w, fleet_workers(router->fleet), entry)
    if (!strcmp(w->instance.id, router->vc->nodes[index].id))
        return w;
    return NULL;
}

static void link_up(struct node *n, uint32_t other)
{
    struct vc *vc = n->vc;
    n->link_up[other] = true;
    snprintf(n->peers[other].id, sizeof n->peers[other].id, "%s", vc->nodes[other].id);
    n->peers[other].transfer = (struct transfer_peer *)(void *)&vc->nodes[other];
    n->peers[other].transport = "shm";
    if (!n->is_router)
        return;
    struct instance in = { .incarnation = vc->nodes[other].life, .model = "m", .kv_format = "f", .max_model_len = 200 };
    snprintf(in.id, sizeof in.id, "%s", vc->nodes[other].id);
    snprintf(in.role, sizeof in.role, "%s", vc->nodes[other].is_prefill ? "prefill" : "decode");
    snprintf(in.control, sizeof in.control, "virtual");
    fleet_member(n->fleet, &in);
    fleet_entry(n, other)->up = !vc->nodes[other].is_prefill;
    flows_on_worker_ready(n->flows);
}

static void start_worker(struct node *n)
{
    struct vc *vc = n->vc;
    n->alive = true;
    n->doomed = false;
    n->frozen_until = 0;
    n->life = ++vc->next_life;
    n->memory = calloc(vc->options.n_blocks, kv_block_bytes(&vc->layout));
    n->generations = calloc(vc->options.n_blocks, sizeof *n->generations);
    n->io = (struct worker_io){ n,      io_now,  io_send,        io_forget, io_find_prefill,
                                io_run, io_take, io_cancel_take, io_entered };
    struct worker_options o = {
        .io = &n->io,
        .timers = &n->timers,
        .role = n->is_prefill ? WORKER_PREFILL : WORKER_DECODE,
        .model = "m",
        .kv_format = "f",
        .layout = vc->layout,
        .n_blocks = vc->options.n_blocks,
        .generations = n->generations,
        .n_vocab = VC_VOCAB,
        .max_model_len = 200,
        .max_requests = 64,
        .limits = { 64, 16, vc->options.chunk_tokens },
        .grant_window = 4,
        .chunks_in_flight = 8,
        .reserve_blocks = 4,
        .local_tokens = 8,
        .max_legs = 6,
        .aside_us = 100000,
        .keep_finished_us = 10000000,
        .take_timeout_us = 3000000,
        .incarnation = n->life,
    };
    snprintf(o.id, sizeof o.id, "%s", n->id);
    ASSERT(n->memory && n->generations && worker_create(&o, &n->worker) == ST_OK);
    push(vc, (struct event){ .at_us = vc->now + LOAD_US, .kind = EV_LOAD, .node = n->index, .life = n->life });
}

static void connect_all(struct node *n)
{
    for (uint32_t i = 0; i < n->vc->n_nodes; i++)
        if (i != n->index && n->vc->nodes[i].alive) {
            link_up(n, i);
            link_up(&n->vc->nodes[i], n->index);
        }
}

static void on_lost(struct node *n, uint32_t other)
{
    if (!n->link_up[other])
        return;
    n->link_up[other] = false;
    drop_pending(n, (int)other);
    if (n->is_router) {
        struct fleet_worker *w = fleet_entry(n, other);
        w->up = false;
        flows_on_worker_lost(n->flows, w, true);
        if (w->is_decode == false)
            fleet_member_gone(n->fleet, w->instance.id);
    } else {
        worker_on_peer_lost(n->worker, &n->peers[other]);
    }
}

static size_t live_of(struct node *n, uint32_t other, Baton__Live *out, size_t max)
{
    return n->is_router ? flows_live(n->flows, fleet_entry(n, other), out, max)
                        : worker_live(n->worker, &n->peers[other], out, max);
}

static void hear_live(struct node *n, uint32_t other)
{
    Baton__Live live[256], *pointers[256];
    size_t count = live_of(&n->vc->nodes[other], n->index, live, 256);
    for (size_t i = 0; i < count; i++)
        pointers[i] = &live[i];
    if (n->is_router)
        flows_on_worker_again(n->flows, fleet_entry(n, other), pointers, count);
    else
        worker_on_peer_again(n->worker, &n->peers[other], pointers, count);
}

/* A thawed node and its peer meet again: both say what they hold. */
static void on_again(struct node *n, uint32_t other)
{
    struct node *peer = &n->vc->nodes[other];
    if (!peer->alive || peer->frozen_until > n->vc->now)
        return;
    link_up(n, other);
    link_up(peer, n->index);
    hear_live(n, other);
    hear_live(peer, n->index);
}

/* Published figures may be lost, and nobody asks for them again. */
static void on_load(struct node *n)
{
    struct vc *vc = n->vc;
    struct node *router = &vc->nodes[0];
    Baton__Load load;
    worker_load(n->worker, &load);
    if (router->alive && router->frozen_until <= vc->now && !chance(vc, vc->options.drop))
        fleet_on_load(router->fleet, &load);
    push(vc, (struct event){ .at_us = vc->now + LOAD_US, .kind = EV_LOAD, .node = n->index, .life = n->life });
}

static void on_overrun(struct node *n, uint32_t other)
{
    if (!n->link_up[other])
        return;
    n->vc->overruns++;
    on_lost(n, other);
    push(n->vc,
         (struct event){
             .at_us = n->vc->now + OVERRUN_US, .kind = EV_AGAIN, .node = n->index, .life = n->life, .a = other });
}

static void on_deliver(struct node *n, struct message *m)
{
    struct node *from = m->from;
    bool from_current = from->alive && from->link_up[n->index];
    if (!n->link_up[from->index] || (!from_current && !m->pending && m->acked_kind))
        return;
    if (n->is_router) {
        struct fleet_worker *w = fleet_entry(n, from->index);
        Baton__Tokens *msg =
            m->frame.type == FRAME_TOKENS ? baton__tokens__unpack(NULL, m->frame.payload_len, m->frame.payload) : NULL;
        if (msg)
            flows_on_tokens(n->flows, w, &m->frame, msg);
        else if (m->frame.type == FRAME_STALE)
            flows_on_stale(n->flows, w, &m->frame);
        if (msg)
            baton__tokens__free_unpacked(msg, NULL);
    } else {
        worker_on_message(n->worker, &n->peers[from->index], &m->frame, m->deadline_us);
    }
    if (m->pending && !n->doomed)
        unpend(from, m);
}

/* ---- the router's clients ------------------------------------------------------------------------ */

static void check_token(struct vc_request *r, uint32_t position, uint32_t id)
{
    if (position != r->n_tokens || vc_next_token(r->tokens, r->n_tokens) != id)
        r->wrong++;
    if (r->n_tokens < r->n_prompt + r->max_tokens)
        r->tokens[r->n_tokens++] = id;
    else
        r->wrong++;
}

static void on_timing(void *arg, const Baton__Timing *timing)
{
    ((struct client *)arg)->request->timed = timing->decode_worker[0];
}

static void on_tokens(void *arg, uint32_t position, const Baton__Token *const *tokens, size_t n)
{
    struct vc_request *r = ((struct client *)arg)->request;
    r->wrong += !r->timed;
    for (size_t i = 0; i < n; i++)
        check_token(r, position + (uint32_t)i, tokens[i]->id);
}

static void on_finish(void *arg, Baton__Finish finish, const struct flow_timing *timing)
{
    struct vc_request *r = ((struct client *)arg)->request;
    r->ended = true;
    r->flow = NULL;
    r->wrong += finish != BATON__FINISH__FINISH_LENGTH || !r->timed || !timing->attempts ||
                r->n_tokens != r->n_prompt + r->max_tokens;
}

static void cancel(struct vc_request *r)
{
    if (r->ended)
        return;
    r->ended = r->cancelled = true;
    flow_cancel(&r->flow, "client_gone");
}

static void on_error(void *arg, enum flow_error error, const char *text)
{
    struct vc *vc = ((struct client *)arg)->vc;
    struct vc_request *r = ((struct client *)arg)->request;
    r->ended = r->failed = true;
    r->flow = NULL;
    r->code = error;
    snprintf(r->error, sizeof r->error, "%d: %s", (int)error, text);
    for (uint32_t i = 0; i < vc->n_requests && r->choices_of; i++)
        if (vc->requests[i].choices_of == r->choices_of)
            cancel(&vc->requests[i]);
}

static const struct flow_callbacks client_callbacks = { on_timing, on_tokens, on_finish, on_error };

static void submit(struct vc *vc, struct vc_request *r)
{
    struct flow_request q = {
        .model = "m",
        .prompt = r->tokens,
        .n_prompt = r->n_prompt,
        .sampling = { .max_tokens = r->max_tokens,
                      .top_p = 1,
                      .repetition_penalty = 1,
                      .n_logprobs = -1,
                      .want_hash = true },
        .route = r->route,
        .deadline_us = vc->now + (r->deadline_us ? r->deadline_us : 600000000),
        .callbacks = &client_callbacks,
        .arg = &vc->clients[r - vc->requests],
    };
    ASSERT(flow_submit(vc->nodes[0].flows, &q, &r->flow) == ST_OK);
}

/* ---- running --------------------------------------------------------------------------------------- */

static status router_send(void *ctx, struct fleet_worker *worker, const struct message_head *head,
                          const ProtobufCMessage *body, bool acked)
{
    struct node *n = ctx;
    for (uint32_t i = 1; i < n->vc->n_nodes; i++)
        if (!strcmp(n->vc->nodes[i].id, worker->instance.id))
            return send_from(n, i, head, body, acked);
    return ST_NOT_FOUND;
}

static void router_forget(void *ctx, struct fleet_worker *worker, struct request_key key, uint32_t attempt)
{
    struct node *n = ctx;
    for (uint32_t i = 1; i < n->vc->n_nodes; i++)
        if (!strcmp(n->vc->nodes[i].id, worker->instance.id))
            forget_from(n, i, key, attempt);
}

static void start_router(struct node *n)
{
    n->is_router = n->alive = true;
    n->life = ++n->vc->next_life;
    struct fleet_options f = { .incarnation = n->life,
                               .now = io_now,
                               .now_ctx = n,
                               .silent_us = UINT64_MAX,
                               .send = router_send,
                               .forget = router_forget,
                               .io_ctx = n };
    ASSERT(fleet_create(&f, &n->fleet) == ST_OK);
    struct flows_options o = { .fleet = n->fleet,
                               .timers = &n->timers,
                               .now = io_now,
                               .ctx = n,
                               .incarnation = n->life,
                               .max_attempts = 6,
                               .worker_wait_us = 20000000 };
    ASSERT(flows_create(&o, &n->flows) == ST_OK);
}

struct vc *vc_create(const struct vc_options *options)
{
    struct vc *vc = calloc(1, sizeof *vc);
    ASSERT(vc);
    vc->options = *options;
    vc->random = mix(options->seed);
    vc->now = 1000000;
    vc->layout = (struct kv_layout){ LAYERS, HEADS, HEAD_DIM, BLOCK_TOKENS, DTYPE_BF16 };
    vc->geometry = (struct transfer_geometry){ LAYERS, 2 * HEADS, BLOCK_TOKENS, (uint32_t)kv_slot_bytes(&vc->layout) };
    vc->n_nodes = 1 + options->n_decodes + options->n_prefills;
    for (uint32_t i = 0; i < vc->n_nodes; i++) {
        struct node *n = &vc->nodes[i];
        n->vc = vc;
        n->index = i;
        n->is_prefill = i > options->n_decodes;
        snprintf(n->id, sizeof n->id, "node-%u", i);
        timers_init(&n->timers);
        if (i == 0)
            start_router(n);
        else
            start_worker(n);
    }
    for (uint32_t i = 0; i < vc->n_nodes; i++)
        for (uint32_t j = 0; j < vc->n_nodes; j++)
            if (i != j)
                link_up(&vc->nodes[i], j);
    return vc;
}

void vc_destroy(struct vc *vc)
{
    flows_destroy(&vc->nodes[0].flows);
    for (uint32_t i = 1; i < vc->n_nodes; i++)
        if (vc->nodes[i].alive) {
            vc->nodes[i].doomed = true;
            free_worker(&vc->nodes[i]);
            retire(&vc->nodes[i]);
        }
    for (uint32_t i = 0; i < vc->n_nodes; i++) {
        drop_pending(&vc->nodes[i], -1);
        timers_free(&vc->nodes[i].timers);
    }
    while (vc->n_events) {
        struct event e = pop(vc);
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
    for (uint32_t k = 0; k < r->n_prompt; k++)
        r->tokens[k] = (uint32_t)(draw(vc) % VC_VOCAB);
    r->n_tokens = r->n_prompt;
    push(vc, (struct event){ .at_us = vc->now + r->at_us, .kind = EV_SUBMIT, .life = vc->nodes[0].life, .a = i });
    if (r->cancel_at_us)
        push(vc, (struct event){
                     .at_us = vc->now + r->cancel_at_us, .kind = EV_CANCEL, .life = vc->nodes[0].life, .a = i });
    return i;
}

struct vc_request *vc_request(struct vc *vc, uint32_t i)
{
    return &vc->requests[i];
}

void vc_fault(struct vc *vc, uint32_t node, enum fault fault, uint64_t at_us)
{
    push(vc, (struct event){ .at_us = vc->now + at_us,
                             .kind = EV_FAULT,
                             .node = node,
                             .a = (uint32_t)fault,
                             .life = vc->nodes[node].life });
}

void vc_drain(struct vc *vc, uint32_t worker, uint64_t at_us)
{
    push(vc,
         (struct event){ .at_us = vc->now + at_us, .kind = EV_DRAIN, .node = worker, .life = vc->nodes[worker].life });
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
        on_deliver(n, e->message);
        break;
    case EV_REPEAT:
        if (e->message->pending)
            transmit(e->message);
        break;
    case EV_LAYER:
        on_layer(n, e->a);
        break;
    case EV_STEP:
        on_step(n);
        break;
    case EV_TAKE:
        if (e->take)
            on_take(n, e->take);
        break;
    case EV_LOST:
        if (!vc->nodes[e->a].alive || vc->nodes[e->a].frozen_until > vc->now)
            on_lost(n, e->a);
        break;
    case EV_AGAIN:
        on_again(n, e->a);
        break;
    case EV_OVERRUN:
        on_overrun(n, e->a);
        break;
    case EV_FAULT:
        strike(n, (enum fault)e->a);
        break;
    case EV_SUBMIT:
        submit(vc, &vc->requests[e->a]);
        break;
    case EV_CANCEL:
        cancel(&vc->requests[e->a]);
        break;
    case EV_RESTART:
        start_worker(n);
        connect_all(n);
        break;
    case EV_LOAD:
        on_load(n);
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
    for (uint32_t i = 1; i < vc->n_nodes; i++)
        if (vc->nodes[i].alive && (vc->nodes[i].frozen_until > vc->now || !worker_is_idle(vc->nodes[i].worker)))
            return false;
    return true;
}

static void bury(struct vc *vc)
{
    for (uint32_t i = 0; i < vc->n_nodes; i++)
        if (vc->nodes[i].doomed && vc->nodes[i].alive)
            kill_node(&vc->nodes[i]);
}

static void step_event(struct vc *vc)
{
    struct event e = pop(vc);
    struct node *n = &vc->nodes[e.node];
    vc->now = e.at_us > vc->now ? e.at_us : vc->now;
    bool outside = e.kind == EV_RESTART;
    if (!outside && (!n->alive || n->life != e.life)) {
        /* of an earlier life */
    } else if (!outside && n->frozen_until > vc->now) {
        e.at_us = n->frozen_until;
        push(vc, e);
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
        uint32_t held = vc_held(vc, i);
        leaks += held;
        at += snprintf(what + at, size - (size_t)at, " %s=%u", vc->nodes[i].id, held);
    }
    return leaks;
}

const struct worker_counters *vc_counters(struct vc *vc, uint32_t worker)
{
    return worker_counters(vc->nodes[worker].worker);
}

const struct flow_counters *vc_flow_counters(struct vc *vc)
{
    return flows_counters(vc->nodes[0].flows);
}
