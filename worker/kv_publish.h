/* kv_publish.h - tells others which KV blocks this worker has: struct block_stored to KV events (proto/kv_publisher.h).
 * What is told in one turn of the loop goes out together, blocks of a chain in one event. Nothing waits: what a
 * follower does not take in time is a gap for him. Token ids go out where the options say so, never those of a chain
 * with a salt. Loop thread only. */
#ifndef BATON_WORKER_KV_PUBLISH_H
#define BATON_WORKER_KV_PUBLISH_H

#include "common/loop.h"
#include "proto/kv_publisher.h"
#include "worker/io.h"

struct kv_publish;

struct kv_publish_options {
    struct loop *loop;
    void *zmq;                          /* a ZeroMQ context; borrowed for life */
    const char *listen, *listen_replay; /* "tcp://127.0.0.1:0" of PUB and ROUTER */
    bool tokens;                        /* send token ids */
    uint32_t block_tokens;              /* 1 to BLOCK_TOKENS_MAX */
    /* Visits all blocks that can be found, parents first; what it could not is missing in a dump. */
    status (*each)(void *ctx, void (*visit)(void *ctx, const struct block_stored *what), void *visit_ctx);
    void *ctx;
};

MUST_CHECK status kv_publish_create(const struct kv_publish_options *options, struct kv_publish **out,
                                    struct error *err);
void kv_publish_destroy(struct kv_publish **publish);

/* As worker_io has them. */
void kv_publish_stored(struct kv_publish *publish, const struct block_stored *what);
void kv_publish_removed(struct kv_publish *publish, const struct block_hash *hashes, uint32_t n);

const struct kv_publisher *kv_publish_publisher(const struct kv_publish *publish); /* its endpoints and stats */

#endif
