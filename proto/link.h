/* link.h - control connections between daemons, on ZeroMQ.
 * A daemon has one `struct links`: a ROUTER socket it binds, a DEALER socket
 * for each peer it connects to, a PUB socket and SUB subscriptions. A link is
 * one peer, whichever side opened it. A link is up once HELLO went both
 * ways; it is lost when the connection stays closed, when the peer is another
 * incarnation, or when it answers no ping (or its busy engine stands still) for
 * the frozen time. Messages to a link that is not up are dropped, except acknowledged
 * ones, which wait (bounded) and are repeated until acknowledged or the link is lost. A link that can keep no more
 * of them is lost, so whoever waits for such a message gets it or hears of the loss.
 * Loop thread only. Hostile frames are counted and dropped. */
#ifndef BATON_PROTO_LINK_H
#define BATON_PROTO_LINK_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/loop.h"
#include "common/status.h"
#include "proto/baton.pb-c.h"
#include "proto/frame.h"

struct links;
struct link;

struct links_options {
    struct loop *loop;
    const char *listen;        /* "tcp://127.0.0.1:0" for the ROUTER; NULL: none */
    const char *listen_events; /* for the PUB; NULL: none */
    const char *id, *role, *cluster, *model, *kv_format;
    uint64_t incarnation;
    const uint8_t *transfer; /* transfer_description; may be NULL; borrowed for life */
    size_t transfer_len;
    uint64_t ping_interval_us; /* 300 ms  */
    uint64_t frozen_us;        /* 3 s: no answer, or a busy engine whose counter stands still */
    uint64_t closed_us;        /* 500 ms: a connection closed for so long is lost */
    uint64_t repeat_us;        /* 250 ms: acknowledged messages are repeated */
    bool
        loop_polls; /* loop_set_poll: ZeroMQ's thread waits until the loop yields or sleeps, instead of preempting it */
    uint32_t max_pending; /* unacknowledged messages of one link, 4096; what may not be refused has more room */
    /* What this process says of its engine in pings; NULL: never busy. */
    void (*progress)(void *ctx, uint64_t *counter, bool *busy);
    /* The link is up (again). hello is the peer's; first: this incarnation was not known before.
     * After a reconnect of the same incarnation hello->live lists what the peer still holds with us. A short
     * interruption brings on_up without on_lost; messages may have been lost in it all the same. */
    void (*on_up)(void *ctx, struct link *link, const Baton__Hello *hello, bool first);
    /* Lost; reason is "closed", "frozen", "restarted", "overrun" (too much is unacknowledged), "dropped" (the peer
     * connected anew, so another incoming link takes this one's place). For outgoing links connecting goes on, and
     * on_up may come again; an incoming link must not be used after this call. */
    void (*on_lost)(void *ctx, struct link *link, const char *reason);
    /* A message (never HELLO, PING, ACK). deadline is absolute on clock_now_us (FRAME_NO_DEADLINE: none).
     * Repeats of acknowledged messages come again: handlers are idempotent. */
    void (*on_message)(void *ctx, struct link *link, const struct frame *frame, uint64_t deadline_us);
    /* Fills in (out is initialised) the requests shared with this peer for a HELLO: returns how many, at most max.
     * May be called before the first on_up of the link. */
    size_t (*live)(void *ctx, struct link *link, Baton__Live *out, size_t max);
    void *ctx;
};

MUST_CHECK status links_create(const struct links_options *options, struct links **out, struct error *err);
void links_destroy(struct links **links);
/* As bound, with the port: "tcp://127.0.0.1:41234". */
const char *links_endpoint(const struct links *links);
const char *links_events_endpoint(const struct links *links);
/* The ZeroMQ context of the links; whoever opens sockets of his own in it closes them before links_destroy. */
void *links_context(const struct links *links);

/* A link to the daemon at endpoint; reconnects until link_close. id is what etcd says is there: another daemon
 * that answers is refused. ST_INVALID: a bad endpoint, or an open outgoing link to this id. */
MUST_CHECK status links_connect(struct links *links, const char *id, const char *endpoint, struct link **out);
/* Tells the peer nothing; on_lost is not called. Callbacks may close any link, also their own; links_destroy is
 * not for callbacks. */
void link_close(struct link **link);

const char *link_peer_id(const struct link *link);
const char *link_peer_role(const struct link *link);
uint64_t link_peer_incarnation(const struct link *link); /* 0 before the first HELLO */
bool link_is_up(const struct link *link);
uint64_t link_rtt_us(const struct link *link); /* smoothed; 0 unknown */
void link_set_user(struct link *link, void *user);
void *link_user(const struct link *link);

struct message_head {
    enum frame_type type;
    struct request_key key;
    uint32_t attempt, leg;
    uint64_t deadline_us;              /* absolute, FRAME_NO_DEADLINE: none */
    const struct trace_context *trace; /* may be NULL */
};

/* Packs and sends (body NULL: empty). ST_CLOSED: the link is not up or not connected at the moment (nothing was
 * kept). ST_LIMIT: high-water mark. */
status link_send(struct link *link, const struct message_head *head, const ProtobufCMessage *body);
/* Repeated until acknowledged, forgotten, past its deadline, or the link is lost or closed; may be called while the
 * link is coming up. ST_LIMIT: max_pending or 64 MiB reached; ST_NO_MEMORY. What link_may_refuse is then the caller's
 * to send elsewhere; anything else the peer would wait for in vain, so the link, where it is up, is lost a little
 * later ("overrun") and both sides end what they share over it. */
status link_send_acked(struct link *link, const struct message_head *head, const ProtobufCMessage *body);
/* True for what begins something: Generate, Prefill, Find and Offer. */
bool link_may_refuse(enum frame_type type);
/* Stops repeating what is pending for this key with attempt <= attempt (leg: any). */
void link_forget(struct link *link, struct request_key key, uint32_t attempt);

/* Publishing and subscribing (topic, then a frame of type EVENT). Lossy. Whoever must know which incarnation speaks
 * says so in the message, as Load does. The topic is compared whole. */
void links_publish(struct links *links, const char *topic, const ProtobufCMessage *body);
struct subscription;
MUST_CHECK status links_subscribe(struct links *links, const char *endpoint, const char *topic,
                                  void (*on_event)(void *arg, const uint8_t *payload, size_t len), void *arg,
                                  struct subscription **out);
void subscription_close(struct subscription **sub);

struct links_stats {
    uint64_t sent, received; /* frames on links, HELLO, PING and ACK among them */
    uint64_t repeated;
    uint64_t dropped_hostile; /* malformed, or of another cluster */
    uint64_t dropped_unknown; /* of a type or a sender that we do not know */
    uint64_t dropped_stale;   /* of another incarnation, or on a link that is not up */
    uint64_t lost_closed, lost_frozen, lost_restarted, lost_overrun, send_failures;
    uint32_t up, pending;
};
void links_stats(const struct links *links, struct links_stats *out);

/* What counts as a fault of links in metrics: label, member of links_stats. */
#define LINKS_FAULTS(X)                                                                                                \
    X(hostile, dropped_hostile)                                                                                        \
    X(unknown, dropped_unknown)                                                                                        \
    X(closed, lost_closed)                                                                                             \
    X(frozen, lost_frozen)                                                                                             \
    X(restarted, lost_restarted)                                                                                       \
    X(overrun, lost_overrun)                                                                                           \
    X(repeated, repeated)

#endif
