/* lease.h - blocks lent to a borrower for reading.
 * A lease keeps a transfer's hold on its blocks until it ends: because the
 * borrower has taken them, was cancelled or replaced, or was declared dead. After that
 * the blocks may be reused even if a frozen borrower is still copying: its
 * copy then fails the generation or the checksum (DESIGN 4). Loop thread only. */
#ifndef BATON_KVBM_LEASE_H
#define BATON_KVBM_LEASE_H

#include <stdint.h>

#include "kvbm/block_pool.h"

struct lease {
    struct block_pool *pool; /* NULL: ended */
    const block_id *blocks;  /* borrowed; must outlive the lease */
    uint32_t n_blocks;
};

/* Opens a lease on blocks that somebody owns now, or that are registered. */
void lease_open(struct lease *lease, struct block_pool *pool, const block_id *blocks, uint32_t n_blocks);
/* Also when it has ended already. */
void lease_end(struct lease *lease);

#endif
