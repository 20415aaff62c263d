/* All blocks of a tier, parents before their children. */
#include <stdlib.h>

#include "kvbm/store_internal.h"

/* ---- memory ---------------------------------------------------------------------------------------------- */

struct climb {
    bool *told;      /* [n] */
    uint32_t *stack; /* [n] */
};

static status climb_create(struct climb *climb, uint32_t n)
{
    climb->told = calloc(n ? n : 1, sizeof *climb->told);
    climb->stack = malloc((n ? n : 1) * sizeof *climb->stack);
    return climb->told && climb->stack ? ST_OK : ST_NO_MEMORY;
}

static void climb_free(struct climb *climb)
{
    free(climb->told);
    free(climb->stack);
}

static void tell_host(const struct store *store, struct climb *climb, uint32_t slot,
                      void (*each)(void *ctx, const struct store_block *block), void *ctx)
{
    uint32_t n = 0;
    for (; slot != NO_SLOT && !climb->told[slot]; slot = store->slots[slot].parent) {
        climb->told[slot] = true;
        climb->stack[n++] = slot;
    }
    while (n) {
        struct store_block block;
        store_block_of(store, climb->stack[--n], &block);
        each(ctx, &block);
    }
}

static status dump_host(const struct store *store, void (*each)(void *ctx, const struct store_block *block), void *ctx)
{
    struct climb climb;
    status st = climb_create(&climb, store->options.n_slots);
    for (uint32_t slot = 0; st == ST_OK && slot < store->options.n_slots; slot++)
        if (block_pool_state(store->pool, slot) == BLOCK_REGISTERED)
            tell_host(store, &climb, slot, each, ctx);
    climb_free(&climb);
    return st;
}

/* ---- disk -------------------------------------------------------------------------------------------------- */

#define NO_ENTRY UINT32_MAX

struct disk_list {
    struct store_block *blocks; /* [n] */
    uint32_t *cells;            /* [n_cells], hashed */
    uint32_t n, room, n_cells;
    uint32_t n_tokens;
};

static uint32_t *cell_of(const struct disk_list *list, struct block_hash hash, uint64_t format)
{
    const uint64_t mixed = hash.low ^ format * UINT64_C(0x9e3779b97f4a7c15);
    uint32_t at = (uint32_t)((mixed >> 32) * list->n_cells >> 32);
    for (; list->cells[at] != NO_ENTRY; at = at + 1 == list->n_cells ? 0 : at + 1) {
        const struct store_block *block = &list->blocks[list->cells[at]];
        if (block_hash_equal(block->hash, hash) && block->format == format)
            break;
    }
    return &list->cells[at];
}

static void collect(void *ctx, const struct disk_block *block)
{
    struct disk_list *list = ctx;
    if (list->n == list->room)
        return;
    list->blocks[list->n] = (struct store_block){ .hash = block->hash,
                                                  .parent = block->parent,
                                                  .is_first = block->is_first,
                                                  .format = block->format,
                                                  .salt = block->salt,
                                                  .checksum = block->checksum,
                                                  .n_tokens = list->n_tokens,
                                                  .stored_s = block->stored_s };
    *cell_of(list, block->hash, block->format) = list->n;
    list->n++;
}

static status list_disk(const struct store *store, struct disk_list *list)
{
    struct disk_metrics metrics;
    disk_tier_metrics(store->options.disk, &metrics);
    *list = (struct disk_list){ .room = (uint32_t)metrics.blocks, .n_tokens = store->options.block_tokens };
    list->n_cells = 2 * list->room + 1;
    list->blocks = calloc(list->room + 1u, sizeof *list->blocks);
    list->cells = malloc(list->n_cells * sizeof *list->cells);
    if (!list->blocks || !list->cells)
        return ST_NO_MEMORY;
    for (uint32_t i = 0; i < list->n_cells; i++)
        list->cells[i] = NO_ENTRY;
    disk_tier_list(store->options.disk, collect, list);
    return ST_OK;
}

static void tell_disk(const struct disk_list *list, struct climb *climb, uint32_t at,
                      void (*each)(void *ctx, const struct store_block *block), void *ctx)
{
    uint32_t n = 0;
    while (at != NO_ENTRY && !climb->told[at]) {
        climb->told[at] = true;
        climb->stack[n++] = at;
        at = *cell_of(list, list->blocks[at].parent, list->blocks[at].format);
    }
    while (n)
        each(ctx, &list->blocks[climb->stack[--n]]);
}

static status dump_disk(const struct store *store, void (*each)(void *ctx, const struct store_block *block), void *ctx)
{
    struct disk_list list = { 0 };
    struct climb climb = { NULL, NULL };
    status st = list_disk(store, &list);
    if (st == ST_OK)
        st = climb_create(&climb, list.n);
    for (uint32_t i = 0; st == ST_OK && i < list.n; i++)
        tell_disk(&list, &climb, i, each, ctx);
    climb_free(&climb);
    free(list.blocks);
    free(list.cells);
    return st;
}

status store_dump(struct store *store, enum store_tier tier, void (*each)(void *ctx, const struct store_block *block),
                  void *ctx)
{
    if (tier == STORE_HOST)
        return dump_host(store, each, ctx);
    return store->options.disk ? dump_disk(store, each, ctx) : ST_OK;
}
