#include "engine/attention_merge.h"

#include <math.h>

#include "engine/math_f32.h"

void attention_state_merge(struct attention_state *all, const struct attention_state *split, uint32_t dim)
{
    float max = all->max > split->max ? all->max : split->max;
    float a = math_exp(all->max - max);
    float b = math_exp(split->max - max);
    all->max = max;
    all->sum = fmaf(split->sum, b, all->sum * a);
    for (uint32_t d = 0; d < dim; d++)
        all->o[d] = fmaf(split->o[d], b, all->o[d] * a);
}

void attention_state_finish(const struct attention_state *all, uint32_t dim, float *out)
{
    float inv = 1.0f / all->sum;
    for (uint32_t d = 0; d < dim; d++)
        out[d] = all->o[d] * inv;
}

/* What is in the partial at p; its o stays where it is. */
static struct attention_state read_partial(float *p)
{
    return (struct attention_state){ .sum = p[0], .max = p[1], .o = p + ATTENTION_PARTIAL_O };
}

void attention_merge(const struct attention *a, const struct attention_item *item, float *partials, uint32_t n)
{
    const uint32_t dim = a->kv->head_dim;
    const uint32_t group = a->n_heads / a->kv->n_kv_heads;
    const uint32_t n_queries = item->n_rows * group;
    const size_t values = attention_partial_values(dim);
    for (uint32_t i = 0; i < n_queries; i++) {
        const size_t head = (size_t)(item->first_row + i / group) * a->n_heads + item->kv_head * group + i % group;
        struct attention_state all = read_partial(partials + i * values);
        for (uint32_t s = 1; s < n; s++) {
            struct attention_state split = read_partial(partials + ((size_t)s * n_queries + i) * values);
            if (all.sum == 0.0f)
                all = split; /* the first that saw something is taken as it is */
            else if (split.sum != 0.0f)
                attention_state_merge(&all, &split, dim);
        }
        attention_state_finish(&all, dim, a->out + head * dim);
    }
}
