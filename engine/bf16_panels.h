/* bf16_panels.h - BF16 weights in panels of 16 outputs for tile products:
 * [n_in / 32][16][16][2], pair i of a step holding k = 2i and 2i + 1 of each output.
 * Outputs past n_out and values past n_in are zeros. Other types are packed as pack.h
 * says. */
#ifndef BATON_ENGINE_BF16_PANELS_H
#define BATON_ENGINE_BF16_PANELS_H

#include "engine/backend.h"

size_t bf16_panels_bytes(const struct tensor *t, bool f32_math);
void bf16_panels_describe(const struct tensor *t, bool f32_math, uint8_t *dst, struct matrix *out);
void bf16_panels_pack(const struct tensor *t, const struct matrix *m, uint32_t panel, float *row);

#endif
