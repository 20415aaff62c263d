/* The checksums of transfer.h. The hash is compiled in, for the vectors of this
 * file's build flags: the packaged library is built for 16-byte ones and takes
 * as long as the copy that it follows. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "transfer/transfer.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "checksums and wire messages are little-endian in memory"
#endif

uint64_t transfer_layer_checksum(const struct transfer_geometry *g, const uint8_t *block, uint32_t layer,
                                 uint32_t first, uint32_t n)
{
    const uint8_t *base = block + layer * transfer_layer_bytes(g);
    if (n == g->block_tokens)
        return XXH3_64bits(base, transfer_layer_bytes(g));
    XXH3_state_t state;
    /* These cannot fail with a state that is not NULL. */
    (void)XXH3_64bits_reset(&state);
    for (uint32_t segment = 0; segment < g->n_segments; segment++) {
        size_t token = (size_t)segment * g->block_tokens + first;
        (void)XXH3_64bits_update(&state, base + token * g->slot_bytes, (size_t)n * g->slot_bytes);
    }
    return XXH3_64bits_digest(&state);
}

uint64_t transfer_block_checksum(const uint64_t *layer_sums, uint32_t n_layers)
{
    return XXH3_64bits(layer_sums, n_layers * sizeof *layer_sums);
}
