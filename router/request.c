#include "router/request.h"

#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/json_writer.h"
#include "router/request_prompt.h"

#define SHOWN_BYTES      64 /* of a text that an error repeats */
#define SHOWN_NAME_BYTES 200

static status missing(struct api_error *err, const char *name)
{
    return api_error_set(err, API_MISSING, name, "Missing required parameter: '%s'.", name);
}

static status refuse(struct api_error *err, const char *name, const char *why)
{
    return api_error_set(err, API_UNSUPPORTED, name, "Unsupported value for '%s': %s.", name, why);
}

/* ---- model, and what is not built --------------------------------------------------- */

status request_no_model(const char *name, struct api_error *err)
{
    return api_error_set(err, API_NO_MODEL, "model",
                         "The model '%.200s' does not exist; GET /v1/models lists the models.", name);
}

static bool is_printable(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (text[i] < ' ' || text[i] > '~')
            return false;
    return true;
}

/* "MODEL", or "MODEL:ADAPTER" with a name that an adapter may have. */
static void find_model(struct request *r, const struct models *models, const char *name, size_t len)
{
    const char *colon = memrchr(name, ':', len);
    const size_t adapter_len = colon ? len - (size_t)(colon + 1 - name) : 0;
    r->model = models_find(models, name, len);
    if (r->model || adapter_len == 0 || adapter_len >= INSTANCE_ADAPTER_NAME_BYTES ||
        !is_printable(colon + 1, adapter_len))
        return;
    r->adapter = arena_copy(r->arena, colon + 1, adapter_len);
    r->name = arena_copy(r->arena, name, len);
    if (r->adapter && r->name)
        r->model = models_find(models, name, (size_t)(colon - name));
}

static status read_model(struct request *r, const struct request_rules *rules, const struct request_values *v,
                         struct api_error *err)
{
    char shown[SHOWN_NAME_BYTES];
    bool may_miss = r->kind == REQUEST_TOKENS || r->kind == REQUEST_IDS;
    r->adapter = "";
    if (v->model && !json_is_string(v->model))
        return request_wrong_type(err, "model", "a string", v->model);
    if (v->model)
        find_model(r, rules->models, json_string_value(v->model), json_string_length(v->model));
    else if (may_miss)
        r->model = models_at(rules->models, 0);
    else
        return missing(err, "model");
    if (!r->model)
        return request_no_model(request_show(v->model, shown, sizeof shown), err);
    if (!r->adapter[0])
        r->name = r->model->name;
    return ST_OK;
}

static bool is_word(const json_t *value, const char *word)
{
    return json_is_string(value) && json_string_length(value) == strlen(word) &&
           !memcmp(json_string_value(value), word, strlen(word));
}

/* tools with tool_choice, functions with function_call: none of it may change the answer. */
static status check_calls(const json_t *list, const json_t *choice, const char *list_name, const char *choice_name,
                          struct api_error *err)
{
    if (list && !json_is_array(list))
        return request_wrong_type(err, list_name, "an array", list);
    if (choice && !json_is_string(choice) && !json_is_object(choice))
        return request_wrong_type(err, choice_name, "a string or an object", choice);
    if (is_word(choice, "none"))
        return ST_OK;
    if (list && json_array_size(list) > 0)
        return refuse(err, list_name, "calling tools is not supported by this server");
    if (choice && !is_word(choice, "auto"))
        return refuse(err, choice_name, "calling tools is not supported by this server");
    return ST_OK;
}

static status check_response_format(struct request_values *v, struct api_error *err)
{
    static const char *const known[] = { "type", NULL };
    const json_t *format = v->response_format;
    char shown[SHOWN_BYTES];
    const json_t *type = format ? json_object_get(format, "type") : NULL;
    if (!format)
        return ST_OK;
    if (!request_given(type))
        return missing(err, "response_format.type");
    if (!json_is_string(type))
        return request_wrong_type(err, "response_format.type", "a string", type);
    if (is_word(type, "text")) {
        request_ignore_others(v, "response_format", format, known);
        return ST_OK;
    }
    if (is_word(type, "json_object") || is_word(type, "json_schema"))
        return refuse(err, "response_format", "only {\"type\": \"text\"} is supported by this server");
    return api_error_set(err, API_WRONG_VALUE, "response_format.type",
                         "Invalid value for 'response_format.type': '%s' is not one of 'text', 'json_object' and "
                         "'json_schema'.",
                         request_show(type, shown, sizeof shown));
}

static status check_unbuilt(const struct request *r, struct request_values *v, struct api_error *err)
{
    status st = check_calls(v->functions, v->function_call, "functions", "function_call", err);
    if (st == ST_OK)
        st = check_response_format(v, err);
    if (st != ST_OK)
        return st;
    if (v->best_of > 0 && v->best_of < v->n)
        return api_error_set(err, API_WRONG_VALUE, "best_of",
                             "Invalid value for 'best_of': %" PRId64 " is below n = %" PRId64 ".", v->best_of, v->n);
    if (v->best_of > v->n)
        return refuse(err, "best_of", "choosing among more than n answers is not supported by this server");
    if (r->kind == REQUEST_TEXT && v->echo && v->logprobs)
        return refuse(err, "logprobs", "log-probabilities of the prompt (echo) are not supported by this server");
    return ST_OK;
}

/* ---- sampling ------------------------------------------------------------------------- */

static status read_logprobs(struct request *r, const struct request_values *v, struct api_error *err)
{
    struct sampling *s = &r->sampling;
    s->n_logprobs = -1;
    if (r->kind == REQUEST_CHAT) {
        if (v->logprobs && !json_is_boolean(v->logprobs))
            return request_wrong_type(err, "logprobs", "a boolean", v->logprobs);
        bool wanted = json_is_true(v->logprobs);
        if (v->top_logprobs >= 0 && !wanted)
            return api_error_set(err, API_WRONG_VALUE, "top_logprobs",
                                 "Invalid value for 'top_logprobs': it is allowed only when 'logprobs' is true.");
        if (wanted)
            s->n_logprobs = v->top_logprobs < 0 ? 0 : (int32_t)v->top_logprobs;
        return ST_OK;
    }
    if (!v->logprobs)
        return ST_OK;
    if (!json_is_integer(v->logprobs))
        return request_wrong_type(err, "logprobs", "an integer", v->logprobs);
    json_int_t n = json_integer_value(v->logprobs);
    if (n < 0 || n > SAMPLING_MAX_TOP_LOGPROBS)
        return api_error_set(err, API_WRONG_VALUE, "logprobs",
                             "Invalid value for 'logprobs': %lld is not between 0 and %d.", (long long)n,
                             SAMPLING_MAX_TOP_LOGPROBS);
    s->n_logprobs = (int32_t)n;
    return ST_OK;
}

static status read_bias_entry(const struct request *r, const char *name, const json_t *value, struct logit_bias *out,
                              struct api_error *err)
{
    char path[API_ERROR_PARAM_BYTES], shown[JSON_REAL_BYTES], *end;
    snprintf(path, sizeof path, "logit_bias.%.64s", name);
    unsigned long long id = strtoull(name, &end, 10);
    if (name[0] < '0' || name[0] > '9' || *end || id >= r->model->n_vocab)
        return api_error_set(err, API_WRONG_VALUE, path,
                             "Invalid value for 'logit_bias': '%.64s' is no token id between 0 and %u.", name,
                             r->model->n_vocab - 1);
    if (!json_is_number(value))
        return request_wrong_type(err, path, "a number", value);
    double bias = json_number_value(value);
    if (!(bias >= -100.0 && bias <= 100.0))
        return api_error_set(err, API_WRONG_VALUE, path, "Invalid value for '%s': %s is not between -100 and 100.",
                             path, json_real_text(bias, shown));
    *out = (struct logit_bias){ (uint32_t)id, (float)bias };
    return ST_OK;
}

static status read_bias(struct request *r, const json_t *object, struct api_error *err)
{
    size_t n = object ? json_object_size(object) : 0, i = 0;
    const char *name;
    json_t *value;
    if (n == 0)
        return ST_OK;
    if (n > SAMPLING_MAX_BIAS)
        return api_error_set(err, API_WRONG_VALUE, "logit_bias",
                             "Invalid value for 'logit_bias': %zu entries, at most %d are allowed.", n,
                             SAMPLING_MAX_BIAS);
    struct logit_bias *bias = arena_take(r->arena, n * sizeof *bias);
    if (!bias)
        return api_error_memory(err);
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        status st = read_bias_entry(r, name, value, &bias[i++], err);
        if (st != ST_OK)
            return st;
    }
    r->sampling.bias = bias;
    r->sampling.n_bias = (uint32_t)n;
    return ST_OK;
}

static status read_stop_ids(struct request *r, const json_t *list, struct api_error *err)
{
    struct token_list ids = { 0 };
    size_t n_eos;
    const uint32_t *eos = tokenizer_eos(r->model->tokenizer, &n_eos);
    if (list && !json_is_array(list))
        return request_wrong_type(err, "stop_token_ids", "an array", list);
    if (list && json_array_size(list) + n_eos > SAMPLING_MAX_STOP_IDS)
        return api_error_set(err, API_WRONG_VALUE, "stop_token_ids",
                             "Invalid value for 'stop_token_ids': %zu ids, at most %zu are allowed.",
                             json_array_size(list), SAMPLING_MAX_STOP_IDS - n_eos);
    status st = list ? request_read_ids(r->model, list, "stop_token_ids", &ids, err) : ST_OK;
    uint32_t *all = st == ST_OK ? arena_take(r->arena, (n_eos + ids.n + 1) * sizeof *all) : NULL;
    if (st == ST_OK && !all)
        st = api_error_memory(err);
    if (all) {
        memcpy(all, eos, n_eos * sizeof *eos);
        if (ids.n)
            memcpy(all + n_eos, ids.ids, ids.n * sizeof *all);
        r->sampling.stop_ids = all;
        r->sampling.n_stop_ids = (uint32_t)(n_eos + ids.n);
    }
    token_list_free(&ids);
    return st;
}

static status add_stop(struct request *r, const json_t *text, const char *path, struct api_error *err)
{
    if (!json_is_string(text))
        return request_wrong_type(err, path, "a string", text);
    size_t len = json_string_length(text);
    if (len == 0 || len > STOP_MAX_BYTES)
        return api_error_set(err, API_WRONG_VALUE, path,
                             "Invalid value for '%s': a stop text has 1 to %d bytes, not %zu.", path, STOP_MAX_BYTES,
                             len);
    return stop_set_add(&r->stops, r->arena, json_string_value(text), len) == ST_OK ? ST_OK : api_error_memory(err);
}

static status read_stops(struct request *r, const struct request_values *v, struct api_error *err)
{
    char path[API_ERROR_PARAM_BYTES];
    r->stops.keep = v->include_stop_str_in_output;
    if (!v->stop)
        return ST_OK;
    if (json_is_string(v->stop))
        return add_stop(r, v->stop, "stop", err);
    if (!json_is_array(v->stop))
        return request_wrong_type(err, "stop", "a string or an array of strings", v->stop);
    if (json_array_size(v->stop) > STOP_MAX_STRINGS)
        return api_error_set(err, API_WRONG_VALUE, "stop",
                             "Invalid value for 'stop': %zu texts, at most %d are allowed.", json_array_size(v->stop),
                             STOP_MAX_STRINGS);
    for (size_t i = 0; i < json_array_size(v->stop); i++) {
        snprintf(path, sizeof path, "stop[%zu]", i);
        status st = add_stop(r, json_array_get(v->stop, i), path, err);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

static status read_max_tokens(struct request *r, const struct request_values *v, struct api_error *err)
{
    if (v->max_tokens >= 0 && v->max_completion_tokens >= 0)
        return api_error_set(err, API_WRONG_VALUE, "max_tokens",
                             "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.");
    int64_t most = v->max_tokens >= 0 ? v->max_tokens : v->max_completion_tokens;
    if (most == 0 && r->kind == REQUEST_CHAT)
        return api_error_set(err, API_WRONG_VALUE, "max_tokens", "Invalid value for 'max_tokens': 0 is below 1.");
    r->has_max_tokens = most >= 0;
    r->max_tokens_name = v->max_tokens >= 0 ? "max_tokens" : "max_completion_tokens";
    r->sampling.max_tokens = most >= 0 ? (uint32_t)most : UINT32_MAX;
    r->sampling.min_tokens = (uint32_t)v->min_tokens;
    if (r->has_max_tokens && v->min_tokens > most)
        return api_error_set(err, API_WRONG_VALUE, "min_tokens",
                             "Invalid value for 'min_tokens': %" PRId64 " is above %s = %" PRId64 ".", v->min_tokens,
                             r->max_tokens_name, most);
    return ST_OK;
}

static status read_seed(struct request *r, const json_t *seed, struct api_error *err)
{
    if (!seed)
        return ST_OK;
    if (!json_is_integer(seed))
        return request_wrong_type(err, "seed", "an integer", seed);
    r->has_seed = true;
    r->sampling.seed = (uint64_t)json_integer_value(seed);
    return ST_OK;
}

static status read_sampling(struct request *r, const struct request_values *v, struct api_error *err)
{
    struct sampling *s = &r->sampling;
    const struct model_defaults *d = &r->model->defaults;
    s->temperature = (float)request_real(v->temperature, (double)d->temperature);
    s->top_p = (float)request_real(v->top_p, (double)d->top_p);
    if (!(s->top_p > FLT_MIN)) /* 0 is in OpenAI's range and means the same: only the likeliest token is left */
        s->top_p = FLT_MIN;
    s->min_p = (float)request_real(v->min_p, (double)d->min_p);
    s->top_k = (int32_t)request_int(v->top_k, d->top_k);
    s->repetition_penalty = (float)request_real(v->repetition_penalty, (double)d->repetition_penalty);
    s->presence_penalty = (float)v->presence_penalty;
    s->frequency_penalty = (float)v->frequency_penalty;
    s->ignore_eos = v->ignore_eos;
    status st = read_logprobs(r, v, err);
    if (st == ST_OK)
        st = read_bias(r, v->logit_bias, err);
    if (st == ST_OK)
        st = read_stop_ids(r, v->stop_token_ids, err);
    if (st == ST_OK)
        st = read_stops(r, v, err);
    if (st == ST_OK)
        st = read_max_tokens(r, v, err);
    return st == ST_OK ? read_seed(r, v->seed, err) : st;
}

static status read_salt(struct request *r, const struct request_rules *rules, const json_t *salt, struct api_error *err)
{
    if (!salt)
        return ST_OK;
    if (!json_is_string(salt))
        return request_wrong_type(err, "cache_salt", "a string", salt);
    size_t len = json_string_length(salt);
    if (len == 0 || len > REQUEST_MAX_SALT_BYTES) /* an empty one would share with everybody */
        return api_error_set(err, API_WRONG_VALUE, "cache_salt",
                             "Invalid value for 'cache_salt': a salt has 1 to %d bytes, not %zu.",
                             REQUEST_MAX_SALT_BYTES, len);
    const struct salt_key *key = rules->salt_key;
    status st = block_salt(key ? key->bytes : NULL, key ? key->len : 0, json_string_value(salt), len, &r->salt);
    return st == ST_OK ? ST_OK : api_error_memory(err);
}

/* ---- the answer's form -------------------------------------------------------------------- */

static status read_flag(const json_t *object, const char *path, const char *name, bool *out, struct api_error *err)
{
    const json_t *value = request_given(json_object_get(object, name));
    if (value && !json_is_boolean(value))
        return request_wrong_type(err, path, "a boolean", value);
    *out = json_is_true(value);
    return ST_OK;
}

static status read_stream(struct request *r, struct request_values *v, struct api_error *err)
{
    static const char *const known[] = { "include_usage", "continuous_usage_stats", "include_obfuscation", NULL };
    bool obfuscation;
    r->stream = v->stream;
    if (!v->stream_options)
        return ST_OK;
    if (!v->stream)
        return api_error_set(err, API_WRONG_VALUE, "stream_options",
                             "Invalid value for 'stream_options': it is allowed only when 'stream' is true.");
    request_ignore_others(v, "stream_options", v->stream_options, known);
    status st = read_flag(v->stream_options, "stream_options.include_usage", "include_usage", &r->include_usage, err);
    if (st == ST_OK)
        st = read_flag(v->stream_options, "stream_options.continuous_usage_stats", "continuous_usage_stats",
                       &r->continuous_usage, err);
    if (st == ST_OK) /* padding events is not offered, and asking for none is fine */
        st = read_flag(v->stream_options, "stream_options.include_obfuscation", "include_obfuscation", &obfuscation,
                       err);
    return st;
}

static status read_route(struct request *r, const json_t *route, struct api_error *err)
{
    char shown[SHOWN_BYTES];
    if (!route || is_word(route, "auto"))
        r->route = BATON__ROUTE__ROUTE_AUTO;
    else if (is_word(route, "local"))
        r->route = BATON__ROUTE__ROUTE_LOCAL;
    else if (is_word(route, "remote"))
        r->route = BATON__ROUTE__ROUTE_REMOTE;
    else if (!json_is_string(route))
        return request_wrong_type(err, "baton.route", "a string", route);
    else
        return api_error_set(err, API_WRONG_VALUE, "baton.route",
                             "Invalid value for 'baton.route': '%s' is not one of 'auto', 'local' and 'remote'.",
                             request_show(route, shown, sizeof shown));
    return ST_OK;
}

static status read_baton(struct request *r, const struct request_rules *rules, struct request_values *v,
                         struct api_error *err)
{
    static const char *const known[] = { "route", "timing", "logits_hash", "no_cache", NULL };
    const json_t *object = v->baton;
    if (!object)
        return ST_OK;
    if (!rules->debug_extensions)
        return api_error_set(err, API_UNSUPPORTED, "baton",
                             "Unsupported parameter: 'baton' is accepted only when the server runs with "
                             "--debug-extensions.");
    request_ignore_others(v, "baton", object, known);
    r->want_baton = true;
    status st = read_route(r, request_given(json_object_get(object, "route")), err);
    if (st == ST_OK)
        st = read_flag(object, "baton.timing", "timing", &r->want_timing, err);
    if (st == ST_OK)
        st = read_flag(object, "baton.logits_hash", "logits_hash", &r->sampling.want_hash, err);
    if (st == ST_OK)
        st = read_flag(object, "baton.no_cache", "no_cache", &r->no_cache, err);
    return st;
}

static status read_generation(struct request *r, const struct request_rules *rules, struct request_values *v,
                              struct api_error *err)
{
    r->keep_special = !v->skip_special_tokens;
    r->echo = v->echo;
    r->n = (uint32_t)v->n;
    r->priority = (int32_t)v->priority;
    status st = check_unbuilt(r, v, err);
    if (st == ST_OK)
        st = read_sampling(r, v, err);
    if (st == ST_OK)
        st = read_salt(r, rules, v->cache_salt, err);
    if (st == ST_OK)
        st = read_stream(r, v, err);
    return st == ST_OK ? read_baton(r, rules, v, err) : st;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static status check_prompt_form(const struct request *r, const struct request_values *v, struct api_error *err)
{
    if (r->kind == REQUEST_CHAT && !v->messages)
        return missing(err, "messages");
    if (r->kind == REQUEST_TEXT && !v->prompt)
        return missing(err, "prompt");
    if (r->kind == REQUEST_TOKENS && !v->prompt && !v->messages)
        return missing(err, "prompt");
    if (r->kind == REQUEST_TOKENS && v->prompt && v->messages)
        return api_error_set(err, API_WRONG_VALUE, "prompt", "Give either 'prompt' or 'messages', not both.");
    if (r->kind == REQUEST_IDS && !v->tokens)
        return missing(err, "tokens");
    if (r->kind == REQUEST_IDS && !json_is_array(v->tokens))
        return request_wrong_type(err, "tokens", "an array", v->tokens);
    return ST_OK;
}

static status read_ids_to_text(struct request *r, const struct request_values *v, struct api_error *err)
{
    r->prompts = arena_take(r->arena, sizeof *r->prompts);
    if (!r->prompts)
        return api_error_memory(err);
    r->n_prompts = 1;
    return request_read_ids(r->model, v->tokens, "tokens", &r->prompts[0].tokens, err);
}

static status build(struct request *r, const struct request_rules *rules, struct request_values *v,
                    struct api_error *err)
{
    r->n = 1;
    status st = read_model(r, rules, v, err);
    if (st == ST_OK)
        st = check_calls(v->tools, v->tool_choice, "tools", "tool_choice", err);
    if (st == ST_OK && (r->kind == REQUEST_CHAT || r->kind == REQUEST_TEXT))
        st = read_generation(r, rules, v, err);
    if (st == ST_OK)
        st = check_prompt_form(r, v, err);
    if (st == ST_OK)
        st = r->kind == REQUEST_IDS ? read_ids_to_text(r, v, err) : request_read_prompts(r, v, err);
    r->return_strings = v->return_token_strs;
    memcpy(r->ignored, v->ignored, sizeof r->ignored);
    return st;
}

status request_read(const struct request_rules *rules, enum request_kind kind, const char *body, size_t len,
                    struct request **out, struct api_error *err)
{
    const struct request_scope scope = { kind, rules->max_choices };
    struct request_values values;
    json_t *object;
    status st = request_json_parse(body, len, &scope, &object, err);
    if (st != ST_OK)
        return st;
    struct arena *arena = arena_create(REQUEST_ARENA_BYTES);
    struct request *r = arena ? arena_take(arena, sizeof *r) : NULL;
    if (!r) {
        arena_destroy(&arena);
        json_decref(object);
        return api_error_memory(err);
    }
    r->arena = arena;
    r->kind = kind;
    st = request_values_read(object, &scope, &values, err);
    if (st == ST_OK)
        st = build(r, rules, &values, err);
    json_decref(object);
    if (st != ST_OK)
        request_free(&r);
    *out = r;
    return st;
}

void request_free(struct request **request)
{
    struct request *r = *request;
    if (!r)
        return;
    *request = NULL;
    for (uint32_t i = 0; i < r->n_prompts; i++) {
        token_list_free(&r->prompts[i].tokens);
        free(r->prompts[i].text);
    }
    struct arena *arena = r->arena;
    arena_destroy(&arena);
}

/* To blame is the number of tokens asked for, unless the prompt leaves no room for one. */
static status too_long(const struct request *request, uint64_t n_prompt, uint64_t wanted, uint32_t max_model_len,
                       struct api_error *err)
{
    const char *name = request->has_max_tokens ? request->max_tokens_name : "max_tokens";
    const char *prompt = request->kind == REQUEST_CHAT ? "messages" : "prompt";
    return api_error_set(err, API_TOO_LONG, n_prompt < max_model_len ? name : prompt,
                         "This model's maximum context length is %u tokens, but the request needs %" PRIu64 ": %" PRIu64
                         " in the prompt and %" PRIu64 " for the answer (%s).",
                         max_model_len, n_prompt + wanted, n_prompt, wanted, name);
}

status request_fit(const struct request *request, const struct request_prompt *prompt, uint32_t max_model_len,
                   uint32_t default_tokens, uint32_t *max_tokens, struct api_error *err)
{
    uint64_t n = prompt->tokens.n, wanted = request->has_max_tokens ? request->sampling.max_tokens : 1;
    if (n + wanted > max_model_len)
        return too_long(request, n, wanted, max_model_len, err);
    uint64_t room = max_model_len - n, usual = default_tokens, most = request->model->defaults.max_tokens;
    if (usual == 0)
        usual = request->kind == REQUEST_TEXT ? REQUEST_DEFAULT_TOKENS : room;
    if (most > 0 && usual > most)
        usual = most;
    *max_tokens = (uint32_t)(request->has_max_tokens ? wanted : usual < room ? usual : room);
    if (request->sampling.min_tokens > *max_tokens)
        return api_error_set(err, API_WRONG_VALUE, "min_tokens",
                             "Invalid value for 'min_tokens': %u is above the %u tokens that the answer may have.",
                             request->sampling.min_tokens, *max_tokens);
    return ST_OK;
}
