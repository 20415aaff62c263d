#include "engine/quantise.h"

#include <math.h>
#include <string.h>

#define HALF (CONTRACT_GROUP / 2)

bool quantise_writes(enum dtype type)
{
    switch (type) {
    case DTYPE_F32:
    case DTYPE_F16:
    case DTYPE_BF16:
    case DTYPE_Q8_0:
    case DTYPE_Q4_0:
    case DTYPE_Q5_0:
    case DTYPE_Q4_K:
    case DTYPE_Q6_K:
        return true;
    default:
        return false;
    }
}

static void store_u16(uint8_t *p, uint16_t x)
{
    memcpy(p, &x, sizeof x);
}

/* 0 for scales that float16 has none for, too: what they stand for is 0. */
static float inverse(float d)
{
    float inv = 1 / d;
    return isinf(inv) ? 0 : inv;
}

static void quantise_q8_0(const float *x, uint8_t *block)
{
    float amax = 0;
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++)
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    const float d = amax / 127, inv = inverse(d);
    store_u16(block, f32_to_f16(d));
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++) {
        float y = x[i] * inv, whole = floorf(fabsf(y));
        float rounded = whole + floorf(2 * (fabsf(y) - whole)); /* halves away from zero */
        block[2 + i] = (uint8_t)(int8_t)copysignf(rounded, y);
    }
}

/* Values of levels steps around zero, of which the first stands for the largest value: its sign is that of the
 * negative end, which reaches further. Returns the scale. */
static float symmetric(const float *x, int levels, uint8_t u[CONTRACT_GROUP])
{
    float largest = 0;
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++)
        largest = fabsf(x[i]) > fabsf(largest) ? x[i] : largest;
    const int half = levels / 2;
    const float middle = (float)half, d = largest / -middle, inv = inverse(d);
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++) {
        int step = (int)(x[i] * inv + (middle + 0.5f));
        u[i] = (uint8_t)(step < levels ? step : levels - 1);
    }
    return d;
}

static void pack_nibbles(const uint8_t u[CONTRACT_GROUP], uint8_t *nibbles)
{
    for (uint32_t i = 0; i < HALF; i++)
        nibbles[i] = (uint8_t)((u[i] & 15) | (u[i + HALF] & 15) << 4);
}

static void quantise_q4_0(const float *x, uint8_t *block)
{
    uint8_t u[CONTRACT_GROUP];
    store_u16(block, f32_to_f16(symmetric(x, 16, u)));
    pack_nibbles(u, block + 2);
}

static void quantise_q5_0(const float *x, uint8_t *block)
{
    uint8_t u[CONTRACT_GROUP];
    store_u16(block, f32_to_f16(symmetric(x, 32, u)));
    memset(block + 2, 0, 4);
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++)
        block[2 + i / 8] = (uint8_t)(block[2 + i / 8] | u[i] >> 4 << i % 8);
    pack_nibbles(u, block + 6);
}

static void narrow(enum dtype type, const float *x, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++)
        store_u16(out + 2 * i, type == DTYPE_F16 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]));
}

static bool within_limits(const float *x, size_t n)
{
    bool all = true;
    for (size_t i = 0; i < n; i++)
        all &= fabsf(x[i]) <= QUANTISE_MAX; /* false for what is no number */
    return all;
}

static void quantise_block(enum dtype type, const float *x, uint8_t *block)
{
    switch (type) {
    case DTYPE_Q8_0:
        quantise_q8_0(x, block);
        return;
    case DTYPE_Q4_0:
        quantise_q4_0(x, block);
        return;
    case DTYPE_Q5_0:
        quantise_q5_0(x, block);
        return;
    case DTYPE_Q4_K:
        quantise_q4_k(x, block);
        return;
    case DTYPE_Q6_K:
        quantise_q6_k(x, block);
        return;
    default:
        ASSERT(quantise_writes(type));
    }
}

bool quantise_row(enum dtype type, const float *x, size_t n, void *out)
{
    ASSERT(n % dtype_block_values(type) == 0);
    if (type != DTYPE_F32 && type != DTYPE_BF16 && !within_limits(x, n))
        return false;
    if (type == DTYPE_F32)
        memcpy(out, x, n * sizeof *x);
    else if (!dtype_is_quantised(type))
        narrow(type, x, n, out);
    else
        for (size_t i = 0; i < n; i += dtype_block_values(type))
            quantise_block(type, x + i, (uint8_t *)out + dtype_row_bytes(type, i));
    return true;
}
