/* pull_cost.h - whether fetching KV beats computing it, by what both took of late.
 *   pull      = (answer + bytes / bandwidth[tier]) * drift      for one holder
 *   recompute = tokens / rate                                   or what the caller knows better (step_cost.h)
 * A holder of whom nothing is known is taken to be as the options say. What is known of one fades to that again while
 * nothing is measured (half of it in forget_us), so that a holder that was slow once is tried again. Pure: the caller
 * measures and says what time it is. */
#ifndef BATON_KVBM_PULL_COST_H
#define BATON_KVBM_PULL_COST_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/kv_events.h"

/* What is assumed of a holder before it was measured. */
struct pull_prior {
    double answer_us;                   /* from asking to the first answer */
    double bytes_per_us[KV_TIER_COUNT]; /* from the first take to the last */
    uint64_t forget_us;
};

struct pull_cost { /* of one holder; zeroed: nothing is known */
    double answer_us;
    double bytes_per_us[KV_TIER_COUNT]; /* 0: never measured */
    double drift;                       /* measured over predicted of late */
    uint64_t measured_us;               /* when last */
    uint32_t pulls;
};

/* One pull that ended well. */
struct pull_measurement {
    uint64_t bytes;
    enum kv_tier tier; /* the slowest of its blocks */
    uint64_t answer_us, take_us;
};

void pull_cost_observe(struct pull_cost *cost, const struct pull_prior *prior, const struct pull_measurement *m,
                       uint64_t now_us);
/* A pull that ended otherwise after so long: what it cost counts in drift. */
void pull_cost_failed(struct pull_cost *cost, const struct pull_prior *prior, uint64_t bytes, enum kv_tier tier,
                      uint64_t us, uint64_t now_us);
double pull_cost_predict(const struct pull_cost *cost, const struct pull_prior *prior, uint64_t bytes,
                         enum kv_tier tier, uint64_t now_us);

/* How fast prompts are computed here. */
struct prefill_rate { /* zeroed: nothing is known */
    double tokens_per_us;
};
void prefill_rate_observe(struct prefill_rate *rate, uint64_t tokens, uint64_t us);
/* 0: nothing is known. */
double prefill_rate_predict(const struct prefill_rate *rate, uint64_t tokens);

/* True when the pull is predicted to be the faster by a tenth, or when nothing is known of computing. */
bool pull_pays(double pull_us, double recompute_us);

/* Holders by their incarnation; bounded: the one measured longest ago makes room. */
#define PULL_COSTS_MAX 256u
struct pull_costs {
    struct pull_prior prior;
    struct {
        uint64_t holder;
        struct pull_cost cost;
    } rows[PULL_COSTS_MAX];
    uint32_t n;
};
/* NULL: never measured. */
const struct pull_cost *pull_costs_find(const struct pull_costs *costs, uint64_t holder);
/* Made when there is none. */
struct pull_cost *pull_costs_of(struct pull_costs *costs, uint64_t holder);

#endif
