#include "engine/weights.h"

#include <stdlib.h>
#include <sys/mman.h>

#define MATRICES_A_LAYER 7u

/* One matrix to pack, as the team's item sees it. */
struct packing {
    const struct backend *backend;
    const struct tensor *tensor;
    const struct matrix *matrix;
    float *rows; /* [threads][n_in_max] */
    size_t row_stride;
};

static void pack_item(void *ctx, uint32_t item, uint32_t thread)
{
    struct packing *p = ctx;
    p->backend->pack_panel(p->tensor, p->matrix, item, p->rows + thread * p->row_stride);
}

/* The matrices of layer l in the order of struct layer_weights. */
static void list_matrices(const struct model_layer *in, struct layer_weights *out,
                          const struct tensor *tensors[MATRICES_A_LAYER], struct matrix *matrices[MATRICES_A_LAYER])
{
    const struct tensor *t[MATRICES_A_LAYER] = { in->wq, in->wk, in->wv, in->wo, in->gate, in->up, in->down };
    struct matrix *m[MATRICES_A_LAYER] = { &out->wq, &out->wk, &out->wv, &out->wo, &out->gate, &out->up, &out->down };
    for (uint32_t i = 0; i < MATRICES_A_LAYER; i++) {
        tensors[i] = t[i];
        matrices[i] = m[i];
    }
}

static size_t measure(const struct model_weights *source, uint32_t n_layers, const struct backend *backend,
                      bool f32_math)
{
    struct layer_weights unused;
    size_t bytes = backend->pack_bytes(source->head, f32_math);
    for (uint32_t l = 0; l < n_layers; l++) {
        const struct tensor *t[MATRICES_A_LAYER];
        struct matrix *m[MATRICES_A_LAYER];
        list_matrices(&source->layers[l], &unused, t, m);
        for (uint32_t i = 0; i < MATRICES_A_LAYER; i++)
            bytes += backend->pack_bytes(t[i], f32_math);
    }
    return bytes;
}

/* Packs at *at and moves it on. */
static void pack_one(struct packing *p, const struct tensor *t, bool f32_math, struct team *team, uint8_t **at,
                     struct matrix *out)
{
    size_t bytes = p->backend->pack_bytes(t, f32_math);
    p->backend->pack_describe(t, f32_math, *at, out);
    if (bytes == 0)
        return;
    p->tensor = t;
    p->matrix = out;
    team_run(team, pack_item, p, matrix_panels(out));
    *at += bytes;
}

static status pack_all(struct weights *w, const struct model_weights *source, const struct backend *backend,
                       bool f32_math, size_t n_in_max, struct team *team)
{
    struct packing p = { .backend = backend, .row_stride = n_in_max };
    p.rows = malloc(team_threads(team) * n_in_max * sizeof *p.rows);
    if (p.rows == NULL)
        return ST_NO_MEMORY;
    uint8_t *at = w->packed;
    for (uint32_t l = 0; l < w->n_layers; l++) {
        const struct tensor *t[MATRICES_A_LAYER];
        struct matrix *m[MATRICES_A_LAYER];
        list_matrices(&source->layers[l], &w->layers[l], t, m);
        for (uint32_t i = 0; i < MATRICES_A_LAYER; i++)
            pack_one(&p, t[i], f32_math, team, &at, m[i]);
    }
    pack_one(&p, source->head, f32_math, team, &at, &w->head);
    if (w->head.rule == RULE_INT8)
        w->head.rule = RULE_INT16; /* contract.h says why */
    free(p.rows);
    return ST_OK;
}

#define VECTORS_A_LAYER 7u

/* The vectors of layer l, NULL where the model has none, and where they go. */
static void list_vectors(const struct model_layer *in, struct layer_weights *out,
                         const struct tensor *tensors[VECTORS_A_LAYER], const float **places[VECTORS_A_LAYER])
{
    const struct tensor *t[] = { in->attn_norm, in->ffn_norm, in->q_norm, in->k_norm, in->bq, in->bk, in->bv };
    const float **p[] = { &out->attn_norm, &out->ffn_norm, &out->q_norm, &out->k_norm, &out->bq, &out->bk, &out->bv };
    _Static_assert(sizeof t / sizeof *t == VECTORS_A_LAYER && sizeof p / sizeof *p == VECTORS_A_LAYER, "one for one");
    for (uint32_t i = 0; i < VECTORS_A_LAYER; i++) {
        tensors[i] = t[i];
        places[i] = p[i];
    }
}

/* Behind the *used values at base, which may be NULL: then they are counted only. */
static const float *widen_vector(const struct tensor *t, float *base, size_t *used)
{
    if (t == NULL)
        return NULL;
    float *vector = base == NULL ? NULL : base + *used;
    if (vector != NULL)
        dtype_to_f32(t->type, t->data, vector, t->shape[0]);
    *used += t->shape[0];
    return vector;
}

/* Values of all vectors; with base they are written there. */
static size_t widen_vectors(struct weights *w, const struct model_weights *source, float *base)
{
    size_t used = 0;
    for (uint32_t l = 0; l < w->n_layers; l++) {
        const struct tensor *t[VECTORS_A_LAYER];
        const float **places[VECTORS_A_LAYER];
        list_vectors(&source->layers[l], &w->layers[l], t, places);
        for (uint32_t i = 0; i < VECTORS_A_LAYER; i++)
            *places[i] = widen_vector(t[i], base, &used);
    }
    w->final_norm = widen_vector(source->final_norm, base, &used);
    w->rope_factors = widen_vector(source->rope_factors, base, &used);
    return used;
}

static status take_vectors(struct weights *w, const struct model_weights *source)
{
    if (w->layers == NULL)
        return ST_NO_MEMORY;
    w->vectors = malloc(widen_vectors(w, source, NULL) * sizeof *w->vectors);
    if (w->vectors == NULL)
        return ST_NO_MEMORY;
    (void)widen_vectors(w, source, w->vectors);
    return ST_OK;
}

static status map_packed(struct weights *w)
{
    if (w->packed_bytes == 0)
        return ST_OK;
    void *p = mmap(NULL, w->packed_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return ST_NO_MEMORY;
    w->packed = p;
    madvise(p, w->packed_bytes, MADV_HUGEPAGE); /* only a wish: plain pages are slower, not wrong */
    return ST_OK;
}

status weights_create(const struct model_config *config, const struct model_weights *source,
                      const struct backend *backend, bool f32_math, struct team *team, struct weights **out,
                      struct error *err)
{
    struct weights *w = calloc(1, sizeof *w);
    if (w == NULL)
        return error_set(err, ST_NO_MEMORY, "out of memory for the weights");
    size_t n_q = (size_t)config->n_heads * config->head_dim;
    size_t n_in_max = config->n_embd > config->n_ffn ? config->n_embd : config->n_ffn;
    n_in_max = n_q > n_in_max ? n_q : n_in_max;
    w->embed = source->embed;
    w->n_layers = config->n_layers;
    w->layers = calloc(config->n_layers, sizeof *w->layers);
    w->packed_bytes = measure(source, config->n_layers, backend, f32_math);
    if (take_vectors(w, source) != ST_OK || map_packed(w) != ST_OK ||
        pack_all(w, source, backend, f32_math, n_in_max, team) != ST_OK) {
        size_t bytes = w->packed_bytes;
        weights_destroy(&w);
        return error_set(err, ST_NO_MEMORY, "out of memory for %zu bytes of packed weights", bytes);
    }
    *out = w;
    return ST_OK;
}

void weights_destroy(struct weights **weights)
{
    struct weights *w = *weights;
    if (w == NULL)
        return;
    if (w->packed != NULL)
        munmap(w->packed, w->packed_bytes);
    free(w->vectors);
    free(w->layers);
    free(w);
    *weights = NULL;
}
