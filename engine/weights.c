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

static const float *widen_norm(const struct tensor *t, float **at)
{
    if (t == NULL)
        return NULL;
    float *norm = *at;
    dtype_to_f32(t->type, t->data, norm, t->shape[0]);
    *at += t->shape[0];
    return norm;
}

static void widen_norms(struct weights *w, const struct model_weights *source)
{
    float *at = w->norms;
    for (uint32_t l = 0; l < w->n_layers; l++) {
        const struct model_layer *in = &source->layers[l];
        struct layer_weights *out = &w->layers[l];
        out->attn_norm = widen_norm(in->attn_norm, &at);
        out->ffn_norm = widen_norm(in->ffn_norm, &at);
        out->q_norm = widen_norm(in->q_norm, &at);
        out->k_norm = widen_norm(in->k_norm, &at);
    }
    w->final_norm = widen_norm(source->final_norm, &at);
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
    size_t norm_values = config->n_layers * (2 * (size_t)config->n_embd + 2 * (size_t)config->head_dim);
    size_t n_q = (size_t)config->n_heads * config->head_dim;
    size_t n_in_max = config->n_embd > config->n_ffn ? config->n_embd : config->n_ffn;
    n_in_max = n_q > n_in_max ? n_q : n_in_max;
    w->embed = source->embed;
    w->n_layers = config->n_layers;
    w->layers = calloc(config->n_layers, sizeof *w->layers);
    w->norms = malloc((norm_values + config->n_embd) * sizeof *w->norms);
    w->packed_bytes = measure(source, config->n_layers, backend, f32_math);
    if (w->layers == NULL || w->norms == NULL || map_packed(w) != ST_OK ||
        pack_all(w, source, backend, f32_math, n_in_max, team) != ST_OK) {
        size_t bytes = w->packed_bytes;
        weights_destroy(&w);
        return error_set(err, ST_NO_MEMORY, "out of memory for %zu bytes of packed weights", bytes);
    }
    widen_norms(w, source);
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
    free(w->norms);
    free(w->layers);
    free(w);
    *weights = NULL;
}
