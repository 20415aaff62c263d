#include "engine/attention_reference.h"

#include <math.h>
#include <string.h>

#include "engine/contract.h"
#include "engine/math_f32.h"

/* One split's, and the merged, softmax state of one row and head. */
struct partial {
    float max, sum;
    float *o; /* [head_dim] */
};

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
                     uint32_t n, float *slot, struct partial *out)
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

static void merge(struct partial *all, const struct partial *split, uint32_t dim)
{
    float max = all->max > split->max ? all->max : split->max;
    float a = math_exp(all->max - max);
    float b = math_exp(split->max - max);
    all->max = max;
    all->sum = fmaf(split->sum, b, all->sum * a);
    for (uint32_t d = 0; d < dim; d++)
        all->o[d] = fmaf(split->o[d], b, all->o[d] * a);
}

static void attend_one(const struct attention *a, const struct attention_item *item, uint32_t pos, const float *q,
                       float *out, float *scratch)
{
    uint32_t dim = a->kv->head_dim;
    struct partial split = { .o = scratch + dim };
    struct partial all = { .o = scratch + 2 * (size_t)dim };
    const uint32_t begin = attention_first_seen(a, pos);
    for (uint32_t first = begin, end; first <= pos; first = end) {
        end = (first / CONTRACT_SPLIT + 1) * CONTRACT_SPLIT;
        uint32_t n = pos < end ? pos + 1 - first : end - first;
        split_of(a, item, q, first, n, scratch, first == begin ? &all : &split);
        if (first > begin)
            merge(&all, &split, dim);
    }
    float inv = 1.0f / all.sum;
    for (uint32_t d = 0; d < dim; d++)
        out[d] = all.o[d] * inv;
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
