/* store_source.h - a manager's store as what lender.h lends from and acceptor.h puts into. Blocks in memory are ready
 * at once, those on disk follow, and then those that another host's manager has (remote_tier.h) or that are being
 * fetched for another Find already, as they are committed. A slot of the store is the block of the same number in the
 * pool that is mapped. Loop thread only. */
#ifndef BATON_KVBM_STORE_SOURCE_H
#define BATON_KVBM_STORE_SOURCE_H

#include "kvbm/acceptor.h"
#include "kvbm/lender.h"
#include "kvbm/remote_tier.h"
#include "kvbm/store.h"

struct store_source {
    struct lender_source source; /* what the lender gets */
    struct acceptor_store sink;  /* what the acceptor gets */
    struct store *store;
    struct lender *lender;
    struct remote_tier *remote; /* NULL: there is no tier 4 */
    uint64_t format;
    uint64_t remote_blocks; /* of those that were lent, the ones that came from another host for it */
};

/* Both borrowed. The lender is told of progress: set source->lender when it is made, before the first Find. A Find has
 * two of the store's tickets at most. */
void store_source_init(struct store_source *source, struct store *store, const char *kv_format);

#endif
