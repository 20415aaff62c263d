#include "router/cached_tokens.h"

void cached_tokens_read(const Baton__Timing *timing, uint32_t n_prompt, struct cached_tokens *out)
{
    uint64_t room = n_prompt > 0 ? n_prompt - 1 : 0;
    *out = (struct cached_tokens){ { 0 } };
    for (size_t i = 0; i < timing->n_cached_tokens; i++) {
        uint64_t told = timing->cached_tokens[i], n = told < room ? told : room;
        out->by_tier[i < KV_TIER_COUNT ? i : KV_TIER_COUNT - 1] += n;
        room -= n;
    }
}

void cached_tokens_add(struct cached_tokens *sum, const struct cached_tokens *more)
{
    for (size_t i = 0; i < KV_TIER_COUNT; i++)
        sum->by_tier[i] += more->by_tier[i];
}

uint64_t cached_tokens_total(const struct cached_tokens *cached)
{
    uint64_t total = 0;
    for (size_t i = 0; i < KV_TIER_COUNT; i++)
        total += cached->by_tier[i];
    return total;
}

const char *cached_tokens_tier(enum kv_tier tier)
{
    static const char *const names[] = {
        [KV_TIER_DEVICE] = "device",
        [KV_TIER_HOST] = "host",
        [KV_TIER_DISK] = "disk",
        [KV_TIER_REMOTE] = "peer",
    };
    _Static_assert(sizeof names / sizeof *names == KV_TIER_COUNT, "a name for each tier");
    return names[tier];
}
