#include "engine/scheduler.h"

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

uint32_t scheduler_form(const struct scheduler_limits *limits, const uint32_t *wanted, uint32_t n, uint32_t *rows)
{
    uint32_t budget = limits->budget_rows, seqs = limits->max_seqs, sum = 0;
    for (int prefills = 0; prefills <= 1; prefills++)
        for (uint32_t i = 0; i < n; i++) {
            if ((wanted[i] > 1) != prefills)
                continue;
            uint32_t take = seqs ? least(least(wanted[i], limits->chunk_tokens), budget) : 0;
            rows[i] = take;
            sum += take;
            budget -= take;
            seqs -= take > 0;
        }
    return sum;
}
