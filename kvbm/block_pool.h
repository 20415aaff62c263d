/* block_pool.h - the KV blocks of one pool: who owns them and in which state they are.
 * The bytes live elsewhere (transfer_blocks); this is the bookkeeping. A block has
 * two kinds of owner, sequences and transfers, and is free when both counts are
 * zero. Used by the owning loop thread only; all memory is taken at create, so
 * take() can refuse but cannot run out half-way. */
#ifndef BATON_KVBM_BLOCK_POOL_H
#define BATON_KVBM_BLOCK_POOL_H

#include <stdatomic.h>
#include <stdint.h>

#include "common/status.h"

/* STATE, and the states that may follow it. */
#define BLOCK_STATES(X)                                                                                                \
    X(FREE, TO(RESERVED) | TO(FILLING)) /* on the free list                    */                                      \
    X(RESERVED, TO(FILLING) | TO(FREE)) /* destination of a transfer           */                                      \
    X(FILLING, TO(COMPLETE) | TO(FREE)) /* some slots are valid, more may come */                                      \
    X(COMPLETE, TO(FREE))               /* every slot is valid                 */

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
    /* Told of each state a block enters; may be NULL. */
    void (*entered)(void *ctx, block_id block, enum block_state state);
    void *ctx;
};

MUST_CHECK status block_pool_create(const struct block_pool_options *options, struct block_pool **out);
void block_pool_destroy(struct block_pool **pool);

uint32_t block_pool_size(const struct block_pool *pool);
uint32_t block_pool_free(const struct block_pool *pool);
uint32_t block_pool_in_state(const struct block_pool *pool, enum block_state state);

/* All n blocks or none: ST_AGAIN when too few are free. Each comes out in `state`
 * (RESERVED or FILLING) with one sequence as its owner and a new generation. */
MUST_CHECK status block_pool_take(struct block_pool *pool, uint32_t n, enum block_state state, block_id out[]);

void block_pool_hold(struct block_pool *pool, block_id block, enum block_owner owner);
/* The last owner's release frees the block. */
void block_pool_release(struct block_pool *pool, block_id block, enum block_owner owner);

enum block_state block_pool_state(const struct block_pool *pool, block_id block);
uint32_t block_pool_owners(const struct block_pool *pool, block_id block, enum block_owner owner);
uint64_t block_pool_generation(const struct block_pool *pool, block_id block);

/* Slots [0, valid) now hold data: RESERVED turns to FILLING, a full block to COMPLETE. valid never shrinks. */
void block_pool_filled(struct block_pool *pool, block_id block, uint32_t valid);
uint32_t block_pool_valid(const struct block_pool *pool, block_id block);

#endif
