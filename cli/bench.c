/* baton bench - figures of this machine, beside what they should be compared with. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench_engine.h"
#include "bench/bench_router.h"
#include "bench/bench_transfer.h"
#include "bench/limits.h"
#include "cli/command.h"
#include "cli/model_store.h"
#include "common/json_writer.h"
#include "engine/quantised.h"

#define MAX_TOKENS    (1 << 20)
#define LIMIT_SECONDS 0.6 /* of each measurement */

/* What the machine could do at most in the run's place; 0: not measured. */
struct engine_limits {
    double product, attention, read;
};

static void print_json(const struct bench_engine_options *o, const struct bench_engine_result *r,
                       const struct engine_limits *l)
{
    struct text_buffer page;
    struct json_writer w;
    text_buffer_init(&page, 4096);
    json_writer_init(&w, &page);
    json_write_object(&w);
    json_field_string(&w, "model", r->model);
    json_field_string(&w, "isa", r->isa);
    json_field_string(&w, "class", r->class);
    json_field_uint(&w, "threads", r->n_threads);
    json_field_uint(&w, "prompt", o->prompt);
    json_field_uint(&w, "generate", o->generate);
    json_field_real(&w, "prefill_tps", r->prefill.tps);
    json_field_real(&w, "decode_tps", r->decode.tps);
    json_field_uint(&w, "chunk", o->chunk);
    json_field_uint(&w, "repeats", o->repeats);
    json_field_uint(&w, "sequences", o->sequences);
    json_field_real(&w, "product_gops", r->product_ops / 1e9);
    json_field_real(&w, "attention_gops", r->attention_ops / 1e9);
    json_field_real(&w, "product_share", r->prefill.product_share);
    json_field_real(&w, "attention_share", r->prefill.attention_share);
    json_field_real(&w, "decode_product_share", r->decode.product_share);
    json_field_real(&w, "decode_attention_share", r->decode.attention_share);
    json_field_real(&w, "step_bytes", r->step_bytes);
    json_field_real(&w, "read_gbps", r->read_bytes_per_s / 1e9);
    if (l->product > 0)
        json_field_real(&w, "product_limit_gops", l->product / 1e9);
    if (l->attention > 0)
        json_field_real(&w, "attention_limit_gops", l->attention / 1e9);
    if (l->read > 0)
        json_field_real(&w, "read_limit_gbps", l->read / 1e9);
    json_write_end(&w);
    puts(text_buffer_text(&page));
    text_buffer_free(&page);
}

/* What part of its time something took, and how near it came to its limit (0: not measured). */
static void print_part(const char *what, double share, double ops, double limit)
{
    printf("    %-10s %3.0f %% of the time", what, 100 * share);
    if (ops > 0)
        printf(", %.1f GOP/s", ops / 1e9);
    if (limit > 0)
        printf(", %.0f %% of %.1f", 100 * ops / limit, limit / 1e9);
    printf("\n");
}

static void print_engine(const struct bench_engine_options *o, const struct bench_engine_result *r,
                         const struct engine_limits *l)
{
    printf("%s, %s kernels, class %s, %u threads, %u at once\n", r->model, r->isa, r->class, r->n_threads,
           o->sequences);
    printf("  prefill of %u tokens   %10.1f tokens/s\n", o->prompt, r->prefill.tps);
    print_part("products", r->prefill.product_share, r->product_ops, l->product);
    print_part("attention", r->prefill.attention_share, r->attention_ops, l->attention);
    printf("  decode of %u tokens     %10.1f tokens/s, reading at least %.1f GB/s", o->generate, r->decode.tps,
           r->read_bytes_per_s / 1e9);
    if (l->read > 0)
        printf(", %.0f %% of %.1f", 100 * r->read_bytes_per_s / l->read, l->read / 1e9);
    printf("\n");
    print_part("products", r->decode.product_share, 0, 0);
    print_part("attention", r->decode.attention_share, 0, 0);
}

static bool has_tiles(const struct bench_engine_result *r)
{
    return !strcmp(r->isa, "amx");
}

static bool has_bf16_tiles(const struct bench_engine_result *r)
{
    return has_tiles(r) && !strcmp(r->class, "amx");
}

static bool is_wide(const struct bench_engine_result *r)
{
    return has_tiles(r) || !strcmp(r->isa, "avx512");
}

/* The multiply-adds that products live on, and attention. */
static enum limit_peak product_peak(const struct bench_engine_result *r)
{
    if (dtype_is_quantised(r->layers))
        return has_tiles(r) ? LIMIT_INT8_AMX : is_wide(r) ? LIMIT_INT8_VNNI : LIMIT_INT8_AVX2;
    if (r->layers == DTYPE_BF16 && has_bf16_tiles(r))
        return LIMIT_BF16_AMX;
    return is_wide(r) ? LIMIT_FP32_AVX512 : LIMIT_FP32_AVX2;
}

static enum limit_peak attention_peak(const struct bench_engine_result *r)
{
    return has_bf16_tiles(r) ? LIMIT_BF16_AMX : is_wide(r) ? LIMIT_FP32_AVX512 : LIMIT_FP32_AVX2;
}

static status measure_engine_limits(const struct bench_engine_result *r, struct engine_limits *out, struct error *err)
{
    double huge;
    if (strcmp(r->isa, "reference") != 0) {
        out->product = limit_peak_measure(product_peak(r), r->n_threads, LIMIT_SECONDS);
        out->attention = limit_peak_measure(attention_peak(r), r->n_threads, LIMIT_SECONDS);
    }
    return limit_read_measure(r->n_threads, LIMIT_SECONDS, &out->read, &huge, err);
}

static int run_engine(const struct command *self, int argc, char **argv)
{
    const char *model = known_models[0].name, *isa = "auto", *class = "portable";
    int64_t prompt = 512, generate = 64, threads = 0, chunk = 512, repeats = 3;
    int64_t sequences = 1;
    bool as_json = false, limits = false, known;
    char path[PATH_MAX];
    struct error err;
    struct bench_engine_result result;
    int code;
    const struct option_row rows[] = {
        { "model", 0, OPTION_TEXT, &model, "PATH|NAME", "Model (smollm2)", 0, 0 },
        { "prompt", 0, OPTION_INT, &prompt, "N", "Tokens of the prompt (512)", 1, MAX_TOKENS },
        { "generate", 0, OPTION_INT, &generate, "N", "Tokens generated behind it (64)", 1, MAX_TOKENS },
        { "threads", 0, OPTION_INT, &threads, "N", "Threads that compute; 0: one for each core (0)", 0, 256 },
        { "isa", 0, OPTION_WORD, &isa, "auto|reference|avx2|avx512|amx", "Instruction set (auto)", 0, 0 },
        { "class", 0, OPTION_WORD, &class, "portable|amx", "Arithmetic (portable)", 0, 0 },
        { "chunk", 0, OPTION_INT, &chunk, "N", "Prompt tokens of one step (512)", 1, MAX_TOKENS },
        { "repeats", 0, OPTION_INT, &repeats, "N", "Measured runs, of which the median is given (3)", 1,
          BENCH_ENGINE_MAX_REPEATS },
        { "sequences", 0, OPTION_INT, &sequences, "N", "Sequences, each with a prompt of its own, decoded at once (1)",
          1, BENCH_ENGINE_MAX_SEQUENCES },
        { "limits", 0, OPTION_FLAG, &limits, "", "Measure what the machine can do at most, and print the ratios", 0,
          0 },
        { "json", 0, OPTION_FLAG, &as_json, "", "One JSON object", 0, 0 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    struct bench_engine_options o = {
        .path = path,
        .n_threads = (uint32_t)threads,
        .prompt = (uint32_t)prompt,
        .generate = (uint32_t)generate,
        .chunk = (uint32_t)chunk,
        .repeats = (uint32_t)repeats,
        .sequences = (uint32_t)sequences,
    };
    struct engine_limits l = { 0, 0, 0 };
    if (!engine_isa_parse(isa, &o.isa) || !engine_class_parse(class, &o.class) ||
        model_store_resolve(model, path, sizeof path, &known, &err) != ST_OK ||
        bench_engine(&o, &result, &err) != ST_OK || (limits && measure_engine_limits(&result, &l, &err) != ST_OK))
        return command_failed(self, "%s", err.text);
    if (as_json)
        print_json(&o, &result, &l);
    else
        print_engine(&o, &result, &l);
    return EXIT_DONE;
}

/* What one and all threads reach together; a peak that this processor lacks is left out. */
struct limit_figures {
    double ops[LIMIT_PEAK_COUNT][2]; /* 0: missing */
    double read[2], huge;
    uint32_t threads[2];
};

static void print_limits_json(const struct limit_figures *f)
{
    struct text_buffer page;
    struct json_writer w;
    char key[64];
    text_buffer_init(&page, 4096);
    json_writer_init(&w, &page);
    json_write_object(&w);
    json_field_uint(&w, "threads", f->threads[1]);
    for (int i = 0; i < LIMIT_PEAK_COUNT; i++)
        for (int t = 0; t < 2 && f->ops[i][0] > 0; t++) {
            (void)snprintf(key, sizeof key, "%s_gops%s", limit_peak_name((enum limit_peak)i), t ? "" : "_1");
            json_field_real(&w, key, f->ops[i][t] / 1e9);
        }
    json_field_real(&w, "read_gbps_1", f->read[0] / 1e9);
    json_field_real(&w, "read_gbps", f->read[1] / 1e9);
    json_field_real(&w, "huge_pages", f->huge);
    json_write_end(&w);
    puts(text_buffer_text(&page));
    text_buffer_free(&page);
}

static void print_limits(const struct limit_figures *f)
{
    printf("%-40s %11s %8u threads\n", "", "1 thread", f->threads[1]);
    for (int i = 0; i < LIMIT_PEAK_COUNT; i++)
        if (f->ops[i][0] > 0)
            printf("%-40s %11.1f %16.1f GOP/s\n", limit_peak_about((enum limit_peak)i), f->ops[i][0] / 1e9,
                   f->ops[i][1] / 1e9);
    printf("reading memory, %3.0f %% in huge pages       %11.1f %16.1f GB/s\n", 100 * f->huge, f->read[0] / 1e9,
           f->read[1] / 1e9);
}

static int run_limits(const struct command *self, int argc, char **argv)
{
    int64_t threads = 0, milliseconds = 600;
    bool as_json = false;
    struct arguments arguments;
    struct error err;
    int code;
    const struct option_row rows[] = {
        { "threads", 0, OPTION_INT, &threads, "N", "Threads; 0: one for each core (0)", 0, LIMITS_MAX_THREADS },
        { "milliseconds", 0, OPTION_INT, &milliseconds, "N", "Time of each measurement (600)", 30, 60000 },
        { "json", 0, OPTION_FLAG, &as_json, "", "One JSON object", 0, 0 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), &arguments, &code))
        return code;
    if (arguments.n > 0)
        return command_misuse(self, "it takes no argument \"%.60s\"", arguments.items[0]);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t all = threads ? (uint32_t)threads : cores > 0 && cores < LIMITS_MAX_THREADS ? (uint32_t)cores : 1;
    struct limit_figures f = { .threads = { 1, all } };
    double seconds = (double)milliseconds / 1000;
    for (int i = 0; i < LIMIT_PEAK_COUNT; i++) {
        const char *missing = limit_peak_missing((enum limit_peak)i);
        if (missing)
            (void)fprintf(stderr, "skipped: %s: this machine lacks %s\n", limit_peak_name((enum limit_peak)i), missing);
        for (int t = 0; t < 2 && !missing; t++)
            f.ops[i][t] = limit_peak_measure((enum limit_peak)i, f.threads[t], seconds);
    }
    for (int t = 0; t < 2; t++)
        if (limit_read_measure(f.threads[t], seconds, &f.read[t], &f.huge, &err) != ST_OK)
            return command_failed(self, "%s", err.text);
    if (as_json)
        print_limits_json(&f);
    else
        print_limits(&f);
    return EXIT_DONE;
}

static int run_transfer(const struct command *self, int argc, char **argv)
{
    (void)self;
    return bench_transfer(argc, argv);
}

static int run_router(const struct command *self, int argc, char **argv)
{
    (void)self;
    return bench_router(argc, argv);
}

static int run(const struct command *self, int argc, char **argv)
{
    static const struct command bench_engine_command = { "bench engine", "", "Tokens/s of prefill and decode",
                                                         run_engine };
    static const struct command bench_transfer_command = { "bench transfer", "", "KV by mapping and by TCP, GB/s",
                                                           run_transfer };
    static const struct command bench_router_command = { "bench router", "", "What a request and a token cost a router",
                                                         run_router };
    static const struct command bench_limits_command = { "bench limits", "",
                                                         "Most that this machine can compute and read", run_limits };
    static const struct command *const commands[] = {
        &bench_engine_command,   &command_bench_share,  &command_bench_evict, &bench_limits_command,
        &bench_transfer_command, &bench_router_command, &command_bench_index, &command_bench_multiturn,
        &command_bench_disk,     &command_bench_serve,  &command_bench_sim,   NULL
    };
    (void)self;
    return command_dispatch("baton bench", commands, argc, argv);
}

const struct command command_bench = { "bench", "engine|share|evict|limits|transfer|router|index|multiturn|disk|serve",
                                       "Measure this machine", run };
