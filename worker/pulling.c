#include "worker/pulling.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "worker/core.h"
#include "worker/overlap.h"

#define SILENT_FOR(t) (4 * (t)) /* after pull_timeout_us without an answer */

/* What is assumed of a holder that was never asked: on this host, and over a network of 10 Gbit/s. */
static const struct pull_prior same_host = { .answer_us = 500,
                                             .bytes_per_us = { 4000, 4000, 1000, 500 },
                                             .forget_us = 10000000 };
static const struct pull_prior other_host = { .answer_us = 2000,
                                              .bytes_per_us = { 800, 800, 500, 500 },
                                              .forget_us = 10000000 };
_Static_assert(KV_TIER_COUNT == 4, "each tier has an assumed bandwidth");

const char *holder_kind_name(enum holder_kind kind)
{
    static const char *const names[] = {
#define X(name) #name,
        HOLDER_KINDS(X)
#undef X
    };
    return names[kind];
}

const char *pull_outcome_name(enum pull_outcome outcome)
{
    static const char *const names[] = {
#define X(name) #name,
        PULL_OUTCOMES(X)
#undef X
    };
    return names[outcome];
}

static uint64_t now_of(const struct worker *worker)
{
    return worker->io->now(worker->io->ctx);
}

/* ---- holders ------------------------------------------------------------------------------------------------- */

void pulling_hold_one(struct pulling *pulling, const char *id, uint32_t tokens, enum kv_tier tier)
{
    struct holding *h = NULL;
    for (uint32_t i = 0; i < pulling->n_holdings && !h; i++)
        if (!strcmp(pulling->holdings[i].id, id))
            h = &pulling->holdings[i];
    if (!h && pulling->n_holdings < MAX_HOLDINGS)
        h = &pulling->holdings[pulling->n_holdings++];
    if (!h || h->tokens >= tokens)
        return;
    snprintf(h->id, sizeof h->id, "%s", id);
    h->tokens = tokens;
    h->tier = tier;
}

void pulling_hold(struct pulling *pulling, Baton__Holding *const *have, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (have[i]->instance && have[i]->instance->id[0] && have[i]->tier < KV_TIER_COUNT)
            pulling_hold_one(pulling, have[i]->instance->id, have[i]->tokens, (enum kv_tier)have[i]->tier);
}

/* ---- choosing -------------------------------------------------------------------------------------------------- */

/* A holder, and what fetching from it would save. */
struct choice {
    struct worker_peer *peer;
    uint32_t n; /* blocks */
    enum kv_tier tier;
    double predicted_us, saved_us;
};

static const struct pull_prior *prior_of(const struct worker_peer *peer)
{
    return peer->same_host ? &same_host : &other_host;
}

static size_t block_bytes(const struct worker *worker)
{
    return kv_block_bytes(&worker->options.layout);
}

/* Microseconds that computing tokens [first, first + n) would take, alone; 0: nothing is known. */
static double recompute_us(const struct worker *worker, uint32_t first, uint32_t n)
{
    const struct scheduler_limits *limits = &worker->options.limits;
    uint32_t rows = limits->chunk_tokens < limits->budget_rows ? limits->chunk_tokens : limits->budget_rows;
    double us = 0;
    for (uint32_t done = 0; done < n; done += rows) {
        uint32_t part = n - done < rows ? n - done : rows;
        us += step_cost_predict(&worker->cost, part, step_attended(first + done, part));
    }
    return us;
}

static void consider(const struct worker *worker, struct choice *best, struct worker_peer *peer, uint32_t first,
                     uint32_t n, enum kv_tier tier)
{
    uint32_t bt = worker->options.layout.block_tokens;
    if (n == 0 || sharing_is_silent(worker->sharing, peer->incarnation, now_of(worker)))
        return;
    const struct pull_cost *cost = pull_costs_find(sharing_costs(worker->sharing), peer->incarnation);
    double us = pull_cost_predict(cost, prior_of(peer), (uint64_t)n * block_bytes(worker), tier, now_of(worker));
    double saved = recompute_us(worker, first * bt, n * bt);
    bool is_better = !best->peer || saved - us > best->saved_us - best->predicted_us;
    if ((worker->options.fetch == FETCH_ALWAYS || pull_pays(us, saved)) && is_better)
        *best = (struct choice){ peer, n, tier, us, saved };
}

/* Of blocks [first, end) of the sequence. The manager of this host is asked for what nobody is known to have. */
static struct choice choose(const struct pulling *pulling, const struct worker *worker, uint32_t first, uint32_t end)
{
    const struct worker_io *io = worker->io;
    struct worker_peer *manager = sharing_manager(worker->sharing);
    struct choice best = { .peer = NULL };
    for (uint32_t i = 0; i < pulling->n_holdings; i++) {
        const struct holding *h = &pulling->holdings[i];
        uint32_t upto = h->tokens / worker->options.layout.block_tokens;
        struct worker_peer *peer = upto > first ? io->find_holder(io->ctx, h->id) : NULL;
        if (peer)
            consider(worker, &best, peer, first, (upto < end ? upto : end) - first, h->tier);
    }
    if (!best.peer && manager && manager->transfer)
        consider(worker, &best, manager, first, end - first, KV_TIER_HOST);
    return best;
}

/* ---- a pull ------------------------------------------------------------------------------------------------------ */

static enum holder_kind kind_of(const struct worker *worker, const struct worker_peer *peer)
{
    if (peer == sharing_manager(worker->sharing))
        return HOLDER_manager;
    return peer->same_host ? HOLDER_worker : HOLDER_remote;
}

/* What is verified is kept where others, too, will find it. Not while a step names the sequence's blocks: they may be
 * exchanged for those that another sequence registered. */
static void keep(struct pulling *p)
{
    uint32_t bt = p->worker->options.layout.block_tokens;
    if (p->kept == p->verified)
        return;
    p->seq->chain.is_from_host = p->kind != HOLDER_remote;
    prefix_cache_filled(p->worker->cache, p->seq, (p->first + p->kept) * bt, (p->verified - p->kept) * bt);
    p->seq->chain.is_from_host = false;
    p->kept = p->verified;
}

/* Blocks [at, at + n) of the pull are right. */
static void take_in(struct pulling *p, uint32_t at, uint32_t n)
{
    struct worker *worker = p->worker;
    uint32_t bt = worker->options.layout.block_tokens;
    enum kv_tier tiers[SHARING_PULL_BATCH];
    for (uint32_t i = 0; i < n; i++) {
        struct pulled_block block = borrower_pulled(p->pull, at + i);
        sharing_know_checksum(worker->sharing, p->seq->blocks[p->first + at + i], block.checksum);
        tiers[i] = p->kind == HOLDER_manager ? block.tier : KV_TIER_REMOTE;
        worker->pulls.tokens[tiers[i]] += bt;
    }
    p->tokens += n * bt;
    p->verified += n;
    if (!p->seq->in_step)
        keep(p);
    p->ops->came(p, (p->first + at) * bt, n * bt, tiers);
}

static uint32_t layers_of(const struct pulling *p)
{
    return p->worker->options.layout.n_layers;
}

static bool is_verified(const struct pulling *p)
{
    return layer_gate_is_open(&p->gate, layers_of(p) - 1);
}

static void on_announced(void *arg, uint32_t run)
{
    ((struct pulling *)arg)->run = run;
}

static bool go_ahead(struct pulling *p)
{
    uint32_t upto = (p->first + p->run) * p->worker->options.layout.block_tokens;
    if (!p->ops->ahead(p, upto))
        return false;
    layer_gate_init(&p->gate, p->deadline_us);
    p->ahead_us = now_of(p->worker);
    p->seq->awaits = p;
    p->seq->computed = upto;
    return true;
}

/* Of all that the holder has: not verified yet. */
static void on_layers(void *arg, uint32_t layers, double arrived)
{
    struct pulling *p = arg;
    p->arrived = arrived;
    if (atomic_load(&p->seq->cancelled) || (!p->seq->awaits && !go_ahead(p)))
        return;
    layer_gate_open(&p->gate, layers);
    worker_pump(p->worker);
}

static void on_verified(void *arg, uint32_t first, uint32_t n)
{
    struct pulling *p = arg;
    if (p->seq->awaits && first + n == p->run)
        layer_gate_open(&p->gate, layers_of(p));
    for (uint32_t i = 0; i < n && !atomic_load(&p->seq->cancelled); i += SHARING_PULL_BATCH)
        take_in(p, first + i, n - i < SHARING_PULL_BATCH ? n - i : SHARING_PULL_BATCH);
}

static enum pull_outcome outcome_of(const struct pull_result *result, uint32_t wanted)
{
    switch (result->st) {
    case ST_OK:
        return result->n_blocks == wanted ? PULL_whole : result->n_blocks ? PULL_partial : PULL_empty;
    case ST_TIMEOUT:
        return PULL_timeout;
    case ST_CLOSED:
        return PULL_lost;
    case ST_CORRUPT:
        return PULL_damaged;
    case ST_STALE:
        return PULL_stale;
    case ST_CANCELLED:
        return PULL_cancelled;
    default:
        return PULL_refused;
    }
}

static enum kv_tier slowest_tier(const struct pull_result *result)
{
    for (int tier = KV_TIER_COUNT - 1; tier > 0; tier--)
        if (result->by_tier[tier])
            return (enum kv_tier)tier;
    return KV_TIER_DEVICE;
}

/* What a pull says of its holder. */
static void learn(const struct pulling *p, const struct pull_result *result, uint64_t us)
{
    struct worker *worker = p->worker;
    struct pull_costs *costs = sharing_costs(worker->sharing);
    const struct pull_prior *prior = p->kind == HOLDER_remote ? &other_host : &same_host;
    uint64_t now = now_of(worker);
    const struct pull_measurement m = {
        .bytes = result->bytes,
        .tier = result->n_blocks ? slowest_tier(result) : p->tier,
        .answer_us = result->answer_us,
        .take_us = result->take_us,
    };
    if (result->st == ST_OK)
        pull_cost_observe(pull_costs_of(costs, p->holder), prior, &m, now);
    else if (result->st != ST_CANCELLED)
        pull_cost_failed(pull_costs_of(costs, p->holder), prior, (uint64_t)p->n * block_bytes(worker), p->tier, us,
                         now);
    if (result->st == ST_TIMEOUT && result->answer_us == 0)
        sharing_note_silent(worker->sharing, p->holder, now + SILENT_FOR(worker->options.pull_timeout_us));
}

static void count(const struct pulling *p, const struct pull_result *result, uint64_t us)
{
    struct pull_counters *c = &p->worker->pulls;
    c->pulls[p->kind][outcome_of(result, p->n)]++;
    c->blocks[p->kind] += result->n_blocks;
    c->bytes[p->kind] += result->bytes;
    c->us[p->kind] += us;
    c->damaged += result->damaged;
    if (result->st != ST_OK || result->n_blocks < p->n)
        return; /* the prediction was of all blocks */
    c->measured_us += us;
    c->predicted_us += p->predicted_us;
    c->error_us += us > p->predicted_us ? us - p->predicted_us : p->predicted_us - us;
}

/* From when it was in the batch until it got a step, or its KV was here. */
static void count_awaited(struct pulling *p)
{
    p->seq->awaited_us += p->ahead_us ? now_of(p->worker) - p->ahead_us : 0;
    p->ahead_us = 0;
}

/* The pull is over, and no step computes behind it: what came is here. */
static void conclude(struct pulling *p)
{
    count_awaited(p);
    if (p->seq->awaits)
        p->seq->computed = (p->first + p->kept) * p->worker->options.layout.block_tokens;
    p->seq->awaits = NULL;
    p->ops->ended(p);
}

static void on_ended(void *arg, const struct pull_result *result)
{
    struct pulling *p = arg;
    struct worker *worker = p->worker;
    uint64_t us = now_of(worker) - p->begun_us;
    log_debug("pull ended", "holder=%016llx outcome=%s blocks=%u of=%u bytes=%llu us=%llu predicted_us=%llu",
              (unsigned long long)p->holder, pull_outcome_name(outcome_of(result, p->n)), result->n_blocks, p->n,
              (unsigned long long)result->bytes, (unsigned long long)us, (unsigned long long)p->predicted_us);
    learn(p, result, us);
    count(p, result, us);
    p->us += us;
    p->pull = NULL;
    if (p->seq->awaits && !is_verified(p))
        layer_gate_close(&p->gate);
    if (!p->seq->in_step)
        conclude(p);
    worker_pump(worker);
}

static uint64_t deadline_of(const struct pulling_request *request, double predicted_us)
{
    uint64_t due = now_of(request->worker) + (uint64_t)predicted_us + request->worker->options.pull_timeout_us;
    return due < request->deadline_us ? due : request->deadline_us;
}

/* What computing the blocks would come to: a manager that would have to ask another decides by it. 0: whatever it
 * takes. */
static double rate_of(const struct worker *worker, const struct choice *choice)
{
    double tokens = (double)choice->n * worker->options.layout.block_tokens;
    bool matters = choice->saved_us > 0 && worker->options.fetch != FETCH_ALWAYS;
    return matters ? tokens * 1e6 / choice->saved_us : 0;
}

/* Rows of a step with only this sequence in it, of which so many tokens have their KV. */
static uint32_t step_rows(const struct pulling *p, uint32_t computed)
{
    const struct scheduler_limits *limits = &p->worker->options.limits;
    uint32_t rows = p->seq->n_tokens - computed;
    rows = rows < limits->chunk_tokens ? rows : limits->chunk_tokens;
    return rows < limits->budget_rows ? rows : limits->budget_rows;
}

static double step_us(const struct pulling *p, uint32_t computed, uint32_t rows)
{
    return step_cost_predict(&p->worker->cost, rows, step_attended(computed, rows));
}

static uint32_t by_layer(const struct pulling *p, const struct choice *choice)
{
    uint32_t upto = (p->first + choice->n) * p->worker->options.layout.block_tokens;
    if (p->worker->options.overlap == OVERLAP_ALWAYS)
        return choice->n;
    if (p->worker->options.overlap == OVERLAP_OFF)
        return 0;
    return overlap_blocks(choice->n, choice->predicted_us, step_us(p, upto, step_rows(p, upto)), p->is_handed_over);
}

static bool begin(struct pulling *pulling, const struct pulling_request *request, const struct choice *choice)
{
    struct worker *worker = request->worker;
    const struct pull_options options = {
        .holder = choice->peer,
        .key = request->key,
        .attempt = request->attempt,
        .trace = request->trace,
        .parts = prefix_cache_parts_of(worker->cache, request->seq),
        .tokens = request->seq->tokens,
        .first = pulling->first,
        .n_blocks = choice->n,
        .blocks = request->seq->blocks + pulling->first,
        .deadline_us = pulling->deadline_us,
        .tokens_per_s = rate_of(worker, choice),
        .n_by_layer = by_layer(pulling, choice),
        .announced = on_announced,
        .layers = on_layers,
        .verified = on_verified,
        .ended = on_ended,
        .arg = pulling,
    };
    return borrower_pull(sharing_borrower(worker->sharing), &options, &pulling->pull) == ST_OK;
}

bool pulling_begin(struct pulling *pulling, const struct pulling_request *request)
{
    struct worker *worker = request->worker;
    uint32_t bt = worker->options.layout.block_tokens;
    uint32_t first = request->held / bt, end = (request->seq->n_tokens - 1) / bt;
    ASSERT(!pulling->pull);
    if (worker->options.fetch == FETCH_NEVER || !worker->sharing || !request->seq->chain.takes_part ||
        request->held % bt || first >= end)
        return false;
    struct choice choice = choose(pulling, worker, first, end);
    if (!choice.peer)
        return false;
    pulling->worker = worker;
    pulling->seq = request->seq;
    pulling->ops = request->ops;
    pulling->holder = choice.peer->incarnation;
    pulling->kind = kind_of(worker, choice.peer);
    pulling->tier = choice.tier;
    pulling->first = first;
    pulling->n = pulling->run = choice.n;
    pulling->verified = pulling->kept = 0;
    pulling->is_handed_over = request->is_handed_over;
    pulling->ahead_us = 0;
    pulling->begun_us = now_of(worker);
    pulling->predicted_us = (uint64_t)choice.predicted_us;
    pulling->deadline_us = deadline_of(request, choice.predicted_us);
    return begin(pulling, request, &choice);
}

void pulling_cancel(struct pulling *pulling)
{
    borrower_cancel(pulling->pull);
}

uint32_t pulling_upto(const struct pulling *pulling)
{
    return pulling->pull ? (pulling->first + pulling->run) * pulling->worker->options.layout.block_tokens : 0;
}

/* ---- a step behind it -------------------------------------------------------------------------------------------- */

uint32_t pulling_first_rows(const struct pulling *p)
{
    return step_rows(p, p->seq->computed);
}

bool pulling_lets_begin(const struct pulling *p, uint32_t rows)
{
    if (layer_gate_is_closed(&p->gate))
        return false;
    return p->worker->options.overlap == OVERLAP_ALWAYS ||
           overlap_begins(now_of(p->worker) - p->begun_us, p->arrived, step_us(p, p->seq->computed, rows));
}

struct layer_gate *pulling_step_begins(struct pulling *p, uint32_t rows)
{
    uint64_t due = now_of(p->worker) + overlap_patience_us(step_us(p, p->seq->computed, rows));
    bool is_patient = p->worker->options.overlap == OVERLAP_ALWAYS || due > p->deadline_us;
    p->gate.deadline_us = is_patient ? p->deadline_us : due;
    p->worker->counters.overlapped++;
    count_awaited(p);
    return &p->gate;
}

bool pulling_step_ended(struct pulling *p, const struct step_seq *ran)
{
    bool is_good = ran->done && is_verified(p) && !p->pull;
    p->worker->counters.overlaps_void += !is_good;
    if (!is_good)
        layer_gate_close(&p->gate);
    if (!atomic_load(&p->seq->cancelled))
        keep(p);
    if (!p->pull)
        conclude(p);
    else
        p->ahead_us = now_of(p->worker);
    return is_good;
}
