/* lanes_avx512.h - lanes.h with AVX-512; included by it alone. */
#ifndef BATON_ENGINE_LANES_LANES_AVX512_H
#define BATON_ENGINE_LANES_LANES_AVX512_H

#define LANES 16u

typedef __m512 vec;
typedef __m512i vec_i32;
typedef __m256i vec_16;
typedef __mmask16 vec_mask;
typedef __mmask16 vec_part;

/* The lanes that values i .. n - 1 fill. */
static inline vec_part vec_part_at(uint32_t i, uint32_t n)
{
    return (vec_part)(i >= n ? 0 : n - i >= LANES ? 0xffff : (1u << (n - i)) - 1);
}

static inline vec vec_zero(void)
{
    return _mm512_setzero_ps();
}

static inline vec vec_set1(float x)
{
    return _mm512_set1_ps(x);
}

static inline vec vec_load(const float *x)
{
    return _mm512_loadu_ps(x);
}

static inline void vec_store(float *x, vec v)
{
    _mm512_storeu_ps(x, v);
}

/* Zero in the other lanes. */
static inline vec vec_load_part(const float *x, vec_part part)
{
    return _mm512_maskz_loadu_ps(part, x);
}

static inline void vec_store_part(float *x, vec v, vec_part part)
{
    _mm512_mask_storeu_ps(x, part, v);
}

static inline void vec_store_where(float *x, vec v, vec_mask where)
{
    _mm512_mask_storeu_ps(x, where, v);
}

static inline vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

static inline vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

static inline vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

static inline vec vec_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}

/* a * b + c */
static inline vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* a < b ? a : b */
static inline vec vec_min(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}

/* a > b ? a : b */
static inline vec vec_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}

static inline vec vec_abs(vec x)
{
    return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x);
}

static inline vec vec_negate(vec x)
{
    return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f));
}

/* Each even lane and the next one change places. */
static inline vec vec_swap_pairs(vec x)
{
    return _mm512_permute_ps(x, 0xb1);
}

/* !(a < b), so true where one is a NaN. */
static inline vec_mask vec_not_less(vec a, vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ);
}

static inline vec vec_mul_or_zero(vec_mask where, vec a, vec b)
{
    return _mm512_maskz_mul_ps(where, a, b);
}

/* where ? max(a, b) : b */
static inline vec vec_max_where(vec_mask where, vec a, vec b)
{
    return _mm512_mask_max_ps(b, where, a, b);
}

/* where ? a + b : a */
static inline vec vec_add_where(vec_mask where, vec a, vec b)
{
    return _mm512_mask_add_ps(a, where, a, b);
}

/* 2^n for whole n between -126 and 127. */
static inline vec vec_power_of_2(vec n)
{
    vec_i32 exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}

static inline vec_i32 vec_load_i32(const int32_t *x)
{
    return _mm512_loadu_si512(x);
}

/* from <= b < end */
static inline vec_mask vec_between_i32(vec_i32 from, vec_i32 end, int32_t b)
{
    __m512i at = _mm512_set1_epi32(b);
    return _mm512_mask_cmpgt_epi32_mask(_mm512_cmple_epi32_mask(from, at), end, at);
}

static inline vec_mask vec_above_i32(vec_i32 a, int32_t b)
{
    return _mm512_cmpgt_epi32_mask(a, _mm512_set1_epi32(b));
}

static inline vec_16 vec_load_16(const void *x)
{
    return _mm256_loadu_si256(x);
}

static inline vec_16 vec_load_16_part(const void *x, vec_part part)
{
    return _mm256_maskz_loadu_epi16(part, x);
}

static inline void vec_store_16_part(void *x, vec_16 v, vec_part part)
{
    _mm256_mask_storeu_epi16(x, part, v);
}

/* Signed bytes as floats; zero in the other lanes. */
static inline vec vec_load_8_part(const int8_t *x, vec_part part)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(part, x)));
}

/* Nearest even; within +-127. */
static inline void vec_store_8_part(int8_t *x, vec v, vec_part part)
{
    _mm_mask_storeu_epi8(x, part, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}

static inline vec vec_widen_f16(vec_16 x)
{
    return _mm512_cvtph_ps(x);
}

/* Lane j of vector i becomes lane i of vector j. */
static inline void vec_turn_i32(vec_i32 m[16])
{
    vec_i32 t[16];
    vec_i32 u[16];
    UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(m[i], m[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(m[i], m[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 16; i += 4) {
        u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    /* Quarter q of u[4 * r + j] holds column 4 * q + j of rows 4 * r to 4 * r + 3. */
    UNROLL
    for (int j = 0; j < 4; j++) {
        vec_i32 even_low = _mm512_shuffle_i32x4(u[j], u[4 + j], 0x88);
        vec_i32 even_high = _mm512_shuffle_i32x4(u[8 + j], u[12 + j], 0x88);
        vec_i32 odd_low = _mm512_shuffle_i32x4(u[j], u[4 + j], 0xdd);
        vec_i32 odd_high = _mm512_shuffle_i32x4(u[8 + j], u[12 + j], 0xdd);
        m[j] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
        m[4 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
        m[8 + j] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
        m[12 + j] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
    }
}

/* Of pairs of bfloat16 in 32 bits, the low and the high ones. */
static inline vec vec_widen_low_bf16(vec_i32 pairs)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}

static inline vec vec_widen_high_bf16(vec_i32 pairs)
{
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int32_t)0xffff0000u)));
}

static inline vec vec_widen_bf16(vec_16 x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

static inline vec_16 vec_narrow_f16(vec x)
{
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* Nearest even; a NaN keeps its top payload bits and becomes quiet. */
static inline vec_16 vec_narrow_bf16(vec x)
{
    __m512i bits = _mm512_castps_si512(x);
    __m512i high = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i round = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    __m512i out = _mm512_mask_or_epi32(_mm512_srli_epi32(round, 16), nan, high, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(out);
}

/* Lanes 0 .. 7 and 8 .. 15 of 16. */
static inline __m256 vec_halves_added(const vec x[1])
{
    return _mm256_add_ps(_mm512_castps512_ps256(x[0]), _mm512_extractf32x8_ps(x[0], 1));
}

#endif
