#include "kvbm/registry_source.h"

#include <stdlib.h>

#include "common/log.h"

/* Lends what matched and has a checksum: held for a transfer. */
static void lend(struct registry_source *source, struct lender_find *find, const block_id blocks[], uint32_t n)
{
    for (uint32_t i = find->first; i < n; i++) {
        uint64_t checksum;
        if (!whole_checksums_get(source->checksums, blocks[i], &checksum))
            return;
        block_pool_hold(source->pool, blocks[i], BLOCK_OF_TRANSFER);
        find->blocks[find->n_ready++] =
            (struct lent_block){ .block = blocks[i],
                                 .generation = block_pool_generation(source->pool, blocks[i]),
                                 .checksum = checksum,
                                 .tier = KV_TIER_DEVICE };
    }
}

static void open_find(void *ctx, struct lender_find *find)
{
    struct registry_source *source = ctx;
    const struct registry_query query = { find->seed, find->hashes, find->tokens, find->first + find->max };
    block_id *blocks = malloc(query.n_blocks * sizeof *blocks);
    if (!blocks) {
        log_error("no memory to look for blocks", "blocks=%u", query.n_blocks);
        return;
    }
    uint32_t n = block_registry_match(source->registry, &query, blocks);
    lend(source, find, blocks, n);
    find->run = find->n_ready;
    for (uint32_t i = 0; i < n; i++)
        block_pool_release(source->pool, blocks[i], BLOCK_OF_SEQUENCE);
    free(blocks);
}

static void close_find(void *ctx, struct lender_find *find)
{
    struct registry_source *source = ctx;
    for (uint32_t i = 0; i < find->n_ready; i++)
        block_pool_release(source->pool, find->blocks[i].block, BLOCK_OF_TRANSFER);
}

static void suspect(void *ctx, const struct lender_find *find, uint32_t index)
{
    struct registry_source *source = ctx;
    if (source->suspect)
        source->suspect(source->ctx, find->blocks[index].block);
}

void registry_source_init(struct registry_source *source, struct block_pool *pool, struct block_registry *registry,
                          struct whole_checksums *checksums)
{
    *source = (struct registry_source){
        .source = { .ctx = source, .open = open_find, .close = close_find, .suspect = suspect },
        .pool = pool,
        .registry = registry,
        .checksums = checksums
    };
}
