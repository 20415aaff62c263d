/* bench_share.h - what two workers of one model that share a machine's cores, and the packed weights, lose against one
 * worker that has them all. Workers are processes; nothing else runs here. */
#ifndef BATON_BENCH_BENCH_SHARE_H
#define BATON_BENCH_BENCH_SHARE_H

#include "bench/solo.h"

#define BENCH_SHARE_MAX_REPEATS 64u

struct bench_share_options {
    const char *path; /* of the model */
    enum engine_isa isa;
    uint32_t cores;            /* even; threads of the one worker */
    uint32_t prompt, generate; /* tokens, of each worker */
    uint32_t repeats;          /* the medians are given; the ways take turns */
};

/* Tokens/s of all workers of one way together. */
struct bench_share_rates {
    double prefill_tps, decode_tps;
};

struct bench_share_result {
    struct bench_share_rates one;     /* one worker, a thread for each core */
    struct bench_share_rates halves;  /* two workers, each with half of the cores to itself */
    struct bench_share_rates crowded; /* two workers, each with a thread for each core, as `baton up` starts them */
};

MUST_CHECK status bench_share(const struct bench_share_options *options, struct bench_share_result *out,
                              struct error *err);

#endif
