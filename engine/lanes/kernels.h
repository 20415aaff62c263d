/* kernels.h - what the sources of one instruction set give one another.
 * Products run over packed panels (pack.h). Activations stand in tiles of
 * act_tile_rows() rows, so that one weight vector in a register meets all rows of
 * the tile:
 *   q and q_low [k / 4][row][4], scale and bias [group][2][row], f32 [k][row].
 * The integer products stand in cpu_avx512_integer.c and cpu_avx2_integer.c. */
#ifndef BATON_ENGINE_LANES_KERNELS_H
#define BATON_ENGINE_LANES_KERNELS_H

#include "engine/lanes/lanes.h"

void ISA(prepare_f32)(struct activations *a, uint32_t row0, uint32_t n, const float *x);
void ISA(prepare_int)(struct activations *a, bool wide, uint32_t row0, uint32_t n, const float *x);
/* Both take rows that begin a tile; arguments as product() of backend.h. */
void ISA(product_int)(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                      uint32_t panel0, uint32_t panel1, float *out, size_t stride);
void ISA(product_f32)(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                      uint32_t panel0, uint32_t panel1, float *out, size_t stride);

/* Attention with queries as lanes: a (row, head) pair is a lane where scores, maxima
 * and sums are made, so each of them is a chain of its own; the products with V have
 * the head's dimension as lanes. K and V of a split are widened once and serve all
 * rows and heads of the item. */
size_t ISA(attend_scratch_bytes)(uint32_t head_dim, uint32_t group);
uint32_t ISA(attend_rows)(uint32_t group);
void ISA(attend)(const struct attention *a, const struct attention_item *item, void *scratch);
void ISA(attend_part)(const struct attention *a, const struct attention_item *item, const struct attention_part *part,
                      void *scratch);

#endif
