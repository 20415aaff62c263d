/* link_cable.h - a TCP connection that tests can cut or block: forwards between a port of its own
 * and a target, on the test's loop. */
#ifndef BATON_TESTS_LINK_CABLE_H
#define BATON_TESTS_LINK_CABLE_H

#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "common/loop.h"

#define CABLE_MAX_PAIRS 16

struct cable {
    struct loop *loop;
    struct evconnlistener *listener;
    struct sockaddr_in target;
    struct bufferevent *ends[2 * CABLE_MAX_PAIRS]; /* 2i and 2i+1 belong together */
    bool unplugged;                                /* connections are closed as they come */
    bool blocked;                                  /* nothing passes, nothing closes */
    char endpoint[64];
};

static inline size_t cable_place(const struct cable *c, const struct bufferevent *end)
{
    size_t i = 0;
    while (c->ends[i] != end)
        i++;
    return i;
}

static inline void cable_drop(struct cable *c, size_t pair)
{
    for (size_t i = 2 * pair; i < 2 * pair + 2; i++) {
        if (c->ends[i])
            bufferevent_free(c->ends[i]);
        c->ends[i] = NULL;
    }
}

static inline void cable_on_read(struct bufferevent *end, void *arg)
{
    struct cable *c = arg;
    bufferevent_write_buffer(c->ends[cable_place(c, end) ^ 1], bufferevent_get_input(end));
}

static inline void cable_on_event(struct bufferevent *end, short what, void *arg)
{
    struct cable *c = arg;
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR))
        cable_drop(c, cable_place(c, end) / 2);
}

static inline void cable_set_flow(struct cable *c, struct bufferevent *end)
{
    if (c->blocked)
        bufferevent_disable(end, EV_READ | EV_WRITE);
    else
        bufferevent_enable(end, EV_READ | EV_WRITE);
}

static inline void cable_on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *from, int len,
                                   void *arg)
{
    (void)l, (void)from, (void)len;
    struct cable *c = arg;
    size_t pair = 0;
    while (pair < CABLE_MAX_PAIRS && c->ends[2 * pair])
        pair++;
    if (c->unplugged || pair == CABLE_MAX_PAIRS) {
        evutil_closesocket(fd);
        return;
    }
    struct event_base *base = loop_base(c->loop);
    c->ends[2 * pair] = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
    c->ends[2 * pair + 1] = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
    for (size_t i = 2 * pair; i < 2 * pair + 2; i++) {
        bufferevent_setcb(c->ends[i], cable_on_read, NULL, cable_on_event, c);
        cable_set_flow(c, c->ends[i]);
    }
    bufferevent_socket_connect(c->ends[2 * pair + 1], (struct sockaddr *)&c->target, (int)sizeof c->target);
}

static inline struct sockaddr_in cable_address(unsigned port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static inline bool cable_open(struct cable *c, struct loop *loop, const char *target)
{
    unsigned port = 0;
    if (sscanf(target, "tcp://127.0.0.1:%u", &port) != 1)
        return false;
    *c = (struct cable){ .loop = loop, .target = cable_address(port) };
    struct sockaddr_in own = cable_address(0);
    c->listener = evconnlistener_new_bind(loop_base(loop), cable_on_accept, c, LEV_OPT_CLOSE_ON_FREE, 16,
                                          (struct sockaddr *)&own, (int)sizeof own);
    if (!c->listener)
        return false;
    socklen_t len = sizeof own;
    getsockname(evconnlistener_get_fd(c->listener), (struct sockaddr *)&own, &len);
    snprintf(c->endpoint, sizeof c->endpoint, "tcp://127.0.0.1:%u", ntohs(own.sin_port));
    return true;
}

static inline void cable_unplug(struct cable *c)
{
    c->unplugged = true;
    for (size_t pair = 0; pair < CABLE_MAX_PAIRS; pair++)
        cable_drop(c, pair);
}

static inline void cable_plug_in(struct cable *c)
{
    c->unplugged = false;
}

static inline void cable_block(struct cable *c, bool blocked)
{
    c->blocked = blocked;
    for (size_t i = 0; i < 2 * CABLE_MAX_PAIRS; i++)
        if (c->ends[i])
            cable_set_flow(c, c->ends[i]);
}

static inline void cable_close(struct cable *c)
{
    cable_unplug(c);
    evconnlistener_free(c->listener);
}

#endif
