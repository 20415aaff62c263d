#include "engine/attention_reference.h"

#include <math.h>
#include <string.h>

#include "engine/attention_merge.h"
#include "engine/contract.h"
#include "engine/math_f32.h"

size_t attention_reference_scratch_bytes(uint32_t head_dim, uint32_t group)
{
    (void)group;
    return 3 * (size_t)head_dim * sizeof(float); /* one slot, a split's o, the merged o */
}

uint32_t attention_reference_rows(uint32_t group)
{
    (void)group;
    return 4;
}

const float *attention_reference_slot(const struct attention *a, const struct attention_item *item, enum kv_side side,
                                      uint32_t pos, float *slot)
{
    const uint32_t dim = a->kv->head_dim;
    const uint8_t *src = attention_slot(a, item->blocks, side, item->kv_head, pos);
    dtype_to_f32(a->kv->type, src, slot, dim);
    if (a->kv->type == DTYPE_INT8) {
        float scale;
        memcpy(&scale, src + dim, sizeof scale);
        for (uint32_t d = 0; d < dim; d++)
            slot[d] *= scale;
    }
    return slot;
}

static void split_of(const struct attention *a, const struct attention_item *item, const float *q, uint32_t first,
                     uint32_t n, float *slot, struct attention_state *out)
{
    uint32_t dim = a->kv->head_dim;
    float p[CONTRACT_SPLIT];
    out->max = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        const float *k = attention_reference_slot(a, item, KV_K, first + i, slot);
        float s = 0.0f;
        for (uint32_t d = 0; d < dim; d++)
            s = fmaf(q[d], k[d], s);
        s = a->soft_cap > 0 ? math_soft_cap(s, a->soft_cap) : s;
        p[i] = s;
        out->max = s > out->max ? s : out->max;
    }
    out->sum = 0.0f;
    memset(out->o, 0, dim * sizeof *out->o);
    for (uint32_t i = 0; i < n; i++) {
        const float *v = attention_reference_slot(a, item, KV_V, first + i, slot);
        p[i] = math_exp(p[i] - out->max);
        out->sum += p[i];
        for (uint32_t d = 0; d < dim; d++)
            out->o[d] = fmaf(p[i], v[d], out->o[d]);
    }
}

/* The end of the split in which first lies, or of the positions that the row at pos sees. */
static uint32_t split_end(uint32_t first, uint32_t pos)
{
    const uint32_t end = (first / CONTRACT_SPLIT + 1) * CONTRACT_SPLIT;
    return pos < end ? pos + 1 : end;
}

static void attend_one(const struct attention *a, const struct attention_item *item, uint32_t pos, const float *q,
                       float *out, float *scratch)
{
    uint32_t dim = a->kv->head_dim;
    struct attention_state split = { .o = scratch + dim };
    struct attention_state all = { .o = scratch + 2 * (size_t)dim };
    const uint32_t begin = attention_first_seen(a, pos);
    for (uint32_t first = begin, end; first <= pos; first = end) {
        end = split_end(first, pos);
        split_of(a, item, q, first, end - first, scratch, first == begin ? &all : &split);
        if (first > begin)
            attention_state_merge(&all, &split, dim);
    }
    attention_state_finish(&all, dim, out);
}

void attention_reference(const struct attention *a, const struct attention_item *item, void *scratch)
{
    uint32_t dim = a->kv->head_dim;
    uint32_t group = a->n_heads / a->kv->n_kv_heads;
    for (uint32_t r = 0; r < item->n_rows; r++)
        for (uint32_t h = 0; h < group; h++) {
            size_t at = ((size_t)(item->first_row + r) * a->n_heads + item->kv_head * group + h) * dim;
            attend_one(a, item, item->first_pos + r, a->q + at, a->out + at, scratch);
        }
}

static void leave(const struct attention_state *made, uint32_t dim, float *to)
{
    to[0] = made->sum;
    to[1] = made->max;
    memcpy(to + ATTENTION_PARTIAL_O, made->o, dim * sizeof *to);
}

/* One row and head; stride: from its partial of one split to that of the next. */
static void part_of(const struct attention *a, const struct attention_item *item, const struct attention_part *part,
                    uint32_t pos, const float *q, float *to, size_t stride, float *scratch)
{
    const uint32_t dim = a->kv->head_dim;
    const uint32_t begin = attention_first_seen(a, pos);
    struct attention_state split = { .o = scratch + dim };
    struct attention_state all = { .o = scratch + 2 * (size_t)dim };
    to[0] = 0.0f;
    for (uint32_t first = part->begin; first < part->end; first += CONTRACT_SPLIT) {
        const uint32_t from = first > begin ? first : begin;
        const uint32_t end = split_end(first, pos);
        float *left = part->merges ? to : to + (first - part->begin) / CONTRACT_SPLIT * stride;
        const bool merged = part->merges && left[0] != 0.0f;
        if (!merged)
            left[0] = 0.0f;
        if (from >= end)
            continue;
        split_of(a, item, q, from, end - from, scratch, merged ? &split : &all);
        if (merged)
            attention_state_merge(&all, &split, dim);
        leave(&all, dim, left);
    }
}

void attention_reference_part(const struct attention *a, const struct attention_item *item,
                              const struct attention_part *part, void *scratch)
{
    const uint32_t dim = a->kv->head_dim;
    const uint32_t group = a->n_heads / a->kv->n_kv_heads;
    const size_t values = attention_partial_values(dim);
    for (uint32_t i = 0; i < item->n_rows * group; i++) {
        const size_t head = (size_t)(item->first_row + i / group) * a->n_heads + item->kv_head * group + i % group;
        part_of(a, item, part, item->first_pos + i / group, a->q + head * dim, part->partials + i * values,
                values * item->n_rows * group, scratch);
    }
}
