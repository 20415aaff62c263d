/* io.h - what the worker's protocol code asks of the world around it.
 * The daemon answers with links, the engine thread and the transfer thread; the
 * tests answer with a network, an engine and a clock of their own, on which
 * every message can be lost and every process killed or frozen. */
#ifndef BATON_WORKER_IO_H
#define BATON_WORKER_IO_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "kvbm/block_hash.h"
#include "proto/link.h"
#include "transfer/transfer.h"

struct drafts;

/* Another daemon, as long as its link lives. Owned by whoever implements worker_io. */
struct worker_peer {
    char id[64];
    struct link *link;              /* NULL in tests */
    struct transfer_peer *transfer; /* the way to take its blocks; NULL while there is none */
    const char *transport;          /* its name: shm, tcp, rdma */
    uint64_t incarnation;           /* of this life of the peer */
    bool same_host;
    void *user;
};

/* A block of KV that others may use from now on. */
struct block_stored {
    struct block_hash hash;
    bool has_parent;          /* false: it is the first of its chain */
    struct block_hash parent; /* without one the chain's seed (block_seed) */
    const uint32_t *tokens;   /* [n_tokens] of this block; borrowed during the call */
    uint32_t n_tokens;        /* always the pool's block_tokens */
    const char *adapter_id;   /* "NAME@FINGERPRINT"; "": none */
    bool has_salt;            /* the chain has one */
};

struct worker_io {
    void *ctx;
    uint64_t (*now)(void *ctx); /* microseconds, monotonic */
    /* acked: repeated until the peer has handled it. Not ST_OK for an acknowledged message that link_may_refuse
     * does not name: the peer is lost, or about to be told lost. */
    status (*send)(void *ctx, struct worker_peer *to, const struct message_head *head, const ProtobufCMessage *body,
                   bool acked);
    /* Stop repeating what is pending for this request. */
    void (*forget)(void *ctx, struct worker_peer *to, struct request_key key, uint32_t attempt);
    /* A prefill worker that is up and whose blocks we can take; NULL otherwise. */
    struct worker_peer *(*find_prefill)(void *ctx, const char *id);
    /* Starts the step, with the guesses of drafts (NULL: none are asked for) made first; worker_layers_done and
     * worker_step_done follow on the loop thread. */
    void (*run)(void *ctx, struct step *step, struct drafts *drafts);
    status (*take)(void *ctx, struct transfer_take *take);
    void (*cancel_take)(void *ctx, struct transfer_take *take);
    /* Told of every state that a request ("generation", "prefill") or a block enters: failpoints. */
    void (*entered)(void *ctx, const char *what, const char *state);
    /* Told of blocks that can be found by their hash from now on, each after its parent, and of those that no longer
     * can, each after its children and before its memory is written again. Both may be NULL. */
    void (*blocks_stored)(void *ctx, const struct block_stored *what);
    void (*blocks_removed)(void *ctx, const struct block_hash *hashes, uint32_t n);
    /* Its link is up: it answers pings. */
    bool (*is_alive)(void *ctx, struct worker_peer *peer);
    /* A worker or KV block manager whose blocks we can take; NULL otherwise, and then the way to it is prepared where
     * one can be. */
    struct worker_peer *(*find_holder)(void *ctx, const char *id);
};

#endif
