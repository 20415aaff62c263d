#include "router/pick_time.h"

static void consider(struct pick_plan *best, const struct pick_request *request, const struct pick_candidate *c,
                     uint32_t reach, enum kv_tier source)
{
    uint32_t from = pick_time_useful(reach, request);
    if (from <= best->cached)
        return;
    uint32_t pulled = from - best->cached, computed = request->n_tokens - from;
    uint64_t pull = pick_time_whole(pick_time_line(&c->rates.pull[source], (double)c->token_bytes * pulled));
    uint64_t prefill = pick_time_whole(pick_time_compute(c, from, computed));
    if (pull + prefill >= best->pull_us + best->prefill_us)
        return;
    best->pull_us = pull;
    best->prefill_us = prefill;
    best->pulled = pulled;
    best->computed = computed;
    best->source = source;
}

void pick_time_plan(const struct pick_request *request, const struct pick_candidate *c, struct pick_plan *out)
{
    uint32_t held = pick_time_useful(c->cached[KV_TIER_DEVICE], request), computed = request->n_tokens - held;
    *out = (struct pick_plan){ .prefill_us = pick_time_whole(pick_time_compute(c, held, computed)),
                               .cached = held,
                               .computed = computed,
                               .source = KV_TIER_DEVICE };
    if (c->computes_all)
        return;
    for (uint32_t tier = KV_TIER_DEVICE + 1; tier < KV_TIER_COUNT; tier++)
        if (c->cached[tier] > held)
            consider(out, request, c, c->cached[tier], (enum kv_tier)tier);
    if (request->elsewhere > held && request->elsewhere > c->cached[KV_TIER_HOST]) /* nobody is nearer than its host */
        consider(out, request, c, request->elsewhere, KV_TIER_REMOTE);
}
