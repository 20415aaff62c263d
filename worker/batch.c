/* Forms the engine's steps from the sequences that want rows. */
#include <stdlib.h>

#include "worker/core.h"

status batch_init(struct worker *worker)
{
    struct batch *b = &worker->batch;
    uint32_t seqs = worker->options.limits.max_seqs, requests = 2 * worker->options.max_requests;
    b->seqs = calloc(seqs, sizeof *b->seqs);
    b->owners = calloc(seqs, sizeof(struct sequence *));
    b->wants = calloc(requests, sizeof *b->wants);
    b->order = calloc(requests, sizeof *b->order);
    b->rows = calloc(requests, sizeof *b->rows);
    b->waiting = calloc(requests, sizeof(struct sequence *));
    if (worker->options.speculation != SPECULATION_OFF)
        b->sampled = calloc((size_t)seqs * (worker->options.draft_tokens + 1), sizeof *b->sampled);
    if (worker->options.speculation == SPECULATION_MODEL)
        b->drafts.asks = calloc(seqs, sizeof *b->drafts.asks);
    bool has_asks = b->drafts.asks || worker->options.speculation != SPECULATION_MODEL;
    bool has_sampled = b->sampled || worker->options.speculation == SPECULATION_OFF;
    return b->seqs && b->owners && b->wants && b->order && b->rows && b->waiting && has_sampled && has_asks
               ? ST_OK
               : ST_NO_MEMORY;
}

void batch_free(struct worker *worker)
{
    struct batch *b = &worker->batch;
    free(b->seqs);
    free(b->owners);
    free(b->sampled);
    free(b->drafts.asks);
    free(b->wants);
    free(b->order);
    free(b->rows);
    free(b->waiting);
}

void batch_add(struct worker *worker, struct sequence *seq)
{
    if (!seq->is_running)
        TAILQ_INSERT_TAIL(&worker->running, seq, running);
    seq->is_running = true;
    seq->served_us = worker->io->now(worker->io->ctx);
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
    uint32_t n = 0, n_decoding = 0;
    uint64_t now = worker->io->now(worker->io->ctx), attended = 0;
    struct sequence *seq;
    TAILQ_FOREACH(seq, &worker->running, running)
    {
        if (seq->paused || seq->computed >= seq->n_tokens ||
            (seq->awaits && !pulling_lets_begin(seq->awaits, pulling_first_rows(seq->awaits))))
            continue;
        ASSERT(n < 2 * worker->options.max_requests);
        b->waiting[n] = seq;
        b->wants[n++] = (struct scheduler_want){
            .rows = seq->n_tokens - seq->computed,
            .first_pos = seq->computed,
            .priority = seq->priority,
            .waited = now - seq->served_us,
        };
        if (seq->n_tokens - seq->computed == 1) {
            n_decoding++;
            attended += seq->n_tokens;
        }
    }
    b->draft_price = drafts_price(worker, n_decoding, attended);
    for (uint32_t i = 0; i < n; i++)
        if (b->wants[i].rows == 1 && !b->waiting[i]->awaits)
            b->wants[i].drafts = drafts_propose(worker, b->waiting[i]);
    return n;
}

/* A sequence that grows needs a block now and then. When none is free, guesses are given up first; then the last in
 * priority and arrival gives its blocks back, which may be the one that asked. Returns the rows that have room. */
static uint32_t make_room(struct worker *worker, struct sequence *seq, uint32_t rows)
{
    uint32_t known = seq->n_tokens - seq->computed;
    for (;;) {
        if (!seq->is_running)
            return 0;
        if (prefix_cache_grow(worker->cache, seq, seq->computed + rows) == ST_OK)
            return rows;
        if (rows > known)
            rows = known;
        else if (!generations_preempt(worker))
            return 0;
    }
}

static void fill_row(struct worker *worker, struct sequence *seq, uint32_t rows)
{
    struct batch *b = &worker->batch;
    uint32_t i = b->step.n_seqs++;
    uint32_t end = seq->computed + rows;
    b->owners[i] = seq;
    b->seqs[i] = (struct step_seq){
        .tokens = seq->tokens + seq->computed,
        .n_rows = rows,
        .first_pos = seq->computed,
        .blocks = seq->blocks,
        .adapter = seq->adapter,
        .logits = end > seq->n_tokens    ? STEP_SAMPLE_EACH
                  : end == seq->n_tokens ? STEP_SAMPLE
                                         : STEP_NO_LOGITS,
        .sampling = &seq->sampling,
        .history = seq->tokens,
        .n_history = end,
        .cancelled = &seq->cancelled,
        .gate = seq->awaits ? pulling_step_begins(seq->awaits, rows) : NULL,
    };
    if (end > seq->n_tokens && b->drafts.asks)
        drafts_ask(worker, seq, i, end - seq->n_tokens);
    if (end > seq->n_tokens)
        b->seqs[i].sampled_each = b->sampled + (size_t)i * (worker->options.draft_tokens + 1);
    seq->served_us = worker->step_started_us;
    seq->in_step = true;
    seq->step_rows = rows;
}

/* The time that guesses take is not left for the step; where they would take all, only least chunks are. */
static struct scheduler_limits limits_now(const struct worker *worker, uint32_t n)
{
    struct scheduler_limits limits = worker->options.limits;
    uint32_t guesses = 0;
    for (uint32_t i = 0; i < n; i++)
        guesses += worker->batch.wants[i].drafts;
    uint64_t us = drafts_expected(worker, guesses);
    if (limits.target_us > 0)
        limits.target_us = us < limits.target_us ? limits.target_us - us : 1;
    return limits;
}

/* The rows that there is room for. A sequence that awaits its pull gets none where so few would have to wait for it. */
static uint32_t admit(struct worker *worker, uint32_t i)
{
    const struct batch *b = &worker->batch;
    const struct pulling *awaits = b->waiting[i]->awaits;
    if (b->rows[i] == 0 || (awaits && !pulling_lets_begin(awaits, b->rows[i])))
        return 0;
    return make_room(worker, b->waiting[i], b->rows[i]);
}

void batch_start(struct worker *worker)
{
    struct batch *b = &worker->batch;
    if (b->is_running)
        return;
    uint32_t n = gather(worker);
    uint64_t preempted = worker->counters.preemptions;
    struct scheduler_limits limits = limits_now(worker, n);
    if (scheduler_form(&limits, &worker->cost, b->wants, n, b->order, b->rows) == 0)
        return;
    /* Room first, for all: a preemption may take a sequence out again. */
    for (uint32_t i = 0; i < n; i++)
        b->rows[i] = admit(worker, i);
    b->step = (struct step){ .seqs = b->seqs };
    b->drafts.n = 0;
    worker->step_started_us = worker->io->now(worker->io->ctx);
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
    worker->io->run(worker->io->ctx, &b->step, b->drafts.n ? &b->drafts : NULL);
}

/* Nobody is told of rows behind a pull that may still end short. */
void worker_layers_done(struct worker *worker, uint32_t layers)
{
    struct batch *b = &worker->batch;
    if (!b->is_running)
        return;
    for (uint32_t i = 0; i < b->step.n_seqs; i++) {
        struct sequence *seq = b->owners[i];
        if (seq->ops->on_layers && !seq->awaits && !atomic_load(&seq->cancelled))
            seq->ops->on_layers(seq, layers);
    }
}

/* Smoothed figures that the router predicts with, and the cost model. Waiting at gates is none of a row's cost; a step
 * of which rows were void says nothing. */
static void measure(struct worker *worker)
{
    struct batch *b = &worker->batch;
    uint64_t us = worker->io->now(worker->io->ctx) - worker->step_started_us, attended = 0;
    uint32_t rows = 0;
    bool with_prompt = false, with_void = false;
    us -= b->step.gates_us < us ? b->step.gates_us : us;
    for (uint32_t i = 0; i < b->step.n_seqs; i++) {
        const struct step_seq *ran = &b->seqs[i];
        with_void |= ran->gate_failed;
        if (ran->gate_failed)
            continue;
        rows += ran->n_rows;
        attended += step_attended(ran->first_pos, ran->n_rows);
        with_prompt |= ran->n_rows > 1 && ran->logits != STEP_SAMPLE_EACH;
    }
    worker->counters.tokens_computed += rows;
    if (us == 0)
        return;
    us = drafts_took(worker, us);
    if (with_void)
        return;
    step_cost_observe(&worker->cost, rows, attended, us);
    if (with_prompt) {
        double rate = rows * 1e6 / (double)us;
        worker->prefill_tokens_per_s += 0.1 * (rate - worker->prefill_tokens_per_s);
    } else {
        worker->step_ms += 0.1 * ((double)us / 1000.0 - worker->step_ms);
    }
}

/* Rows behind a wrong guess are as if never computed: their slots are written again by the rows that follow. */
static void finish_rows(struct worker *worker, struct sequence *seq, const struct step_seq *ran)
{
    bool is_void = seq->awaits && !pulling_step_ended(seq->awaits, ran);
    seq->in_step = false;
    seq->awaited_us +=
        is_void ? worker->io->now(worker->io->ctx) - worker->step_started_us : worker->batch.step.gates_us;
    if (atomic_load(&seq->cancelled)) {
        seq->ops->on_stopped(seq);
        return;
    }
    if (is_void)
        return;
    ASSERT(ran->done);
    bool guessed = ran->logits == STEP_SAMPLE_EACH;
    uint32_t first = seq->computed;
    uint32_t n = guessed ? 1 + drafts_accepted(worker, seq, ran) : ran->n_rows;
    seq->computed += n;
    prefix_cache_filled(worker->cache, seq, first, n);
    if (guessed)
        seq->ops->on_rows(seq, first, n, ran->sampled_each, n);
    else
        seq->ops->on_rows(seq, first, n, &ran->sampled, ran->logits == STEP_SAMPLE);
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
