/* baton model quantize - a model as a GGUF file of fewer bits. */
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/model_store.h"
#include "cli/progress.h"
#include "engine/model_quantise.h"
#include "engine/quantised.h"

static atomic_bool interrupted;

static void on_signal(int number)
{
    (void)number;
    atomic_store(&interrupted, true);
}

static void show(void *ctx, const char *tensor, uint64_t done, uint64_t all)
{
    char step[512];
    snprintf(step, sizeof step, "%3u %% %.255s", (unsigned)(done * 100 / all), tensor);
    progress_step(ctx, step);
    progress_tick(ctx);
}

static uint32_t usable_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

static void print_report(const struct quantise_options *o, const struct quantise_report *r)
{
    printf("%s: %.1f M weights in %.1f MB, %.2f bits each (before: %.1f MB)\n", o->out, (double)r->values / 1e6,
           (double)r->bytes / 1e6, (double)r->bytes * 8 / (double)r->values, (double)r->source_bytes / 1e6);
    for (uint32_t t = 0; t < DTYPE_COUNT; t++)
        if (r->n_tensors[t] > 0)
            printf("  %-5s %6u tensors %10.1f MB\n", dtype_name((enum dtype)t), r->n_tensors[t],
                   (double)r->tensor_bytes[t] / 1e6);
    for (uint32_t t = 0; t < DTYPE_COUNT * DTYPE_COUNT; t++) {
        const enum dtype wanted = (enum dtype)(t / DTYPE_COUNT), written = (enum dtype)(t % DTYPE_COUNT);
        if (r->n_instead[wanted][written] > 0)
            printf("  %s instead of %s: %u, whose rows do not fill blocks of %zu\n", dtype_name(written),
                   dtype_name(wanted), r->n_instead[wanted][written], dtype_block_values(wanted));
    }
    if (r->from_quantised)
        printf("  the source was quantised already: what it had lost stays lost\n");
    if (r->drops_defaults)
        printf("  generation_config.json's sampling defaults are not in the file: GGUF has no keys for them\n");
}

/* Interrupts end between two panels, so that the unfinished file goes. */
static int quantise(const struct command *self, struct quantise_options *o)
{
    const struct sigaction act = { .sa_handler = on_signal };
    struct progress progress = { .began_us = 0 };
    struct quantise_report report;
    struct error err;
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    o->cancelled = &interrupted;
    o->on_progress = show;
    o->ctx = &progress;
    status st = model_quantise(o, &report, &err);
    if (st != ST_OK) {
        command_failed(self, "%s", err.text);
        return st == ST_CANCELLED ? EXIT_INTERRUPTED : EXIT_FAILED;
    }
    print_report(o, &report);
    return EXIT_DONE;
}

static int run(const struct command *self, int argc, char **argv)
{
    const char *type = NULL;
    int64_t threads = 0;
    bool known;
    char path[PATH_MAX];
    struct quantise_options o = { .source = path };
    struct arguments arguments;
    struct error err;
    int code;
#define X(name, number) "|" #name
    static const char mixes[] = QUANTISE_MIXES(X);
#undef X
    const struct option_row rows[] = {
        { "type", 0, OPTION_WORD, &type, mixes + 1, "Formats of the matrices; must be given", 0, 0 },
        { "threads", 0, OPTION_INT, &threads, "N", "Threads that compute; 0: one for each core (0)", 0, 256 },
        { "force", 'f', OPTION_FLAG, &o.force, "", "Replace OUT.gguf when it is there", 0, 0 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), &arguments, &code))
        return code;
    if (arguments.n != 2 || !type)
        return command_misuse(self, "it takes a model, the file to write and --type");
    if (model_store_resolve(arguments.items[0], path, sizeof path, &known, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    while (strcmp(quantise_mix_name(o.mix), type) != 0)
        o.mix++;
    o.out = arguments.items[1];
    o.n_threads = threads ? (uint32_t)threads : usable_cores();
    return quantise(self, &o);
}

const struct command command_model_quantize = { "model quantize", "PATH|NAME OUT.gguf",
                                                "Write a model as GGUF in fewer bits", run };
