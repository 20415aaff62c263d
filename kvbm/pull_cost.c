#include "kvbm/pull_cost.h"

#include <math.h>
#include <stddef.h>

#define WEIGHT      0.2  /* of the newest measurement */
#define DRIFT_LEAST 0.25 /* one pull among many that ran beside it says little */
#define DRIFT_MOST  16.0
#define PULL_MARGIN 0.9 /* what a pull may take of the time that it saves */

static double blend(double old, double new, double weight)
{
    return old > 0 ? old + weight * (new - old) : new;
}

/* How much of what was measured still counts: 1 now, half after forget_us. */
static double memory_of(const struct pull_cost *cost, const struct pull_prior *prior, uint64_t now_us)
{
    if (!cost || !cost->pulls)
        return 0;
    double age = now_us > cost->measured_us ? (double)(now_us - cost->measured_us) : 0;
    return prior->forget_us ? exp2(-age / (double)prior->forget_us) : 1;
}

static double between(double measured, double assumed, double memory)
{
    return measured > 0 ? assumed + memory * (measured - assumed) : assumed;
}

static double plain(const struct pull_cost *cost, const struct pull_prior *prior, uint64_t bytes, enum kv_tier tier,
                    double memory)
{
    double answer = between(cost ? cost->answer_us : 0, prior->answer_us, memory);
    double rate = between(cost ? cost->bytes_per_us[tier] : 0, prior->bytes_per_us[tier], memory);
    return answer + (double)bytes / rate;
}

double pull_cost_predict(const struct pull_cost *cost, const struct pull_prior *prior, uint64_t bytes,
                         enum kv_tier tier, uint64_t now_us)
{
    double memory = memory_of(cost, prior, now_us);
    return plain(cost, prior, bytes, tier, memory) * between(cost ? cost->drift : 0, 1, memory);
}

/* What is measured anew is blended with what is still known, not with what has faded. */
static void fade(struct pull_cost *cost, const struct pull_prior *prior, uint64_t now_us)
{
    double memory = memory_of(cost, prior, now_us);
    cost->answer_us = cost->pulls ? between(cost->answer_us, prior->answer_us, memory) : 0;
    for (int tier = 0; tier < KV_TIER_COUNT; tier++)
        if (cost->bytes_per_us[tier] > 0)
            cost->bytes_per_us[tier] = between(cost->bytes_per_us[tier], prior->bytes_per_us[tier], memory);
    cost->drift = between(cost->drift, 1, memory);
    cost->measured_us = now_us;
}

static void correct(struct pull_cost *cost, double measured, double predicted)
{
    double drift = measured / predicted;
    drift = drift < DRIFT_LEAST ? DRIFT_LEAST : drift > DRIFT_MOST ? DRIFT_MOST : drift;
    cost->drift = blend(cost->drift, drift, WEIGHT);
}

void pull_cost_observe(struct pull_cost *cost, const struct pull_prior *prior, const struct pull_measurement *m,
                       uint64_t now_us)
{
    fade(cost, prior, now_us);
    /* Against the parts as they were, so that drift is what the parts do not explain; what was only assumed explains
     * nothing. */
    if (cost->bytes_per_us[m->tier] > 0)
        correct(cost, (double)(m->answer_us + m->take_us), plain(cost, prior, m->bytes, m->tier, 1));
    cost->answer_us = blend(cost->answer_us, (double)m->answer_us, WEIGHT);
    if (m->bytes && m->take_us)
        cost->bytes_per_us[m->tier] = blend(cost->bytes_per_us[m->tier], (double)m->bytes / (double)m->take_us, WEIGHT);
    cost->pulls++;
}

void pull_cost_failed(struct pull_cost *cost, const struct pull_prior *prior, uint64_t bytes, enum kv_tier tier,
                      uint64_t us, uint64_t now_us)
{
    fade(cost, prior, now_us);
    double predicted = plain(cost, prior, bytes, tier, 1);
    correct(cost, (double)us > 2 * predicted ? (double)us : 2 * predicted, predicted);
    cost->pulls++;
}

void prefill_rate_observe(struct prefill_rate *rate, uint64_t tokens, uint64_t us)
{
    if (tokens && us)
        rate->tokens_per_us = blend(rate->tokens_per_us, (double)tokens / (double)us, WEIGHT);
}

double prefill_rate_predict(const struct prefill_rate *rate, uint64_t tokens)
{
    return rate->tokens_per_us > 0 ? (double)tokens / rate->tokens_per_us : 0;
}

bool pull_pays(double pull_us, double recompute_us)
{
    return recompute_us <= 0 || pull_us < PULL_MARGIN * recompute_us;
}

const struct pull_cost *pull_costs_find(const struct pull_costs *costs, uint64_t holder)
{
    for (uint32_t i = 0; i < costs->n; i++)
        if (costs->rows[i].holder == holder)
            return &costs->rows[i].cost;
    return NULL;
}

struct pull_cost *pull_costs_of(struct pull_costs *costs, uint64_t holder)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < costs->n; i++) {
        if (costs->rows[i].holder == holder)
            return &costs->rows[i].cost;
        if (costs->rows[i].cost.measured_us < costs->rows[at].cost.measured_us)
            at = i;
    }
    if (costs->n < PULL_COSTS_MAX)
        at = costs->n++;
    costs->rows[at].holder = holder;
    costs->rows[at].cost = (struct pull_cost){ 0 };
    return &costs->rows[at].cost;
}
