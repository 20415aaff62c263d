#include "engine/weights.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/clock.h"
#include "common/failpoint.h"
#include "common/log.h"
#include "engine/engine.h"

#define VECTOR_ALIGN  64u
#define STORE_REFUSED 2 /* images that are refused before the store is left alone */

#define MATRICES_A_LAYER 8u /* besides its experts */

/* One matrix to pack, as the team's item sees it. */
struct packing {
    const struct backend *backend;
    const struct tensor *tensor;
    const struct matrix *matrix;
    float *rows; /* [threads][n_in_max]; NULL: matrices are described only */
    size_t row_stride;
    struct device_memory begin; /* of the matrices */
    uint64_t shape;             /* hash of the descriptions */
};

static void pack_item(void *ctx, uint32_t item, uint32_t thread)
{
    struct packing *p = ctx;
    p->backend->pack_panel(p->tensor, p->matrix, item, p->rows + thread * p->row_stride);
}

/* A matrix of a layer: where it comes from, NULL where the layer has none, and where it goes. */
struct place {
    const struct tensor *from;
    struct matrix *to;
};

static uint32_t count_places(const struct weights *w, const struct model_layer *in)
{
    return in->experts == NULL ? MATRICES_A_LAYER : MATRICES_A_LAYER + 3 * w->n_experts;
}

/* Matrix i of a layer, in the order of struct layer_weights. */
static struct place find_place(const struct model_layer *in, struct layer_weights *out, uint32_t i)
{
    const struct place places[MATRICES_A_LAYER] = {
        { in->wq, &out->wq },     { in->wk, &out->wk }, { in->wv, &out->wv },     { in->wo, &out->wo },
        { in->gate, &out->gate }, { in->up, &out->up }, { in->down, &out->down }, { in->router, &out->router },
    };
    if (i < MATRICES_A_LAYER)
        return places[i];
    const struct model_expert *expert = &in->experts[(i - MATRICES_A_LAYER) / 3];
    struct expert_weights *packed = &out->experts[(i - MATRICES_A_LAYER) / 3];
    const struct place of_expert[3] = { { expert->gate, &packed->gate },
                                        { expert->up, &packed->up },
                                        { expert->down, &packed->down } };
    return of_expert[(i - MATRICES_A_LAYER) % 3];
}

static size_t measure(struct weights *w, const struct model_weights *source, const struct backend *backend,
                      bool f32_math)
{
    size_t bytes = backend->pack_bytes(source->head, f32_math);
    for (uint32_t l = 0; l < w->n_layers; l++)
        for (uint32_t i = 0; i < count_places(w, &source->layers[l]); i++) {
            const struct place place = find_place(&source->layers[l], &w->layers[l], i);
            bytes += place.from == NULL ? 0 : backend->pack_bytes(place.from, f32_math);
        }
    return bytes;
}

static void hash_description(struct packing *p, const struct matrix *m)
{
    const uint64_t words[] = { m->type, m->rule,        m->n_out,
                               m->n_in, m->panel_bytes, m->panel_bytes ? (uint64_t)(m->data.host - p->begin.host) : 0 };
    p->shape = XXH3_64bits_withSeed(words, sizeof words, p->shape);
}

/* Packs or describes at *at and moves it on. */
static void pack_one(struct packing *p, const struct tensor *t, bool f32_math, struct team *team, uint8_t **at,
                     struct matrix *out)
{
    size_t bytes = p->backend->pack_bytes(t, f32_math);
    p->backend->pack_describe(t, f32_math, *at, out);
    hash_description(p, out);
    if (bytes == 0)
        return;
    if (p->begin.device != 0)
        out->data.device = p->begin.device + (uint64_t)(*at - p->begin.host);
    p->tensor = t;
    p->matrix = out;
    if (p->rows != NULL)
        team_run(team, pack_item, p, matrix_panels(out));
    *at += bytes;
}

static void pack_all(struct packing *p, struct weights *w, const struct weights_options *o)
{
    uint8_t *at = p->begin.host;
    for (uint32_t l = 0; l < w->n_layers; l++)
        for (uint32_t i = 0; i < count_places(w, &o->source->layers[l]); i++) {
            const struct place place = find_place(&o->source->layers[l], &w->layers[l], i);
            if (place.from != NULL)
                pack_one(p, place.from, o->f32_math, o->team, &at, place.to);
        }
    pack_one(p, o->source->head, o->f32_math, o->team, &at, &w->head);
    if (w->head.rule == RULE_INT8)
        w->head.rule = RULE_INT16; /* contract.h says why */
}

#define NORMS_A_LAYER   6u
#define VECTORS_A_LAYER 9u

/* The vectors of layer l, norms first, NULL where the model has none, and where they go. */
static void list_vectors(const struct model_layer *in, struct layer_weights *out,
                         const struct tensor *tensors[VECTORS_A_LAYER], const float **places[VECTORS_A_LAYER])
{
    const struct tensor *t[] = { in->attn_norm,     in->ffn_norm, in->q_norm, in->k_norm, in->attn_post_norm,
                                 in->ffn_post_norm, in->bq,       in->bk,     in->bv };
    const float **p[] = { &out->attn_norm,     &out->ffn_norm, &out->q_norm, &out->k_norm, &out->attn_post_norm,
                          &out->ffn_post_norm, &out->bq,       &out->bk,     &out->bv };
    _Static_assert(sizeof t / sizeof *t == VECTORS_A_LAYER && sizeof p / sizeof *p == VECTORS_A_LAYER, "one for one");
    for (uint32_t i = 0; i < VECTORS_A_LAYER; i++) {
        tensors[i] = t[i];
        places[i] = p[i];
    }
}

/* Behind the *used values at base, which may be NULL: then they are counted only. */
static const float *widen_vector(const struct tensor *t, bool from_one, float *base, bool write, size_t *used)
{
    if (t == NULL)
        return NULL;
    float *vector = base == NULL ? NULL : base + *used;
    if (write)
        dtype_to_f32(t->type, t->data, vector, t->shape[0]);
    for (uint64_t i = 0; write && from_one && i < t->shape[0]; i++)
        vector[i] += 1.0f;
    *used += t->shape[0];
    return vector;
}

/* Values of all vectors; with base their places are there, and with write they are put there. */
static size_t widen_vectors(struct weights *w, const struct model_weights *source, float *base, bool write)
{
    size_t used = 0;
    for (uint32_t l = 0; l < w->n_layers; l++) {
        const struct tensor *t[VECTORS_A_LAYER];
        const float **places[VECTORS_A_LAYER];
        list_vectors(&source->layers[l], &w->layers[l], t, places);
        for (uint32_t i = 0; i < VECTORS_A_LAYER; i++)
            *places[i] = widen_vector(t[i], w->norms_from_one && i < NORMS_A_LAYER, base, write, &used);
    }
    w->final_norm = widen_vector(source->final_norm, w->norms_from_one, base, write, &used);
    w->rope_factors = widen_vector(source->rope_factors, false, base, write, &used);
    return used;
}

/* ---- in memory of one's own or in an image ------------------------------------------------- */

struct sizes {
    size_t vectors, packed; /* bytes; where the matrices begin, and how many they take */
};

static struct sizes measure_all(struct weights *w, const struct weights_options *o)
{
    size_t vectors = widen_vectors(w, o->source, NULL, false) * sizeof(float);
    return (struct sizes){ .vectors = (vectors + VECTOR_ALIGN - 1) / VECTOR_ALIGN * VECTOR_ALIGN,
                           .packed = measure(w, o->source, o->backend, o->f32_math) };
}

static size_t longest_row(const struct model_config *c)
{
    const size_t widths[] = { c->n_embd, c->n_ffn, c->n_expert_ffn, (size_t)c->n_heads * c->head_dim };
    size_t most = 0;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        most = widths[i] > most ? widths[i] : most;
    return most;
}

/* Points everything into the image; the answer is a hash of where. */
static uint64_t describe(struct weights *w, const struct weights_options *o, struct sizes sizes)
{
    struct packing p = { .backend = o->backend, .begin = { .host = w->image.content + sizes.vectors } };
    (void)widen_vectors(w, o->source, (float *)(void *)w->image.content, false);
    pack_all(&p, w, o);
    return p.shape;
}

/* Fills the image. *shape as from describe(). */
static status fill(struct weights *w, const struct weights_options *o, struct sizes sizes, uint64_t *shape)
{
    struct packing p = { .backend = o->backend,
                         .row_stride = longest_row(o->config),
                         .begin = { .host = w->image.content + sizes.vectors } };
    p.rows = malloc(team_threads(o->team) * p.row_stride * sizeof *p.rows);
    if (p.rows == NULL)
        return ST_NO_MEMORY;
    if (o->model != NULL)
        model_will_need(o->model);
    (void)widen_vectors(w, o->source, (float *)(void *)w->image.content, true);
    pack_all(&p, w, o);
    *shape = p.shape;
    w->packed_here = true;
    free(p.rows);
    return ST_OK;
}

static void drop_source(const struct weights *w, const struct weights_options *o, const struct tensor *t)
{
    if (t != NULL && t != o->source->embed && o->backend->pack_bytes(t, o->f32_math) > 0)
        model_drop(o->model, t, w->shared);
}

/* What was packed is not read from the file again: its pages go, and where the packed form outlives this
 * process the file's cached ones as well. */
static void drop_sources(const struct weights *w, const struct weights_options *o)
{
    if (o->model == NULL)
        return;
    drop_source(w, o, o->source->head);
    for (uint32_t l = 0; l < w->n_layers; l++)
        for (uint32_t i = 0; i < count_places(w, &o->source->layers[l]); i++)
            drop_source(w, o, find_place(&o->source->layers[l], &w->layers[l], i).from);
}

static status pack_private(struct weights *w, const struct weights_options *o, struct sizes sizes, struct error *err)
{
    uint64_t shape;
    status st = weight_image_create_private(sizes.vectors + sizes.packed, &w->image, err);
    if (st != ST_OK)
        return st;
    if (fill(w, o, sizes, &shape) != ST_OK)
        return error_set(err, ST_NO_MEMORY, "out of memory for packing weights");
    w->image.pages = page_kind_of(w->image.map);
    return ST_OK;
}

static status pack_for_all(struct weights *w, const struct weights_options *o, struct sizes sizes, const char *key,
                           struct error *err)
{
    uint64_t shape;
    status st = weight_image_create(key, sizes.vectors + sizes.packed, &w->image, err);
    if (st != ST_OK)
        return st;
    (void)FAILPOINT("weights.PACKING");
    if (fill(w, o, sizes, &shape) != ST_OK)
        return error_set(err, ST_NO_MEMORY, "out of memory for packing weights");
    st = weight_image_seal(&w->image, shape, o->team, err);
    if (st != ST_OK)
        return st;
    (void)FAILPOINT("weights.GIVING");
    w->shared = o->store->give(o->store->ctx, key, &w->image);
    weight_image_close_fd(&w->image);
    return ST_OK;
}

/* ST_CORRUPT: it is not what it should be. */
static status map_held(struct weights *w, const struct weights_options *o, struct sizes sizes, const char *key, int fd,
                       struct error *err)
{
    status st = weight_image_open(fd, key, sizes.vectors + sizes.packed, &w->image, err);
    if (st != ST_OK)
        return st;
    if (describe(w, o, sizes) != w->image.shape) {
        w->image.fd = -1;
        weight_image_close(&w->image);
        return error_set(err, ST_CORRUPT, "packed weights are refused: their layout is another");
    }
    w->shared = true;
    weight_image_close_fd(&w->image);
    return ST_OK;
}

static void name_key(const struct weights_options *o, char key[WEIGHT_IMAGE_KEY_BYTES])
{
    snprintf(key, WEIGHT_IMAGE_KEY_BYTES, "%016" PRIx64 "-%.32s-%s", model_fingerprint(o->model), o->backend->name,
             o->f32_math ? "f32" : engine_class_name(o->class));
}

static status take_or_pack(struct weights *w, const struct weights_options *o, struct sizes sizes, struct error *err)
{
    char key[WEIGHT_IMAGE_KEY_BYTES];
    name_key(o, key);
    for (int refused = 0; refused < STORE_REFUSED; refused++) {
        int fd = -1;
        status st = o->store->take(o->store->ctx, key, refused > 0, &fd);
        if (st == ST_NOT_FOUND)
            return pack_for_all(w, o, sizes, key, err);
        if (st == ST_CANCELLED)
            return error_set(err, st, "told to end while waiting for packed weights");
        if (st != ST_OK)
            break;
        st = map_held(w, o, sizes, key, fd, err);
        if (st == ST_OK)
            return ST_OK;
        close(fd);
        log_warn("packed weights are refused", "key=%s error=\"%s\"", key, err->text);
    }
    return pack_private(w, o, sizes, err);
}

/* ---- in a device's memory ------------------------------------------------------------------- */

#define COPY_DEADLINE_NS (60 * 1000000000ull) /* for hundreds of gigabytes over a slow link */

static status copy_one(struct device_stream *s, const void *from, size_t bytes, struct device_memory *to,
                       struct error *err)
{
    struct device_memory memory;
    status st = device_allocate(s->device, DEVICE_LOCAL, bytes, &memory, err);
    if (st != ST_OK)
        return st;
    to->device = memory.device;
    return s->device->ops->copy_in(s, memory.device, from, bytes, err);
}

/* Points vectors and matrices into the device's copy. */
static void describe_on_device(struct weights *w, const struct weights_options *o, struct sizes sizes)
{
    struct packing p = { .backend = o->backend,
                         .begin = { w->image.content + sizes.vectors, w->on_device.device + sizes.vectors } };
    const float *rope_factors = w->rope_factors;
    (void)widen_vectors(w, o->source, device_address(w->device, w->on_device), false);
    w->rope_factors = rope_factors;
    pack_all(&p, w, o);
}

static status copy_to_device(struct weights *w, const struct weights_options *o, struct sizes sizes, struct error *err)
{
    const struct device_ops *ops = w->device->ops;
    const struct tensor *embed = o->source->embed;
    struct device_stream *stream = NULL;
    status st = ops->stream_create(w->device, &stream, err);
    if (st == ST_OK)
        st = copy_one(stream, w->image.content, w->image.content_bytes, &w->on_device, err);
    if (st == ST_OK)
        st = copy_one(stream, embed->data, embed->bytes, &w->embed.data, err);
    if (stream != NULL) { /* also after an error: what was queued reads host memory */
        status end = ops->stream_synchronise(stream, clock_now_ns() + COPY_DEADLINE_NS, st == ST_OK ? err : NULL);
        st = st == ST_OK ? end : st;
    }
    ops->stream_destroy(&stream);
    if (st == ST_OK)
        describe_on_device(w, o, sizes);
    return st;
}

static struct embeddings describe_embeddings(const struct tensor *t)
{
    return (struct embeddings){
        .type = t->type,
        .n_vocab = (uint32_t)t->shape[0],
        .n_embd = (uint32_t)t->shape[1],
        .data = { .host = (uint8_t *)(uintptr_t)t->data }, /* only read */
    };
}

static status take_layers(struct weights *w, const struct model_weights *source, struct error *err)
{
    w->layers = calloc(w->n_layers, sizeof *w->layers);
    w->experts = calloc((size_t)w->n_layers * w->n_experts + 1, sizeof *w->experts);
    if (w->layers == NULL || w->experts == NULL)
        return error_set(err, ST_NO_MEMORY, "out of memory for the weights");
    for (uint32_t l = 0; l < w->n_layers; l++)
        w->layers[l].experts = source->layers[l].experts == NULL ? NULL : w->experts + (size_t)l * w->n_experts;
    return ST_OK;
}

status weights_create(const struct weights_options *options, struct weights **out, struct error *err)
{
    ASSERT(options->store == NULL || options->model != NULL);
    struct weights *w = calloc(1, sizeof *w);
    if (w == NULL)
        return error_set(err, ST_NO_MEMORY, "out of memory for the weights");
    w->image.fd = -1;
    w->embed = describe_embeddings(options->source->embed);
    w->device = options->backend->device;
    w->n_layers = options->config->n_layers;
    w->n_experts = options->config->n_experts;
    w->norms_from_one = options->config->norms_from_one;
    status st = take_layers(w, options->source, err);
    if (st == ST_OK) {
        struct sizes sizes = measure_all(w, options);
        bool share = options->store != NULL && sizes.packed > 0;
        st = share ? take_or_pack(w, options, sizes, err) : pack_private(w, options, sizes, err);
        if (st == ST_OK && w->device != NULL)
            st = copy_to_device(w, options, sizes, err);
    }
    if (st != ST_OK) {
        weights_destroy(&w);
        return st;
    }
    if (w->packed_here)
        drop_sources(w, options);
    *out = w;
    return ST_OK;
}

void weights_destroy(struct weights **weights)
{
    struct weights *w = *weights;
    if (w == NULL)
        return;
    if (w->device != NULL) {
        w->embed.data.host = NULL; /* the file's */
        device_release(w->device, &w->embed.data);
        device_release(w->device, &w->on_device);
    }
    weight_image_close(&w->image);
    free(w->experts);
    free(w->layers);
    free(w);
    *weights = NULL;
}
