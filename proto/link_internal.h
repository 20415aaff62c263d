/* link_internal.h - what the files of links share; nobody else includes it.
 *   links.c          the set: sockets, options, callbacks' nesting, endpoints
 *   link_socket.c    a ZeroMQ socket on the loop
 *   link_outgoing.c  links that we connect: DEALER and its monitor
 *   link_incoming.c  links that others connect: by routing id, on the ROUTER
 *   link_hello.c     greetings, and with them up and lost
 *   link_receive.c   what to do with a frame of a known link
 *   link_send.c      frames out, acknowledged messages, pings
 *   link_thread.c    how ZeroMQ's thread is scheduled beside a loop that polls
 *   link_timer.c     one timer a link: liveness_step, repeats, greetings
 *   link_pending.c, link_liveness.c  pure
 *   link_events.c    publishing and subscribing */
#ifndef BATON_PROTO_LINK_INTERNAL_H
#define BATON_PROTO_LINK_INTERNAL_H

#include <sys/queue.h>
#include <zmq.h>

#include "common/text_buffer.h"
#include "proto/link.h"
#include "proto/link_liveness.h"
#include "proto/link_pending.h"
#include "proto/link_socket.h"
#include "proto/link_thread.h"

#define LINK_ID_BYTES         64 /* with the NUL; roles too */
#define LINK_ENDPOINT_BYTES   256
#define LINK_ROUTING_ID_BYTES 32         /* longest accepted on the ROUTER; ours have 17 */
#define LINK_MAX_LIVE         16384      /* requests listed in one HELLO */
#define LINK_MAX_HELLO        (1u << 20) /* bytes; beyond it a frame is hostile, as its unpacked form is much larger */
#define LINK_MAX_CONTROL      4096       /* bytes of a PING or ACK */
#define LINK_MAX_INCOMING     4096
#define LINK_HIGH_WATER       16384 /* messages queued in ZeroMQ, each way, for one peer */
#define LINK_LINGER_MS        100   /* for what was sent just before a close */
#define LINK_HELLO_SOON_US    10000 /* a greeting that found no connection yet is tried again */
#define LINK_CORK_BYTES       16384 /* of frames that travel in one message */
#define LINKS_BUCKETS         1024  /* of the table of incoming links */
#define LINKS_KNOWN           1024  /* incarnations remembered after their link is gone */
#define LINKS_REFUSED         64    /* incarnations whose refusal was logged */

/* GREETING: not up; an outgoing link is connecting or waits for the answer to its HELLO.
 * FROZEN: lost, though connected (frozen or overrun); an incoming one is kept here, unknown to the
 * owner, so that its pings show when it has recovered. */
enum link_state { LINK_GREETING, LINK_UP, LINK_FROZEN };

struct link {
    TAILQ_ENTRY(link) entry;
    LIST_ENTRY(link) same_bucket; /* incoming */
    struct links *links;
    enum link_state state;
    bool outgoing;
    bool dead;         /* closed; freed when no callback runs */
    bool connected;    /* outgoing: the handshake is done */
    bool awaiting;     /* outgoing: HELLO sent, no answer yet */
    bool overrun;      /* what its peer must get could not be kept: it is about to be lost */
    uint64_t greeting; /* number of the last HELLO of the side that connected */
    uint64_t hello_due_us;
    char id[LINK_ID_BYTES], role[LINK_ID_BYTES], endpoint[LINK_ENDPOINT_BYTES];
    uint64_t incarnation;
    uint8_t routing_id[LINK_ROUTING_ID_BYTES];
    size_t routing_id_len;
    struct link_socket dealer, monitor;
    struct liveness liveness;
    struct pending pending;
    struct text_buffer corked; /* frames of this turn of the loop, that leave together at its end */
    TAILQ_ENTRY(link) same_turn;
    struct timer timer;
    uint64_t rtt_us;
    void *user;
};

TAILQ_HEAD(link_list, link);
LIST_HEAD(link_bucket, link);

/* The last few of a stream of incarnations. */
struct incarnation_ring {
    uint64_t *items;
    size_t size, next;
};

struct links {
    struct links_options options; /* its strings are copies */
    struct liveness_rules rules;
    void *zmq;
    struct link_socket router, router_monitor, publisher;
    char endpoint[LINK_ENDPOINT_BYTES], events_endpoint[LINK_ENDPOINT_BYTES];
    struct link_list all, graveyard;
    TAILQ_HEAD(, link) corked; /* with something to send at the end of this turn */
    struct loop_task uncork;
    struct link_thread thread;
    struct link_bucket incoming[LINKS_BUCKETS];
    uint32_t n_incoming;
    uint64_t known_items[LINKS_KNOWN], refused_items[LINKS_REFUSED];
    struct incarnation_ring known, refused;
    LIST_HEAD(, subscription) subscriptions;
    LIST_HEAD(, subscription) closed_subscriptions;
    struct timer doubt; /* an incoming connection closed: which one? */
    unsigned depth;     /* of callbacks that run */
    uint64_t woke_us;   /* when the outermost one began */
    uint64_t next_id;   /* of messages and greetings */
    uint64_t next_event, next_monitor;
    struct links_stats stats;
};

/* links.c. Between enter and leave links and subscriptions that are closed stay in memory. */
void links_enter(struct links *links);
void links_leave(struct links *links);
/* Removes the link from everything and ends its callbacks. */
void link_bury(struct link *link);
bool incarnation_ring_has(const struct incarnation_ring *ring, uint64_t incarnation);
void incarnation_ring_add(struct incarnation_ring *ring, uint64_t incarnation);
/* Copies text with its NUL; false when it is empty or too long. */
bool link_copy_text(char *out, size_t size, const char *text);
/* High-water marks, sizes, time-outs of every socket; and of those that connect. */
void links_bound_socket(struct link_socket *s);
void links_reconnect_soon(struct link_socket *s);
/* A log line and a count for a frame that cannot be trusted; what is a sentence. */
void links_hostile(struct links *links, const char *what);

/* link_incoming.c */
bool links_receive_incoming(void *links);
bool links_receive_router_event(void *links);
MUST_CHECK status link_incoming_create(struct links *links, const uint8_t *routing_id, size_t len, struct link **out);

/* link_hello.c */
/* Begins a new greeting on an outgoing link. */
void link_greet(struct link *link);
/* Sends (again) the HELLO of the running greeting. */
void link_send_hello(struct link *link);
void link_on_hello(struct link *link, const struct frame *frame);
/* A HELLO from a routing id, known (link) or not (NULL). */
void links_on_hello(struct links *links, struct link *link, const uint8_t *routing_id, size_t len,
                    const struct frame *frame);
/* Asks an unknown sender for its HELLO. */
void links_invite(struct links *links, const uint8_t *routing_id, size_t len);
enum link_loss { LINK_LOST_CLOSED, LINK_LOST_FROZEN, LINK_LOST_RESTARTED, LINK_LOST_DROPPED, LINK_LOST_OVERRUN };
void link_lost(struct link *link, enum link_loss loss);

/* link_receive.c. HELLO does not come here. */
void link_receive(struct link *link, const struct frame *frame);

/* link_send.c */
void link_ping(struct link *link);
void link_answer_ping(struct link *link, const Baton__Ping *ping);
void link_acknowledge(struct link *link, uint64_t message_id);
void link_repeat(struct link *link, uint64_t now);
/* Sends what waits for the end of the turn. */
void link_uncork(struct link *link);
/* Packs and sends one frame to a link, or with link NULL to a routing id of the ROUTER. To a link all but HELLO wait
 * for the end of the turn, which tells nobody that it failed: an acknowledged message is repeated, a gap in tokens
 * is asked for. */
struct link_address {
    struct links *links;
    struct link *link;
    const uint8_t *routing_id;
    size_t routing_id_len;
};
struct link_address link_address(struct link *link);
status link_send_frame(const struct link_address *to, struct frame *frame, const ProtobufCMessage *body);

/* link_timer.c */
void link_rearm(struct link *link);
void links_doubt_incoming(struct links *links);

/* link_events.c */
struct subscription;
void subscription_free(struct subscription *sub);
MUST_CHECK status links_open_publisher(struct links *links, struct error *err);

#endif
