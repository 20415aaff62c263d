#include <stdlib.h>
#include <string.h>

#include "proto/link_pending.h"
#include "virtual_internal.h"

void message_release(struct message *m)
{
    if (m->uses || m->pending)
        return;
    free(m->payload);
    free(m);
}

void message_unpend(struct node *from, struct message *m)
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
    event_push(from->vc, (struct event){ .at_us = at,
                                         .kind = kind,
                                         .node = kind == EV_REPEAT ? from->index : m->to,
                                         .life = kind == EV_REPEAT ? from->life : m->to_life,
                                         .message = m });
}

void message_transmit(struct message *m)
{
    struct node *from = m->from;
    struct vc *vc = from->vc;
    uint64_t at = node_time(from) + 20 + vc_draw(vc) % 180;
    if (at <= from->next_free_us[m->to])
        at = from->next_free_us[m->to] + 1;
    from->next_free_us[m->to] = at;
    if (!vc_chance(vc, vc->options.drop))
        post_message(m, EV_DELIVER, at);
    if (vc_chance(vc, vc->options.repeat))
        post_message(m, EV_DELIVER, at + vc_draw(vc) % 2000);
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
        event_push(vc, (struct event){
                           .at_us = vc->now, .kind = EV_OVERRUN, .node = from->index, .life = from->life, .a = to });
    return true;
}

static status network_send(struct node *from, uint32_t to, const struct message_head *head,
                           const ProtobufCMessage *body, bool acked)
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
                               .incarnation = from->life,
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
    message_transmit(m);
    m->uses--;
    message_release(m);
    return ST_OK;
}

static void network_forget(struct node *from, uint32_t to, struct request_key key, uint32_t attempt)
{
    struct message *m, *next;
    for (m = from->pending; m; m = next) {
        next = m->next;
        if (m->to == to && m->frame.key.router == key.router && m->frame.key.seq == key.seq &&
            m->frame.attempt <= attempt)
            message_unpend(from, m);
    }
}

static uint32_t peer_index(struct node *n, const struct worker_peer *peer)
{
    return (uint32_t)(peer - n->peers);
}

status network_worker_send(void *ctx, struct worker_peer *to, const struct message_head *head,
                           const ProtobufCMessage *body, bool acked)
{
    return network_send(ctx, peer_index(ctx, to), head, body, acked);
}

void network_worker_forget(void *ctx, struct worker_peer *to, struct request_key key, uint32_t attempt)
{
    network_forget(ctx, peer_index(ctx, to), key, attempt);
}

struct worker_peer *network_find_prefill(void *ctx, const char *id)
{
    struct node *n = ctx;
    for (uint32_t i = 0; i < n->vc->n_nodes; i++)
        if (n->link_up[i] && n->vc->nodes[i].is_prefill && !strcmp(n->vc->nodes[i].id, id))
            return &n->peers[i];
    return NULL;
}

bool network_is_alive(void *ctx, struct worker_peer *peer)
{
    return ((struct node *)ctx)->link_up[peer_index(ctx, peer)];
}

struct worker_peer *network_find_holder(void *ctx, const char *id)
{
    struct node *n = ctx;
    for (uint32_t i = 0; i < n->vc->n_nodes; i++)
        if (n->link_up[i] && !n->vc->nodes[i].is_router && !strcmp(n->vc->nodes[i].id, id))
            return &n->peers[i];
    return NULL;
}

void network_drop(struct node *from, int to)
{
    struct message *m, *next;
    for (m = from->pending; m; m = next) {
        next = m->next;
        if (to < 0 || m->to == (uint32_t)to)
            message_unpend(from, m);
    }
}

status network_router_send(void *ctx, struct fleet_worker *worker, const struct message_head *head,
                           const ProtobufCMessage *body, bool acked)
{
    struct node *n = ctx;
    for (uint32_t i = 1; i < n->vc->n_nodes; i++)
        if (!strcmp(n->vc->nodes[i].id, worker->instance.id))
            return network_send(n, i, head, body, acked);
    return ST_NOT_FOUND;
}

void network_router_forget(void *ctx, struct fleet_worker *worker, struct request_key key, uint32_t attempt)
{
    struct node *n = ctx;
    for (uint32_t i = 1; i < n->vc->n_nodes; i++)
        if (!strcmp(n->vc->nodes[i].id, worker->instance.id))
            network_forget(n, i, key, attempt);
}
