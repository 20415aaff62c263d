/* bf16_steps.h - the scalar arithmetic of the class "amx" (contract.h), in plain C:
 * what one product of bf16 tiles does to one sum, the rounding to bfloat16, and the
 * exponential. Reference, software tiles and tests use it.
 *
 * A step is the instruction TDPBF16PS on one element, as Intel's manual (Software
 * Developer's Manual, volume 2) has it: 32 products, pairs ascending, the even and the odd halves of pairs
 * in two chains of fused multiply-adds from +0, then even + odd, then that onto the
 * sum. Denormal inputs count as zero of their sign, denormal results become it. */
#ifndef BATON_ENGINE_BF16_STEPS_H
#define BATON_ENGINE_BF16_STEPS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "engine/contract.h"
#include "engine/math_f32.h"

/* Denormals become zero of their sign. */
static inline float bf16_flush(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}

static inline float bf16_widen(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return bf16_flush(value);
}

/* To the nearest, ties to even; denormals first become zero; a NaN stays one. */
static inline uint16_t bf16_round(float x)
{
    uint32_t bits;
    x = bf16_flush(x);
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* The sums of the even and of the odd halves of pairs so far. */
struct bf16_pair {
    float even, odd;
};

/* a and b: the two halves of a pair each. */
static inline struct bf16_pair bf16_pair_add(struct bf16_pair sums, const uint16_t a[2], const uint16_t b[2])
{
    sums.even = bf16_flush(fmaf(bf16_widen(a[0]), bf16_widen(b[0]), sums.even));
    sums.odd = bf16_flush(fmaf(bf16_widen(a[1]), bf16_widen(b[1]), sums.odd));
    return sums;
}

static inline float bf16_pair_onto(float sum, struct bf16_pair sums)
{
    return bf16_flush(bf16_flush(sum) + bf16_flush(sums.even + sums.odd));
}

/* One step on CONTRACT_STEP neighbouring values of a and b. */
static inline float bf16_step(float sum, const uint16_t *a, const uint16_t *b)
{
    struct bf16_pair sums = { 0.0f, 0.0f };
    for (uint32_t k = 0; k < CONTRACT_STEP; k += 2)
        sums = bf16_pair_add(sums, a + k, b + k);
    return bf16_pair_onto(sum, sums);
}

/* exp(x) for x <= 0 to 1e-4 of it; 1 at 0, 2^-125 from there down, NaN for a NaN. */
static inline float bf16_exp(float x)
{
    float y = x * MATH_LOG2E;
    y = BF16_EXP_MIN > y ? BF16_EXP_MIN : y;
    float z = y + MATH_ROUND_MAGIC;
    float r = y - (z - MATH_ROUND_MAGIC);
    float p = fmaf(fmaf(fmaf(BF16_EXP_C3, r, BF16_EXP_C2), r, BF16_EXP_C1), r, 1.0f);
    uint32_t bits;
    uint32_t n; /* the whole number stands in z's lowest bits */
    memcpy(&bits, &p, sizeof bits);
    memcpy(&n, &z, sizeof n);
    bits += n << 23;
    memcpy(&p, &bits, sizeof p);
    return p;
}

#endif
