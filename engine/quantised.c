#include "engine/quantised.h"

#include <string.h>

#define HALF (CONTRACT_GROUP / 2)

static uint16_t load_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

/* --- blocks of one group --- */

/* Low nibbles are values 0 .. 15, high ones 16 .. 31. */
static void read_nibbles(const uint8_t *nibbles, uint8_t u[CONTRACT_GROUP])
{
    for (uint32_t i = 0; i < HALF; i++) {
        u[i] = nibbles[i] & 15;
        u[i + HALF] = nibbles[i] >> 4;
    }
}

static void read_q8(const uint8_t *block, struct quant_group *out)
{
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++)
        out->u[i] = block[2 + i] ^ 0x80; /* int8 + 128 */
}

/* The fifth bit of value i is bit i of a word before the nibbles. */
static void read_q5(const uint8_t *word, uint8_t u[CONTRACT_GROUP])
{
    read_nibbles(word + 4, u);
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++)
        u[i] = (uint8_t)(u[i] | (word[i / 8] >> i % 8 & 1) << 4);
}

/* --- super-blocks --- */

/* Q4_K and Q5_K: eight scales and eight minima of 6 bits in 12 bytes. */
static void read_factors(const uint8_t *packed, uint32_t g, struct quant_group *out)
{
    uint32_t scale, min;
    if (g < 4) {
        scale = packed[g] & 63;
        min = packed[g + 4] & 63;
    } else {
        scale = (packed[g + 4] & 15u) | (packed[g - 4] >> 6 & 3u) << 4;
        min = (packed[g + 4] >> 4 & 15u) | (packed[g] >> 6 & 3u) << 4;
    }
    out->d_factor[0] = out->d_factor[1] = (int8_t)scale;
    out->m_factor = (uint8_t)min;
}

/* Groups 2c and 2c + 1 are the low and the high nibbles of bytes 32c .. 32c + 31. */
static void read_super_nibbles(const uint8_t *nibbles, uint32_t g, uint8_t u[CONTRACT_GROUP])
{
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++)
        u[i] = nibbles[g / 2 * CONTRACT_GROUP + i] >> g % 2 * 4 & 15;
}

static void read_q4_k(const uint8_t *block, uint32_t g, struct quant_group *out)
{
    read_factors(block + 4, g, out);
    read_super_nibbles(block + 16, g, out->u);
}

/* The fifth bit of value i of group g is bit g of byte i. */
static void read_q5_k(const uint8_t *block, uint32_t g, struct quant_group *out)
{
    read_factors(block + 4, g, out);
    read_super_nibbles(block + 48, g, out->u);
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++)
        out->u[i] = (uint8_t)(out->u[i] | (block[16 + i] >> g & 1) << 4);
}

/* 128 bytes of nibbles, 64 of upper bit pairs, 16 scales of signed bytes, d. Each half of the
 * super-block has four groups: 0 and 1 low nibbles, 2 and 3 the high ones of the same bytes. */
static void read_q6_k(const uint8_t *block, uint32_t g, struct quant_group *out)
{
    uint32_t half = g / 4;
    uint32_t k = g % 4;
    const uint8_t *nibbles = block + half * 64 + k % 2 * CONTRACT_GROUP;
    const uint8_t *pairs = block + 128 + half * CONTRACT_GROUP;
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++)
        out->u[i] = (uint8_t)((nibbles[i] >> k / 2 * 4 & 15) | (pairs[i] >> 2 * k & 3) << 4);
    memcpy(out->d_factor, block + 192 + half * 8 + k * 2, 2);
}

void quant_read(enum dtype type, const uint8_t *row, size_t g, struct quant_group *out)
{
    const uint8_t *block = row + g / (quant_is_super(type) ? QUANT_SUPER_GROUPS : 1) * dtype_block_bytes(type);
    uint32_t in_block = (uint32_t)(g % QUANT_SUPER_GROUPS);
    out->d = load_u16(type == DTYPE_Q6_K ? block + 208 : block);
    out->m = quant_has_minimum(type) ? load_u16(block + 2) : 0;
    out->d_factor[0] = out->d_factor[1] = 1;
    out->m_factor = 1;
    switch (type) {
    case DTYPE_Q8_0:
        read_q8(block, out);
        return;
    case DTYPE_Q4_0:
        read_nibbles(block + 2, out->u);
        return;
    case DTYPE_Q4_1:
        read_nibbles(block + 4, out->u);
        return;
    case DTYPE_Q5_0:
        read_q5(block + 2, out->u);
        return;
    case DTYPE_Q5_1:
        read_q5(block + 4, out->u);
        return;
    case DTYPE_Q4_K:
        read_q4_k(block, in_block, out);
        return;
    case DTYPE_Q5_K:
        read_q5_k(block, in_block, out);
        return;
    case DTYPE_Q6_K:
        read_q6_k(block, in_block, out);
        return;
    default:
        ASSERT(quant_bits(type) != 0);
    }
}

float quant_scale(const struct quant_group *g, uint32_t half)
{
    return f16_to_f32(g->d) * (float)g->d_factor[half];
}

float quant_minimum(enum dtype type, const struct quant_group *g)
{
    float m = f16_to_f32(g->m) * (float)g->m_factor;
    return quant_is_super(type) ? -m : m;
}

void quant_widen(enum dtype type, const uint8_t *row, size_t g, float values[CONTRACT_GROUP])
{
    struct quant_group group;
    quant_read(type, row, g, &group);
    const float minimum = quant_minimum(type, &group);
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++) {
        uint32_t half = i / (CONTRACT_GROUP / quant_halves(type));
        float x = quant_scale(&group, half) * (float)((int32_t)group.u[i] - (int32_t)quant_offset(type));
        values[i] = quant_has_minimum(type) ? x + minimum : x;
    }
}
