/* lanes_avx2.h - lanes.h with AVX2, FMA and F16C; included by it alone. */
#ifndef BATON_ENGINE_LANES_LANES_AVX2_H
#define BATON_ENGINE_LANES_LANES_AVX2_H

#define LANES 8u

typedef __m256 vec;
typedef __m256i vec_i32;
typedef __m128i vec_16;
typedef __m256 vec_mask;
typedef uint32_t vec_part; /* how many */

/* The lanes that values i .. n - 1 fill. */
static inline vec_part vec_part_at(uint32_t i, uint32_t n)
{
    return i >= n ? 0 : n - i >= LANES ? LANES : n - i;
}

static inline __m256i vec_part_mask(vec_part part)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)part), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vec vec_zero(void)
{
    return _mm256_setzero_ps();
}

static inline vec vec_set1(float x)
{
    return _mm256_set1_ps(x);
}

static inline vec vec_load(const float *x)
{
    return _mm256_loadu_ps(x);
}

static inline void vec_store(float *x, vec v)
{
    _mm256_storeu_ps(x, v);
}

/* Zero in the other lanes. Whole vectors are kept apart: masked accesses are slow. */
static inline vec vec_load_part(const float *x, vec_part part)
{
    return part == LANES ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, vec_part_mask(part));
}

static inline void vec_store_part(float *x, vec v, vec_part part)
{
    if (part == LANES)
        _mm256_storeu_ps(x, v);
    else
        _mm256_maskstore_ps(x, vec_part_mask(part), v);
}

static inline void vec_store_where(float *x, vec v, vec_mask where)
{
    _mm256_maskstore_ps(x, _mm256_castps_si256(where), v);
}

static inline vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

static inline vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

static inline vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

static inline vec vec_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}

/* a * b + c */
static inline vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

/* a < b ? a : b */
static inline vec vec_min(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}

/* a > b ? a : b */
static inline vec vec_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}

static inline vec vec_abs(vec x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

static inline vec vec_negate(vec x)
{
    return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
}

/* Each even lane and the next one change places. */
static inline vec vec_swap_pairs(vec x)
{
    return _mm256_permute_ps(x, 0xb1);
}

/* !(a < b), so true where one is a NaN. */
static inline vec_mask vec_not_less(vec a, vec b)
{
    return _mm256_cmp_ps(a, b, _CMP_NLT_UQ);
}

static inline vec vec_mul_or_zero(vec_mask where, vec a, vec b)
{
    return _mm256_and_ps(where, _mm256_mul_ps(a, b));
}

/* where ? max(a, b) : b */
static inline vec vec_max_where(vec_mask where, vec a, vec b)
{
    return _mm256_blendv_ps(b, _mm256_max_ps(a, b), where);
}

/* where ? a + b : a */
static inline vec vec_add_where(vec_mask where, vec a, vec b)
{
    return _mm256_blendv_ps(a, _mm256_add_ps(a, b), where);
}

/* 2^n for whole n between -126 and 127. */
static inline vec vec_power_of_2(vec n)
{
    vec_i32 exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

static inline vec_i32 vec_load_i32(const int32_t *x)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)x);
}

/* from <= b < end */
static inline vec_mask vec_between_i32(vec_i32 from, vec_i32 end, int32_t b)
{
    __m256i at = _mm256_set1_epi32(b);
    return _mm256_castsi256_ps(_mm256_andnot_si256(_mm256_cmpgt_epi32(from, at), _mm256_cmpgt_epi32(end, at)));
}

static inline vec_mask vec_above_i32(vec_i32 a, int32_t b)
{
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, _mm256_set1_epi32(b)));
}

static inline vec_16 vec_load_16(const void *x)
{
    return _mm_loadu_si128(x);
}

static inline vec_16 vec_load_16_part(const void *x, vec_part part)
{
    if (part == LANES)
        return _mm_loadu_si128(x);
    vec_16 v = _mm_setzero_si128();
    memcpy(&v, x, part * sizeof(uint16_t));
    return v;
}

static inline void vec_store_16_part(void *x, vec_16 v, vec_part part)
{
    if (part == LANES)
        _mm_storeu_si128(x, v);
    else
        memcpy(x, &v, part * sizeof(uint16_t));
}

/* Signed bytes as floats; zero in the other lanes. */
static inline vec vec_load_8_part(const int8_t *x, vec_part part)
{
    int64_t bytes = 0;
    memcpy(&bytes, x, part);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(bytes)));
}

/* Nearest even; within +-127. */
static inline void vec_store_8_part(int8_t *x, vec v, vec_part part)
{
    __m256i wide = _mm256_cvtps_epi32(v);
    __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    int64_t bytes = _mm_cvtsi128_si64(_mm_packs_epi16(half, half));
    memcpy(x, &bytes, part);
}

static inline vec vec_widen_f16(vec_16 x)
{
    return _mm256_cvtph_ps(x);
}

/* Lane j of vector i becomes lane i of vector j. */
static inline void vec_turn_i32(vec_i32 m[8])
{
    vec_i32 t[8];
    vec_i32 u[8];
    UNROLL
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(m[i], m[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(m[i], m[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL
    for (int j = 0; j < 4; j++) {
        m[j] = _mm256_permute2x128_si256(u[j], u[4 + j], 0x20);
        m[4 + j] = _mm256_permute2x128_si256(u[j], u[4 + j], 0x31);
    }
}

/* Of pairs of bfloat16 in 32 bits, the low and the high ones. */
static inline vec vec_widen_low_bf16(vec_i32 pairs)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}

static inline vec vec_widen_high_bf16(vec_i32 pairs)
{
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int32_t)0xffff0000u)));
}

static inline vec vec_widen_bf16(vec_16 x)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}

static inline vec_16 vec_narrow_f16(vec x)
{
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* Nearest even; a NaN keeps its top payload bits and becomes quiet. */
static inline vec_16 vec_narrow_bf16(vec x)
{
    __m256i bits = _mm256_castps_si256(x);
    __m256i high = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i round = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256i out = _mm256_blendv_epi8(_mm256_srli_epi32(round, 16), quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(out), _mm256_extracti128_si256(out, 1));
}

/* Lanes 0 .. 7 and 8 .. 15 of 16. */
static inline __m256 vec_halves_added(const vec x[2])
{
    return _mm256_add_ps(x[0], x[1]);
}

#endif
