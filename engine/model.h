/* model.h - a model read from disk: its shape, its tokenizer, its weights.
 * PATH is a .gguf file or a Hugging Face folder. */
#ifndef BATON_ENGINE_MODEL_H
#define BATON_ENGINE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "engine/kv_layout.h"
#include "engine/model_defaults.h"
#include "engine/rope.h"
#include "engine/tensor.h"

struct tokenizer;
struct chat_template;

#define MODEL_MAX_LAYERS   256
#define MODEL_MAX_HEAD_DIM 1024u

#define MODEL_MAX_EXPERTS 1024u

/* A row of architecture.c each. */
enum model_arch {
    ARCH_LLAMA,
    ARCH_MISTRAL,
    ARCH_MIXTRAL,
    ARCH_QWEN2,
    ARCH_QWEN3,
    ARCH_QWEN3MOE,
    ARCH_PHI3,
    ARCH_GEMMA2,
    ARCH_GEMMA3,
};
enum activation { ACTIVATION_SILU, ACTIVATION_GELU }; /* GELU: by tanh */

/* The shape and constants of the network; all counts are plain numbers. */
struct model_config {
    enum model_arch arch;
    uint32_t n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ffn, n_vocab;
    uint32_t max_positions;
    float rms_eps;
    struct rope_config rope;
    struct rope_config local_rope;              /* of windowed layers; theta 0: they rotate as the others do */
    uint32_t n_rotated;                         /* the first dimensions of a head, which are rotated; 0: all */
    uint32_t n_rope_factors;                    /* 0, or half of the rotated dimensions */
    float rope_factors[MODEL_MAX_HEAD_DIM / 2]; /* what a folder's config divides the frequencies by */
    bool rope_interleaved;                      /* GGUF's llama pairs (2i, 2i+1); Hugging Face pairs (i, i + d/2) */
    bool qk_norm;                               /* Qwen3 */
    bool qkv_bias;                              /* Qwen2 */
    bool fused;          /* Phi-3: wq, wk and wv are the rows of one tensor, gate and up of another */
    bool post_norms;     /* Gemma: attention's and the network's results are normed before they are added */
    bool norms_from_one; /* Gemma's folders: what the files hold of a norm is its distance from one */
    enum activation activation;
    float embed_scale;     /* of embeddings; 0: none */
    float attention_scale; /* of queries; 0: 1 / sqrt(head_dim) */
    float attention_cap;   /* soft caps of scores and of logits; 0: none */
    float logit_cap;
    uint32_t window; /* positions that a row of a windowed layer sees; 0: there is none */
    bool windowed[MODEL_MAX_LAYERS];
    uint32_t n_experts, n_experts_used; /* a layer's, and of them a token's; 0: every layer has one network of n_ffn */
    uint32_t n_expert_ffn;              /* the width of each */
    bool experts_sum_to_one;            /* the weights of a token's experts, or those of all */
    bool dense[MODEL_MAX_LAYERS];       /* where others have experts: a network of n_ffn */
    bool tied_embeddings;
};

/* An expert. */
struct model_expert {
    const struct tensor *gate, *up, *down;
};

struct model_layer {
    const struct tensor *attn_norm, *wq, *wk, *wv, *wo;
    const struct tensor *q_norm, *k_norm, *bq, *bk, *bv; /* NULL without */
    const struct tensor *attn_post_norm, *ffn_post_norm; /* NULL without */
    const struct tensor *ffn_norm, *gate, *up, *down;    /* the last three are NULL where there are experts */
    const struct tensor *router;                         /* [n_experts, n_embd], NULL without */
    const struct model_expert *experts;                  /* [n_experts], NULL without */
};

/* What the forward pass needs, by role; every shape was checked at load. */
struct model_weights {
    const struct tensor *embed, *final_norm, *head; /* head == embed when tied */
    const struct tensor *rope_factors;              /* F32 [rotated dimensions / 2], NULL without */
    struct model_layer layers[MODEL_MAX_LAYERS];
    struct model_expert *experts; /* all layers' */
    struct tensor *views;         /* parts of the file's tensors */
    struct tensor config_factors;
};

struct model; /* owns the file mappings */

/* Without flags metadata, tokenizer and template only: what the router needs (no weights are touched). */
enum {
    MODEL_WEIGHTS = 1,
    MODEL_DEFAULTS = 2, /* also how its makers would have it sampled */
    MODEL_NO_TEXT = 4,  /* neither tokenizer nor template, which take most of the time: what a worker needs */
};
MUST_CHECK status model_open(const char *path, unsigned flags, struct model **out, struct error *err);
void model_close(struct model **model);

const char *model_name(const struct model *model); /* file or folder name without extension */
const struct model_config *model_config(const struct model *model);
const struct model_weights *model_weights(const struct model *model);       /* NULL without MODEL_WEIGHTS */
const struct tokenizer *model_tokenizer(const struct model *model);         /* NULL with MODEL_NO_TEXT */
const struct chat_template *model_chat_template(const struct model *model); /* NULL: it has none, or MODEL_NO_TEXT */
/* Neutral without MODEL_DEFAULTS, and for a GGUF file. */
const struct model_defaults *model_defaults(const struct model *model);
/* XXH3-64 over names, types, shapes and bytes of all tensors (sampled: size,
 * first and last 4 KiB of each) and the config: part of the compatibility record. */
uint64_t model_fingerprint(const struct model *model);
/* XXH3-64 over where the tokenizer comes from: the metadata of a GGUF file, or tokenizer.json and
 * tokenizer_config.json, byte for byte. */
uint64_t model_text_fingerprint(const struct model *model);
/* Asks the kernel to read all weights ahead: they are about to be read once, in order. */
void model_will_need(const struct model *model);
/* The tensor is of this model and will not be read soon: its pages leave this process, and with cached the page cache,
 * but for those that the fingerprint looks at. Reading it later is slower, not wrong. */
void model_drop(const struct model *model, const struct tensor *tensor, bool cached);
/* Of the config alone. */
uint64_t model_config_fingerprint(const struct model_config *config);
/* Every tensor of the file, for `baton model inspect`. */
uint64_t model_tensor_count(const struct model *model);
const struct tensor *model_tensor_at(const struct model *model, uint64_t i);

/* Instead of a network of n_ffn. */
static inline bool model_has_experts(const struct model_config *c, uint32_t layer)
{
    return c->n_experts > 0 && !c->dense[layer];
}

static inline uint32_t model_rotated(const struct model_config *c)
{
    return c->n_rotated > 0 ? c->n_rotated : c->head_dim;
}

void model_kv_layout(const struct model_config *config, uint32_t block_tokens, enum dtype type, struct kv_layout *out);

#endif
