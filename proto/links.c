#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "proto/link_internal.h"

#define LINKS_MAX_SOCKETS      16384
#define LINKS_HANDSHAKE_MS     2000 /* a connection that says nothing is dropped after it */
#define LINKS_RECONNECT_MIN_MS 50
#define LINKS_RECONNECT_MAX_MS 500
#define LINKS_KEEPALIVE_IDLE_S 5
#define LINKS_KEEPALIVE_STEP_S 2
#define LINKS_KEEPALIVE_COUNT  3

bool link_copy_text(char *out, size_t size, const char *text)
{
    size_t len = strlen(text);
    if (!len || len >= size)
        return false;
    memcpy(out, text, len + 1);
    return true;
}

bool incarnation_ring_has(const struct incarnation_ring *ring, uint64_t incarnation)
{
    for (size_t i = 0; i < ring->size; i++)
        if (ring->items[i] == incarnation)
            return true;
    return false;
}

void incarnation_ring_add(struct incarnation_ring *ring, uint64_t incarnation)
{
    if (incarnation_ring_has(ring, incarnation))
        return;
    ring->items[ring->next] = incarnation;
    ring->next = (ring->next + 1) % ring->size;
}

void links_hostile(struct links *links, const char *what)
{
    char quoted[256];
    links->stats.dropped_hostile++;
    log_debug("frame dropped", "reason=%s", log_quote(quoted, sizeof quoted, what));
}

static void bury_subscriptions(struct links *links)
{
    struct subscription *sub;
    while ((sub = LIST_FIRST(&links->closed_subscriptions)))
        subscription_free(sub);
}

static void reap(struct links *links)
{
    struct link *link;
    while ((link = TAILQ_FIRST(&links->graveyard))) {
        TAILQ_REMOVE(&links->graveyard, link, entry);
        if (link->outgoing) {
            zmq_socket_monitor(link->dealer.zmq, NULL, 0);
            link_socket_close(&link->monitor);
            link_socket_close(&link->dealer);
        }
        text_buffer_free(&link->corked);
        free(link);
    }
    bury_subscriptions(links);
}

void links_enter(struct links *links)
{
    if (!links->depth++)
        links->woke_us = clock_now_us();
}

void links_leave(struct links *links)
{
    ASSERT(links->depth > 0);
    if (!--links->depth)
        reap(links);
}

void link_bury(struct link *link)
{
    struct links *links = link->links;
    ASSERT(!link->dead);
    link_uncork(link);
    link->dead = true;
    link->state = LINK_GREETING;
    timer_cancel(loop_timers(links->options.loop), &link->timer);
    pending_clear(&link->pending);
    TAILQ_REMOVE(&links->all, link, entry);
    TAILQ_INSERT_TAIL(&links->graveyard, link, entry);
    if (link->outgoing) {
        link_socket_mute(&link->dealer);
        link_socket_mute(&link->monitor);
    } else {
        LIST_REMOVE(link, same_bucket);
        links->n_incoming--;
    }
}

void link_close(struct link **p)
{
    struct link *link = *p;
    if (!link)
        return;
    *p = NULL;
    struct links *links = link->links;
    links_enter(links);
    if (!link->dead)
        link_bury(link);
    links_leave(links);
}

void links_bound_socket(struct link_socket *s)
{
    const struct links *links = s->links;
    int64_t max_size = FRAME_HEADER_BYTES + (int64_t)FRAME_MAX_PAYLOAD;
    ASSERT(zmq_setsockopt(s->zmq, ZMQ_MAXMSGSIZE, &max_size, sizeof max_size) == 0);
    link_socket_set(s, ZMQ_SNDHWM, LINK_HIGH_WATER);
    link_socket_set(s, ZMQ_RCVHWM, LINK_HIGH_WATER);
    link_socket_set(s, ZMQ_LINGER, LINK_LINGER_MS);
    link_socket_set(s, ZMQ_HANDSHAKE_IVL, LINKS_HANDSHAKE_MS);
    link_socket_set(s, ZMQ_TCP_KEEPALIVE, 1);
    link_socket_set(s, ZMQ_TCP_KEEPALIVE_IDLE, LINKS_KEEPALIVE_IDLE_S);
    link_socket_set(s, ZMQ_TCP_KEEPALIVE_INTVL, LINKS_KEEPALIVE_STEP_S);
    link_socket_set(s, ZMQ_TCP_KEEPALIVE_CNT, LINKS_KEEPALIVE_COUNT);
    /* After a cut the kernel's own retransmissions come minutes apart: a fresh connection is sooner. */
    uint64_t stuck_ms = 2 * links->options.frozen_us / 1000;
    link_socket_set(s, ZMQ_TCP_MAXRT, stuck_ms > INT32_MAX ? INT32_MAX : (int)stuck_ms);
}

void links_reconnect_soon(struct link_socket *s)
{
    link_socket_set(s, ZMQ_RECONNECT_IVL, LINKS_RECONNECT_MIN_MS);
    link_socket_set(s, ZMQ_RECONNECT_IVL_MAX, LINKS_RECONNECT_MAX_MS);
}

static status bind_router(struct links *links, struct error *err)
{
    struct link_socket *s = &links->router;
    status st = link_socket_open(s, links, ZMQ_ROUTER, links_receive_incoming, links, err);
    if (st != ST_OK)
        return st;
    links_bound_socket(s);
    link_socket_set(s, ZMQ_ROUTER_MANDATORY, 1);
    link_socket_set(s, ZMQ_ROUTER_HANDOVER, 1);
    link_socket_set(s, ZMQ_IPV6, strchr(links->options.listen, '[') != NULL);
    st = link_socket_monitor(s, &links->router_monitor, ZMQ_EVENT_DISCONNECTED, links_receive_router_event, links, err);
    if (st != ST_OK)
        return st;
    if (zmq_bind(s->zmq, links->options.listen))
        return error_set(err, ST_IO, "cannot listen on %s: %s", links->options.listen, zmq_strerror(zmq_errno()));
    size_t len = sizeof links->endpoint;
    zmq_getsockopt(s->zmq, ZMQ_LAST_ENDPOINT, links->endpoint, &len);
    return ST_OK;
}

static status check_options(const struct links_options *o, struct error *err)
{
    char text[LINK_ID_BYTES];
    if (!o->loop || !o->id || !o->role || !o->cluster || !o->model || !o->kv_format || !o->on_up || !o->on_lost ||
        !o->on_message || !o->live)
        return error_set(err, ST_INVALID, "links need a loop, names and callbacks");
    if (!link_copy_text(text, sizeof text, o->id) || !link_copy_text(text, sizeof text, o->role))
        return error_set(err, ST_INVALID, "instance id and role have 1 to %d bytes", LINK_ID_BYTES - 1);
    if (!o->incarnation || !o->ping_interval_us || !o->frozen_us || !o->closed_us || !o->repeat_us || !o->max_pending)
        return error_set(err, ST_INVALID, "incarnation, intervals and max_pending of links must not be zero");
    return ST_OK;
}

static status copy_strings(struct links_options *o)
{
    const char **strings[] = { &o->listen, &o->listen_events, &o->id, &o->role, &o->cluster, &o->model, &o->kv_format };
    bool complete = true;
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        if (*strings[i])
            complete = (*strings[i] = strdup(*strings[i])) && complete;
    return complete ? ST_OK : ST_NO_MEMORY;
}

static void free_strings(struct links_options *o)
{
    const char *strings[] = { o->listen, o->listen_events, o->id, o->role, o->cluster, o->model, o->kv_format };
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        free((char *)strings[i]);
}

static status open_sockets(struct links *links, struct error *err)
{
    links->zmq = zmq_ctx_new();
    if (!links->zmq || zmq_ctx_set(links->zmq, ZMQ_MAX_SOCKETS, LINKS_MAX_SOCKETS))
        return error_set(err, ST_NO_MEMORY, "cannot create a ZeroMQ context");
    status st = links->options.listen ? bind_router(links, err) : ST_OK;
    return st == ST_OK && links->options.listen_events ? links_open_publisher(links, err) : st;
}

status links_create(const struct links_options *options, struct links **out, struct error *err)
{
    status st = check_options(options, err);
    if (st != ST_OK)
        return st;
    struct links *links = calloc(1, sizeof *links);
    if (!links)
        return error_set(err, ST_NO_MEMORY, "no memory for links");
    links->options = *options;
    links->rules = (struct liveness_rules){ options->ping_interval_us, options->frozen_us, options->closed_us };
    links->known = (struct incarnation_ring){ links->known_items, LINKS_KNOWN, 0 };
    links->refused = (struct incarnation_ring){ links->refused_items, LINKS_REFUSED, 0 };
    TAILQ_INIT(&links->all);
    TAILQ_INIT(&links->graveyard);
    TAILQ_INIT(&links->corked);
    st = copy_strings(&links->options);
    if (st == ST_OK)
        st = open_sockets(links, err);
    if (st == ST_OK)
        loop_on_poll(links->options.loop, link_thread_on_poll, &links->thread);
    if (st == ST_OK)
        *out = links;
    else
        links_destroy(&links);
    return st;
}

void links_destroy(struct links **p)
{
    struct links *links = *p;
    if (!links)
        return;
    *p = NULL;
    ASSERT(links->depth == 0); /* not from a callback */
    struct link *link;
    while ((link = TAILQ_FIRST(&links->all)))
        link_bury(link);
    struct subscription *sub;
    while ((sub = LIST_FIRST(&links->subscriptions)))
        subscription_close(&sub);
    reap(links);
    timer_cancel(loop_timers(links->options.loop), &links->doubt);
    loop_on_poll(links->options.loop, NULL, NULL);
    loop_task_cancel(links->options.loop, &links->uncork);
    if (links->router.zmq)
        zmq_socket_monitor(links->router.zmq, NULL, 0);
    link_socket_close(&links->router_monitor);
    link_socket_close(&links->router);
    link_socket_close(&links->publisher);
    if (links->zmq)
        zmq_ctx_term(links->zmq); /* at most LINK_LINGER_MS */
    free_strings(&links->options);
    free(links);
}

const char *links_endpoint(const struct links *links)
{
    return links->endpoint;
}

const char *links_events_endpoint(const struct links *links)
{
    return links->events_endpoint;
}

void *links_context(const struct links *links)
{
    return links->zmq;
}

void links_stats(const struct links *links, struct links_stats *out)
{
    *out = links->stats;
    const struct link *link;
    TAILQ_FOREACH(link, &links->all, entry)
    {
        out->up += link->state == LINK_UP;
        out->pending += link->pending.n;
    }
}
