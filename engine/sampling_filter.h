/* sampling_filter.h - which tokens top_k, top_p and min_p leave.
 * Tokens are ordered by weight descending, then id ascending. Each filter keeps
 * a prefix of that order, so the outcome is the last token of the prefix. Found
 * by selection, without sorting. */
#ifndef BATON_ENGINE_SAMPLING_FILTER_H
#define BATON_ENGINE_SAMPLING_FILTER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/sampling.h"

/* The last token that is kept. */
struct sampling_cut {
    float weight;
    uint32_t id;
};

static inline bool sampling_cut_keeps(const struct sampling_cut *cut, float weight, uint32_t id)
{
    return weight > cut->weight || (weight == cut->weight && id <= cut->id);
}

/* weights [n] are >= 0 and the largest is 1; ids [n] is scratch. */
struct sampling_cut sampling_filter(const struct sampling *s, const float *weights, uint32_t n, uint32_t *ids);

#endif
