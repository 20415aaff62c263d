/* events.h - tells routers which blocks the manager has, and in which tier: the store's callbacks to KV events
 * (proto/kv_publisher.h). What is told in one turn of the loop goes out together, blocks of a chain in one event.
 * Nothing waits: what a follower does not take in time is a gap for him. Token ids are not sent, as the adapter
 * that belongs to them is not known here. Loop thread only. */
#ifndef BATON_KVBM_DAEMON_EVENTS_H
#define BATON_KVBM_DAEMON_EVENTS_H

#include "common/loop.h"
#include "kvbm/store.h"
#include "proto/kv_publisher.h"

struct events;

struct events_options {
    struct loop *loop;
    struct store *store;                /* borrowed; for dumps */
    uint32_t block_tokens;              /* of a block */
    const char *listen, *listen_replay; /* "tcp://127.0.0.1:0" of PUB and ROUTER */
};

MUST_CHECK status events_create(const struct events_options *options, struct events **out, struct error *err);
void events_destroy(struct events **events);

/* As the store tells; events NULL: nobody hears of it. */
void events_stored(struct events *events, enum store_tier tier, const struct store_block *block);
void events_removed(struct events *events, enum store_tier tier, const struct store_block *block);

const struct kv_publisher *events_publisher(const struct events *events); /* its endpoints and figures */

#endif
