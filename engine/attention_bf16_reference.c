#include "engine/attention_bf16_reference.h"

#include <math.h>
#include <string.h>

#include "engine/activations.h"
#include "engine/attention_reference.h"
#include "engine/bf16_steps.h"

/* One row and head. */
struct query {
    uint16_t *q;            /* [stepped], as k */
    float max, sum;         /* M and L of the contract */
    float *o;               /* [dim] */
    float *widened;         /* [dim]: a slot */
    uint16_t *slot;         /* [stepped]: the same rounded */
    struct bf16_pair *sums; /* [dim] */
};

size_t attention_bf16_reference_scratch_bytes(uint32_t head_dim, uint32_t group)
{
    (void)group;
    return head_dim * (sizeof(struct bf16_pair) + 2 * sizeof(float)) + 2 * act_bf16_stride(head_dim) * sizeof(uint16_t);
}

static struct query begin_query(uint32_t dim, uint8_t *scratch)
{
    struct query s = { .max = -INFINITY };
    s.sums = (struct bf16_pair *)(void *)scratch;
    s.o = (float *)(void *)(s.sums + dim);
    s.widened = s.o + dim;
    s.q = (uint16_t *)(void *)(s.widened + dim);
    s.slot = s.q + act_bf16_stride(dim);
    memset(s.o, 0, dim * sizeof *s.o);
    return s;
}

/* To the end of the last step. */
static void round_row(const float *x, uint32_t dim, uint16_t *out)
{
    memset(out, 0, act_bf16_stride(dim) * sizeof *out);
    for (uint32_t d = 0; d < dim; d++)
        out[d] = bf16_round(x[d]);
}

static const uint16_t *load_slot(const struct attention *a, const struct attention_item *item, enum kv_side side,
                                 uint32_t pos, struct query *s)
{
    round_row(attention_reference_slot(a, item, side, pos, s->widened), a->kv->head_dim, s->slot);
    return s->slot;
}

static float score(const uint16_t *q, const uint16_t *k, uint32_t dim)
{
    float sum = 0.0f;
    for (uint32_t d = 0; d < dim; d += CONTRACT_STEP)
        sum = bf16_step(sum, q + d, k + d);
    return sum;
}

/* One step of positions onto O: those of [from, end) have weights, the others none. */
static void mix_step(const struct attention *a, const struct attention_item *item, uint32_t first, uint32_t from,
                     uint32_t end, const float *p, struct query *s)
{
    const uint32_t dim = a->kv->head_dim;
    memset(s->sums, 0, dim * sizeof *s->sums);
    for (uint32_t i = 0; i < CONTRACT_STEP; i++) {
        const uint32_t pos = first + i;
        if (pos < from || pos >= end)
            continue;
        const float weight = bf16_widen(bf16_round(p[i]));
        const uint16_t *v = load_slot(a, item, KV_V, pos, s);
        for (uint32_t d = 0; d < dim; d++) {
            float *sum = i % 2 == 0 ? &s->sums[d].even : &s->sums[d].odd;
            *sum = bf16_flush(fmaf(weight, bf16_widen(v[d]), *sum));
        }
    }
    for (uint32_t d = 0; d < dim; d++)
        s->o[d] = bf16_pair_onto(s->o[d], s->sums[d]);
}

/* Positions [from, end) of the split that begins at first. */
static void add_split(const struct attention *a, const struct attention_item *item, uint32_t first, uint32_t from,
                      uint32_t end, struct query *s)
{
    const uint32_t dim = a->kv->head_dim;
    float p[CONTRACT_SPLIT] = { 0 };
    float max = s->max;
    for (uint32_t pos = from; pos < end; pos++) {
        float x = score(s->q, load_slot(a, item, KV_K, pos, s), dim);
        p[pos - first] = a->soft_cap > 0 ? math_soft_cap(x, a->soft_cap) : x;
        max = max > p[pos - first] ? max : p[pos - first];
    }
    const float factor = max > s->max ? bf16_exp(s->max - max) : 1.0f;
    s->max = max;
    s->sum *= factor;
    for (uint32_t pos = from; pos < end; pos++) {
        p[pos - first] = bf16_exp(p[pos - first] - max);
        s->sum += p[pos - first];
    }
    for (uint32_t d = 0; d < dim; d++)
        s->o[d] *= factor;
    for (uint32_t i = 0; i < CONTRACT_SPLIT; i += CONTRACT_STEP)
        mix_step(a, item, first + i, from, end, p + i, s);
}

static void attend_one(const struct attention *a, const struct attention_item *item, uint32_t pos, const float *q,
                       float *out, void *scratch)
{
    const uint32_t dim = a->kv->head_dim;
    struct query s = begin_query(dim, scratch);
    round_row(q, dim, s.q);
    for (uint32_t from = attention_first_seen(a, pos), end; from <= pos; from = end) {
        const uint32_t first = from / CONTRACT_SPLIT * CONTRACT_SPLIT;
        end = pos < first + CONTRACT_SPLIT ? pos + 1 : first + CONTRACT_SPLIT;
        add_split(a, item, first, from, end, &s);
    }
    const float inv = 1.0f / s.sum;
    for (uint32_t d = 0; d < dim; d++)
        out[d] = (s.o[d] + 0.0f) * inv;
}

void attention_bf16_reference(const struct attention *a, const struct attention_item *item, void *scratch)
{
    const uint32_t dim = a->kv->head_dim;
    const uint32_t group = a->n_heads / a->kv->n_kv_heads;
    for (uint32_t r = 0; r < item->n_rows; r++)
        for (uint32_t h = 0; h < group; h++) {
            size_t at = ((size_t)(item->first_row + r) * a->n_heads + item->kv_head * group + h) * dim;
            attend_one(a, item, item->first_pos + r, a->q + at, a->out + at, scratch);
        }
}
