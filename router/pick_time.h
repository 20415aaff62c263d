/* pick_time.h - the terms of the predicted time of a request (docs/ROUTING.md). Pure functions; inline, as
 * a choice takes them of each of thousands of workers. */
#ifndef BATON_ROUTER_PICK_TIME_H
#define BATON_ROUTER_PICK_TIME_H

#include "router/pick.h"

#define PICK_LAMBDA_US         20000.0 /* lambda: what a decode worker costs whose KV is half used */
#define PICK_MOST_USED         0.99    /* KV use beyond this counts as this */
#define PICK_CHUNK_TOKENS      512u    /* rows of a prompt in one step */
#define PICK_DEFAULT_KV_BLOCKS 1024u   /* of a worker that has not said */

#define PICK_MOST_US 1e15 /* 30 years: sums of a few of them are far from any limit */

static inline uint64_t pick_time_whole(double us)
{
    return us < 0.5 ? 0 : us < PICK_MOST_US ? (uint64_t)(int64_t)(us + 0.5) : (uint64_t)PICK_MOST_US;
}

/* n tokens behind `context` others attend to so many positions. */
static inline double pick_time_attended(double context, double n)
{
    return n * context + n * (n + 1) / 2;
}

static inline double pick_time_line(const struct pick_line *line, double bytes)
{
    return (double)line->base + (double)line->byte * bytes;
}

/* The last token of a prompt is always computed, as its logits give the first one of the answer, and with it the rest
 * of its block: workers find whole blocks. */
static inline uint32_t pick_time_useful(uint32_t tokens, const struct pick_request *request)
{
    uint32_t size = request->block_tokens ? request->block_tokens : 1;
    if (tokens < request->n_tokens)
        return tokens;
    return request->n_tokens > 0 ? (request->n_tokens - 1) / size * size : 0;
}

/* Computing so many tokens that attend to so many positions. */
static inline double pick_time_tokens(const struct pick_rates *r, double n, double positions)
{
    return (double)r->prefill_base + (double)r->prefill_token * n + (double)r->prefill_pair * positions;
}

/* Computing n tokens behind `context` others. */
static inline double pick_time_compute(const struct pick_candidate *c, uint32_t context, uint32_t n)
{
    return pick_time_tokens(&c->rates, n, pick_time_attended(context, n));
}

/* How a worker would get the KV of the prompt: what it uses, what it fetches, and what it computes. */
struct pick_plan {
    uint64_t prefill_us, pull_us;
    uint32_t cached, pulled, computed;
    enum kv_tier source;
};

/* The cheapest of computing all that is not in its device, and of fetching what one tier or anybody else holds. */
void pick_time_plan(const struct pick_request *request, const struct pick_candidate *c, struct pick_plan *out);

/* What is the same for all workers that have nothing of the prompt, as nearly all of thousands. */
struct pick_cold {
    double n, positions; /* the whole prompt */
    uint32_t n_tokens, pulled;
    double rest, rest_positions; /* what is computed behind what is pulled */
};

static inline struct pick_cold pick_time_cold(const struct pick_request *request)
{
    uint32_t n = request->n_tokens, pulled = pick_time_useful(request->elsewhere, request), rest = n - pulled;
    return (struct pick_cold){ n, pick_time_attended(0, n), n, pulled, rest, pick_time_attended(pulled, rest) };
}

static inline bool pick_time_is_cold(const struct pick_candidate *c)
{
    uint32_t any = 0;
    for (int tier = 0; tier < KV_TIER_COUNT; tier++)
        any |= c->cached[tier];
    return any == 0;
}

/* The times of pick_time_plan, added, for a worker that has nothing. */
static inline uint64_t pick_time_cold_us(const struct pick_cold *cold, const struct pick_candidate *c,
                                         uint32_t *computed)
{
    uint64_t all_us = pick_time_whole(pick_time_tokens(&c->rates, cold->n, cold->positions));
    *computed = cold->n_tokens;
    if (cold->pulled == 0 || c->computes_all)
        return all_us;
    const struct pick_line *pull = &c->rates.pull[KV_TIER_REMOTE];
    uint64_t us = pick_time_whole(pick_time_line(pull, (double)c->token_bytes * cold->pulled)) +
                  pick_time_whole(pick_time_tokens(&c->rates, cold->rest, cold->rest_positions));
    if (us >= all_us)
        return all_us;
    *computed = cold->n_tokens - cold->pulled;
    return us;
}

/* Until its queue is computed. local: only what the decode worker computes itself. */
static inline uint64_t pick_time_wait(const struct pick_candidate *c, bool local)
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
    return pick_time_whole((double)c->rates.queue + (left > 0 ? left : 0) + token * later);
}

/* lambda * k / (1 - k), k with all that waits there, and with this request. */
static inline uint64_t pick_time_pressure(const struct pick_request *request, const struct pick_candidate *decode)
{
    uint32_t blocks = decode->kv_blocks ? decode->kv_blocks : PICK_DEFAULT_KV_BLOCKS;
    uint32_t free = decode->kv_blocks ? decode->kv_free : PICK_DEFAULT_KV_BLOCKS;
    double size = request->block_tokens ? request->block_tokens : 1;
    double asked = (double)(decode->queued_tokens + decode->later_tokens + request->n_tokens) / size;
    double used = ((double)blocks - (double)free + asked) / (double)blocks;
    double k = used < PICK_MOST_USED ? used : PICK_MOST_USED;
    return pick_time_whole(PICK_LAMBDA_US * k / (1.0 - k) +
                           (double)decode->rates.prefill_token * (double)decode->fault_tokens);
}

/* Tokens of KV that come in from a prefill worker, and the exposed part of that time. */
static inline uint32_t pick_time_moved(const struct pick_request *request, const struct pick_candidate *decode)
{
    return request->n_tokens - pick_time_useful(decode->cached[KV_TIER_DEVICE], request);
}

static inline uint64_t pick_time_handoff(const struct pick_candidate *decode, uint32_t moved, bool other_host)
{
    return pick_time_whole(pick_time_line(&decode->rates.handoff[other_host], (double)decode->token_bytes * moved));
}

/* What steps of running sequences add to a prompt that is computed between them. */
static inline uint64_t pick_time_beside(const struct pick_candidate *decode, uint32_t computed)
{
    uint64_t steps = ((uint64_t)computed + PICK_CHUNK_TOKENS - 1) / PICK_CHUNK_TOKENS;
    return decode->running ? pick_time_whole((double)decode->rates.step * (double)steps) : 0;
}

/* The longest step while the prompt, all but what is had, is computed here. */
static inline uint64_t pick_time_itl(const struct pick_request *request, const struct pick_candidate *decode,
                                     uint32_t computed)
{
    uint32_t rows = computed < PICK_CHUNK_TOKENS ? computed : PICK_CHUNK_TOKENS;
    return pick_time_whole((double)decode->rates.step + pick_time_compute(decode, request->n_tokens - rows, rows));
}

#endif
