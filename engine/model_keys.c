#include "engine/model_keys.h"

#include <stdio.h>
#include <string.h>

#include "engine/model_config.h"

#define KEY_BYTES 96

struct key_writer {
    struct gguf_writer *w;
    const char *arch;
    char name[KEY_BYTES];
};

static const char *full_key(struct key_writer *k, const char *key)
{
    snprintf(k->name, sizeof k->name, "%s.%s", k->arch, key);
    return k->name;
}

static void put_count(struct key_writer *k, const char *key, uint32_t value)
{
    gguf_put_u32(k->w, full_key(k, key), value);
}

static void put_float(struct key_writer *k, const char *key, float value)
{
    gguf_put_f32(k->w, full_key(k, key), value);
}

static status unsupported(const char *what, struct error *err)
{
    return error_set(err, ST_UNSUPPORTED, "the model cannot be written to GGUF: it has no key for %s", what);
}

static status write_yarn(const struct rope_config *rope, struct key_writer *k, struct error *err)
{
    if (rope->low != ROPE_YARN_LOW || rope->high != ROPE_YARN_HIGH || rope->exact_range)
        return unsupported("YaRN with beta_slow, beta_fast or truncate of its own", err);
    if (rope->magnitude != 0)
        return unsupported("YaRN with attention_factor or mscale", err);
    gguf_put_string(k->w, full_key(k, "rope.scaling.type"), "yarn", strlen("yarn"));
    put_float(k, "rope.scaling.factor", rope->factor);
    put_count(k, "rope.scaling.original_context_length", (uint32_t)rope->original_positions);
    return ST_OK;
}

static status write_rope(const struct rope_config *rope, struct key_writer *k, struct error *err)
{
    put_float(k, "rope.freq_base", rope->theta);
    switch (rope->scaling) {
    case ROPE_PLAIN:
    case ROPE_LLAMA3: /* a tensor */
        return ST_OK;
    case ROPE_LINEAR:
        gguf_put_string(k->w, full_key(k, "rope.scaling.type"), "linear", strlen("linear"));
        put_float(k, "rope.scaling.factor", rope->factor);
        return ST_OK;
    case ROPE_YARN:
        return write_yarn(rope, k, err);
    case ROPE_LONG: /* its factors for long texts are not kept */
        return unsupported("LongRoPE", err);
    }
    return unsupported("its scaling of rotary frequencies", err);
}

/* Of all layers or of none: the file does not say which. */
static status write_window(const struct model_config *c, struct key_writer *k, struct error *err)
{
    if (c->window == 0)
        return ST_OK;
    for (uint32_t i = 0; i < c->n_layers; i++)
        if (!c->windowed[i])
            return unsupported("a sliding window that only some layers have", err);
    put_count(k, "attention.sliding_window", c->window);
    return ST_OK;
}

/* All layers have them there, and their weights sum to one. */
static status write_experts(const struct model_config *c, struct key_writer *k, struct error *err)
{
    if (c->n_experts == 0)
        return ST_OK;
    for (uint32_t i = 0; i < c->n_layers; i++)
        if (c->dense[i])
            return unsupported("layers without experts among others", err);
    if (!c->experts_sum_to_one)
        return unsupported("experts whose weights do not sum to one", err);
    put_count(k, "expert_count", c->n_experts);
    put_count(k, "expert_used_count", c->n_experts_used);
    put_count(k, "expert_feed_forward_length", c->n_expert_ffn);
    return ST_OK;
}

status model_write_keys(const struct model_config *c, struct gguf_writer *w, struct error *err)
{
    struct key_writer k = { w, model_arch_name(c->arch), "" };
    gguf_put_string(w, "general.architecture", k.arch, strlen(k.arch));
    put_count(&k, "block_count", c->n_layers);
    put_count(&k, "context_length", c->max_positions);
    put_count(&k, "embedding_length", c->n_embd);
    put_count(&k, "feed_forward_length", c->n_ffn);
    put_count(&k, "vocab_size", c->n_vocab);
    put_count(&k, "attention.head_count", c->n_heads);
    put_count(&k, "attention.head_count_kv", c->n_kv_heads);
    put_count(&k, "attention.key_length", c->head_dim);
    put_count(&k, "attention.value_length", c->head_dim);
    put_float(&k, "attention.layer_norm_rms_epsilon", c->rms_eps);
    put_count(&k, "rope.dimension_count", model_rotated(c));
    status st = write_rope(&c->rope, &k, err);
    if (st == ST_OK)
        st = write_experts(c, &k, err);
    return st == ST_OK ? write_window(c, &k, err) : st;
}

bool model_rope_factors(const struct model_config *config, float *out)
{
    double scaled[MODEL_MAX_HEAD_DIM / 2], plain[MODEL_MAX_HEAD_DIM / 2];
    const uint32_t rotated = model_rotated(config);
    const struct rope_config unscaled = { .theta = config->rope.theta };
    if (config->rope.scaling != ROPE_LLAMA3)
        return false;
    rope_frequencies(&config->rope, rotated, NULL, scaled);
    rope_frequencies(&unscaled, rotated, NULL, plain);
    for (uint32_t i = 0; i < rotated / 2; i++)
        out[i] = (float)(plain[i] / scaled[i]);
    return true;
}

/* Without what may differ, and without numbers that its kind of scaling does not read. */
static struct model_config essence(const struct model_config *c)
{
    struct model_config e = *c;
    e.rope_interleaved = false;
    if (c->rope.scaling == ROPE_LINEAR)
        e.rope = (struct rope_config){ .theta = c->rope.theta, .scaling = ROPE_LINEAR, .factor = c->rope.factor };
    if (c->rope.scaling == ROPE_PLAIN || c->rope.scaling == ROPE_LLAMA3)
        e.rope = (struct rope_config){ .theta = c->rope.theta };
    return e;
}

bool model_keys_mean(const struct model_config *config, const struct model_config *again)
{
    const struct model_config a = essence(config), b = essence(again);
    return model_config_fingerprint(&a) == model_config_fingerprint(&b);
}
