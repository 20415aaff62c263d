#include "engine/kv_layout.h"

/* The state lives on the stack: nothing is allocated on the handoff's path. */
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "checksums are hashed as little-endian bytes");

uint64_t kv_layer_checksum(const struct kv_layout *l, const void *block, uint32_t layer, uint32_t first, uint32_t n)
{
    ASSERT(layer < l->n_layers && first <= l->block_tokens && n <= l->block_tokens - first);
    const uint8_t *bytes = block;
    if (n == l->block_tokens)
        return XXH3_64bits(bytes + kv_offset(l, layer, KV_K, 0, 0), kv_layer_bytes(l));
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    for (uint32_t side = KV_K; side <= KV_V; side++)
        for (uint32_t head = 0; head < l->n_kv_heads; head++)
            XXH3_64bits_update(&state, bytes + kv_offset(l, layer, (enum kv_side)side, head, first),
                               n * kv_slot_bytes(l));
    return XXH3_64bits_digest(&state);
}

uint64_t kv_block_checksum(const uint64_t *layer_checksums, uint32_t n_layers)
{
    return XXH3_64bits(layer_checksums, n_layers * sizeof *layer_checksums);
}
