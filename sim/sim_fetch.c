/* KV from other workers: whether fetching beats computing is kvbm/pull_cost's to say, as in a worker. */
#include "sim/sim_internal.h"

#define FORGET_US 10000000u

/* What is assumed of a holder that was never asked: the link as it is. */
static struct pull_prior prior_of(const struct sim *s)
{
    const struct profile *p = s->options->profile;
    struct pull_prior prior = { .answer_us = 2 * p->link_latency_us, .forget_us = FORGET_US };
    for (int tier = 0; tier < KV_TIER_COUNT; tier++)
        prior.bytes_per_us[tier] = p->link_bytes_per_s / 1e6;
    return prior;
}

static double bytes_of(const struct sim *s, uint32_t blocks)
{
    return s->options->profile->kv_token_bytes * s->options->block_tokens * blocks;
}

/* Microseconds that computing these tokens would take, alone. */
static double recompute_us(const struct sim *s, uint32_t first, uint32_t n)
{
    uint32_t most = s->limits.chunk_tokens < s->limits.budget_rows ? s->limits.chunk_tokens : s->limits.budget_rows;
    double us = 0;
    for (uint32_t done = 0; done < n; done += most) {
        uint32_t rows = n - done < most ? n - done : most;
        us += step_cost_predict(&s->cost, rows, step_attended(first + done, rows));
    }
    return us;
}

struct choice {
    uint32_t worker, blocks;
    double gain;
};

static void consider(const struct sim *s, const struct sim_worker *w, uint32_t holder, uint32_t first, uint32_t n,
                     struct choice *best)
{
    const struct pull_prior prior = prior_of(s);
    const struct pull_cost *cost = pull_costs_find(w->costs, s->workers[holder].source);
    double us = pull_cost_predict(cost, &prior, (uint64_t)bytes_of(s, n), KV_TIER_DEVICE, sim_us(s));
    uint32_t size = s->options->block_tokens;
    double saved = recompute_us(s, first * size, n * size);
    if (pull_pays(us, saved) && (best->blocks == 0 || saved - us > best->gain))
        *best = (struct choice){ holder, n, saved - us };
}

/* What it has may have gone since the router looked, or its death is not known yet: then nothing comes. */
static uint32_t still_has(struct sim *s, const struct flight *f, uint32_t holder, uint32_t blocks)
{
    const struct sim_worker *w = &s->workers[holder];
    uint32_t n = sim_keys(s, f, f->n_tokens - 1);
    n = n < blocks ? n : blocks;
    return w->alive ? kv_blocks_peek(w->blocks, s->keys, n) : 0;
}

static void begin(struct sim *s, struct sim_worker *w, struct flight *f, uint32_t first, const struct choice *choice)
{
    struct sim_worker *from = &s->workers[choice->worker];
    uint32_t has = still_has(s, f, choice->worker, first + choice->blocks);
    f->fetch_from = choice->worker;
    f->fetch_incarnation = from->incarnation;
    f->fetch_first = first;
    f->fetch_blocks = has > first ? has - first : 0;
    f->fetch_began_ns = s->now_ns;
    f->fetch_bytes = (uint64_t)bytes_of(s, f->fetch_blocks);
    s->result->pulls++;
    s->result->pulls_short += f->fetch_blocks < choice->blocks;
    f->fetch_ends_ns = s->now_ns + 2 * sim_latency_ns(s);
    if (f->fetch_blocks)
        f->fetch_ends_ns = sim_move(s, from, w, (double)f->fetch_bytes, f->fetch_ends_ns);
}

void sim_fetch_begin(struct sim *s, struct sim_worker *w, struct flight *f, uint32_t held)
{
    uint32_t size = s->options->block_tokens, first = held / size, end = (f->n_tokens - 1) / size;
    struct choice best = { .blocks = 0 };
    f->fetch_blocks = 0;
    f->fetch_ends_ns = s->now_ns;
    if (!s->options->fetch)
        return;
    for (uint32_t i = 0; i < f->n_hints; i++) {
        uint32_t upto = f->hints[i].tokens / size;
        upto = upto < end ? upto : end;
        if (upto > first && f->hints[i].worker != w->source)
            consider(s, w, f->hints[i].worker, first, upto - first, &best);
    }
    if (best.blocks)
        begin(s, w, f, first, &best);
}

static void learn(struct sim *s, struct sim_worker *w, const struct flight *f)
{
    const struct pull_prior prior = prior_of(s);
    uint64_t us = (f->fetch_ends_ns - f->fetch_began_ns) / NS, answer = 2 * sim_latency_ns(s) / NS;
    const struct pull_measurement m = {
        .bytes = f->fetch_bytes, .tier = KV_TIER_DEVICE, .answer_us = answer, .take_us = us > answer ? us - answer : 0
    };
    struct pull_cost *cost = pull_costs_of(w->costs, f->fetch_from);
    pull_cost_observe(cost, &prior, &m, f->fetch_ends_ns / NS);
}

uint32_t sim_fetch_end(struct sim *s, struct sim_worker *w, struct flight *f, struct kv_hold *hold)
{
    uint32_t blocks = f->fetch_blocks, upto = f->fetch_first + blocks;
    f->fetch_blocks = 0;
    if (blocks == 0)
        return 0;
    if (s->workers[f->fetch_from].incarnation != f->fetch_incarnation)
        return 0; /* it died meanwhile */
    learn(s, w, f);
    f->fetch_us += (f->fetch_ends_ns - f->fetch_began_ns) / NS;
    s->result->pulled_bytes += f->fetch_bytes;
    (void)sim_keys(s, f, upto * s->options->block_tokens);
    kv_blocks_filled(w->blocks, s->keys, upto, hold);
    f->computed = upto * s->options->block_tokens;
    return blocks * s->options->block_tokens;
}
