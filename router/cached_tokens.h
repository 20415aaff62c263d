/* cached_tokens.h - how many tokens of a prompt nobody computed for a request, by the tier that had their KV. Pure. */
#ifndef BATON_ROUTER_CACHED_TOKENS_H
#define BATON_ROUTER_CACHED_TOKENS_H

#include "proto/baton.pb-c.h"
#include "proto/kv_events.h"

struct cached_tokens {
    uint64_t by_tier[KV_TIER_COUNT];
};

/* What a worker told of a prompt of n_prompt tokens. At most n_prompt - 1 in all, nearest tiers first: the last token
 * is always computed. A tier that this program does not know counts as the farthest. */
void cached_tokens_read(const Baton__Timing *timing, uint32_t n_prompt, struct cached_tokens *out);
void cached_tokens_add(struct cached_tokens *sum, const struct cached_tokens *more);
uint64_t cached_tokens_total(const struct cached_tokens *cached);
/* "device", "host", "disk", "peer": as the API and the metrics name it. */
const char *cached_tokens_tier(enum kv_tier tier);

#endif
