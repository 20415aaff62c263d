#include "sim/sim_internal.h"

#include <stdlib.h>
#include <string.h>

#define LOAD_GROUPS    10u /* workers tell their loads in so many groups, one after the other */
#define MAX_FLIGHTS    (1u << 20)
#define FIXED_SOURCES  3u
#define COST_CLASSES   14u
#define COST_CONTEXT   4096u
#define MAX_BLOCK_KEYS (1u << 31)

/* Every id of a workload stands for a whole prefix, so that the chain is in it. */
struct block_hash sim_hash(uint32_t key)
{
    return block_hash_next((struct block_hash){ 0, 0 }, &key, 1);
}

struct sim_options sim_defaults(void)
{
    return (struct sim_options){ .policy = PICK_CACHE_AWARE,
                                 .itl_target_us = 50000,
                                 .worker_wait_us = 5000000,
                                 .block_tokens = 16,
                                 .max_seqs = 32,
                                 .max_requests = 512,
                                 .step_tokens = 512,
                                 .chunk_tokens = 512,
                                 .local_tokens = 32,
                                 .grant_window = 4,
                                 .reserve_blocks = 16,
                                 .patience_us = 5000000,
                                 .claim_aside_us = 100000,
                                 .load_interval_us = 50000,
                                 .eviction = &eviction_s3fifo,
                                 .prefix_cache = true,
                                 .fetch = true,
                                 .detect_us = 1000000,
                                 .slo_ttft_us = 500000,
                                 .slo_tpot_us = 50000 };
}

/* ---- flights -------------------------------------------------------------------------------------------------- */

static const unsigned legal_next[] = {
#define TO(name)      (1u << FLIGHT_##name)
#define X(name, next) (next) | (1u << FLIGHT_ENDED) | (1u << FLIGHT_HELD),
    FLIGHT_STATES(X)
#undef X
#undef TO
};

/* Any may end, and be sent to another worker when its own dies. */
void flight_enter(struct flight *f, enum flight_state state)
{
    ASSERT(legal_next[f->state] & (1u << state));
    f->state = state;
}

void flight_wait(struct sim *s, struct flight *f, uint64_t at_ns)
{
    ASSERT(at_ns >= s->now_ns);
    event_heap_set(s->heap, f->source, at_ns);
}

struct flight *flight_take(struct sim *s)
{
    struct flight *f = TAILQ_FIRST(&s->spare);
    if (f)
        TAILQ_REMOVE(&s->spare, f, link);
    else
        f = &s->flights[s->n_flights++];
    *f = (struct flight){ .source = s->first_flight + (uint32_t)(f - s->flights),
                          .request = (uint32_t)s->next_request - 1 };
    return f;
}

static double us_since(uint64_t from_us, uint64_t ns)
{
    return (double)(ns - from_us * NS) / NS;
}

static void note_done(struct sim *s, const struct flight *f, struct sim_outcome *o)
{
    struct sim_result *r = s->result;
    const struct workload_request *w = &s->workload->requests[f->request];
    uint64_t last_ns = f->last_token_ns + sim_latency_ns(s);
    r->done++;
    o->ttft_us = us_since(w->arrival_us, f->first_token_ns);
    o->e2e_us = us_since(w->arrival_us, last_ns);
    o->tpot_us = w->n_output > 1 ? (double)(last_ns - f->first_token_ns) / NS / (w->n_output - 1) : 0;
    if (w->arrival_us < s->options->warmup_us)
        return;
    r->counted++;
    r->output_tokens += w->n_output;
    r->good += o->ttft_us <= (double)s->options->slo_ttft_us && o->tpot_us <= (double)s->options->slo_tpot_us;
    spread_add(&r->ttft, o->ttft_us, 1);
    spread_add(&r->e2e, o->e2e_us, 1);
    spread_add(&r->tpot, o->tpot_us, w->n_output > 1);
}

void flight_end(struct sim *s, struct flight *f, enum sim_end end)
{
    struct sim_outcome *o = &s->result->outcomes[f->request];
    ASSERT(o->end == SIM_NOT_ENDED);
    o->end = end;
    sim_prefill_leave(s, f);
    sim_decode_leave(s, f);
    sim_router_uncount(f);
    event_heap_clear(s->heap, f->source);
    if (end == SIM_DONE)
        note_done(s, f, o);
    else
        s->result->refused++;
    flight_enter(f, FLIGHT_ENDED);
    TAILQ_INSERT_HEAD(&s->spare, f, link);
    s->ended++;
}

/* ---- for all files --------------------------------------------------------------------------------------------- */

/* Ids of the workload are of blocks as long as a worker's, or of several of them. */
uint32_t sim_keys(struct sim *s, const struct flight *f, uint32_t tokens)
{
    size_t n_ids;
    const uint32_t *ids = workload_ids(s->workload, f->request, &n_ids);
    uint32_t input = s->workload->requests[f->request].n_input, per = s->blocks_an_id;
    uint32_t n = (tokens < input ? tokens : input) / s->options->block_tokens;
    if (!s->options->prefix_cache || !ids)
        return 0;
    n = n < n_ids * per ? n : (uint32_t)(n_ids * per);
    for (uint32_t i = 0; i < n; i++)
        s->keys[i] = ids[i / per] * per + i % per;
    return n;
}

uint64_t sim_move(struct sim *s, struct sim_worker *from, struct sim_worker *to, double bytes, uint64_t earliest_ns)
{
    uint64_t start = earliest_ns;
    start = from->out_ns > start ? from->out_ns : start;
    start = to->in_ns > start ? to->in_ns : start;
    uint64_t end = start + (uint64_t)(bytes / s->options->profile->link_bytes_per_s * 1e9);
    from->out_ns = to->in_ns = end;
    return end;
}

void sim_queue_tokens(struct sim_worker *w, uint32_t *counted, uint32_t now)
{
    w->queued_tokens += now;
    w->queued_tokens -= *counted;
    *counted = now;
}

/* ---- events ---------------------------------------------------------------------------------------------------------
 */

static void next_arrival(struct sim *s)
{
    if (s->next_request < s->workload->n_requests)
        event_heap_set(s->heap, s->arrivals_source, s->workload->requests[s->next_request].arrival_us * NS);
}

/* Beyond MAX_FLIGHTS at one time nobody takes one more. */
static void on_arrival(struct sim *s)
{
    uint32_t request = (uint32_t)s->next_request++;
    if (TAILQ_EMPTY(&s->spare) && s->n_flights == s->max_flights) {
        s->result->outcomes[request].end = SIM_REFUSED;
        s->result->refused++;
        s->ended++;
    } else {
        sim_router_arrival(s);
    }
    next_arrival(s);
}

static void on_loads(struct sim *s)
{
    for (uint32_t i = s->next_group; i < s->n_workers; i += LOAD_GROUPS)
        if (s->workers[i].alive && s->workers[i].fleet)
            sim_router_load(s, &s->workers[i]);
    s->next_group = (s->next_group + 1) % LOAD_GROUPS;
    event_heap_set(s->heap, s->loads_source, s->now_ns + s->options->load_interval_us * NS / LOAD_GROUPS);
}

/* Messages to the dead are lost; what they were about goes on when the death is noticed. */
static void on_flight(struct sim *s, struct flight *f)
{
    struct sim_worker *to =
        f->state == FLIGHT_ASKED || f->state == FLIGHT_GRANTED || f->state == FLIGHT_PULLING ? f->prefill : f->decode;
    if (f->state != FLIGHT_HELD && !to->alive)
        return;
    switch (f->state) {
    case FLIGHT_HELD:
        sim_router_dispatch(s, f);
        break;
    case FLIGHT_SENT:
        sim_decode_arrival(s, f);
        break;
    case FLIGHT_ASKED:
        sim_prefill_arrival(s, f);
        break;
    case FLIGHT_ASKING:
        sim_decode_asked(s, f);
        break;
    case FLIGHT_GRANTED:
        sim_prefill_granted(s, f);
        break;
    case FLIGHT_PULLING:
        sim_prefill_pulled(s, f);
        break;
    case FLIGHT_HANDING:
        sim_decode_received(s, f);
        break;
    case FLIGHT_FETCHING:
        sim_decode_fetched(s, f);
        break;
    default:
        ASSERT(false); /* no other state waits for an event */
    }
}

static void on_event(struct sim *s, uint32_t source)
{
    if (source < s->n_workers)
        sim_steps_done(s, &s->workers[source]);
    else if (source == s->arrivals_source)
        on_arrival(s);
    else if (source == s->loads_source)
        on_loads(s);
    else if (source == s->failures_source)
        sim_failures_next(s);
    else
        on_flight(s, &s->flights[source - s->first_flight]);
}

static void run(struct sim *s)
{
    uint32_t source;
    next_arrival(s);
    event_heap_set(s->heap, s->loads_source, s->options->load_interval_us * NS / LOAD_GROUPS);
    while (s->ended < s->workload->n_requests && event_heap_next(s->heap, &source, &s->now_ns)) {
        s->result->events++;
        on_event(s, source);
    }
}

/* ---- life
 * --------------------------------------------------------------------------------------------------------------- */

static void on_stored(void *ctx, const uint32_t keys[], uint32_t n)
{
    const struct sim_worker *w = ctx;
    struct sim *s = w->sim;
    for (uint32_t i = 0; i < n; i++)
        s->hashes[i] = sim_hash(keys[i]);
    prefix_index_store(s->index, w->source, KV_TIER_DEVICE, s->hashes, n);
}

static void on_removed(void *ctx, uint32_t key)
{
    const struct sim_worker *w = ctx;
    const struct block_hash hash = sim_hash(key);
    prefix_index_remove(w->sim->index, w->source, KV_TIER_DEVICE, &hash, 1);
}

static status make_worker(struct sim *s, uint32_t i)
{
    const struct sim_options *o = s->options;
    struct sim_worker *w = &s->workers[i];
    const struct kv_blocks_options blocks = { .capacity = (uint32_t)(o->profile->kv_tokens / o->block_tokens),
                                              .policy = o->eviction,
                                              .stored = on_stored,
                                              .removed = on_removed,
                                              .ctx = w,
                                              .free_blocks = &w->kv_free };
    w->sim = s;
    w->source = i;
    w->is_decode = i >= o->n_prefill;
    w->place = w->is_decode ? i - o->n_prefill : i;
    w->alive = true;
    w->incarnation = 1;
    TAILQ_INIT(&w->queue);
    uint32_t prompts = w->is_decode ? o->max_seqs : o->grant_window;
    w->slots = calloc(o->max_seqs, sizeof *w->slots);
    w->prompts = calloc(prompts, sizeof(struct flight *));
    w->costs = calloc(1, sizeof *w->costs);
    return w->slots && w->prompts && w->costs ? kv_blocks_create(&blocks, &w->blocks) : ST_NO_MEMORY;
}

static void free_worker(struct sim_worker *w)
{
    kv_blocks_destroy(&w->blocks);
    free(w->costs);
    free(w->slots);
    free(w->prompts);
}

static uint32_t longest_prompt(const struct workload *w)
{
    uint32_t longest = 0;
    for (size_t i = 0; i < w->n_requests; i++)
        longest = w->requests[i].n_input > longest ? w->requests[i].n_input : longest;
    return longest;
}

/* What workers have measured once they ran for a while. */
static void know_costs(struct sim *s)
{
    for (uint32_t i = 0; i < COST_CLASSES; i++) {
        uint32_t rows = 1u << i;
        uint64_t attended = step_attended(i % 2 ? COST_CONTEXT : 0, rows);
        double us = profile_step_us(s->options->profile, rows, attended, 0, 0);
        step_cost_observe(&s->cost, rows, attended, us < 1 ? 1 : (uint64_t)us);
    }
}

static status make_scratch(struct sim *s)
{
    const struct sim_options *o = s->options;
    uint32_t most = o->max_seqs + (o->grant_window > o->max_seqs ? o->grant_window : o->max_seqs);
    size_t keys = longest_prompt(s->workload) / o->block_tokens + 1;
    s->keys = calloc(keys, sizeof *s->keys);
    s->hashes = calloc(keys, sizeof *s->hashes);
    s->wants = calloc(most, sizeof *s->wants);
    s->order = calloc(most, sizeof *s->order);
    s->rows = calloc(most, sizeof *s->rows);
    return s->keys && s->hashes && s->wants && s->order && s->rows ? ST_OK : ST_NO_MEMORY;
}

static status make_flights(struct sim *s)
{
    size_t n = s->workload->n_requests;
    s->max_flights = n < MAX_FLIGHTS ? (uint32_t)n : MAX_FLIGHTS;
    s->flights = calloc(s->max_flights, sizeof *s->flights);
    s->result->outcomes = calloc(n, sizeof *s->result->outcomes);
    s->result->n_requests = n;
    TAILQ_INIT(&s->spare);
    return s->flights && s->result->outcomes ? ST_OK : ST_NO_MEMORY;
}

static status begin(struct sim *s, struct error *err)
{
    const struct sim_options *o = s->options;
    s->limits = (struct scheduler_limits){ .budget_rows = o->step_tokens,
                                           .max_seqs = o->max_seqs,
                                           .chunk_tokens = o->chunk_tokens,
                                           .target_us = o->worker_itl_target_us,
                                           .patience = o->patience_us };
    s->n_workers = o->n_prefill + o->n_decode;
    s->arrivals_source = s->n_workers;
    s->loads_source = s->arrivals_source + 1;
    s->failures_source = s->arrivals_source + 2;
    s->first_flight = s->arrivals_source + FIXED_SOURCES;
    s->blocks_an_id = s->workload->ids ? s->workload->id_tokens / o->block_tokens : 1;
    know_costs(s);
    s->workers = calloc(s->n_workers, sizeof *s->workers);
    status st = s->workers ? make_flights(s) : ST_NO_MEMORY;
    if (st == ST_OK)
        st = make_scratch(s);
    if (st == ST_OK)
        st = event_heap_create(s->first_flight + s->max_flights, &s->heap);
    for (uint32_t i = 0; st == ST_OK && i < s->n_workers; i++)
        st = make_worker(s, i);
    if (st == ST_OK)
        st = sim_router_begin(s);
    if (st != ST_OK)
        return error_set(err, st, "no memory for %u workers and %zu requests", s->n_workers, s->workload->n_requests);
    return sim_failures_begin(s, err);
}

static void end(struct sim *s)
{
    sim_router_end(s);
    for (uint32_t i = 0; s->workers && i < s->n_workers; i++)
        free_worker(&s->workers[i]);
    event_heap_destroy(&s->heap);
    free(s->workers);
    free(s->flights);
    free(s->deaths);
    free(s->keys);
    free(s->hashes);
    free(s->wants);
    free(s->order);
    free(s->rows);
}

static void sum_up(struct sim *s)
{
    struct sim_result *r = s->result;
    struct prefix_index_stats index;
    prefix_index_stats(s->index, &index);
    r->index_blocks = index.blocks;
    r->seconds = (double)s->now_ns / 1e9;
    for (uint32_t i = 0; i < s->n_workers; i++) {
        struct sim_worker *w = &s->workers[i];
        struct sim_role *role = w->is_decode ? &r->decode : &r->prefill;
        uint64_t up_ns = w->up_ns + (w->alive ? s->now_ns - w->up_since_ns : 0);
        role->workers++;
        role->up_s += (double)up_ns / 1e9;
        role->busy_s += (double)w->busy_ns / 1e9;
        role->steps += w->n_steps;
        role->prompt_tokens += w->prompt_tokens;
        r->evicted_blocks += kv_blocks_counters(w->blocks)->evicted;
    }
}

/* ---- what can be simulated
 * -------------------------------------------------------------------------------------------- */

static status check_workload(const struct sim_options *o, const struct workload *w, struct error *err)
{
    uint64_t last_us = 0;
    if (w->n_requests == 0 || w->n_requests > SIM_MAX_REQUESTS)
        return error_set(err, ST_LIMIT, "%zu requests; 1 to %u can be simulated", w->n_requests, SIM_MAX_REQUESTS);
    for (size_t i = 0; i < w->n_requests; i++) {
        const struct workload_request *r = &w->requests[i];
        if (r->arrival_us < last_us || r->n_input == 0 || r->n_output == 0 || r->n_input > WORKLOAD_MAX_TOKENS ||
            r->n_output > WORKLOAD_MAX_TOKENS)
            return error_set(err, ST_INVALID,
                             "request %zu comes before the one above it, or prompt or answer is not 1 to %u tokens",
                             i + 1, WORKLOAD_MAX_TOKENS);
        last_us = r->arrival_us;
    }
    if (w->ids && (w->id_tokens % o->block_tokens || w->n_ids > MAX_BLOCK_KEYS / (w->id_tokens / o->block_tokens)))
        return error_set(err, ST_INVALID,
                         "blocks of %u tokens do not divide the trace's of %u, or there are too many of them",
                         o->block_tokens, w->id_tokens);
    return ST_OK;
}

static status check(const struct sim_options *o, const struct workload *w, struct error *err)
{
    if (o->n_decode == 0 || (uint64_t)o->n_prefill + o->n_decode > SIM_MAX_WORKERS)
        return error_set(err, ST_LIMIT, "%u prefill and %u decode workers; at least one decode worker and %u in all",
                         o->n_prefill, o->n_decode, SIM_MAX_WORKERS);
    if (o->block_tokens == 0 || o->block_tokens > BLOCK_TOKENS_MAX || o->profile->kv_tokens < o->block_tokens)
        return error_set(err, ST_INVALID, "blocks of %u tokens; 1 to %u, and a worker's KV of %llu must have one",
                         o->block_tokens, BLOCK_TOKENS_MAX, (unsigned long long)o->profile->kv_tokens);
    if (!o->max_seqs || !o->max_requests || !o->chunk_tokens || !o->grant_window || o->step_tokens < o->max_seqs ||
        o->load_interval_us < LOAD_GROUPS)
        return error_set(err, ST_INVALID,
                         "max-seqs, max-requests, chunk-tokens and grant-window are at least 1, step-tokens max-seqs");
    status st = profile_check(o->profile, err);
    return st == ST_OK ? check_workload(o, w, err) : st;
}

status sim_run(const struct sim_options *options, const struct workload *workload, struct sim_result *out,
               struct error *err)
{
    struct sim s = { .options = options, .workload = workload, .result = out };
    *out = (struct sim_result){ 0 };
    status st = check(options, workload, err);
    if (st != ST_OK)
        return st;
    st = begin(&s, err);
    if (st == ST_OK) {
        run(&s);
        sum_up(&s);
    }
    end(&s);
    if (st != ST_OK)
        sim_result_free(out);
    return st;
}

void sim_result_free(struct sim_result *result)
{
    free(result->outcomes);
    result->outcomes = NULL;
}
