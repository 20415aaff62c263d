#include <stddef.h>
#include <string.h>
#include <xxhash.h>

#include "engine/kv_layout.h"
#include "kvbm/kv_format.h"
#include "router/fleet_internal.h"

#define FAULT_TOKENS    4096u /* what each loss in a row weighs at first, in prompt tokens waiting */
#define MAX_FAULTS      16u
#define FAULT_MEMORY_US 10000000u /* then it is forgotten: a worker that nobody chooses could never redeem itself */

/* A worker that was slow once, as it is when it was stopped for a moment, and was not chosen since, is taken for one
 * like the others again: nothing else would show whether it still is. */
#define RATES_MEMORY_US 10000000u

#define UNKNOWN_TOKEN_BYTES  65536.0f
#define UNKNOWN_BLOCK_TOKENS 16u

/* ---- candidates, kept up to date ---------------------------------------------------------- */

static struct fleet_side *side_of(const struct fleet_worker *worker)
{
    return worker->is_decode ? &worker->fleet->decodes : &worker->fleet->prefills;
}

static struct pick_candidate *candidate_of(const struct fleet_worker *worker)
{
    return &side_of(worker)->at[worker->place];
}

/* Below 2^52, so that it stays the same in any reader of JSON. */
static uint64_t number_of(const char *text)
{
    return XXH3_64bits(text, strlen(text)) >> 12;
}

/* Of the format as workers publish it; only relations of times hang on it. */
static float token_bytes(const char *published)
{
    const char *text = kv_format_of_worker(published);
    struct kv_format format;
    struct error why;
    if (!text || kv_format_parse(text, &format, &why) != ST_OK)
        return UNKNOWN_TOKEN_BYTES;
    const struct kv_layout layout = kv_format_layout(&format);
    return (float)kv_token_bytes(&layout);
}

void fleet_refresh(struct fleet_worker *worker)
{
    struct pick_candidate *c = candidate_of(worker);
    side_of(worker)->states[worker->place] = (struct fleet_state){
        .model = worker->model,
        .load_us = worker->load_us,
        .fits = worker->is_member && !worker->draining && (worker->up || !worker->is_decode),
        .faulty = worker->faults > 0,
    };
    c->queued_tokens = worker->queued_tokens;
    c->later_tokens = worker->later_tokens;
    c->remote_tokens = worker->remote_tokens;
    c->running_tokens = worker->running_tokens;
    c->requests = worker->requests + worker->later;
    c->running = worker->running;
    c->kv_blocks = worker->kv_blocks;
    c->kv_free = worker->kv_free;
}

bool fleet_knows_rates(const struct fleet_worker *worker)
{
    return worker->learned_us && fleet_now(worker->fleet) - worker->learned_us < RATES_MEMORY_US;
}

void fleet_refresh_rates(struct fleet_worker *worker, double step_us)
{
    struct pick_candidate *c = candidate_of(worker);
    static const struct fleet_rates nothing;
    struct fleet *fleet = worker->fleet;
    const struct fleet_rates *const from[FLEET_RATE_SOURCES] = {
        fleet_knows_rates(worker) ? &worker->rates : &nothing,
        &fleet_kind(fleet, worker->model, worker->is_decode)->rates,
        &fleet_kind(fleet, worker->model, !worker->is_decode)->rates,
    };
    fleet_rates_read(from, &c->rates);
    c->rates.step = (float)step_us;
}

void fleet_refresh_learned(struct fleet_worker *worker)
{
    fleet_refresh_rates(worker, (double)candidate_of(worker)->rates.step);
}

void fleet_refresh_wait(struct fleet_worker *worker, float us)
{
    candidate_of(worker)->rates.queue = us;
}

static struct fleet_host *host_of(struct fleet *fleet, uint64_t host)
{
    return &fleet->hosts[host % FLEET_HOSTS];
}

void fleet_enter_candidate(struct fleet_worker *worker)
{
    struct fleet_side *side = side_of(worker);
    const struct instance *in = &worker->instance;
    const char *blocks = kv_format_of_worker(in->kv_format);
    worker->model = number_of(in->model);
    worker->blocks = number_of(blocks ? blocks : in->kv_format);
    worker->holder = FLEET_NO_NUMBER;
    worker->place = side->n++;
    side->workers[worker->place] = worker;
    side->at[worker->place] = (struct pick_candidate){ .place = worker->place,
                                                       .format = number_of(in->kv_format),
                                                       .host = number_of(in->host),
                                                       .computes_all = in->computes_all,
                                                       .token_bytes = token_bytes(in->kv_format) };
    LIST_INSERT_HEAD(host_of(worker->fleet, side->at[worker->place].host), worker, host_entry);
    fleet_refresh(worker);
    fleet_refresh_rates(worker, 0);
}

static void forget_cached(const struct fleet_worker *worker)
{
    struct pick_candidate *c = candidate_of(worker);
    memset(c->cached, 0, sizeof c->cached);
}

static void forget_holdings(struct fleet *fleet)
{
    const struct fleet_worker *worker;
    for (uint32_t i = 0; i < fleet->n_held; i++)
        forget_cached(fleet->held[i]);
    for (uint32_t i = 0; i < fleet->n_held_hosts; i++)
        LIST_FOREACH(worker, fleet->held_hosts[i], host_entry)
    forget_cached(worker);
    fleet->n_held = fleet->n_held_hosts = 0;
}

/* The last one takes its place. */
void fleet_leave_candidate(struct fleet_worker *worker)
{
    struct fleet *fleet = worker->fleet;
    struct fleet_side *side = side_of(worker);
    forget_holdings(fleet);
    if (worker->holder < FLEET_MAX_WORKERS && fleet->holders[worker->holder] == worker)
        fleet->holders[worker->holder] = NULL;
    LIST_REMOVE(worker, host_entry);
    uint32_t last = --side->n;
    side->workers[worker->place] = side->workers[last];
    side->at[worker->place] = side->at[last];
    side->states[worker->place] = side->states[last];
    side->workers[worker->place]->place = worker->place;
    side->at[worker->place].place = worker->place;
}

uint64_t fleet_kv_bytes(const struct fleet_worker *worker, uint32_t n_tokens)
{
    return (uint64_t)((double)candidate_of(worker)->token_bytes * n_tokens);
}

/* ---- who is usable for a request ------------------------------------------------------------- */

static bool avoided(const struct fleet_worker *worker, const char (*avoid)[64], uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(worker->instance.id, avoid[i]))
            return true;
    return false;
}

static uint64_t fault_weight(const struct fleet_worker *worker, uint64_t now)
{
    uint64_t age = now - worker->fault_us;
    uint64_t faults = worker->faults < MAX_FAULTS ? worker->faults : MAX_FAULTS;
    return age < FAULT_MEMORY_US ? FAULT_TOKENS * faults * (FAULT_MEMORY_US - age) / FAULT_MEMORY_US : 0;
}

static bool has_adapter(const struct fleet_worker *worker, const char *adapter)
{
    return !adapter[0] || instance_has_adapter(&worker->instance, adapter);
}

/* What is rarely asked for, and needs the worker's record. */
static bool has_all(const struct fleet_worker *worker, const struct fleet_ask *ask, uint32_t n_avoid)
{
    const char *class = worker->is_decode ? ask->want.class : "";
    return has_adapter(worker, ask->want.adapter) && (!class[0] || !strcmp(worker->instance.class, class)) &&
           !(worker->is_decode && avoided(worker, ask->avoid, n_avoid));
}

/* Returns how many are usable. */
static uint32_t mark_usable(struct fleet_side *side, const struct fleet_ask *ask, uint32_t n_avoid,
                            uint64_t silent_since, uint64_t now)
{
    uint64_t model = number_of(ask->want.model);
    bool plain = !ask->want.adapter[0] && !ask->want.class[0] && n_avoid == 0;
    uint32_t usable = 0;
    for (uint32_t i = 0; i < side->n; i++) {
        const struct fleet_state *state = &side->states[i];
        struct pick_candidate *c = &side->at[i];
        bool silent = state->load_us && state->load_us < silent_since;
        c->usable =
            state->fits && state->model == model && !silent && (plain || has_all(side->workers[i], ask, n_avoid));
        c->age_us = state->load_us ? now - state->load_us : 0;
        c->fault_tokens = state->faulty ? fault_weight(side->workers[i], now) : 0;
        usable += c->usable;
    }
    return usable;
}

/* ---- what they hold of the prompt --------------------------------------------------------------- */

static struct fleet_worker *holder(struct fleet *fleet, const struct fleet_holding *holding)
{
    if (holding->number >= FLEET_MAX_WORKERS)
        return fleet_find(fleet, holding->id);
    struct fleet_worker *worker = fleet->holders[holding->number];
    if (worker && !strcmp(worker->instance.id, holding->id))
        return worker;
    worker = fleet_find(fleet, holding->id);
    fleet->holders[holding->number] = worker;
    if (worker)
        worker->holder = holding->number;
    return worker;
}

/* Tiers from `from` on reach so far at least. */
static void reach(const struct fleet_worker *worker, const uint32_t tokens[KV_TIER_COUNT], enum kv_tier from)
{
    uint32_t *cached = candidate_of(worker)->cached;
    for (int tier = (int)from; tier < KV_TIER_COUNT; tier++)
        if (tokens[tier] > cached[tier])
            cached[tier] = tokens[tier];
}

/* What a manager keeps is in its host's memory or disk, for the workers there. */
static void note_manager(struct fleet *fleet, const struct fleet_holding *holding)
{
    uint64_t host = number_of(holding->host), blocks = number_of(holding->format);
    struct fleet_host *list = host_of(fleet, host);
    const struct fleet_worker *worker;
    LIST_FOREACH(worker, list, host_entry)
    if (candidate_of(worker)->host == host && worker->blocks == blocks && worker->instance.weights == holding->weights)
        reach(worker, holding->tokens, KV_TIER_HOST);
    fleet->held_hosts[fleet->n_held_hosts++] = list;
}

static void note_worker(struct fleet *fleet, const struct fleet_holding *holding)
{
    struct fleet_worker *worker = holder(fleet, holding);
    if (!worker)
        return;
    reach(worker, holding->tokens, KV_TIER_DEVICE);
    fleet->held[fleet->n_held++] = worker;
}

/* Returns the longest beginning that anybody holds. */
static uint32_t note_holdings(struct fleet *fleet, const struct fleet_ask *ask)
{
    uint32_t longest = 0;
    forget_holdings(fleet);
    for (uint32_t i = 0; i < ask->n_holdings && i < FLEET_MAX_HOLDINGS; i++) {
        const struct fleet_holding *holding = &ask->holdings[i];
        if (holding->tokens[KV_TIER_COUNT - 1] > longest)
            longest = holding->tokens[KV_TIER_COUNT - 1];
        (holding->host ? note_manager : note_worker)(fleet, holding);
    }
    return longest;
}

/* ---- choosing ---------------------------------------------------------------------------------------- */

static uint32_t block_tokens_of(const struct fleet *fleet)
{
    for (uint32_t i = 0; i < fleet->decodes.n; i++)
        if (fleet->decodes.at[i].usable && fleet->decodes.workers[i]->instance.block_tokens)
            return fleet->decodes.workers[i]->instance.block_tokens;
    return UNKNOWN_BLOCK_TOKENS;
}

bool fleet_pick(struct fleet *fleet, const struct fleet_ask *ask, struct fleet_picked *out)
{
    uint64_t now = fleet_now(fleet);
    uint32_t elsewhere = note_holdings(fleet, ask);
    uint64_t heard_since = now > fleet->options.silent_us ? now - fleet->options.silent_us : 0;
    if (mark_usable(&fleet->decodes, ask, ask->n_avoid, 0, now) == 0 && ask->n_avoid)
        (void)mark_usable(&fleet->decodes, ask, 0, 0, now); /* rather one that refused than none */
    (void)mark_usable(&fleet->prefills, ask, 0, heard_since, now);
    fleet->input = (struct pick_input){
        .policy = fleet->options.policy,
        .request = { .n_tokens = ask->n_tokens,
                     .block_tokens = block_tokens_of(fleet),
                     .elsewhere = elsewhere,
                     .asked = ask->route,
                     .itl_target_us = fleet->options.itl_target_us,
                     .turn = fleet->turn++ },
        .decodes = fleet->decodes.at,
        .prefills = fleet->prefills.at,
        .n_decodes = fleet->decodes.n,
        .n_prefills = fleet->prefills.n,
        .decode_places = fleet->decodes.n,
        .prefill_places = fleet->prefills.n,
    };
    struct pick_choice *choice = &fleet->choice;
    pick(&fleet->input, choice);
    if (choice->decode == PICK_NONE)
        return false;
    out->decode = fleet->decodes.workers[choice->decode];
    out->n_prefills = choice->n_prefills;
    for (uint32_t i = 0; i < choice->n_prefills; i++)
        out->prefills[i] = fleet->prefills.workers[choice->prefills[i]];
    out->route = choice->route;
    out->predicted = choice->predicted;
    return true;
}

const struct pick_input *fleet_last_input(const struct fleet *fleet)
{
    return &fleet->input;
}

const struct pick_choice *fleet_last_choice(const struct fleet *fleet)
{
    return &fleet->choice;
}

const char *fleet_candidate_id(const struct fleet *fleet, bool decode, uint32_t index)
{
    const struct fleet_side *side = decode ? &fleet->decodes : &fleet->prefills;
    return index < side->n ? side->workers[index]->instance.id : "";
}
