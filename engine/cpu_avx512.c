/* The AVX-512 backend: packed products, and row operations over 16 lanes. */
#include <immintrin.h>
#include <string.h>

#include "engine/attention_avx512.h"
#include "engine/backend.h"
#include "engine/cpu_avx512_products.h"
#include "engine/math_avx512.h"
#include "engine/pack.h"

static void avx512_prepare(struct activations *a, unsigned rules, uint32_t row0, uint32_t n, const float *x)
{
    if (rules & RULE_F32)
        avx512_prepare_f32(a, row0, n, x);
    if (rules & (RULE_INT8 | RULE_INT16))
        avx512_prepare_int(a, rules & RULE_INT16, row0, n, x);
}

static void avx512_product(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                           uint32_t panel0, uint32_t panel1, float *out, size_t stride)
{
    if (m->rule == RULE_F32)
        avx512_product_f32(m, a, row0, row1, panel0, panel1, out, stride);
    else
        avx512_product_int(m, a, row0, row1, panel0, panel1, out, stride);
}

/* lane l += lane l + w for w = 8, 4, 2, 1. */
static float sum_lanes(__m512 x)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    b = _mm_add_ss(b, _mm_shuffle_ps(b, b, 1));
    return _mm_cvtss_f32(b);
}

/* The lanes of vector i of n values. */
static __mmask16 lanes_at(uint32_t i, uint32_t n)
{
    return n - i >= 16 ? (__mmask16)0xffff : math_tail_mask(n);
}

static void avx512_rms_norm(const float *x, const float *weight, float eps, uint32_t n, float *out)
{
    __m512 lanes = _mm512_setzero_ps();
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_at(i, n);
        __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        lanes = _mm512_mask3_fmadd_ps(v, v, lanes, mask);
    }
    __m128 mean = _mm_set_ss(sum_lanes(lanes) / (float)n + eps);
    __m512 r = _mm512_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(mean)));
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_at(i, n);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), r);
        _mm512_mask_storeu_ps(out + i, mask, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, weight + i)));
    }
}

static void rope_halves(float *x, const float *cosines, const float *sines, uint32_t half)
{
    for (uint32_t i = 0; i < half; i += 16) {
        __mmask16 mask = lanes_at(i, half);
        __m512 a = _mm512_maskz_loadu_ps(mask, x + i);
        __m512 b = _mm512_maskz_loadu_ps(mask, x + half + i);
        __m512 sin_a = _mm512_mul_ps(b, _mm512_maskz_loadu_ps(mask, sines + i));
        __m512 sin_b = _mm512_mul_ps(a, _mm512_maskz_loadu_ps(mask, sines + half + i));
        _mm512_mask_storeu_ps(x + i, mask, _mm512_fmadd_ps(a, _mm512_maskz_loadu_ps(mask, cosines + i), sin_a));
        _mm512_mask_storeu_ps(x + half + i, mask,
                              _mm512_fmadd_ps(b, _mm512_maskz_loadu_ps(mask, cosines + half + i), sin_b));
    }
}

static void rope_pairs(float *x, const float *cosines, const float *sines, uint32_t dim)
{
    for (uint32_t i = 0; i < dim; i += 16) {
        __mmask16 mask = lanes_at(i, dim);
        __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        __m512 partner = _mm512_mul_ps(_mm512_permute_ps(v, 0xb1), _mm512_maskz_loadu_ps(mask, sines + i));
        _mm512_mask_storeu_ps(x + i, mask, _mm512_fmadd_ps(v, _mm512_maskz_loadu_ps(mask, cosines + i), partner));
    }
}

static void avx512_rope(float *x, const float *cosines, const float *sines, uint32_t dim, bool interleaved)
{
    if (interleaved)
        rope_pairs(x, cosines, sines, dim);
    else
        rope_halves(x, cosines, sines, dim / 2);
}

static void avx512_scale(float *x, float factor, uint32_t n)
{
    __m512 f = _mm512_set1_ps(factor);
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_at(i, n);
        _mm512_mask_storeu_ps(x + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), f));
    }
}

static void avx512_add(float *x, const float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_at(i, n);
        __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_maskz_loadu_ps(mask, y + i));
        _mm512_mask_storeu_ps(x + i, mask, sum);
    }
}

static void avx512_silu_mul(float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_at(i, n);
        __m512 g = math_silu_avx512(_mm512_maskz_loadu_ps(mask, gate + i));
        _mm512_mask_storeu_ps(gate + i, mask, _mm512_mul_ps(g, _mm512_maskz_loadu_ps(mask, up + i)));
    }
}

/* Nearest even; a NaN keeps its top payload bits and becomes quiet. */
static __m256i narrow_bf16(__m512 x)
{
    __m512i bits = _mm512_castps_si512(x);
    __m512i high = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i round = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    __m512i out = _mm512_mask_or_epi32(_mm512_srli_epi32(round, 16), nan, high, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(out);
}

static void avx512_kv_store(enum dtype type, const float *x, void *dst, uint32_t n)
{
    uint16_t *half = dst;
    if (type == DTYPE_F32) {
        memcpy(dst, x, n * sizeof *x);
        return;
    }
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 mask = lanes_at(i, n);
        __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        __m256i bits =
            type == DTYPE_BF16 ? narrow_bf16(v) : _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_mask_storeu_epi16(half + i, mask, bits);
    }
}

const char *backend_avx512_missing(void)
{
    if (!__builtin_cpu_supports("avx512f"))
        return "avx512f";
    if (!__builtin_cpu_supports("avx512bw"))
        return "avx512bw";
    if (!__builtin_cpu_supports("avx512vl"))
        return "avx512vl";
    if (!__builtin_cpu_supports("avx512dq"))
        return "avx512dq";
    return __builtin_cpu_supports("avx512vnni") ? NULL : "avx512_vnni";
}

const struct backend backend_avx512 = {
    .name = "avx512",
    .pack_bytes = pack_bytes,
    .pack_describe = pack_describe,
    .pack_panel = pack_panel,
    .prepare = avx512_prepare,
    .product = avx512_product,
    .rms_norm = avx512_rms_norm,
    .rope = avx512_rope,
    .scale = avx512_scale,
    .add = avx512_add,
    .silu_mul = avx512_silu_mul,
    .kv_store = avx512_kv_store,
    .attend_scratch_bytes = attention_avx512_scratch_bytes,
    .attend_rows = attention_avx512_rows,
    .attend = attention_avx512,
};
