/* Steps: runs of decoding ones at once, and single ones where prompts are computed, formed by the workers' scheduler.
 */
#include "sim/sim_internal.h"

#include <math.h>
#include <string.h>

#define SMOOTHING 0.1 /* of the step time that workers publish */

static double ns_of(double us)
{
    return us * NS;
}

/* ---- who is in the batch ---------------------------------------------------------------------------------- */

void sim_steps_join_prompt(struct sim *s, struct sim_worker *w, struct flight *f)
{
    f->served_ns = s->now_ns;
    f->step_rows = 0;
    w->prompts[w->n_prompts++] = f;
    sim_steps_kick(s, w);
}

/* It has a token that no step has computed yet, and blocks for it. */
void sim_steps_join_decode(struct sim *s, struct sim_worker *w, struct flight *f)
{
    uint32_t tokens = f->n_tokens + 1, blocks = f->at_decode.known + f->at_decode.others;
    const struct workload_request *r = &s->workload->requests[f->request];
    ASSERT(w->n_slots < s->options->max_seqs);
    w->slots[w->n_slots++] = (struct sim_slot){
        .flight = f,
        .begin_step = w->steps,
        .end_step = w->steps + (r->n_output - f->generated),
        .room_step = w->steps + (uint64_t)blocks * s->options->block_tokens - tokens + 1,
        .fresh = true,
    };
    w->context += tokens;
    sim_steps_kick(s, w);
}

/* A slot that joined while steps ran counts from the end of these. */
static void shift(struct sim_slot *slot, uint64_t steps)
{
    slot->begin_step += steps;
    slot->end_step += steps;
    slot->room_step += steps;
}

static uint64_t tokens_of(const struct sim_worker *w, const struct sim_slot *slot)
{
    return slot->flight->n_tokens + 1 + (w->steps - slot->begin_step);
}

void sim_steps_remove_slot(struct sim_worker *w, uint32_t slot)
{
    w->context -= tokens_of(w, &w->slots[slot]);
    w->n_slots--;
    memmove(w->slots + slot, w->slots + slot + 1, (w->n_slots - slot) * sizeof *w->slots);
}

uint64_t sim_steps_running_tokens(const struct sim *s, const struct sim_worker *w)
{
    uint64_t prompts = 0;
    for (uint32_t i = 0; i < w->n_prompts; i++)
        prompts += w->prompts[i]->computed;
    if (w->step != STEP_RUN)
        return prompts + w->context;
    return prompts + w->context + w->run_slots * step_run_over(&w->run, s->now_ns - w->step_from_ns);
}

/* ---- room for what is to be written --------------------------------------------------------------------------- */

static uint32_t choose_victim(const struct sim_worker *w)
{
    uint32_t victim = 0;
    for (uint32_t i = 1; i < w->n_slots; i++) {
        const struct flight *a = w->slots[i].flight, *b = w->slots[victim].flight;
        const struct scheduler_claim of_a = { .arrival = a->arrival }, of_b = { .arrival = b->arrival };
        if (scheduler_yields_before(&of_a, &of_b))
            victim = i;
    }
    return victim;
}

/* A block for each sequence whose next token needs one; where there is none, the last one gives its own back. */
static void make_room(struct sim *s, struct sim_worker *w)
{
    for (uint32_t i = 0; i < w->n_slots;) {
        struct sim_slot *slot = &w->slots[i];
        if (slot->room_step > w->steps) {
            i++;
        } else if (kv_blocks_grow(w->blocks, 1, &slot->flight->at_decode)) {
            slot->room_step += s->options->block_tokens;
        } else {
            uint32_t victim = choose_victim(w);
            sim_decode_preempt(s, w, victim);
            i -= victim < i;
        }
    }
}

/* ---- a run of steps in which all decode ------------------------------------------------------------------------ */

static void begin_run(struct sim *s, struct sim_worker *w)
{
    const struct profile_decode *d = profile_decode_of(s->options->profile, w->n_slots);
    uint64_t until = UINT64_MAX;
    for (uint32_t i = 0; i < w->n_slots; i++) {
        const struct sim_slot *slot = &w->slots[i];
        uint64_t own = slot->end_step < slot->room_step ? slot->end_step : slot->room_step;
        until = own < until ? own : until;
    }
    w->run = (struct step_run){
        .first = ns_of(d->base_us + d->context_us * (double)w->context + d->sequence_us * w->n_slots),
        .more = ns_of(d->context_us * w->n_slots),
    };
    w->step = STEP_RUN;
    w->run_slots = w->n_slots;
    w->run_steps = until - w->steps;
    w->step_from_ns = s->now_ns;
    event_heap_set(s->heap, w->source, s->now_ns + step_run_time(&w->run, w->run_steps));
}

/* Who joined is served when the step that runs is over. */
static void cut_run(struct sim *s, struct sim_worker *w)
{
    uint64_t elapsed = s->now_ns - w->step_from_ns, steps = step_run_over(&w->run, elapsed);
    if (step_run_time(&w->run, steps) < elapsed || steps == 0)
        steps++;
    if (steps >= w->run_steps)
        return;
    w->run_steps = steps;
    event_heap_set(s->heap, w->source, w->step_from_ns + step_run_time(&w->run, steps));
}

/* The gaps between tokens: of those that just joined, since their last one; of the others, the steps. */
static void count_gaps(struct sim *s, struct sim_worker *w, uint64_t steps)
{
    uint64_t first_end = w->step_from_ns + step_run_time(&w->run, 1), fresh = 0;
    struct spread *itl = &s->result->itl;
    bool counts = w->step_from_ns >= s->options->warmup_us * NS;
    for (uint32_t i = 0; i < w->run_slots; i++) {
        struct sim_slot *slot = &w->slots[i];
        fresh += slot->fresh;
        if (slot->fresh && counts)
            spread_add(itl, (double)(first_end - slot->flight->last_token_ns) / NS, 1);
        slot->fresh = false;
    }
    if (!counts)
        return;
    spread_add_run(itl, &w->run, 0, 1, w->run_slots - fresh);
    spread_add_run(itl, &w->run, 1, steps - 1, w->run_slots);
}

static void smooth(struct sim_worker *w, double us, uint64_t steps)
{
    w->step_us += (1 - pow(1 - SMOOTHING, (double)steps)) * (us - w->step_us);
}

static void count_run(struct sim *s, struct sim_worker *w, uint64_t steps)
{
    uint64_t ns = step_run_time(&w->run, steps);
    if (steps == 0)
        return;
    count_gaps(s, w, steps);
    smooth(w, (double)ns / NS / (double)steps, steps);
    w->busy_ns += ns;
    w->steps += steps;
    w->n_steps += steps;
    w->context += steps * w->run_slots;
    for (uint32_t i = w->run_slots; i < w->n_slots; i++)
        shift(&w->slots[i], steps);
}

static void finish_slots(struct sim *s, struct sim_worker *w)
{
    for (uint32_t i = 0; i < w->n_slots;)
        if (w->slots[i].end_step <= w->steps)
            sim_decode_finish(s, w, i);
        else
            i++;
}

/* ---- a step with prompts ------------------------------------------------------------------------------------------
 */

static uint32_t gather(const struct sim *s, const struct sim_worker *w)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n_slots; i++)
        s->wants[n++] =
            (struct scheduler_want){ .rows = 1, .first_pos = (uint32_t)tokens_of(w, &w->slots[i]) - 1, .waited = 0 };
    for (uint32_t i = 0; i < w->n_prompts; i++) {
        const struct flight *f = w->prompts[i];
        s->wants[n++] = (struct scheduler_want){ .rows = f->n_tokens - f->computed,
                                                 .first_pos = f->computed,
                                                 .waited = (s->now_ns - f->served_ns) / NS };
    }
    return n;
}

/* Returns how long it takes. */
static double share_out(struct sim *s, struct sim_worker *w)
{
    uint64_t rows = 0, attended = 0, context = 0;
    uint32_t sequences = 0;
    for (uint32_t i = 0; i < w->n_slots; i++) {
        struct sim_slot *slot = &w->slots[i];
        slot->in_step = s->rows[i] > 0;
        sequences += slot->in_step;
        context += slot->in_step ? tokens_of(w, slot) : 0;
    }
    for (uint32_t i = 0; i < w->n_prompts; i++) {
        struct flight *f = w->prompts[i];
        f->step_rows = s->rows[w->n_slots + i];
        if (f->step_rows == 0)
            continue;
        f->served_ns = s->now_ns;
        rows += f->step_rows;
        attended += step_attended(f->computed, f->step_rows);
    }
    return profile_step_us(s->options->profile, rows, attended, sequences, context);
}

static void begin_mixed(struct sim *s, struct sim_worker *w)
{
    uint32_t n = gather(s, w);
    if (scheduler_form(&s->limits, &s->cost, s->wants, n, s->order, s->rows) == 0)
        return;
    double us = share_out(s, w);
    w->step = STEP_MIXED;
    w->run_slots = w->n_slots;
    w->step_from_ns = s->now_ns;
    event_heap_set(s->heap, w->source, s->now_ns + (uint64_t)ns_of(us));
}

static void finish_mixed_slots(struct sim *s, struct sim_worker *w)
{
    bool counts = w->step_from_ns >= s->options->warmup_us * NS;
    double us = (double)(s->now_ns - w->step_from_ns) / NS;
    w->steps++;
    for (uint32_t i = 0; i < w->n_slots; i++) {
        struct sim_slot *slot = &w->slots[i];
        if (i >= w->run_slots || !slot->in_step) {
            shift(slot, 1);
            continue;
        }
        w->context++;
        if (counts)
            spread_add(&s->result->itl, slot->fresh ? (double)(s->now_ns - slot->flight->last_token_ns) / NS : us, 1);
        slot->fresh = false;
    }
}

/* Whoever is complete leaves the batch; whoever joins has no rows in this step. */
static void finish_mixed(struct sim *s, struct sim_worker *w)
{
    w->busy_ns += s->now_ns - w->step_from_ns;
    w->n_steps++;
    finish_mixed_slots(s, w);
    for (uint32_t i = 0; i < w->n_prompts;) {
        struct flight *f = w->prompts[i];
        uint32_t rows = f->step_rows;
        f->step_rows = 0;
        f->computed += rows;
        w->prompt_tokens += rows;
        if (rows)
            (w->is_decode ? sim_decode_rows : sim_prefill_rows)(s, f);
        i += i < w->n_prompts && w->prompts[i] == f;
    }
}

/* ---- one after the other ----------------------------------------------------------------------------------------- */

void sim_steps_kick(struct sim *s, struct sim_worker *w)
{
    if (w->step == STEP_RUN)
        cut_run(s, w);
    if (w->step != STEP_NONE)
        return;
    make_room(s, w);
    if (w->n_prompts)
        begin_mixed(s, w);
    else if (w->n_slots)
        begin_run(s, w);
    else if (w->is_decode)
        sim_decode_answer_claims(s, w); /* all gave their blocks back, if there were any: somebody fits now */
}

void sim_steps_done(struct sim *s, struct sim_worker *w)
{
    ASSERT(w->step == STEP_RUN || w->step == STEP_MIXED);
    if (w->step == STEP_RUN)
        count_run(s, w, w->run_steps);
    else
        finish_mixed(s, w);
    w->step = STEP_SETTLING;
    finish_slots(s, w);
    w->step = STEP_NONE;
    if (w->is_decode)
        sim_decode_answer_claims(s, w);
    else
        sim_prefill_pump(s, w);
    sim_steps_kick(s, w);
}

void sim_steps_stop(struct sim *s, struct sim_worker *w)
{
    if (w->step == STEP_RUN)
        count_run(s, w, step_run_over(&w->run, s->now_ns - w->step_from_ns));
    w->step = STEP_NONE;
    event_heap_clear(s->heap, w->source);
}
