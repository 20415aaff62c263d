#include "kvbm/block_registry.h"

#include <stdlib.h>
#include <string.h>

#define FREE_CELL UINT32_MAX

struct record {
    struct block_hash hash, seed;
    block_id parent;
};

struct block_registry {
    struct block_registry_options options;
    struct record *records; /* [n_blocks] */
    uint32_t *tokens;       /* [n_blocks * block_tokens] */
    block_id *cells;        /* [n_cells], hashed */
    uint32_t n_cells;
    struct registry_counters counters;
    void (*evicting)(void *ctx, block_id block);
    void *evicting_ctx;
};

/* ---- the table --------------------------------------------------------------------------------------- */

static uint32_t home_of(const struct block_registry *index, struct block_hash hash)
{
    return (uint32_t)((hash.low >> 32) * index->n_cells >> 32);
}

static uint32_t after(const struct block_registry *index, uint32_t cell)
{
    return cell + 1 == index->n_cells ? 0 : cell + 1;
}

/* The cell of the hash, or the free one where it would be. */
static uint32_t cell_of(const struct block_registry *index, struct block_hash hash)
{
    uint32_t cell = home_of(index, hash);
    while (index->cells[cell] != FREE_CELL && !block_hash_equal(index->records[index->cells[cell]].hash, hash))
        cell = after(index, cell);
    return cell;
}

static uint32_t distance(const struct block_registry *index, uint32_t from, uint32_t to)
{
    return to >= from ? to - from : to + index->n_cells - from;
}

/* What stands behind the hole and belongs before it moves up, so that no search ends too early. */
static void empty_cell(struct block_registry *index, uint32_t hole)
{
    for (uint32_t cell = after(index, hole); index->cells[cell] != FREE_CELL; cell = after(index, cell)) {
        uint32_t home = home_of(index, index->records[index->cells[cell]].hash);
        if (distance(index, home, cell) < distance(index, hole, cell))
            continue;
        index->cells[hole] = index->cells[cell];
        hole = cell;
    }
    index->cells[hole] = FREE_CELL;
}

static void on_evicting(void *ctx, block_id block)
{
    struct block_registry *index = ctx;
    empty_cell(index, cell_of(index, index->records[block].hash));
    index->counters.evicted++;
    if (index->evicting)
        index->evicting(index->evicting_ctx, block);
}

/* ---- life ---------------------------------------------------------------------------------------------- */

status block_registry_create(const struct block_registry_options *options, struct block_registry **out)
{
    uint32_t n_blocks = block_pool_size(options->pool);
    struct block_registry *index = calloc(1, sizeof *index);
    if (!index)
        return ST_NO_MEMORY;
    index->options = *options;
    index->n_cells = 2 * n_blocks;
    index->records = calloc(n_blocks, sizeof *index->records);
    index->tokens = calloc((size_t)n_blocks * options->block_tokens, sizeof *index->tokens);
    index->cells = malloc(index->n_cells * sizeof *index->cells);
    if (!index->records || !index->tokens || !index->cells) {
        block_registry_destroy(&index);
        return ST_NO_MEMORY;
    }
    for (uint32_t i = 0; i < index->n_cells; i++)
        index->cells[i] = FREE_CELL;
    block_pool_on_evicting(options->pool, on_evicting, index);
    *out = index;
    return ST_OK;
}

void block_registry_destroy(struct block_registry **index)
{
    if (!*index)
        return;
    free((*index)->records);
    free((*index)->tokens);
    free((*index)->cells);
    free(*index);
    *index = NULL;
}

/* ---- finding and keeping ---------------------------------------------------------------------------------- */

static uint32_t *tokens_of(const struct block_registry *index, block_id block)
{
    return index->tokens + (size_t)block * index->options.block_tokens;
}

static bool holds(const struct block_registry *index, block_id block, const struct registry_block *what)
{
    const struct record *record = &index->records[block];
    return record->parent == what->parent && block_hash_equal(record->seed, what->seed) &&
           !memcmp(tokens_of(index, block), what->tokens, index->options.block_tokens * sizeof *what->tokens);
}

/* BLOCK_NONE when the hash is unknown, or stands for something else. */
static block_id find(struct block_registry *index, const struct registry_block *what)
{
    block_id block = index->cells[cell_of(index, what->hash)];
    if (block == FREE_CELL)
        return BLOCK_NONE;
    if (holds(index, block, what))
        return block;
    index->counters.mismatches++;
    return BLOCK_NONE;
}
_Static_assert(FREE_CELL == BLOCK_NONE, "a free cell names no block");

static block_id find_next(struct block_registry *index, const struct registry_query *query, uint32_t i, block_id parent)
{
    const struct registry_block what = { query->seed, query->hashes[i],
                                         query->tokens + (size_t)i * index->options.block_tokens, parent };
    return find(index, &what);
}

uint32_t block_registry_peek(struct block_registry *index, const struct registry_query *query)
{
    uint32_t n = 0;
    for (block_id block = BLOCK_NONE; n < query->n_blocks; n++) {
        block = find_next(index, query, n, block);
        if (block == BLOCK_NONE)
            break;
    }
    return n;
}

uint32_t block_registry_pin(struct block_registry *index, const struct registry_query *query, block_id out[])
{
    uint32_t n = 0;
    for (; n < query->n_blocks; n++) {
        block_id block = find_next(index, query, n, n ? out[n - 1] : BLOCK_NONE);
        if (block == BLOCK_NONE)
            break;
        block_pool_hold(index->options.pool, block, BLOCK_OF_SEQUENCE);
        out[n] = block;
    }
    return n;
}

void block_registry_used(struct block_registry *index, const block_id blocks[], uint32_t n, uint32_t asked)
{
    for (uint32_t i = 0; i < n; i++)
        block_pool_used(index->options.pool, blocks[i]);
    index->counters.hits += n;
    index->counters.misses += asked - n;
}

uint32_t block_registry_match(struct block_registry *index, const struct registry_query *query, block_id out[])
{
    uint32_t n = block_registry_pin(index, query, out);
    block_registry_used(index, out, n, query->n_blocks);
    return n;
}

static enum registry_outcome refuse(struct block_registry *index)
{
    index->counters.refused++;
    return REGISTRY_REFUSED;
}

static bool parent_is_registered(const struct block_registry *index, const struct registry_block *what)
{
    return what->parent == BLOCK_NONE || (block_pool_state(index->options.pool, what->parent) == BLOCK_REGISTERED &&
                                          block_hash_equal(index->records[what->parent].seed, what->seed));
}

enum registry_outcome block_registry_register(struct block_registry *index, const struct registry_block *what,
                                              block_id *block)
{
    struct block_pool *pool = index->options.pool;
    ASSERT(block_pool_state(pool, *block) == BLOCK_COMPLETE);
    if (!parent_is_registered(index, what))
        return refuse(index);
    uint32_t cell = cell_of(index, what->hash);
    if (index->cells[cell] != FREE_CELL) {
        block_id first = find(index, what);
        if (first == BLOCK_NONE)
            return refuse(index);
        block_pool_hold(pool, first, BLOCK_OF_SEQUENCE);
        block_pool_used(pool, first);
        block_pool_release(pool, *block, BLOCK_OF_SEQUENCE);
        *block = first;
        index->counters.shared++;
        return REGISTRY_SHARED;
    }
    index->records[*block] = (struct record){ what->hash, what->seed, what->parent };
    memcpy(tokens_of(index, *block), what->tokens, index->options.block_tokens * sizeof *what->tokens);
    index->cells[cell] = *block;
    block_pool_register(pool, *block, what->hash.low, what->parent);
    index->counters.stored++;
    return REGISTRY_STORED;
}

struct registry_block block_registry_at(const struct block_registry *index, block_id block)
{
    const struct record *record = &index->records[block];
    return (struct registry_block){ record->seed, record->hash, tokens_of(index, block), record->parent };
}

void block_registry_erase_unused(struct block_registry *index)
{
    const struct block_pool *pool = index->options.pool;
    for (block_id block = 0; block < block_pool_size(pool); block++)
        if (block_pool_state(pool, block) != BLOCK_REGISTERED)
            memset(tokens_of(index, block), 0, index->options.block_tokens * sizeof *index->tokens);
}

void block_registry_on_evicting(struct block_registry *index, void (*evicting)(void *ctx, block_id block), void *ctx)
{
    index->evicting = evicting;
    index->evicting_ctx = ctx;
}

const struct registry_counters *block_registry_counters(const struct block_registry *index)
{
    return &index->counters;
}
