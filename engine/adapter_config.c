#include "engine/adapter_config.h"

#include <math.h>
#include <string.h>

#include "engine/model_json.h"

/* Members that are read below, or that only say where the adapter comes from and how it was trained. */
static const char *const known[] = {
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "bias",
    "target_modules",
    "init_lora_weights",
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "eva_config",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
};

static bool is_known(const char *name)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(name, known[i]))
            return true;
    return false;
}

/* Null, false, [], {} or "": switched off, whatever it is. */
static bool is_off(const json_t *value)
{
    return json_is_null(value) || json_is_false(value) || (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_string(value) && json_string_length(value) == 0);
}

/* DoRA, modules_to_save, rank_pattern, and what PEFT will yet learn. */
static status check_switches(const json_t *root, const char *file, struct error *err)
{
    const json_t *value;
    const char *name;
    json_object_foreach((json_t *)(uintptr_t)root, name, value) if (!is_known(name) && !is_off(value)) return error_set(
        err, ST_UNSUPPORTED, "%s: %.64s: only null, false or empty is supported", file, name);
    return ST_OK;
}

static status check_word(const json_t *root, const char *file, const char *field, const char *word, struct error *err)
{
    const json_t *value = json_object_get(root, field);
    if (json_is_string(value) && !strcmp(json_string_value(value), word))
        return ST_OK;
    return error_set(err, ST_UNSUPPORTED, "%s: %s is %.64s, only \"%s\" is supported", file, field,
                     json_is_string(value) ? json_string_value(value) : "no text", word);
}

/* Some ways to begin (PiSSA, OLoRA, CorDA) take something out of the base weights, so that the adapter does not fit
 * those of the base model. */
static status check_beginning(const json_t *root, const char *file, struct error *err)
{
    static const char *const harmless[] = { "gaussian", "eva", "orthogonal", "loftq" };
    const json_t *value = json_object_get(root, "init_lora_weights");
    if (!value || json_is_null(value) || json_is_boolean(value))
        return ST_OK;
    for (size_t i = 0; json_is_string(value) && i < sizeof harmless / sizeof *harmless; i++)
        if (!strcmp(json_string_value(value), harmless[i]))
            return ST_OK;
    return error_set(err, ST_UNSUPPORTED,
                     "%s: init_lora_weights is %.64s, only true, false, gaussian, orthogonal, eva and loftq are "
                     "supported: others change the base weights, too",
                     file, json_is_string(value) ? json_string_value(value) : "no text");
}

static bool is_target(const char *text)
{
    static const char *const modules[] = {
#define X(name, text) text,
        ADAPTER_MODULES(X)
#undef X
    };
    const char *dot = strrchr(text, '.');
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++)
        if (!strcmp(dot ? dot + 1 : text, strchr(modules[i], '.') + 1))
            return true;
    return false;
}

/* A list of names; a text is a pattern, of which the tensors tell what it found. */
static status check_targets(const json_t *root, const char *file, struct error *err)
{
    const json_t *list = json_object_get(root, "target_modules"), *item;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)list, i,
                       item) if (!json_is_string(item) ||
                                 !is_target(json_string_value(
                                     item))) return error_set(err, ST_UNSUPPORTED,
                                                              "%s: target_modules has %.64s, only q_proj, k_proj, "
                                                              "v_proj, o_proj, gate_proj, up_proj and "
                                                              "down_proj are supported",
                                                              file,
                                                              json_is_string(item) ? json_string_value(item)
                                                                                   : "what is no text");
    return ST_OK;
}

static status check(const json_t *root, const char *file, struct error *err)
{
    status st = check_word(root, file, "peft_type", "LORA", err);
    if (st == ST_OK)
        st = check_word(root, file, "bias", "none", err);
    if (st == ST_OK)
        st = check_switches(root, file, err);
    if (st == ST_OK)
        st = check_beginning(root, file, err);
    return st == ST_OK ? check_targets(root, file, err) : st;
}

static status read_numbers(const json_t *root, const char *file, struct adapter_config *out, struct error *err)
{
    bool rslora = false;
    const json_t *alpha = json_object_get(root, "lora_alpha");
    status st = model_json_count(root, file, "r", true, &out->rank, err);
    if (st == ST_OK)
        st = model_json_bool(root, file, "use_rslora", &rslora, err);
    if (st != ST_OK)
        return st;
    if (out->rank == 0 || out->rank > ADAPTER_MAX_RANK)
        return error_set(err, ST_UNSUPPORTED, "%s: r is %u, it may be 1 to %u", file, out->rank, ADAPTER_MAX_RANK);
    double x = json_number_value(alpha);
    if (!json_is_number(alpha) || !isfinite(x) || fabs(x) > 1e6)
        return error_set(err, ST_INVALID, "%s: lora_alpha is missing or no number within a million", file);
    out->scale = (float)(x / (rslora ? sqrt(out->rank) : out->rank));
    return ST_OK;
}

status adapter_config_read(const char *path, struct adapter_config *out, struct error *err)
{
    json_t *root = NULL;
    struct adapter_config config = { .rank = 0 };
    status st = model_json_read(path, false, &root, err);
    if (st != ST_OK)
        return st;
    st = check(root, path, err);
    if (st == ST_OK)
        st = read_numbers(root, path, &config, err);
    json_decref(root);
    if (st == ST_OK)
        *out = config;
    return st;
}
