#include "engine/forward.h"

#include <math.h>
#include <stdlib.h>

#include "common/clock.h"
#include "engine/forward_gates.h"
#include "engine/forward_scratch.h"
#include "engine/math_trig.h"
#include "engine/products.h"

/* One call of the team over blocks of item_rows rows. */
struct row_job {
    struct forward *f;
    const struct layer_weights *layer;
    uint32_t layer_index;
    const float *in; /* [n_rows][width] */
    uint32_t n_rows;
    const float *norm; /* NULL: taken as they are */
    uint32_t width;
    unsigned rules;
};

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static void run_rows(team_fn fn, struct row_job *job)
{
    team_run(job->f->team, fn, job, (job->n_rows + job->f->item_rows - 1) / job->f->item_rows);
}

/* Its number of rows; the first is item * item_rows. */
static uint32_t rows_of_item(const struct row_job *job, uint32_t item)
{
    return min_u32(job->f->item_rows, job->n_rows - item * job->f->item_rows);
}

/* Cosines, and sines with the sign that each of the pair needs. */
static void fill_angles(const struct forward *f, uint32_t row, uint32_t rope)
{
    uint32_t dim = f->n_rotated;
    bool interleaved = f->config->rope_interleaved;
    uint32_t partner = interleaved ? 1 : dim / 2;
    const double *inv_freq = f->inv_freq + (size_t)rope * dim / 2;
    float *cosines = f->host_cosines + ((size_t)row * f->n_ropes + rope) * dim;
    float *sines = f->host_sines + ((size_t)row * f->n_ropes + rope) * dim;
    double pos = rows_position(&f->rows, row);
    for (uint32_t p = 0; p < dim / 2; p++) {
        double s;
        double c;
        math_sincos(pos * inv_freq[p], &s, &c);
        s *= f->rope_magnitude[rope];
        c *= f->rope_magnitude[rope];
        uint32_t i = interleaved ? 2 * p : p;
        cosines[i] = cosines[i + partner] = (float)c;
        sines[i] = (float)-s;
        sines[i + partner] = (float)s;
    }
}

/* By the host for all backends: in binary64. */
static void angle_rows(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct row_job *job = ctx;
    const struct forward *f = job->f;
    uint32_t end = min_u32((item + 1) * ACT_TILE, job->n_rows);
    for (uint32_t r = item * ACT_TILE; r < end; r++)
        for (uint32_t rope = 0; rope < f->n_ropes; rope++)
            fill_angles(f, r, rope);
}

static void embed_rows(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct row_job *job = ctx;
    struct forward *f = job->f;
    uint32_t first = item * f->item_rows, n = rows_of_item(job, item), n_embd = f->config->n_embd;
    float *x = f->x + (size_t)first * n_embd;
    for (uint32_t r = first; r < first + n; r++) {
        const struct row_span *span = &f->rows.spans[f->rows.span_of[r]];
        f->tokens[r] = span->seq->tokens[r - span->first_row];
        ASSERT(f->tokens[r] < f->config->n_vocab);
    }
    f->backend->embed(&f->weights->embed, f->tokens + first, n, x);
    if (f->config->embed_scale != 0)
        f->backend->scale(x, f->config->embed_scale, n * n_embd);
}

static void prepare_rows(void *ctx, uint32_t item, uint32_t thread)
{
    const struct row_job *job = ctx;
    struct forward *f = job->f;
    uint32_t first = item * f->item_rows, n = rows_of_item(job, item);
    const float *in = job->in + (size_t)first * job->width;
    if (job->norm != NULL) {
        float *normed = f->desks[thread].rows;
        f->backend->rms_norm(in, job->norm, f->config->rms_eps, n, job->width, normed);
        in = normed;
    }
    f->backend->prepare(&f->acts, job->rules, first, n, in);
}

/* Inputs [n_rows][width], normed unless norm is NULL, ready for products by the given rules. */
static void prepare(struct forward *f, const float *in, uint32_t n_rows, uint32_t width, const float *norm,
                    unsigned rules)
{
    f->acts.n_rows = n_rows;
    f->acts.n_in = width;
    rules |= f->adapted ? RULE_F32 : 0; /* adapters read them, too */
    struct row_job job = { .f = f, .in = in, .n_rows = n_rows, .norm = norm, .width = width, .rules = rules };
    run_rows(prepare_rows, &job);
}

static struct kv_place kv_place(const struct forward *f, uint32_t row)
{
    const struct row_span *span = &f->rows.spans[f->rows.span_of[row]];
    uint32_t pos = rows_position(&f->rows, row);
    uint32_t block = span->seq->blocks[pos / f->kv.block_tokens];
    ASSERT(block < f->kv_blocks);
    return (struct kv_place){ block, pos % f->kv.block_tokens };
}

/* Some rows of a layer. */
struct part {
    uint32_t layer, first, n;
};

/* Norms the heads of q or k, and rotates them by the angles of the layer. */
static void rotate_heads(const struct forward *f, const struct part *p, float *heads, uint32_t n_heads,
                         const float *norm)
{
    uint32_t dim = f->config->head_dim;
    uint32_t rope = f->config->windowed[p->layer] ? f->n_ropes - 1 : 0;
    size_t angles = ((size_t)p->first * f->n_ropes + rope) * f->n_rotated;
    if (norm != NULL)
        f->backend->rms_norm(heads, norm, f->config->rms_eps, p->n * n_heads, dim, heads);
    struct rotation r = { .cosines = f->cosines + angles,
                          .sines = f->sines + angles,
                          .stride = (size_t)f->n_ropes * f->n_rotated,
                          .n_rows = p->n,
                          .n_heads = n_heads,
                          .head_dim = dim,
                          .dim = f->n_rotated,
                          .interleaved = f->config->rope_interleaved };
    f->backend->rope(heads, &r);
}

/* Norms and rotates q and k, and puts k and v into the cache. */
static void position_rows(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct row_job *job = ctx;
    const struct layer_weights *w = job->layer;
    struct forward *f = job->f;
    const struct part p = { job->layer_index, item * f->item_rows, rows_of_item(job, item) };
    uint32_t dim = f->config->head_dim, n_heads = f->config->n_heads, n_kv = f->config->n_kv_heads;
    float q_scale = f->config->attention_scale > 0 ? f->config->attention_scale : 1.0f / sqrtf((float)dim);
    float *q = f->q + (size_t)p.first * n_heads * dim;
    float *k = f->k + (size_t)p.first * n_kv * dim;
    float *v = f->v + (size_t)p.first * n_kv * dim;
    if (w->bq != NULL) {
        f->backend->add_to_rows(q, w->bq, p.n, n_heads * dim);
        f->backend->add_to_rows(k, w->bk, p.n, n_kv * dim);
        f->backend->add_to_rows(v, w->bv, p.n, n_kv * dim);
    }
    rotate_heads(f, &p, q, n_heads, w->q_norm);
    f->backend->scale(q, q_scale, p.n * n_heads * dim);
    rotate_heads(f, &p, k, n_kv, w->k_norm);
    for (uint32_t r = p.first; r < p.first + p.n; r++)
        f->places[r] = kv_place(f, r);
    struct kv_rows rows = {
        .kv = &f->kv, .pool = f->pool, .layer = p.layer, .n_rows = p.n, .places = f->places + p.first
    };
    f->backend->kv_store(&rows, KV_K, k);
    f->backend->kv_store(&rows, KV_V, v);
}

static void attend(struct forward *f, uint32_t layer)
{
    const struct attention shared = {
        .kv = &f->kv,
        .pool = f->pool,
        .layer = layer,
        .n_heads = f->config->n_heads,
        .window = f->config->windowed[layer] ? f->config->window : 0,
        .soft_cap = f->config->attention_cap,
        .q = f->q,
        .out = f->attended,
    };
    uint64_t begin = clock_now_ns();
    attention_step_run(f->attention, &shared, &f->rows);
    f->times.attention_ns += clock_now_ns() - begin;
}

/* first: of the parts' modules, which follow one another. */
static void project(struct forward *f, enum adapter_module first, uint32_t n_parts, const struct matrix *const m[],
                    float *const out[], enum products_then then)
{
    struct products p = { .backend = f->backend, .in = &f->acts, .n_parts = n_parts, .then = then, .residual = f->x };
    for (uint32_t i = 0; i < n_parts; i++) {
        p.matrix[i] = m[i];
        p.out[i] = out[i];
    }
    uint64_t begin = clock_now_ns();
    if (f->adapted && first != ADAPTER_NONE) {
        p.then = PRODUCTS_KEEP;
        products_run(&p, 1, f->team);
        p.then = then;
        loras_add(f->loras, &p, &f->rows, f->layer, first);
    } else {
        products_run(&p, 1, f->team);
    }
    f->times.products_ns += clock_now_ns() - begin;
}

/* y is normed and added to the residual stream. */
static void add_normed_rows(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct row_job *job = ctx;
    const struct forward *f = job->f;
    uint32_t n = rows_of_item(job, item), n_embd = f->config->n_embd;
    size_t at = (size_t)item * f->item_rows * n_embd;
    f->backend->rms_norm(f->y + at, job->norm, f->config->rms_eps, n, n_embd, f->y + at);
    f->backend->add(f->x + at, f->y + at, n * n_embd);
}

/* The last product of attention or network, into the residual stream; post_norm NULL: as it is. */
static void project_back(struct forward *f, enum adapter_module module, const struct matrix *m, const float *post_norm)
{
    project(f, module, 1, &m, &f->y, post_norm == NULL ? PRODUCTS_ADD : PRODUCTS_KEEP);
    struct row_job job = { .f = f, .n_rows = f->rows.n_rows, .norm = post_norm };
    if (post_norm != NULL)
        run_rows(add_normed_rows, &job);
}

static uint32_t keep_uncancelled(const struct row_span *span)
{
    const atomic_bool *cancelled = span->seq->cancelled;
    return cancelled != NULL && atomic_load_explicit(cancelled, memory_order_relaxed) ? 0 : span->n_rows;
}

static uint32_t keep_unfailed(const struct row_span *span)
{
    return span->seq->gate_failed ? 0 : keep_uncancelled(span);
}

/* After the last layer's K and V nothing else is asked of the rows without logits. */
static uint32_t keep_with_logits(const struct row_span *span)
{
    if (span->seq->logits == STEP_NO_LOGITS)
        span->seq->done = true;
    return span->seq->logits == STEP_NO_LOGITS ? 0 : span->seq->logits == STEP_SAMPLE ? 1 : span->n_rows;
}

static bool drop_cancelled(struct forward *f)
{
    const struct model_config *c = f->config;
    const size_t angles = (size_t)f->n_ropes * f->n_rotated;
    const struct row_buffer buffers[] = { { f->x, c->n_embd }, { f->cosines, angles }, { f->sines, angles } };
    rows_compact(&f->rows, keep_uncancelled, buffers, sizeof buffers / sizeof *buffers, f->on_device.stream);
    return f->rows.n_rows > 0;
}

/* Between K and V of a layer and its attention. */
static bool drop_failed(struct forward *f)
{
    const struct model_config *c = f->config;
    const size_t angles = (size_t)f->n_ropes * f->n_rotated;
    const struct row_buffer buffers[] = {
        { f->x, c->n_embd }, { f->q, (size_t)c->n_heads * c->head_dim }, { f->cosines, angles }, { f->sines, angles }
    };
    rows_compact(&f->rows, keep_unfailed, buffers, sizeof buffers / sizeof *buffers, f->on_device.stream);
    return f->rows.n_rows > 0;
}

static bool drop_without_logits(struct forward *f)
{
    const struct model_config *c = f->config;
    const struct row_buffer buffers[] = { { f->x, c->n_embd }, { f->q, (size_t)c->n_heads * c->head_dim } };
    rows_compact(&f->rows, keep_with_logits, buffers, sizeof buffers / sizeof *buffers, f->on_device.stream);
    return f->rows.n_rows > 0;
}

static void run_ffn(struct forward *f, const struct layer_weights *w)
{
    const struct model_config *c = f->config;
    prepare(f, f->x, f->rows.n_rows, c->n_embd, w->ffn_norm, w->gate.rule | w->up.rule);
    project(f, ADAPTER_GATE, 2, (const struct matrix *const[]){ &w->gate, &w->up }, (float *const[]){ f->gate, f->up },
            c->activation == ACTIVATION_GELU ? PRODUCTS_GELU_MUL : PRODUCTS_SILU_MUL);
    prepare(f, f->gate, f->rows.n_rows, c->n_ffn, NULL, w->down.rule);
    project_back(f, ADAPTER_DOWN, &w->down, w->ffn_post_norm);
}

/* One layer; false when no row is left after it. A device has only been told of it by then. */
static bool run_layer(struct forward *f, uint32_t layer)
{
    const struct model_config *c = f->config;
    const struct layer_weights *w = &f->weights->layers[layer];

    f->layer = layer;
    prepare(f, f->x, f->rows.n_rows, c->n_embd, w->attn_norm, w->wq.rule | w->wk.rule | w->wv.rule);
    project(f, ADAPTER_Q, 3, (const struct matrix *const[]){ &w->wq, &w->wk, &w->wv },
            (float *const[]){ f->q, f->k, f->v }, PRODUCTS_KEEP);
    struct row_job job = { .f = f, .layer = w, .layer_index = layer, .n_rows = f->rows.n_rows };
    run_rows(position_rows, &job);
    forward_device_announce_layer(&f->on_device, f->step, layer);
    if (f->gated && forward_gates_await(f, layer) && !drop_failed(f))
        return false;
    if (layer + 1 == c->n_layers && !drop_without_logits(f))
        return false;
    attend(f, layer);
    prepare(f, f->attended, f->rows.n_rows, c->n_heads * c->head_dim, NULL, w->wo.rule);
    project_back(f, ADAPTER_O, &w->wo, w->attn_post_norm);

    if (w->experts != NULL)
        experts_run(f->experts, w, f->x, f->rows.n_rows, &f->times.products_ns);
    else
        run_ffn(f, w);
    return true;
}

static void cap_rows(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct forward *f = ctx;
    uint32_t n = f->backend->whole ? min_u32(LOGIT_ROWS, f->acts.n_rows) : 1;
    f->backend->soft_cap(f->logits + (size_t)item * f->config->n_vocab, f->config->logit_cap, n * f->config->n_vocab);
}

struct sample_job {
    struct forward *f;
    uint32_t first_row;
};

static void sample_item(void *ctx, uint32_t item, uint32_t thread)
{
    const struct sample_job *job = ctx;
    struct forward *f = job->f;
    uint32_t n_vocab = f->config->n_vocab;
    const struct row_span *span = &f->rows.spans[f->rows.span_of[job->first_row + item]];
    struct step_seq *seq = span->seq;
    if (seq->logits != STEP_SAMPLE && seq->logits != STEP_SAMPLE_EACH)
        return;
    uint32_t row = job->first_row + item - span->first_row;
    struct sampled *out = seq->logits == STEP_SAMPLE ? &seq->sampled : &seq->sampled_each[row];
    sampling_choose(seq->sampling, seq->history, seq->n_history - (span->n_rows - 1 - row),
                    f->host_logits + (size_t)item * n_vocab, n_vocab, f->desks[thread].vocab, out);
}

static void show_logits(struct forward *f, uint32_t first_row, uint32_t n)
{
    uint32_t n_vocab = f->config->n_vocab;
    for (uint32_t i = 0; i < n; i++) {
        const struct row_span *span = &f->rows.spans[f->rows.span_of[first_row + i]];
        if (span->seq->logits == STEP_ALL_LOGITS)
            span->seq->on_logits(span->seq->ctx, first_row + i - span->first_row, f->host_logits + (size_t)i * n_vocab,
                                 n_vocab);
    }
}

/* All rows that are left want logits. */
static void run_head(struct forward *f)
{
    const struct weights *w = f->weights;
    uint32_t n_embd = f->config->n_embd;
    for (uint32_t first = 0; first < f->rows.n_rows; first += LOGIT_ROWS) {
        uint32_t n = min_u32(LOGIT_ROWS, f->rows.n_rows - first);
        prepare(f, f->x + (size_t)first * n_embd, n, n_embd, w->final_norm, w->head.rule);
        project(f, ADAPTER_NONE, 1, (const struct matrix *const[]){ &w->head }, (float *const[]){ f->logits },
                PRODUCTS_KEEP);
        if (f->config->logit_cap > 0)
            team_run(f->team, cap_rows, f, f->backend->whole ? 1 : n);
        if (!forward_device_get(&f->on_device, f->host_logits, f->logits, (size_t)n * f->config->n_vocab))
            return;
        forward_device_announce_reached(&f->on_device, f->step);
        struct sample_job job = { .f = f, .first_row = first };
        team_run(f->team, sample_item, &job, n);
        show_logits(f, first, n);
    }
    for (uint32_t s = 0; s < f->rows.n_spans; s++)
        f->rows.spans[s].seq->done = true;
}

static void run_step(struct forward *f, struct step *step)
{
    f->step = step;
    step->gates_us = 0;
    rows_begin(&f->rows, step);
    f->adapted = f->gated = false;
    for (uint32_t i = 0; i < step->n_seqs; i++) {
        ASSERT(step->seqs[i].adapter <= f->n_adapters);
        f->adapted |= step->seqs[i].adapter != 0;
        f->gated |= step->seqs[i].gate != NULL;
    }
    struct row_job job = { .f = f, .n_rows = f->rows.n_rows };
    const size_t angles = (size_t)job.n_rows * f->n_ropes * f->n_rotated;
    team_run(f->team, angle_rows, &job, (job.n_rows + ACT_TILE - 1) / ACT_TILE);
    forward_device_put(&f->on_device, f->cosines, f->host_cosines, angles);
    forward_device_put(&f->on_device, f->sines, f->host_sines, angles);
    run_rows(embed_rows, &job);
    for (uint32_t layer = 0; layer < f->config->n_layers; layer++)
        if (!drop_cancelled(f) || !run_layer(f, layer))
            return;
    run_head(f);
}

status forward_run(struct forward *f, struct step *step, struct error *err)
{
    uint64_t begin = clock_now_ns();
    forward_device_begin(&f->on_device);
    run_step(f, step);
    status st = forward_device_end(&f->on_device, step);
    f->times.steps_ns += clock_now_ns() - begin;
    return st == ST_OK ? st : error_set(err, st, "%s", f->on_device.error.text);
}

struct engine_times forward_times(const struct forward *f)
{
    return f->times;
}

/* A file's own factors are of the first one. */
static void set_ropes(struct forward *f)
{
    const struct rope_config *ropes[] = { &f->config->rope, &f->config->local_rope };
    ASSERT(f->n_ropes <= sizeof ropes / sizeof *ropes);
    for (uint32_t i = 0; i < f->n_ropes; i++) {
        rope_frequencies(ropes[i], f->n_rotated, i == 0 ? f->weights->rope_factors : NULL,
                         f->inv_freq + (size_t)i * f->n_rotated / 2);
        f->rope_magnitude[i] = rope_magnitude(ropes[i]);
    }
}

/* Experts choose on the host between two products, and adapters mix rows there: a device would stand still. */
static status check_device(const struct backend *backend, const struct model_config *config,
                           const struct engine_options *options, struct error *err)
{
    if (backend->device != NULL && (config->n_experts > 0 || options->n_adapters > 0))
        return error_set(err, ST_UNSUPPORTED, "%s computes neither experts nor adapters: take the CPU's kernels",
                         backend->name);
    ASSERT(backend->device == NULL || backend->whole);
    return ST_OK;
}

status forward_create(const struct model_config *config, const struct weights *weights, const struct backend *backend,
                      struct team *team, const struct engine_options *options, struct forward **out, struct error *err)
{
    status st = check_device(backend, config, options, err);
    if (st != ST_OK)
        return st;
    struct forward *f = calloc(1, sizeof *f);
    if (f == NULL)
        return error_set(err, ST_NO_MEMORY, "out of memory for the forward pass");
    f->config = config;
    f->weights = weights;
    f->backend = backend;
    f->team = team;
    f->n_threads = team_threads(team);
    f->kv = options->kv;
    f->pool = options->kv_pool;
    f->kv_blocks = options->kv_blocks;
    f->n_adapters = options->n_adapters;
    st = rows_create(options->max_rows, options->max_seqs, &f->rows);
    if (st == ST_OK)
        st = loras_create(options->adapters, options->n_adapters, config, backend, team, options->max_rows, &f->loras);
    if (st == ST_OK)
        st = attention_step_create(config, backend, team, options->max_rows, options->max_seqs, &f->attention);
    if (st == ST_OK && config->n_experts > 0)
        st = experts_create(config, backend, team, options->max_rows, &f->experts);
    if (st != ST_OK)
        (void)error_set(err, st, "out of memory for a step of %u rows with %u adapters", options->max_rows,
                        options->n_adapters);
    if (st == ST_OK)
        st = forward_scratch_take(f, options->max_rows, err);
    if (st == ST_OK)
        st = forward_device_open(backend->device, config->n_layers, &f->on_device, err);
    if (st != ST_OK) {
        forward_destroy(&f);
        return st;
    }
    set_ropes(f);
    *out = f;
    return ST_OK;
}

void forward_destroy(struct forward **forward)
{
    struct forward *f = *forward;
    if (f == NULL)
        return;
    attention_step_destroy(&f->attention);
    experts_destroy(&f->experts);
    rows_release(&f->rows);
    loras_destroy(&f->loras);
    forward_device_close(&f->on_device);
    forward_scratch_release(f);
    free(f);
    *forward = NULL;
}
