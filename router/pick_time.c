#include "router/pick_time.h"

#define MOST_US 1e15 /* 30 years: sums of a few of them are far from any limit */

static uint64_t whole(double us)
{
    return us < 0.5 ? 0 : us < MOST_US ? (uint64_t)(us + 0.5) : (uint64_t)MOST_US;
}

/* n tokens behind `context` others attend to so many positions. */
static double attended(double context, double n)
{
    return n * context + n * (n + 1) / 2;
}

double pick_time_compute(const struct pick_candidate *c, uint32_t context, uint32_t n)
{
    const struct pick_rates *r = &c->rates;
    return (double)r->prefill_base + (double)r->prefill_token * n + (double)r->prefill_pair * attended(context, n);
}

static double line_us(const struct pick_line *line, double bytes)
{
    return (double)line->base + (double)line->byte * bytes;
}

/* The last token of a prompt is always computed, as its logits give the first one of the answer, and with it the rest
 * of its block: workers find whole blocks. */
static uint32_t useful(uint32_t tokens, const struct pick_request *request)
{
    uint32_t size = request->block_tokens ? request->block_tokens : 1;
    if (tokens < request->n_tokens)
        return tokens;
    return request->n_tokens > 0 ? (request->n_tokens - 1) / size * size : 0;
}

static void consider(struct pick_plan *best, const struct pick_request *request, const struct pick_candidate *c,
                     uint32_t reach, enum kv_tier source)
{
    uint32_t from = useful(reach, request);
    if (from <= best->cached)
        return;
    uint32_t pulled = from - best->cached, computed = request->n_tokens - from;
    uint64_t pull = whole(line_us(&c->rates.pull[source], (double)c->token_bytes * pulled));
    uint64_t prefill = whole(pick_time_compute(c, from, computed));
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
    uint32_t held = useful(c->cached[KV_TIER_DEVICE], request), computed = request->n_tokens - held;
    *out = (struct pick_plan){ .prefill_us = whole(pick_time_compute(c, held, computed)),
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

uint64_t pick_time_wait(const struct pick_candidate *c, bool local)
{
    double token = (double)c->rates.prefill_token, said = (double)c->queued_tokens, later = (double)c->later_tokens;
    if (local) { /* what is on its way to prefill workers may stand in either */
        double own = said + later - (double)c->remote_tokens;
        said = own < said ? own : said;
        later = own - said;
    } else {
        later += (double)c->fault_tokens;
    }
    double left = token * said - (double)c->age_us;
    return whole((double)c->rates.queue + (left > 0 ? left : 0) + token * later);
}

uint64_t pick_time_pressure(const struct pick_request *request, const struct pick_candidate *decode)
{
    uint32_t blocks = decode->kv_blocks ? decode->kv_blocks : PICK_DEFAULT_KV_BLOCKS;
    uint32_t free = decode->kv_blocks ? decode->kv_free : PICK_DEFAULT_KV_BLOCKS;
    double size = request->block_tokens ? request->block_tokens : 1;
    double asked = (double)(decode->queued_tokens + decode->later_tokens + request->n_tokens) / size;
    double used = ((double)blocks - (double)free + asked) / (double)blocks;
    double k = used < PICK_MOST_USED ? used : PICK_MOST_USED;
    return whole(PICK_LAMBDA_US * k / (1.0 - k) + (double)decode->rates.prefill_token * (double)decode->fault_tokens);
}

uint32_t pick_time_moved(const struct pick_request *request, const struct pick_candidate *decode)
{
    return request->n_tokens - useful(decode->cached[KV_TIER_DEVICE], request);
}

uint64_t pick_time_handoff(const struct pick_candidate *decode, uint32_t moved, bool other_host)
{
    return whole(line_us(&decode->rates.handoff[other_host], (double)decode->token_bytes * moved));
}

uint64_t pick_time_beside(const struct pick_candidate *decode, uint32_t computed)
{
    uint64_t steps = ((uint64_t)computed + PICK_CHUNK_TOKENS - 1) / PICK_CHUNK_TOKENS;
    return decode->running ? whole((double)decode->rates.step * (double)steps) : 0;
}

uint64_t pick_time_itl(const struct pick_request *request, const struct pick_candidate *decode,
                       const struct pick_plan *plan)
{
    uint32_t rows = plan->computed < PICK_CHUNK_TOKENS ? plan->computed : PICK_CHUNK_TOKENS;
    return whole((double)decode->rates.step + pick_time_compute(decode, request->n_tokens - rows, rows));
}
