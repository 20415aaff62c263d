/* unpack.h - the quantised panels of pack.h, a group at a time: weights as signed bytes, scales as
 * float32. The type is a constant wherever these are inlined. */
#ifndef BATON_ENGINE_AMX_UNPACK_H
#define BATON_ENGINE_AMX_UNPACK_H

#include "engine/lanes/lanes.h"
#include "engine/pack.h"
#include "engine/unroll.h"

#define SLICES      8u /* of 4 values in a group */
#define SLICE_BYTES 64u

/* Slice s of a group as signed bytes. low and high are the group's in the panel. */
ALWAYS_INLINE __m512i unpack_slice(const enum dtype type, const uint8_t *low, const uint8_t *high, uint32_t s)
{
    const uint32_t bits = quant_bits(type);
    const __m512i offset = _mm512_set1_epi8((char)quant_offset(type));
    if (bits == 8)
        return _mm512_sub_epi8(_mm512_loadu_si512(low + (size_t)s * SLICE_BYTES), offset);
    __m512i w = _mm512_loadu_si512(low + (size_t)s % 4 * SLICE_BYTES);
    w = _mm512_and_si512(s < 4 ? w : _mm512_srli_epi16(w, 4), _mm512_set1_epi8(15));
    if (bits > 4) {
        const uint32_t at = s * (bits - 4);
        __m512i upper = _mm512_loadu_si512(high + (size_t)(at / 8) * SLICE_BYTES);
        upper = _mm512_srlv_epi16(upper, _mm512_set1_epi16((short)(at % 8)));
        upper = _mm512_and_si512(upper, _mm512_set1_epi8((char)((1u << (bits - 4)) - 1)));
        w = _mm512_or_si512(w, _mm512_slli_epi16(upper, 4));
    }
    return _mm512_sub_epi8(w, offset);
}

ALWAYS_INLINE __m512 widen_halves(const uint8_t *src)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)src));
}

ALWAYS_INLINE __m128i load_factors(const uint8_t *src)
{
    return _mm_loadu_si128((const __m128i *)(const void *)src);
}

/* Scale of half h of group g for each output of a panel. */
ALWAYS_INLINE __m512 unpack_scale(const enum dtype type, const uint8_t *panel, const struct pack_places *at, size_t g,
                                  uint32_t h)
{
    const size_t block = (quant_is_super(type) ? g / QUANT_SUPER_GROUPS : g) * PANEL * sizeof(uint16_t);
    const __m512 d = widen_halves(panel + at->d + block);
    if (!quant_is_super(type))
        return d;
    const __m128i factors = load_factors(panel + at->d_factors + (g * quant_halves(type) + h) * PANEL);
    return _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(factors)));
}

/* Likewise the group's minimum, of formats that have one. */
ALWAYS_INLINE __m512 unpack_minimum(const enum dtype type, const uint8_t *panel, const struct pack_places *at, size_t g)
{
    const size_t block = (quant_is_super(type) ? g / QUANT_SUPER_GROUPS : g) * PANEL * sizeof(uint16_t);
    const __m512 m = widen_halves(panel + at->m + block);
    if (!quant_is_super(type))
        return m;
    const __m128i factors = load_factors(panel + at->m_factors + g * PANEL);
    return _mm512_xor_ps(_mm512_mul_ps(m, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(factors))), _mm512_set1_ps(-0.0f));
}

#endif
