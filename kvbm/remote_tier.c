#include "kvbm/remote_tier.h"

#include <stdlib.h>
#include <sys/queue.h>

#include "common/log.h"

#define SILENT_FOR(t) (4 * (t))

/* What is assumed of a manager that was never asked: a network of 10 Gbit/s. */
static const struct pull_prior prior = { .answer_us = 2000,
                                         .bytes_per_us = { 800, 800, 500, 500 },
                                         .forget_us = 10000000 };
_Static_assert(KV_TIER_COUNT == 4, "each tier has an assumed bandwidth");

struct other {
    void *peer; /* NULL: the number is free */
    uint64_t incarnation;
    uint64_t silent_until; /* it let a deadline pass */
};

struct remote_fetch {
    TAILQ_ENTRY(remote_fetch) link;
    struct remote_tier *tier;
    struct pull *pull;
    struct remote_plan plan;
    uint64_t incarnation, begun_us;
    struct store_slot *slots; /* [n] */
    uint32_t n, n_settled;    /* committed, from the first one on */
};
TAILQ_HEAD(fetch_list, remote_fetch);

struct remote_tier {
    struct remote_tier_options options;
    struct peer_index *index;
    struct pull_costs costs;
    struct other others[PEER_INDEX_PEERS];
    struct fetch_list fetches;
    uint32_t n_fetches;
    uint64_t last_key;
    struct remote_counters counters;
};

const char *remote_outcome_name(enum remote_outcome outcome)
{
    static const char *const names[] = {
#define X(name) #name,
        REMOTE_OUTCOMES(X)
#undef X
    };
    return names[outcome];
}

const char *remote_reason_name(enum remote_reason reason)
{
    static const char *const names[] = {
#define X(name) #name,
        REMOTE_REASONS(X)
#undef X
    };
    return names[reason];
}

static uint64_t now_of(const struct remote_tier *tier)
{
    return tier->options.io->now(tier->options.io->ctx);
}

/* ---- life -------------------------------------------------------------------------------------------------- */

status remote_tier_create(const struct remote_tier_options *options, struct remote_tier **out)
{
    struct remote_tier *tier = calloc(1, sizeof *tier);
    if (!tier)
        return ST_NO_MEMORY;
    tier->options = *options;
    TAILQ_INIT(&tier->fetches);
    status st = peer_index_create(options->index_blocks, &tier->index);
    if (st != ST_OK)
        free(tier);
    else
        *out = tier;
    return st;
}

/* Slots that did not come are given back, and the fetch is gone. */
static void fetch_free(struct remote_fetch *fetch, bool is_damaged)
{
    struct remote_tier *tier = fetch->tier;
    for (uint32_t i = fetch->n_settled; i < fetch->n; i++)
        store_abort(tier->options.store, fetch->slots[i], is_damaged && i == fetch->n_settled);
    TAILQ_REMOVE(&tier->fetches, fetch, link);
    tier->n_fetches--;
    free(fetch->slots);
    free(fetch);
}

void remote_tier_destroy(struct remote_tier **tier)
{
    struct remote_fetch *fetch;
    if (!*tier)
        return;
    while ((fetch = TAILQ_FIRST(&(*tier)->fetches)) != NULL)
        fetch_free(fetch, false);
    peer_index_destroy(&(*tier)->index);
    free(*tier);
    *tier = NULL;
}

/* ---- other managers ------------------------------------------------------------------------------------------ */

status remote_tier_join(struct remote_tier *tier, void *peer, uint64_t incarnation, uint32_t *number)
{
    for (uint32_t i = 0; i < PEER_INDEX_PEERS; i++)
        if (!tier->others[i].peer) {
            tier->others[i] = (struct other){ .peer = peer, .incarnation = incarnation };
            *number = i;
            return ST_OK;
        }
    return ST_LIMIT;
}

void remote_tier_leave(struct remote_tier *tier, uint32_t number)
{
    tier->others[number] = (struct other){ .peer = NULL };
    peer_index_clear(tier->index, number);
}

struct peer_index *remote_tier_index(struct remote_tier *tier)
{
    return tier->index;
}

/* ---- choosing ------------------------------------------------------------------------------------------------ */

/* Those that could be asked now: bit 1 << number. */
static uint64_t reachable(const struct remote_tier *tier)
{
    const struct exchange_io *io = tier->options.io;
    uint64_t now = now_of(tier), bits = 0;
    for (uint32_t i = 0; i < PEER_INDEX_PEERS; i++) {
        const struct other *o = &tier->others[i];
        if (o->peer && o->silent_until <= now && io->is_alive(io->ctx, o->peer) && io->way(io->ctx, o->peer))
            bits |= UINT64_C(1) << i;
    }
    return bits;
}

/* What is looked for, and the best answer so far. */
struct choice {
    const struct lender_find *find;
    uint32_t have;
    struct remote_plan plan;
    double saved_us;
    bool is_known; /* to somebody */
};

/* The other manager has blocks [have, have + n). The borrower wants those from find->first on; the ones before are
 * fetched, too, as a block is kept behind its parents only. */
static void consider(const struct remote_tier *tier, struct choice *c, uint32_t number, uint32_t n, bool is_on_disk)
{
    const struct remote_tier_options *o = &tier->options;
    n = n < o->max_blocks ? n : o->max_blocks;
    if (c->have + n <= c->find->first)
        return;
    c->is_known = true;
    uint32_t first = c->have > c->find->first ? c->have : c->find->first;
    uint64_t tokens = (uint64_t)(c->have + n - first) * o->block_tokens;
    enum kv_tier where = is_on_disk ? KV_TIER_DISK : KV_TIER_HOST;
    const struct pull_cost *cost = pull_costs_find(&tier->costs, tier->others[number].incarnation);
    double us = pull_cost_predict(cost, &prior, n * o->block_bytes, where, now_of(tier));
    double computing_us = c->find->tokens_per_s > 0 ? (double)tokens * 1e6 / c->find->tokens_per_s : 0;
    bool is_better = !c->plan.n_blocks || computing_us - us > c->saved_us;
    bool is_in_time = (double)(c->find->deadline_us - now_of(tier)) > us;
    if (!is_in_time || !pull_pays(us, computing_us) || !is_better)
        return;
    c->saved_us = computing_us - us;
    c->plan = (struct remote_plan){ number, c->have, n, where, us };
}

static void consider_all(const struct remote_tier *tier, struct choice *c, uint64_t who, uint32_t n, uint64_t on_disk)
{
    for (uint32_t i = 0; who; i++, who >>= 1)
        if (who & 1)
            consider(tier, c, i, n, on_disk >> i & 1);
}

/* A manager is considered with the run that it has whole. */
static void choose(const struct remote_tier *tier, struct choice *c)
{
    const struct lender_find *find = c->find;
    uint32_t end = find->first + find->max, n = 0;
    uint64_t with_all = reachable(tier), on_disk = 0;
    for (; with_all && c->have + n < end; n++) {
        const struct peer_set set = peer_index_find(tier->index, find->hashes[c->have + n]);
        uint64_t left = with_all & ~(set.in_memory | set.on_disk);
        if (n)
            consider_all(tier, c, left, n, on_disk);
        with_all &= ~left;
        on_disk |= set.on_disk & ~set.in_memory;
    }
    if (n)
        consider_all(tier, c, with_all, n, on_disk);
}

struct remote_plan remote_tier_plan(struct remote_tier *tier, const struct lender_find *find, uint32_t have)
{
    struct choice c = { .find = find, .have = have };
    if (find->local_only || have >= find->first + find->max)
        return c.plan;
    choose(tier, &c);
    if (!c.plan.n_blocks) {
        tier->counters.not_asked[c.is_known ? REMOTE_slower : REMOTE_absent]++;
    } else if (tier->n_fetches >= tier->options.max_fetches) {
        tier->counters.not_asked[REMOTE_busy]++;
        c.plan.n_blocks = 0;
    }
    return c.plan;
}

/* ---- a fetch ------------------------------------------------------------------------------------------------- */

static enum remote_outcome outcome_of(const struct pull_result *result, uint32_t wanted)
{
    switch (result->st) {
    case ST_OK:
        return result->n_blocks == wanted ? REMOTE_whole : result->n_blocks ? REMOTE_partial : REMOTE_empty;
    case ST_TIMEOUT:
        return REMOTE_timeout;
    case ST_CLOSED:
        return REMOTE_lost;
    case ST_CORRUPT:
        return REMOTE_damaged;
    case ST_STALE:
        return REMOTE_stale;
    case ST_CANCELLED:
        return REMOTE_cancelled;
    default:
        return REMOTE_refused;
    }
}

static void learn(const struct remote_fetch *fetch, const struct pull_result *result, uint64_t us)
{
    struct remote_tier *tier = fetch->tier;
    uint64_t now = now_of(tier);
    const struct pull_measurement m = {
        .bytes = result->bytes,
        .tier = result->by_tier[KV_TIER_DISK] ? KV_TIER_DISK : fetch->plan.tier,
        .answer_us = result->answer_us,
        .take_us = result->take_us,
    };
    if (result->st == ST_OK)
        pull_cost_observe(pull_costs_of(&tier->costs, fetch->incarnation), &prior, &m, now);
    else if (result->st != ST_CANCELLED)
        pull_cost_failed(pull_costs_of(&tier->costs, fetch->incarnation), &prior, fetch->n * tier->options.block_bytes,
                         fetch->plan.tier, us, now);
    struct other *other = &tier->others[fetch->plan.number];
    if (result->st == ST_TIMEOUT && other->incarnation == fetch->incarnation)
        other->silent_until = now + SILENT_FOR(tier->options.timeout_us);
}

static void count(const struct remote_fetch *fetch, const struct pull_result *result, uint64_t us)
{
    struct remote_counters *c = &fetch->tier->counters;
    uint64_t predicted = (uint64_t)fetch->plan.predicted_us;
    enum remote_outcome outcome = outcome_of(result, fetch->n);
    c->fetches[outcome]++;
    c->blocks += result->n_blocks;
    c->bytes += result->bytes;
    c->us += us;
    if (outcome != REMOTE_whole || fetch->n != fetch->plan.n_blocks)
        return; /* the prediction was of all blocks */
    c->measured_us += us;
    c->predicted_us += predicted;
    c->error_us += us > predicted ? us - predicted : predicted - us;
}

static void on_verified(void *arg, uint32_t first, uint32_t n)
{
    struct remote_fetch *fetch = arg;
    struct remote_tier *tier = fetch->tier;
    status st = ST_OK;
    ASSERT(first == fetch->n_settled && first + n <= fetch->n);
    for (uint32_t i = first; i < first + n && st == ST_OK; i++) {
        st = store_commit_summed(tier->options.store, fetch->slots[i], borrower_pulled(fetch->pull, i).checksum);
        fetch->n_settled++;
    }
    if (st != ST_OK) /* its salt is being wiped */
        borrower_cancel(fetch->pull);
    tier->options.changed(tier->options.ctx);
}

static void on_ended(void *arg, const struct pull_result *result)
{
    struct remote_fetch *fetch = arg;
    struct remote_tier *tier = fetch->tier;
    uint64_t us = now_of(tier) - fetch->begun_us;
    log_debug("fetch from another host ended", "outcome=%s blocks=%u of=%u bytes=%llu us=%llu predicted_us=%.0f",
              remote_outcome_name(outcome_of(result, fetch->n)), result->n_blocks, fetch->n,
              (unsigned long long)result->bytes, (unsigned long long)us, fetch->plan.predicted_us);
    learn(fetch, result, us);
    count(fetch, result, us);
    fetch_free(fetch, result->damaged > 0);
    tier->options.changed(tier->options.ctx);
}

/* Slots for the blocks of the plan, as far as there is room. */
static void reserve(struct remote_fetch *fetch, const struct lender_find *find, struct store_answer answers[])
{
    const struct remote_tier_options *o = &fetch->tier->options;
    const struct store_offer offer = { .chain = { .format = o->format,
                                                  .salt = store_salt_id(find->parts.salt),
                                                  .seed = find->seed,
                                                  .hashes = find->hashes,
                                                  .tokens = find->tokens,
                                                  .n_blocks = fetch->plan.first + fetch->plan.n_blocks },
                                       .first = fetch->plan.first,
                                       .block_bytes = o->block_bytes,
                                       .is_fetch = true };
    bool is_leading = true;
    store_offer(o->store, &offer, answers);
    for (uint32_t i = 0; i < fetch->plan.n_blocks; i++) {
        is_leading = is_leading && answers[i].verdict == STORE_WANTED;
        if (is_leading)
            fetch->slots[fetch->n++] = answers[i].slot;
        else if (answers[i].verdict == STORE_WANTED)
            store_abort(o->store, answers[i].slot, false);
    }
}

static struct remote_fetch *fetch_create(struct remote_tier *tier, const struct lender_find *find,
                                         const struct remote_plan *plan)
{
    struct store_answer *answers = calloc(plan->n_blocks, sizeof *answers);
    struct remote_fetch *fetch = calloc(1, sizeof *fetch);
    struct store_slot *slots = calloc(plan->n_blocks, sizeof *slots);
    if (!answers || !fetch || !slots) {
        free(answers);
        free(fetch);
        free(slots);
        return NULL;
    }
    fetch->tier = tier;
    fetch->plan = *plan;
    fetch->slots = slots;
    fetch->incarnation = tier->others[plan->number].incarnation;
    fetch->begun_us = now_of(tier);
    TAILQ_INSERT_TAIL(&tier->fetches, fetch, link);
    tier->n_fetches++;
    reserve(fetch, find, answers);
    free(answers);
    return fetch;
}

static status pull(struct remote_fetch *fetch, const struct lender_find *find)
{
    struct remote_tier *tier = fetch->tier;
    uint64_t due = fetch->begun_us + (uint64_t)fetch->plan.predicted_us + tier->options.timeout_us;
    block_id *blocks = calloc(fetch->n, sizeof *blocks);
    if (!blocks)
        return ST_NO_MEMORY;
    for (uint32_t i = 0; i < fetch->n; i++)
        blocks[i] = fetch->slots[i].slot;
    const struct pull_options options = {
        .holder = tier->others[fetch->plan.number].peer,
        .key = { tier->options.incarnation, ++tier->last_key },
        .attempt = 1,
        .parts = find->parts,
        .tokens = find->tokens,
        .first = fetch->plan.first,
        .n_blocks = fetch->n,
        .blocks = blocks,
        .deadline_us = due,
        .local_only = true,
        .verified = on_verified,
        .ended = on_ended,
        .arg = fetch,
    };
    status st = borrower_pull(tier->options.borrower, &options, &fetch->pull);
    free(blocks);
    return st;
}

void remote_tier_fetch(struct remote_tier *tier, const struct lender_find *find, const struct remote_plan *plan)
{
    ASSERT(plan->n_blocks > 0);
    bool is_there = tier->others[plan->number].peer != NULL; /* the plan may be older */
    struct remote_fetch *fetch = is_there ? fetch_create(tier, find, plan) : NULL;
    if (!fetch) {
        tier->counters.fetches[REMOTE_refused]++;
    } else if (!fetch->n) {
        tier->counters.not_asked[REMOTE_no_room]++;
        fetch_free(fetch, false);
    } else if (pull(fetch, find) != ST_OK) {
        tier->counters.fetches[REMOTE_refused]++;
        fetch_free(fetch, false);
    }
}

static bool is_awaited(const struct remote_fetch *fetch)
{
    for (uint32_t i = fetch->n_settled; i < fetch->n; i++)
        if (store_is_awaited(fetch->tier->options.store, fetch->slots[i]))
            return true;
    return false;
}

void remote_tier_released(struct remote_tier *tier)
{
    struct remote_fetch *fetch = TAILQ_FIRST(&tier->fetches), *next;
    for (; fetch; fetch = next) {
        next = TAILQ_NEXT(fetch, link);
        if (!is_awaited(fetch))
            borrower_cancel(fetch->pull);
    }
}

uint32_t remote_tier_fetches(const struct remote_tier *tier)
{
    return tier->n_fetches;
}

const struct remote_counters *remote_counters(const struct remote_tier *tier)
{
    return &tier->counters;
}
