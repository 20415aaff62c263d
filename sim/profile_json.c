/* Profiles in JSON: Baton's own form, and DistServe's. */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/profile_forms.h"

#define MS 1000.0

/* ---- Baton's own ------------------------------------------------------------------------------------------ */

/* Leaves *out as it is where the member is not there and need not be. */
static status read_number(const json_t *object, const char *name, const char *member, bool needed, double *out,
                          struct error *err)
{
    const json_t *value = json_object_get(object, member);
    if (!value && !needed)
        return ST_OK;
    if (!json_is_number(value) || json_number_value(value) < 0)
        return error_set(err, ST_INVALID, "%s: \"%s\" is no number from 0 on", name, member);
    *out = json_number_value(value);
    return ST_OK;
}

static status read_prefill(const json_t *own, const char *name, struct profile *p, struct error *err)
{
    const json_t *prefill = json_object_get(own, "prefill"), *error = json_object_get(own, "error");
    status st = read_number(prefill, name, "base_us", true, &p->prefill_base_us, err);
    if (st == ST_OK)
        st = read_number(prefill, name, "token_us", true, &p->prefill_token_us, err);
    if (st == ST_OK)
        st = read_number(prefill, name, "square_us", true, &p->prefill_square_us, err);
    if (st == ST_OK)
        st = read_number(error, name, "prefill", false, &p->prefill_error, err);
    return st == ST_OK ? read_number(error, name, "decode", false, &p->decode_error, err) : st;
}

static status read_decode(const json_t *own, const char *name, struct profile *p, struct error *err)
{
    const json_t *pieces = json_object_get(own, "decode");
    size_t n = json_array_size(pieces);
    if (n == 0 || n > PROFILE_MAX_PIECES)
        return error_set(err, ST_INVALID, "%s: \"decode\" is no array of 1 to %u pieces", name, PROFILE_MAX_PIECES);
    status st = ST_OK;
    for (size_t i = 0; st == ST_OK && i < n; i++) {
        const json_t *piece = json_array_get(pieces, i);
        struct profile_decode *d = &p->decode[i];
        double most = UINT32_MAX;
        st = read_number(piece, name, "max_batch", i + 1 < n, &most, err);
        if (st == ST_OK)
            st = read_number(piece, name, "base_us", true, &d->base_us, err);
        if (st == ST_OK)
            st = read_number(piece, name, "context_us", true, &d->context_us, err);
        if (st == ST_OK)
            st = read_number(piece, name, "sequence_us", true, &d->sequence_us, err);
        d->max_batch = most < UINT32_MAX ? (uint32_t)most : UINT32_MAX;
    }
    p->n_decode = (uint32_t)n;
    return st;
}

static status read_own(const json_t *own, const char *name, struct profile *p, struct error *err)
{
    const json_t *kv = json_object_get(own, "kv"), *link = json_object_get(own, "link");
    double tokens = 0, layers = p->n_layers;
    if (json_integer_value(json_object_get(own, "baton_profile")) != PROFILE_VERSION)
        return error_set(err, ST_UNSUPPORTED, "%s: \"baton_profile\" is not %d, the version that is understood", name,
                         PROFILE_VERSION);
    (void)snprintf(p->name, sizeof p->name, "%s",
                   json_is_string(json_object_get(own, "name")) ? json_string_value(json_object_get(own, "name"))
                                                                : name);
    status st = read_prefill(own, name, p, err);
    if (st == ST_OK)
        st = read_decode(own, name, p, err);
    if (st == ST_OK)
        st = read_number(kv, name, "token_bytes", true, &p->kv_token_bytes, err);
    if (st == ST_OK)
        st = read_number(kv, name, "tokens", true, &tokens, err);
    if (st == ST_OK)
        st = read_number(own, name, "layers", false, &layers, err);
    if (st == ST_OK)
        st = read_number(link, name, "bytes_per_s", false, &p->link_bytes_per_s, err);
    if (st == ST_OK)
        st = read_number(link, name, "latency_us", false, &p->link_latency_us, err);
    p->kv_tokens = tokens < (double)UINT32_MAX ? (uint64_t)tokens : UINT32_MAX;
    p->n_layers = layers < (double)UINT32_MAX ? (uint32_t)layers : 0;
    return st;
}

/* ---- DistServe's ---------------------------------------------------------------------------------------------- */

/* The member that was asked for, or the only one. */
static const json_t *choose(const json_t *of, const char *asked, const char *what, const char *name, const char **key,
                            struct error *err)
{
    char all[256] = "";
    const char *each;
    json_t *value;
    if (!asked && json_object_size(of) == 1) {
        *key = json_object_iter_key(json_object_iter((json_t *)of));
        return json_object_get(of, *key);
    }
    *key = asked;
    if (asked && json_is_object(json_object_get(of, asked)))
        return json_object_get(of, asked);
    json_object_foreach((json_t *)of, each, value)
    {
        size_t len = strlen(all);
        (void)snprintf(all + len, sizeof all - len, " %s", each);
    }
    (void)error_set(err, ST_INVALID, "%s: %s is to be one of%s", name, what, all);
    return NULL;
}

static status read_three(const json_t *of, const char *name, const char *member, double out[3], struct error *err)
{
    const json_t *list = json_object_get(of, member);
    for (size_t i = 0; i < 3; i++) {
        const json_t *value = json_array_get(list, i);
        if (json_array_size(list) != 3 || !json_is_number(value))
            return error_set(err, ST_INVALID, "%s: \"%s\" is no array of three numbers", name, member);
        out[i] = MS * json_number_value(value);
        out[i] = out[i] > 0 ? out[i] : 0; /* some fits are a little below nothing */
    }
    return ST_OK;
}

static status read_coefficients(const json_t *of, const char *name, struct profile *p, struct error *err)
{
    double prefill[3] = { 0 }, small[3] = { 0 }, large[3] = { 0 };
    json_int_t threshold = json_integer_value(json_object_get(of, "decoding_large_small_bs_threshold"));
    status st = read_three(of, name, "prefill", prefill, err);
    if (st == ST_OK)
        st = read_three(of, name, "decoding_smallbs", small, err);
    if (st == ST_OK)
        st = read_three(of, name, "decoding_largebs", large, err);
    if (st == ST_OK && (threshold < 2 || threshold > UINT32_MAX))
        st = error_set(err, ST_INVALID, "%s: \"decoding_large_small_bs_threshold\" is no size of a batch", name);
    if (st != ST_OK)
        return st;
    p->prefill_base_us = prefill[0];
    p->prefill_token_us = prefill[1];
    p->prefill_square_us = prefill[2];
    p->decode[0] = (struct profile_decode){ (uint32_t)threshold - 1, small[0], small[1], small[2] };
    p->decode[1] = (struct profile_decode){ UINT32_MAX, large[0], large[1], large[2] };
    p->n_decode = 2;
    return ST_OK;
}

static status read_distserve(const json_t *root, const char *name, const struct profile_choice *choice,
                             struct profile *p, struct error *err)
{
    char degree[16] = "";
    const char *model, *parallel;
    if (choice->tensor_parallel)
        (void)snprintf(degree, sizeof degree, "%u", choice->tensor_parallel);
    const json_t *degrees = choose(root, choice->model, "the model", name, &model, err);
    const json_t *of =
        degrees ? choose(degrees, degree[0] ? degree : NULL, "the degree of tensor parallelism", name, &parallel, err)
                : NULL;
    if (!of)
        return ST_INVALID;
    (void)snprintf(p->name, sizeof p->name, "%s, tensor parallel %s, A100", model, parallel);
    profile_know_model(p, model, (uint32_t)strtoul(parallel, NULL, 10));
    return read_coefficients(of, name, p, err);
}

status profile_read_json(const char *text, size_t len, const char *name, const struct profile_choice *choice,
                         struct profile *p, struct error *err)
{
    json_error_t why;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    status st;
    if (!json_is_object(root))
        st = error_set(err, ST_INVALID, "%s: neither an object of JSON nor Splitwise's CSV: %s", name,
                       root ? "it is another value" : why.text);
    else if (json_object_get(root, "baton_profile"))
        st = read_own(root, name, p, err);
    else
        st = read_distserve(root, name, choice, p, err);
    json_decref(root);
    return st;
}
