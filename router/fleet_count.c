#include <string.h>

#include "router/fleet_internal.h"

/* Beyond so many medians something else was waited for; up to there the median itself may have been another. */
#define NO_QUEUE 1.5

uint64_t fleet_now(const struct fleet *fleet)
{
    return fleet->options.now(fleet->options.now_ctx);
}

/* ---- what we dispatched --------------------------------------------------------------- */

/* Figures are of a moment ago: ours that are over since do not wait, whatever they say. */
static void requeue(struct fleet_worker *worker)
{
    uint64_t own = worker->own_tokens < worker->heard_tokens ? worker->own_tokens : worker->heard_tokens;
    worker->queued_tokens = worker->others_tokens + own;
}

void fleet_on_queue(struct fleet_worker *worker, uint64_t tokens, uint64_t own_tokens)
{
    worker->own_tokens = own_tokens < tokens ? own_tokens : tokens;
    worker->others_tokens = tokens - worker->own_tokens;
    requeue(worker);
}

static void no_longer_later(struct fleet_worker *worker, struct fleet_dispatch *dispatch)
{
    TAILQ_REMOVE(&worker->later_list, dispatch, entry);
    dispatch->is_later = false;
    worker->later--;
    worker->later_tokens -= dispatch->n_tokens;
    worker->heard_tokens += dispatch->most_tokens;
}

void fleet_on_mark(struct fleet_worker *worker, uint64_t number)
{
    struct fleet_dispatch *dispatch;
    while ((dispatch = TAILQ_FIRST(&worker->later_list)) && dispatch->number <= number)
        no_longer_later(worker, dispatch);
}

void fleet_on_prefill_load(struct fleet_worker *worker)
{
    struct fleet_dispatch *dispatch;
    uint64_t now = fleet_now(worker->fleet);
    while ((dispatch = TAILQ_FIRST(&worker->later_list)) && now - dispatch->at_us >= FLEET_HEARD_US)
        no_longer_later(worker, dispatch);
}

uint64_t fleet_next_number(struct fleet *fleet)
{
    return ++fleet->last_number;
}

void fleet_count(struct fleet_worker *worker, struct fleet_dispatch *dispatch, uint64_t number, uint32_t n_tokens)
{
    const struct fleet_dispatch *last = TAILQ_LAST(&worker->later_list, fleet_dispatches);
    ASSERT(!last || last->number < number);
    *dispatch = (struct fleet_dispatch){
        .worker = worker,
        .number = number,
        .at_us = fleet_now(worker->fleet),
        .n_tokens = n_tokens,
        .most_tokens = n_tokens,
        .is_later = true,
    };
    TAILQ_INSERT_TAIL(&worker->later_list, dispatch, entry);
    TAILQ_INSERT_TAIL(&worker->held_list, dispatch, held_entry);
    worker->ours++;
    worker->later++;
    worker->later_tokens += n_tokens;
    fleet_refresh(worker);
}

void fleet_count_most(struct fleet_dispatch *dispatch, uint32_t most_tokens)
{
    ASSERT(dispatch->is_later && most_tokens >= dispatch->n_tokens);
    dispatch->most_tokens = most_tokens;
}

void fleet_count_remote(struct fleet_dispatch *dispatch)
{
    ASSERT(dispatch->worker && !dispatch->is_remote);
    dispatch->is_remote = true;
    dispatch->worker->remote_tokens += dispatch->n_tokens;
    fleet_refresh(dispatch->worker);
}

/* Not in the queue that the worker told of, and not in what it has not told of yet. */
static void no_longer_queued(struct fleet_worker *worker, struct fleet_dispatch *dispatch)
{
    uint64_t n = dispatch->n_tokens;
    if (dispatch->is_later) {
        worker->later_tokens -= n;
    } else {
        worker->own_tokens -= n < worker->own_tokens ? n : worker->own_tokens;
        worker->heard_tokens -= dispatch->most_tokens;
    }
    if (dispatch->is_remote)
        worker->remote_tokens -= n;
    dispatch->is_remote = false;
    dispatch->n_tokens = dispatch->most_tokens = 0;
    requeue(worker);
}

void fleet_prompt_done(struct fleet_dispatch *dispatch)
{
    if (!dispatch->worker)
        return;
    no_longer_queued(dispatch->worker, dispatch);
    fleet_refresh(dispatch->worker);
}

void fleet_uncount(struct fleet_worker *worker, struct fleet_dispatch *dispatch)
{
    ASSERT(worker->ours > 0 && dispatch->worker == worker);
    no_longer_queued(worker, dispatch);
    worker->ours--;
    if (dispatch->is_later)
        no_longer_later(worker, dispatch);
    TAILQ_REMOVE(&worker->held_list, dispatch, held_entry);
    dispatch->worker = NULL;
    fleet_refresh(worker);
}

void fleet_drop_counts(struct fleet_worker *worker)
{
    struct fleet_dispatch *dispatch;
    while ((dispatch = TAILQ_FIRST(&worker->held_list)))
        fleet_uncount(worker, dispatch);
}

uint32_t fleet_ours(const struct fleet *fleet)
{
    return (uint32_t)(fleet_counted(fleet, true).dispatches + fleet_counted(fleet, false).dispatches);
}

struct fleet_counted fleet_counted(const struct fleet *fleet, bool decode)
{
    const struct fleet_worker *worker;
    struct fleet_counted counted = { 0 };
    TAILQ_FOREACH(worker, &fleet->workers, entry)
    if (worker->is_decode == decode) {
        counted.dispatches += worker->ours;
        counted.tokens += worker->later_tokens + worker->remote_tokens;
    }
    return counted;
}

/* ---- what was learned -------------------------------------------------------------------- */

struct fleet_kind *fleet_kind(struct fleet *fleet, uint64_t model, bool is_decode)
{
    for (uint32_t i = 0; i < fleet->n_kinds; i++)
        if (fleet->kinds[i].model == model && fleet->kinds[i].is_decode == is_decode)
            return &fleet->kinds[i];
    if (fleet->n_kinds == FLEET_MAX_KINDS)
        return &fleet->kinds[FLEET_MAX_KINDS - 1];
    struct fleet_kind *kind = &fleet->kinds[fleet->n_kinds++];
    kind->model = model;
    kind->is_decode = is_decode;
    return kind;
}

/* The rates of the worker's kind; its own begin anew where they were forgotten. */
static struct fleet_rates *learning(struct fleet_worker *worker)
{
    if (!fleet_knows_rates(worker))
        worker->rates = (struct fleet_rates){ 0 };
    worker->learned_us = fleet_now(worker->fleet);
    return &fleet_kind(worker->fleet, worker->model, worker->is_decode)->rates;
}

void fleet_learn_prefill(struct fleet_worker *worker, uint32_t n_tokens, uint32_t computed, uint64_t us)
{
    fleet_rates_prefill(learning(worker), n_tokens, computed, us);
    fleet_rates_prefill(&worker->rates, n_tokens, computed, us);
}

void fleet_learn_queue(struct fleet_worker *worker, uint64_t predicted_us, uint64_t us)
{
    struct fleet_rates *rates = learning(worker);
    float median = rates->queue.median;
    if ((double)predicted_us <= NO_QUEUE * (double)median + 1)
        fleet_rates_queue(rates, us);
    fleet_refresh_wait(worker, rates->queue.median);
}

void fleet_learn_handoff(struct fleet_worker *decode, bool other_host, uint64_t bytes, uint64_t us)
{
    fleet_rates_handoff(learning(decode), other_host, bytes, us);
    fleet_rates_handoff(&decode->rates, other_host, bytes, us);
}

void fleet_learn_pull(struct fleet_worker *worker, enum kv_tier tier, uint64_t bytes, uint64_t us)
{
    fleet_rates_pull(learning(worker), tier, bytes, us);
    fleet_rates_pull(&worker->rates, tier, bytes, us);
    fleet_refresh_learned(worker);
}

void fleet_learn_missed(struct fleet_worker *worker, enum kv_tier tier, uint64_t bytes, uint64_t us)
{
    fleet_rates_missed(learning(worker), tier, bytes, us);
    fleet_rates_missed(&worker->rates, tier, bytes, us);
    fleet_refresh_learned(worker);
}
