#include "proto/instance.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "common/json_writer.h"

/* Members that are text: name in JSON and in the struct, and whether it must be there. */
/* clang-format off */
#define INSTANCE_TEXTS(X)                                                              \
    X(id, true) X(role, true) X(model, false) X(kv_format, false) X(adapters, false)    \
    X(class, false) X(control, false)                                                  \
    X(events, false) X(kv_events, false) X(kv_replay, false)                           \
    X(admin, false) X(api, false) X(host, false) X(rack, false)                        \
    X(zone, false) X(version, false) X(process, false)
/* clang-format on */

const char *instance_prefix(char *key, size_t size, const char *cluster)
{
    snprintf(key, size, "/baton/v1/%s/instances/", cluster);
    return key;
}

const char *instance_key(char *key, size_t size, const char *cluster, const struct instance *instance)
{
    snprintf(key, size, "/baton/v1/%s/instances/%s/%s", cluster, instance->role, instance->id);
    return key;
}

bool instance_id_of_key(const char *key, char *id, size_t size)
{
    const char *slash = strrchr(key, '/');
    if (!slash || !slash[1] || strlen(slash + 1) >= size)
        return false;
    memcpy(id, slash + 1, strlen(slash + 1) + 1);
    return true;
}

size_t instance_adapter_name_len(const char *adapter)
{
    return strcspn(adapter, "@");
}

bool instance_next_adapter(const char **at, char adapter[INSTANCE_ADAPTER_BYTES])
{
    size_t len = strcspn(*at, ","), name = instance_adapter_name_len(*at);
    if (len == 0 || len >= INSTANCE_ADAPTER_BYTES || name == 0 || name >= len)
        return false;
    memcpy(adapter, *at, len);
    adapter[len] = '\0';
    *at += len + ((*at)[len] == ',');
    return true;
}

bool instance_has_adapter(const struct instance *instance, const char *adapter)
{
    const char *at = instance->adapters;
    char one[INSTANCE_ADAPTER_BYTES];
    while (instance_next_adapter(&at, one))
        if (!strcmp(one, adapter))
            return true;
    return false;
}

static void write_hex(struct json_writer *w, const char *name, uint64_t value)
{
    char digits[17];
    snprintf(digits, sizeof digits, "%016" PRIx64, value);
    json_field_string(w, name, digits);
}

void instance_write(const struct instance *instance, struct text_buffer *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_write_object(&w);
#define X(name, required)                                                                                              \
    if (instance->name[0])                                                                                             \
        json_field_string(&w, #name, instance->name);
    INSTANCE_TEXTS(X)
#undef X
    write_hex(&w, "incarnation", instance->incarnation);
    if (instance->weights)
        write_hex(&w, "weights", instance->weights);
    if (instance->tokenizer)
        write_hex(&w, "tokenizer", instance->tokenizer);
    if (instance->block_tokens)
        json_field_uint(&w, "block_tokens", instance->block_tokens);
    if (instance->computes_all)
        json_field_bool(&w, "computes_all", true);
    json_field_uint(&w, "max_model_len", instance->max_model_len);
    json_field_uint(&w, "kv_tokens", instance->kv_tokens);
    json_field_uint(&w, "pid", instance->pid);
    json_write_end(&w);
}

static status read_text(const json_t *root, const char *name, bool required, char *out, size_t size, struct error *err)
{
    const json_t *value = json_object_get(root, name);
    out[0] = '\0';
    if (!value && !required)
        return ST_OK;
    if (!json_is_string(value) || json_string_length(value) >= size)
        return error_set(err, ST_INVALID, "instance record: \"%s\" is missing, no text or too long", name);
    for (const char *c = json_string_value(value); *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return error_set(err, ST_INVALID, "instance record: \"%s\" has a control character", name);
    memcpy(out, json_string_value(value), json_string_length(value) + 1);
    return ST_OK;
}

static uint64_t read_count(const json_t *root, const char *name, uint64_t most)
{
    json_int_t n = json_integer_value(json_object_get(root, name));
    return n <= 0 ? 0 : (uint64_t)n < most ? (uint64_t)n : most;
}

/* 1 to 16 hexadecimal digits and nothing else, not all zero: zero stands for unknown. */
static status read_hex(const json_t *root, const char *name, bool required, uint64_t *out, struct error *err)
{
    const json_t *value = json_object_get(root, name);
    if (!value && !required)
        return ST_OK;
    const char *text = json_string_value(value);
    size_t n = text ? strspn(text, "0123456789abcdefABCDEF") : 0;
    if (n >= 1 && n <= 16 && !text[n] && sscanf(text, "%" SCNx64, out) == 1 && *out != 0)
        return ST_OK;
    return error_set(err, ST_INVALID, "instance record: \"%s\" is missing or malformed", name);
}

status instance_read(const char *json, size_t len, struct instance *out, struct error *err)
{
    json_error_t why;
    struct instance in = { .pid = 0 };
    json_t *root = json_loadb(json, len, 0, &why);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(err, ST_INVALID, "instance record: no JSON object (%s)", root ? "another value" : why.text);
    }
    status st = ST_OK;
#define X(name, required)                                                                                              \
    if (st == ST_OK)                                                                                                   \
        st = read_text(root, #name, required, in.name, sizeof in.name, err);
    INSTANCE_TEXTS(X)
#undef X
    if (st == ST_OK)
        st = read_hex(root, "incarnation", true, &in.incarnation, err);
    if (st == ST_OK)
        st = read_hex(root, "weights", false, &in.weights, err);
    if (st == ST_OK)
        st = read_hex(root, "tokenizer", false, &in.tokenizer, err);
    in.max_model_len = (uint32_t)read_count(root, "max_model_len", UINT32_MAX);
    in.kv_tokens = read_count(root, "kv_tokens", UINT64_MAX);
    in.block_tokens = (uint32_t)read_count(root, "block_tokens", UINT32_MAX);
    in.computes_all = json_is_true(json_object_get(root, "computes_all"));
    in.pid = (uint32_t)read_count(root, "pid", UINT32_MAX);
    json_decref(root);
    if (st == ST_OK)
        *out = in;
    return st;
}
