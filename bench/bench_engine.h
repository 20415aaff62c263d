/* bench_engine.h - prefill and decode tokens/s of the engine alone. */
#ifndef BATON_BENCH_BENCH_ENGINE_H
#define BATON_BENCH_BENCH_ENGINE_H

#include <stdint.h>

#include "bench/solo.h"

struct bench_engine_options {
    const char *path; /* of the model */
    enum engine_isa isa;
    uint32_t n_threads;               /* 0: one for each core */
    uint32_t prompt, generate, chunk; /* tokens; chunk: rows of one prefill step */
    uint32_t repeats;                 /* after one unmeasured run; the medians are given */
};

#define BENCH_ENGINE_MAX_REPEATS 64u

struct bench_engine_result {
    char model[128], isa[16];
    uint32_t n_threads;
    double prefill_tps, decode_tps;
};

/* The prompt is made of pseudo-random tokens, the answer is greedy and never ends early. */
MUST_CHECK status bench_engine(const struct bench_engine_options *options, struct bench_engine_result *out,
                               struct error *err);

#endif
