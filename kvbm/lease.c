#include "kvbm/lease.h"

void lease_open(struct lease *lease, struct block_pool *pool, const block_id *blocks, uint32_t n_blocks)
{
    *lease = (struct lease){ .pool = pool, .blocks = blocks, .n_blocks = n_blocks };
    for (uint32_t i = 0; i < n_blocks; i++)
        block_pool_hold(pool, blocks[i], BLOCK_OF_TRANSFER);
}

void lease_end(struct lease *lease)
{
    if (!lease->pool)
        return;
    for (uint32_t i = 0; i < lease->n_blocks; i++)
        block_pool_release(lease->pool, lease->blocks[i], BLOCK_OF_TRANSFER);
    lease->pool = NULL;
}
