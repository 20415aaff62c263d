/* virtual_exchange.h - workers and managers that move KV blocks, on a virtual network and clock.
 * Every node has all four cores, a pool whose KV follows from the blocks' hashes, and a small store on that pool for
 * its acceptor. Messages are acknowledged ones of links: repeated until they come, so late, out of order and more than
 * once, or dropped with the link. Nodes are killed, restarted and frozen, and takes copy half-way before they end. */
#ifndef BATON_TESTS_VIRTUAL_EXCHANGE_H
#define BATON_TESTS_VIRTUAL_EXCHANGE_H

#include "kvbm/acceptor.h"
#include "kvbm/borrower.h"
#include "kvbm/offers.h"
#include "kvbm/registry_source.h"

#define VX_NODES        4u
#define VX_BLOCKS       40u
#define VX_LAYERS       3u
#define VX_BLOCK_TOKENS 4u
#define VX_CHAIN        12u /* blocks of a sequence at most */
#define VX_MAX_PULLS    16u /* begun at one time, all nodes together */
#define VX_MAX_TAKES    256u
#define VX_FROZEN_US    3000000u /* until peers lose a frozen node */
#define VX_CLOSED_US    500000u  /* until they lose a dead one */
#define VX_REPEAT_US    250000u
#define VX_LIFETIME_US  3000000u

struct vx;
struct vx_node;

struct vx_options {
    uint64_t random;
    double lose, twice, late; /* chances of a message */
    double flip;              /* of a block and layer, while it is copied */
    double slow;              /* of a take, and that a Find's blocks become ready one by one, and */
    double fail;              /* that one of those cannot be read */
    double refuse;            /* that the transfer thread, or a link, takes no more */
    bool by_tcp;              /* a frozen holder's blocks cannot be copied */
};

/* How node sees another one. */
struct vx_peer {
    struct vx_node *node, *other;
    bool up;
    uint32_t met;        /* which meeting of the two this link is of */
    uint64_t busy_until; /* with takes */
    uint64_t next_free;  /* messages come in order, but for those that come again or late */
};

/* A slot of the small store that an offer reserved. */
struct vx_reserved {
    bool is_set;
    struct block_hash seed;
    uint32_t n_blocks; /* of the chain up to this block */
    uint32_t tokens[VX_CHAIN * VX_BLOCK_TOKENS];
    uint64_t checksum;
};

struct vx_node {
    struct vx *vx;
    uint32_t index;
    bool alive;
    uint64_t life, frozen_until;
    uint8_t *memory;
    _Atomic uint64_t *generations;
    struct timers timers;
    struct exchange_io io;
    struct vx_peer peers[VX_NODES];
    struct block_pool *pool;
    struct block_registry *registry;
    struct whole_checksums *checksums;
    struct registry_source registry_source;
    struct lender_source source; /* the registry's, slower */
    struct acceptor_store store;
    struct vx_reserved reserved[VX_BLOCKS];
    struct lender *lender;
    struct borrower *borrower;
    struct offers *offers;
    struct acceptor *acceptor;
    block_id hogged[VX_BLOCKS];
    uint32_t n_hogged;
    uint32_t suspects; /* blocks that a borrower said were damaged */
    uint32_t aborted_damaged;
};

/* A pull of the test's, from its reserving to its end. */
struct vx_pull {
    struct vx_node *node; /* NULL: a free place */
    uint64_t life;
    struct pull *pull;
    struct block_seed_parts parts;
    uint32_t tokens[VX_CHAIN * VX_BLOCK_TOKENS];
    uint32_t first, n_blocks, n_by_layer;
    block_id blocks[VX_CHAIN];
    uint64_t began_us, deadline_us;
    uint32_t told_layers, told_blocks; /* layers of the whole run; verified blocks */
    uint32_t blocks_before_layers;     /* verified when the first layers were told of */
    double told_arrived;
    uint32_t told_run, tells;
    uint32_t cancel_at; /* layers at which the caller changes his mind, or when a block is verified; 0: never */
};

/* What became of the last pull that ended. */
struct vx_ended {
    uint32_t times;
    struct pull_result result;
    uint64_t took_us;
};

struct vx_job;
struct vx_event;

struct vx {
    struct vx_options options;
    uint64_t now, random, next_life, next_order;
    uint32_t next_meeting;
    struct vx_node nodes[VX_NODES];
    struct vx_event *events;
    size_t n_events, room;
    struct vx_job *jobs; /* [VX_MAX_TAKES] */
    struct vx_pull pulls[VX_MAX_PULLS];
    struct vx_ended ended;
    uint64_t next_key;
    double tokens_per_s; /* how fast nodes compute, as pulls say; 0: they do not */
    bool local_only;     /* pulls are as those of managers */
    uint32_t n_by_layer; /* blocks that come by layer, of pulls from now on */
    uint32_t most_takes; /* of others' blocks at one time, of all nodes together, so far */
    uint32_t flips_left; /* further ones that are certain, for tests that count */
    uint32_t flipped;    /* blocks in which a bit was flipped, once per take */
    uint32_t sent[256];  /* messages by type */
    uint32_t drops[256]; /* of this type are lost once and come with the repetition */
    struct retired {
        struct retired *next;
        uint8_t *memory;
        void *generations;
    } * retired;
};

struct vx *vx_create(const struct vx_options *options);
void vx_destroy(struct vx *vx);

/* Lets time go by. */
void vx_run(struct vx *vx, uint64_t us);
uint32_t vx_draw(struct vx *vx, uint32_t below);

void vx_kill(struct vx_node *node);
void vx_restart(struct vx_node *node);
void vx_freeze(struct vx_node *node, uint64_t us);
static inline bool vx_is_up(const struct vx_node *node)
{
    return node->alive && node->vx->now >= node->frozen_until;
}

/* The node computes a sequence: what it does not have yet is registered. Returns how many blocks it has then, fewer
 * when the pool is full. offer: to its manager. */
uint32_t vx_compute(struct vx_node *node, const struct block_seed_parts *parts, const uint32_t *tokens,
                    uint32_t n_blocks, bool offer);
/* How many leading blocks of the sequence are registered. */
uint32_t vx_has(struct vx_node *node, const struct block_seed_parts *parts, const uint32_t *tokens, uint32_t n_blocks);
/* Fills the pool with other things, so that unowned blocks are evicted. */
void vx_crowd_out(struct vx_node *node);
/* The same, and they stay; again: they go. */
void vx_hog(struct vx_node *node);
/* Flips a bit of a registered block where it lies. */
void vx_damage(struct vx_node *node, const struct block_seed_parts *parts, const uint32_t *tokens, uint32_t block);

/* Begins a pull; NULL when there is no room or it was refused. What comes is compared with what the blocks' hashes say,
 * and registered. */
struct vx_pull *vx_pull(struct vx_node *node, struct vx_node *holder, const struct block_seed_parts *parts,
                        const uint32_t *tokens, uint32_t first, uint32_t n_blocks, uint64_t deadline_us);
status vx_pull_refusal(void); /* of the last vx_pull that gave NULL */

/* Hands a message to a node as if the other had sent it. */
void vx_inject(struct vx_node *from, struct vx_node *to, enum frame_type type, struct request_key key, uint32_t attempt,
               uint32_t leg, uint64_t deadline_us, const uint8_t *payload, uint32_t len);

/* Nothing is lent, taken, held, reserved or waited for, and all KV is what its hash says. */
void vx_assert_at_rest(struct vx *vx);

#endif
