/* A request at a decode worker: claims on blocks, its prompt from a prefill worker or computed here, its tokens
 * (worker/generation*.c). */
#include "sim/sim_internal.h"

/* ---- blocks ------------------------------------------------------------------------------------------------ */

static struct scheduler_claim claim_of(const struct sim *s, const struct flight *f)
{
    return (struct scheduler_claim){ .preempted = f->is_preempted,
                                     .arrival = f->arrival,
                                     .waited = (s->now_ns - f->claim_since_ns) / NS };
}

static void enter_claim(struct sim *s, struct flight *f)
{
    struct sim_worker *w = f->decode;
    struct flight *other;
    f->claim_since_ns = s->now_ns;
    const struct scheduler_claim own = claim_of(s, f);
    TAILQ_FOREACH_REVERSE(other, &w->queue, flight_list, link)
    {
        const struct scheduler_claim theirs = claim_of(s, other);
        if (!scheduler_goes_before(&s->limits, &own, &theirs))
            break;
    }
    if (other)
        TAILQ_INSERT_AFTER(&w->queue, other, f, link);
    else
        TAILQ_INSERT_HEAD(&w->queue, f, link);
}

static void claim(struct sim *s, struct flight *f)
{
    enter_claim(s, f);
    sim_decode_answer_claims(s, f->decode);
}

/* For prompt and first token, all or none; blocks of an earlier leg are there already. */
static bool take_blocks(struct sim *s, struct sim_worker *w, struct flight *f)
{
    uint32_t spare = w->growing < s->options->reserve_blocks ? w->growing : s->options->reserve_blocks;
    uint32_t n = sim_keys(s, f, f->n_tokens - 1);
    if (f->at_decode.known + f->at_decode.others > 0)
        return true;
    if (!kv_blocks_take(w->blocks, s->keys, n, sim_blocks_for(s, (uint64_t)f->n_tokens + 1), spare, &f->at_decode))
        return false;
    f->committed = f->at_decode.known * s->options->block_tokens;
    return true;
}

static void be_active(struct sim_worker *w, struct flight *f, bool grows)
{
    w->active += !f->is_active;
    f->is_active = true;
    w->growing += grows && !f->is_growing;
    f->is_growing |= grows;
}

static void be_idle(struct sim_worker *w, struct flight *f)
{
    w->active -= f->is_active;
    w->growing -= f->is_growing;
    f->is_active = f->is_growing = false;
}

static void compute(struct sim *s, struct flight *f)
{
    struct sim_worker *w = f->decode;
    uint32_t pulled = sim_fetch_end(s, w, f, &f->at_decode);
    f->pulled += pulled;
    f->committed = f->computed;
    f->started_ns = s->now_ns;
    sim_queue_tokens(w, &f->queued_at_decode, f->n_tokens - f->computed);
    flight_enter(f, FLIGHT_COMPUTING);
    sim_steps_join_prompt(s, w, f);
}

static void answer(struct sim *s, struct sim_worker *w, struct flight *f)
{
    TAILQ_REMOVE(&w->queue, f, link);
    sim_queue_tokens(w, &f->queued_at_decode, f->n_tokens - f->committed);
    if (f->state == FLIGHT_CLAIMING) {
        be_active(w, f, false);
        f->granted_ns = s->now_ns;
        flight_enter(f, FLIGHT_GRANTED);
        flight_wait(s, f, s->now_ns + sim_latency_ns(s));
        return;
    }
    be_active(w, f, true);
    f->is_preempted = false;
    f->computed = f->found = f->committed;
    f->pulled = 0;
    f->fetch_us = 0;
    sim_fetch_begin(s, w, f, f->committed);
    if (f->fetch_ends_ns > s->now_ns) {
        flight_enter(f, FLIGHT_FETCHING);
        flight_wait(s, f, f->fetch_ends_ns);
    } else {
        compute(s, f);
    }
}

void sim_decode_answer_claims(struct sim *s, struct sim_worker *w)
{
    bool is_set_aside = false; /* what becomes free is the first claim's */
    struct flight *f, *next;
    for (f = TAILQ_FIRST(&w->queue); f && w->active < s->options->max_seqs; f = next) {
        next = TAILQ_NEXT(f, link);
        if (is_set_aside && f->at_decode.known + f->at_decode.others == 0)
            continue;
        if (take_blocks(s, w, f)) {
            answer(s, w, f);
            next = TAILQ_FIRST(&w->queue);
        } else if ((s->now_ns - f->claim_since_ns) / NS >= s->options->claim_aside_us) {
            is_set_aside = true;
        }
    }
}

/* ---- the prompt ---------------------------------------------------------------------------------------------- */

static bool is_remote(struct sim *s, const struct flight *f)
{
    uint32_t n = sim_keys(s, f, f->n_tokens - 1), local = s->options->local_tokens;
    if (!f->is_auto)
        return !f->is_local;
    uint32_t here = kv_blocks_peek(f->decode->blocks, s->keys, n) * s->options->block_tokens;
    return f->n_tokens > local && f->n_tokens - here > local;
}

static void wait_for_blocks(struct sim *s, struct flight *f)
{
    flight_enter(f, FLIGHT_WAITING);
    claim(s, f);
}

/* What it holds itself is the first hint. */
static void ask(struct sim *s, struct flight *f, struct sim_worker *prefill)
{
    uint32_t n = sim_keys(s, f, f->n_tokens - 1);
    f->prefill = prefill;
    f->hints[0].worker = f->decode->source;
    f->hints[0].tokens = s->options->block_tokens * kv_blocks_peek(f->decode->blocks, s->keys, n);
    f->legs++;
    flight_enter(f, FLIGHT_ASKED);
    flight_wait(s, f, s->now_ns + sim_latency_ns(s));
}

static struct sim_worker *next_prefill(struct sim *s, struct flight *f)
{
    while (f->next_prefill < f->n_prefills) {
        struct sim_worker *w = &s->workers[f->prefills[f->next_prefill++]];
        if (sim_router_knows_prefill(w))
            return w;
    }
    return NULL;
}

void sim_decode_arrival(struct sim *s, struct flight *f)
{
    struct sim_worker *w = f->decode, *prefill;
    w->seen_number = f->number;
    if (w->held >= s->options->max_requests) {
        sim_router_refused(s, f);
        return;
    }
    w->held++;
    f->arrival = ++w->arrivals;
    f->committed = f->safe = 0;
    f->born_ns = s->now_ns;
    sim_queue_tokens(w, &f->queued_at_decode, f->n_tokens);
    prefill = is_remote(s, f) ? next_prefill(s, f) : NULL;
    if (prefill)
        ask(s, f, prefill);
    else
        wait_for_blocks(s, f);
}

void sim_decode_asked(struct sim *s, struct flight *f)
{
    flight_enter(f, FLIGHT_CLAIMING);
    claim(s, f);
}

/* Blocks of an earlier leg are kept, with what came into them. */
void sim_decode_next_leg(struct sim *s, struct flight *f)
{
    struct sim_worker *w = f->decode, *prefill;
    if (f->state == FLIGHT_CLAIMING)
        TAILQ_REMOVE(&w->queue, f, link);
    sim_prefill_leave(s, f);
    s->result->legs++;
    if (f->safe > f->committed)
        f->committed = f->safe;
    if (f->at_decode.known + f->at_decode.others > 0) {
        uint32_t n = sim_keys(s, f, f->committed);
        kv_blocks_filled(w->blocks, s->keys, n, &f->at_decode);
    }
    event_heap_clear(s->heap, f->source);
    sim_queue_tokens(w, &f->queued_at_decode, f->n_tokens - f->committed);
    be_idle(w, f);
    prefill = next_prefill(s, f);
    if (prefill)
        ask(s, f, prefill);
    else
        wait_for_blocks(s, f);
}

static void leave_batch(struct flight *f)
{
    struct sim_worker *w = f->decode;
    uint32_t at = 0;
    while (w->prompts[at] != f)
        at++;
    for (w->n_prompts--; at < w->n_prompts; at++)
        w->prompts[at] = w->prompts[at + 1];
}

/* All of the prompt is there, and a token was sampled. */
static void begin_decoding(struct sim *s, struct flight *f)
{
    struct sim_worker *w = f->decode;
    sim_queue_tokens(w, &f->queued_at_decode, 0);
    be_active(w, f, true);
    flight_enter(f, FLIGHT_DECODING);
    sim_router_token(s, f);
    if (f->generated == s->workload->requests[f->request].n_output) {
        flight_end(s, f, SIM_DONE);
        sim_decode_answer_claims(s, w);
    } else {
        sim_steps_join_decode(s, w, f);
    }
}

void sim_decode_received(struct sim *s, struct flight *f)
{
    uint32_t n = sim_keys(s, f, f->n_tokens);
    kv_blocks_filled(f->decode->blocks, s->keys, n, &f->at_decode);
    sim_router_learn(s, f, f->n_tokens - f->found - f->pulled);
    f->committed = f->n_tokens;
    sim_prefill_leave(s, f);
    begin_decoding(s, f);
}

void sim_decode_fetched(struct sim *s, struct flight *f)
{
    compute(s, f);
}

void sim_decode_rows(struct sim *s, struct flight *f)
{
    struct sim_worker *w = f->decode;
    uint32_t n = sim_keys(s, f, f->computed);
    kv_blocks_filled(w->blocks, s->keys, n, &f->at_decode);
    f->committed = f->computed;
    sim_queue_tokens(w, &f->queued_at_decode, f->n_tokens - f->computed);
    if (f->computed < f->n_tokens)
        return;
    f->prefill_done_ns = s->now_ns;
    leave_batch(f);
    sim_router_learn(s, f, f->n_tokens - f->found - f->pulled);
    begin_decoding(s, f);
}

/* ---- the answer ------------------------------------------------------------------------------------------------- */

/* Tokens of steps since it joined. */
static void count_tokens(struct sim *s, const struct sim_worker *w, uint32_t slot)
{
    struct flight *f = w->slots[slot].flight;
    uint32_t steps = (uint32_t)(w->steps - w->slots[slot].begin_step);
    f->generated += steps;
    f->last_token_ns = steps ? s->now_ns : f->last_token_ns;
}

void sim_decode_preempt(struct sim *s, struct sim_worker *w, uint32_t slot)
{
    struct flight *f = w->slots[slot].flight;
    count_tokens(s, w, slot);
    sim_steps_remove_slot(w, slot);
    kv_blocks_release(w->blocks, &f->at_decode);
    be_idle(w, f);
    s->result->preemptions++;
    f->preempted++;
    f->committed = f->safe = 0;
    f->n_tokens = s->workload->requests[f->request].n_input + f->generated;
    sim_queue_tokens(w, &f->queued_at_decode, f->n_tokens);
    flight_enter(f, FLIGHT_WAITING);
    f->is_preempted = true;
    enter_claim(s, f);
}

void sim_decode_finish(struct sim *s, struct sim_worker *w, uint32_t slot)
{
    struct flight *f = w->slots[slot].flight;
    count_tokens(s, w, slot);
    sim_steps_remove_slot(w, slot);
    flight_end(s, f, SIM_DONE);
}

static void leave_slot(struct sim *s, const struct flight *f)
{
    struct sim_worker *w = f->decode;
    for (uint32_t i = 0; i < w->n_slots; i++)
        if (w->slots[i].flight == f) {
            count_tokens(s, w, i);
            sim_steps_remove_slot(w, i);
        }
}

/* Gives back what it holds there; of a dead worker, too, whose steps were stopped. */
void sim_decode_leave(struct sim *s, struct flight *f)
{
    struct sim_worker *w = f->decode;
    if (!w)
        return;
    if (f->state == FLIGHT_SENT || f->state == FLIGHT_HELD) { /* it never was there */
        f->decode = NULL;
        return;
    }
    if (f->state == FLIGHT_CLAIMING || f->state == FLIGHT_WAITING)
        TAILQ_REMOVE(&w->queue, f, link);
    if (f->state == FLIGHT_COMPUTING)
        leave_batch(f);
    if (f->state == FLIGHT_DECODING)
        leave_slot(s, f);
    f->decode = NULL;
    be_idle(w, f);
    w->held--;
    sim_queue_tokens(w, &f->queued_at_decode, 0);
    kv_blocks_release(w->blocks, &f->at_decode);
}
