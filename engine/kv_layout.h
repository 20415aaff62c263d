/* kv_layout.h - how one KV block lies in memory.
 * A block holds block_tokens tokens of every layer:
 *   [layer][k|v][kv_head][token][head_dim]
 * so one layer of a block is contiguous, and the slots of consecutive tokens of
 * one (layer, k|v, head) are contiguous too. In INT8 a slot is its head_dim
 * integers and, behind them, their scale: a float32, aligned to nothing. */
#ifndef BATON_ENGINE_KV_LAYOUT_H
#define BATON_ENGINE_KV_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "engine/tensor.h"

enum kv_side { KV_K, KV_V };

struct kv_layout {
    uint32_t n_layers;
    uint32_t n_kv_heads;
    uint32_t head_dim;
    uint32_t block_tokens;
    enum dtype type; /* F32, BF16, F16 or INT8 */
};

static inline size_t kv_value_bytes(const struct kv_layout *l)
{
    return l->type == DTYPE_F32 ? 4 : l->type == DTYPE_INT8 ? 1 : 2;
}

/* Bytes of one token of one (layer, k|v, head). */
static inline size_t kv_slot_bytes(const struct kv_layout *l)
{
    return l->head_dim * kv_value_bytes(l) + (l->type == DTYPE_INT8 ? sizeof(float) : 0);
}

/* Bytes of one (layer, k|v, head): block_tokens slots. */
static inline size_t kv_head_bytes(const struct kv_layout *l)
{
    return l->block_tokens * kv_slot_bytes(l);
}

static inline size_t kv_layer_bytes(const struct kv_layout *l)
{
    return 2 * l->n_kv_heads * kv_head_bytes(l);
}

static inline size_t kv_block_bytes(const struct kv_layout *l)
{
    return l->n_layers * kv_layer_bytes(l);
}

static inline size_t kv_token_bytes(const struct kv_layout *l)
{
    return kv_block_bytes(l) / l->block_tokens;
}

/* Byte offset in a block of a token's slot. */
static inline size_t kv_offset(const struct kv_layout *l, uint32_t layer, enum kv_side side, uint32_t head,
                               uint32_t token)
{
    return ((((size_t)layer * 2 + side) * l->n_kv_heads + head) * l->block_tokens + token) * kv_slot_bytes(l);
}

#endif
