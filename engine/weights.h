/* weights.h - a model's weights in the backend's layout, packed once.
 * Packed matrices stand in one anonymous mapping that asks for huge pages. */
#ifndef BATON_ENGINE_WEIGHTS_H
#define BATON_ENGINE_WEIGHTS_H

#include "engine/backend.h"
#include "engine/model.h"
#include "engine/team.h"

struct layer_weights {
    const float *attn_norm, *ffn_norm; /* [n_embd] */
    const float *q_norm, *k_norm;      /* [head_dim], NULL without */
    const float *bq, *bk, *bv;         /* [heads * head_dim], NULL without */
    struct matrix wq, wk, wv, wo, gate, up, down;
};

struct weights {
    const struct tensor *embed; /* read where it lies, a row a token */
    const float *final_norm;
    const float *rope_factors; /* [head_dim / 2], NULL without */
    struct matrix head;
    uint32_t n_layers;
    struct layer_weights *layers;
    uint8_t *packed; /* NULL when the backend packs nothing */
    size_t packed_bytes;
    float *vectors; /* all norms, biases and factors, widened */
};

MUST_CHECK status weights_create(const struct model_config *config, const struct model_weights *source,
                                 const struct backend *backend, bool f32_math, struct team *team, struct weights **out,
                                 struct error *err);
void weights_destroy(struct weights **weights);

#endif
