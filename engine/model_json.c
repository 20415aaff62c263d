#include "engine/model_json.h"

#include <stdio.h>
#include <string.h>

#include "engine/model_map.h"

status model_json_path(const char *dir, const char *name, char buf[MODEL_MAX_PATH], struct error *err)
{
    int n = snprintf(buf, MODEL_MAX_PATH, "%s/%s", dir, name);
    if (n < 0 || n >= MODEL_MAX_PATH)
        return error_set(err, ST_LIMIT, "%.64s...: the path is longer than %d bytes", dir, MODEL_MAX_PATH);
    return ST_OK;
}

status model_json_read(const char *path, bool real_integers, json_t **out, struct error *err)
{
    struct model_map map;
    status st = model_map_open(path, &map, err);
    if (st != ST_OK)
        return st;
    json_error_t why;
    json_t *root = NULL;
    if (map.size > MODEL_MAX_JSON_BYTES) {
        st = error_set(err, ST_LIMIT, "%s: %zu bytes, more than %u", path, map.size, MODEL_MAX_JSON_BYTES);
    } else {
        size_t flags = JSON_REJECT_DUPLICATES | (real_integers ? JSON_DECODE_INT_AS_REAL : 0);
        root = json_loadb((const char *)map.data, map.size, flags, &why);
        if (!root)
            st = error_set(err, ST_INVALID, "%s: line %d: %s", path, why.line, why.text);
        else if (!json_is_object(root))
            st = error_set(err, ST_INVALID, "%s: not a JSON object", path);
    }
    model_map_close(&map);
    if (st == ST_OK)
        *out = root;
    else
        json_decref(root);
    return st;
}

bool model_json_is(const json_t *value, const char *text)
{
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

status model_json_unsupported(const char *file, const char *field, const char *only, struct error *err)
{
    return error_set(err, ST_UNSUPPORTED, "%s: %s: only %s is supported", file, field, only);
}

static bool is_absent(const json_t *value)
{
    return !value || json_is_null(value);
}

status model_json_count(const json_t *object, const char *file, const char *field, bool required, uint32_t *out,
                        struct error *err)
{
    const json_t *value = json_object_get(object, field);
    if (is_absent(value))
        return required ? error_set(err, ST_INVALID, "%s: %s is missing", file, field) : ST_OK;
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > UINT32_MAX)
        return error_set(err, ST_INVALID, "%s: %s: not a count", file, field);
    *out = (uint32_t)json_integer_value(value);
    return ST_OK;
}

status model_json_float(const json_t *object, const char *file, const char *field, float *out, struct error *err)
{
    const json_t *value = json_object_get(object, field);
    if (is_absent(value))
        return ST_OK;
    if (!json_is_number(value))
        return error_set(err, ST_INVALID, "%s: %s: not a number", file, field);
    *out = (float)json_number_value(value);
    return ST_OK;
}

status model_json_bool(const json_t *object, const char *file, const char *field, bool *out, struct error *err)
{
    const json_t *value = json_object_get(object, field);
    if (is_absent(value))
        return ST_OK;
    if (!json_is_boolean(value))
        return error_set(err, ST_INVALID, "%s: %s: neither true nor false", file, field);
    *out = json_is_true(value);
    return ST_OK;
}
