/* cpu_avx512_products.h - products of the AVX-512 backend over packed panels
 * (pack.h). Activations stand in tiles of act_tile_rows() rows, so that one
 * weight vector in a register meets all rows of the tile:
 *   q and q_low [k / 4][row][4], scale and bias [group][2][row], f32 [k][row]. */
#ifndef BATON_ENGINE_CPU_AVX512_PRODUCTS_H
#define BATON_ENGINE_CPU_AVX512_PRODUCTS_H

#include "engine/backend.h"

void avx512_prepare_int(struct activations *a, bool wide, uint32_t row0, uint32_t n, const float *x);
void avx512_prepare_f32(struct activations *a, uint32_t row0, uint32_t n, const float *x);

/* Both take rows that begin a tile; arguments as product() of backend.h. */
void avx512_product_int(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                        uint32_t panel0, uint32_t panel1, float *out, size_t stride);
void avx512_product_f32(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                        uint32_t panel0, uint32_t panel1, float *out, size_t stride);

/* Outputs of the panel that exist. */
static inline uint16_t panel_mask(const struct matrix *m, uint32_t panel)
{
    uint32_t left = m->n_out - panel * PANEL;
    return (uint16_t)(left >= PANEL ? 0xffff : (1u << left) - 1);
}

/* Register tiles are written as loops over constants, which must vanish. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define ALWAYS_INLINE static inline __attribute__((always_inline))

#endif
