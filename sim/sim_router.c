/* The router: its own fleet, picker, index and rates, fed by simulated workers. What flow_dispatch.c and flow_learn.c
 * do around them is done here, without messages. */
#include "sim/sim_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvbm/kv_format.h"

#define MODEL        "simulated"
#define RETRY_US     50000u /* as flows do: doubled each time, up to */
#define RETRY_MAX_US 800000u
#define INCARNATION  1u
#define SILENT_US    3000000u
#define RATES_EVERY  20u /* loads; a router reads what it learned at each */

static uint64_t now_us(void *ctx)
{
    return sim_us(ctx);
}

/* ---- workers ----------------------------------------------------------------------------------------------- */

static struct instance instance_of(const struct sim *s, const struct sim_worker *w)
{
    struct instance in = { .incarnation = w->incarnation, .block_tokens = s->options->block_tokens };
    (void)snprintf(in.id, sizeof in.id, "%s-%u", w->is_decode ? "decode" : "prefill", w->place);
    (void)snprintf(in.role, sizeof in.role, "%s", w->is_decode ? "decode" : "prefill");
    (void)snprintf(in.model, sizeof in.model, MODEL);
    (void)snprintf(in.kv_format, sizeof in.kv_format, "simulated");
    (void)snprintf(in.host, sizeof in.host, "host-%u", w->source);
    (void)snprintf(in.control, sizeof in.control, "sim://%u", w->source);
    in.computes_all = !s->options->fetch;
    return in;
}

void sim_router_know(struct sim *s, struct sim_worker *w)
{
    const struct instance in = instance_of(s, w);
    fleet_member(s->fleet, &in);
    w->fleet = fleet_find(s->fleet, in.id);
    fleet_set_up(w->fleet, true);
    sim_router_load(s, w);
}

/* Its link is lost, and its record goes. */
void sim_router_forget(struct sim *s, struct sim_worker *w)
{
    char id[sizeof w->fleet->instance.id];
    (void)snprintf(id, sizeof id, "%s", w->fleet->instance.id);
    fleet_set_up(w->fleet, false);
    w->fleet = NULL;
    fleet_member_gone(s->fleet, id);
    prefix_index_clear(s->index, w->source);
}

bool sim_router_knows_prefill(const struct sim_worker *w)
{
    return w->fleet != NULL;
}

void sim_router_load(struct sim *s, struct sim_worker *w)
{
    Baton__RouterMark mark = BATON__ROUTER_MARK__INIT, *marks[] = { &mark };
    Baton__Load load = BATON__LOAD__INIT;
    mark.router = INCARNATION;
    mark.dispatch = w->seen_number;
    mark.queued_tokens = w->queued_tokens; /* there is no other router */
    load.marks = marks;
    load.n_marks = 1;
    load.incarnation = w->incarnation;
    load.kv_blocks = (uint32_t)(s->options->profile->kv_tokens / s->options->block_tokens);
    load.kv_free = w->kv_free;
    load.queued_requests = w->held;
    load.step_ms = w->step_us / 1e3;
    load.running_sequences = w->n_slots + w->n_prompts;
    load.running_tokens = sim_steps_running_tokens(s, w);
    load.queued_tokens = w->queued_tokens;
    fleet_hear(w->fleet, &load);
    if (w->loads++ % RATES_EVERY == 0)
        fleet_refresh_rates(w->fleet, w->step_us);
}

/* ---- choosing ------------------------------------------------------------------------------------------------ */

struct holders {
    struct prefix_match found[SIM_MAX_HOLDINGS];
    struct fleet_holding holdings[SIM_MAX_HOLDINGS];
    uint32_t n;
};

/* A prompt of which its last block is full, too, is asked for whole, as the router does. */
static void find_holders(struct sim *s, const struct flight *f, struct holders *out)
{
    uint32_t n = sim_keys(s, f, f->n_tokens);
    out->n = 0;
    for (uint32_t i = 0; i < n; i++)
        s->hashes[i] = sim_hash(s->keys[i]);
    uint32_t found = n ? prefix_index_lookup(s->index, s->reader, s->hashes, n, out->found, SIM_MAX_HOLDINGS) : 0;
    for (uint32_t i = 0; i < found; i++) {
        const struct sim_worker *w = &s->workers[out->found[i].worker];
        struct fleet_holding *h = &out->holdings[out->n];
        if (!w->fleet)
            continue;
        *h = (struct fleet_holding){ .id = w->fleet->instance.id, .number = w->source };
        for (int tier = 0; tier < KV_TIER_COUNT; tier++)
            h->tokens[tier] = out->found[i].blocks[tier] * s->options->block_tokens;
        out->found[out->n++] = out->found[i];
    }
}

static struct sim_worker *worker_of(const struct sim *s, const struct fleet_worker *worker, bool is_decode)
{
    uint32_t first = is_decode ? s->options->n_prefill : 0;
    return &s->workers[first + (uint32_t)strtoul(strchr(worker->instance.id, '-') + 1, NULL, 10)];
}

/* Whom the workers may ask for KV. */
static void choose_hints(const struct sim *s, struct flight *f, const struct holders *holders,
                         const struct fleet_picked *picked)
{
    struct kv_match matches[SIM_MAX_HOLDINGS];
    struct fetch_hint hints[FETCH_HINTS_MAX];
    for (uint32_t i = 0; i < holders->n; i++) {
        const struct instance *in = &s->workers[holders->found[i].worker].fleet->instance;
        matches[i] = (struct kv_match){ .id = in->id,
                                        .role = in->role,
                                        .host = in->host,
                                        .address = in->control,
                                        .format = in->kv_format,
                                        .number = holders->found[i].worker };
        memcpy(matches[i].tokens, holders->holdings[i].tokens, sizeof matches[i].tokens);
    }
    const struct fetch_ask ask = { .matches = matches,
                                   .n_matches = holders->n,
                                   .n_tokens = f->n_tokens,
                                   .decode = &picked->decode->instance,
                                   .prefill = picked->n_prefills ? &picked->prefills[0]->instance : NULL };
    uint32_t n = fetch_hints_choose(&ask, hints);
    f->n_hints = 1; /* the decode worker itself */
    f->hints[0].worker = f->decode->source;
    f->hints[0].tokens = 0;
    for (uint32_t i = 0; i < n; i++, f->n_hints++) {
        f->hints[f->n_hints].worker = hints[i].holder->number;
        f->hints[f->n_hints].tokens = hints[i].tokens;
    }
}

static const char *candidate_id(const void *ctx, bool decode, uint32_t index)
{
    return fleet_candidate_id(ctx, decode, index);
}

static void tell_decision(const struct sim *s, const struct flight *f)
{
    const struct decision d = { .time_us = sim_us(s),
                                .key = { INCARNATION, f->request },
                                .attempt = f->attempts,
                                .input = fleet_last_input(s->fleet),
                                .choice = fleet_last_choice(s->fleet),
                                .id = candidate_id,
                                .ctx = s->fleet };
    if (s->options->decided)
        s->options->decided(s->options->decided_ctx, &d);
}

static void count(struct flight *f, const struct fleet_picked *picked)
{
    fleet_count(picked->decode, &f->dispatch, f->number, f->n_tokens);
    if (picked->n_prefills == 0)
        return;
    fleet_count_remote(&f->dispatch);
    fleet_count(picked->prefills[0], &f->help, f->number, picked->predicted.computed);
    fleet_count_most(&f->help, f->n_tokens);
}

static void send_to(struct sim *s, struct flight *f, const struct holders *holders, const struct fleet_picked *picked)
{
    f->attempts++;
    f->number = fleet_next_number(s->fleet);
    f->predicted = picked->predicted;
    f->decode = worker_of(s, picked->decode, true);
    f->is_local = picked->route == PICK_ROUTE_LOCAL;
    f->is_auto = picked->route == PICK_ROUTE_AUTO;
    f->n_prefills = picked->n_prefills;
    f->next_prefill = 0;
    f->legs = f->preempted = 0;
    for (uint32_t i = 0; i < f->n_prefills; i++)
        f->prefills[i] = worker_of(s, picked->prefills[i], false)->source;
    choose_hints(s, f, holders, picked);
    tell_decision(s, f);
    count(f, picked);
    s->result->decisions++;
    flight_enter(f, FLIGHT_SENT);
    flight_wait(s, f, s->now_ns + sim_latency_ns(s));
}

static void hold(struct sim *s, struct flight *f)
{
    uint64_t patience_ns = f->held_since_ns + s->options->worker_wait_us * NS, next = s->now_ns + f->retry_us * NS;
    if (s->now_ns >= patience_ns) {
        flight_end(s, f, SIM_REFUSED);
        return;
    }
    flight_enter(f, FLIGHT_HELD);
    f->retry_us = 2 * f->retry_us < RETRY_MAX_US ? 2 * f->retry_us : RETRY_MAX_US;
    flight_wait(s, f, next < patience_ns ? next : patience_ns);
}

void sim_router_dispatch(struct sim *s, struct flight *f)
{
    char avoid[1][64] = { "" };
    struct holders holders;
    struct fleet_picked picked;
    struct fleet_ask ask = { .want = { MODEL, "", "" },
                             .avoid = (const char(*)[64])avoid,
                             .n_tokens = f->n_tokens,
                             .route = PICK_ROUTE_AUTO,
                             .holdings = holders.holdings };
    if (f->avoid != UINT32_MAX && s->workers[f->avoid].fleet) {
        (void)snprintf(avoid[0], sizeof avoid[0], "%s", s->workers[f->avoid].fleet->instance.id);
        ask.n_avoid = 1;
    }
    find_holders(s, f, &holders);
    ask.n_holdings = holders.n;
    if (fleet_pick(s->fleet, &ask, &picked))
        send_to(s, f, &holders, &picked);
    else
        hold(s, f);
}

void sim_router_refused(struct sim *s, struct flight *f)
{
    f->avoid = f->decode->source;
    f->decode = NULL;
    sim_router_uncount(f);
    s->result->refusals++;
    hold(s, f);
}

/* A prompt and answer that no worker has room for is refused at the door. */
void sim_router_arrival(struct sim *s)
{
    struct flight *f = flight_take(s);
    const struct workload_request *r = &s->workload->requests[f->request];
    uint64_t room = s->options->profile->kv_tokens / s->options->block_tokens * s->options->block_tokens;
    f->n_tokens = r->n_input;
    f->held_since_ns = s->now_ns;
    f->retry_us = RETRY_US;
    f->avoid = UINT32_MAX;
    if ((uint64_t)r->n_input + r->n_output > room)
        flight_end(s, f, SIM_REFUSED);
    else
        sim_router_dispatch(s, f);
}

/* ---- counting and learning -------------------------------------------------------------------------------------- */

void sim_router_uncount(struct flight *f)
{
    if (f->dispatch.worker)
        fleet_uncount(f->dispatch.worker, &f->dispatch);
    if (f->help.worker)
        fleet_uncount(f->help.worker, &f->help);
}

static uint64_t us_between(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? (to_ns - from_ns) / NS : 0;
}

static void count_prompt(struct sim *s, const struct flight *f, uint32_t computed, bool is_remote)
{
    struct sim_result *r = s->result;
    struct sim_outcome *o = &r->outcomes[f->request];
    if (f->generated) {
        r->recomputed_tokens += computed;
        return;
    }
    o->cached = f->found;
    o->pulled = f->pulled;
    r->local += !is_remote;
    r->remote += is_remote;
    if (s->workload->requests[f->request].arrival_us < s->options->warmup_us)
        return;
    r->prompt_tokens += f->n_tokens;
    r->device_tokens += f->found;
    r->pulled_tokens += f->pulled;
    r->computed_tokens += computed;
}

/* As flow_learn does of a prompt that ran once and whole. */
void sim_router_learn(struct sim *s, struct flight *f, uint32_t computed)
{
    bool is_remote = f->prefill != NULL;
    struct sim_worker *at = is_remote ? f->prefill : f->decode;
    uint64_t prefill_us = us_between(f->started_ns, f->prefill_done_ns), moved = f->moved_tokens;
    count_prompt(s, f, computed, is_remote);
    f->moved_tokens = 0;
    if (f->legs > 1 || f->preempted || computed == 0 || !at->fleet || !f->decode->fleet)
        return;
    fleet_learn_queue(at->fleet, f->predicted.wait_us,
                      us_between(f->born_ns, is_remote ? f->granted_ns : f->started_ns));
    fleet_learn_prefill(at->fleet, f->n_tokens, computed, prefill_us);
    if (f->pulled && f->fetch_us)
        fleet_learn_pull(at->fleet, KV_TIER_REMOTE, fleet_kv_bytes(at->fleet, f->pulled), f->fetch_us);
    if (is_remote) {
        uint64_t pull_wait = us_between(f->granted_ns, f->started_ns), since = us_between(f->granted_ns, s->now_ns);
        uint64_t there = prefill_us + pull_wait;
        fleet_learn_handoff(f->decode->fleet, true, fleet_kv_bytes(f->decode->fleet, (uint32_t)moved),
                            since > there ? since - there : 0);
        f->decode->loads = 0;
    }
    at->loads = 0;
}

void sim_router_token(struct sim *s, struct flight *f)
{
    bool counts = s->workload->requests[f->request].arrival_us >= s->options->warmup_us;
    uint64_t there_ns = s->now_ns + sim_latency_ns(s);
    if (f->generated++ == 0)
        f->first_token_ns = there_ns;
    else if (counts)
        spread_add(&s->result->itl, (double)(s->now_ns - f->last_token_ns) / NS, 1);
    f->last_token_ns = s->now_ns;
    fleet_prompt_done(&f->dispatch);
    if (f->help.worker)
        fleet_uncount(f->help.worker, &f->help);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

/* Twice the blocks that all workers can hold, so that none is evicted of the index itself. */
static size_t index_bytes(const struct sim *s)
{
    uint64_t blocks = s->options->profile->kv_tokens / s->options->block_tokens * s->n_workers;
    size_t bytes = (size_t)blocks * 2 * PREFIX_BYTES_A_BLOCK;
    return bytes + ((size_t)1 << 20);
}

status sim_router_begin(struct sim *s)
{
    const struct fleet_options options = { .policy = s->options->policy,
                                           .itl_target_us = s->options->itl_target_us,
                                           .incarnation = INCARNATION,
                                           .now = now_us,
                                           .now_ctx = s,
                                           .silent_us = SILENT_US };
    const struct prefix_index_options index = { .max_bytes = index_bytes(s), .max_workers = s->n_workers };
    struct error err;
    status st = fleet_create(&options, &s->fleet);
    if (st == ST_OK)
        st = prefix_index_create(&index, &s->index, &err);
    if (st == ST_OK)
        st = prefix_reader_create(s->index, &s->reader);
    for (uint32_t i = 0; st == ST_OK && i < s->n_workers; i++)
        sim_router_know(s, &s->workers[i]);
    return st;
}

void sim_router_end(struct sim *s)
{
    prefix_reader_destroy(&s->reader);
    prefix_index_destroy(&s->index);
    fleet_destroy(&s->fleet);
}
