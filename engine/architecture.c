#include "engine/architecture.h"

#include <stdio.h>
#include <string.h>

static const struct expert_names mixtral_experts = { "block_sparse_moe.gate.weight", "block_sparse_moe.experts.", "w1",
                                                     "w3", "w2" };
static const struct expert_names qwen_experts = { "mlp.gate.weight", "mlp.experts.", "gate_proj", "up_proj",
                                                  "down_proj" };

static const struct architecture rows[] = {
    [ARCH_LLAMA] = { "llama", "llama", "LlamaForCausalLM", .gguf_pairs = true },
    [ARCH_MISTRAL] = { "llama", "mistral", "MistralForCausalLM", .n_kv_heads = 8, .windows = WINDOWS_ALL,
                       .window = 4096, .gguf_pairs = true },
    [ARCH_MIXTRAL] = { "llama", "mixtral", "MixtralForCausalLM", .n_kv_heads = 8, .rope_theta = 1e6f, .rms_eps = 1e-5f,
                       .windows = WINDOWS_ALL, .gguf_pairs = true, .experts = &mixtral_experts,
                       .experts_sum_to_one = true },
    [ARCH_QWEN2] = { "qwen2", "qwen2", "Qwen2ForCausalLM", .n_kv_heads = 32, .windows = WINDOWS_UPPER, .window = 4096,
                     .qkv_bias = true },
    [ARCH_QWEN3] = { "qwen3", "qwen3", "Qwen3ForCausalLM", .n_kv_heads = 32, .head_dim = 128, .windows = WINDOWS_UPPER,
                     .window = 4096, .qk_norm = true },
    [ARCH_QWEN3MOE] = { "qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", .n_kv_heads = 4, .windows = WINDOWS_SWITCHED,
                        .window = 4096, .qk_norm = true, .experts = &qwen_experts },
    [ARCH_PHI3] = { "phi3", "phi3", "Phi3ForCausalLM", .rms_eps = 1e-5f, .windows = WINDOWS_ALL, .fused = true,
                    .partly_rotated = true },
    [ARCH_GEMMA2] = { "gemma2", "gemma2", "Gemma2ForCausalLM", .n_kv_heads = 4, .head_dim = 256,
                      .windows = WINDOWS_PERIOD, .window = 4096, .window_period = 2, .attention_cap = 50,
                      .logit_cap = 30, .logit_capped = true, .tied = true, .post_norms = true,
                      .activation = ACTIVATION_GELU, .norms_from_one = true, .embed_scaled = true,
                      .attention_scaled = true, .scaled_by_width = 46 },
    [ARCH_GEMMA3] = { "gemma3", "gemma3_text", "Gemma3ForCausalLM", .n_kv_heads = 4, .head_dim = 256,
                      .rope_theta = 1e6f, .windows = WINDOWS_PERIOD, .window = 4096, .window_period = 6,
                      .local_rope_theta = 10000, .logit_capped = true, .tied = true, .qk_norm = true,
                      .post_norms = true, .activation = ACTIVATION_GELU, .norms_from_one = true, .embed_scaled = true,
                      .attention_scaled = true, .scaled_by_width = 62 },
};

#define COUNT (sizeof rows / sizeof *rows)

const struct architecture *architecture_of(enum model_arch arch)
{
    ASSERT((unsigned)arch < COUNT);
    return &rows[arch];
}

static bool is_text(const char *name, const char *text, size_t len)
{
    return strlen(name) == len && memcmp(name, text, len) == 0;
}

bool architecture_find_gguf(const char *text, size_t len, bool experts, enum model_arch *out)
{
    size_t found = COUNT;
    for (size_t i = COUNT; i-- > 0;)
        if (is_text(rows[i].gguf, text, len) && (found == COUNT || (rows[i].experts != NULL) == experts))
            found = i;
    if (found < COUNT)
        *out = (enum model_arch)found;
    return found < COUNT;
}

bool architecture_find_folder(const char *text, enum model_arch *out)
{
    for (size_t i = 0; i < COUNT; i++)
        if (strcmp(rows[i].folder, text) == 0) {
            *out = (enum model_arch)i;
            return true;
        }
    return false;
}

void architecture_names(bool gguf, char *buf, size_t size)
{
    size_t used = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < COUNT && used < size; i++) {
        const char *name = gguf ? rows[i].gguf : rows[i].folder;
        const char *before = i == 0 ? "" : i + 1 == COUNT ? " and " : ", ";
        if (i > 0 && gguf && strcmp(name, rows[i - 1].gguf) == 0)
            continue;
        used += (size_t)snprintf(buf + used, size - used, "%s%s", before, name);
    }
}

void architecture_apply(enum model_arch arch, struct model_config *c)
{
    const struct architecture *row = architecture_of(arch);
    c->arch = arch;
    c->qk_norm = row->qk_norm;
    c->qkv_bias = row->qkv_bias;
    c->fused = row->fused;
    c->post_norms = row->post_norms;
    c->activation = row->activation;
    c->attention_cap = row->attention_cap;
    c->logit_cap = row->logit_cap;
    c->tied_embeddings = row->tied;
    c->experts_sum_to_one = row->experts_sum_to_one;
}
