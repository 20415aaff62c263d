/* attention_merge.h - the softmax state of one row and head, and its merging over splits (contract.h, class portable).
 */
#ifndef BATON_ENGINE_ATTENTION_MERGE_H
#define BATON_ENGINE_ATTENTION_MERGE_H

#include "engine/attention.h"

struct attention_state {
    float max, sum;
    float *o; /* [dim] */
};

void attention_state_merge(struct attention_state *all, const struct attention_state *split, uint32_t dim);
void attention_state_finish(const struct attention_state *all, uint32_t dim, float *out);

/* The item's result from n partials of each query, splits ascending, that its parts left:
 * [n][query][attention_partial_values()]. */
void attention_merge(const struct attention *a, const struct attention_item *item, float *partials, uint32_t n);

#endif
