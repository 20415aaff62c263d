/* activations.h - rows of inputs as the products want them.
 * A backend fills and reads the buffers in a layout of its own; whoever drives it
 * only needs to know that rows are divided in tiles: a call for rows [r0, r1)
 * must begin at a multiple of ACT_TILE and end at one or at n_rows. */
#ifndef BATON_ENGINE_ACTIVATIONS_H
#define BATON_ENGINE_ACTIVATIONS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/contract.h"

#define ACT_TILE   12u
#define ACT_BIASES 3u /* -8 sum(q), -128 sum(q), and -8 times the sum of the first 16 */

/* Used as a set; INT8 and INT16 share their buffers and are not prepared together. */
enum product_rule { RULE_F32 = 1, RULE_INT8 = 2, RULE_INT16 = 4, RULE_BF16 = 8 };

struct activations {
    uint32_t n_rows, n_in;
    float *f32;     /* [n_rows * n_in]                                            */
    int8_t *q;      /* [n_rows * n_in]; INT16: the high bytes                     */
    int8_t *q_low;  /* [n_rows * n_in], INT16 only: q = 256 * high + low          */
    float *scale;   /* [n_rows * n_in / 32 * 2]: dx and dx * sum(q) of each group */
    int32_t *bias;  /* [n_rows * n_in / 32 * ACT_BIASES]: of each group            */
    uint16_t *bf16; /* [n_rows][act_bf16_stride(n_in)], class amx only             */
};

/* Values of one row of bf16: zeros fill the last step. */
static inline size_t act_bf16_stride(size_t n_in)
{
    return (n_in + CONTRACT_STEP - 1) / CONTRACT_STEP * CONTRACT_STEP;
}

/* Rows of the tile that begins where rows_left rows are left. */
static inline uint32_t act_tile_rows(uint32_t rows_left)
{
    return rows_left >= 12 ? 12 : rows_left >= 8 ? 8 : rows_left >= 4 ? 4 : rows_left >= 2 ? 2 : 1;
}

#endif
