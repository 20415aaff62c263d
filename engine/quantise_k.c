/* The super-blocks: eight groups of 32 values whose scales (and minima) are integer factors of one float16 scale. */
#include <math.h>
#include <string.h>

#include "engine/quantise.h"

#define SUPER_VALUES (QUANT_SUPER_GROUPS * CONTRACT_GROUP)

static float store_f16(uint8_t *p, float x)
{
    uint16_t bits = f32_to_f16(x);
    memcpy(p, &bits, sizeof bits);
    return f16_to_f32(bits);
}

static float clip(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}

/* The integer nearest to x in [low, high], as a float. */
static float step_of(float x, float low, float high)
{
    return clip(rintf(x), low, high);
}

/* --- Q4_K: value = scale * u - minimum, u from 0 to 15 --- */

#define Q4_STEPS   15.0f
#define Q4_FACTORS 63.0f
#define Q4_TRIES   21 /* inverse scales from (STEPS - 1) to (STEPS + 1) over the range */

struct line {
    float scale, minimum; /* minimum >= 0 is taken off */
};

/* The line through (u, x) that loses least, with a minimum of the allowed sign. False where u is one number. */
static bool fit_line(const float *x, const float *w, const float *u, struct line *out)
{
    float sw = 0, su = 0, suu = 0, sx = 0, sux = 0;
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++) {
        sw += w[i];
        su += w[i] * u[i];
        suu += w[i] * u[i] * u[i];
        sx += w[i] * x[i];
        sux += w[i] * u[i] * x[i];
    }
    const float det = sw * suu - su * su;
    if (!(det > 0))
        return false;
    *out = (struct line){ (sw * sux - su * sx) / det, -(suu * sx - su * sux) / det };
    if (out->minimum < 0)
        *out = (struct line){ sux / suu, 0 };
    return out->scale > 0;
}

static float line_loss(const float *x, const float *w, const float *u, const struct line *line)
{
    float loss = 0;
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++) {
        float off = line->scale * u[i] - line->minimum - x[i];
        loss += w[i] * off * off;
    }
    return loss;
}

/* The roundings of x on a line; where it stands still, all are zero. */
static void round_to_line(const float *x, const struct line *line, float *u)
{
    const float inv = line->scale > 0 ? 1 / line->scale : 0;
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++)
        u[i] = step_of((x[i] + line->minimum) * inv, 0, Q4_STEPS);
}

/* Large values matter more: what they are multiplied with is as large as for the others. */
static void weigh(const float *x, uint32_t n, float *w)
{
    float sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    const float rms = sqrtf(sum / (float)n);
    for (uint32_t i = 0; i < n; i++)
        w[i] = rms + fabsf(x[i]);
}

static struct line best_line(const float *x, const float *w)
{
    float low = 0, high = x[0], u[CONTRACT_GROUP];
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    struct line best = { (high - low) / Q4_STEPS, -low };
    if (best.scale < CONTRACT_TINY) /* its inverse would overflow */
        return (struct line){ 0, -low };
    float least = INFINITY;
    for (int i = 0; i < Q4_TRIES; i++) {
        struct line line = { (high - low) / (Q4_STEPS - 1 + 2 * (float)i / (Q4_TRIES - 1)), -low };
        round_to_line(x, &line, u);
        if (!fit_line(x, w, u, &line))
            continue;
        float loss = line_loss(x, w, u, &line);
        if (loss < least) {
            least = loss;
            best = line;
        }
    }
    return best;
}

/* Of the factors next to the exact ones those that lose least. */
static void choose_factors(const float *x, const float *w, const struct line *wanted, const struct line *unit,
                           uint8_t factors[2], float *u)
{
    const float scale = unit->scale > 0 ? step_of(wanted->scale / unit->scale, 0, Q4_FACTORS) : 0;
    const float minimum = unit->minimum > 0 ? step_of(wanted->minimum / unit->minimum, 0, Q4_FACTORS) : 0;
    float least = INFINITY, tried[CONTRACT_GROUP];
    for (uint32_t i = 0; i < 9; i++) {
        static const float steps[] = { -1, 0, 1 };
        const float s = clip(scale + steps[i % 3], 0, Q4_FACTORS), m = clip(minimum + steps[i / 3], 0, Q4_FACTORS);
        struct line line = { unit->scale * s, unit->minimum * m };
        round_to_line(x, &line, tried);
        float loss = line_loss(x, w, tried, &line);
        if (loss < least) {
            least = loss;
            factors[0] = (uint8_t)s;
            factors[1] = (uint8_t)m;
            memcpy(u, tried, sizeof tried);
        }
    }
}

/* As quantised.c reads them: six bits each, the upper two of the last four beside the first four. */
static void pack_factors(uint8_t factors[QUANT_SUPER_GROUPS][2], uint8_t *packed)
{
    for (uint32_t g = 0; g < QUANT_SUPER_GROUPS / 2; g++) {
        const uint8_t *first = factors[g], *second = factors[g + QUANT_SUPER_GROUPS / 2];
        packed[g] = (uint8_t)(first[0] | second[0] >> 4 << 6);
        packed[g + 4] = (uint8_t)(first[1] | second[1] >> 4 << 6);
        packed[g + 8] = (uint8_t)((second[0] & 15) | (second[1] & 15) << 4);
    }
}

void quantise_q4_k(const float *x, uint8_t *block)
{
    struct line lines[QUANT_SUPER_GROUPS], largest = { 0, 0 };
    float w[SUPER_VALUES], u[CONTRACT_GROUP];
    uint8_t factors[QUANT_SUPER_GROUPS][2];
    for (uint32_t g = 0; g < QUANT_SUPER_GROUPS; g++) {
        weigh(x + (size_t)g * CONTRACT_GROUP, CONTRACT_GROUP, w + (size_t)g * CONTRACT_GROUP);
        lines[g] = best_line(x + (size_t)g * CONTRACT_GROUP, w + (size_t)g * CONTRACT_GROUP);
        largest.scale = fmaxf(largest.scale, lines[g].scale);
        largest.minimum = fmaxf(largest.minimum, lines[g].minimum);
    }
    const struct line unit = { store_f16(block, largest.scale / Q4_FACTORS),
                               store_f16(block + 2, largest.minimum / Q4_FACTORS) };
    memset(block + 16, 0, SUPER_VALUES / 2);
    for (uint32_t g = 0; g < QUANT_SUPER_GROUPS; g++) {
        uint8_t *nibbles = block + 16 + (size_t)(g / 2) * CONTRACT_GROUP;
        const size_t at = (size_t)g * CONTRACT_GROUP;
        choose_factors(x + at, w + at, &lines[g], &unit, factors[g], u);
        for (uint32_t i = 0; i < CONTRACT_GROUP; i++)
            nibbles[i] = (uint8_t)(nibbles[i] | (uint32_t)u[i] << g % 2 * 4);
    }
    pack_factors(factors, block + 4);
}

/* --- Q6_K: value = scale * q, q from -32 to 31, a scale for each half of a group --- */

#define Q6_LOW     -32.0f
#define Q6_HIGH    31.0f
#define Q6_HALVES  (2 * QUANT_SUPER_GROUPS)
#define Q6_VALUES  (CONTRACT_GROUP / 2)
#define Q6_TRIES   9 /* inverse scales on each side of 32 over the largest value, 0.1 apart */
#define Q6_FACTORS 128.0f

static float scale_loss(const float *x, const float *w, float scale)
{
    const float inv = scale == 0 ? 0 : 1 / scale;
    float loss = 0;
    for (uint32_t i = 0; i < Q6_VALUES; i++) {
        float off = scale * step_of(x[i] * inv, Q6_LOW, Q6_HIGH) - x[i];
        loss += w[i] * off * off;
    }
    return loss;
}

/* Of the scales that are best for the roundings of one inverse scale each, the best. */
static float best_scale(const float *x, const float *w)
{
    float largest = 0, best = 0, most = 0;
    for (uint32_t i = 0; i < Q6_VALUES; i++)
        largest = fabsf(x[i]) > fabsf(largest) ? x[i] : largest;
    if (largest == 0 || isinf(Q6_LOW / largest))
        return 0;
    for (int i = -Q6_TRIES; i <= Q6_TRIES; i++) {
        const float inv = (Q6_LOW + 0.1f * (float)i) / largest;
        float sqx = 0, sqq = 0;
        for (uint32_t k = 0; k < Q6_VALUES; k++) {
            float q = step_of(x[k] * inv, Q6_LOW, Q6_HIGH);
            sqx += w[k] * q * x[k];
            sqq += w[k] * q * q;
        }
        /* The loss of scale sqx / sqq is a constant less sqx^2 / sqq. */
        if (sqq > 0 && sqx * sqx > most * sqq) {
            most = sqx * sqx / sqq;
            best = sqx / sqq;
        }
    }
    return best;
}

static int8_t choose_factor(const float *x, const float *w, float wanted, float unit)
{
    const float exact = unit == 0 ? 0 : step_of(wanted / unit, -Q6_FACTORS, Q6_FACTORS - 1);
    float least = INFINITY, best = exact;
    for (int i = -1; i <= 1; i++) {
        float factor = clip(exact + (float)i, -Q6_FACTORS, Q6_FACTORS - 1);
        float loss = scale_loss(x, w, unit * factor);
        if (loss < least) {
            least = loss;
            best = factor;
        }
    }
    return (int8_t)best;
}

/* u of value i of half h into nibbles and bit pairs, which were zeros. */
static void put_q6(uint8_t *block, uint32_t h, uint32_t i, uint32_t u)
{
    const uint32_t g = h / 2, side = g / 4, k = g % 4, place = h % 2 * Q6_VALUES + i;
    uint8_t *nibble = block + side * 64 + k % 2 * CONTRACT_GROUP + place;
    uint8_t *pair = block + 128 + side * CONTRACT_GROUP + place;
    *nibble = (uint8_t)(*nibble | (u & 15) << k / 2 * 4);
    *pair = (uint8_t)(*pair | u >> 4 << 2 * k);
}

void quantise_q6_k(const float *x, uint8_t *block)
{
    float w[SUPER_VALUES], scales[Q6_HALVES], largest = 0;
    for (uint32_t i = 0; i < SUPER_VALUES; i++)
        w[i] = x[i] * x[i];
    for (uint32_t h = 0; h < Q6_HALVES; h++) {
        scales[h] = best_scale(x + (size_t)h * Q6_VALUES, w + (size_t)h * Q6_VALUES);
        largest = fabsf(scales[h]) > fabsf(largest) ? scales[h] : largest;
    }
    memset(block, 0, dtype_block_bytes(DTYPE_Q6_K));
    const float unit = store_f16(block + 208, largest / -Q6_FACTORS);
    for (uint32_t h = 0; h < Q6_HALVES; h++) {
        const float *values = x + (size_t)h * Q6_VALUES;
        const int8_t factor = choose_factor(values, w + (size_t)h * Q6_VALUES, scales[h], unit);
        const float scale = unit * (float)factor, inv = scale == 0 ? 0 : 1 / scale;
        block[192 + h] = (uint8_t)factor;
        for (uint32_t i = 0; i < Q6_VALUES; i++)
            put_q6(block, h, i, (uint32_t)(step_of(values[i] * inv, Q6_LOW, Q6_HIGH) - Q6_LOW));
    }
}
