/* pack.h - weights in panels of 16 outputs, for backends whose lanes are outputs.
 * Panel layouts, k ascending, lane o being output 16 * panel + o (outputs past
 * n_out are zeros):
 *   F32, F16: [n_in][16] in their own type.
 *   BF16: [n_in / 2][16][2], so that both of a pair are widened by one instruction each.
 *   Q8_0: [group][8][16][4] bytes u, slice j holding k = 4j .. 4j + 3.
 *   Other quantised formats (u, d, m and their factors as in quantised.h):
 *         [group][4][16][4] bytes, slice j of the group in the low nibbles and
 *         slice j + 4 in the high ones;
 *         the fifth bits: [group][16][4] bytes, bit j being that of slice j;
 *         or the upper two: [group][2][16][4] bytes, bits 2i and 2i + 1 of vector v
 *         being those of slice 4v + i.
 *   Then [block][16] f16 d, [block][16] f16 m, and for super-blocks
 *         [group][halves][16] int8 factors of d and [group][16] uint8 factors of m.
 * A panel's size is rounded up to 64 bytes. */
#ifndef BATON_ENGINE_PACK_H
#define BATON_ENGINE_PACK_H

#include "engine/backend.h"
#include "engine/quantised.h"

size_t pack_bytes(const struct tensor *t, bool f32_math);
void pack_describe(const struct tensor *t, bool f32_math, uint8_t *dst, struct matrix *out);
void pack_panel(const struct tensor *t, const struct matrix *m, uint32_t panel, float *row);

/* Where the parts of a quantised panel begin, and bytes of one group in each. */
struct pack_places {
    size_t low_bytes, high_bytes;
    size_t high, d, m, d_factors, m_factors, end;
};

static inline struct pack_places pack_places(enum dtype type, size_t groups)
{
    const size_t blocks = quant_is_super(type) ? groups / QUANT_SUPER_GROUPS : groups;
    const size_t block_bytes = blocks * PANEL * sizeof(uint16_t);
    struct pack_places at = {
        .low_bytes = CONTRACT_GROUP * PANEL * (quant_bits(type) == 8 ? 8 : 4) / 8,
        .high_bytes = quant_bits(type) == 8 ? 0 : CONTRACT_GROUP * PANEL * (quant_bits(type) - 4) / 8,
    };
    at.high = groups * at.low_bytes;
    at.d = at.high + groups * at.high_bytes;
    at.m = at.d + block_bytes;
    at.d_factors = at.m + (quant_has_minimum(type) ? block_bytes : 0);
    at.m_factors = at.d_factors + (quant_is_super(type) ? groups * quant_halves(type) * PANEL : 0);
    at.end = at.m_factors + (quant_is_super(type) && quant_has_minimum(type) ? groups * PANEL : 0);
    return at;
}

#endif
