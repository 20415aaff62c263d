/* exchange.h - what the cores that move KV blocks ask of the world around them.
 * Four protocol cores without sockets, threads or a clock: lender.h answers who looks for blocks, borrower.h
 * fetches them, offers.h offers what was computed here, acceptor.h takes what was offered. A worker has lender,
 * borrower and offers, a KV block manager lender, borrower and acceptor. The daemons answer with links and the transfer
 * thread, the tests with a network of their own on which messages are lost and processes die or freeze. Everything
 * happens in calls from one loop thread. All messages are acknowledged ones of link.h: they come, perhaps late and more
 * than once, or the peer is lost. */
#ifndef BATON_KVBM_EXCHANGE_H
#define BATON_KVBM_EXCHANGE_H

#include <stdbool.h>
#include <stdint.h>

#include "kvbm/block_hash.h"
#include "proto/link.h"
#include "transfer/transfer.h"

/* A peer is another daemon, as whoever implements exchange_io knows it (worker_peer, say): an address that is valid
 * until on_peer_lost has returned. */
struct exchange_io {
    void *ctx;
    uint64_t (*now)(void *ctx); /* microseconds, monotonic; the clock of the timers */
    /* Acknowledged. Not ST_OK for a message that link_may_refuse names: it was not sent, and the peer is not lost. */
    status (*send)(void *ctx, void *peer, const struct message_head *head, const ProtobufCMessage *body);
    bool (*is_alive)(void *ctx, void *peer); /* its link is up: it answers pings */
    /* The way to the peer's blocks; NULL while there is none. */
    struct transfer_peer *(*way)(void *ctx, void *peer);
    status (*take)(void *ctx, struct transfer_take *take);
    void (*cancel_take)(void *ctx, struct transfer_take *take);
    const char *(*name)(void *ctx, void *peer); /* for the log */
};

/* A seed on the wire; its salt is the low and then the high half, little-endian, or nothing for the common one. False:
 * none, or a salt of another length. */
bool exchange_read_seed(const Baton__BlockSeed *msg, struct block_seed_parts *out);
/* The message's salt lies in `salt`, which must outlive it. */
void exchange_write_seed(const struct block_seed_parts *parts, uint8_t salt[BLOCK_HASH_BYTES], Baton__BlockSeed *out);
/* NULL: the payload is no such message. */
ProtobufCMessage *exchange_unpack(const ProtobufCMessageDescriptor *type, const struct frame *frame);

#endif
