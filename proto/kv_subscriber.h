/* kv_subscriber.h - follows one publisher of KV events, ours or vLLM's: kv_follow.h on sockets. Loop thread only. */
#ifndef BATON_PROTO_KV_SUBSCRIBER_H
#define BATON_PROTO_KV_SUBSCRIBER_H

#include "common/loop.h"
#include "proto/kv_follow.h"

struct kv_subscriber;

struct kv_subscriber_options {
    struct loop *loop;
    void *zmq;                    /* a ZeroMQ context; borrowed for life */
    const char *endpoint;         /* of the PUB */
    const char *replay;           /* of the ROUTER; NULL: none, gaps cannot be closed */
    const char *topic;            /* what a topic begins with; "" for all */
    struct kv_follow_rules rules; /* can_ask is set from replay */
    /* As in kv_follow.h; neither may destroy the subscriber. */
    status (*apply)(void *ctx, struct kv_batch_reader *batch);
    void (*clear)(void *ctx);
    void *ctx;
};

/* Times and bounds for a publisher of ours. */
struct kv_follow_rules kv_subscriber_rules(void);

/* ST_INVALID: an endpoint that ZeroMQ does not take. The publisher need not be there yet. */
MUST_CHECK status kv_subscriber_create(const struct kv_subscriber_options *options, struct kv_subscriber **out,
                                       struct error *err);
void kv_subscriber_destroy(struct kv_subscriber **s);

/* True while nothing has come from the publisher for silence_us, which is an alarm. */
bool kv_subscriber_is_silent(const struct kv_subscriber *s);
/* True when all that the publisher has is known, as far as one can tell. */
bool kv_subscriber_is_complete(const struct kv_subscriber *s);
void kv_subscriber_stats(const struct kv_subscriber *s, struct kv_follow_stats *out);
uint64_t kv_subscriber_hostile(const struct kv_subscriber *s); /* messages that were no events at all */

#endif
