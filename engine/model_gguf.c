#include "engine/model_gguf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/architecture.h"
#include "engine/chat_template.h"
#include "engine/model_config.h"

#define KEY_BYTES 96

struct reader {
    const struct gguf *file;
    const struct model_index *index;
    const char *path;
    const char *name; /* of the architecture, which is what its keys begin with */
    const struct architecture *arch;
};

static const char *full_key(const struct reader *r, const char *key, char buf[KEY_BYTES])
{
    snprintf(buf, KEY_BYTES, "%s.%s", r->name, key);
    return buf;
}

/* absent: what holds when there is no such key; 0: it must be there. */
static status read_count(const struct reader *r, const char *key, uint32_t absent, uint32_t *out, struct error *err)
{
    char name[KEY_BYTES];
    uint64_t value = absent;
    status st = gguf_get_u64(r->file, full_key(r, key, name), &value);
    if (st == ST_NOT_FOUND && !absent)
        return error_set(err, ST_INVALID, "%s: key %s is missing", r->path, name);
    if (st == ST_INVALID || value > UINT32_MAX)
        return error_set(err, ST_INVALID, "%s: key %s: not one count", r->path, name);
    *out = (uint32_t)value;
    return ST_OK;
}

static status read_float(const struct reader *r, const char *key, float absent, float *out, struct error *err)
{
    char name[KEY_BYTES];
    double value = (double)absent;
    status st = gguf_get_f64(r->file, full_key(r, key, name), &value);
    if (st == ST_INVALID)
        return error_set(err, ST_INVALID, "%s: key %s: not a floating-point number", r->path, name);
    if (st == ST_NOT_FOUND && absent == 0)
        return error_set(err, ST_INVALID, "%s: key %s is missing", r->path, name);
    *out = (float)value;
    return ST_OK;
}

/* Which files a key is understood in. */
enum { IN_ALL = 1, IN_EXPERTS = 2, IN_LONG_ROPE = 4, IN_CAPPED = 8, IN_LOCAL_ROPE = 16 };

/* Keys that are read below or tell nothing about the computation. */
static const struct {
    const char *key;
    unsigned in;
} understood[] = {
    { "block_count", IN_ALL },
    { "context_length", IN_ALL },
    { "embedding_length", IN_ALL },
    { "feed_forward_length", IN_ALL },
    { "vocab_size", IN_ALL },
    { "attention.head_count", IN_ALL },
    { "attention.head_count_kv", IN_ALL },
    { "attention.key_length", IN_ALL },
    { "attention.value_length", IN_ALL },
    { "attention.layer_norm_rms_epsilon", IN_ALL },
    { "attention.sliding_window", IN_ALL },
    { "rope.dimension_count", IN_ALL },
    { "rope.freq_base", IN_ALL },
    { "rope.scaling.type", IN_ALL },
    { "rope.scaling.factor", IN_ALL },
    { "rope.scaling.original_context_length", IN_ALL },
    { "rope.scaling.finetuned", IN_ALL },
    { "tensor_data_layout", IN_ALL },
    { "expert_count", IN_EXPERTS },
    { "expert_used_count", IN_EXPERTS },
    { "expert_feed_forward_length", IN_EXPERTS },
    { "rope.scaling.attn_factor", IN_LONG_ROPE },
    { "attn_logit_softcapping", IN_CAPPED },
    { "final_logit_softcapping", IN_CAPPED },
    { "rope.freq_base_swa", IN_LOCAL_ROPE },
};

/* Keys of what is not built, with the one value that leaves it off. */
static const struct {
    const char *key;
    double off;
} switched_off[] = {
    { "expert_count", 0 },     { "expert_used_count", 0 },        { "rope.scale_linear", 1 },
    { "attention.causal", 1 }, { "rope.scaling.attn_factor", 1 },
};

static bool has_value(const struct gguf *file, const char *name, double value)
{
    uint64_t count;
    double number;
    bool truth;
    if (gguf_get_u64(file, name, &count) == ST_OK)
        return (double)count == value;
    if (gguf_get_f64(file, name, &number) == ST_OK)
        return number == value;
    return gguf_get_bool(file, name, &truth) == ST_OK && (truth ? 1 : 0) == value;
}

static bool has_long_rope(const struct reader *r)
{
    return r->arch->partly_rotated && model_index_find(r->index, "rope_factors_short.weight");
}

static status check_key(const struct reader *r, const char *name, const char *key, struct error *err)
{
    const unsigned in = IN_ALL | (r->arch->experts ? IN_EXPERTS : 0) | (has_long_rope(r) ? IN_LONG_ROPE : 0) |
                        (r->arch->attention_cap > 0 ? IN_CAPPED : 0) |
                        (r->arch->local_rope_theta > 0 ? IN_LOCAL_ROPE : 0);
    for (size_t i = 0; i < sizeof understood / sizeof *understood; i++)
        if (strcmp(key, understood[i].key) == 0 && understood[i].in & in)
            return ST_OK;
    for (size_t i = 0; i < sizeof switched_off / sizeof *switched_off; i++)
        if (strcmp(key, switched_off[i].key) == 0)
            return has_value(r->file, name, switched_off[i].off)
                       ? ST_OK
                       : error_set(err, ST_UNSUPPORTED, "%s: key %s: only %g is supported", r->path, name,
                                   switched_off[i].off);
    return error_set(err, ST_UNSUPPORTED, "%s: key %s is not understood", r->path, name);
}

static status check_keys(const struct reader *r, struct error *err)
{
    size_t prefix = strlen(r->name) + 1;
    for (size_t i = 0; i < gguf_key_count(r->file); i++) {
        struct gguf_string key = gguf_key_at(r->file, i);
        char name[KEY_BYTES];
        if (key.len < prefix || memcmp(key.data, r->name, prefix - 1) != 0 || key.data[prefix - 1] != '.')
            continue;
        if (key.len >= sizeof name)
            return error_set(err, ST_UNSUPPORTED, "%s: key %.64s... is not understood", r->path, key.data);
        memcpy(name, key.data, key.len);
        name[key.len] = '\0';
        status st = check_key(r, name, name + prefix, err);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

static bool is_text(const struct gguf_string *text, const char *wanted)
{
    return text->len == strlen(wanted) && memcmp(text->data, wanted, text->len) == 0;
}

static status check_kind(const struct reader *r, struct error *err)
{
    struct gguf_string text;
    status st = gguf_get_string(r->file, "general.type", &text);
    if (st == ST_INVALID || (st == ST_OK && !is_text(&text, "model")))
        return error_set(err, ST_UNSUPPORTED, "%s: key general.type: only \"model\" is supported", r->path);
    return ST_OK;
}

/* Two sets of factors are in the file, and how much longer the context was made is said by the attention's factor. */
static status read_long_rope(const struct reader *r, struct model_config *c, struct error *err)
{
    uint32_t original = 0;
    c->rope.scaling = ROPE_LONG;
    c->rope.factor = 1;
    status st = read_float(r, "rope.scaling.attn_factor", 1, &c->rope.magnitude, err);
    if (st == ST_OK)
        st = read_count(r, "rope.scaling.original_context_length", c->max_positions, &original, err);
    c->rope.original_positions = (float)original;
    c->max_positions = original < c->max_positions ? original : c->max_positions;
    return st;
}

static status read_rope(const struct reader *r, struct model_config *c, struct error *err)
{
    struct gguf_string text = { "linear", 6 }; /* as llama.cpp takes a factor without a type */
    char name[KEY_BYTES];
    struct rope_config *rope = &c->rope;
    status st = read_float(r, "rope.freq_base", 10000.0f, &rope->theta, err);
    if (st == ST_OK)
        st = read_float(r, "rope.scaling.factor", 1, &rope->factor, err);
    if (st != ST_OK)
        return st;
    st = gguf_get_string(r->file, full_key(r, "rope.scaling.type", name), &text);
    if (has_long_rope(r) && (st == ST_NOT_FOUND || (st == ST_OK && is_text(&text, "longrope"))))
        return read_long_rope(r, c, err);
    bool is_linear = is_text(&text, "linear") && rope->factor != 1;
    bool is_yarn = is_text(&text, "yarn");
    if (st == ST_INVALID || !(is_text(&text, "linear") || is_yarn || is_text(&text, "none")))
        return error_set(err, ST_UNSUPPORTED, "%s: key %s: only \"none\", \"linear\" and \"yarn\" are supported",
                         r->path, name);
    if (!is_linear && !is_yarn)
        return ST_OK;
    uint32_t original = 0;
    rope->scaling = is_yarn ? ROPE_YARN : ROPE_LINEAR;
    rope->low = ROPE_YARN_LOW;
    rope->high = ROPE_YARN_HIGH;
    st = read_count(r, "rope.scaling.original_context_length", c->max_positions, &original, err);
    rope->original_positions = (float)original;
    return st;
}

/* Whether there are experts is part of the question: Mixtral calls itself llama, too. */
static status read_arch(struct reader *r, enum model_arch *out, struct error *err)
{
    struct gguf_string text;
    char names[256], key[KEY_BYTES];
    uint64_t experts = 0;
    status st = gguf_get_string(r->file, "general.architecture", &text);
    if (st != ST_OK)
        return error_set(err, ST_INVALID, "%s: key general.architecture is missing or no string", r->path);
    if (!architecture_find_gguf(text.data, text.len, false, out)) {
        architecture_names(true, names, sizeof names);
        return error_set(err, ST_UNSUPPORTED, "%s: architecture %.*s is not supported, only %s", r->path,
                         text.len > 64 ? 64 : (int)text.len, text.data, names);
    }
    r->name = architecture_of(*out)->gguf;
    bool has_experts = gguf_get_u64(r->file, full_key(r, "expert_count", key), &experts) == ST_OK && experts > 0;
    if (architecture_find_gguf(text.data, text.len, has_experts, out))
        r->arch = architecture_of(*out);
    return ST_OK;
}

static status read_attention(const struct reader *r, struct model_config *c, struct error *err)
{
    uint32_t value_length = 0, rotated = 0;
    status st = read_count(r, "attention.head_count", 0, &c->n_heads, err);
    if (st == ST_OK)
        st = read_count(r, "attention.head_count_kv", c->n_heads, &c->n_kv_heads, err);
    if (st != ST_OK)
        return st;
    uint32_t derived = c->n_heads ? c->n_embd / c->n_heads : 0;
    if ((st = read_count(r, "attention.key_length", derived, &c->head_dim, err)) != ST_OK ||
        (st = read_count(r, "attention.value_length", c->head_dim, &value_length, err)) != ST_OK ||
        (st = read_count(r, "rope.dimension_count", c->head_dim, &rotated, err)) != ST_OK)
        return st;
    if (r->arch->partly_rotated && rotated < c->head_dim)
        c->n_rotated = rotated;
    if (value_length != c->head_dim || rotated != model_rotated(c))
        return error_set(err, ST_UNSUPPORTED,
                         "%s: keys of %u, values of %u and %u rotated dimensions a head: only equal counts are "
                         "supported",
                         r->path, c->head_dim, value_length, rotated);
    return ST_OK;
}

/* Of all layers, or of those that the architecture says: which ones see a window is not in the file. */
static status read_window(const struct reader *r, struct model_config *c, struct error *err)
{
    char name[KEY_BYTES];
    const bool some = r->arch->windows == WINDOWS_PERIOD;
    uint64_t window = some ? r->arch->window : 0;
    status st = gguf_get_u64(r->file, full_key(r, "attention.sliding_window", name), &window);
    if (st == ST_INVALID || window > UINT32_MAX)
        return error_set(err, ST_INVALID, "%s: key %s: not one count", r->path, name);
    if (window > 0 && r->arch->windows == WINDOWS_UPPER)
        return error_set(err, ST_UNSUPPORTED, "%s: key %s: only 0 is supported", r->path, name);
    c->window = (uint32_t)window;
    for (uint32_t i = 0; window > 0 && i < c->n_layers && i < MODEL_MAX_LAYERS; i++)
        c->windowed[i] = !some || (i + 1) % r->arch->window_period != 0;
    return ST_OK;
}

/* As llama.cpp computes what the file does not say. */
static status read_scales(const struct reader *r, struct model_config *c, struct error *err)
{
    if (r->arch->embed_scaled)
        c->embed_scale = sqrtf((float)c->n_embd);
    const uint32_t width = c->n_heads > 0 ? c->n_embd / c->n_heads : 0;
    if (r->arch->attention_scaled && c->n_layers == r->arch->scaled_by_width && width > 0)
        c->attention_scale = 1.0f / sqrtf((float)width);
    status st = ST_OK;
    if (r->arch->local_rope_theta > 0)
        st = read_float(r, "rope.freq_base_swa", r->arch->local_rope_theta, &c->local_rope.theta, err);
    if (st == ST_OK && r->arch->attention_cap > 0)
        st = read_float(r, "attn_logit_softcapping", r->arch->attention_cap, &c->attention_cap, err);
    if (st == ST_OK && r->arch->attention_cap > 0)
        st = read_float(r, "final_logit_softcapping", r->arch->logit_cap, &c->logit_cap, err);
    return st;
}

/* The embedding tensor says how many tokens there are: not every file has vocab_size. */
static status read_vocab(const struct reader *r, uint32_t *out, struct error *err)
{
    const struct tensor *embed = model_index_find(r->index, "token_embd.weight");
    uint32_t stated = 0;
    if (!embed || embed->n_dims != 2 || embed->shape[0] > MODEL_MAX_VOCAB)
        return error_set(err, ST_INVALID, "%s: tensor token_embd.weight is missing or not [vocabulary, width]",
                         r->path);
    *out = (uint32_t)embed->shape[0];
    status st = read_count(r, "vocab_size", *out, &stated, err);
    if (st == ST_OK && stated != *out)
        return error_set(err, ST_INVALID, "%s: key %s.vocab_size is %u, but token_embd.weight has %u rows", r->path,
                         r->name, stated, *out);
    return st;
}

/* All files with experts are of networks whose weights sum to one, and only there is the key of their width. */
static status read_experts(const struct reader *r, struct model_config *c, struct error *err)
{
    if (!r->arch->experts)
        return ST_OK;
    c->experts_sum_to_one = true;
    status st = read_count(r, "expert_count", 0, &c->n_experts, err);
    if (st == ST_OK)
        st = read_count(r, "expert_used_count", 0, &c->n_experts_used, err);
    return st == ST_OK ? read_count(r, "expert_feed_forward_length", c->n_ffn, &c->n_expert_ffn, err) : st;
}

static status read_shape(const struct reader *r, struct model_config *c, struct error *err)
{
    status st;
    if ((st = read_count(r, "block_count", 0, &c->n_layers, err)) != ST_OK ||
        (st = read_count(r, "embedding_length", 0, &c->n_embd, err)) != ST_OK ||
        (st = read_count(r, "feed_forward_length", 0, &c->n_ffn, err)) != ST_OK ||
        (st = read_count(r, "context_length", 0, &c->max_positions, err)) != ST_OK ||
        (st = read_float(r, "attention.layer_norm_rms_epsilon", 0, &c->rms_eps, err)) != ST_OK ||
        (st = read_rope(r, c, err)) != ST_OK || (st = read_window(r, c, err)) != ST_OK ||
        (st = read_vocab(r, &c->n_vocab, err)) != ST_OK)
        return st;
    st = read_attention(r, c, err);
    if (st == ST_OK)
        st = read_scales(r, c, err);
    return st == ST_OK ? read_experts(r, c, err) : st;
}

status model_gguf_config(const struct gguf_files *files, const char *path, struct model_config *out, struct error *err)
{
    struct model_config c = { .n_layers = 0 };
    enum model_arch which = ARCH_LLAMA;
    struct reader r = { .file = files->files[0], .index = files->index, .path = path };
    status st = read_arch(&r, &which, err);
    if (st != ST_OK)
        return st;
    ASSERT(r.arch);
    architecture_apply(which, &c);
    c.rope_interleaved = r.arch->gguf_pairs;
    c.tied_embeddings = !model_index_find(files->index, "output.weight");
    if ((st = check_kind(&r, err)) != ST_OK || (st = check_keys(&r, err)) != ST_OK ||
        (st = read_shape(&r, &c, err)) != ST_OK || (st = model_config_check(&c, path, err)) != ST_OK)
        return st;
    *out = c;
    return ST_OK;
}

status model_gguf_template(const struct gguf *file, const char *path, struct chat_template **out, struct error *err)
{
    struct gguf_string source;
    struct error why;
    status st = gguf_get_string(file, "tokenizer.chat_template", &source);
    if (st == ST_NOT_FOUND) {
        *out = NULL;
        return ST_OK;
    }
    if (st != ST_OK)
        return error_set(err, st, "%s: key tokenizer.chat_template: not a string", path);
    st = chat_template_compile(source.data, source.len, out, &why);
    return st == ST_OK ? st : error_set(err, st, "%s: key tokenizer.chat_template: %s", path, why.text);
}
