/* attention_plan.h - which items of attention are divided by splits, so that no thread waits long for another's. */
#ifndef BATON_ENGINE_ATTENTION_PLAN_H
#define BATON_ENGINE_ATTENTION_PLAN_H

#include "engine/attention.h"

#define ATTENTION_PART_SPLITS 2u /* a part has at least; fewer do not repay its begin and its merging */

/* What an item takes: its splits, each as long as its K and V take to widen and its queries to go through them. */
uint64_t attention_cost(const struct attention *a, const struct attention_item *item);

/* What a part may cost, when threads take n items as they come; UINT64_MAX: nothing is won by parts. */
uint64_t attention_plan(const struct attention *a, const struct attention_item *items, uint32_t n, uint32_t n_threads);

/* Into how many parts an item of so many splits is then divided. */
uint32_t attention_plan_parts(uint64_t cost, uint64_t part_cost, uint32_t splits);

#endif
