/* tensor.h - a named array as it lies in a model file, and its number format.
 * Quantised formats are ggml's (ggml-common.h); quantised.h reads them. */
#ifndef BATON_ENGINE_TENSOR_H
#define BATON_ENGINE_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define DTYPES(X) /* name, values a block, bytes a block */                                                            \
    X(F32, 1, 4)                                                                                                       \
    X(F16, 1, 2)                                                                                                       \
    X(BF16, 1, 2)                                                                                                      \
    X(Q8_0, 32, 34)                                                                                                    \
    X(Q4_0, 32, 18)                                                                                                    \
    X(Q4_1, 32, 20)                                                                                                    \
    X(Q5_0, 32, 22)                                                                                                    \
    X(Q5_1, 32, 24)                                                                                                    \
    X(Q4_K, 256, 144)                                                                                                  \
    X(Q5_K, 256, 176)                                                                                                  \
    X(Q6_K, 256, 210)

enum dtype {
#define X(name, values, bytes) DTYPE_##name,
    DTYPES(X)
#undef X
        DTYPE_COUNT,
    DTYPE_INT8, /* of KV caches, no tensor's: a slot's integers, whose scale stands behind them (kv_layout.h) */
};

const char *dtype_name(enum dtype type);
size_t dtype_block_values(enum dtype type);
size_t dtype_block_bytes(enum dtype type);
/* Bytes of one row of n values; n is a multiple of the block's values. */
size_t dtype_row_bytes(enum dtype type, size_t n);

/* n values (a multiple of the block) to float32, equal bit for bit to Python gguf's
 * dequantize: exact for plain formats, a rounding for each operation for the others.
 * Of INT8 the integers, without their scale. */
void dtype_to_f32(enum dtype type, const void *src, float *dst, size_t n);
uint16_t f32_to_f16(float x); /* nearest even */
float f16_to_f32(uint16_t x);
uint16_t f32_to_bf16(float x); /* nearest even, NaN kept */
float bf16_to_f32(uint16_t x);

#define TENSOR_MAX_DIMS 4

/* shape[0] is the outermost (slowest) dimension, as in Hugging Face files; a
 * linear layer's weight is [n_out, n_in]. */
struct tensor {
    const char *name; /* borrowed from the file */
    enum dtype type;
    uint32_t n_dims;
    uint64_t shape[TENSOR_MAX_DIMS];
    const void *data; /* borrowed from the file's mapping */
    size_t bytes;
};

#endif
