/* pool.h - the lent region: [header page][generations][blocks], each part page-aligned.
 * The header page tells a reader whose pool it sees; it is never changed after creation. */
#ifndef BATON_TRANSFER_POOL_H
#define BATON_TRANSFER_POOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "transfer/transfer.h"
#include "transfer/wire.h"

#define POOL_PAGE       WIRE_HEADER_PAGE
#define POOL_MAX_BLOCKS (1u << 26)

/* What the owner publishes of a pool, and what its header page repeats. */
struct pool_identity {
    struct transfer_geometry geometry;
    uint64_t n_blocks;
    uint64_t incarnation;
    uint64_t nonce; /* random: no two pools have the same */
};

struct pool {
    struct pool_identity identity;
    uint8_t *base; /* NULL: none */
    size_t bytes;
};

/* INVALID when a dimension is zero or the whole does not fit an address space. */
MUST_CHECK status pool_check_geometry(const struct transfer_geometry *geometry, uint64_t n_blocks, struct error *err);
bool pool_geometry_equal(const struct transfer_geometry *a, const struct transfer_geometry *b);

size_t pool_bytes(const struct pool_identity *identity);
size_t pool_generations_offset(void);
size_t pool_blocks_offset(const struct pool_identity *identity);

/* Takes over zeroed, page-aligned memory of pool_bytes(identity): faults it in and writes the header page.
 * NO_MEMORY when the system has no pages for it. */
MUST_CHECK status pool_init(struct pool *pool, const struct pool_identity *identity, uint8_t *memory,
                            struct error *err);
_Atomic uint64_t *pool_generations(const struct pool *pool);
uint8_t *pool_block(const struct pool *pool, uint32_t block);

/* Whether page (POOL_PAGE bytes) is the header of that pool, test pattern included. */
bool pool_header_matches(const uint8_t *page, const struct pool_identity *identity);

/* memcpy of block bytes that their owner may rewrite meanwhile; the check of the generation behind it tells. */
void pool_read(void *to, const uint8_t *from, size_t bytes);
/* The same past the caches, for bytes that nobody reads soon: the memory written is not read first. */
void pool_read_streaming(void *to, const uint8_t *from, size_t bytes);

/* The generation of a block as it is now, after all reads before the call: for the check behind a copy. */
uint64_t pool_generation_after(const _Atomic uint64_t *generation);

#endif
