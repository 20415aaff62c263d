#include <stdio.h>
#include <string.h>

#include "virtual_internal.h"

#define OVERRUN_US 300000u /* from the loss of an overrun link to the next greeting */

static struct fleet_worker *fleet_entry(struct node *router, uint32_t index)
{
    struct fleet_worker *w;
    TAILQ_FOREACH(w, fleet_workers(router->fleet), entry)
    if (!strcmp(w->instance.id, router->vc->nodes[index].id))
        return w;
    return NULL;
}

void virtual_link_up(struct node *n, uint32_t other)
{
    struct vc *vc = n->vc;
    if ((n->is_router && vc->nodes[other].is_manager) || (n->is_manager && vc->nodes[other].is_router))
        return; /* they have nothing to say */
    if (n->link_up[other] && n->peers[other].incarnation != vc->nodes[other].life)
        virtual_link_lost(n, other); /* it died and came back before anybody noticed */
    n->link_up[other] = true;
    snprintf(n->peers[other].id, sizeof n->peers[other].id, "%s", vc->nodes[other].id);
    n->peers[other].transfer = (struct transfer_peer *)(void *)&vc->nodes[other];
    n->peers[other].transport = "shm";
    n->peers[other].incarnation = vc->nodes[other].life;
    n->peers[other].same_host = true;
    if (vc->nodes[other].is_manager)
        worker_set_manager(n->worker, &n->peers[other]);
    if (!n->is_router)
        return;
    struct instance in = { .incarnation = vc->nodes[other].life, .model = "m", .kv_format = "f", .max_model_len = 200 };
    snprintf(in.id, sizeof in.id, "%s", vc->nodes[other].id);
    snprintf(in.role, sizeof in.role, "%s", vc->nodes[other].is_prefill ? "prefill" : "decode");
    snprintf(in.control, sizeof in.control, "virtual");
    fleet_member(n->fleet, &in);
    fleet_set_up(fleet_entry(n, other), !vc->nodes[other].is_prefill);
    flows_on_worker_ready(n->flows);
}

void virtual_link_all(struct node *n)
{
    for (uint32_t i = 0; i < n->vc->n_nodes; i++)
        if (i != n->index && n->vc->nodes[i].alive) {
            virtual_link_up(n, i);
            virtual_link_up(&n->vc->nodes[i], n->index);
        }
}

void virtual_link_lost(struct node *n, uint32_t other)
{
    if (!n->link_up[other])
        return;
    n->link_up[other] = false;
    network_drop(n, (int)other);
    if (n->is_router) {
        struct fleet_worker *w = fleet_entry(n, other);
        fleet_set_up(w, false);
        flows_on_worker_lost(n->flows, w, true);
        if (w->is_decode == false)
            fleet_member_gone(n->fleet, w->instance.id);
    } else if (n->is_manager) {
        virtual_manager_lost(n, &n->peers[other]);
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

void virtual_link_again(struct node *n, uint32_t other)
{
    struct node *peer = &n->vc->nodes[other];
    if (!peer->alive)
        return;
    if (peer->frozen_until > n->vc->now) {
        event_push(
            n->vc,
            (struct event){
                .at_us = peer->frozen_until + 1, .kind = EV_AGAIN, .node = n->index, .life = n->life, .a = other });
        return;
    }
    virtual_link_up(n, other);
    virtual_link_up(peer, n->index);
    if (n->is_manager || peer->is_manager)
        return;
    hear_live(n, other);
    hear_live(peer, n->index);
}

void virtual_load(struct node *n)
{
    struct vc *vc = n->vc;
    struct node *router = &vc->nodes[0];
    Baton__Load load;
    worker_load(n->worker, &load);
    if (router->alive && router->frozen_until <= vc->now && !vc_chance(vc, vc->options.drop))
        fleet_on_load(router->fleet, &load);
    event_push(vc, (struct event){ .at_us = vc->now + LOAD_US, .kind = EV_LOAD, .node = n->index, .life = n->life });
}

void virtual_link_overrun(struct node *n, uint32_t other)
{
    if (!n->link_up[other])
        return;
    n->vc->overruns++;
    virtual_link_lost(n, other);
    event_push(n->vc,
               (struct event){
                   .at_us = n->vc->now + OVERRUN_US, .kind = EV_AGAIN, .node = n->index, .life = n->life, .a = other });
}

void virtual_deliver(struct node *n, struct message *m)
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
    } else if (n->is_manager) {
        virtual_manager_deliver(n, &n->peers[from->index], &m->frame, m->deadline_us);
    } else {
        worker_on_message(n->worker, &n->peers[from->index], &m->frame, m->deadline_us);
    }
    if (m->pending && !n->doomed)
        message_unpend(from, m);
}
