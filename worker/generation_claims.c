/* All claims on a decode worker's blocks stand in one list, in the order of
 * scheduler_goes_before: local prompts, Grant asks and preempted sequences. */
#include "worker/generation.h"

static bool goes_before(const struct generation *a, const struct generation *b, uint64_t now)
{
    struct scheduler_claim of_a = generation_claim(a, now), of_b = generation_claim(b, now);
    return scheduler_goes_before(&a->worker->options.limits, &of_a, &of_b);
}

static void insert(struct generation *g, uint64_t now)
{
    struct generation_list *claims = &g->worker->claims;
    struct generation *other;
    TAILQ_FOREACH(other, claims, claim)
    if (goes_before(g, other, now)) {
        TAILQ_INSERT_BEFORE(other, g, claim);
        return;
    }
    TAILQ_INSERT_TAIL(claims, g, claim);
}

void claim_add(struct generation *g)
{
    ASSERT(!g->in_claims);
    g->in_claims = true;
    g->claim_since_us = g->worker->io->now(g->worker->io->ctx);
    insert(g, g->claim_since_us);
}

/* Waiting changes the order: who became overdue moves up. */
static void resort(struct worker *worker, uint64_t now)
{
    struct generation *g, *next, *before;
    for (g = TAILQ_FIRST(&worker->claims); g; g = next) {
        next = TAILQ_NEXT(g, claim);
        before = TAILQ_PREV(g, generation_list, claim);
        if (!before || !goes_before(g, before, now))
            continue;
        TAILQ_REMOVE(&worker->claims, g, claim);
        insert(g, now);
    }
}

void claim_remove(struct generation *g)
{
    if (g->in_claims)
        TAILQ_REMOVE(&g->worker->claims, g, claim);
    g->in_claims = false;
}

static void send_grant(struct generation *g)
{
    struct worker *worker = g->worker;
    struct message_head head = { FRAME_GRANT, g->node.key, g->attempt, g->leg, g->deadline_us, &g->trace };
    Baton__Grant body = BATON__GRANT__INIT;
    body.from_token = g->committed;
    g->granted_us = worker->io->now(worker->io->ctx);
    if (worker->io->send(worker->io->ctx, g->prefill, &head, &body.base, true) != ST_OK)
        generation_leg_failed(g, "the Grant could not be sent");
}

/* ---- KV from elsewhere, for a prompt that is computed here --------------------------------------------- */

static struct generation *generation_that_pulls(struct pulling *pulling)
{
    return (struct generation *)((char *)pulling - offsetof(struct generation, pulling));
}

/* What a preempted sequence fetches it had before. */
static void on_came(struct pulling *pulling, uint32_t first, uint32_t n, const enum kv_tier by_tier[])
{
    struct generation *g = generation_that_pulls(pulling);
    uint32_t bt = g->worker->options.layout.block_tokens;
    g->committed = first + n;
    if (!g->seq.awaits)
        g->seq.computed = g->committed;
    for (uint32_t i = 0; i < n / bt && g->n_preempted == 0; i++)
        g->cached[by_tier[i]] += bt;
}

static void start(struct generation *g)
{
    if (g->seq.is_running)
        return;
    g->prefill_started_us = g->worker->io->now(g->worker->io->ctx);
    g->seq.awaited_us = 0;
    batch_add(g->worker, &g->seq);
}

static void compute(struct generation *g)
{
    start(g);
    generation_enter(g, GENERATION_COMPUTING);
}

static bool on_ahead(struct pulling *pulling, uint32_t upto)
{
    struct generation *g = generation_that_pulls(pulling);
    (void)upto;
    if (g->state != GENERATION_PULLING)
        return false;
    start(g);
    return true;
}

static void on_pull_ended(struct pulling *pulling)
{
    struct generation *g = generation_that_pulls(pulling);
    if (g->state == GENERATION_PULLING)
        compute(g);
    else
        generation_settle(g);
}

static const struct pulling_ops pulling_ops = { on_came, on_ahead, on_pull_ended };

static bool pull(struct generation *g)
{
    const struct pulling_request request = {
        .worker = g->worker,
        .seq = &g->seq,
        .held = g->committed,
        .key = g->node.key,
        .attempt = g->attempt,
        .deadline_us = g->deadline_us,
        .trace = &g->trace,
        .ops = &pulling_ops,
    };
    return pulling_begin(&g->pulling, &request);
}

static void answer(struct generation *g)
{
    g->sheltered =
        g->preempted && g->worker->io->now(g->worker->io->ctx) - g->claim_since_us > g->worker->options.limits.patience;
    claim_remove(g);
    if (!g->started_us)
        g->started_us = g->worker->io->now(g->worker->io->ctx);
    if (g->state == GENERATION_CLAIMING) {
        generation_enter(g, GENERATION_RECEIVING);
        send_grant(g);
        return;
    }
    g->preempted = false;
    g->seq.computed = g->committed;
    if (pull(g))
        generation_enter(g, GENERATION_PULLING);
    else
        compute(g);
}

/* What a preempted sequence finds of its own it computed before, and what was evicted of what it had found it computes
 * now. */
static void note_found(struct generation *g)
{
    uint32_t *cached = &g->cached[KV_TIER_DEVICE];
    if (g->n_preempted == 0 || *cached > g->committed)
        *cached = g->committed;
}

/* How many sequences hold blocks, and how many of them will ask for more. */
static uint32_t count_active(const struct worker *worker, uint32_t *growing)
{
    uint32_t n = 0;
    const struct generation *g;
    *growing = 0;
    TAILQ_FOREACH(g, &worker->generation_order, order)
    {
        if (g->state == GENERATION_DECODING || g->state == GENERATION_COMPUTING || g->state == GENERATION_PULLING)
            *growing += 1;
        else if (g->state != GENERATION_RECEIVING)
            continue;
        n++;
    }
    return n;
}

/* For prompt and first token, all or none; what was committed, or is found in the cache, lies in the first ones. */
static bool take_blocks(struct generation *g, uint32_t spare)
{
    bool first_time = g->seq.n_blocks == 0;
    enum block_state state = g->state == GENERATION_CLAIMING ? BLOCK_RESERVED : BLOCK_FILLING;
    if (prefix_cache_take(g->worker->cache, &g->seq, g->seq.n_tokens + 1, spare, state, &g->committed) != ST_OK)
        return false;
    if (first_time)
        note_found(g);
    return true;
}

void generations_answer_claims(struct worker *worker)
{
    const struct worker_options *o = &worker->options;
    uint32_t growing, active = count_active(worker, &growing);
    bool is_set_aside = false; /* what becomes free is the first claim's */
    struct generation *g, *next;
    resort(worker, worker->io->now(worker->io->ctx));
    for (g = TAILQ_FIRST(&worker->claims); g && active < o->limits.max_seqs; g = next) {
        next = TAILQ_NEXT(g, claim);
        if (g->takes_out)
            continue; /* copies of an older leg still write into its blocks */
        if (is_set_aside && g->seq.n_blocks == 0)
            continue; /* who has blocks of an earlier leg goes on: the first may be waiting for those */
        if (take_blocks(g, growing < o->reserve_blocks ? growing : o->reserve_blocks)) {
            growing += g->state != GENERATION_CLAIMING;
            active++;
            answer(g);
            next = TAILQ_FIRST(&worker->claims); /* answering may have moved claims */
        } else if (worker->io->now(worker->io->ctx) - g->claim_since_us >= o->aside_us) {
            is_set_aside = true;
        }
    }
}
