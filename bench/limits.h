/* limits.h - what this machine can do at most: multiply-adds a second for each
 * instruction set, and bytes read from memory. Figures of the engine are printed
 * beside them. Each is measured on some threads at once, all of them busy for
 * the whole time; the best of a few rounds counts, as a limit is wanted. */
#ifndef BATON_BENCH_LIMITS_H
#define BATON_BENCH_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define LIMITS_MAX_THREADS 256u

/* name, what it is, operations (a multiply and an add are two) of one block of instructions */
#define LIMIT_PEAKS(X)                                                                                                 \
    X(FP32_AVX2, "fp32_avx2", "float32, 256 bits")                                                                     \
    X(INT8_AVX2, "int8_avx2", "int8 (vpmaddubsw, vpaddw), 256 bits")                                                   \
    X(FP32_AVX512, "fp32_avx512", "float32, 512 bits")                                                                 \
    X(INT8_VNNI, "int8_vnni", "int8 (vpdpbusd), 512 bits")                                                             \
    X(BF16_AVX512, "bf16_avx512", "bfloat16 (vdpbf16ps), 512 bits")                                                    \
    X(INT8_AMX, "int8_amx", "int8, AMX tiles")                                                                         \
    X(BF16_AMX, "bf16_amx", "bfloat16, AMX tiles")

enum limit_peak {
#define X(name, word, about) LIMIT_##name,
    LIMIT_PEAKS(X)
#undef X
        LIMIT_PEAK_COUNT
};

const char *limit_peak_name(enum limit_peak peak);
const char *limit_peak_about(enum limit_peak peak);

/* The first thing that the processor or its kernel lacks for it; NULL when it can be measured. */
const char *limit_peak_missing(enum limit_peak peak);

/* Operations a second of n_threads together; the peak must not be missing. */
double limit_peak_measure(enum limit_peak peak, uint32_t n_threads, double seconds);

/* Bytes a second that n_threads read together from private memory far larger than the caches, in huge pages where the
 * kernel gives them (the pages of packed weights). *huge: the part of the memory that lay in huge pages. */
MUST_CHECK status limit_read_measure(uint32_t n_threads, double seconds, double *bytes_per_s, double *huge,
                                     struct error *err);

/* limits_peaks.c: runs `blocks` blocks of independent multiply-adds; operations of one block. */
void limit_peak_run(enum limit_peak peak, uint64_t blocks);
double limit_peak_block_ops(enum limit_peak peak);

#endif
