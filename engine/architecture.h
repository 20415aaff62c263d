/* architecture.h - what the name of a network stands for: all that its files do not say.
 * A row a network; docs/ENGINE.md shows how one is added. */
#ifndef BATON_ENGINE_ARCHITECTURE_H
#define BATON_ENGINE_ARCHITECTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/model.h"

/* Which layers see a sliding window where a folder does not name them. */
enum windows {
    WINDOWS_NONE,
    WINDOWS_ALL,      /* all, where sliding_window is a number */
    WINDOWS_SWITCHED, /* all, where use_sliding_window is true as well */
    WINDOWS_UPPER,    /* those from max_window_layers on, where use_sliding_window is true */
    WINDOWS_PERIOD,   /* all but every so many; in a GGUF file, too */
};

/* Where a layer's experts are in a folder: expert E's gate is "model.layers.N." experts "E." gate ".weight". */
struct expert_names {
    const char *router, *experts, *gate, *up, *down;
};

struct architecture {
    const char *gguf;   /* general.architecture; of several with one name the first is meant, with experts or without */
    const char *folder; /* model_type */
    const char *class;  /* the only one of "architectures" */

    /* What config.json may leave out, as the config class in transformers has it. */
    uint32_t n_kv_heads, head_dim; /* 0: n_heads, n_embd / n_heads */
    float rope_theta, rms_eps;     /* 0: 10000, 1e-6 */
    enum windows windows;
    uint32_t window;        /* 0: none */
    uint32_t window_period; /* of WINDOWS_PERIOD */
    float local_rope_theta; /* of windowed layers; 0: they rotate as the others do */
    float attention_cap, logit_cap;
    bool tied;

    bool gguf_pairs; /* llama.cpp's converter reorders wq and wk so that neighbours are rotated together */
    bool qk_norm, qkv_bias, fused; /* as in struct model_config */
    bool partly_rotated;           /* where the file says so */
    bool logit_capped;             /* where the file says so */
    bool post_norms;
    enum activation activation;
    bool norms_from_one;      /* in a folder; llama.cpp's converter adds the one */
    bool embed_scaled;        /* by sqrt(n_embd) */
    bool attention_scaled;    /* by 1 / sqrt(query_pre_attn_scalar), which is not in a GGUF file: there it is ... */
    uint32_t scaled_by_width; /* ... 1 / sqrt(n_embd / n_heads) of the network with so many layers */
    const struct expert_names *experts; /* NULL: every layer has one feed-forward network */
    bool experts_sum_to_one;            /* always; otherwise norm_topk_prob says, and in a GGUF file they do */
};

const struct architecture *architecture_of(enum model_arch arch);
/* By general.architecture, or by model_type; false: it is not supported. */
MUST_CHECK bool architecture_find_gguf(const char *text, size_t len, bool experts, enum model_arch *out);
MUST_CHECK bool architecture_find_folder(const char *text, enum model_arch *out);
/* "a, b and c": the names of all, for people. */
void architecture_names(bool gguf, char *buf, size_t size);
/* The row's part of a config. */
void architecture_apply(enum model_arch arch, struct model_config *c);

#endif
