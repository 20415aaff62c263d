/* attention.h - causal attention of query rows over a sequence's paged KV.
 * Shapes: q and out are [row][n_heads][head_dim]; head h reads KV head
 * h / (n_heads / n_kv_heads). Arithmetic: contract.h. */
#ifndef BATON_ENGINE_ATTENTION_H
#define BATON_ENGINE_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/contract.h"
#include "engine/device.h"
#include "engine/kv_layout.h"

/* What all items of one layer share. */
struct attention {
    const struct kv_layout *kv;
    struct device_memory pool; /* [block][kv_block_bytes] */
    uint32_t layer;
    uint32_t n_heads;
    uint32_t window; /* positions that a row sees, its own the last of them; 0: all up to its own */
    float soft_cap;  /* of scores; 0: none */
    const float *q;  /* scaled and rotated */
    float *out;
};

/* Where a row's K and V are kept. */
struct kv_place {
    uint32_t block, token; /* of the pool; of the block */
};

/* Rows whose K or V are to be kept in one layer. */
struct kv_rows {
    const struct kv_layout *kv;
    struct device_memory pool;
    uint32_t layer, n_rows;
    const struct kv_place *places; /* [n_rows] */
};

/* All query heads of one KV head for rows first_row .. first_row + n_rows - 1,
 * which stand at consecutive positions of one sequence. */
struct attention_item {
    const uint32_t *blocks;
    uint32_t first_row, n_rows, first_pos, kv_head;
};

/* The first position that a row at pos sees. */
static inline uint32_t attention_first_seen(const struct attention *a, uint32_t pos)
{
    return a->window != 0 && pos >= a->window ? pos - a->window + 1 : 0;
}

/* Which of a split's positions, counted from its first, a row sees: from .. end - 1, or none, and both are 0. */
struct attention_seen {
    uint32_t from, end;
};

/* A row at pos, and a split of n positions from first on. */
static inline struct attention_seen attention_seen(const struct attention *a, uint32_t pos, uint32_t first, uint32_t n)
{
    uint32_t begin = attention_first_seen(a, pos);
    uint32_t from = begin > first ? begin - first : 0;
    uint32_t end = pos < first ? 0 : pos + 1 - first < n ? pos + 1 - first : n;
    return from < end ? (struct attention_seen){ from, end } : (struct attention_seen){ 0, 0 };
}

/* Where the host finds the slot of a row and head. */
static inline uint8_t *kv_rows_slot(const struct kv_rows *r, enum kv_side side, uint32_t row, uint32_t kv_head)
{
    const struct kv_place *place = &r->places[row];
    return r->pool.host + place->block * kv_block_bytes(r->kv) +
           kv_offset(r->kv, r->layer, side, kv_head, place->token);
}

/* Some splits of an item, for whoever divides it. What they make of each query - a row and one of the item's heads,
 * rows first - is a partial: its sum, its maximum, and from ATTENTION_PARTIAL_O on its o; a query that saw nothing
 * leaves a sum of 0, and nothing else. The item's first part merges its splits and leaves one partial a query, a later
 * one leaves them split by split: [split][query][attention_partial_values()]. */
struct attention_part {
    uint32_t begin, end; /* positions; begin is a multiple of CONTRACT_SPLIT, end likewise or the item's end */
    bool merges;
    float *partials;
};

#define ATTENTION_PARTIAL_O 16u /* o begins a cache line */

static inline size_t attention_partial_values(uint32_t head_dim)
{
    return ATTENTION_PARTIAL_O + (head_dim + 15) / 16 * 16;
}

/* Where the first split that an item sees begins, and how many it sees. */
static inline uint32_t attention_first_split(const struct attention *a, const struct attention_item *item)
{
    return attention_first_seen(a, item->first_pos) / CONTRACT_SPLIT * CONTRACT_SPLIT;
}

static inline uint32_t attention_splits(const struct attention *a, const struct attention_item *item)
{
    const uint32_t end = item->first_pos + item->n_rows;
    return (end - attention_first_split(a, item) + CONTRACT_SPLIT - 1) / CONTRACT_SPLIT;
}

/* Where the slot of a position lies, for the host. */
static inline const uint8_t *attention_slot(const struct attention *a, const uint32_t *blocks, enum kv_side side,
                                            uint32_t kv_head, uint32_t pos)
{
    const struct kv_layout *l = a->kv;
    return a->pool.host + (size_t)blocks[pos / l->block_tokens] * kv_block_bytes(l) +
           kv_offset(l, a->layer, side, kv_head, pos % l->block_tokens);
}

#endif
