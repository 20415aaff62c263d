/* baton bench share - two workers on the cores of one. */
#include <limits.h>
#include <sched.h>
#include <stdio.h>

#include "bench/bench_share.h"
#include "cli/command.h"
#include "cli/model_store.h"
#include "common/json_writer.h"

#define OUTPUT_MAX_BYTES 65536u

static int64_t usable_pairs(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 2;
    return n < 2 ? 2 : n / 2 * 2;
}

static void write_rates(struct json_writer *w, const char *name, const struct bench_share_rates *r,
                        const struct bench_share_rates *one)
{
    json_write_key(w, name);
    json_write_object(w);
    json_field_real(w, "prefill_tps", r->prefill_tps);
    json_field_real(w, "decode_tps", r->decode_tps);
    json_field_real(w, "prefill_ratio", r->prefill_tps / one->prefill_tps);
    json_field_real(w, "decode_ratio", r->decode_tps / one->decode_tps);
    json_write_end(w);
}

static void print_json(const struct bench_share_options *o, const struct bench_share_result *r)
{
    struct text_buffer page;
    struct json_writer w;
    text_buffer_init(&page, OUTPUT_MAX_BYTES);
    json_writer_init(&w, &page);
    json_write_object(&w);
    json_field_uint(&w, "cores", o->cores);
    write_rates(&w, "one", &r->one, &r->one);
    write_rates(&w, "halves", &r->halves, &r->one);
    write_rates(&w, "crowded", &r->crowded, &r->one);
    json_write_end(&w);
    puts(text_buffer_text(&page));
    text_buffer_free(&page);
}

static void print_line(const char *what, const struct bench_share_rates *r, const struct bench_share_rates *one)
{
    printf("%-40s %9.0f %6.2f %9.1f %6.2f\n", what, r->prefill_tps, r->prefill_tps / one->prefill_tps, r->decode_tps,
           r->decode_tps / one->decode_tps);
}

static void print_page(const struct bench_share_options *o, const struct bench_share_result *r)
{
    char what[64];
    printf("%-40s %9s %6s %9s %6s\n", "tokens/s, and against one worker", "prefill", "", "decode", "");
    snprintf(what, sizeof what, "one worker, %u threads", o->cores);
    print_line(what, &r->one, &r->one);
    snprintf(what, sizeof what, "two workers, %u thread%s each", o->cores / 2, o->cores > 2 ? "s" : "");
    print_line(what, &r->halves, &r->one);
    snprintf(what, sizeof what, "two workers, %u threads each", o->cores);
    print_line(what, &r->crowded, &r->one);
}

static int run(const struct command *self, int argc, char **argv)
{
    const char *model = known_models[0].name, *isa = "auto";
    int64_t cores = usable_pairs(), prompt = 512, generate = 64, repeats = 5;
    bool as_json = false, known;
    char path[PATH_MAX];
    struct bench_share_result result;
    struct error err;
    int code;
    const struct option_row rows[] = {
        { "model", 0, OPTION_TEXT, &model, "PATH|NAME", "Model (smollm2)", 0, 0 },
        { "isa", 0, OPTION_WORD, &isa, "auto|reference|avx2|avx512", "Instruction set (auto)", 0, 0 },
        { "cores", 0, OPTION_INT, &cores, "N", "Cores to share, an even number (all)", 2, 256 },
        { "prompt", 0, OPTION_INT, &prompt, "N", "Tokens of each worker's prompt (512)", 1, 65536 },
        { "generate", 0, OPTION_INT, &generate, "N", "Tokens that each worker generates (64)", 1, 65536 },
        { "repeats", 0, OPTION_INT, &repeats, "N", "Runs of each way (5)", 1, BENCH_SHARE_MAX_REPEATS },
        { "json", 0, OPTION_FLAG, &as_json, "", "One JSON object", 0, 0 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    struct bench_share_options o = { .path = path,
                                     .cores = (uint32_t)cores,
                                     .prompt = (uint32_t)prompt,
                                     .generate = (uint32_t)generate,
                                     .repeats = (uint32_t)repeats };
    if (!engine_isa_parse(isa, &o.isa) || model_store_resolve(model, path, sizeof path, &known, &err) != ST_OK ||
        bench_share(&o, &result, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    if (as_json)
        print_json(&o, &result);
    else
        print_page(&o, &result);
    return EXIT_DONE;
}

const struct command command_bench_share = { "bench share", "", "Two workers on the cores of one, and what they lose",
                                             run };
