#include "router/pick.h"

#include <stddef.h>
#include <string.h>

#include "router/pick_best.h"
#include "router/pick_time.h"

#define TOKENS_PER_REQUEST 64.0  /* what a request weighs beside prompt tokens that wait */
#define KV_WEIGHT          256.0 /* what half used KV weighs */
#define MOST_COST          1e15

static const char *const policy_names[] = {
#define X(name, text) text,
    PICK_POLICIES(X)
#undef X
};

static const char *const route_names[] = {
#define X(name, text) text,
    PICK_ROUTES(X)
#undef X
};

const char *pick_policy_name(enum pick_policy policy)
{
    return (unsigned)policy < PICK_POLICY_COUNT ? policy_names[policy] : "?";
}

bool pick_policy_find(const char *name, enum pick_policy *out)
{
    for (unsigned i = 0; i < PICK_POLICY_COUNT; i++)
        if (!strcmp(name, policy_names[i])) {
            *out = (enum pick_policy)i;
            return true;
        }
    return false;
}

const char *pick_route_name(enum pick_route route)
{
    return (unsigned)route < PICK_ROUTE_COUNT ? route_names[route] : "?";
}

bool pick_route_find(const char *name, enum pick_route *out)
{
    for (unsigned i = 0; i < PICK_ROUTE_COUNT; i++)
        if (!strcmp(name, route_names[i])) {
            *out = (enum pick_route)i;
            return true;
        }
    return false;
}

/* ---- what a pair costs --------------------------------------------------------------- */

uint64_t pick_predict(const struct pick_input *in, uint32_t decode, uint32_t prefill, struct pick_parts *parts)
{
    const struct pick_request *request = &in->request;
    const struct pick_candidate *d = &in->decodes[decode];
    const struct pick_candidate *p = prefill == PICK_NONE ? d : &in->prefills[prefill];
    struct pick_plan plan;
    struct pick_parts own, *out = parts ? parts : &own;
    pick_time_plan(request, p, &plan);
    *out = (struct pick_parts){
        .wait_us = pick_time_wait(p, prefill == PICK_NONE),
        .prefill_us = plan.prefill_us,
        .pull_us = plan.pull_us,
        .pressure_us = pick_time_pressure(request, d),
        .cached = plan.cached,
        .pulled = plan.pulled,
        .computed = plan.computed,
        .source = plan.source,
    };
    if (prefill == PICK_NONE) {
        out->prefill_us += pick_time_beside(d, plan.computed);
        out->itl_us = pick_time_itl(request, d, plan.computed);
    } else {
        out->moved = pick_time_moved(request, d);
        out->handoff_us = pick_time_handoff(d, out->moved, d->host != p->host);
    }
    return out->wait_us + out->prefill_us + out->pull_us + out->handoff_us + out->pressure_us;
}

bool pick_local_holds(const struct pick_input *in, uint32_t decode)
{
    struct pick_plan plan;
    if (!in->request.itl_target_us)
        return true;
    pick_time_plan(&in->request, &in->decodes[decode], &plan);
    return pick_time_itl(&in->request, &in->decodes[decode], plan.computed) <= in->request.itl_target_us;
}

/* ---- policies that look at one worker at a time ----------------------------------------- */

/* One side's list. */
struct list {
    const struct pick_candidate *at;
    uint32_t n, places;
    bool any_format;
    uint64_t format;
};

static bool may_be(const struct list *list, uint32_t i)
{
    return list->at[i].usable && (list->any_format || list->at[i].format == list->format);
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Work ahead of a request, in prompt tokens: what waits, a share for each request, and a charge that rises steeply as
 * KV fills. */
static uint64_t load_cost(const struct pick_request *request, const struct pick_candidate *c)
{
    double used = c->kv_blocks ? 1.0 - (double)c->kv_free / c->kv_blocks : 0.0;
    double pressure = used < PICK_MOST_USED ? used / (1.0 - used) : PICK_MOST_USED / (1.0 - PICK_MOST_USED);
    double cost = (double)(c->queued_tokens + c->later_tokens + c->fault_tokens) + TOKENS_PER_REQUEST * c->requests;
    cost += pressure > 0.0 ? KV_WEIGHT * pressure : 0.0;
    (void)request;
    return cost < MOST_COST ? (uint64_t)(cost * 1024.0) : (uint64_t)(MOST_COST * 1024.0);
}

/* As Dynamo's router counts it, times the tokens of a block: prompt blocks to compute, and blocks that decode. */
static uint64_t overlap_cost(const struct pick_request *request, const struct pick_candidate *c)
{
    uint32_t size = request->block_tokens ? request->block_tokens : 1;
    uint64_t cached = c->cached[KV_TIER_DEVICE] / size * size;
    uint64_t prompts = c->queued_tokens + c->later_tokens + c->fault_tokens + request->n_tokens;
    return (prompts > cached ? prompts - cached : 0) + c->running_tokens;
}

typedef uint64_t cost_fn(const struct pick_request *request, const struct pick_candidate *c);

static bool is_taken(const uint32_t *taken, uint32_t n, uint32_t i)
{
    for (uint32_t k = 0; k < n; k++)
        if (taken[k] == i)
            return true;
    return false;
}

/* Among equals the next in turn, so that they share. */
static uint32_t cheapest(const struct pick_request *request, const struct list *list, cost_fn *cost,
                         const uint32_t *taken, uint32_t n_taken)
{
    uint32_t best = PICK_NONE, best_turn = 0;
    uint64_t best_cost = 0;
    for (uint32_t i = 0; i < list->n; i++) {
        if (!may_be(list, i) || is_taken(taken, n_taken, i))
            continue;
        uint64_t this_cost = cost(request, &list->at[i]);
        uint32_t turn = pick_turn(list->at[i].place, list->places, request->turn);
        if (best != PICK_NONE && (this_cost > best_cost || (this_cost == best_cost && turn > best_turn)))
            continue;
        best = i;
        best_cost = this_cost;
        best_turn = turn;
    }
    return best;
}

static uint32_t nth_usable(const struct list *list, uint64_t nth)
{
    uint32_t usable = 0;
    for (uint32_t i = 0; i < list->n; i++)
        usable += may_be(list, i);
    if (usable == 0)
        return PICK_NONE;
    nth %= usable;
    for (uint32_t i = 0; i < list->n; i++)
        if (may_be(list, i) && nth-- == 0)
            return i;
    return PICK_NONE;
}

static uint32_t better_of_two(const struct pick_request *request, const struct list *list)
{
    uint32_t a = nth_usable(list, mix(request->turn)), b = nth_usable(list, mix(~request->turn));
    if (a == PICK_NONE)
        return a;
    return load_cost(request, &list->at[b]) < load_cost(request, &list->at[a]) ? b : a;
}

static uint32_t pick_one(const struct pick_input *in, const struct list *list)
{
    switch (in->policy) {
    case PICK_ROUND_ROBIN:
        return nth_usable(list, in->request.turn);
    case PICK_RANDOM:
        return nth_usable(list, mix(in->request.turn));
    case PICK_POWER_OF_TWO:
        return better_of_two(&in->request, list);
    case PICK_KV_OVERLAP:
        return cheapest(&in->request, list, overlap_cost, NULL, 0);
    default:
        return cheapest(&in->request, list, load_cost, NULL, 0);
    }
}

/* The first by the policy, the others, which are there in case it fails, by load. */
static void pick_helpers(const struct pick_input *in, struct pick_choice *out)
{
    const struct list list = { in->prefills, in->n_prefills, in->prefill_places, false,
                               in->decodes[out->decode].format };
    uint32_t next = pick_one(in, &list);
    while (next != PICK_NONE) {
        out->prefills[out->n_prefills++] = next;
        if (out->n_prefills == PICK_MAX_RANKED)
            return;
        next = cheapest(&in->request, &list, load_cost, out->prefills, out->n_prefills);
    }
}

static void pick_singly(const struct pick_input *in, struct pick_choice *out)
{
    const struct list list = { in->decodes, in->n_decodes, in->decode_places, true, 0 };
    out->decode = pick_one(in, &list);
    out->route = in->request.asked;
    if (out->decode != PICK_NONE && out->route != PICK_ROUTE_LOCAL)
        pick_helpers(in, out);
}

void pick(const struct pick_input *in, struct pick_choice *out)
{
    out->decode = PICK_NONE;
    out->n_prefills = 0;
    out->route = in->request.asked;
    out->predicted = (struct pick_parts){ 0 };
    if (in->policy == PICK_CACHE_AWARE)
        pick_best(in, out);
    else
        pick_singly(in, out);
    if (out->decode != PICK_NONE)
        (void)pick_predict(in, out->decode, out->n_prefills ? out->prefills[0] : PICK_NONE, &out->predicted);
}
