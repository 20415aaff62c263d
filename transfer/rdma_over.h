/* rdma_over.h - for tests, where there is no device: the way rdma over other transports of UCX, which then plays the
 * gets in software. Daemons call transfer_create alone, so that no setting of theirs leads here: over TCP UCX also
 * plays puts, and looks at no key. */
#ifndef BATON_TRANSFER_RDMA_OVER_H
#define BATON_TRANSFER_RDMA_OVER_H

#include "transfer/transfer.h"

struct rdma_over {
    const char *transports; /* as UCX names them, with commas between; borrowed, and NULL: rdma is not opened */
    const char *device;     /* as UCX names it, "all" */
};

/* over NULL: as transfer_create. Without a cluster key rdma is not opened here, either. */
MUST_CHECK status transfer_create_over(const struct transfer_options *options, const struct rdma_over *over,
                                       struct transfer **out, struct error *err);

#endif
