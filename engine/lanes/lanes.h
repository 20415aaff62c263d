/* lanes.h - one vector of float32 as wide as this file is compiled for, so that a
 * kernel is written once: 16 lanes with AVX-512, 8 with AVX2. Every function is one
 * rounding in each lane, or none. engine/CMakeLists.txt compiles the sources of this
 * folder once for each width; ISA(noun) is what they call what others see of them. */
#ifndef BATON_ENGINE_LANES_LANES_H
#define BATON_ENGINE_LANES_LANES_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "engine/backend.h"
#include "engine/math_f32.h"
#include "engine/unroll.h"

/* vec: LANES floats; vec_i32: LANES int32; vec_16: LANES values of 16 bits;
 * vec_mask: a truth for each lane; vec_part: the first lanes, from none to all. */
#ifdef __AVX512F__
#define ISA(noun) avx512_##noun
#define ISA_NAME  "avx512"
#define BACKEND   backend_avx512
#include "engine/lanes/lanes_avx512.h"
#else
#define ISA(noun) avx2_##noun
#define ISA_NAME  "avx2"
#define BACKEND   backend_avx2
#include "engine/lanes/lanes_avx2.h"
#endif

#define PANEL_VECTORS (PANEL / LANES)

/* From here on: gcc would load it again for each use, and loads are what is short. */
static inline vec vec_in_register(vec x)
{
    __asm__("" : "+v"(x));
    return x;
}

/* math_exp_slope of math_f32.h. */
static inline vec vec_exp_slope(vec r)
{
    vec p = vec_fma(vec_set1(MATH_EXP_C7), r, vec_set1(MATH_EXP_C6));
    p = vec_fma(p, r, vec_set1(MATH_EXP_C5));
    p = vec_fma(p, r, vec_set1(MATH_EXP_C4));
    p = vec_fma(p, r, vec_set1(MATH_EXP_C3));
    p = vec_fma(p, r, vec_set1(MATH_EXP_C2));
    return vec_fma(p, r, vec_set1(1.0f));
}

/* math_exp and math_silu of math_f32.h, the same operations in the same order. */
static inline vec vec_exp(vec x)
{
    const vec magic = vec_set1(MATH_ROUND_MAGIC);
    const vec one = vec_set1(1.0f);
    const vec least = vec_set1(MATH_EXP_MIN);
    vec top = vec_min(x, vec_set1(MATH_EXP_MAX));
    vec c = vec_max(top, least);
    vec n = vec_sub(vec_add(vec_mul(c, vec_set1(MATH_LOG2E)), magic), magic);
    vec r = vec_fma(n, vec_set1(-MATH_LN2_HI), c);
    r = vec_fma(n, vec_set1(-MATH_LN2_LO), r);
    vec p = vec_exp_slope(r);
    p = vec_fma(p, r, one);
    return vec_mul_or_zero(vec_not_less(top, least), p, vec_power_of_2(n));
}

/* math_tanh, math_gelu and math_soft_cap, likewise. */
static inline vec vec_tanh(vec x)
{
    const vec magic = vec_set1(MATH_ROUND_MAGIC);
    const vec one = vec_set1(1.0f);
    vec c = vec_max(vec_min(x, vec_set1(MATH_TANH_MAX)), vec_set1(-MATH_TANH_MAX));
    vec y = vec_add(c, c);
    vec n = vec_sub(vec_add(vec_mul(y, vec_set1(MATH_LOG2E)), magic), magic);
    vec r = vec_fma(n, vec_set1(-MATH_LN2_HI), y);
    r = vec_fma(n, vec_set1(-MATH_LN2_LO), r);
    vec p = vec_exp_slope(r);
    vec scale = vec_power_of_2(n);
    vec m = vec_fma(scale, vec_mul(p, r), vec_sub(scale, one));
    return vec_div(m, vec_add(m, vec_set1(2.0f)));
}

static inline vec vec_gelu(vec x)
{
    vec cube = vec_mul(vec_mul(x, x), x);
    vec inner = vec_mul(vec_set1(MATH_GELU_SLOPE), vec_fma(vec_set1(MATH_GELU_CUBE), cube, x));
    return vec_mul(vec_mul(vec_set1(0.5f), x), vec_add(vec_set1(1.0f), vec_tanh(inner)));
}

static inline vec vec_soft_cap(vec x, vec cap)
{
    return vec_mul(cap, vec_tanh(vec_div(x, cap)));
}

static inline vec vec_silu(vec x)
{
    return vec_div(x, vec_add(vec_set1(1.0f), vec_exp(vec_negate(x))));
}

#endif
