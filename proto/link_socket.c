#include "proto/link_socket.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "proto/link_internal.h"

static void drain(struct link_socket *s)
{
    struct links *links = s->links;
    if (links)
        links_enter(links);
    s->draining = true;
    int n = 0;
    while (n < s->batch && s->receive(s->arg))
        n++;
    s->draining = false;
    if (n == s->batch && event_initialized(&s->again))
        event_add(&s->again, &(struct timeval){ 0, 0 });
    if (links)
        links_leave(links);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    drain(arg);
}

static status watch(struct link_socket *s)
{
    int fd;
    size_t len = sizeof fd;
    if (zmq_getsockopt(s->zmq, ZMQ_FD, &fd, &len))
        return ST_IO;
    struct event_base *base = loop_base(s->loop);
    if (event_assign(&s->readable, base, fd, EV_READ | EV_PERSIST, on_readable, s) ||
        event_assign(&s->again, base, -1, 0, on_readable, s))
        return ST_IO;
    /* What arrived before the watch began has no edge any more. */
    event_add(&s->again, &(struct timeval){ 0, 0 });
    return event_add(&s->readable, NULL) ? ST_IO : ST_OK;
}

status link_socket_open_alone(struct link_socket *s, void *zmq, struct loop *loop, int type, bool (*receive)(void *arg),
                              void *arg, struct error *err)
{
    *s = (struct link_socket){ .loop = loop, .receive = receive, .arg = arg, .batch = LINK_SOCKET_BATCH };
    s->zmq = zmq_socket(zmq, type);
    if (!s->zmq)
        return error_set(err, ST_LIMIT, "cannot create a ZeroMQ socket: %s", zmq_strerror(zmq_errno()));
    if (receive && watch(s) != ST_OK) {
        link_socket_close(s);
        return error_set(err, ST_IO, "cannot watch a ZeroMQ socket");
    }
    return ST_OK;
}

status link_socket_open(struct link_socket *s, struct links *links, int type, bool (*receive)(void *arg), void *arg,
                        struct error *err)
{
    status st = link_socket_open_alone(s, links->zmq, links->options.loop, type, receive, arg, err);
    s->links = links;
    return st;
}

void link_socket_mute(struct link_socket *s)
{
    if (!event_initialized(&s->readable))
        return;
    event_del(&s->readable);
    event_del(&s->again);
    memset(&s->readable, 0, sizeof s->readable);
    memset(&s->again, 0, sizeof s->again);
}

void link_socket_close(struct link_socket *s)
{
    if (!s->zmq)
        return;
    link_socket_mute(s);
    zmq_close(s->zmq);
    s->zmq = NULL;
}

void link_socket_sent(struct link_socket *s)
{
    if (s->draining || !event_initialized(&s->again))
        return;
    int events = 0;
    size_t len = sizeof events;
    if (!zmq_getsockopt(s->zmq, ZMQ_EVENTS, &events, &len) && (events & ZMQ_POLLIN))
        event_add(&s->again, &(struct timeval){ 0, 0 });
}

void link_socket_set(struct link_socket *s, int option, int value)
{
    ASSERT(zmq_setsockopt(s->zmq, option, &value, sizeof value) == 0);
}

status link_socket_monitor(struct link_socket *s, struct link_socket *monitor, int events, bool (*receive)(void *arg),
                           void *arg, struct error *err)
{
    char address[64];
    snprintf(address, sizeof address, "inproc://monitor-%llu", (unsigned long long)++s->links->next_monitor);
    status st = link_socket_open(monitor, s->links, ZMQ_PAIR, receive, arg, err);
    if (st != ST_OK)
        return st;
    if (zmq_socket_monitor(s->zmq, address, events) || zmq_connect(monitor->zmq, address)) {
        link_socket_close(monitor);
        return error_set(err, ST_IO, "cannot monitor a ZeroMQ socket: %s", zmq_strerror(zmq_errno()));
    }
    return ST_OK;
}

bool link_socket_monitored(struct link_socket *monitor, int *event)
{
    zmq_msg_t parts[2]; /* u16 event and u32 value; address */
    int n = link_socket_receive(monitor, parts, 2);
    if (n < 0)
        return false;
    uint16_t number = 0;
    if (zmq_msg_size(&parts[0]) >= sizeof number)
        memcpy(&number, zmq_msg_data(&parts[0]), sizeof number);
    *event = number;
    for (int i = 0; i < n && i < 2; i++)
        zmq_msg_close(&parts[i]);
    return true;
}

static bool receive_part(struct link_socket *s, zmq_msg_t *part)
{
    zmq_msg_init(part);
    int rc;
    do
        rc = zmq_msg_recv(part, s->zmq, ZMQ_DONTWAIT);
    while (rc < 0 && zmq_errno() == EINTR);
    if (rc < 0)
        zmq_msg_close(part);
    return rc >= 0;
}

int link_socket_receive(struct link_socket *s, zmq_msg_t parts[], int max)
{
    if (!receive_part(s, &parts[0]))
        return -1;
    int n = 1;
    bool more = zmq_msg_more(&parts[0]);
    while (more) {
        zmq_msg_t surplus;
        zmq_msg_t *part = n < max ? &parts[n] : &surplus;
        /* The parts of a message arrive together. */
        ASSERT(receive_part(s, part));
        more = zmq_msg_more(part);
        if (n < max) {
            n++;
            continue;
        }
        zmq_msg_close(&surplus);
        while (more) {
            ASSERT(receive_part(s, &surplus));
            more = zmq_msg_more(&surplus);
            zmq_msg_close(&surplus);
        }
        return max + 1;
    }
    return n;
}
