#include "bench/chat_turn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/sse_parser.h"
#include "common/clock.h"
#include "router/cached_tokens.h"
#include "router/listed_token.h"

#define MAX_ANSWER_BYTES (16u << 20)
#define MAX_LISTED_BYTES 4096u
#define MAX_URL_BYTES    512u

static void take_text(void *ctx, const char *data, size_t len)
{
    text_buffer_append(ctx, data, len);
}

/* What an answer that is none says of itself. */
static status refused(const char *url, long code, const struct text_buffer *raw, struct error *err)
{
    json_t *root = json_loadb(raw->data ? raw->data : "", raw->len, 0, NULL);
    const char *message = json_string_value(json_object_get(json_object_get(root, "error"), "message"));
    status st = error_set(err, ST_IO, "%s: HTTP status %ld: %.300s", url, code, message ? message : "no JSON");
    json_decref(root);
    return st;
}

/* ---- prompts ------------------------------------------------------------------------- */

static status post_json(const struct chat_place *place, const char *path, json_t *body, json_t **out, struct error *err)
{
    char url[MAX_URL_BYTES];
    struct text_buffer raw;
    long code = 0;
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    if (!text)
        return error_set(err, ST_NO_MEMORY, "no memory for a request");
    text_buffer_init(&raw, MAX_ANSWER_BYTES);
    (void)snprintf(url, sizeof url, "%.400s%s", place->url, path);
    status st =
        http_call(place->caller, &(struct http_call){ url, text, place->timeout_us, take_text, &raw }, &code, err);
    if (st == ST_OK && raw.state != ST_OK)
        st = error_set(err, raw.state, "%s: the answer is too long", url);
    else if (st == ST_OK && code != 200)
        st = refused(url, code, &raw, err);
    if (st == ST_OK && !(*out = json_loadb(raw.data ? raw.data : "", raw.len, 0, NULL)))
        st = error_set(err, ST_IO, "%s: the answer is no JSON", url);
    text_buffer_free(&raw);
    free(text);
    return st;
}

status chat_prompt_render(const struct chat_place *place, const json_t *messages, struct chat_prompt *out,
                          struct error *err)
{
    json_t *answer;
    status st =
        post_json(place, "/tokenize",
                  json_pack("{s:s, s:O, s:b}", "model", place->model, "messages", messages, "return_token_strs", 1),
                  &answer, err);
    if (st != ST_OK)
        return st;
    json_t *ids = json_object_get(answer, "tokens"), *texts = json_object_get(answer, "token_strs");
    if (!json_is_array(ids) || !json_is_array(texts) || json_array_size(ids) != json_array_size(texts))
        st = error_set(err, ST_IO, "%s/tokenize: the answer has no tokens with their texts", place->url);
    else
        *out = (struct chat_prompt){ json_incref(ids), json_incref(texts) };
    json_decref(answer);
    return st;
}

void chat_prompt_free(struct chat_prompt *prompt)
{
    json_decref(prompt->ids);
    json_decref(prompt->texts);
    *prompt = (struct chat_prompt){ NULL, NULL };
}

/* ---- answers ---------------------------------------------------------------------------- */

struct listener {
    struct chat_answer *answer;
    struct sse_parser events;
    struct text_buffer raw; /* an answer that is no stream */
    uint64_t sent_us, received_us;
    char failure[256];
    bool ended, has_usage;
};

static uint32_t number(const json_t *object, const char *key)
{
    return (uint32_t)json_integer_value(json_object_get(object, key));
}

static void take_tokens(struct chat_answer *answer, const json_t *choice)
{
    const json_t *content = json_object_get(json_object_get(choice, "logprobs"), "content");
    struct text_buffer listed;
    text_buffer_init(&listed, MAX_LISTED_BYTES);
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *bytes = json_object_get(json_array_get(content, i), "bytes");
        text_buffer_clear(&listed);
        for (size_t k = 0; k < json_array_size(bytes); k++)
            listed_token_write((char[]){ (char)json_integer_value(json_array_get(bytes, k)) }, 1, &listed);
        json_array_append_new(answer->texts, json_string(text_buffer_text(&listed)));
    }
    text_buffer_free(&listed);
}

static void take_tiers(struct chat_answer *answer, const json_t *choice)
{
    const json_t *timing = json_object_get(json_object_get(choice, "baton"), "timing");
    const json_t *cached = json_object_get(timing, "cached_tokens");
    if (!json_is_object(cached))
        return;
    answer->has_tiers = true;
    for (int i = 0; i < KV_TIER_COUNT; i++)
        answer->by_tier[i] = number(cached, cached_tokens_tier((enum kv_tier)i));
}

static void take_usage(struct listener *l, const json_t *usage)
{
    if (!json_is_object(usage))
        return;
    l->has_usage = true;
    l->answer->prompt_tokens = number(usage, "prompt_tokens");
    l->answer->completion_tokens = number(usage, "completion_tokens");
    l->answer->cached_tokens = number(json_object_get(usage, "prompt_tokens_details"), "cached_tokens");
}

static void take_event(void *arg, const char *data, size_t len)
{
    struct listener *l = arg;
    l->ended = l->ended || (len == 6 && !memcmp(data, "[DONE]", 6));
    json_t *event = json_loadb(data, len, 0, NULL);
    const json_t *choice = json_array_get(json_object_get(event, "choices"), 0);
    const char *text = json_string_value(json_object_get(json_object_get(choice, "delta"), "content"));
    const char *failure = json_string_value(json_object_get(json_object_get(event, "error"), "message"));
    if (failure)
        (void)snprintf(l->failure, sizeof l->failure, "%s", failure);
    if (text && text[0]) {
        text_buffer_add(&l->answer->text, text);
        if (!l->answer->first_token_us)
            l->answer->first_token_us = l->received_us - l->sent_us;
    }
    take_tokens(l->answer, choice);
    take_tiers(l->answer, choice);
    take_usage(l, json_object_get(event, "usage"));
    json_decref(event);
}

static void take_bytes(void *arg, const char *data, size_t len)
{
    struct listener *l = arg;
    l->received_us = clock_now_us();
    text_buffer_append(&l->raw, data, len);
    if (sse_parser_feed(&l->events, data, len) != ST_OK)
        (void)snprintf(l->failure, sizeof l->failure, "an event is too long");
}

static char *write_question(const struct chat_place *place, const struct chat_question *q)
{
    json_t *body = json_pack("{s:s, s:O, s:i, s:i, s:b, s:{s:b}, s:s, s:b}", "model", place->model, "messages",
                             q->messages, "max_tokens", (int)q->max_tokens, "temperature", 0, "stream", 1,
                             "stream_options", "include_usage", 1, "cache_salt", q->salt, "logprobs", 1);
    if (body && q->debug)
        json_object_set_new(body, "baton", json_pack("{s:b, s:b}", "timing", 1, "no_cache", q->no_cache));
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    return text;
}

/* ST_OK, or what is wrong with what came. */
static status judge(const struct listener *l, const char *url, long code, struct error *err)
{
    if (code != 200)
        return refused(url, code, &l->raw, err);
    if (l->failure[0])
        return error_set(err, ST_IO, "%s: %s", url, l->failure);
    if (!l->ended || !l->has_usage)
        return error_set(err, ST_IO, "%s: the answer broke off", url);
    if (!l->answer->first_token_us)
        return error_set(err, ST_IO, "%s: the answer has no text", url);
    return ST_OK;
}

status chat_ask(const struct chat_place *place, const struct chat_question *question, struct chat_answer *out,
                struct error *err)
{
    char url[MAX_URL_BYTES];
    long code = 0;
    struct chat_answer answer = { .texts = json_array() };
    struct listener l = { .answer = &answer };
    char *body = write_question(place, question);
    text_buffer_init(&answer.text, MAX_ANSWER_BYTES);
    if (!body || !answer.texts) {
        free(body);
        chat_answer_free(&answer);
        return error_set(err, ST_NO_MEMORY, "no memory for a request");
    }
    text_buffer_init(&l.raw, MAX_ANSWER_BYTES);
    sse_parser_init(&l.events, take_event, &l);
    (void)snprintf(url, sizeof url, "%.400s/v1/chat/completions", place->url);
    l.sent_us = clock_now_us();
    status st =
        http_call(place->caller, &(struct http_call){ url, body, place->timeout_us, take_bytes, &l }, &code, err);
    if (st == ST_OK)
        st = judge(&l, url, code, err);
    sse_parser_free(&l.events);
    text_buffer_free(&l.raw);
    free(body);
    if (st == ST_OK)
        *out = answer;
    else
        chat_answer_free(&answer);
    return st;
}

void chat_answer_free(struct chat_answer *answer)
{
    text_buffer_free(&answer->text);
    json_decref(answer->texts);
    answer->texts = NULL;
}

/* ---- what is common ------------------------------------------------------------------------ */

uint32_t chat_computed_prefix(const struct chat_prompt *next, const struct chat_prompt *prompt,
                              const struct chat_answer *answer)
{
    size_t n_prompt = json_array_size(prompt->ids), n_answer = json_array_size(answer->texts), n = 0;
    size_t known = n_prompt + answer->completion_tokens - 1, most = json_array_size(next->ids);
    if (known > n_prompt + n_answer)
        known = n_prompt + n_answer;
    if (most > known)
        most = known;
    while (n < most &&
           (n < n_prompt ? json_equal(json_array_get(next->ids, n), json_array_get(prompt->ids, n))
                         : json_equal(json_array_get(next->texts, n), json_array_get(answer->texts, n - n_prompt))))
        n++;
    return (uint32_t)n;
}
