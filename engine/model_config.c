#include "engine/model_config.h"

#include "engine/architecture.h"

const char *model_arch_name(enum model_arch arch)
{
    return architecture_of(arch)->gguf;
}

static status check_counts(const struct model_config *c, const char *file, struct error *err)
{
    const struct {
        const char *what;
        uint32_t value, most;
    } counts[] = {
        { "layers", c->n_layers, MODEL_MAX_LAYERS },        { "embedding width", c->n_embd, MODEL_MAX_EMBD },
        { "attention heads", c->n_heads, MODEL_MAX_HEADS }, { "key/value heads", c->n_kv_heads, MODEL_MAX_HEADS },
        { "head size", c->head_dim, MODEL_MAX_HEAD_DIM },   { "feed-forward width", c->n_ffn, MODEL_MAX_FFN },
        { "vocabulary", c->n_vocab, MODEL_MAX_VOCAB },      { "positions", c->max_positions, MODEL_MAX_POSITIONS },
    };
    if (c->n_experts > MODEL_MAX_EXPERTS || c->n_expert_ffn > MODEL_MAX_FFN || !c->n_experts != !c->n_expert_ffn)
        return error_set(err, ST_INVALID, "%s: %u experts of width %u: only up to %u of up to %u", file, c->n_experts,
                         c->n_expert_ffn, MODEL_MAX_EXPERTS, MODEL_MAX_FFN);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (counts[i].value < 1 || counts[i].value > counts[i].most)
            return error_set(err, ST_INVALID, "%s: %s: %u is not from 1 to %u", file, counts[i].what, counts[i].value,
                             counts[i].most);
    return ST_OK;
}

status model_config_check(const struct model_config *c, const char *file, struct error *err)
{
    status st = check_counts(c, file, err);
    if (st != ST_OK)
        return st;
    if (c->n_heads % c->n_kv_heads != 0)
        return error_set(err, ST_INVALID, "%s: %u attention heads cannot share %u key/value heads evenly", file,
                         c->n_heads, c->n_kv_heads);
    if (c->n_experts > 0 && (c->n_experts_used < 1 || c->n_experts_used > c->n_experts))
        return error_set(err, ST_INVALID, "%s: a token uses %u of %u experts", file, c->n_experts_used, c->n_experts);
    if (c->head_dim % 2 != 0)
        return error_set(err, ST_INVALID, "%s: head size %u is odd, so it has no rotary pairs", file, c->head_dim);
    if (c->n_rotated > c->head_dim || c->n_rotated % 2 != 0)
        return error_set(err, ST_INVALID, "%s: %u of %u dimensions of a head cannot be rotated in pairs", file,
                         c->n_rotated, c->head_dim);
    if (c->n_rope_factors > 0 && c->n_rope_factors != model_rotated(c) / 2)
        return error_set(err, ST_INVALID, "%s: %u rotary factors for %u pairs of dimensions", file, c->n_rope_factors,
                         model_rotated(c) / 2);
    if (!(c->rms_eps > 0 && c->rms_eps <= 1))
        return error_set(err, ST_INVALID, "%s: RMS norm epsilon %g is not in (0, 1]", file, (double)c->rms_eps);
    const char *why = rope_check(&c->rope);
    if (why == NULL && c->local_rope.theta != 0)
        why = rope_check(&c->local_rope);
    if (!(c->attention_scale >= 0 && c->attention_scale < 1e6f && c->attention_cap >= 0 && c->attention_cap < 1e6f &&
          c->logit_cap >= 0 && c->logit_cap < 1e6f))
        return error_set(err, ST_INVALID, "%s: scale %g of queries, caps %g of scores and %g of logits: only 0 to 1e6",
                         file, (double)c->attention_scale, (double)c->attention_cap, (double)c->logit_cap);
    return why == NULL ? ST_OK : error_set(err, ST_INVALID, "%s: %s", file, why);
}
