#include "bench/solo.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE (2u << 20)

struct solo {
    struct model *model;
    struct engine *engine;
    uint8_t *pool;
    uint32_t *blocks; /* [n_seqs][seq_blocks]: block i is number i */
    struct step_seq *seqs;
    uint32_t n_threads, max_tokens, max_rows, n_seqs, seq_blocks;
};

static const struct sampling greedy = { .top_p = 1, .repetition_penalty = 1, .max_tokens = 1, .n_logprobs = -1 };

static uint32_t usable_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

static status take_memory(struct solo *s, const struct kv_layout *layout, uint32_t n_blocks, struct error *err)
{
    size_t bytes = (n_blocks * kv_block_bytes(layout) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    s->pool = aligned_alloc(HUGE_PAGE, bytes);
    s->blocks = calloc(n_blocks, sizeof *s->blocks);
    s->seqs = calloc(s->n_seqs, sizeof *s->seqs);
    if (!s->pool || !s->blocks || !s->seqs)
        return error_set(err, ST_NO_MEMORY, "no memory for %zu bytes of KV", bytes);
    (void)madvise(s->pool, bytes, MADV_HUGEPAGE); /* only a wish */
    memset(s->pool, 0, bytes);                    /* touched once, so that no step pays for it */
    for (uint32_t i = 0; i < n_blocks; i++)
        s->blocks[i] = i;
    return ST_OK;
}

static status create_engine(struct solo *s, const struct solo_options *o, struct error *err)
{
    const struct model_config *c = model_config(s->model);
    uint32_t n_blocks = s->n_seqs * s->seq_blocks;
    struct engine_options options = {
        .model = s->model,
        .isa = o->isa,
        .class = o->class,
        .f32_math = o->f32_math,
        .n_threads = s->n_threads,
        .pin_threads = o->pin_threads,
        .weights_store = o->store,
        .kv_blocks = n_blocks,
        .max_rows = o->max_rows,
        .max_seqs = s->n_seqs,
    };
    if (o->max_tokens > c->max_positions)
        return error_set(err, ST_LIMIT, "%u tokens are more than the model's %u positions", o->max_tokens,
                         c->max_positions);
    model_kv_layout(c, SOLO_BLOCK_TOKENS, o->kv_type, &options.kv);
    status st = take_memory(s, &options.kv, n_blocks, err);
    options.kv_pool.host = s->pool;
    if (st == ST_OK)
        st = engine_create(&options, &s->engine, err);
    if (st == ST_OK && o->pin_threads)
        engine_enter(s->engine);
    return st;
}

status solo_create(const struct solo_options *options, struct solo **out, struct error *err)
{
    ASSERT(options->max_tokens > 0 && options->max_rows > 0);
    struct solo *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ST_NO_MEMORY, "out of memory");
    s->n_threads = options->n_threads ? options->n_threads : usable_cores();
    s->max_tokens = options->max_tokens;
    s->max_rows = options->max_rows;
    s->n_seqs = options->n_seqs ? options->n_seqs : 1;
    s->seq_blocks = (s->max_tokens + SOLO_BLOCK_TOKENS - 1) / SOLO_BLOCK_TOKENS;
    ASSERT(s->n_seqs <= s->max_rows);
    status st = engine_isa_check(options->isa, options->class, err);
    if (st == ST_OK)
        st = model_open(options->path, MODEL_WEIGHTS, &s->model, err);
    if (st == ST_OK)
        st = create_engine(s, options, err);
    if (st == ST_OK)
        *out = s;
    else
        solo_destroy(&s);
    return st;
}

void solo_destroy(struct solo **solo)
{
    struct solo *s = *solo;
    if (!s)
        return;
    engine_destroy(&s->engine);
    model_close(&s->model);
    free(s->pool);
    free(s->blocks);
    free(s->seqs);
    free(s);
    *solo = NULL;
}

const struct model *solo_model(const struct solo *solo)
{
    return solo->model;
}

const char *solo_isa(const struct solo *solo)
{
    return engine_isa_name(solo->engine);
}

uint32_t solo_threads(const struct solo *solo)
{
    return solo->n_threads;
}

struct engine_times solo_times(const struct solo *solo)
{
    return engine_times(solo->engine);
}

static struct step_seq step_of(const struct solo *solo, uint32_t seq, const uint32_t *tokens, uint32_t n,
                               uint32_t first_pos)
{
    ASSERT(n > 0 && n <= solo->max_rows && first_pos <= solo->max_tokens - n && seq < solo->n_seqs);
    return (struct step_seq){
        .tokens = tokens,
        .n_rows = n,
        .first_pos = first_pos,
        .blocks = solo->blocks + (size_t)seq * solo->seq_blocks,
        .logits = STEP_SAMPLE,
        .sampling = &greedy,
        .history = tokens, /* greedy without penalties looks at none of it */
        .n_history = n,
    };
}

uint32_t solo_step(struct solo *solo, const uint32_t *tokens, uint32_t n, uint32_t first_pos,
                   void (*on_logits)(void *ctx, uint32_t row, const float *logits, uint32_t n_vocab), void *ctx)
{
    if (!on_logits)
        return solo_step_of(solo, 0, tokens, n, first_pos);
    struct step_seq seq = step_of(solo, 0, tokens, n, first_pos);
    seq.logits = STEP_ALL_LOGITS;
    seq.on_logits = on_logits;
    seq.ctx = ctx;
    engine_run(solo->engine, &(struct step){ .seqs = &seq, .n_seqs = 1 });
    return 0;
}

uint32_t solo_step_of(struct solo *solo, uint32_t seq, const uint32_t *tokens, uint32_t n, uint32_t first_pos)
{
    struct step_seq one = step_of(solo, seq, tokens, n, first_pos);
    engine_run(solo->engine, &(struct step){ .seqs = &one, .n_seqs = 1 });
    return one.sampled.id;
}

void solo_decode(struct solo *solo, uint32_t *tokens, uint32_t pos)
{
    for (uint32_t i = 0; i < solo->n_seqs; i++)
        solo->seqs[i] = step_of(solo, i, &tokens[i], 1, pos);
    engine_run(solo->engine, &(struct step){ .seqs = solo->seqs, .n_seqs = solo->n_seqs });
    for (uint32_t i = 0; i < solo->n_seqs; i++)
        tokens[i] = solo->seqs[i].sampled.id;
}
