/* acceptor.h - takes into a KV block manager's store what workers offer.
 * Of each Offer the store says which blocks it wants and where they go; these are taken out of the worker's pool into
 * their slots, their generations read again, their checksums verified, and committed; the rest is abandoned. The answer
 * (OfferTaken) ends the worker's loan. An Offer that comes again while it is worked on changes nothing.
 * Loop thread only. */
#ifndef BATON_KVBM_ACCEPTOR_H
#define BATON_KVBM_ACCEPTOR_H

#include "kvbm/exchange.h"
#include "kvbm/store.h"

struct acceptor;

/* What it asks of store.h, so that a test can be the store. */
struct acceptor_store {
    void *ctx;
    void (*offer)(void *ctx, const struct store_offer *offer, struct store_answer out[]);
    status (*commit)(void *ctx, struct store_slot slot);
    void (*abort)(void *ctx, struct store_slot slot, bool damaged);
};

struct acceptor_options {
    const struct exchange_io *io;       /* borrowed */
    const struct acceptor_store *store; /* borrowed */
    char kv_format[128];
    uint64_t format; /* store_format_id(kv_format) */
    struct transfer_geometry geometry;
    uint32_t max_offers; /* worked on at one time; beyond: OFFER_BUSY */
    uint32_t max_blocks; /* of one offer */
    uint32_t max_chain;  /* blocks of the chain of one offer */
    uint64_t take_us;    /* for the take of one offer at most; the Offer's deadline may be earlier */
};

MUST_CHECK status acceptor_create(const struct acceptor_options *options, struct acceptor **out);
/* Abandons all slots. The transfer thread must have ended: takes are not waited for. */
void acceptor_destroy(struct acceptor **acceptor);

/* True when the frame was one of these (Offer). */
bool acceptor_on_message(struct acceptor *acceptor, void *peer, const struct frame *frame, uint64_t deadline_us);
void acceptor_on_peer_lost(struct acceptor *acceptor, void *peer);
uint32_t acceptor_under_way(const struct acceptor *acceptor);

#define ACCEPTOR_COUNTERS(X)                                                                                           \
    X(offers, "offers that came")                                                                                      \
    X(offered, "blocks in them")                                                                                       \
    X(taken, "blocks taken and committed")                                                                             \
    X(present, "blocks that were there")                                                                               \
    X(declined, "blocks that the store did not want")                                                                  \
    X(full, "blocks without room")                                                                                     \
    X(busy, "blocks of offers beyond the bound, or without a way to them")                                             \
    X(other_format, "blocks of another kv_format")                                                                     \
    X(stale, "blocks reused while they were taken")                                                                    \
    X(damaged, "blocks that did not arrive as their checksum says")                                                    \
    X(failed, "blocks whose take failed")                                                                              \
    X(bytes, "bytes taken")                                                                                            \
    X(repeated, "offers that came again")                                                                              \
    X(lost, "offers whose worker was lost")                                                                            \
    X(malformed, "offers that made no sense")

struct acceptor_counters {
#define X(name, help) uint64_t name;
    ACCEPTOR_COUNTERS(X)
#undef X
};
const struct acceptor_counters *acceptor_counters(const struct acceptor *acceptor);

#endif
