#include "engine/lora.h"

#include <stdlib.h>
#include <string.h>

struct lora_pair {
    struct matrix a, b; /* n_out 0: there is none */
};

struct lora {
    const struct adapter *adapter; /* borrowed */
    struct lora_pair *pairs;       /* [n_layers][ADAPTER_MODULE_COUNT] */
    uint8_t *packed;
};

/* What one tile of rows is computed in. */
struct bench {
    float *inner;            /* [ACT_TILE][rank]: A x, then with the scale */
    struct activations acts; /* of the same */
    float *outer;            /* [ACT_TILE][widest output] */
};

struct loras {
    const struct backend *backend; /* borrowed */
    struct team *team;             /* borrowed */
    uint32_t n, max_rank;
    struct lora *list;
    struct bench *benches; /* [threads] */
    float *inner;          /* [max_rows][max_rank] */
    float *memory;         /* of the benches */
};

/* ---- packing ------------------------------------------------------------------------- */

struct packing {
    const struct loras *loras;
    const struct tensor *tensor;
    struct matrix *matrix;
};

static void pack_item(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct packing *p = ctx;
    p->loras->backend->pack_panel(p->tensor, p->matrix, item, NULL); /* F32 stays F32: no row is widened */
}

/* At packed + used, which are only measured where packed is NULL. */
static void pack_one(struct loras *loras, const struct tensor *t, uint8_t *packed, size_t *used, struct matrix *out)
{
    size_t bytes = loras->backend->pack_bytes(t, true);
    if (packed) {
        loras->backend->pack_describe(t, true, packed + *used, out);
        struct packing p = { loras, t, out };
        if (bytes > 0)
            team_run(loras->team, pack_item, &p, matrix_panels(out));
    }
    *used += bytes;
}

static size_t pack_all(struct loras *loras, struct lora *lora, uint8_t *packed)
{
    const uint32_t n = lora->adapter->n_layers * ADAPTER_MODULE_COUNT;
    size_t used = 0;
    for (uint32_t i = 0; i < n; i++)
        if (lora->adapter->pairs[i].a.data) {
            pack_one(loras, &lora->adapter->pairs[i].a, packed, &used, &lora->pairs[i].a);
            pack_one(loras, &lora->adapter->pairs[i].b, packed, &used, &lora->pairs[i].b);
        }
    return used;
}

static status add_lora(struct loras *loras, const struct adapter *adapter)
{
    struct lora *lora = &loras->list[loras->n++];
    lora->adapter = adapter;
    lora->pairs = calloc((size_t)adapter->n_layers * ADAPTER_MODULE_COUNT, sizeof *lora->pairs);
    size_t bytes = pack_all(loras, lora, NULL);
    lora->packed = aligned_alloc(64, bytes + 64); /* bytes is a multiple of 64, and may be 0 */
    if (!lora->pairs || !lora->packed)
        return ST_NO_MEMORY;
    (void)pack_all(loras, lora, lora->packed);
    loras->max_rank = adapter->rank > loras->max_rank ? adapter->rank : loras->max_rank;
    return ST_OK;
}

static status take_benches(struct loras *loras, const struct model_config *config, uint32_t max_rows)
{
    uint32_t widest = 0, n_out, n_in;
    for (uint32_t m = 0; m < ADAPTER_MODULE_COUNT; m++) {
        adapter_module_shape(config, (enum adapter_module)m, &n_out, &n_in);
        widest = n_out > widest ? n_out : widest;
    }
    const uint32_t threads = team_threads(loras->team);
    const size_t rank = loras->max_rank, values = ACT_TILE * (2 * rank + widest);
    loras->benches = calloc(threads, sizeof *loras->benches);
    loras->inner = malloc(max_rows * rank * sizeof *loras->inner);
    loras->memory = malloc(threads * values * sizeof *loras->memory);
    if (!loras->benches || !loras->inner || !loras->memory)
        return ST_NO_MEMORY;
    for (uint32_t t = 0; t < threads; t++) {
        float *at = loras->memory + t * values;
        loras->benches[t] =
            (struct bench){ .inner = at, .acts.f32 = at + ACT_TILE * rank, .outer = at + 2 * ACT_TILE * rank };
    }
    return ST_OK;
}

status loras_create(const struct adapter *const *adapters, uint32_t n, const struct model_config *config,
                    const struct backend *backend, struct team *team, uint32_t max_rows, struct loras **out)
{
    *out = NULL;
    if (n == 0)
        return ST_OK;
    struct loras *loras = calloc(1, sizeof *loras);
    status st = loras ? ST_OK : ST_NO_MEMORY;
    if (loras) {
        loras->backend = backend;
        loras->team = team;
        loras->list = calloc(n, sizeof *loras->list);
        st = loras->list ? ST_OK : ST_NO_MEMORY;
        for (uint32_t i = 0; st == ST_OK && i < n; i++)
            st = add_lora(loras, adapters[i]);
        if (st == ST_OK)
            st = take_benches(loras, config, max_rows);
    }
    if (st != ST_OK) {
        loras_destroy(&loras);
        return st;
    }
    *out = loras;
    return ST_OK;
}

void loras_destroy(struct loras **handle)
{
    struct loras *loras = *handle;
    if (!loras)
        return;
    for (uint32_t i = 0; i < loras->n; i++) {
        free(loras->list[i].pairs);
        free(loras->list[i].packed);
    }
    free(loras->list);
    free(loras->benches);
    free(loras->inner);
    free(loras->memory);
    free(loras);
    *handle = NULL;
}

/* ---- adding ----------------------------------------------------------------------------- */

struct adding {
    struct loras *loras;
    const struct products *p;
    const struct rows *rows;
    uint32_t layer;
    enum adapter_module first;
};

/* Rows of one tile. */
struct tile {
    uint32_t row0, row1;
};

static uint32_t adapter_of(const struct adding *job, uint32_t row)
{
    return job->rows->spans[job->rows->span_of[row]].seq->adapter;
}

/* Computes all rows of the tile, which rows of other adapters or of none may share, and adds to those of this one. */
static void add_part(const struct adding *job, uint32_t adapter, uint32_t part, struct tile tile, struct bench *bench)
{
    const struct loras *loras = job->loras;
    const struct lora *lora = &loras->list[adapter - 1];
    const struct lora_pair *pair = &lora->pairs[job->layer * ADAPTER_MODULE_COUNT + job->first + part];
    const uint32_t n = tile.row1 - tile.row0, rank = pair->a.n_out, n_out = pair->b.n_out;
    if (rank == 0)
        return;
    loras->backend->product(&pair->a, job->p->in, tile.row0, tile.row1, 0, matrix_panels(&pair->a), loras->inner,
                            loras->max_rank);
    for (uint32_t r = 0; r < n; r++)
        memcpy(bench->inner + (size_t)r * rank, loras->inner + (size_t)(tile.row0 + r) * loras->max_rank,
               rank * sizeof(float));
    loras->backend->scale(bench->inner, lora->adapter->scale, n * rank);
    bench->acts.n_rows = n;
    bench->acts.n_in = rank;
    loras->backend->prepare(&bench->acts, RULE_F32, 0, n, bench->inner);
    loras->backend->product(&pair->b, &bench->acts, 0, n, 0, matrix_panels(&pair->b), bench->outer, n_out);
    for (uint32_t r = 0; r < n; r++)
        if (adapter_of(job, tile.row0 + r) == adapter)
            loras->backend->add(job->p->out[part] + (size_t)(tile.row0 + r) * n_out, bench->outer + (size_t)r * n_out,
                                n_out);
}

static bool is_first_of_tile(const struct adding *job, uint32_t row0, uint32_t row)
{
    for (uint32_t r = row0; r < row; r++)
        if (adapter_of(job, r) == adapter_of(job, row))
            return false;
    return true;
}

static void add_item(void *ctx, uint32_t item, uint32_t thread)
{
    const struct adding *job = ctx;
    const uint32_t row0 = item * ACT_TILE, left = job->p->in->n_rows - row0;
    const struct tile tile = { row0, row0 + (left < ACT_TILE ? left : ACT_TILE) };
    for (uint32_t r = tile.row0; r < tile.row1; r++)
        if (adapter_of(job, r) != 0 && is_first_of_tile(job, tile.row0, r))
            for (uint32_t part = 0; part < job->p->n_parts; part++)
                add_part(job, adapter_of(job, r), part, tile, &job->loras->benches[thread]);
    products_finish(job->p, tile.row0, tile.row1);
}

void loras_add(struct loras *loras, const struct products *p, const struct rows *rows, uint32_t layer,
               enum adapter_module first)
{
    struct adding job = { loras, p, rows, layer, first };
    team_run(loras->team, add_item, &job, (p->in->n_rows + ACT_TILE - 1) / ACT_TILE);
}
