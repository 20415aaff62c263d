/* math_f32.h - binary32 functions with a fixed sequence of operations, so that
 * every build and every instruction set gives the same bits. */
#ifndef BATON_ENGINE_MATH_F32_H
#define BATON_ENGINE_MATH_F32_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Below MIN exp gives 0, above MAX it stays at exp(MAX), as it does for a NaN. */
#define MATH_EXP_MIN     -87.0f
#define MATH_EXP_MAX     88.0f
#define MATH_LOG2E       0x1.715476p+0f
#define MATH_LN2_HI      0x1.62e430p-1f
#define MATH_LN2_LO      -0x1.05c610p-29f
#define MATH_ROUND_MAGIC 12582912.0f /* 1.5 * 2^23: adding and subtracting it rounds to nearest even */

/* Taylor coefficients of exp, from 1/7! down: 2e-8 relative error on |r| <= ln(2)/2. */
#define MATH_EXP_C7 (1.0f / 5040.0f)
#define MATH_EXP_C6 (1.0f / 720.0f)
#define MATH_EXP_C5 (1.0f / 120.0f)
#define MATH_EXP_C4 (1.0f / 24.0f)
#define MATH_EXP_C3 (1.0f / 6.0f)
#define MATH_EXP_C2 0.5f

/* Nearest integer, ties to even, for |x| < 2^22. */
static inline float math_round(float x)
{
    return (x + MATH_ROUND_MAGIC) - MATH_ROUND_MAGIC;
}

/* (exp(r) - 1) / r of a small r. */
static inline float math_exp_slope(float r)
{
    float p = fmaf(MATH_EXP_C7, r, MATH_EXP_C6);
    p = fmaf(p, r, MATH_EXP_C5);
    p = fmaf(p, r, MATH_EXP_C4);
    p = fmaf(p, r, MATH_EXP_C3);
    p = fmaf(p, r, MATH_EXP_C2);
    return fmaf(p, r, 1.0f);
}

static inline float math_exp(float x)
{
    float top = x < MATH_EXP_MAX ? x : MATH_EXP_MAX;
    float c = top > MATH_EXP_MIN ? top : MATH_EXP_MIN;
    float n = math_round(c * MATH_LOG2E);
    float r = fmaf(n, -MATH_LN2_HI, c);
    r = fmaf(n, -MATH_LN2_LO, r);
    float p = math_exp_slope(r);
    p = fmaf(p, r, 1.0f);
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return top < MATH_EXP_MIN ? 0.0f : p * scale;
}

static inline float math_silu(float x)
{
    return x / (1.0f + math_exp(-x));
}

/* tanh is 1 to the last bit from here on. */
#define MATH_TANH_MAX 10.0f

/* m / (m + 2), m being exp(2x) - 1 = 2^n * (exp(r) - 1) + (2^n - 1), which keeps what small x have: 3e-7 relative
 * error. */
static inline float math_tanh(float x)
{
    float top = x < MATH_TANH_MAX ? x : MATH_TANH_MAX;
    float c = top > -MATH_TANH_MAX ? top : -MATH_TANH_MAX;
    float y = c + c;
    float n = math_round(y * MATH_LOG2E);
    float r = fmaf(n, -MATH_LN2_HI, y);
    r = fmaf(n, -MATH_LN2_LO, r);
    float p = math_exp_slope(r);
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    float m = fmaf(scale, p * r, scale - 1.0f);
    return m / (m + 2.0f);
}

#define MATH_GELU_CUBE  0.044715f
#define MATH_GELU_SLOPE 0.79788456f /* sqrt(2 / pi) */

/* The approximation by tanh. */
static inline float math_gelu(float x)
{
    float inner = MATH_GELU_SLOPE * fmaf(MATH_GELU_CUBE, x * x * x, x);
    return (0.5f * x) * (1.0f + math_tanh(inner));
}

static inline float math_soft_cap(float x, float cap)
{
    return cap * math_tanh(x / cap);
}

/* out[i] = math_exp(x[i]); out may be x. */
void math_exp_array(const float *x, float *out, uint32_t n);

#endif
