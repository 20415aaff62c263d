#include "bench/serve_server.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/text_buffer.h"

#define MAX_ANSWER_BYTES (16u << 20)
#define FEW              3u /* times that a word stands in a text, and */
#define MANY             6u

/* ---- where it is -------------------------------------------------------------------- */

static status look_up(const char *name, const char *port, struct serve_address *out, struct error *err)
{
    struct addrinfo *found = NULL;
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    int code = getaddrinfo(name, port, &hints, &found);
    if (code == 0)
        code = getnameinfo(found->ai_addr, found->ai_addrlen, out->host, sizeof out->host, NULL, 0, NI_NUMERICHOST);
    if (found)
        freeaddrinfo(found);
    if (code != 0)
        return error_set(err, ST_NOT_FOUND, "%s: %s", name, gai_strerror(code));
    return ST_OK;
}

/* text: "HOST", "HOST:PORT" or "[HOST]:PORT", and is cut in two. */
static bool split_port(char *text, char **host, char **port)
{
    static char standard[] = "80";
    char *end = text[0] == '[' ? strchr(text, ']') : NULL;
    if (text[0] == '[' && !end)
        return false;
    char *colon = strchr(end ? end : text, ':');
    *host = text;
    if (end) {
        *host = text + 1;
        *end = '\0';
    }
    *port = colon ? colon + 1 : standard;
    if (colon)
        *colon = '\0';
    return **host != '\0';
}

/* Without what all requests begin with, which many write. */
static void trim_base(char *base)
{
    size_t n = strlen(base);
    while (n > 0 && base[n - 1] == '/')
        base[--n] = '\0';
    if (n >= 3 && !strcmp(base + n - 3, "/v1"))
        base[n - 3] = '\0';
}

status serve_address_parse(const char *url, struct serve_address *out, struct error *err)
{
    static const char scheme[] = "http://";
    char text[SERVE_URL_BYTES], *host, *port, *end;
    struct serve_address a = { .port = 0 };
    text_copy(text, sizeof text, url);
    char *slash = strlen(text) > strlen(scheme) ? strchr(text + strlen(scheme), '/') : NULL;
    if (slash)
        text_copy(a.base, sizeof a.base, slash);
    if (slash)
        *slash = '\0';
    trim_base(a.base);
    if (strlen(url) >= sizeof text || strncmp(text, scheme, strlen(scheme)) != 0 ||
        !split_port(text + strlen(scheme), &host, &port))
        return error_set(err, ST_INVALID, "\"%.100s\" is no URL like http://HOST:PORT", url);
    unsigned long number = strtoul(port, &end, 10);
    if (*end || number < 1 || number > 65535)
        return error_set(err, ST_INVALID, "\"%.100s\" has no port from 1 to 65535", url);
    a.port = (uint16_t)number;
    status st = look_up(host, port, &a, err);
    if (st != ST_OK)
        return st;
    a.is_here = !strncmp(a.host, "127.", 4) || !strcmp(a.host, "::1");
    (void)snprintf(a.url, sizeof a.url, strchr(a.host, ':') ? "http://[%s]:%u%.150s" : "http://%s:%u%.150s", a.host,
                   a.port, a.base);
    *out = a;
    return ST_OK;
}

/* ---- what it says --------------------------------------------------------------------- */

struct questions {
    struct http_caller *caller;
    const char *url;
    uint64_t timeout_us;
    struct text_buffer answer;
};

static void take_text(void *ctx, const char *data, size_t len)
{
    text_buffer_append(ctx, data, len);
}

static status ask(struct questions *q, const char *path, const char *body, long *code, struct error *err)
{
    char url[2 * SERVE_URL_BYTES];
    (void)snprintf(url, sizeof url, "%s%s", q->url, path);
    text_buffer_clear(&q->answer);
    status st = http_call(q->caller, &(struct http_call){ url, body, q->timeout_us, take_text, &q->answer }, code, err);
    if (st == ST_OK && q->answer.state != ST_OK)
        st = error_set(err, q->answer.state, "%s: the answer is too long", url);
    return st;
}

static void describe_model(const json_t *model, struct serve_server *out)
{
    char *text;
    json_t *about = json_object();
    for (size_t i = 0; i < 2; i++) {
        static const char *const keys[] = { "max_model_len", "classes" };
        json_t *value = json_object_get(model, keys[i]);
        if (value && about)
            json_object_set(about, keys[i], value);
    }
    text = json_object_size(about) ? json_dumps(about, JSON_COMPACT) : NULL;
    text_copy(out->about, sizeof out->about, text ? text : "");
    free(text);
    json_decref(about);
}

static status find_model(struct questions *q, const char *model, struct serve_server *out, struct error *err)
{
    char served[256] = ""; /* what is longer is cut */
    long code = 0;
    size_t i, n = 0;
    json_t *entry;
    status st = ask(q, "/v1/models", NULL, &code, err);
    if (st != ST_OK)
        return st;
    json_t *root = json_loadb(text_buffer_text(&q->answer), q->answer.len, 0, NULL);
    json_array_foreach(json_object_get(root, "data"), i, entry)
    {
        const char *id = json_string_value(json_object_get(entry, "id"));
        if (id && n < sizeof served)
            n += (size_t)snprintf(served + n, sizeof served - n, "%s%s", n ? ", " : "", id);
        if (!id || out->model[0] || (model && strcmp(id, model) != 0))
            continue;
        text_copy(out->model, sizeof out->model, id);
        describe_model(entry, out);
    }
    json_decref(root);
    if (out->model[0])
        return ST_OK;
    if (model && n > 0)
        return error_set(err, ST_NOT_FOUND, "%s serves no model \"%.100s\", but %s", q->url, model, served);
    return error_set(err, ST_NOT_FOUND, "%s/v1/models names no model (HTTP status %ld)", q->url, code);
}

static void find_version(struct questions *q, struct serve_server *out)
{
    static const char begin[] = "baton_build_info{version=\"";
    long code = 0;
    struct error ignored;
    if (ask(q, "/metrics", NULL, &code, &ignored) != ST_OK || code != 200)
        return;
    const char *at = strstr(text_buffer_text(&q->answer), begin);
    if (at)
        (void)snprintf(out->version, sizeof out->version, "baton %.*s", (int)strcspn(at + strlen(begin), "\""),
                       at + strlen(begin));
}

/* The tokens of a text; NULL: there is no /tokenize that would tell. */
static json_t *tokenize(struct questions *q, const char *model, const char *text)
{
    long code = 0;
    struct error ignored;
    json_t *tokens = NULL, *body = json_pack("{s:s, s:s}", "model", model, "prompt", text);
    char *dumped = body ? json_dumps(body, JSON_COMPACT) : NULL;
    if (dumped && ask(q, "/tokenize", dumped, &code, &ignored) == ST_OK && code == 200) {
        json_t *root = json_loadb(text_buffer_text(&q->answer), q->answer.len, 0, NULL);
        tokens = json_incref(json_object_get(root, "tokens"));
        json_decref(root);
    }
    free(dumped);
    json_decref(body);
    return tokens;
}

/* 0: no number that would be the same elsewhere. */
static uint32_t tokens_of_word(struct questions *q, const char *model, const char *word)
{
    char text[MANY * (PROMPT_WORD_BYTES + 1) + 1] = "";
    size_t len = 0, few = 0;
    for (uint32_t i = 1; i <= MANY; i++) {
        len += (size_t)snprintf(text + len, sizeof text - len, " %s", word);
        if (i != FEW && i != MANY)
            continue;
        json_t *tokens = tokenize(q, model, text);
        size_t n = json_array_size(tokens);
        json_decref(tokens);
        if (i == MANY)
            return n > few && (n - few) % (MANY - FEW) == 0 ? (uint32_t)((n - few) / (MANY - FEW)) : 0;
        few = n;
    }
    return 0;
}

static status learn_words(struct questions *q, struct serve_server *out, struct prompt_words *words, struct error *err)
{
    struct text_buffer all;
    text_buffer_init(&all, MAX_ANSWER_BYTES);
    for (uint32_t i = 0; i < words->n; i++)
        text_buffer_printf(&all, " %s", words->words[i].text);
    json_t *tokens = tokenize(q, out->model, text_buffer_text(&all));
    char *dumped = json_array_size(tokens) ? json_dumps(tokens, JSON_COMPACT) : NULL;
    if (dumped)
        (void)snprintf(out->tokenizer, sizeof out->tokenizer, "%016llx",
                       (unsigned long long)XXH3_64bits(dumped, strlen(dumped)));
    for (uint32_t i = words->n; dumped && i-- > 0;)
        prompt_words_set(words, i, tokens_of_word(q, out->model, words->words[i].text));
    free(dumped);
    json_decref(tokens);
    text_buffer_free(&all);
    return prompt_words_order(words, err);
}

status serve_server_ask(const char *url, const char *model, uint64_t timeout_us, struct serve_server *out,
                        struct prompt_words *words, struct error *err)
{
    struct questions q = { .url = url, .timeout_us = timeout_us };
    *out = (struct serve_server){ "", "", "", "" };
    prompt_words_init(words);
    text_buffer_init(&q.answer, MAX_ANSWER_BYTES);
    status st = http_caller_create(&q.caller);
    if (st != ST_OK)
        (void)error_set(err, st, "no memory for an HTTP client");
    if (st == ST_OK)
        st = find_model(&q, model, out, err);
    if (st == ST_OK)
        find_version(&q, out);
    if (st == ST_OK)
        st = learn_words(&q, out, words, err);
    http_caller_destroy(&q.caller);
    text_buffer_free(&q.answer);
    return st;
}
