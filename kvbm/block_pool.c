#include "kvbm/block_pool.h"

#include <stdbool.h>
#include <stdlib.h>

struct block {
    enum block_state state;
    uint32_t owners[BLOCK_OWNER_COUNT];
    uint32_t valid;     /* slots with data */
    block_id next_free; /* while FREE */
};

struct block_pool {
    struct block_pool_options options;
    struct block *blocks;
    _Atomic uint64_t *generations;
    _Atomic uint64_t *own_generations; /* freed at destroy; NULL when borrowed */
    uint32_t in_state[BLOCK_STATE_COUNT];
    block_id free_head, free_tail;
    struct eviction *eviction; /* of registered blocks; NULL without a policy */
    void (*evicting)(void *ctx, block_id block);
    void *evicting_ctx;
};

static const char *const state_names[] = {
#define X(name, next) #name,
    BLOCK_STATES(X)
#undef X
};

static const unsigned legal_next[] = {
#define TO(name)      (1u << BLOCK_##name)
#define X(name, next) (next),
    BLOCK_STATES(X)
#undef X
#undef TO
};

const char *block_state_name(enum block_state state)
{
    return (unsigned)state < BLOCK_STATE_COUNT ? state_names[state] : "?";
}

static struct block *block_at(const struct block_pool *pool, block_id block)
{
    ASSERT(block < pool->options.n_blocks);
    return &pool->blocks[block];
}

/* The only place that assigns a block's state. */
static void block_enter(struct block_pool *pool, block_id id, enum block_state state)
{
    struct block *block = block_at(pool, id);
    ASSERT(legal_next[block->state] & (1u << state));
    pool->in_state[block->state]--;
    pool->in_state[state]++;
    block->state = state;
    if (pool->options.entered)
        pool->options.entered(pool->options.ctx, id, state);
}

/* First in, first out: a block rests as long as possible before it is rewritten. */
static void free_list_put(struct block_pool *pool, block_id id)
{
    pool->blocks[id].next_free = BLOCK_NONE;
    if (pool->free_tail == BLOCK_NONE)
        pool->free_head = id;
    else
        pool->blocks[pool->free_tail].next_free = id;
    pool->free_tail = id;
}

static block_id free_list_get(struct block_pool *pool)
{
    block_id id = pool->free_head;
    pool->free_head = pool->blocks[id].next_free;
    if (pool->free_head == BLOCK_NONE)
        pool->free_tail = BLOCK_NONE;
    return id;
}

status block_pool_create(const struct block_pool_options *options, struct block_pool **out)
{
    struct block_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return ST_NO_MEMORY;
    pool->options = *options;
    pool->free_head = pool->free_tail = BLOCK_NONE;
    pool->blocks = calloc(options->n_blocks, sizeof *pool->blocks);
    if (!options->generations)
        pool->own_generations = calloc(options->n_blocks, sizeof *pool->own_generations);
    pool->generations = options->generations ? options->generations : pool->own_generations;
    const struct eviction_options eviction = { options->policy, options->n_blocks, .leaf_first = true };
    if (!pool->blocks || !pool->generations ||
        (options->policy && eviction_create(&eviction, &pool->eviction) != ST_OK)) {
        block_pool_destroy(&pool);
        return ST_NO_MEMORY;
    }
    for (block_id id = 0; id < options->n_blocks; id++)
        free_list_put(pool, id);
    pool->in_state[BLOCK_FREE] = options->n_blocks;
    *out = pool;
    return ST_OK;
}

void block_pool_destroy(struct block_pool **pool)
{
    if (!*pool)
        return;
    eviction_destroy(&(*pool)->eviction);
    free((*pool)->blocks);
    free((void *)(*pool)->own_generations);
    free(*pool);
    *pool = NULL;
}

uint32_t block_pool_size(const struct block_pool *pool)
{
    return pool->options.n_blocks;
}

uint32_t block_pool_free(const struct block_pool *pool)
{
    return pool->in_state[BLOCK_FREE] + (pool->eviction ? eviction_evictable(pool->eviction) : 0);
}

uint32_t block_pool_in_state(const struct block_pool *pool, enum block_state state)
{
    return pool->in_state[state];
}

static void become_free(struct block_pool *pool, block_id id)
{
    block_enter(pool, id, BLOCK_FREE);
    free_list_put(pool, id);
}

static void evict_one(struct block_pool *pool)
{
    block_id id = eviction_choose(pool->eviction);
    ASSERT(id != EVICTION_NONE);
    block_enter(pool, id, BLOCK_EVICTING);
    pool->evicting(pool->evicting_ctx, id);
    become_free(pool, id);
}

/* Before the first byte is rewritten, so that a borrower whose loan has ended can tell. */
static void raise_generation(struct block_pool *pool, block_id id)
{
    atomic_fetch_add_explicit(&pool->generations[id], 1, memory_order_release);
}

status block_pool_take(struct block_pool *pool, uint32_t n, enum block_state state, block_id out[])
{
    ASSERT(state == BLOCK_RESERVED || state == BLOCK_FILLING);
    if (block_pool_free(pool) < n)
        return ST_AGAIN;
    while (pool->in_state[BLOCK_FREE] < n)
        evict_one(pool);
    for (uint32_t i = 0; i < n; i++) {
        block_id id = free_list_get(pool);
        raise_generation(pool, id);
        pool->blocks[id].valid = 0;
        pool->blocks[id].owners[BLOCK_OF_SEQUENCE] = 1;
        block_enter(pool, id, state);
        out[i] = id;
    }
    return ST_OK;
}

static bool has_owner(const struct block *block)
{
    return block->owners[BLOCK_OF_SEQUENCE] || block->owners[BLOCK_OF_TRANSFER];
}

void block_pool_hold(struct block_pool *pool, block_id id, enum block_owner owner)
{
    struct block *block = block_at(pool, id);
    ASSERT(has_owner(block) || block->state == BLOCK_REGISTERED);
    if (!has_owner(block))
        eviction_pin(pool->eviction, id);
    block->owners[owner]++;
}

void block_pool_release(struct block_pool *pool, block_id id, enum block_owner owner)
{
    struct block *block = block_at(pool, id);
    ASSERT(block->owners[owner] > 0);
    block->owners[owner]--;
    if (has_owner(block))
        return;
    if (block->state == BLOCK_REGISTERED)
        eviction_unpin(pool->eviction, id);
    else
        become_free(pool, id);
}

enum block_state block_pool_state(const struct block_pool *pool, block_id block)
{
    return block_at(pool, block)->state;
}

uint32_t block_pool_owners(const struct block_pool *pool, block_id block, enum block_owner owner)
{
    return block_at(pool, block)->owners[owner];
}

uint64_t block_pool_generation(const struct block_pool *pool, block_id block)
{
    ASSERT(block < pool->options.n_blocks);
    return atomic_load_explicit(&pool->generations[block], memory_order_acquire);
}

void block_pool_renew(struct block_pool *pool, block_id id)
{
    ASSERT(block_at(pool, id)->state == BLOCK_FREE);
    raise_generation(pool, id);
    /* Nothing of the new bytes is seen before it. */
    atomic_thread_fence(memory_order_seq_cst);
}

void block_pool_filled(struct block_pool *pool, block_id id, uint32_t valid)
{
    struct block *block = block_at(pool, id);
    ASSERT(valid >= block->valid && valid <= pool->options.block_tokens);
    block->valid = valid;
    if (block->state == BLOCK_RESERVED)
        block_enter(pool, id, BLOCK_FILLING);
    if (block->state == BLOCK_FILLING && valid == pool->options.block_tokens)
        block_enter(pool, id, BLOCK_COMPLETE);
}

uint32_t block_pool_valid(const struct block_pool *pool, block_id block)
{
    return block_at(pool, block)->valid;
}

void block_pool_register(struct block_pool *pool, block_id id, uint64_t hash, block_id parent)
{
    ASSERT(pool->evicting && has_owner(block_at(pool, id)));
    block_enter(pool, id, BLOCK_REGISTERED);
    eviction_add(pool->eviction, id, hash, parent);
    eviction_pin(pool->eviction, id);
}

void block_pool_unregister(struct block_pool *pool, block_id id)
{
    const bool owned = has_owner(block_at(pool, id));
    eviction_remove(pool->eviction, id);
    block_enter(pool, id, owned ? BLOCK_COMPLETE : BLOCK_EVICTING);
    pool->evicting(pool->evicting_ctx, id);
    if (!owned)
        become_free(pool, id);
}

void block_pool_used(struct block_pool *pool, block_id id)
{
    eviction_hit(pool->eviction, id);
}

void block_pool_on_evicting(struct block_pool *pool, void (*evicting)(void *ctx, block_id block), void *ctx)
{
    ASSERT(pool->eviction && !pool->evicting);
    pool->evicting = evicting;
    pool->evicting_ctx = ctx;
}
