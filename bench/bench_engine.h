/* bench_engine.h - prefill and decode tokens/s of the engine alone, and how near they come to what the machine can do.
 */
#ifndef BATON_BENCH_BENCH_ENGINE_H
#define BATON_BENCH_BENCH_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/solo.h"

struct bench_engine_options {
    const char *path; /* of the model */
    enum engine_isa isa;
    enum contract_class class;
    uint32_t n_threads;               /* 0: one for each core */
    uint32_t prompt, generate, chunk; /* tokens; chunk: rows of one prefill step */
    uint32_t repeats;                 /* after one unmeasured run; the medians are given */
    uint32_t sequences;               /* decoded side by side, each behind a prompt of its own */
};

#define BENCH_ENGINE_MAX_REPEATS   64u
#define BENCH_ENGINE_MAX_SEQUENCES 256u

struct bench_engine_phase {
    double tps;                            /* tokens a second of all sequences together */
    double product_share, attention_share; /* of its time */
};

struct bench_engine_result {
    char model[128], isa[16], class[16];
    uint32_t n_threads;
    struct bench_engine_phase prefill, decode;
    /* Operations (a multiply and an add are two) per second of the time spent in them, in prefill: with weights,
     * and of scores and weighted values of the positions that each row sees. */
    double product_ops, attention_ops;
    /* Bytes a step must read at least, as the file has them: every matrix once, and the KV of the sequences. */
    double step_bytes;
    enum dtype layers;       /* most of their weights */
    double read_bytes_per_s; /* of them, in decode */
};

/* The prompt is made of pseudo-random tokens, the answer is greedy and never ends early. */
MUST_CHECK status bench_engine(const struct bench_engine_options *options, struct bench_engine_result *out,
                               struct error *err);

#endif
