/* All blocks of a tier, parents before their children, a piece at a time. What changes between two pieces is told of as
 * it changes, and comes behind the dump: a place that is used anew meanwhile may be passed over or told of once more.
 */
#include <stdlib.h>

#include "kvbm/store_internal.h"

struct store_dump {
    struct store *store; /* borrowed */
    enum store_tier tier;
    uint32_t n, cursor; /* places there were when it began; the next one */
    bool *told;         /* [n] */
    uint32_t *stack;    /* [n] */
};

static uint32_t count_places(const struct store *store, enum store_tier tier)
{
    if (tier == STORE_HOST)
        return store->options.n_slots;
    return store->options.disk ? disk_tier_places(store->options.disk) : 0;
}

status store_dump_begin(struct store *store, enum store_tier tier, struct store_dump **out)
{
    const uint32_t n = count_places(store, tier);
    struct store_dump *dump = calloc(1, sizeof *dump);
    if (!dump)
        return ST_NO_MEMORY;
    *dump = (struct store_dump){ .store = store, .tier = tier, .n = n };
    dump->told = calloc(n + 1u, sizeof *dump->told);
    dump->stack = malloc((n + 1u) * sizeof *dump->stack);
    if (!dump->told || !dump->stack) {
        store_dump_end(&dump);
        return ST_NO_MEMORY;
    }
    *out = dump;
    return ST_OK;
}

void store_dump_end(struct store_dump **dump)
{
    if (!*dump)
        return;
    free((*dump)->told);
    free((*dump)->stack);
    free(*dump);
    *dump = NULL;
}

/* False: no block is found at this place. */
static bool block_at(const struct store_dump *dump, uint32_t at, struct store_block *out)
{
    const struct store *store = dump->store;
    struct disk_block block;
    if (dump->tier == STORE_HOST) {
        const bool found = block_pool_state(store->pool, at) == BLOCK_REGISTERED;
        if (found)
            store_block_of(store, at, out);
        return found;
    }
    if (!disk_tier_at(store->options.disk, at, &block))
        return false;
    *out = (struct store_block){ .hash = block.hash,
                                 .parent = block.parent,
                                 .is_first = block.is_first,
                                 .format = block.format,
                                 .salt = block.salt,
                                 .checksum = block.checksum,
                                 .n_tokens = store->options.block_tokens,
                                 .stored_s = block.stored_s };
    return true;
}

/* Where the block before it lies; at least n: nowhere that is still to be told. */
static uint32_t place_before(const struct store_dump *dump, uint32_t at, const struct store_block *block)
{
    if (dump->tier == STORE_HOST)
        return dump->store->slots[at].parent;
    return disk_tier_place(dump->store->options.disk, block->parent, block->format);
}

/* A block and those before it that have not been told of; how many. */
static uint32_t tell_chain(struct store_dump *dump, uint32_t at,
                           void (*each)(void *ctx, const struct store_block *block), void *ctx)
{
    uint32_t depth = 0;
    struct store_block block;
    while (at < dump->n && !dump->told[at] && block_at(dump, at, &block)) {
        dump->told[at] = true;
        dump->stack[depth++] = at;
        at = place_before(dump, at, &block);
    }
    for (uint32_t i = depth; i; i--)
        if (block_at(dump, dump->stack[i - 1], &block))
            each(ctx, &block);
    return depth;
}

bool store_dump_some(struct store_dump *dump, uint32_t n, void (*each)(void *ctx, const struct store_block *block),
                     void *ctx)
{
    for (uint32_t work = 0; work < n && dump->cursor < dump->n; dump->cursor++)
        work += 1 + tell_chain(dump, dump->cursor, each, ctx);
    return dump->cursor < dump->n;
}
