#include "engine/tensor.h"

#include <string.h>

#include "engine/quantised.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "model files are little-endian and read in place");

struct dtype_row {
    const char *name;
    size_t values, bytes;
};

static const struct dtype_row dtypes[DTYPE_COUNT] = {
#define X(name, values, bytes) { #name, values, bytes },
    DTYPES(X)
#undef X
};

const char *dtype_name(enum dtype type)
{
    return (unsigned)type < DTYPE_COUNT ? dtypes[type].name : type == DTYPE_INT8 ? "INT8" : "unknown";
}

size_t dtype_block_values(enum dtype type)
{
    ASSERT((unsigned)type < DTYPE_COUNT);
    return dtypes[type].values;
}

size_t dtype_block_bytes(enum dtype type)
{
    ASSERT((unsigned)type < DTYPE_COUNT);
    return dtypes[type].bytes;
}

size_t dtype_row_bytes(enum dtype type, size_t n)
{
    return n / dtype_block_values(type) * dtype_block_bytes(type);
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

float f16_to_f32(uint16_t x)
{
    uint32_t sign = (uint32_t)(x & 0x8000) << 16;
    uint32_t magnitude = x & 0x7fff;
    if (magnitude >= 0x7c00) /* infinity and NaN: all exponent bits stay set */
        return float_of(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    if (magnitude >= 0x400)
        return float_of(sign | ((magnitude << 13) + (112u << 23)));
    /* Subnormal: magnitude * 2^-24, which float32 holds exactly. */
    return float_of(sign | bits_of((float)magnitude * 0x1p-24f));
}

uint16_t f32_to_f16(float x)
{
    uint32_t bits = bits_of(x);
    uint32_t sign = bits >> 16 & 0x8000;
    uint32_t magnitude = bits & 0x7fffffff;
    uint32_t half;
    if (magnitude > 0x7f800000) /* NaN: its top payload bits, made quiet */
        half = 0x7e00 | (magnitude >> 13 & 0x3ff);
    else if (magnitude >= 0x47800000) /* 2^16 and up; what rounds up to it carries over below */
        half = 0x7c00;
    else if (magnitude >= 0x38800000)
        half = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    else /* Adding 0.5 leaves the value in units of 2^-24 in the low bits, rounded to even by the addition. */
        half = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    return (uint16_t)(sign | half);
}

float bf16_to_f32(uint16_t x)
{
    return float_of((uint32_t)x << 16);
}

uint16_t f32_to_bf16(float x)
{
    uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void widen_f16(const uint8_t *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = f16_to_f32(load_u16(src + 2 * i));
}

static void widen_bf16(const uint8_t *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = bf16_to_f32(load_u16(src + 2 * i));
}

static void widen_int8(const int8_t *src, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = src[i];
}

static void widen_quantised(enum dtype type, const uint8_t *src, float *dst, size_t n)
{
    for (size_t g = 0; g < n / CONTRACT_GROUP; g++)
        quant_widen(type, src, g, dst + g * CONTRACT_GROUP);
}

void dtype_to_f32(enum dtype type, const void *src, float *dst, size_t n)
{
    ASSERT(type == DTYPE_INT8 || n % dtype_block_values(type) == 0);
    switch (type) {
    case DTYPE_F32:
        memcpy(dst, src, n * sizeof *dst);
        return;
    case DTYPE_F16:
        widen_f16(src, dst, n);
        return;
    case DTYPE_BF16:
        widen_bf16(src, dst, n);
        return;
    case DTYPE_INT8:
        widen_int8(src, dst, n);
        return;
    default:
        widen_quantised(type, src, dst, n);
    }
}
