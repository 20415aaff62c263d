/* A prompt at a prefill worker: queue, blocks, grant, computing in chunks, each on its way to decode while the next is
 * computed (worker/prefill_job.c). */
#include "sim/sim_internal.h"

void sim_prefill_arrival(struct sim *s, struct flight *f)
{
    struct sim_worker *w = f->prefill;
    if (w->held >= s->options->max_requests) {
        sim_decode_next_leg(s, f);
        return;
    }
    w->held++;
    f->arrival = ++w->arrivals;
    f->born_ns = s->now_ns;
    f->computed = f->found = f->pulled = 0;
    f->fetch_us = 0;
    sim_queue_tokens(w, &f->queued_at_prefill, f->n_tokens);
    TAILQ_INSERT_TAIL(&w->queue, f, link);
    flight_enter(f, FLIGHT_QUEUED);
    sim_prefill_pump(s, w);
}

static bool take_blocks(struct sim *s, struct sim_worker *w, struct flight *f)
{
    uint32_t n = sim_keys(s, f, f->n_tokens - 1);
    if (!kv_blocks_take(w->blocks, s->keys, n, sim_blocks_for(s, f->n_tokens), 0, &f->at_prefill))
        return false;
    f->computed = f->found = f->at_prefill.known * s->options->block_tokens;
    return true;
}

/* The first waits for blocks, and all behind it with it. All have one priority, so that it is the first that came. */
void sim_prefill_pump(struct sim *s, struct sim_worker *w)
{
    struct flight *f;
    while (w->in_window < s->options->grant_window && (f = TAILQ_FIRST(&w->queue))) {
        if (!take_blocks(s, w, f))
            return;
        TAILQ_REMOVE(&w->queue, f, link);
        w->in_window++;
        f->in_window = true;
        sim_queue_tokens(w, &f->queued_at_prefill, f->n_tokens - f->computed);
        sim_fetch_begin(s, w, f, f->found);
        flight_enter(f, FLIGHT_ASKING);
        flight_wait(s, f, s->now_ns + sim_latency_ns(s));
    }
}

static void compute(struct sim *s, struct flight *f)
{
    f->started_ns = s->now_ns;
    f->pulled = sim_fetch_end(s, f->prefill, f, &f->at_prefill);
    sim_queue_tokens(f->prefill, &f->queued_at_prefill, f->n_tokens - f->computed);
    flight_enter(f, FLIGHT_PREFILLING);
    sim_steps_join_prompt(s, f->prefill, f);
}

/* Tokens up to `upto` are there; those that decode lacks go, not before earliest_ns. */
static void hand_over(struct sim *s, struct flight *f, uint32_t upto, uint64_t earliest_ns)
{
    const struct profile *p = s->options->profile;
    if (f->sent >= upto)
        return;
    double bytes = p->kv_token_bytes * (upto - f->sent), layer = bytes / p->n_layers;
    uint64_t there = sim_move(s, f->prefill, f->decode, bytes, earliest_ns);
    uint64_t last_layer = s->now_ns + (uint64_t)(layer / p->link_bytes_per_s * 1e9); /* no sooner than computed */
    there = there > last_layer ? there : last_layer;
    f->handed_ns = there > f->handed_ns ? there : f->handed_ns;
    f->moved_tokens += upto - f->sent;
    f->sent = upto;
    s->result->moved_bytes += (uint64_t)bytes;
}

void sim_prefill_granted(struct sim *s, struct flight *f)
{
    f->handed_ns = s->now_ns;
    f->sent = f->safe = f->committed;
    if (f->fetch_ends_ns > s->now_ns) {
        flight_enter(f, FLIGHT_PULLING);
        flight_wait(s, f, f->fetch_ends_ns);
        return;
    }
    sim_prefill_pulled(s, f);
}

/* What was found or fetched and decode lacks goes at once. */
void sim_prefill_pulled(struct sim *s, struct flight *f)
{
    compute(s, f);
    hand_over(s, f, f->computed, s->now_ns);
}

static void leave_window(struct flight *f)
{
    f->prefill->in_window -= f->in_window;
    f->in_window = false;
}

static void leave_batch(struct flight *f)
{
    struct sim_worker *w = f->prefill;
    uint32_t at = 0;
    while (w->prompts[at] != f)
        at++;
    for (w->n_prompts--; at < w->n_prompts; at++)
        w->prompts[at] = w->prompts[at + 1];
}

void sim_prefill_rows(struct sim *s, struct flight *f)
{
    struct sim_worker *w = f->prefill;
    uint32_t n = sim_keys(s, f, f->computed);
    kv_blocks_filled(w->blocks, s->keys, n, &f->at_prefill);
    sim_queue_tokens(w, &f->queued_at_prefill, f->n_tokens - f->computed);
    if (f->handed_ns <= s->now_ns)
        f->safe = f->sent; /* all before this chunk is there */
    hand_over(s, f, f->computed, w->step_from_ns);
    if (f->computed < f->n_tokens)
        return;
    f->prefill_done_ns = s->now_ns;
    leave_batch(f);
    leave_window(f);
    flight_enter(f, FLIGHT_HANDING);
    flight_wait(s, f, f->handed_ns + sim_latency_ns(s));
}

void sim_prefill_leave(struct sim *s, struct flight *f)
{
    struct sim_worker *w = f->prefill;
    f->fetch_blocks = 0;
    if (!w || f->state == FLIGHT_ASKED) { /* it never was there */
        f->prefill = NULL;
        return;
    }
    if (f->state == FLIGHT_QUEUED)
        TAILQ_REMOVE(&w->queue, f, link);
    if (f->state == FLIGHT_PREFILLING)
        leave_batch(f);
    leave_window(f);
    f->prefill = NULL;
    w->held--;
    sim_queue_tokens(w, &f->queued_at_prefill, 0);
    kv_blocks_release(w->blocks, &f->at_prefill);
    if (w->alive)
        sim_prefill_pump(s, w);
}
