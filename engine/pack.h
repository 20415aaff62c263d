/* pack.h - weights in panels of 16 outputs, for backends whose lanes are outputs.
 * Panel layouts, k ascending, lane o being output 16 * panel + o (outputs past
 * n_out are zeros):
 *   F32, F16, BF16: [n_in][16] in their own type.
 *   Q8_0: [group][8][16][4] bytes, value + 128, slice j holding k = 4j .. 4j + 3;
 *         then [group][16] f16 scales.
 *   Q4_0, Q4_1: [group][4][16][4] bytes, slice j holding k = 4j + b in the low
 *         nibbles and k = 16 + 4j + b in the high ones; then [group][16] f16
 *         scales, then for Q4_1 [group][16] f16 minima.
 * A panel's size is rounded up to 64 bytes. */
#ifndef BATON_ENGINE_PACK_H
#define BATON_ENGINE_PACK_H

#include "engine/backend.h"

size_t pack_bytes(const struct tensor *t, bool f32_math);
void pack_describe(const struct tensor *t, bool f32_math, uint8_t *dst, struct matrix *out);
void pack_panel(const struct tensor *t, const struct matrix *m, uint32_t panel, float *row);

/* Bytes of one group of 16 outputs without its scales; 0 for float types. */
size_t pack_group_bytes(enum dtype type);

#endif
