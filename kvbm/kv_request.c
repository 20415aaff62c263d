#include "kvbm/kv_request.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SECONDS 31536000

static const char *const names[] = {
#define X(name, text) text,
    KV_REQUEST_MEMBERS(X)
#undef X
};

static status wrong(struct error *err, enum kv_request_member member, const char *what)
{
    return error_set(err, ST_INVALID, "\"%s\" %s", names[member], what);
}

static status read_tokens(const json_t *value, struct kv_request *out, struct error *err)
{
    size_t n = json_array_size(value);
    if (n == 0 || n > KV_REQUEST_MAX_TOKENS)
        return wrong(err, KV_REQUEST_TOKENS, "is an array of 1 to 1048576 token ids");
    out->tokens = malloc(n * sizeof *out->tokens);
    if (!out->tokens)
        return error_set(err, ST_NO_MEMORY, "no memory for %zu token ids", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(value, i);
        if (!json_is_integer(item) || json_integer_value(item) < 0 || json_integer_value(item) > UINT32_MAX)
            return wrong(err, KV_REQUEST_TOKENS, "has a member that is no token id");
        out->tokens[i] = (uint32_t)json_integer_value(item);
    }
    out->n_tokens = (uint32_t)n;
    return ST_OK;
}

static status read_model(const json_t *value, struct kv_request *out, struct error *err)
{
    if (!json_is_string(value) || json_string_length(value) >= sizeof out->model)
        return wrong(err, KV_REQUEST_MODEL, "is the name of a model");
    snprintf(out->model, sizeof out->model, "%s", json_string_value(value));
    return ST_OK;
}

static status read_adapter(const json_t *value, struct kv_request *out, struct error *err)
{
    const char *text = json_string_value(value), *at = text ? strrchr(text, '@') : NULL;
    if (!at || strlen(at + 1) != 16 || strspn(at + 1, "0123456789abcdef") != 16 ||
        sscanf(at + 1, "%" SCNx64, &out->adapter) != 1)
        return wrong(err, KV_REQUEST_ADAPTER, "takes NAME@FINGERPRINT, as in red@0123456789abcdef");
    return ST_OK;
}

static status read_salt(const json_t *value, const struct salt_key *key, struct kv_request *out, struct error *err)
{
    if (!json_is_string(value) || json_string_length(value) == 0)
        return wrong(err, KV_REQUEST_SALT, "is a text as in \"cache_salt\" of a request, not empty");
    status st = block_salt(key->bytes, key->len, json_string_value(value), json_string_length(value), &out->salt);
    return st == ST_OK ? ST_OK : error_set(err, st, "the salt cannot be hashed: %s", status_text(st));
}

static status read_seconds(const json_t *value, struct kv_request *out, struct error *err)
{
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 1 || n > MAX_SECONDS)
        return wrong(err, KV_REQUEST_SECONDS, "is a number of seconds, 1 to 31536000");
    out->seconds = (uint64_t)n;
    return ST_OK;
}

static status read_member(enum kv_request_member member, const json_t *value, const struct salt_key *key,
                          struct kv_request *out, struct error *err)
{
    switch (member) {
    case KV_REQUEST_TOKENS:
        return read_tokens(value, out, err);
    case KV_REQUEST_MODEL:
        return read_model(value, out, err);
    case KV_REQUEST_ADAPTER:
        return read_adapter(value, out, err);
    case KV_REQUEST_SALT:
        return read_salt(value, key, out, err);
    case KV_REQUEST_SECONDS:
        return read_seconds(value, out, err);
    case KV_REQUEST_ALL:
        return json_is_true(value) ? ST_OK : wrong(err, member, "is true or left out");
    case KV_REQUEST_MEMBER_COUNT:
        break;
    }
    return ST_INVALID;
}

static unsigned find_name(const char *name)
{
    unsigned member = 0;
    while (member < KV_REQUEST_MEMBER_COUNT && strcmp(name, names[member]) != 0)
        member++;
    return member;
}

static status read_members(const json_t *root, unsigned allowed, const struct salt_key *key, struct kv_request *out,
                           struct error *err)
{
    const char *name;
    json_t *value;
    status st = ST_OK;
    json_object_foreach((json_t *)root, name, value)
    {
        unsigned member = find_name(name);
        if (member == KV_REQUEST_MEMBER_COUNT || !(allowed & 1u << member))
            st = error_set(err, ST_INVALID, "there is no member \"%.40s\" here", name);
        else
            st = read_member((enum kv_request_member)member, value, key, out, err);
        if (st != ST_OK)
            return st;
        out->given |= 1u << member;
    }
    return ST_OK;
}

status kv_request_read(const char *json, size_t len, unsigned allowed, unsigned needed, const struct salt_key *key,
                       struct kv_request *out, struct error *err)
{
    json_error_t why;
    struct kv_request request = { .given = 0 };
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &why);
    status st = ST_OK;
    if (!json_is_object(root))
        st = error_set(err, ST_INVALID, "the body is no JSON object (%s)", root ? "another value" : why.text);
    if (st == ST_OK)
        st = read_members(root, allowed, key, &request, err);
    json_decref(root);
    for (unsigned member = 0; st == ST_OK && member < KV_REQUEST_MEMBER_COUNT; member++)
        if (needed & ~request.given & 1u << member)
            st = wrong(err, (enum kv_request_member)member, "is missing");
    if (st == ST_OK)
        *out = request;
    else
        kv_request_free(&request);
    return st;
}

void kv_request_free(struct kv_request *request)
{
    free(request->tokens);
    request->tokens = NULL;
}
