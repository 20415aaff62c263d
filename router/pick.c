#include "router/pick.h"

#include <stddef.h>

#define TOKENS_PER_REQUEST 64.0 /* what a running sequence weighs beside prompt tokens */
#define KV_WEIGHT          256.0

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

double pick_cost(const struct pick_candidate *c)
{
    double used = c->kv_blocks ? 1.0 - (double)c->kv_free / c->kv_blocks : 0.0;
    double pressure = used < 0.99 ? used / (1.0 - used) : 99.0;
    return (double)c->queued_tokens + TOKENS_PER_REQUEST * c->requests + KV_WEIGHT * pressure;
}

static uint32_t cheapest(const struct pick_candidate *candidates, uint32_t n, uint64_t turn, const bool *taken)
{
    uint32_t best = PICK_NONE;
    for (uint32_t step = 0; step < n; step++) {
        uint32_t i = (uint32_t)((turn + step) % n);
        if (!candidates[i].usable || (taken && taken[i]))
            continue;
        if (best == PICK_NONE || pick_cost(&candidates[i]) < pick_cost(&candidates[best]))
            best = i;
    }
    return best;
}

static uint32_t nth_usable(const struct pick_candidate *candidates, uint32_t n, uint64_t nth)
{
    uint32_t usable = 0;
    for (uint32_t i = 0; i < n; i++)
        usable += candidates[i].usable;
    if (usable == 0)
        return PICK_NONE;
    nth %= usable;
    for (uint32_t i = 0; i < n; i++)
        if (candidates[i].usable && nth-- == 0)
            return i;
    return PICK_NONE;
}

static uint32_t better_of_two(const struct pick_candidate *candidates, uint32_t n, uint64_t turn)
{
    uint32_t a = nth_usable(candidates, n, mix(turn)), b = nth_usable(candidates, n, mix(~turn));
    if (a == PICK_NONE)
        return a;
    return pick_cost(&candidates[b]) < pick_cost(&candidates[a]) ? b : a;
}

uint32_t pick_worker(enum pick_policy policy, const struct pick_candidate *candidates, uint32_t n, uint64_t turn)
{
    if (n == 0)
        return PICK_NONE;
    switch (policy) {
    case PICK_ROUND_ROBIN:
        return nth_usable(candidates, n, turn);
    case PICK_RANDOM:
        return nth_usable(candidates, n, mix(turn));
    case PICK_POWER_OF_TWO:
        return better_of_two(candidates, n, turn);
    default:
        return cheapest(candidates, n, turn, NULL);
    }
}

#define RANK_MAX_CANDIDATES 4096

uint32_t pick_rank(const struct pick_candidate *candidates, uint32_t n, uint64_t turn, uint32_t *out, uint32_t max)
{
    bool taken[RANK_MAX_CANDIDATES] = { false };
    uint32_t ranked = 0;
    if (n > RANK_MAX_CANDIDATES)
        n = RANK_MAX_CANDIDATES;
    while (n && ranked < max) {
        uint32_t i = cheapest(candidates, n, turn, taken);
        if (i == PICK_NONE)
            break;
        taken[i] = true;
        out[ranked++] = i;
    }
    return ranked;
}
