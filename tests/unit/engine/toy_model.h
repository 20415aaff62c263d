/* toy_model.h - models in memory for the tests, of odd shapes and random weights. */
#ifndef BATON_TESTS_TOY_MODEL_H
#define BATON_TESTS_TOY_MODEL_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/philox.h"
#include "engine/quantised.h"

#define TOY_EXPERTS 5u

static uint32_t random_counter;

static inline uint32_t random_u32(void)
{
    uint32_t word[4] = { random_counter++, 1, 0, 0 };
    philox4x32(word, (uint32_t[]){ 3, 9 }, word);
    return word[0];
}

static inline float random_f32(void)
{
    return (float)(int32_t)random_u32() * 0x1p-31f;
}

/* A model in memory. */
struct toy {
    enum contract_class class; /* of the engines made of it */
    struct model_config config;
    struct model_weights weights;
    struct model_expert experts[3 * TOY_EXPERTS];
    struct tensor tensors[2 + (17 + 3 * TOY_EXPERTS) * 3];
    uint32_t n_tensors;
};

/* rows 0: a vector around one. Values are within spread of nothing, those of a block of one scale. */
static inline struct tensor random_tensor(enum dtype type, uint32_t rows, uint32_t cols, float spread)
{
    size_t values = (size_t)(rows > 0 ? rows : 1) * cols;
    struct tensor t = { .name = "t", .type = type, .n_dims = rows > 0 ? 2 : 1, .bytes = dtype_row_bytes(type, values) };
    t.shape[0] = rows > 0 ? rows : cols;
    t.shape[1] = rows > 0 ? cols : 0;
    uint8_t *data = malloc(t.bytes);
    assert_non_null(data);
    size_t block = dtype_block_bytes(type);
    for (size_t at = 0; at < t.bytes; at += block) {
        for (size_t i = 0; i < block; i++)
            data[at + i] = (uint8_t)random_u32();
        float x = rows > 0 ? random_f32() * spread : 1.0f + 0.1f * random_f32();
        float d = type == DTYPE_Q8_0 ? fabsf(x) / 100 : fabsf(x) / 7;
        uint16_t half[2] = { f32_to_f16(d), f32_to_f16(-7.5f * d) };
        uint16_t brain = f32_to_bf16(x);
        if (type == DTYPE_F32)
            memcpy(data + at, &x, sizeof x);
        else if (type == DTYPE_BF16)
            memcpy(data + at, &brain, sizeof brain);
        else if (type == DTYPE_F16)
            memcpy(data + at, &(uint16_t){ f32_to_f16(x) }, 2);
        else
            memcpy(data + at, half, quant_has_minimum(type) ? 4 : 2);
    }
    t.data = data;
    return t;
}

static inline const struct tensor *add_tensor(struct toy *toy, enum dtype type, uint32_t rows, uint32_t cols)
{
    struct tensor *t = &toy->tensors[toy->n_tensors++];
    *t = random_tensor(type, rows, cols, 2.0f / sqrtf((float)cols));
    return t;
}

static inline void add_experts(struct toy *toy, uint32_t layer, enum dtype type)
{
    const struct model_config *c = &toy->config;
    struct model_layer *w = &toy->weights.layers[layer];
    struct model_expert *experts = toy->experts + (size_t)layer * TOY_EXPERTS;
    w->router = add_tensor(toy, DTYPE_F32, c->n_experts, c->n_embd);
    w->experts = experts;
    for (uint32_t e = 0; e < c->n_experts; e++)
        experts[e] = (struct model_expert){ add_tensor(toy, type, c->n_expert_ffn, c->n_embd),
                                            add_tensor(toy, type, c->n_expert_ffn, c->n_embd),
                                            add_tensor(toy, type, c->n_embd, c->n_expert_ffn) };
}

/* types: embedding, attention, ffn. Values have one of their own where weights are rounded, as files mix them. */
static inline void toy_create(struct toy *toy, const struct model_config *config, const enum dtype types[3])
{
    *toy = (struct toy){ .config = *config };
    const struct model_config *c = config;
    uint32_t n_q = c->n_heads * c->head_dim;
    uint32_t n_kv = c->n_kv_heads * c->head_dim;
    toy->weights.embed = toy->weights.head = add_tensor(toy, types[0], c->n_vocab, c->n_embd);
    toy->weights.final_norm = add_tensor(toy, DTYPE_F32, 0, c->n_embd);
    for (uint32_t l = 0; l < c->n_layers; l++) {
        struct model_layer *w = &toy->weights.layers[l];
        w->attn_norm = add_tensor(toy, DTYPE_F32, 0, c->n_embd);
        w->ffn_norm = add_tensor(toy, DTYPE_F32, 0, c->n_embd);
        if (c->post_norms) {
            w->attn_post_norm = add_tensor(toy, DTYPE_F32, 0, c->n_embd);
            w->ffn_post_norm = add_tensor(toy, DTYPE_BF16, 0, c->n_embd);
        }
        if (c->qk_norm) {
            w->q_norm = add_tensor(toy, DTYPE_BF16, 0, c->head_dim);
            w->k_norm = add_tensor(toy, DTYPE_BF16, 0, c->head_dim);
        }
        if (c->qkv_bias) {
            w->bq = add_tensor(toy, DTYPE_F16, 0, n_q);
            w->bk = add_tensor(toy, DTYPE_F16, 0, n_kv);
            w->bv = add_tensor(toy, DTYPE_F32, 0, n_kv);
        }
        w->wq = add_tensor(toy, types[1], n_q, c->n_embd);
        w->wk = add_tensor(toy, types[1], n_kv, c->n_embd);
        w->wv = add_tensor(toy, types[1] == DTYPE_F32 ? DTYPE_F32 : DTYPE_Q8_0, n_kv, c->n_embd);
        w->wo = add_tensor(toy, types[1], c->n_embd, n_q);
        if (c->n_experts > 0 && !c->dense[l]) {
            add_experts(toy, l, types[2]);
            continue;
        }
        w->gate = add_tensor(toy, types[2], c->n_ffn, c->n_embd);
        w->up = add_tensor(toy, types[2], c->n_ffn, c->n_embd);
        w->down = add_tensor(toy, types[2], c->n_embd, c->n_ffn);
    }
}

static inline void toy_release(struct toy *toy)
{
    for (uint32_t i = 0; i < toy->n_tensors; i++)
        free((void *)(uintptr_t)toy->tensors[i].data);
}

static const struct model_config llama_shape = {
    .arch = ARCH_LLAMA,
    .n_layers = 3,
    .n_embd = 96,
    .n_heads = 3,
    .n_kv_heads = 1,
    .head_dim = 32,
    .n_ffn = 160,
    .n_vocab = 301,
    .max_positions = 512,
    .rms_eps = 1e-5f,
    .rope = { .theta = 10000 },
    .rope_interleaved = true,
    .tied_embeddings = true,
};
static const struct model_config qwen_shape = {
    .arch = ARCH_QWEN3,
    .n_layers = 2,
    .n_embd = 64,
    .n_heads = 4,
    .n_kv_heads = 2,
    .head_dim = 64,
    .n_ffn = 224,
    .n_vocab = 515,
    .max_positions = 512,
    .rms_eps = 1e-6f,
    .rope = { .theta = 1000000 },
    .qk_norm = true,
    .tied_embeddings = true,
};
/* What no model has all at once. */
static const struct model_config odd_shape = {
    .arch = ARCH_QWEN3,
    .n_layers = 2,
    .n_embd = 64,
    .n_heads = 4,
    .n_kv_heads = 2,
    .head_dim = 64,
    .n_ffn = 224,
    .n_vocab = 515,
    .max_positions = 512,
    .rms_eps = 1e-6f,
    .rope = { .theta = 1000000,
              .scaling = ROPE_YARN,
              .factor = 8,
              .original_positions = 64,
              .low = ROPE_YARN_LOW,
              .high = ROPE_YARN_HIGH },
    .qk_norm = true,
    .qkv_bias = true,
    .window = 45,
    .windowed = { [1] = true },
    .tied_embeddings = true,
};

/* Experts in two of three layers, more rows than a tile for some of them and none for others. */
static const struct model_config experts_shape = {
    .arch = ARCH_QWEN3MOE,
    .n_layers = 3,
    .n_embd = 96,
    .n_heads = 3,
    .n_kv_heads = 1,
    .head_dim = 32,
    .n_ffn = 160,
    .n_vocab = 301,
    .max_positions = 512,
    .rms_eps = 1e-5f,
    .rope = { .theta = 10000 },
    .qk_norm = true,
    .n_experts = TOY_EXPERTS,
    .n_experts_used = 2,
    .n_expert_ffn = 64,
    .experts_sum_to_one = true,
    .dense = { [1] = true },
    .tied_embeddings = true,
};

/* All that Gemma 2, Gemma 3 and Phi-3 have. */
static const struct model_config gemma_shape = {
    .arch = ARCH_GEMMA3,
    .n_layers = 3,
    .n_embd = 96,
    .n_heads = 3,
    .n_kv_heads = 1,
    .head_dim = 32,
    .n_ffn = 160,
    .n_vocab = 301,
    .max_positions = 512,
    .rms_eps = 1e-5f,
    .rope = { .theta = 1000000 },
    .local_rope = { .theta = 100 },
    .n_rotated = 24,
    .qk_norm = true,
    .post_norms = true,
    .norms_from_one = true,
    .activation = ACTIVATION_GELU,
    .embed_scale = 9.8f,
    .attention_scale = 0.3f,
    .attention_cap = 2.5f,
    .logit_cap = 6.0f,
    .window = 21,
    .windowed = { true, false, true },
    .tied_embeddings = true,
};

#endif
