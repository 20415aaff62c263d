#include "engine/model_folder.h"

#include <math.h>
#include <string.h>

#include "engine/architecture.h"
#include "engine/chat_template.h"
#include "engine/model_config.h"
#include "engine/model_folder_rope.h"
#include "engine/model_json.h"
#include "engine/model_map.h"

#define MAX_TEMPLATE_BYTES (1u << 20)

/* config.json */

static status read_architecture(const json_t *json, const char *file, enum model_arch *out, struct error *err)
{
    const json_t *type = json_object_get(json, "model_type"), *classes = json_object_get(json, "architectures");
    char names[256];
    if (!json_is_string(type))
        return error_set(err, ST_INVALID, "%s: model_type is missing or no string", file);
    if (!architecture_find_folder(json_string_value(type), out)) {
        architecture_names(false, names, sizeof names);
        return error_set(err, ST_UNSUPPORTED, "%s: model_type %.64s is not supported, only %s", file,
                         json_string_value(type), names);
    }
    const char *class = architecture_of(*out)->class;
    if (classes && (json_array_size(classes) != 1 || !model_json_is(json_array_get(classes, 0), class)))
        return error_set(err, ST_UNSUPPORTED, "%s: architectures: only [\"%s\"] is supported", file, class);
    return ST_OK;
}

/* Fields that must be absent or null: what they ask for is not built, or not what this network has. */
static status check_absent(const json_t *json, const char *file, const struct architecture *arch, struct error *err)
{
    const struct {
        const char *field;
        bool understood;
    } fields[] = {
        { "quantization_config", false },
        { "auto_map", false },
        { "attn_logit_softcapping", arch->attention_cap > 0 },
        { "final_logit_softcapping", arch->logit_capped },
        { "num_experts", arch->experts },
        { "num_local_experts", arch->experts },
        { "shared_expert_intermediate_size", false },
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const json_t *value = json_object_get(json, fields[i].field);
        if (!fields[i].understood && value && !json_is_null(value))
            return model_json_unsupported(file, fields[i].field, "null", err);
    }
    return ST_OK;
}

static status check_switches(const json_t *json, const char *file, struct error *err)
{
    static const char *const fields[] = { "attention_bias", "mlp_bias", "rope_interleaved",
                                          "use_bidirectional_attention" };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        bool on = false;
        status st = model_json_bool(json, file, fields[i], &on, err);
        if (st != ST_OK || on)
            return st != ST_OK ? st : model_json_unsupported(file, fields[i], "false", err);
    }
    return ST_OK;
}

/* Gemma's field is hidden_activation, beside which stands an older one that nobody reads. */
static status check_activation(const json_t *json, const char *file, const struct architecture *arch, struct error *err)
{
    const bool gelu = arch->activation == ACTIVATION_GELU;
    const char *field = gelu ? "hidden_activation" : "hidden_act";
    const json_t *value = json_object_get(json, field);
    if (!value || json_is_null(value) || model_json_is(value, gelu ? "gelu_pytorch_tanh" : "silu"))
        return ST_OK;
    return model_json_unsupported(file, field, gelu ? "\"gelu_pytorch_tanh\"" : "\"silu\"", err);
}

static status check_off(const json_t *json, const char *file, const struct architecture *arch, struct error *err)
{
    status st = check_activation(json, file, arch, err);
    if (st == ST_OK)
        st = check_absent(json, file, arch, err);
    if (st == ST_OK)
        st = check_switches(json, file, err);
    return st;
}

static status read_shape(const json_t *json, const char *file, const struct architecture *arch, struct model_config *c,
                         struct error *err)
{
    const struct {
        const char *field;
        uint32_t *out;
    } counts[] = {
        { "num_hidden_layers", &c->n_layers },  { "hidden_size", &c->n_embd },
        { "num_attention_heads", &c->n_heads }, { "intermediate_size", &c->n_ffn },
        { "vocab_size", &c->n_vocab },          { "max_position_embeddings", &c->max_positions },
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        status st = model_json_count(json, file, counts[i].field, true, counts[i].out, err);
        if (st != ST_OK)
            return st;
    }
    c->rms_eps = arch->rms_eps > 0 ? arch->rms_eps : 1e-6f;
    c->n_kv_heads = arch->n_kv_heads ? arch->n_kv_heads : c->n_heads;
    c->head_dim = arch->head_dim ? arch->head_dim : c->n_heads ? c->n_embd / c->n_heads : 0;
    status st;
    if ((st = model_json_count(json, file, "num_key_value_heads", false, &c->n_kv_heads, err)) != ST_OK ||
        (st = model_json_count(json, file, "head_dim", false, &c->head_dim, err)) != ST_OK ||
        (st = model_json_float(json, file, "rms_norm_eps", &c->rms_eps, err)) != ST_OK ||
        (st = model_json_bool(json, file, "tie_word_embeddings", &c->tied_embeddings, err)) != ST_OK)
        return st;
    return model_folder_rope(json, file, arch, c, err);
}

/* null is a word of its own here: no cap, whatever the class's default is. */
static status read_cap(const json_t *json, const char *file, const char *field, float *out, struct error *err)
{
    if (json_is_null(json_object_get(json, field)))
        *out = 0;
    return model_json_float(json, file, field, out, err);
}

static status read_scales(const json_t *json, const char *file, const struct architecture *arch, struct model_config *c,
                          struct error *err)
{
    float divisor = 256;
    c->norms_from_one = arch->norms_from_one;
    c->embed_scale = arch->embed_scaled ? sqrtf((float)c->n_embd) : 0;
    status st = read_cap(json, file, "attn_logit_softcapping", &c->attention_cap, err);
    if (st == ST_OK)
        st = read_cap(json, file, "final_logit_softcapping", &c->logit_cap, err);
    if (st != ST_OK || !arch->attention_scaled)
        return st;
    st = model_json_float(json, file, "query_pre_attn_scalar", &divisor, err);
    if (st == ST_OK && !(divisor > 0))
        st = error_set(err, ST_INVALID, "%s: query_pre_attn_scalar is not above 0", file);
    c->attention_scale = 1.0f / sqrtf(divisor);
    return st;
}

/* The layers that see a window, as layer_types names them. */
static status read_layer_types(const json_t *types, const char *file, struct model_config *c, struct error *err)
{
    if (!json_is_array(types) || json_array_size(types) != c->n_layers)
        return error_set(err, ST_INVALID, "%s: layer_types is not an array of one for each layer", file);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const json_t *type = json_array_get(types, i);
        c->windowed[i] = model_json_is(type, "sliding_attention");
        if (!c->windowed[i] && !model_json_is(type, "full_attention"))
            return model_json_unsupported(file, "layer_types", "\"full_attention\" or \"sliding_attention\"", err);
    }
    return ST_OK;
}

/* Which layers see a window where they are not named. */
static status read_window_rule(const json_t *json, const char *file, const struct architecture *arch, bool sized,
                               struct model_config *c, struct error *err)
{
    bool on = (arch->windows == WINDOWS_ALL || arch->windows == WINDOWS_PERIOD) && c->window > 0;
    uint32_t first = 28; /* max_window_layers' default */
    uint32_t period = arch->window_period;
    status st = model_json_bool(json, file, "use_sliding_window", &on, err);
    if (st == ST_OK)
        st = model_json_count(json, file, "max_window_layers", false, &first, err);
    if (st == ST_OK && arch->windows == WINDOWS_NONE && (on || sized))
        return model_json_unsupported(file, "sliding_window", "null", err);
    if (st == ST_OK && arch->windows == WINDOWS_PERIOD)
        st = model_json_count(json, file, "sliding_window_pattern", false, &period, err);
    if (st == ST_OK && arch->windows == WINDOWS_PERIOD && period == 0)
        return error_set(err, ST_INVALID, "%s: sliding_window_pattern must be 1 or more", file);
    for (uint32_t i = 0; st == ST_OK && on && i < c->n_layers; i++)
        c->windowed[i] = arch->windows == WINDOWS_UPPER ? i >= first : period == 0 || (i + 1) % period != 0;
    return st;
}

static status read_windows(const json_t *json, const char *file, const struct architecture *arch,
                           struct model_config *c, struct error *err)
{
    const json_t *types = json_object_get(json, "layer_types");
    const json_t *size = json_object_get(json, "sliding_window");
    const bool sized = size && !json_is_null(size);
    c->window = sized || !size ? arch->window : 0;
    status st = model_json_count(json, file, "sliding_window", false, &c->window, err);
    if (st == ST_OK)
        st = read_window_rule(json, file, arch, sized, c, err);
    if (st == ST_OK && types && !json_is_null(types))
        st = read_layer_types(types, file, c, err);
    bool any = false;
    for (uint32_t i = 0; i < c->n_layers; i++)
        any = any || c->windowed[i];
    if (st == ST_OK && any && c->window == 0)
        return error_set(err, ST_INVALID, "%s: sliding_window is no number of positions", file);
    if (!any)
        c->window = 0;
    return st;
}

/* Layers without experts: those that are listed, and all but every STEPth. */
static status read_dense_layers(const json_t *json, const char *file, struct model_config *c, struct error *err)
{
    const json_t *listed = json_object_get(json, "mlp_only_layers");
    uint32_t step = 1;
    status st = model_json_count(json, file, "decoder_sparse_step", false, &step, err);
    if (st == ST_OK && step == 0)
        return error_set(err, ST_INVALID, "%s: decoder_sparse_step must be 1 or more", file);
    if (st == ST_OK && listed && !json_is_null(listed) && !json_is_array(listed))
        return error_set(err, ST_INVALID, "%s: mlp_only_layers is not an array", file);
    for (uint32_t i = 0; st == ST_OK && i < c->n_layers; i++)
        c->dense[i] = (i + 1) % step != 0;
    for (size_t i = 0; st == ST_OK && i < json_array_size(listed); i++) {
        const json_t *layer = json_array_get(listed, i);
        if (!json_is_integer(layer) || json_integer_value(layer) < 0 || json_integer_value(layer) >= c->n_layers)
            return error_set(err, ST_INVALID, "%s: mlp_only_layers names a layer that is not from 0 to %u", file,
                             c->n_layers - 1);
        c->dense[json_integer_value(layer)] = true;
    }
    return st;
}

/* Mixtral and Qwen use other words for the same numbers. */
static status read_experts(const json_t *json, const char *file, const struct architecture *arch,
                           struct model_config *c, struct error *err)
{
    if (!arch->experts)
        return ST_OK;
    c->n_expert_ffn = c->n_ffn;
    const char *count = json_object_get(json, "num_experts") ? "num_experts" : "num_local_experts";
    status st = model_json_count(json, file, count, true, &c->n_experts, err);
    if (st == ST_OK)
        st = model_json_count(json, file, "num_experts_per_tok", true, &c->n_experts_used, err);
    if (st == ST_OK)
        st = model_json_count(json, file, "moe_intermediate_size", false, &c->n_expert_ffn, err);
    if (st == ST_OK)
        st = model_json_bool(json, file, "norm_topk_prob", &c->experts_sum_to_one, err);
    if (st == ST_OK && c->n_experts == 0)
        st = error_set(err, ST_INVALID, "%s: %s must be 1 or more", file, count);
    return st;
}

static status read_config(const json_t *json, const char *file, struct model_config *c, struct error *err)
{
    enum model_arch which = ARCH_LLAMA;
    status st = read_architecture(json, file, &which, err);
    if (st != ST_OK)
        return st;
    const struct architecture *arch = architecture_of(which);
    architecture_apply(which, c);
    st = check_off(json, file, arch, err);
    if (st == ST_OK)
        st = read_shape(json, file, arch, c, err);
    if (st == ST_OK)
        st = read_experts(json, file, arch, c, err);
    if (st == ST_OK)
        st = read_scales(json, file, arch, c, err);
    if (st == ST_OK)
        st = model_config_check(c, file, err); /* bounds the layers */
    if (st == ST_OK)
        st = read_dense_layers(json, file, c, err);
    return st == ST_OK ? read_windows(json, file, arch, c, err) : st;
}

status model_folder_config(const char *dir, struct model_config *out, struct error *err)
{
    char path[MODEL_MAX_PATH];
    json_t *json = NULL;
    struct model_config c = { .n_layers = 0 };
    status st = model_json_path(dir, "config.json", path, err);
    if (st == ST_OK)
        st = model_json_read(path, false, &json, err);
    if (st == ST_OK)
        st = read_config(json, path, &c, err);
    if (st == ST_OK)
        *out = c;
    json_decref(json);
    return st;
}

/* Weights */

/* The index names files of its own folder only. */
static bool is_plain_name(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && !strchr(name, '/');
}

static status open_shard(const char *dir, const char *name, struct model_shards *shards, struct error *err)
{
    char path[MODEL_MAX_PATH];
    if (shards->n == MODEL_MAX_SHARDS)
        return error_set(err, ST_LIMIT, "%s: more than %d safetensors files", dir, MODEL_MAX_SHARDS);
    status st = model_json_path(dir, name, path, err);
    if (st == ST_OK)
        st = safetensors_open(path, &shards->files[shards->n], err);
    if (st == ST_OK)
        shards->n++;
    return st;
}

/* names[i] is the file of shard i, borrowed from the JSON. */
static status shard_of(const char *dir, const char *file, const char *name, const char **names,
                       struct model_shards *shards, size_t *out, struct error *err)
{
    for (*out = 0; *out < shards->n; ++*out)
        if (strcmp(names[*out], name) == 0)
            return ST_OK;
    if (!is_plain_name(name))
        return error_set(err, ST_INVALID, "%s: weight_map names %.128s, which is no file of this folder", file, name);
    status st = open_shard(dir, name, shards, err);
    if (st == ST_OK) {
        ASSERT(shards->n == *out + 1);
        names[*out] = name;
    }
    return st;
}

static status open_mapped(const char *dir, const char *file, const json_t *map, struct model_shards *shards,
                          struct error *err)
{
    const char *tensor, *names[MODEL_MAX_SHARDS];
    const json_t *shard;
    size_t which;
    ASSERT(shards->n == 0);
    if (!json_is_object(map))
        return error_set(err, ST_INVALID, "%s: weight_map is not an object", file);
    json_object_foreach((json_t *)(uintptr_t)map, tensor, shard)
    {
        if (!json_is_string(shard))
            return error_set(err, ST_INVALID, "%s: weight_map: tensor %.200s has no file name", file, tensor);
        status st = shard_of(dir, file, json_string_value(shard), names, shards, &which, err);
        if (st != ST_OK)
            return st;
        if (!model_index_find(safetensors_index(shards->files[which]), tensor))
            return error_set(err, ST_INVALID, "%s: tensor %.200s is not in %.128s", file, tensor,
                             json_string_value(shard));
    }
    return ST_OK;
}

static status open_all(const char *dir, struct model_shards *shards, struct error *err)
{
    char path[MODEL_MAX_PATH];
    json_t *json = NULL;
    status st = open_shard(dir, "model.safetensors", shards, err);
    if (st != ST_NOT_FOUND)
        return st;
    st = model_json_path(dir, "model.safetensors.index.json", path, err);
    if (st == ST_OK)
        st = model_json_read(path, false, &json, err);
    if (st == ST_NOT_FOUND)
        return error_set(err, st, "%s: neither model.safetensors nor model.safetensors.index.json is there", dir);
    if (st == ST_OK)
        st = open_mapped(dir, path, json_object_get(json, "weight_map"), shards, err);
    json_decref(json);
    return st;
}

status model_folder_shards(const char *dir, struct model_shards *out, struct model_index *index, struct error *err)
{
    struct model_index parts[MODEL_MAX_SHARDS];
    out->n = 0;
    status st = open_all(dir, out, err);
    for (size_t i = 0; i < out->n; i++)
        parts[i] = *safetensors_index(out->files[i]);
    if (st == ST_OK)
        st = model_index_join(parts, out->n, dir, index, err);
    if (st != ST_OK)
        model_shards_close(out);
    return st;
}

void model_shards_close(struct model_shards *shards)
{
    while (shards->n > 0)
        safetensors_close(&shards->files[--shards->n]);
}

/* Chat template */

static status compile(const char *file, const char *source, size_t len, struct chat_template **out, struct error *err)
{
    struct error why;
    if (len > MAX_TEMPLATE_BYTES)
        return error_set(err, ST_LIMIT, "%s: a chat template of %zu bytes, more than %u", file, len,
                         MAX_TEMPLATE_BYTES);
    status st = chat_template_compile(source, len, out, &why);
    return st == ST_OK ? st : error_set(err, st, "%s: chat template: %s", file, why.text);
}

static const json_t *named_default(const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        if (model_json_is(json_object_get(entry, "name"), "default"))
            return json_object_get(entry, "template");
    }
    return NULL;
}

static status compile_field(const json_t *config, const char *file, struct chat_template **out, struct error *err)
{
    const json_t *source = json_object_get(config, "chat_template");
    if (json_is_array(source))
        source = named_default(source);
    if (!source || json_is_null(source))
        return ST_OK;
    if (!json_is_string(source))
        return error_set(err, ST_INVALID, "%s: chat_template is not a string", file);
    return compile(file, json_string_value(source), json_string_length(source), out, err);
}

static status compile_file(const char *path, struct chat_template **out, struct error *err)
{
    struct model_map map;
    status st = model_map_open(path, &map, err);
    if (st != ST_OK)
        return st;
    st = compile(path, (const char *)map.data, map.size, out, err);
    model_map_close(&map);
    return st;
}

status model_folder_template(const char *dir, struct chat_template **out, struct error *err)
{
    char path[MODEL_MAX_PATH];
    json_t *json = NULL;
    *out = NULL;
    status st = model_json_path(dir, "chat_template.jinja", path, err);
    if (st == ST_OK)
        st = compile_file(path, out, err);
    if (st != ST_NOT_FOUND)
        return st;
    st = model_json_path(dir, "tokenizer_config.json", path, err);
    /* model_max_length is often 10^30, "no limit". */
    if (st == ST_OK)
        st = model_json_read(path, true, &json, err);
    if (st == ST_OK)
        st = compile_field(json, path, out, err);
    json_decref(json);
    return st == ST_NOT_FOUND ? ST_OK : st;
}
