#include "bench/bench_multiturn.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

#define MAX_URL_BYTES  512u
#define MAX_SALT_BYTES 96u
#define READY_POLL_MS  50

struct talk {
    const struct bench_multiturn_options *options;
    struct bench_multiturn_result *result;
    struct chat_place place;
    json_t *messages;
    char salt[MAX_SALT_BYTES]; /* of the conversation */
    /* Of the turn before, where there is one. */
    struct chat_prompt prompt;
    struct chat_answer answer;
};

/* ---- what is said ------------------------------------------------------------------------ */

static const char *const words[] = {
    "river", "paper", "seven",  "cold",  "market", "letter", "engine", "stone", "under", "light",  "before", "green",
    "house", "count", "window", "north", "sugar",  "answer", "travel", "quiet", "metal", "summer", "little", "bridge",
};

/* Other words each turn, the same in each run. */
static void write_question(uint32_t turn, uint32_t n_words, struct text_buffer *out)
{
    uint32_t state = 2166136261u ^ (turn + 1);
    text_buffer_printf(out, "Question %u. What do these words have in common:", turn + 1);
    for (uint32_t i = 0; i < n_words; i++) {
        state = state * 1664525u + 1013904223u;
        text_buffer_printf(out, " %s", words[(state >> 16) % (sizeof words / sizeof *words)]);
    }
    text_buffer_add(out, "?");
}

static status add_message(struct talk *t, const char *role, const char *text, struct error *err)
{
    json_t *message = json_pack("{s:s, s:s}", "role", role, "content", text);
    if (message && json_array_append_new(t->messages, message) == 0)
        return ST_OK;
    return error_set(err, ST_INVALID, "a message of the %s is not UTF-8", role);
}

static status add_question(struct talk *t, uint32_t turn, struct error *err)
{
    struct text_buffer text;
    text_buffer_init(&text, 64u * (BENCH_MULTITURN_MAX_WORDS + 2));
    write_question(turn, t->options->question_words, &text);
    status st = add_message(t, "user", text_buffer_text(&text), err);
    text_buffer_free(&text);
    return st;
}

/* ---- one turn -------------------------------------------------------------------------------- */

static status ask_uncached(struct talk *t, uint32_t row, struct error *err)
{
    const struct bench_multiturn_options *o = t->options;
    char salt[MAX_SALT_BYTES + 16];
    struct chat_answer answer;
    struct chat_question q = { .messages = t->messages, .salt = t->salt, .max_tokens = 1 };
    if (o->debug) {
        q.debug = q.no_cache = true;
    } else {
        (void)snprintf(salt, sizeof salt, "%s-%u", t->salt, row);
        q.salt = salt;
    }
    status st = chat_ask(&t->place, &q, &answer, err);
    if (st != ST_OK)
        return st;
    t->result->rows[row].uncached_us = answer.first_token_us;
    if (answer.cached_tokens)
        st =
            error_set(err, ST_CORRUPT, "%u tokens were cached of a prompt that should find none", answer.cached_tokens);
    chat_answer_free(&answer);
    return st;
}

static uint32_t theory_of(const struct talk *t, const struct chat_prompt *prompt)
{
    const uint32_t block = t->options->block_tokens, most = (uint32_t)json_array_size(prompt->ids) - 1;
    uint32_t known = t->prompt.ids ? chat_computed_prefix(prompt, &t->prompt, &t->answer) : 0;
    return (known < most ? known : most) / block * block;
}

static void keep_row(struct talk *t, uint32_t row, const struct chat_prompt *prompt, const struct chat_answer *answer)
{
    struct bench_multiturn_row *r = &t->result->rows[row];
    r->prompt = answer->prompt_tokens;
    r->cached = answer->cached_tokens;
    r->theory = theory_of(t, prompt);
    r->has_tiers = answer->has_tiers;
    memcpy(r->by_tier, answer->by_tier, sizeof r->by_tier);
    r->first_token_us = answer->first_token_us;
    t->result->n_rows = row + 1;
}

static void forget_turn(struct talk *t)
{
    if (!t->prompt.ids)
        return;
    chat_prompt_free(&t->prompt);
    chat_answer_free(&t->answer);
}

/* Of what is in t->messages. */
static status ask_turn(struct talk *t, uint32_t row, struct error *err)
{
    const struct chat_question q = {
        .messages = t->messages, .salt = t->salt, .max_tokens = t->options->answer_tokens, .debug = t->options->debug
    };
    struct chat_prompt prompt;
    struct chat_answer answer;
    status st = ask_uncached(t, row, err);
    if (st == ST_OK)
        st = chat_prompt_render(&t->place, t->messages, &prompt, err);
    if (st != ST_OK)
        return st;
    st = chat_ask(&t->place, &q, &answer, err);
    if (st != ST_OK) {
        chat_prompt_free(&prompt);
        return st;
    }
    keep_row(t, row, &prompt, &answer);
    forget_turn(t);
    t->prompt = prompt;
    t->answer = answer;
    if (answer.prompt_tokens != json_array_size(prompt.ids))
        return error_set(err, ST_CORRUPT, "a prompt of %u tokens has %zu when it is tokenised", answer.prompt_tokens,
                         json_array_size(prompt.ids));
    return ST_OK;
}

/* ---- the cluster -------------------------------------------------------------------------------- */

static void take_text(void *ctx, const char *data, size_t len)
{
    text_buffer_append(ctx, data, len);
}

static status find_model(struct talk *t, struct error *err)
{
    char url[MAX_URL_BYTES];
    struct text_buffer raw;
    long code = 0;
    if (t->options->model)
        (void)snprintf(t->result->model, sizeof t->result->model, "%s", t->options->model);
    if (t->options->model)
        return ST_OK;
    text_buffer_init(&raw, 1u << 20);
    (void)snprintf(url, sizeof url, "%.400s/v1/models", t->place.url);
    status st =
        http_call(t->place.caller, &(struct http_call){ url, NULL, t->place.timeout_us, take_text, &raw }, &code, err);
    json_t *root = st == ST_OK ? json_loads(text_buffer_text(&raw), 0, NULL) : NULL;
    const char *id = json_string_value(json_object_get(json_array_get(json_object_get(root, "data"), 0), "id"));
    if (id)
        (void)snprintf(t->result->model, sizeof t->result->model, "%s", id);
    else if (st == ST_OK)
        st = error_set(err, ST_NOT_FOUND, "%s names no model (HTTP status %ld)", url, code);
    json_decref(root);
    text_buffer_free(&raw);
    return st;
}

/* Until a decode worker can take requests. */
static status wait_ready(const struct talk *t, struct error *err)
{
    char url[MAX_URL_BYTES];
    const uint64_t end_us = clock_now_us() + t->options->timeout_us;
    (void)snprintf(url, sizeof url, "%.400s/readyz", t->place.url);
    for (;;) {
        long code = 0;
        status st = http_call(t->place.caller, &(struct http_call){ .url = url, .timeout_us = t->place.timeout_us },
                              &code, err);
        if (st == ST_OK && code == 200)
            return ST_OK;
        if (clock_now_us() > end_us)
            return st != ST_OK ? st : error_set(err, ST_TIMEOUT, "%s: still HTTP status %ld", url, code);
        nanosleep(&(struct timespec){ .tv_nsec = READY_POLL_MS * 1000000L }, NULL);
    }
}

static status ask_after_restart(struct talk *t, uint32_t row, struct error *err)
{
    status st = t->options->restart(t->options->ctx, err);
    if (st == ST_OK)
        st = wait_ready(t, err);
    if (st == ST_OK)
        st = ask_turn(t, row, err);
    t->result->restarted = st == ST_OK;
    return st;
}

/* ---- all of it -------------------------------------------------------------------------------------- */

static status talk_through(struct talk *t, struct error *err)
{
    const struct bench_multiturn_options *o = t->options;
    status st = find_model(t, err);
    for (uint32_t turn = 0; turn < o->turns && st == ST_OK; turn++) {
        st = turn ? add_message(t, "assistant", text_buffer_text(&t->answer.text), err) : ST_OK;
        if (st == ST_OK)
            st = add_question(t, turn, err);
        if (st == ST_OK)
            st = ask_turn(t, turn, err);
    }
    return st == ST_OK && o->restart ? ask_after_restart(t, o->turns, err) : st;
}

status bench_multiturn(const struct bench_multiturn_options *options, struct bench_multiturn_result *out,
                       struct error *err)
{
    struct talk t = { .options = options, .result = out, .messages = json_array() };
    *out = (struct bench_multiturn_result){ .n_rows = 0 };
    t.place = (struct chat_place){ .url = options->url, .model = out->model, .timeout_us = options->timeout_us };
    (void)snprintf(t.salt, sizeof t.salt, "bench-multiturn-%lld-%lld", (long long)time(NULL), (long long)getpid());
    status st = t.messages && http_caller_create(&t.place.caller) == ST_OK
                    ? talk_through(&t, err)
                    : error_set(err, ST_NO_MEMORY, "no memory for a conversation");
    forget_turn(&t);
    json_decref(t.messages);
    http_caller_destroy(&t.place.caller);
    return st;
}

uint32_t bench_multiturn_wrong(const struct bench_multiturn_result *result)
{
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < result->n_rows; i++)
        wrong += result->rows[i].cached != result->rows[i].theory;
    return wrong;
}
