/* adapter.h - a LoRA adapter: for some of a model's linear layers y = W x two small
 * matrices, which make it y = W x + scale * B (A x) (Hu et al., arXiv 2106.09685).
 * PATH is a folder as PEFT writes it: adapter_config.json and
 * adapter_model.safetensors. Immutable once open: any thread may read. */
#ifndef BATON_ENGINE_ADAPTER_H
#define BATON_ENGINE_ADAPTER_H

#include "common/status.h"
#include "engine/model.h"

#define ADAPTER_MAX_RANK 1024u

/* The layers that may have one, in the order of struct layer_weights, as PEFT names them. */
#define ADAPTER_MODULES(X)                                                                                             \
    X(Q, "self_attn.q_proj")                                                                                           \
    X(K, "self_attn.k_proj")                                                                                           \
    X(V, "self_attn.v_proj")                                                                                           \
    X(O, "self_attn.o_proj")                                                                                           \
    X(GATE, "mlp.gate_proj")                                                                                           \
    X(UP, "mlp.up_proj")                                                                                               \
    X(DOWN, "mlp.down_proj")

enum adapter_module {
#define X(name, text) ADAPTER_##name,
    ADAPTER_MODULES(X)
#undef X
        ADAPTER_MODULE_COUNT,
    ADAPTER_NONE = ADAPTER_MODULE_COUNT, /* a layer that cannot have one */
};

/* F32: a is [rank, n_in], b [n_out, rank]; data NULL: the layer has none. */
struct adapter_pair {
    struct tensor a, b;
};

struct adapter {
    uint32_t rank, n_layers;
    float scale;
    struct adapter_pair *pairs; /* [n_layers][ADAPTER_MODULE_COUNT] */
    float *values;              /* of all pairs */
    uint64_t fingerprint;       /* XXH3-64 over all of the above: equal ones compute the same */
};

/* For a model of this shape. B of q and k is brought into the model's own order of rotary pairs. ST_INVALID or
 * ST_UNSUPPORTED naming file, field or tensor, what was found and what is allowed. */
MUST_CHECK status adapter_open(const char *path, const struct model_config *config, struct adapter **out,
                               struct error *err);
void adapter_close(struct adapter **adapter);

static inline const struct adapter_pair *adapter_pair_at(const struct adapter *a, uint32_t layer,
                                                         enum adapter_module module)
{
    return &a->pairs[layer * ADAPTER_MODULE_COUNT + module];
}

/* The shape of the layer that a pair goes with. */
void adapter_module_shape(const struct model_config *config, enum adapter_module module, uint32_t *n_out,
                          uint32_t *n_in);

#endif
