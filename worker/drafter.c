#include "worker/drafter.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/zero_memory.h"
#include "engine/tokenizer.h"

/* What is kept of one sequence. */
struct kept {
    uint64_t id;   /* 0: nothing */
    uint64_t turn; /* of its last run */
    uint32_t *blocks;
    uint32_t n_blocks;
    uint32_t computed;            /* KV of [0, computed) is in the blocks */
    uint32_t n_tokens, n_guesses; /* of its last run */
    uint32_t guesses[SPECULATION_MAX_DRAFTS];
};

/* One ask in the run under way. */
struct pending {
    struct draft_ask *ask;
    struct kept *kept;
    struct sampling sampling;
    bool is_over;
};

struct drafter {
    struct engine *engine;
    uint8_t *pool;
    uint32_t block_tokens, max_len, max_seqs, max_rows;
    uint32_t *free_blocks;
    uint32_t n_free;
    uint32_t n_touched; /* blocks [0, n_touched) are or were somebody's */
    size_t block_bytes;
    struct kept *kept; /* [max_seqs] */
    uint32_t *blocks;  /* of all kept */
    struct pending *pending;
    struct step_seq *seqs;
    struct pending **owners; /* of seqs */
    uint64_t turn;
};

/* ---- creation ------------------------------------------------------------------ */

static status check_vocabulary(const struct model *draft, const struct model *served, struct error *err)
{
    if (model_config(draft)->n_vocab != model_config(served)->n_vocab ||
        tokenizer_fingerprint(model_tokenizer(draft)) != tokenizer_fingerprint(model_tokenizer(served)))
        return error_set(err, ST_INVALID,
                         "the draft model %s has another vocabulary (%u tokens) than %s (%u): guesses need the same",
                         model_name(draft), model_config(draft)->n_vocab, model_name(served),
                         model_config(served)->n_vocab);
    return ST_OK;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static status take_memory(struct drafter *d, const struct drafter_options *o)
{
    size_t bytes = (size_t)o->n_blocks * kv_block_bytes(&o->kv);
    size_t longest = (d->max_len + d->block_tokens - 1) / d->block_tokens;
    d->pool = aligned_alloc(64, (bytes + 63) / 64 * 64);
    d->free_blocks = calloc(o->n_blocks, sizeof *d->free_blocks);
    d->kept = calloc(d->max_seqs, sizeof *d->kept);
    d->blocks = calloc(d->max_seqs * longest, sizeof *d->blocks);
    d->pending = calloc(d->max_seqs, sizeof *d->pending);
    d->seqs = calloc(d->max_seqs, sizeof *d->seqs);
    d->owners = calloc(d->max_seqs, sizeof(struct pending *));
    if (!d->pool || !d->free_blocks || !d->kept || !d->blocks || !d->pending || !d->seqs || !d->owners)
        return ST_NO_MEMORY;
    for (d->n_free = 0; d->n_free < o->n_blocks; d->n_free++)
        d->free_blocks[d->n_free] = o->n_blocks - 1 - d->n_free;
    for (uint32_t i = 0; i < d->max_seqs; i++)
        d->kept[i].blocks = d->blocks + i * longest;
    return ST_OK;
}

status drafter_create(const struct drafter_options *options, const struct model *served, struct drafter **out,
                      struct error *err)
{
    status st = check_vocabulary(options->model, served, err);
    if (st != ST_OK)
        return st;
    struct drafter *d = calloc(1, sizeof *d);
    if (!d)
        return error_set(err, ST_NO_MEMORY, "no memory for the draft model");
    d->block_tokens = options->kv.block_tokens;
    d->block_bytes = kv_block_bytes(&options->kv);
    d->max_len = least(options->max_len, model_config(options->model)->max_positions);
    d->max_seqs = options->max_seqs;
    d->max_rows = DRAFTER_CATCH_UP + d->max_seqs;
    st = take_memory(d, options);
    if (st != ST_OK)
        (void)error_set(err, st, "no memory for the draft model's %u blocks", options->n_blocks);
    struct engine_options engine = {
        .model = options->model,
        .isa = options->isa,
        .f32_math = options->f32_math,
        .n_threads = options->n_threads,
        .pin_threads = options->pin_threads,
        .kv = options->kv,
        .kv_pool.host = d->pool,
        .kv_blocks = options->n_blocks,
        .max_rows = d->max_rows,
        .max_seqs = d->max_seqs,
    };
    if (st == ST_OK)
        st = engine_create(&engine, &d->engine, err);
    if (st != ST_OK) {
        drafter_destroy(&d);
        return st;
    }
    *out = d;
    return ST_OK;
}

void drafter_destroy(struct drafter **drafter)
{
    struct drafter *d = *drafter;
    if (!d)
        return;
    engine_destroy(&d->engine);
    free(d->pool);
    free(d->free_blocks);
    free(d->kept);
    free(d->blocks);
    free(d->pending);
    free(d->seqs);
    free(d->owners);
    free(d);
    *drafter = NULL;
}

/* ---- what is kept ---------------------------------------------------------------- */

static void forget(struct drafter *d, struct kept *kept)
{
    while (kept->n_blocks > 0)
        d->free_blocks[d->n_free++] = kept->blocks[--kept->n_blocks];
    kept->id = 0;
    kept->computed = kept->n_tokens = kept->n_guesses = 0;
}

/* The one that was asked for longest ago, none of this run; NULL when all are. */
static struct kept *oldest(struct drafter *d)
{
    struct kept *found = NULL;
    for (uint32_t i = 0; i < d->max_seqs; i++)
        if (d->kept[i].turn != d->turn && (!found || d->kept[i].turn < found->turn))
            found = &d->kept[i];
    return found;
}

/* KV of guesses is of use only up to the first that was wrong. */
static void trim(struct kept *kept, const struct draft_ask *ask)
{
    uint32_t valid = kept->n_tokens;
    for (uint32_t i = 0; i < kept->n_guesses && valid < ask->n_tokens && ask->tokens[valid] == kept->guesses[i]; i++)
        valid++;
    kept->computed = least(kept->computed, least(valid, ask->n_tokens - 1));
}

static struct kept *find(struct drafter *d, const struct draft_ask *ask)
{
    for (uint32_t i = 0; i < d->max_seqs; i++)
        if (d->kept[i].id == ask->id) {
            trim(&d->kept[i], ask);
            d->kept[i].turn = d->turn;
            return &d->kept[i];
        }
    return NULL;
}

static struct kept *find_or_begin(struct drafter *d, const struct draft_ask *ask)
{
    struct kept *kept = find(d, ask);
    if (kept)
        return kept;
    kept = oldest(d);
    ASSERT(kept);
    forget(d, kept);
    kept->id = ask->id;
    kept->turn = d->turn;
    return kept;
}

static void give_block(struct drafter *d, struct kept *kept)
{
    uint32_t block = d->free_blocks[--d->n_free];
    kept->blocks[kept->n_blocks++] = block;
    if (block >= d->n_touched)
        d->n_touched = block + 1;
}

static bool reserve(struct drafter *d, struct kept *kept, uint32_t n)
{
    uint32_t need = (n + d->block_tokens - 1) / d->block_tokens;
    while (kept->n_blocks < need) {
        struct kept *old = d->n_free == 0 ? oldest(d) : NULL;
        if (old) {
            forget(d, old);
            old->turn = d->turn; /* so that the next one is found next time */
        }
        if (d->n_free > 0)
            give_block(d, kept);
        else if (!old)
            return false;
    }
    return true;
}

status drafter_erase(struct drafter *d, size_t bytes)
{
    for (uint32_t i = 0; i < d->max_seqs; i++)
        forget(d, &d->kept[i]);
    for (size_t done = 0; d->n_touched && (done == 0 || done + d->block_bytes <= bytes); done += d->block_bytes) {
        if (!zero_memory(d->pool + (d->n_touched - 1) * d->block_bytes, d->block_bytes)) {
            log_error("a KV block of the draft model does not take zeros", "block=%u", d->n_touched - 1);
            return ST_CORRUPT;
        }
        d->n_touched--;
    }
    return d->n_touched ? ST_AGAIN : ST_OK;
}

/* ---- a run --------------------------------------------------------------------------- */

/* Plain choices: nobody reads log-probabilities or hashes of a guess. */
static void begin(struct drafter *d, const struct step *step, struct draft_ask *ask, struct pending *p)
{
    ask->made = 0;
    *p = (struct pending){ .ask = ask, .kept = find_or_begin(d, ask), .sampling = *step->seqs[ask->seq].sampling };
    p->sampling.n_logprobs = -1;
    p->sampling.want_hash = false;
    p->is_over = ask->wanted == 0 || ask->n_tokens + ask->wanted > d->max_len;
}

static void add_rows(struct drafter *d, const struct step *step, struct pending *p, struct step *round, uint32_t *left)
{
    const struct draft_ask *ask = p->ask;
    struct kept *kept = p->kept;
    uint32_t known = ask->n_tokens + ask->made;
    uint32_t rows = least(known - kept->computed, *left);
    p->is_over |= rows == 0 || !reserve(d, kept, kept->computed + rows);
    if (p->is_over)
        return;
    *left -= rows;
    d->owners[round->n_seqs] = p;
    round->seqs[round->n_seqs++] = (struct step_seq){
        .tokens = ask->tokens + kept->computed,
        .n_rows = rows,
        .first_pos = kept->computed,
        .blocks = kept->blocks,
        .logits = kept->computed + rows == known ? STEP_SAMPLE : STEP_NO_LOGITS,
        .sampling = &p->sampling,
        .history = ask->tokens,
        .n_history = known,
        .cancelled = step->seqs[ask->seq].cancelled,
    };
}

static void take_guess(struct pending *p, const struct step_seq *ran)
{
    struct draft_ask *ask = p->ask;
    p->is_over |= !ran->done || ran->logits != STEP_SAMPLE;
    if (ran->done)
        p->kept->computed += ran->n_rows;
    if (p->is_over)
        return;
    ask->tokens[ask->n_tokens + ask->made++] = ran->sampled.id;
    p->is_over = ask->made == ask->wanted || ran->sampled.is_stop;
}

/* One token of every sequence that wants another; false when none did. */
static bool run_round(struct drafter *d, const struct step *step, uint32_t n)
{
    struct step round = { .seqs = d->seqs };
    uint32_t left = d->max_rows;
    for (uint32_t i = 0; i < n; i++)
        if (!d->pending[i].is_over)
            add_rows(d, step, &d->pending[i], &round, &left);
    if (round.n_seqs == 0)
        return false;
    engine_run(d->engine, &round);
    for (uint32_t i = 0; i < round.n_seqs; i++)
        take_guess(d->owners[i], &d->seqs[i]);
    return true;
}

static void settle(const struct pending *p, struct step_seq *seq)
{
    const struct draft_ask *ask = p->ask;
    seq->n_rows = 1 + ask->made;
    seq->n_history = ask->n_tokens + ask->made;
    seq->logits = ask->made > 0 ? STEP_SAMPLE_EACH : STEP_SAMPLE;
    p->kept->n_tokens = ask->n_tokens;
    p->kept->n_guesses = ask->made;
    memcpy(p->kept->guesses, ask->tokens + ask->n_tokens, ask->made * sizeof *ask->tokens);
}

void drafter_run(struct drafter *d, struct step *step, struct drafts *drafts)
{
    uint64_t began = clock_now_us();
    ASSERT(drafts->n <= d->max_seqs);
    d->turn++;
    for (uint32_t i = 0; i < drafts->n; i++) {
        ASSERT(drafts->asks[i].wanted <= SPECULATION_MAX_DRAFTS);
        begin(d, step, &drafts->asks[i], &d->pending[i]);
    }
    while (run_round(d, step, drafts->n))
        continue;
    for (uint32_t i = 0; i < drafts->n; i++)
        settle(&d->pending[i], &step->seqs[drafts->asks[i].seq]);
    drafts->us = clock_now_us() - began;
}
