#include "engine/attention_plan.h"

#include "engine/team.h"

#define QUERIES_A_UNIT   16u /* of cost; widening is another */
#define PARTS_A_THREAD   8u  /* so that what threads wait for at the end is an eighth of their work */
#define WASTE_OF_A_WHOLE 8u  /* whole items may cost an eighth more than shared evenly, what parts cost themselves */

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

uint64_t attention_cost(const struct attention *a, const struct attention_item *item)
{
    const uint32_t queries = item->n_rows * (a->n_heads / a->kv->n_kv_heads);
    return (uint64_t)attention_splits(a, item) * (1 + (queries + QUERIES_A_UNIT - 1) / QUERIES_A_UNIT);
}

/* When the last of the threads is done, each taking the next item as soon as it is free. */
static uint64_t makespan(const struct attention *a, const struct attention_item *items, uint32_t n, uint32_t n_threads)
{
    uint64_t busy[TEAM_MAX_THREADS] = { 0 };
    uint64_t last = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t first_free = 0;
        for (uint32_t t = 1; t < n_threads; t++)
            first_free = busy[t] < busy[first_free] ? t : first_free;
        busy[first_free] += attention_cost(a, &items[i]);
        last = larger(last, busy[first_free]);
    }
    return last;
}

uint64_t attention_plan(const struct attention *a, const struct attention_item *items, uint32_t n, uint32_t n_threads)
{
    uint64_t total = 0;
    uint64_t longest = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t cost = attention_cost(a, &items[i]);
        total += cost;
        longest = larger(longest, cost);
    }
    const uint64_t part = larger(total / n_threads / PARTS_A_THREAD, 1);
    if (n_threads == 1 || longest <= part)
        return UINT64_MAX;
    const uint64_t fair = (total + n_threads - 1) / n_threads;
    if (makespan(a, items, n, n_threads) <= fair + fair / WASTE_OF_A_WHOLE)
        return UINT64_MAX;
    return part;
}

uint32_t attention_plan_parts(uint64_t cost, uint64_t part_cost, uint32_t splits)
{
    if (cost <= part_cost)
        return 1;
    const uint64_t wanted = (cost + part_cost - 1) / part_cost;
    const uint32_t most = splits / ATTENTION_PART_SPLITS;
    return wanted < most ? (uint32_t)wanted : most > 0 ? most : 1;
}
