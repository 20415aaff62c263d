#include "engine/experts.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "engine/math_f32.h"
#include "engine/products.h"

/* A gathered row is one (row, expert) pair, in the order of experts_gather(). */
struct experts {
    const struct model_config *config;
    const struct backend *backend;
    struct team *team;
    uint32_t n_threads;
    float *normed;             /* [row][n_embd] */
    float *logits;             /* [row][n_experts]: the router's */
    uint32_t *chosen;          /* [row][n_experts_used]: experts, ascending */
    float *weights;            /* [row][n_experts_used] */
    uint32_t *places;          /* [row][n_experts_used]: gathered rows */
    uint32_t *row_of;          /* [gathered row] */
    uint32_t *first;           /* [n_experts + 1]: gathered rows of each */
    float *gate, *up;          /* [gathered row][n_expert_ffn] */
    float *results;            /* [gathered row][n_embd] */
    float **tiles;             /* [thread][ACT_TILE][n_embd] */
    struct activations all;    /* of all gathered rows */
    struct activations *acts;  /* [n_experts]: parts of it, each tiled by itself */
    struct products *products; /* [n_experts] */
    void *memory;
};

/* One call of the team over blocks of ACT_TILE rows. */
struct layer_job {
    struct experts *e;
    const struct layer_weights *layer;
    float *x;
    uint32_t n_rows;
};

/* Inputs of all experts: rows of in that are gathered, or stand there gathered already. */
struct input_job {
    struct experts *e;
    const float *in; /* [row or gathered row][width] */
    bool gather;
    uint32_t width;
    unsigned rules;
};

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t count_tiles(uint32_t n_rows)
{
    return (n_rows + ACT_TILE - 1) / ACT_TILE;
}

/* The n_used largest, of equal ones the first. */
static void take_largest(const float *logits, uint32_t n, uint32_t n_used, bool *taken)
{
    memset(taken, 0, n * sizeof *taken);
    for (uint32_t i = 0; i < n_used; i++) {
        uint32_t best = n;
        for (uint32_t e = 0; e < n; e++)
            if (!taken[e] && (best == n || logits[e] > logits[best]))
                best = e;
        taken[best] = true;
    }
}

void experts_choose(const float *logits, uint32_t n, uint32_t n_used, bool sum_to_one, uint32_t *chosen, float *weights)
{
    bool taken[MODEL_MAX_EXPERTS];
    ASSERT(n_used >= 1 && n_used <= n && n <= MODEL_MAX_EXPERTS);
    take_largest(logits, n, n_used, taken);
    float max = logits[0];
    for (uint32_t i = 1; i < n; i++)
        max = logits[i] > max ? logits[i] : max;
    float sum = 0.0f;
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i++) {
        float p = math_exp(logits[i] - max);
        if (taken[i] || !sum_to_one)
            sum += p;
        if (taken[i]) {
            chosen[found] = i;
            weights[found++] = p;
        }
    }
    for (uint32_t i = 0; i < n_used; i++)
        weights[i] /= sum;
}

void experts_gather(const uint32_t *chosen, uint32_t n_rows, uint32_t n_used, uint32_t n, uint32_t *first,
                    uint32_t *places, uint32_t *row_of)
{
    memset(first, 0, (n + 1) * sizeof *first);
    for (uint32_t i = 0; i < n_rows * n_used; i++)
        first[chosen[i] + 1]++;
    for (uint32_t e = 0; e < n; e++)
        first[e + 1] += first[e];
    for (uint32_t i = 0; i < n_rows * n_used; i++) {
        places[i] = first[chosen[i]]++;
        row_of[places[i]] = i / n_used;
    }
    memmove(first + 1, first, n * sizeof *first); /* each has moved to where the next one began */
    first[0] = 0;
}

static void prepare_router(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct layer_job *job = ctx;
    const struct experts *e = job->e;
    const uint32_t width = e->config->n_embd, first = item * ACT_TILE;
    const uint32_t n = min_u32(ACT_TILE, job->n_rows - first);
    float *normed = e->normed + (size_t)first * width;
    e->backend->rms_norm(job->x + (size_t)first * width, job->layer->ffn_norm, e->config->rms_eps, n, width, normed);
    e->backend->prepare(&job->e->all, job->layer->router.rule, first, n, normed);
}

static void choose_rows(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct layer_job *job = ctx;
    const struct experts *e = job->e;
    const uint32_t n = e->config->n_experts, n_used = e->config->n_experts_used;
    for (uint32_t r = item * ACT_TILE; r < min_u32((item + 1) * ACT_TILE, job->n_rows); r++)
        experts_choose(e->logits + (size_t)r * n, n, n_used, e->config->experts_sum_to_one,
                       e->chosen + (size_t)r * n_used, e->weights + (size_t)r * n_used);
}

static void run_products(struct experts *e, struct products *list, uint32_t n, uint64_t *products_ns)
{
    uint64_t begin = clock_now_ns();
    products_run(list, n, e->team);
    *products_ns += clock_now_ns() - begin;
}

/* Which experts each row goes through. */
static void route(struct layer_job *job, uint64_t *products_ns)
{
    struct experts *e = job->e;
    const struct model_config *c = e->config;
    struct products router = { .backend = e->backend,
                               .in = &e->all,
                               .n_parts = 1,
                               .matrix = { &job->layer->router },
                               .out = { e->logits },
                               .then = PRODUCTS_KEEP };
    e->all.n_rows = job->n_rows;
    e->all.n_in = c->n_embd;
    team_run(e->team, prepare_router, job, count_tiles(job->n_rows));
    run_products(e, &router, 1, products_ns);
    team_run(e->team, choose_rows, job, count_tiles(job->n_rows));
    experts_gather(e->chosen, job->n_rows, c->n_experts_used, c->n_experts, e->first, e->places, e->row_of);
}

static uint32_t rows_of(const struct experts *e, uint32_t expert)
{
    return e->first[expert + 1] - e->first[expert];
}

static void prepare_tile(void *ctx, uint32_t item, uint32_t thread)
{
    const struct input_job *job = ctx;
    const struct experts *e = job->e;
    const size_t width = job->width;
    uint32_t expert = 0;
    for (uint32_t tiles; item >= (tiles = count_tiles(rows_of(e, expert))); item -= tiles)
        expert++;
    const uint32_t first = item * ACT_TILE, place = e->first[expert] + first;
    const uint32_t n = min_u32(ACT_TILE, rows_of(e, expert) - first);
    const float *in = job->in + place * width;
    if (job->gather) {
        float *tile = e->tiles[thread];
        for (uint32_t r = 0; r < n; r++)
            memcpy(tile + r * width, job->in + e->row_of[place + r] * width, width * sizeof *tile);
        in = tile;
    }
    e->backend->prepare(&e->acts[expert], job->rules, first, n, in);
}

/* The part of the activations that begins at a gathered row. */
static struct activations part_of(const struct activations *all, size_t row, uint32_t n_rows, uint32_t n_in)
{
    const size_t at = row * n_in;
    return (struct activations){ .n_rows = n_rows,
                                 .n_in = n_in,
                                 .f32 = all->f32 + at,
                                 .q = all->q + at,
                                 .scale = all->scale + at / CONTRACT_GROUP * 2,
                                 .bias = all->bias + at / CONTRACT_GROUP * ACT_BIASES,
                                 .bf16 = all->bf16 + row * act_bf16_stride(n_in) };
}

static void prepare_inputs(struct input_job *job)
{
    struct experts *e = job->e;
    uint32_t tiles = 0;
    for (uint32_t i = 0; i < e->config->n_experts; i++) {
        e->acts[i] = part_of(&e->all, e->first[i], rows_of(e, i), job->width);
        tiles += count_tiles(rows_of(e, i));
    }
    team_run(e->team, prepare_tile, job, tiles);
}

static void gate_and_up(struct experts *e, const struct layer_weights *w, uint64_t *products_ns)
{
    const struct model_config *c = e->config;
    prepare_inputs(&(struct input_job){ e, e->normed, true, c->n_embd, w->experts->gate.rule | w->experts->up.rule });
    for (uint32_t i = 0; i < c->n_experts; i++) {
        const size_t at = (size_t)e->first[i] * c->n_expert_ffn;
        e->products[i] = (struct products){ .backend = e->backend,
                                            .in = &e->acts[i],
                                            .n_parts = 2,
                                            .matrix = { &w->experts[i].gate, &w->experts[i].up },
                                            .out = { e->gate + at, e->up + at },
                                            .then = PRODUCTS_SILU_MUL };
    }
    run_products(e, e->products, c->n_experts, products_ns);
}

static void down(struct experts *e, const struct layer_weights *w, uint64_t *products_ns)
{
    const struct model_config *c = e->config;
    prepare_inputs(&(struct input_job){ e, e->gate, false, c->n_expert_ffn, w->experts->down.rule });
    for (uint32_t i = 0; i < c->n_experts; i++)
        e->products[i] = (struct products){ .backend = e->backend,
                                            .in = &e->acts[i],
                                            .n_parts = 1,
                                            .matrix = { &w->experts[i].down },
                                            .out = { e->results + (size_t)e->first[i] * c->n_embd },
                                            .then = PRODUCTS_KEEP };
    run_products(e, e->products, c->n_experts, products_ns);
}

static void sum_rows(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct layer_job *job = ctx;
    const struct experts *e = job->e;
    const uint32_t width = e->config->n_embd, n_used = e->config->n_experts_used;
    for (uint32_t r = item * ACT_TILE; r < min_u32((item + 1) * ACT_TILE, job->n_rows); r++) {
        const uint32_t *places = e->places + (size_t)r * n_used;
        float *sum = e->results + (size_t)places[0] * width;
        for (uint32_t i = 0; i < n_used; i++) {
            float *result = e->results + (size_t)places[i] * width;
            e->backend->scale(result, e->weights[(size_t)r * n_used + i], width);
            if (i > 0)
                e->backend->add(sum, result, width);
        }
        e->backend->add(job->x + (size_t)r * width, sum, width);
    }
}

void experts_run(struct experts *e, const struct layer_weights *w, float *x, uint32_t n_rows, uint64_t *products_ns)
{
    struct layer_job job = { e, w, x, n_rows };
    route(&job, products_ns);
    gate_and_up(e, w, products_ns);
    down(e, w, products_ns);
    team_run(e->team, sum_rows, &job, count_tiles(n_rows));
}

/* Where the next part begins; all parts begin at a cache line. */
static void *take(uint8_t *base, size_t *used, size_t bytes)
{
    void *p = base == NULL ? NULL : base + *used;
    *used += (bytes + 63) / 64 * 64;
    return p;
}

/* Bytes of all parts; with base they are handed out. */
static size_t lay_out(struct experts *e, size_t rows, uint8_t *base)
{
    const struct model_config *c = e->config;
    const size_t pairs = rows * c->n_experts_used;
    const size_t widest = c->n_embd > c->n_expert_ffn ? c->n_embd : c->n_expert_ffn;
    const size_t values = pairs * widest;
    size_t used = 0;
    e->normed = take(base, &used, rows * c->n_embd * sizeof *e->normed);
    e->logits = take(base, &used, rows * c->n_experts * sizeof *e->logits);
    e->chosen = take(base, &used, pairs * sizeof *e->chosen);
    e->weights = take(base, &used, pairs * sizeof *e->weights);
    e->places = take(base, &used, pairs * sizeof *e->places);
    e->row_of = take(base, &used, pairs * sizeof *e->row_of);
    e->first = take(base, &used, (c->n_experts + 1) * sizeof *e->first);
    e->gate = take(base, &used, pairs * c->n_expert_ffn * sizeof *e->gate);
    e->up = take(base, &used, pairs * c->n_expert_ffn * sizeof *e->up);
    e->results = take(base, &used, pairs * c->n_embd * sizeof *e->results);
    e->acts = take(base, &used, c->n_experts * sizeof *e->acts);
    e->products = take(base, &used, c->n_experts * sizeof *e->products);
    e->all.f32 = take(base, &used, values * sizeof *e->all.f32);
    e->all.q = take(base, &used, values);
    e->all.scale = take(base, &used, values / CONTRACT_GROUP * 2 * sizeof *e->all.scale);
    e->all.bias = take(base, &used, values / CONTRACT_GROUP * ACT_BIASES * sizeof *e->all.bias);
    e->all.bf16 = take(base, &used, pairs * act_bf16_stride(widest) * sizeof *e->all.bf16);
    e->tiles = take(base, &used, e->n_threads * sizeof *e->tiles);
    for (uint32_t t = 0; t < e->n_threads; t++) {
        float *tile = take(base, &used, (size_t)ACT_TILE * c->n_embd * sizeof *tile);
        if (base != NULL)
            e->tiles[t] = tile;
    }
    return used;
}

size_t experts_scratch_bytes(const struct model_config *config, uint32_t n_threads, uint32_t max_rows)
{
    struct experts e = { .config = config, .n_threads = n_threads };
    return lay_out(&e, max_rows, NULL);
}

status experts_create(const struct model_config *config, const struct backend *backend, struct team *team,
                      uint32_t max_rows, struct experts **out)
{
    struct experts *e = calloc(1, sizeof *e);
    if (e == NULL)
        return ST_NO_MEMORY;
    e->config = config;
    e->backend = backend;
    e->team = team;
    e->n_threads = team_threads(team);
    e->memory = aligned_alloc(64, lay_out(e, max_rows, NULL));
    if (e->memory == NULL) {
        experts_destroy(&e);
        return ST_NO_MEMORY;
    }
    (void)lay_out(e, max_rows, e->memory);
    *out = e;
    return ST_OK;
}

void experts_destroy(struct experts **experts)
{
    if (*experts == NULL)
        return;
    free((*experts)->memory);
    free(*experts);
    *experts = NULL;
}
