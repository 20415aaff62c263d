/* baton chat - one question, or a conversation, over the HTTP API. */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/sse_parser.h"
#include "cli/command.h"
#include "cli/http_client.h"
#include "cli/place.h"

#define MODELS_TIMEOUT_MS 5000
#define TOP_P             0.9 /* leaves out the tail, in which a small model gets lost */
#define ANSWER_MAX_BYTES  ((size_t)8 << 20)
#define MAX_TURNS         512 /* messages of a conversation; the oldest two go first */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

struct chat {
    const struct command *self;       /* borrowed */
    const char *url, *model, *system; /* borrowed */
    char own_url[128], own_model[256];
    int64_t max_tokens;
    double temperature;
    json_t *messages;
    /* Of the answer that is coming: */
    struct text_buffer answer; /* its text */
    struct text_buffer raw;    /* what came before the first event: an error's body */
    struct sse_parser events;
    char failure[512];
    char finish[32];
};

/* ---- where, and which model ----------------------------------------------------- */

/* Never another cluster than the one that was named. */
static status find_url(struct chat *chat, const struct state_dir *dir, struct error *err)
{
    if (chat->url)
        return ST_OK;
    chat->url = chat->own_url;
    return place_url(dir, chat->own_url, sizeof chat->own_url, err);
}

static status find_model(struct chat *chat, struct error *err)
{
    char url[256];
    long code = 0;
    struct text_buffer body;
    if (chat->model)
        return ST_OK;
    text_buffer_init(&body, (size_t)1 << 20);
    snprintf(url, sizeof url, "%.200s/v1/models", chat->url);
    status st = http_fetch(url, NULL, MODELS_TIMEOUT_MS, &code, &body, err);
    json_t *root = st == ST_OK ? json_loads(text_buffer_text(&body), 0, NULL) : NULL;
    const char *id = json_text(json_array_get(json_object_get(root, "data"), 0), "id");
    snprintf(chat->own_model, sizeof chat->own_model, "%s", id);
    if (st == ST_OK && !id[0])
        st = error_set(err, ST_NOT_FOUND, "%s names no model (HTTP status %ld)", url, code);
    chat->model = chat->own_model;
    json_decref(root);
    text_buffer_free(&body);
    return st;
}

/* ---- one answer --------------------------------------------------------------------- */

static void take_event(void *arg, const char *data, size_t len)
{
    struct chat *chat = arg;
    json_t *event = json_loadb(data, len, 0, NULL); /* NULL for the last one, [DONE] */
    json_t *choice = json_array_get(json_object_get(event, "choices"), 0);
    const char *text = json_text(json_object_get(choice, "delta"), "content");
    const char *failure = json_text(json_object_get(event, "error"), "message");
    if (failure[0])
        snprintf(chat->failure, sizeof chat->failure, "%s", failure);
    if (json_text(choice, "finish_reason")[0])
        snprintf(chat->finish, sizeof chat->finish, "%.31s", json_text(choice, "finish_reason"));
    if (text[0]) {
        text_buffer_add(&chat->answer, text);
        fputs(text, stdout);
        fflush(stdout);
    }
    json_decref(event);
}

static void take_bytes(void *arg, const char *data, size_t len)
{
    struct chat *chat = arg;
    text_buffer_append(&chat->raw, data, len);
    if (sse_parser_feed(&chat->events, data, len) != ST_OK)
        snprintf(chat->failure, sizeof chat->failure, "an event of the answer is too long");
}

static char *write_request(const struct chat *chat)
{
    json_t *body = json_pack("{s:s, s:O, s:b, s:{s:b}}", "model", chat->model, "messages", chat->messages, "stream", 1,
                             "stream_options", "include_usage", 1);
    json_object_set_new(body, "max_tokens", json_integer(chat->max_tokens));
    json_object_set_new(body, "temperature", json_real(chat->temperature));
    json_object_set_new(body, "top_p", json_real(TOP_P));
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    return text;
}

/* The words of an error's body. */
static void read_failure(struct chat *chat, long code)
{
    json_t *root = json_loads(text_buffer_text(&chat->raw), 0, NULL);
    const char *message = json_text(json_object_get(root, "error"), "message");
    snprintf(chat->failure, sizeof chat->failure, "%.400s (HTTP status %ld)",
             message[0] ? message : text_buffer_text(&chat->raw), code);
    json_decref(root);
}

static status ask(struct chat *chat)
{
    char url[256];
    long code = 0;
    struct error err;
    char *body = write_request(chat);
    if (!body)
        return ST_NO_MEMORY;
    text_buffer_clear(&chat->answer);
    text_buffer_init(&chat->raw, 65536);
    sse_parser_init(&chat->events, take_event, chat);
    chat->failure[0] = chat->finish[0] = '\0';
    interrupted = 0;
    snprintf(url, sizeof url, "%.200s/v1/chat/completions", chat->url);
    status st = http_stream(url, body, take_bytes, chat, &interrupted, &code, &err);
    if (st != ST_OK && st != ST_CANCELLED)
        snprintf(chat->failure, sizeof chat->failure, "%s", err.text);
    else if (st == ST_OK && code != 200)
        read_failure(chat, code);
    sse_parser_free(&chat->events);
    text_buffer_free(&chat->raw);
    free(body);
    if (chat->answer.len > 0 || !chat->failure[0])
        putchar('\n');
    fflush(stdout); /* before what goes to standard error */
    if (st == ST_CANCELLED)
        fprintf(stderr, "(stopped)\n");
    if (chat->failure[0])
        return ST_IO;
    if (st == ST_OK && !strcmp(chat->finish, "length"))
        fprintf(stderr, "(cut off: the token limit is reached)\n");
    return st;
}

/* ---- conversation ------------------------------------------------------------------------ */

static bool add_message(struct chat *chat, const char *role, const char *text)
{
    json_t *message = json_pack("{s:s, s:s}", "role", role, "content", text);
    if (!message)
        return false; /* no UTF-8 */
    json_array_append_new(chat->messages, message);
    size_t first = chat->system ? 1 : 0;
    while (json_array_size(chat->messages) > MAX_TURNS + first) {
        json_array_remove(chat->messages, first);
        json_array_remove(chat->messages, first);
    }
    return true;
}

static void start_over(struct chat *chat)
{
    json_array_clear(chat->messages);
    if (chat->system && !add_message(chat, "system", chat->system))
        chat->system = NULL;
}

/* An answer that failed takes its question with it. */
static status say(struct chat *chat, const char *text)
{
    if (!add_message(chat, "user", text)) {
        snprintf(chat->failure, sizeof chat->failure, "the text is not UTF-8");
        return ST_IO;
    }
    status st = ask(chat);
    bool kept = (st == ST_OK || (st == ST_CANCELLED && chat->answer.len > 0)) &&
                add_message(chat, "assistant", text_buffer_text(&chat->answer));
    if (!kept)
        json_array_remove(chat->messages, json_array_size(chat->messages) - 1);
    return st;
}

static char *read_line(bool prompting)
{
    char *line = NULL;
    size_t size = 0;
    if (prompting) {
        fputs("> ", stderr);
        fflush(stderr);
    }
    ssize_t n = getline(&line, &size, stdin);
    if (n <= 0) {
        free(line);
        return NULL;
    }
    line[strcspn(line, "\r\n")] = '\0';
    return line;
}

/* ---- what is not for the model ----------------------------------------------------------- */

enum chat_action { ACTION_ASK, ACTION_HELP, ACTION_CLEAR, ACTION_QUIT, ACTION_UNKNOWN };

static const struct chat_word {
    const char *word, *about;
    enum chat_action action;
} chat_words[] = {
    { "/help", "shows this", ACTION_HELP },
    { "/clear", "forgets the conversation and starts over", ACTION_CLEAR },
    { "/quit", "ends; so does Ctrl-D", ACTION_QUIT },
};

static void print_words(void)
{
    for (size_t i = 0; i < COUNT_OF(chat_words); i++)
        fprintf(stderr, "  %-8s %s\n", chat_words[i].word, chat_words[i].about);
    fputs("  Ctrl-C   stops an answer\nA line that begins with a space goes to the model, whatever follows.\n", stderr);
}

/* One slash and letters to the end or a space: a path has more slashes. */
static enum chat_action action_of(const char *line)
{
    size_t len = strcspn(line, " \t");
    if (line[0] != '/' || strspn(line + 1, "abcdefghijklmnopqrstuvwxyz") != len - 1 || len == 1)
        return ACTION_ASK;
    for (size_t i = 0; i < COUNT_OF(chat_words); i++)
        if (!strcmp(line, chat_words[i].word))
            return chat_words[i].action;
    return ACTION_UNKNOWN;
}

/* ---- conversation, line by line -------------------------------------------------------- */

/* False: it was the last line. */
static bool take_line(struct chat *chat, const char *line, int *code)
{
    switch (action_of(line)) {
    case ACTION_HELP:
        print_words();
        break;
    case ACTION_CLEAR:
        start_over(chat);
        break;
    case ACTION_QUIT:
        return false;
    case ACTION_UNKNOWN:
        *code = command_failed(chat->self, "there is no %.40s; /help lists what there is", line);
        break;
    case ACTION_ASK:
        if (line[strspn(line, " \t")] && say(chat, line) == ST_IO)
            *code = command_failed(chat->self, "%s", chat->failure);
    }
    return true;
}

static int converse(struct chat *chat)
{
    bool prompting = isatty(STDIN_FILENO), more = true;
    char *line;
    int code = EXIT_DONE;
    if (prompting)
        fprintf(stderr, "%s at %s. /help tells what else can be typed, Ctrl-C stops an answer, Ctrl-D ends.\n",
                chat->model, chat->url);
    while (more && (line = read_line(prompting))) {
        more = take_line(chat, line, &code);
        free(line);
    }
    if (prompting && more)
        fputc('\n', stderr);
    return code;
}

static int ask_once(struct chat *chat, const struct arguments *words)
{
    struct text_buffer text;
    text_buffer_init(&text, ANSWER_MAX_BYTES);
    for (size_t i = 0; i < words->n; i++)
        text_buffer_printf(&text, "%s%s", i ? " " : "", words->items[i]);
    status st = say(chat, text_buffer_text(&text));
    text_buffer_free(&text);
    if (st == ST_OK)
        return EXIT_DONE;
    return st == ST_CANCELLED ? EXIT_FAILED : command_failed(chat->self, "%s", chat->failure);
}

static int run(const struct command *self, int argc, char **argv)
{
    struct chat chat = { .self = self, .temperature = 0.2, .max_tokens = 512 };
    struct place place = { NULL, NULL };
    struct state_dir dir;
    struct arguments arguments;
    struct error err;
    int code;
    const struct option_row rows[] = {
        { "model", 0, OPTION_TEXT, &chat.model, "NAME", "Model to ask; default: the first that is served", 0, 0 },
        { "url", 0, OPTION_TEXT, &chat.url, "URL", "Of the API; default: the local cluster's", 0, 0 },
        { "system", 0, OPTION_TEXT, &chat.system, "TEXT", "System turn to begin with", 0, 0 },
        { "max-tokens", 0, OPTION_INT, &chat.max_tokens, "N", "Longest answer (512)", 1, 1 << 24 },
        { "temperature", 0, OPTION_REAL, &chat.temperature, "T", "0 is greedy (0.2)", 0, 2 },
        PLACE_ROWS(&place),
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), &arguments, &code))
        return code;
    if (place_find(&place, &dir, &err) != ST_OK)
        return command_misuse(self, "%s", err.text);
    if (find_url(&chat, &dir, &err) != ST_OK)
        return command_failed(self, "%s (start one with baton up, or name one with --url)", err.text);
    if (find_model(&chat, &err) != ST_OK)
        return command_failed(self, "%s (is a cluster up? baton up)", err.text);
    /* Without SA_RESTART: Ctrl-C at the prompt ends the reading too. */
    sigaction(SIGINT, &(struct sigaction){ .sa_handler = on_interrupt }, NULL);
    chat.messages = json_array();
    text_buffer_init(&chat.answer, ANSWER_MAX_BYTES);
    start_over(&chat);
    code = arguments.n ? ask_once(&chat, &arguments) : converse(&chat);
    json_decref(chat.messages);
    text_buffer_free(&chat.answer);
    return code;
}

const struct command command_chat = { "chat", "[TEXT]", "Ask a model, or talk with it", run };
