/* baton model score - teacher-forced log-probabilities, to compare engines with. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/solo.h"
#include "cli/command.h"
#include "cli/model_store.h"
#include "cli/score.h"

#define OUTPUT_MAX_BYTES ((size_t)2 << 30) /* of one line: `--top all` is large */
#define MAX_TOKENS       32768u            /* of one input */
#define DEFAULT_CHUNK    64

struct scorer {
    const struct command *self; /* borrowed */
    struct solo *solo;
    uint32_t n_vocab, top, chunk, max_tokens;
    struct score_pair *scratch;
    FILE *logits; /* NULL: not wanted */
    /* Of the input under way: */
    const struct score_input *input;
    uint32_t first_pos;      /* of the step */
    struct text_buffer text; /* "top_logprobs", row by row */
    struct text_buffer own;  /* "logprobs" of the given tokens */
    uint32_t n_targets, n_top_right;
    bool lost; /* logits could not be written */
};

static void write_top(struct text_buffer *out, const struct score_pair *pairs, uint32_t n)
{
    text_buffer_char(out, '[');
    for (uint32_t i = 0; i < n; i++)
        text_buffer_printf(out, "%s[%u, %.9g]", i ? ", " : "", pairs[i].id, pairs[i].logprob);
    text_buffer_char(out, ']');
}

static void on_logits(void *ctx, uint32_t row, const float *logits, uint32_t n_vocab)
{
    struct scorer *s = ctx;
    uint32_t pos = s->first_pos + row;
    if (pos < s->input->first || pos >= s->input->first + s->input->n_rows)
        return;
    if (s->logits)
        s->lost |= fwrite(logits, sizeof *logits, n_vocab, s->logits) != n_vocab;
    const char *comma = pos > s->input->first ? ", " : "";
    score_top(logits, n_vocab, s->top, s->scratch);
    text_buffer_add(&s->text, comma);
    write_top(&s->text, s->scratch, s->top);
    text_buffer_add(&s->own, comma);
    if (pos + 1 >= s->input->n_tokens) {
        text_buffer_add(&s->own, "null");
        return;
    }
    uint32_t target = s->input->tokens[pos + 1];
    s->n_targets++;
    s->n_top_right += s->scratch[0].id == target;
    text_buffer_printf(&s->own, "%.9g", (double)logits[target] - score_log_sum(logits, n_vocab));
}

static status score(struct scorer *s, const struct score_input *input, size_t line, struct error *err)
{
    /* Nobody reads what the last given token predicts unless that row is asked for. */
    uint32_t n = input->first + input->n_rows;
    s->input = input;
    s->n_targets = s->n_top_right = 0;
    text_buffer_clear(&s->text);
    text_buffer_clear(&s->own);
    for (uint32_t done = 0; done < n; done += s->chunk) {
        s->first_pos = done;
        solo_step(s->solo, input->tokens + done, n - done < s->chunk ? n - done : s->chunk, done, on_logits, s);
    }
    if (s->lost)
        return error_set(err, ST_IO, "the logits cannot be written: %s", strerror(errno));
    if (s->text.state != ST_OK || s->own.state != ST_OK)
        return error_set(err, ST_LIMIT, "the answer of line %zu is too long", line);
    printf("{\"line\": %zu, \"n_tokens\": %u, \"first_position\": %u, \"n_positions\": %u, \"n_targets\": %u, "
           "\"n_top_right\": %u, \"logprobs\": [%s], \"top_logprobs\": [%s]}\n",
           line, input->n_tokens, input->first, input->n_rows, s->n_targets, s->n_top_right, text_buffer_text(&s->own),
           text_buffer_text(&s->text));
    fflush(stdout);
    return ST_OK;
}

static int score_file(struct scorer *s, const char *path)
{
    char *line = NULL;
    size_t size = 0, number = 0;
    ssize_t len;
    struct error err = { "" };
    status st = ST_OK;
    FILE *file = strcmp(path, "-") ? fopen(path, "r") : stdin;
    if (!file)
        return command_failed(s->self, "%s: %s", path, strerror(errno));
    while (st == ST_OK && (len = getline(&line, &size, file)) > 0) {
        struct score_input input;
        number++;
        if (line[strspn(line, " \t\r\n")] == '\0')
            continue;
        st = score_read(line, (size_t)len, s->n_vocab, s->max_tokens, &input, &err);
        if (st == ST_OK) {
            st = score(s, &input, number, &err);
            score_input_free(&input);
        }
    }
    free(line);
    if (file != stdin)
        fclose(file);
    return st == ST_OK ? EXIT_DONE : command_failed(s->self, "%s:%zu: %s", path, number, err.text);
}

/* Closed in any case: what is still in its buffer counts, too. */
static int close_logits(struct scorer *s, const char *path, int code)
{
    if (s->logits && fclose(s->logits) != 0 && code == EXIT_DONE)
        return command_failed(s->self, "%s: %s", path, strerror(errno));
    return code;
}

static bool read_top(const char *text, uint32_t n_vocab, uint32_t *top)
{
    char *end;
    if (!strcmp(text, "all")) {
        *top = n_vocab;
        return true;
    }
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (*end || end == text || errno || n == 0 || n > n_vocab || text[0] == '-')
        return false;
    *top = (uint32_t)n;
    return true;
}

static enum dtype kv_type(const char *text)
{
    return !strcmp(text, "f32")    ? DTYPE_F32
           : !strcmp(text, "f16")  ? DTYPE_F16
           : !strcmp(text, "int8") ? DTYPE_INT8
                                   : DTYPE_BF16;
}

static status open_model(struct scorer *s, struct solo_options *o, struct error *err)
{
    struct model *model = NULL;
    status st = model_open(o->path, 0, &model, err); /* only to learn how long an input may be */
    if (st != ST_OK)
        return st;
    uint32_t positions = model_config(model)->max_positions;
    s->n_vocab = model_config(model)->n_vocab;
    model_close(&model);
    s->max_tokens = o->max_tokens = positions < MAX_TOKENS ? positions : MAX_TOKENS;
    s->scratch = calloc(s->n_vocab, sizeof *s->scratch);
    if (!s->scratch)
        return error_set(err, ST_NO_MEMORY, "out of memory");
    return solo_create(o, &s->solo, err);
}

static int run(const struct command *self, int argc, char **argv)
{
    struct scorer s = { .self = self };
    const char *model = NULL, *top = "8", *engine = "auto", *class = "portable", *kv = "bf16", *logits = NULL;
    int64_t threads = 0, chunk = DEFAULT_CHUNK;
    bool f32 = false, known;
    char path[PATH_MAX];
    struct arguments arguments;
    struct error err;
    int code;
    const struct option_row rows[] = {
        { "model", 0, OPTION_TEXT, &model, "PATH|NAME", "Model; must be given", 0, 0 },
        { "top", 0, OPTION_TEXT, &top, "K|all", "Likeliest tokens of each position (8)", 0, 0 },
        { "engine", 0, OPTION_WORD, &engine, "auto|reference|avx2|avx512|amx", "Instruction set of the kernels (auto)",
          0, 0 },
        { "class", 0, OPTION_WORD, &class, "portable|amx", "Arithmetic (portable)", 0, 0 },
        { "f32", 0, OPTION_FLAG, &f32, "", "Widen all weights and quantise no activation", 0, 0 },
        { "kv", 0, OPTION_WORD, &kv, "f32|bf16|f16|int8", "Number format of the KV cache (bf16)", 0, 0 },
        { "logits", 0, OPTION_TEXT, &logits, "FILE",
          "Also writes the logits of each position, float32 values one after the other", 0, 0 },
        { "threads", 0, OPTION_INT, &threads, "N", "Threads that compute; 0: one for each core (0)", 0, 256 },
        { "chunk", 0, OPTION_INT, &chunk, "N", "Tokens of one step (64)", 1, 4096 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), &arguments, &code))
        return code;
    if (arguments.n != 1 || !model)
        return command_misuse(self, "it takes one file of JSON lines (or -) and --model");
    struct solo_options o = {
        .path = path,
        .f32_math = f32,
        .kv_type = kv_type(kv),
        .n_threads = (uint32_t)threads,
        .max_rows = (uint32_t)chunk,
    };
    if (!engine_isa_parse(engine, &o.isa) || !engine_class_parse(class, &o.class) ||
        model_store_resolve(model, path, sizeof path, &known, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    s.chunk = (uint32_t)chunk;
    text_buffer_init(&s.text, OUTPUT_MAX_BYTES);
    text_buffer_init(&s.own, OUTPUT_MAX_BYTES);
    if (open_model(&s, &o, &err) != ST_OK)
        code = command_failed(self, "%s", err.text);
    else if (!read_top(top, s.n_vocab, &s.top))
        code = command_misuse(self, "--top: \"%.40s\" is not allowed; it takes 1 to %u, or all", top, s.n_vocab);
    else if (logits && !(s.logits = fopen(logits, "wb")))
        code = command_failed(self, "%s: %s", logits, strerror(errno));
    else
        code = close_logits(&s, logits, score_file(&s, arguments.items[0]));
    solo_destroy(&s.solo);
    free(s.scratch);
    text_buffer_free(&s.text);
    text_buffer_free(&s.own);
    return code;
}

const struct command command_model_score = { "model score", "FILE.jsonl", "Log-probabilities of given tokens", run };
