/* description.h - what a lender publishes so that others can connect; travels in the link's HELLO.
 * The bytes come from another process: decode checks every length, and a
 * checksum over all of it, before a byte reaches UCX, whose own unpacking of
 * addresses trusts its input. */
#ifndef BATON_TRANSFER_DESCRIPTION_H
#define BATON_TRANSFER_DESCRIPTION_H

#include <stddef.h>
#include <stdint.h>

#include "transfer/host.h"
#include "transfer/pool.h"

struct bytes_view {
    const uint8_t *data; /* borrowed */
    size_t len;          /* 0: there is none */
};

/* Its address and key are told to borrowers who proved themselves (wire.h). */
enum description_rdma { DESCRIPTION_NO_RDMA, DESCRIPTION_RDMA, DESCRIPTION_RDMA_ONLY };

struct description {
    struct host_identity host;
    struct pool_identity pool;
    enum description_rdma rdma;
    uint32_t pid, fd;               /* of the lender and the region (region.h); 0, 0: it cannot be mapped */
    struct bytes_view same_address; /* worker of the same-host context */
    struct bytes_view net_address;  /* worker of the network context */
};

#define DESCRIPTION_MAX_PART  2048u
#define DESCRIPTION_MAX_BYTES (256u + 2 * DESCRIPTION_MAX_PART)

/* Returns the length. */
size_t description_encode(const struct description *d, uint8_t out[DESCRIPTION_MAX_BYTES]);
/* The views in out point into data, which is borrowed as long. */
MUST_CHECK status description_decode(const uint8_t *data, size_t len, struct description *out, struct error *err);

#endif
