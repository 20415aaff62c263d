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

/* What the values of a format are made of. */
struct quant_form {
    uint32_t bits; /* of u; 0: not a quantised format */
    uint32_t offset;
    uint32_t halves; /* parts of a group that have a scale of their own: 1 or 2 */
    bool minimum;
    bool super; /* scales and minima are integer factors of those of a super-block */
};

static inline struct quant_form quant_form(enum dtype type)
{
    switch (type) {
    case DTYPE_Q8_0:
        return (struct quant_form){ .bits = 8, .offset = 128, .halves = 1 };
    case DTYPE_Q4_0:
        return (struct quant_form){ .bits = 4, .offset = 8, .halves = 1 };
    case DTYPE_Q4_1:
        return (struct quant_form){ .bits = 4, .halves = 1, .minimum = true };
    case DTYPE_Q5_0:
        return (struct quant_form){ .bits = 5, .offset = 16, .halves = 1 };
    case DTYPE_Q5_1:
        return (struct quant_form){ .bits = 5, .halves = 1, .minimum = true };
    case DTYPE_Q4_K:
        return (struct quant_form){ .bits = 4, .halves = 1, .minimum = true, .super = true };
    case DTYPE_Q5_K:
        return (struct quant_form){ .bits = 5, .halves = 1, .minimum = true, .super = true };
    case DTYPE_Q6_K:
        return (struct quant_form){ .bits = 6, .offset = 32, .halves = 2, .super = true };
    default:
        return (struct quant_form){ .bits = 0 };
    }
}

static inline bool dtype_is_quantised(enum dtype type)
{
    return quant_form(type).bits != 0;
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

#endif
