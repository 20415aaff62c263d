/* block_pool.h - the KV blocks of one pool: who owns them and in which state they are.
 * The bytes live elsewhere (transfer_blocks); this is the bookkeeping. A block has two kinds of owner, sequences and
 * transfers. When both counts are zero it is free, unless it is registered: then it stays as long as there are others
 * to take, and goes when eviction.h says so. Used by the owning loop thread only; all memory is taken at create, so
 * take() can refuse but cannot run out half-way. */
#ifndef BATON_KVBM_BLOCK_POOL_H
#define BATON_KVBM_BLOCK_POOL_H

#include <stdatomic.h>
#include <stdint.h>

#include "common/status.h"
#include "kvbm/eviction.h"

/* STATE, and the states that may follow it. */
#define BLOCK_STATES(X)                                                                                                \
    X(FREE, TO(RESERVED) | TO(FILLING))        /* on the free list                              */                     \
    X(RESERVED, TO(FILLING) | TO(FREE))        /* destination of a transfer                     */                     \
    X(FILLING, TO(COMPLETE) | TO(FREE))        /* some slots are valid, more may come           */                     \
    X(COMPLETE, TO(REGISTERED) | TO(FREE))     /* every slot is valid                           */                     \
    X(REGISTERED, TO(EVICTING) | TO(COMPLETE)) /* found by its hash; evictable without an owner */                     \
    X(EVICTING, TO(FREE))                      /* no longer found, about to be used again       */

enum block_state {
#define X(name, next) BLOCK_##name,
    BLOCK_STATES(X)
#undef X
        BLOCK_STATE_COUNT
};

const char *block_state_name(enum block_state state);

typedef uint32_t block_id;
#define BLOCK_NONE UINT32_MAX

enum block_owner { BLOCK_OF_SEQUENCE, BLOCK_OF_TRANSFER, BLOCK_OWNER_COUNT };

struct block_pool;

struct block_pool_options {
    uint32_t n_blocks;
    uint32_t block_tokens;
    /* [n_blocks], in memory that lenders map: raised (release) when a block is taken, before anything
     * is written into it. Borrowed; NULL: kept by the pool itself. */
    _Atomic uint64_t *generations;
    /* Which registered block goes first; NULL: none is ever registered. */
    const struct eviction_policy *policy;
    /* Told of each state a block enters; may be NULL. */
    void (*entered)(void *ctx, block_id block, enum block_state state);
    void *ctx;
};

MUST_CHECK status block_pool_create(const struct block_pool_options *options, struct block_pool **out);
void block_pool_destroy(struct block_pool **pool);

uint32_t block_pool_size(const struct block_pool *pool);
/* What take() could give: free blocks, and registered ones that may go. */
uint32_t block_pool_free(const struct block_pool *pool);
uint32_t block_pool_in_state(const struct block_pool *pool, enum block_state state);

/* All n blocks or none: ST_AGAIN when too few are free. Each comes out in `state`
 * (RESERVED or FILLING) with one sequence as its owner and a new generation. */
MUST_CHECK status block_pool_take(struct block_pool *pool, uint32_t n, enum block_state state, block_id out[]);

/* A block that has an owner, or a registered one, which thereby is pinned. */
void block_pool_hold(struct block_pool *pool, block_id block, enum block_owner owner);
/* The last owner's release frees the block, or leaves it evictable if it is registered. */
void block_pool_release(struct block_pool *pool, block_id block, enum block_owner owner);

enum block_state block_pool_state(const struct block_pool *pool, block_id block);
uint32_t block_pool_owners(const struct block_pool *pool, block_id block, enum block_owner owner);
uint64_t block_pool_generation(const struct block_pool *pool, block_id block);

/* The owner of the pool writes into a free block: a new generation tells borrowers whose loan has ended. */
void block_pool_renew(struct block_pool *pool, block_id block);

/* Slots [0, valid) now hold data: RESERVED turns to FILLING, a full block to COMPLETE. valid never shrinks. */
void block_pool_filled(struct block_pool *pool, block_id block, uint32_t valid);
uint32_t block_pool_valid(const struct block_pool *pool, block_id block);

/* A COMPLETE block becomes REGISTERED behind its parent, a registered block or BLOCK_NONE, which will not go before
 * it. For block_registry.h, which finds it from now on. */
void block_pool_register(struct block_pool *pool, block_id block, uint64_t hash, block_id parent);
/* A registered block, behind which no other is registered, shall not be found any more: it is EVICTING, or while it has
 * owners COMPLETE and theirs alone. Whoever found it is told, as when it is evicted. */
void block_pool_unregister(struct block_pool *pool, block_id block);
/* A registered block was found and will be used. */
void block_pool_used(struct block_pool *pool, block_id block);
/* Told of each block that is EVICTING or unregistered: who found it must forget it. */
void block_pool_on_evicting(struct block_pool *pool, void (*evicting)(void *ctx, block_id block), void *ctx);

#endif
