/* kv_publisher.h - publishes KV events: a PUB socket, and a ROUTER that repeats the last batches to whoever asks.
 * A request is [empty, number (8 bytes, big-endian)] from a REQ or DEALER socket, as vLLM's; the answer is
 * [empty, number, batch] for each batch from that number on, and [empty, 2^64-1, empty] at the end. When the number is
 * not held any more, or belongs to an earlier incarnation, the batches of a dump come first: numbered so that the last
 * has the number of the batch which it includes, the first with AllBlocksCleared before everything.
 * Of an answer that could not be sent whole, nothing comes after what could not be sent, also no end.
 * Numbers begin at the microseconds since 1970 at which the publisher was made: a restart is a gap like any other.
 * Loop thread only. */
#ifndef BATON_PROTO_KV_PUBLISHER_H
#define BATON_PROTO_KV_PUBLISHER_H

#include "common/loop.h"
#include "common/status.h"
#include "proto/kv_events.h"

#define KV_PUBLISHER_MAX_BATCH  (1u << 20) /* bytes of a batch before it is sent; also of one event */
#define KV_PUBLISHER_MAX_DUMP   (256u << 20)
/* Of one batch of a dump, which its follower applies in one go; also of one event in it. */
#define KV_PUBLISHER_DUMP_BATCH (128u << 10)

/* Followers that may wait for one dump; who is beyond asks again. */
#define KV_PUBLISHER_MAX_WAITING 64

struct kv_publisher;
struct kv_dump;

struct kv_publisher_options {
    struct loop *loop;
    void *zmq;                 /* a ZeroMQ context; borrowed for life */
    const char *listen;        /* "tcp://127.0.0.1:0" of the PUB */
    const char *listen_replay; /* of the ROUTER */
    int64_t rank;              /* data-parallel; -1: none */
    enum kv_hash_form form;
    bool tokens;          /* token ids go out with the events that have them */
    uint32_t max_batches; /* of the ring, e.g. 10000 */
    size_t max_bytes;
    uint64_t dump_fresh_us; /* a dump serves all who ask within this time */
    /* Tells all that exists, by kv_dump_add, a bounded piece in each call: true when there is more, then it is called
     * in the next turn of the loop. is_new: from the beginning. What changes meanwhile is published as ever, and goes
     * to followers behind the dump. NULL: a gap beyond the ring gets what the ring has. */
    bool (*dump)(void *ctx, struct kv_dump *dump, bool is_new);
    void *ctx;
};

MUST_CHECK status kv_publisher_create(const struct kv_publisher_options *options, struct kv_publisher **out,
                                      struct error *err);
void kv_publisher_destroy(struct kv_publisher **p);
const char *kv_publisher_endpoint(const struct kv_publisher *p);
const char *kv_publisher_replay_endpoint(const struct kv_publisher *p);

/* Adds to the batch that goes out with kv_publisher_flush, or when it is full. What cannot be added (no memory, an
 * event of more than KV_PUBLISHER_MAX_BATCH bytes) leaves a gap in the numbers, so that followers ask for a dump. */
void kv_publisher_add(struct kv_publisher *p, const struct kv_event *event);
void kv_publisher_flush(struct kv_publisher *p);

/* Inside the dump callback. What does not fit in KV_PUBLISHER_MAX_DUMP is left out and counted. */
void kv_dump_add(struct kv_dump *dump, const struct kv_event *event);

struct kv_publisher_stats {
    uint64_t events, batches, bytes;
    uint64_t lost; /* events that could not be put into a batch */
    uint64_t requests, hostile, replayed, dumps, dump_events_left_out;
    uint64_t unsent; /* batches of answers that a slow follower's queue had no room for */
};
void kv_publisher_stats(const struct kv_publisher *p, struct kv_publisher_stats *out);

#endif
