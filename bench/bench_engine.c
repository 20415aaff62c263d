#include "bench/bench_engine.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"

/* xorshift32: the same prompt in every run. */
static void fill_prompt(uint32_t *tokens, uint32_t n, uint32_t n_vocab)
{
    uint32_t x = 2463534242u;
    for (uint32_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        tokens[i] = x % n_vocab;
    }
}

static double rate(uint32_t tokens, uint64_t us)
{
    return us ? (double)tokens * 1e6 / (double)us : 0;
}

static void run_once(struct solo *solo, const struct bench_engine_options *o, const uint32_t *prompt,
                     double *prefill_tps, double *decode_tps)
{
    uint32_t token = 0;
    uint64_t begin = clock_now_us();
    for (uint32_t done = 0; done < o->prompt; done += o->chunk) {
        uint32_t n = o->prompt - done < o->chunk ? o->prompt - done : o->chunk;
        token = solo_step(solo, prompt + done, n, done, NULL, NULL);
    }
    uint64_t middle = clock_now_us();
    for (uint32_t i = 0; i < o->generate; i++)
        token = solo_step(solo, &token, 1, o->prompt + i, NULL, NULL);
    *prefill_tps = rate(o->prompt, middle - begin);
    *decode_tps = rate(o->generate, clock_now_us() - middle);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

status bench_engine(const struct bench_engine_options *options, struct bench_engine_result *out, struct error *err)
{
    double prefill[BENCH_ENGINE_MAX_REPEATS], decode[BENCH_ENGINE_MAX_REPEATS];
    ASSERT(options->repeats > 0 && options->repeats <= BENCH_ENGINE_MAX_REPEATS && options->chunk > 0);
    struct solo *solo = NULL;
    struct solo_options o = {
        .path = options->path,
        .isa = options->isa,
        .kv_type = DTYPE_BF16,
        .n_threads = options->n_threads,
        .max_tokens = options->prompt + options->generate,
        .max_rows = options->chunk,
    };
    uint32_t *prompt = calloc(options->prompt, sizeof *prompt);
    status st = prompt ? solo_create(&o, &solo, err) : error_set(err, ST_NO_MEMORY, "out of memory");
    if (st != ST_OK) {
        free(prompt);
        return st;
    }
    ASSERT(prompt);
    fill_prompt(prompt, options->prompt, model_config(solo_model(solo))->n_vocab);
    run_once(solo, options, prompt, &prefill[0], &decode[0]); /* caches, page tables, clock frequency */
    for (uint32_t i = 0; i < options->repeats; i++)
        run_once(solo, options, prompt, &prefill[i], &decode[i]);
    out->prefill_tps = median(prefill, options->repeats);
    out->decode_tps = median(decode, options->repeats);
    out->n_threads = solo_threads(solo);
    snprintf(out->model, sizeof out->model, "%.127s", model_name(solo_model(solo)));
    snprintf(out->isa, sizeof out->isa, "%.15s", solo_isa(solo));
    solo_destroy(&solo);
    free(prompt);
    return ST_OK;
}
