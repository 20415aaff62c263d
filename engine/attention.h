/* attention.h - causal attention of query rows over a sequence's paged KV.
 * Shapes: q and out are [row][n_heads][head_dim]; head h reads KV head
 * h / (n_heads / n_kv_heads). Arithmetic: contract.h. */
#ifndef BATON_ENGINE_ATTENTION_H
#define BATON_ENGINE_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

#include "engine/kv_layout.h"

/* What all items of one layer share. */
struct attention {
    const struct kv_layout *kv;
    const uint8_t *pool; /* [block][kv_block_bytes] */
    uint32_t layer;
    uint32_t n_heads;
    const float *q; /* scaled and rotated */
    float *out;
};

/* All query heads of one KV head for rows first_row .. first_row + n_rows - 1,
 * which stand at consecutive positions of one sequence. */
struct attention_item {
    const uint32_t *blocks;
    uint32_t first_row, n_rows, first_pos, kv_head;
};

/* Where the slot of a position lies. */
static inline const uint8_t *attention_slot(const struct attention *a, const uint32_t *blocks, enum kv_side side,
                                            uint32_t kv_head, uint32_t pos)
{
    const struct kv_layout *l = a->kv;
    return a->pool + (size_t)blocks[pos / l->block_tokens] * kv_block_bytes(l) +
           kv_offset(l, a->layer, side, kv_head, pos % l->block_tokens);
}

#endif
