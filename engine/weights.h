/* weights.h - a model's weights in the backend's layout, packed once.
 * Vectors and packed matrices stand in one piece of memory: private, or an image (weight_image.h) that a
 * store keeps for other processes and for later ones. For a backend with a device they are packed there, too, and then
 * copied into its memory as they lie, and the embeddings as well; the host keeps its copy. Vectors are the backend's
 * own addresses. */
#ifndef BATON_ENGINE_WEIGHTS_H
#define BATON_ENGINE_WEIGHTS_H

#include "engine/backend.h"
#include "engine/model.h"
#include "engine/team.h"
#include "engine/weight_image.h"

struct expert_weights {
    struct matrix gate, up, down;
};

struct layer_weights {
    const float *attn_norm, *ffn_norm;           /* [n_embd] */
    const float *attn_post_norm, *ffn_post_norm; /* [n_embd], NULL without */
    const float *q_norm, *k_norm;                /* [head_dim], NULL without */
    const float *bq, *bk, *bv;                   /* [heads * head_dim], NULL without */
    struct matrix wq, wk, wv, wo;
    struct matrix gate, up, down;   /* n_out is 0 where there are experts */
    struct matrix router;           /* n_out is 0 without */
    struct expert_weights *experts; /* [n_experts], NULL without */
};

struct weights {
    struct embeddings embed;
    const float *final_norm;
    const float *rope_factors; /* [head_dim / 2], the host's, NULL without */
    struct matrix head;
    uint32_t n_layers, n_experts;
    bool norms_from_one;
    struct layer_weights *layers;
    struct expert_weights *experts; /* of all layers */
    struct weight_image image;      /* all norms, biases and factors, widened; behind them what is packed */
    struct device *device;          /* NULL: the host computes */
    struct device_memory on_device; /* the image's content */
    bool shared;                    /* with whom the store serves */
    bool packed_here;               /* by this process */
};

/* Who keeps packed weights beyond this process. Calls come from weights_create alone; key is below
 * WEIGHT_IMAGE_KEY_BYTES. */
struct weights_store {
    void *ctx;
    /* ST_OK: *fd is an image of the key, the caller's to close. ST_NOT_FOUND: this process is to pack it and to
     * call give. ST_CANCELLED: the process was told to end. Anything else: the store is of no use.
     * refused: what it gave before is damaged and must not be given again. */
    status (*take)(void *ctx, const char *key, bool refused, int *fd);
    /* fd is borrowed. False: it does not keep it. */
    bool (*give)(void *ctx, const char *key, const struct weight_image *image);
};

struct weights_options {
    const struct model_config *config;  /* borrowed for the call */
    const struct model_weights *source; /* borrowed as long as the weights live */
    const struct model *model;          /* whose source it is, to read ahead and to drop pages; NULL: nobody's */
    const struct backend *backend;
    enum contract_class class;
    bool f32_math;
    struct team *team;
    const struct weights_store *store; /* NULL: private memory; needs model */
};

MUST_CHECK status weights_create(const struct weights_options *options, struct weights **out, struct error *err);
void weights_destroy(struct weights **weights);

#endif
