/* math_avx512.h - math_f32.h over 16 lanes, the same operations in the same order. */
#ifndef BATON_ENGINE_MATH_AVX512_H
#define BATON_ENGINE_MATH_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#include "engine/math_f32.h"

static inline __m512 math_exp_avx512(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(MATH_ROUND_MAGIC);
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 least = _mm512_set1_ps(MATH_EXP_MIN);
    __m512 top = _mm512_min_ps(x, _mm512_set1_ps(MATH_EXP_MAX));
    __m512 c = _mm512_max_ps(top, least);
    __m512 n = _mm512_sub_ps(_mm512_add_ps(_mm512_mul_ps(c, _mm512_set1_ps(MATH_LOG2E)), magic), magic);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-MATH_LN2_HI), c);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-MATH_LN2_LO), r);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(MATH_EXP_C7), r, _mm512_set1_ps(MATH_EXP_C6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(MATH_EXP_C5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(MATH_EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(MATH_EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(MATH_EXP_C2));
    p = _mm512_fmadd_ps(p, r, one);
    p = _mm512_fmadd_ps(p, r, one);
    __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
    __mmask16 normal = _mm512_cmp_ps_mask(top, least, _CMP_NLT_UQ);
    return _mm512_maskz_mul_ps(normal, p, scale);
}

static inline __m512 math_silu_avx512(__m512 x)
{
    __m512 negative = _mm512_xor_ps(x, _mm512_set1_ps(-0.0f));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), math_exp_avx512(negative)));
}

/* The lanes of the last, partial vector of n values; all lanes when n is a multiple of 16. */
static inline __mmask16 math_tail_mask(uint32_t n)
{
    return (__mmask16)(n % 16 == 0 ? 0xffff : (1u << n % 16) - 1);
}

/* 16 values of the cache or a packed weight, widened exactly. */
static inline __m512 math_widen_bf16(__m256i x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

#endif
