/* fleet_rates.h - how fast a worker is, learned from how its requests fared. Pure: the caller measures. */
#ifndef BATON_ROUTER_FLEET_RATES_H
#define BATON_ROUTER_FLEET_RATES_H

#include "engine/step_cost.h"
#include "router/pick.h"
#include "router/recent_times.h"

/* What is taken for a worker until it, or another of its model and role, was measured. */
#define RATE_PREFILL_TOKEN_US 1000.0f /* 1000 tokens/s */
#define RATE_HANDOFF_BASE_US  1000.0f
#define RATE_HANDOFF_BYTE_US  0.001f /* 1 GB/s */
#define RATE_PULL_BASE_US     2000.0f
#define RATE_PULL_BYTE_US     0.002f /* 500 MB/s */

struct fleet_rates {                         /* zeroed: nothing is known */
    struct step_cost prefill;                /* rows: tokens computed */
    struct step_cost handoff[2];             /* rows: KiB moved; [1]: from another host */
    struct recent_times pull[KV_TIER_COUNT]; /* a fetch takes milliseconds, of which a processor that is busy elsewhere
                                                may double some */
    struct recent_waits queue;               /* of prompts that none was before */
};

/* A prompt of n_tokens was computed but for its beginning. */
void fleet_rates_prefill(struct fleet_rates *rates, uint32_t n_tokens, uint32_t computed, uint64_t us);
void fleet_rates_handoff(struct fleet_rates *rates, bool other_host, uint64_t bytes, uint64_t us);
void fleet_rates_pull(struct fleet_rates *rates, enum kv_tier tier, uint64_t bytes, uint64_t us);
/* What should have been fetched was not, which cost so much: the times before are none of now. */
void fleet_rates_missed(struct fleet_rates *rates, enum kv_tier tier, uint64_t bytes, uint64_t us);
/* A prompt before which nothing waited. */
void fleet_rates_queue(struct fleet_rates *rates, uint64_t us);
/* Its own, those of its model and role, those of its model in the other role. Zeroed ones know nothing. */
#define FLEET_RATE_SOURCES  3
#define FLEET_RATES_TYPICAL 1

/* Each from the first that was measured at enough sizes, scaled to its own speed; else from the first that was measured
 * at all; else the default. The queue is that of model and role for all of them: so small a difference between workers
 * says nothing of who is better. step is the caller's. */
void fleet_rates_read(const struct fleet_rates *const from[FLEET_RATE_SOURCES], struct pick_rates *out);

#endif
