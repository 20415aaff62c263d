/* Forms the engine's steps from the sequences that want rows. */
#include <stdlib.h>

#include "worker/core.h"

status batch_init(struct worker *worker)
{
    struct batch *b = &worker->batch;
    uint32_t seqs = worker->options.limits.max_seqs, requests = 2 * worker->options.max_requests;
    b->seqs = calloc(seqs, sizeof *b->seqs);
    b->owners = calloc(seqs, sizeof(struct sequence *));
    b->wanted = calloc(requests, sizeof *b->wanted);
    b->rows = calloc(requests, sizeof *b->rows);
    b->waiting = calloc(requests, sizeof(struct sequence *));
    return b->seqs && b->owners && b->wanted && b->rows && b->waiting ? ST_OK : ST_NO_MEMORY;
}

void batch_free(struct worker *worker)
{
    struct batch *b = &worker->batch;
    free(b->seqs);
    free(b->owners);
    free(b->wanted);
    free(b->rows);
    free(b->waiting);
}

void batch_add(struct worker *worker, struct sequence *seq)
{
    if (!seq->is_running)
        TAILQ_INSERT_TAIL(&worker->running, seq, running);
    seq->is_running = true;
}

void batch_remove(struct worker *worker, struct sequence *seq)
{
    if (seq->is_running)
        TAILQ_REMOVE(&worker->running, seq, running);
    seq->is_running = false;
}

static uint32_t gather(struct worker *worker)
{
    struct batch *b = &worker->batch;
    uint32_t n = 0;
    struct sequence *seq;
    TAILQ_FOREACH(seq, &worker->running, running)
    {
        if (seq->paused || seq->computed >= seq->n_tokens)
            continue;
        ASSERT(n < 2 * worker->options.max_requests);
        b->waiting[n] = seq;
        b->wanted[n++] = seq->n_tokens - seq->computed;
    }
    return n;
}

/* A sequence that grows needs a block now and then. When none is free, the
 * youngest gives its own back; that may be the one that asked. */
static bool make_room(struct worker *worker, struct sequence *seq, uint32_t rows)
{
    uint32_t need = seq->computed + rows;
    for (;;) {
        if (!seq->is_running)
            return false;
        if (sequence_reserve(seq, worker->pool, worker->options.layout.block_tokens, need, BLOCK_FILLING) == ST_OK)
            return true;
        if (!generations_preempt(worker))
            return false;
    }
}

static void fill_row(struct worker *worker, struct sequence *seq, uint32_t rows)
{
    struct batch *b = &worker->batch;
    uint32_t i = b->step.n_seqs++;
    bool last = seq->computed + rows == seq->n_tokens;
    b->owners[i] = seq;
    b->seqs[i] = (struct step_seq){
        .tokens = seq->tokens + seq->computed,
        .n_rows = rows,
        .first_pos = seq->computed,
        .blocks = seq->blocks,
        .logits = last ? STEP_SAMPLE : STEP_NO_LOGITS,
        .sampling = &seq->sampling,
        .history = seq->tokens,
        .n_history = seq->n_tokens,
        .cancelled = &seq->cancelled,
    };
    seq->in_step = true;
    seq->step_rows = rows;
}

void batch_start(struct worker *worker)
{
    struct batch *b = &worker->batch;
    if (b->is_running)
        return;
    uint32_t n = gather(worker);
    uint64_t preempted = worker->counters.preemptions;
    if (scheduler_form(&worker->options.limits, b->wanted, n, b->rows) == 0)
        return;
    /* Room first, for all: a preemption may take a sequence out again. */
    for (uint32_t i = 0; i < n; i++)
        if (b->rows[i] && !make_room(worker, b->waiting[i], b->rows[i]))
            b->rows[i] = 0;
    b->step = (struct step){ .seqs = b->seqs };
    for (uint32_t i = 0; i < n; i++)
        if (b->rows[i] && b->waiting[i]->is_running)
            fill_row(worker, b->waiting[i], b->rows[i]);
    if (b->step.n_seqs == 0) {
        /* All gave their blocks back: somebody else may fit now. */
        worker->pump_again |= worker->counters.preemptions != preempted;
        return;
    }
    b->is_running = true;
    worker->counters.steps++;
    worker->step_started_us = worker->io->now(worker->io->ctx);
    worker->io->run(worker->io->ctx, &b->step);
}

void worker_layers_done(struct worker *worker, uint32_t layers)
{
    struct batch *b = &worker->batch;
    if (!b->is_running)
        return;
    for (uint32_t i = 0; i < b->step.n_seqs; i++) {
        struct sequence *seq = b->owners[i];
        if (seq->ops->on_layers && !atomic_load(&seq->cancelled))
            seq->ops->on_layers(seq, layers);
    }
}

/* Smoothed figures that the router predicts with. */
static void measure(struct worker *worker)
{
    struct batch *b = &worker->batch;
    uint64_t us = worker->io->now(worker->io->ctx) - worker->step_started_us;
    uint32_t rows = 0;
    for (uint32_t i = 0; i < b->step.n_seqs; i++)
        rows += b->seqs[i].n_rows;
    worker->counters.tokens_computed += rows;
    if (us == 0)
        return;
    if (rows > b->step.n_seqs) {
        double rate = rows * 1e6 / (double)us;
        worker->prefill_tokens_per_s += 0.1 * (rate - worker->prefill_tokens_per_s);
    } else {
        worker->step_ms += 0.1 * ((double)us / 1000.0 - worker->step_ms);
    }
}

static void finish_rows(struct worker *worker, struct sequence *seq, const struct step_seq *ran)
{
    seq->in_step = false;
    if (atomic_load(&seq->cancelled)) {
        seq->ops->on_stopped(seq);
        return;
    }
    ASSERT(ran->done);
    uint32_t first = seq->computed;
    seq->computed += ran->n_rows;
    sequence_filled(seq, worker->pool, worker->options.layout.block_tokens, first, ran->n_rows);
    seq->ops->on_rows(seq, first, ran->n_rows, ran->logits == STEP_SAMPLE ? &ran->sampled : NULL);
}

void worker_step_done(struct worker *worker)
{
    struct batch *b = &worker->batch;
    ASSERT(b->is_running);
    measure(worker);
    b->is_running = false;
    worker->is_pumping = true; /* until all rows are accounted for */
    for (uint32_t i = 0; i < b->step.n_seqs; i++)
        finish_rows(worker, b->owners[i], &b->seqs[i]);
    worker->is_pumping = false;
    worker_pump(worker);
}
