#include "bench/solo.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

struct solo {
    struct model *model;
    struct engine *engine;
    uint8_t *pool;
    uint32_t *blocks; /* of the sequence: block i is number i */
    uint32_t n_threads, max_tokens, max_rows;
};

static uint32_t usable_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

static status take_memory(struct solo *s, const struct kv_layout *layout, uint32_t n_blocks, struct error *err)
{
    size_t bytes = (n_blocks * kv_block_bytes(layout) + 63) / 64 * 64;
    s->pool = aligned_alloc(64, bytes);
    s->blocks = calloc(n_blocks, sizeof *s->blocks);
    if (!s->pool || !s->blocks)
        return error_set(err, ST_NO_MEMORY, "no memory for %zu bytes of KV", bytes);
    memset(s->pool, 0, bytes); /* touched once, so that no step pays for it */
    for (uint32_t i = 0; i < n_blocks; i++)
        s->blocks[i] = i;
    return ST_OK;
}

static status create_engine(struct solo *s, const struct solo_options *o, struct error *err)
{
    const struct model_config *c = model_config(s->model);
    uint32_t n_blocks = (o->max_tokens + SOLO_BLOCK_TOKENS - 1) / SOLO_BLOCK_TOKENS;
    struct engine_options options = {
        .model = s->model,
        .isa = o->isa,
        .f32_math = o->f32_math,
        .n_threads = s->n_threads,
        .kv_blocks = n_blocks,
        .max_rows = o->max_rows,
        .max_seqs = 1,
    };
    if (o->max_tokens > c->max_positions)
        return error_set(err, ST_LIMIT, "%u tokens are more than the model's %u positions", o->max_tokens,
                         c->max_positions);
    model_kv_layout(c, SOLO_BLOCK_TOKENS, o->kv_type, &options.kv);
    status st = take_memory(s, &options.kv, n_blocks, err);
    options.kv_pool = s->pool;
    return st == ST_OK ? engine_create(&options, &s->engine, err) : st;
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
    status st = engine_isa_check(options->isa, err);
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

uint32_t solo_step(struct solo *solo, const uint32_t *tokens, uint32_t n, uint32_t first_pos,
                   void (*on_logits)(void *ctx, uint32_t row, const float *logits, uint32_t n_vocab), void *ctx)
{
    static const struct sampling greedy = { .top_p = 1, .repetition_penalty = 1, .max_tokens = 1, .n_logprobs = -1 };
    ASSERT(n > 0 && n <= solo->max_rows && first_pos <= solo->max_tokens - n);
    struct step_seq seq = {
        .tokens = tokens,
        .n_rows = n,
        .first_pos = first_pos,
        .blocks = solo->blocks,
        .logits = on_logits ? STEP_ALL_LOGITS : STEP_SAMPLE,
        .sampling = &greedy,
        .history = tokens, /* greedy without penalties looks at none of it */
        .n_history = n,
        .on_logits = on_logits,
        .ctx = ctx,
    };
    struct step step = { .seqs = &seq, .n_seqs = 1 };
    engine_run(solo->engine, &step);
    return on_logits ? 0 : seq.sampled.id;
}
