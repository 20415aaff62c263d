/* cpu_avx2_products.h - quantised products of the AVX2 backend over packed panels
 * (pack.h). Activations stand in tiles of act_tile_rows() rows:
 *   q and q_low [k / 4][row][4], scale and bias [group][2][row].
 *
 * Weights are taken as nibbles, 0 .. 15, so that the products of bytes with
 * activation bytes (vpmaddubsw, which saturates at 16 bits) can be summed over a
 * whole group in 16 bits without overflow: 16 * 15 * 128 = 30720. Q8_0 is two
 * nibbles, of which the high one counts sixteen times. The sums are integers, so
 * their order does not matter to the contract. */
#ifndef BATON_ENGINE_CPU_AVX2_PRODUCTS_H
#define BATON_ENGINE_CPU_AVX2_PRODUCTS_H

#include "engine/backend.h"

/* Arguments as prepare() and product() of backend.h; wide: RULE_INT16. */
void avx2_prepare_int(struct activations *a, bool wide, uint32_t row0, uint32_t n, const float *x);
void avx2_product_int(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                      uint32_t panel0, uint32_t panel1, float *out, size_t stride);

#endif
