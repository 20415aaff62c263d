/* registry_source.h - a worker's registered blocks as a source for lender.h. All of them are ready at once; a block
 * whose checksum is not known yet ends the run. Loop thread only. */
#ifndef BATON_KVBM_REGISTRY_SOURCE_H
#define BATON_KVBM_REGISTRY_SOURCE_H

#include "kvbm/block_registry.h"
#include "kvbm/lender.h"
#include "kvbm/whole_checksum.h"

struct registry_source {
    struct lender_source source; /* what the lender gets */
    struct block_pool *pool;
    struct block_registry *registry;
    struct whole_checksums *checksums;
    /* A borrower got other bytes than the checksum says. May be NULL: only logged. */
    void (*suspect)(void *ctx, block_id block);
    void *ctx;
};

/* All borrowed; they outlive it. Set suspect afterwards. */
void registry_source_init(struct registry_source *source, struct block_pool *pool, struct block_registry *registry,
                          struct whole_checksums *checksums);

#endif
