#include "engine/model_defaults.h"

#include "engine/model_json.h"
#include "engine/sampling.h"

/* -1 means the same as 0: no limit. */
static status read_top_k(const json_t *json, const char *file, int32_t *out, struct error *err)
{
    const json_t *value = json_object_get(json, "top_k");
    if (!value || json_is_null(value))
        return ST_OK;
    if (!json_is_integer(value) || json_integer_value(value) < -1 || json_integer_value(value) > INT32_MAX)
        return error_set(err, ST_INVALID, "%s: top_k: not a whole number from -1 to %d", file, INT32_MAX);
    *out = (int32_t)json_integer_value(value);
    return ST_OK;
}

static status read_max_tokens(const json_t *json, const char *file, uint32_t *out, struct error *err)
{
    uint32_t n = 1;
    status st = model_json_count(json, file, "max_new_tokens", false, &n, err);
    if (st == ST_OK && n == 0)
        return error_set(err, ST_INVALID, "%s: max_new_tokens must be 1 or more", file);
    return st == ST_OK ? model_json_count(json, file, "max_new_tokens", false, out, err) : st;
}

static status read_fields(const json_t *json, const char *file, struct model_defaults *d, struct error *err)
{
    status st;
    if ((st = model_json_float(json, file, "temperature", &d->temperature, err)) != ST_OK ||
        (st = model_json_float(json, file, "top_p", &d->top_p, err)) != ST_OK ||
        (st = model_json_float(json, file, "min_p", &d->min_p, err)) != ST_OK ||
        (st = model_json_float(json, file, "repetition_penalty", &d->repetition_penalty, err)) != ST_OK ||
        (st = read_top_k(json, file, &d->top_k, err)) != ST_OK)
        return st;
    return read_max_tokens(json, file, &d->max_tokens, err);
}

/* The ranges are the sampler's. */
static status check(const struct model_defaults *d, const char *file, struct error *err)
{
    const struct sampling s = { .max_tokens = 1,
                                .temperature = d->temperature,
                                .top_p = d->top_p,
                                .min_p = d->min_p,
                                .top_k = d->top_k,
                                .repetition_penalty = d->repetition_penalty,
                                .n_logprobs = -1 };
    struct error why;
    status st = sampling_check(&s, 1, &why);
    return st == ST_OK ? ST_OK : error_set(err, st, "%s: %s", file, why.text);
}

status model_defaults_read(const char *dir, struct model_defaults *out, struct error *err)
{
    char path[MODEL_MAX_PATH];
    json_t *json = NULL;
    struct model_defaults d = MODEL_DEFAULTS_NEUTRAL;
    status st = model_json_path(dir, "generation_config.json", path, err);
    if (st == ST_OK)
        st = model_json_read(path, false, &json, err);
    if (st == ST_OK)
        st = read_fields(json, path, &d, err);
    if (st == ST_OK)
        st = check(&d, path, err);
    json_decref(json);
    if (st != ST_OK && st != ST_NOT_FOUND)
        return st;
    *out = d;
    return ST_OK;
}
