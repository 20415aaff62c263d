/* quantised.h - the quantised formats of ggml, a group of 32 values at a time and
 * in one form for all of them:
 *     value = scale * (u - offset) + minimum,   u an unsigned number of 4 to 8 bits.
 * Blocks hold one group, the K formats' super-blocks eight. Q6_K has a scale for
 * each half of a group. */
#ifndef BATON_ENGINE_QUANTISED_H
#define BATON_ENGINE_QUANTISED_H

#include <stdbool.h>

#include "engine/contract.h"
#include "engine/tensor.h"

#define QUANT_SUPER_GROUPS 8u /* groups of a super-block */

/* format; bits of u; offset; parts of a group that have a scale of their own; whether it has a minimum; whether scales
 * and minima are integer factors of those of a super-block */
#define QUANT_FORMATS(X)                                                                                               \
    X(Q8_0, 8, 128, 1, false, false)                                                                                   \
    X(Q4_0, 4, 8, 1, false, false)                                                                                     \
    X(Q4_1, 4, 0, 1, true, false)                                                                                      \
    X(Q5_0, 5, 16, 1, false, false)                                                                                    \
    X(Q5_1, 5, 0, 1, true, false)                                                                                      \
    X(Q4_K, 4, 0, 1, true, true)                                                                                       \
    X(Q5_K, 5, 0, 1, true, true)                                                                                       \
    X(Q6_K, 6, 32, 2, false, true)

/* clang-format off: a chain of conditions */
/* Functions of one value each, so that kernels see constants in every build. */
static inline uint32_t quant_bits(enum dtype type) /* 0: not a quantised format */
{
#define X(name, bits, offset, halves, minimum, super) type == DTYPE_##name ? (uint32_t)(bits):
    return QUANT_FORMATS(X) 0;
#undef X
}

static inline uint32_t quant_offset(enum dtype type)
{
#define X(name, bits, offset, halves, minimum, super) type == DTYPE_##name ? (uint32_t)(offset):
    return QUANT_FORMATS(X) 0;
#undef X
}

static inline uint32_t quant_halves(enum dtype type)
{
#define X(name, bits, offset, halves, minimum, super) type == DTYPE_##name ? (uint32_t)(halves):
    return QUANT_FORMATS(X) 1;
#undef X
}

static inline bool quant_has_minimum(enum dtype type)
{
#define X(name, bits, offset, halves, minimum, super) type == DTYPE_##name ? (minimum):
    return QUANT_FORMATS(X) false;
#undef X
}

static inline bool quant_is_super(enum dtype type)
{
#define X(name, bits, offset, halves, minimum, super) type == DTYPE_##name ? (super):
    return QUANT_FORMATS(X) false;
#undef X
}

/* clang-format on */

static inline bool dtype_is_quantised(enum dtype type)
{
    return quant_bits(type) != 0;
}

struct quant_group {
    uint8_t u[CONTRACT_GROUP];
    uint16_t d, m;      /* f16, of the block; m is 0 without a minimum */
    int8_t d_factor[2]; /* of each half; 1 in formats without super-blocks */
    uint8_t m_factor;   /* likewise */
};

/* Group number g of a row. */
void quant_read(enum dtype type, const uint8_t *row, size_t g, struct quant_group *out);

/* Both are exact: 11 bits times at most 8. A super-block's minimum is stored as what is taken off. */
float quant_scale(const struct quant_group *g, uint32_t half);
float quant_minimum(enum dtype type, const struct quant_group *g);

/* Group number g of a row as values: a rounding for the product and one for the sum. */
void quant_widen(enum dtype type, const uint8_t *row, size_t g, float values[CONTRACT_GROUP]);

#endif
