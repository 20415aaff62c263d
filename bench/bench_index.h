/* bench_index.h - block operations a second of the router's prefix index, in the proportions of a trace, and of a plain
 * hash map in the same run. One thread, in seconds of its processor time. */
#ifndef BATON_BENCH_BENCH_INDEX_H
#define BATON_BENCH_BENCH_INDEX_H

#include "bench/index_trace.h"

#define BENCH_INDEX_MAX_REPEATS 64u

struct bench_index_options {
    struct index_trace_options trace;
    uint32_t repeats; /* the medians are given */
};

struct bench_index_result {
    uint64_t requests, blocks[3], most_blocks; /* of the trace */
    /* Of each index: a block stored, removed, or that a lookup decided about, whether it was looked at or skipped. */
    double ops_per_s, plain_ops_per_s;
    double touched_per_s;      /* only the blocks that were looked at */
    uint64_t covered, touched; /* by lookups */
    double bytes_per_block, plain_bytes_per_block;
    uint64_t moved, evicted, not_kept;
};

/* ST_CORRUPT: the two did not find the same. */
MUST_CHECK status bench_index(const struct bench_index_options *options, struct bench_index_result *out,
                              struct error *err);

#endif
