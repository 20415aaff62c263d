/* baton kv find, pin, unpin - the blocks of one prompt's beginning. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/http_client.h"
#include "cli/kv_chain.h"
#include "cli/kv_targets.h"

#define TIMEOUT_MS       30000u
#define ANSWER_MAX_BYTES ((size_t)64 << 20)

struct chain_options {
    struct kv_place place;
    const char *model, *adapter, *salt;
    bool tokens, chat, as_json;
    int64_t seconds;
};

/* ---- what is asked ------------------------------------------------------------ */

json_t *kv_chain_tokens(const char *text)
{
    json_t *tokens = json_array();
    while (tokens) {
        char *end;
        errno = 0;
        unsigned long id = strtoul(text, &end, 10);
        bool is_id = *text >= '0' && *text <= '9' && !errno && id <= UINT32_MAX;
        if (!is_id || (*end && *end != ',') || json_array_append_new(tokens, json_integer((json_int_t)id)) != 0)
            break;
        if (!*end)
            return tokens;
        text = end + 1;
    }
    json_decref(tokens);
    return NULL;
}

static json_t *tokenize_body(const struct chain_options *o, const char *text)
{
    json_t *body = o->chat ? json_pack("{s:[{s:s,s:s}]}", "messages", "role", "user", "content", text)
                           : json_pack("{s:s}", "prompt", text);
    if (body && o->model)
        json_object_set_new(body, "model", json_string(o->model));
    return body;
}

static json_t *fetch_tokens(const char *router, const char *body, struct error *err)
{
    char url[96];
    long code = 0;
    struct text_buffer page;
    json_t *tokens = NULL;
    text_buffer_init(&page, ANSWER_MAX_BYTES);
    snprintf(url, sizeof url, "%s/tokenize", router);
    if (http_fetch(url, body, TIMEOUT_MS, &code, &page, err) == ST_OK) {
        json_t *root = json_loadb(text_buffer_text(&page), page.len, 0, NULL);
        tokens = code == 200 ? json_incref(json_object_get(root, "tokens")) : NULL;
        if (!tokens) {
            const char *why = json_text(json_object_get(root, "error"), "message");
            error_set(err, ST_INVALID, "the router answers %ld: %.200s", code, why[0] ? why : text_buffer_text(&page));
        }
        json_decref(root);
    }
    text_buffer_free(&page);
    return tokens;
}

/* As the router makes them of a text, or as they are given. */
static json_t *tokens_of(const struct chain_options *o, const struct kv_targets *targets, const char *text,
                         struct error *err)
{
    if (o->tokens) {
        json_t *tokens = kv_chain_tokens(text);
        if (!tokens)
            error_set(err, ST_INVALID, "\"%.60s\" is no list of token ids, as in 1,2,3", text);
        return tokens;
    }
    if (!targets->router[0]) {
        error_set(err, ST_NOT_FOUND, "there is no router of a local cluster to tokenise the text: give --tokens");
        return NULL;
    }
    json_t *body = tokenize_body(o, text), *tokens = NULL;
    char *dumped = body ? json_dumps(body, JSON_COMPACT) : NULL;
    if (dumped)
        tokens = fetch_tokens(targets->router, dumped, err);
    else
        error_set(err, ST_INVALID, "the text is no UTF-8");
    free(dumped);
    json_decref(body);
    return tokens;
}

static char *request_of(const struct chain_options *o, json_t *tokens)
{
    json_t *body = json_pack("{s:O}", "tokens", tokens);
    if (body && o->model)
        json_object_set_new(body, "model", json_string(o->model));
    if (body && o->adapter)
        json_object_set_new(body, "adapter", json_string(o->adapter));
    if (body && o->salt)
        json_object_set_new(body, "salt", json_string(o->salt));
    if (body && o->seconds)
        json_object_set_new(body, "seconds", json_integer(o->seconds));
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    return text;
}

/* ---- what is answered -------------------------------------------------------------- */

static void say_found(const struct kv_target *target, const json_t *a)
{
    long long host = json_number(a, "host"), disk = json_number(a, "disk"), tokens = json_number(a, "block_tokens");
    printf("%s: %lld of %lld blocks (%lld of %lld tokens): memory %lld, disk %lld\n", target->id, host + disk,
           json_number(a, "blocks"), (host + disk) * tokens, json_number(a, "tokens"), host, disk);
}

static void say_pinned(const struct kv_target *target, const json_t *a)
{
    printf("%s: %lld of %lld blocks pinned\n", target->id, json_number(a, "pinned"), json_number(a, "blocks"));
}

static void say_unpinned(const struct kv_target *target, const json_t *a)
{
    (void)a;
    printf("%s: unpinned\n", target->id);
}

struct chain_command {
    const char *path;
    void (*say)(const struct kv_target *target, const json_t *answer);
    bool takes_seconds;
    unsigned where; /* KV_EVERYWHERE, or 0: managers of this host */
};

static int ask_all(const struct command *self, const struct chain_command *how, const struct kv_targets *targets,
                   const char *body, bool as_json)
{
    struct error err;
    int code = targets->missed ? EXIT_FAILED : EXIT_DONE;
    json_t *answers = json_array();
    for (size_t i = 0; i < targets->n; i++) {
        json_t *answer;
        if (kv_target_ask(&targets->items[i], how->path, body, TIMEOUT_MS, &answer, &err) != ST_OK) {
            code = command_failed(self, "%s", err.text);
            continue;
        }
        if (!as_json)
            how->say(&targets->items[i], answer);
        json_object_set_new(answer, "id", json_string(targets->items[i].id));
        json_array_append_new(answers, answer);
    }
    json_t *root = json_pack("{s:o}", "answers", answers);
    if (as_json) {
        json_dumpf(root, stdout, JSON_COMPACT);
        putchar('\n');
    }
    json_decref(root);
    return code;
}

static int run(const struct command *self, const struct chain_command *how, int argc, char **argv)
{
    static struct kv_targets targets; /* large */
    struct chain_options o = { .seconds = 0 };
    struct arguments arguments;
    struct error err;
    int code;
    const struct option_row rows[] = {
        KV_PLACE_ROWS(&o.place),
        { "tokens", 0, OPTION_FLAG, &o.tokens, "", "PREFIX is token ids, as in 1,2,3, and not a text", 0, 0 },
        { "chat", 0, OPTION_FLAG, &o.chat, "", "PREFIX is what a user says, in the model's chat template", 0, 0 },
        { "model", 0, OPTION_TEXT, &o.model, "NAME", "The model that computed it, where there are several", 0, 0 },
        { "adapter", 0, OPTION_TEXT, &o.adapter, "NAME@FINGERPRINT", "The adapter that it was computed with", 0, 0 },
        { "salt", 0, OPTION_TEXT, &o.salt, "S", "The cache_salt of its requests", 0, 0 },
        { "json", 0, OPTION_FLAG, &o.as_json, "", "One JSON object", 0, 0 },
        { "seconds", 0, OPTION_INT, &o.seconds, "N", "How long it is pinned (as long as may be)", 1, 31536000 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows) - !how->takes_seconds, &arguments, &code))
        return code;
    if (arguments.n != 1)
        return command_misuse(self, "it takes one PREFIX: a text in quotes, or token ids with --tokens");
    if (kv_targets_find(&o.place, KV_MANAGERS | how->where | (o.salt ? KV_ROUTERS : 0), &targets, &err) != ST_OK ||
        (o.salt && kv_targets_agree(&targets, &err) != ST_OK))
        return command_failed(self, "%s", err.text);
    json_t *tokens = tokens_of(&o, &targets, arguments.items[0], &err);
    char *body = tokens ? request_of(&o, tokens) : NULL;
    code = body     ? ask_all(self, how, &targets, body, o.as_json)
           : tokens ? command_misuse(self, "an option is no UTF-8 text")
                    : command_failed(self, "%s", err.text);
    free(body);
    json_decref(tokens);
    return code;
}

static int run_find(const struct command *self, int argc, char **argv)
{
    return run(self, &(struct chain_command){ "/kv/find", say_found, false, KV_EVERYWHERE }, argc, argv);
}

static int run_pin(const struct command *self, int argc, char **argv)
{
    return run(self, &(struct chain_command){ "/kv/pin", say_pinned, true, 0 }, argc, argv);
}

static int run_unpin(const struct command *self, int argc, char **argv)
{
    return run(self, &(struct chain_command){ "/kv/unpin", say_unpinned, false, 0 }, argc, argv);
}

const struct command command_kv_find = { "kv find", "PREFIX", "How much of a prompt's beginning is kept, by tier",
                                         run_find };
const struct command command_kv_pin = { "kv pin", "PREFIX", "Keep its blocks in memory", run_pin };
const struct command command_kv_unpin = { "kv unpin", "PREFIX", "Let them go as others do", run_unpin };
