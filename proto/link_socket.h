/* link_socket.h - one ZeroMQ socket on the loop.
 * ZMQ_FD is edge-triggered, and sending can swallow the edge of an arrival. So
 * whoever sends calls link_socket_sent, and a wakeup takes messages until none
 * is left, or `batch` of them, and then lets the loop turn before it goes on. */
#ifndef BATON_PROTO_LINK_SOCKET_H
#define BATON_PROTO_LINK_SOCKET_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdbool.h>
#include <zmq.h>

#include "common/loop.h"
#include "common/status.h"

#define LINK_SOCKET_BATCH 64 /* messages; each can hold many frames */

struct links;

struct link_socket {
    void *zmq;           /* NULL: not open */
    struct links *links; /* NULL: nobody's links */
    struct loop *loop;
    bool (*receive)(void *arg); /* takes one message; false: none is left, or nobody wants them */
    void *arg;
    struct event readable, again;
    bool draining;
    int batch; /* LINK_SOCKET_BATCH unless changed after opening */
};

/* Creates the socket without connecting it; receive is NULL for one that only sends. */
MUST_CHECK status link_socket_open(struct link_socket *s, struct links *links, int type, bool (*receive)(void *arg),
                                   void *arg, struct error *err);
/* The same for a socket that belongs to no links. receive must not close it. */
MUST_CHECK status link_socket_open_alone(struct link_socket *s, void *zmq, struct loop *loop, int type,
                                         bool (*receive)(void *arg), void *arg, struct error *err);
void link_socket_close(struct link_socket *s); /* also when it is not open */
/* Ends its callbacks; it can be closed later. */
void link_socket_mute(struct link_socket *s);
/* Checks for arrivals whose edge may have been lost. */
void link_socket_sent(struct link_socket *s);

void link_socket_set(struct link_socket *s, int option, int value);
/* A PAIR socket that receives the given events of s. */
MUST_CHECK status link_socket_monitor(struct link_socket *s, struct link_socket *monitor, int events,
                                      bool (*receive)(void *arg), void *arg, struct error *err);
/* Takes one event; false when there is none. */
bool link_socket_monitored(struct link_socket *monitor, int *event);

/* Receives one message of at most max parts; returns how many parts it had, or -1 when none waits.
 * More parts than max: they are discarded and the result is max + 1. The parts are the caller's to close. */
int link_socket_receive(struct link_socket *s, zmq_msg_t parts[], int max);

#endif
