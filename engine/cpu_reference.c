/* The backend in plain C: what every other backend is compared with. */
#include <math.h>
#include <string.h>

#include "engine/attention_reference.h"
#include "engine/backend.h"
#include "engine/math_f32.h"

#define ROW_STEP 8u /* rows whose chains run side by side */

static float max_f32(float a, float b)
{
    return a > b ? a : b;
}

static size_t reference_pack_bytes(const struct tensor *t, bool f32_math)
{
    (void)t;
    (void)f32_math;
    return 0;
}

static void reference_describe(const struct tensor *t, bool f32_math, uint8_t *dst, struct matrix *out)
{
    (void)dst;
    bool quantised = dtype_block_values(t->type) > 1;
    *out = (struct matrix){
        .type = t->type,
        .rule = quantised && !f32_math ? RULE_INT8 : RULE_F32,
        .n_out = (uint32_t)t->shape[0],
        .n_in = (uint32_t)t->shape[1],
        .data = t->data,
    };
}

static void reference_pack_panel(const struct tensor *t, const struct matrix *m, uint32_t panel, float *row)
{
    (void)t;
    (void)m;
    (void)panel;
    (void)row;
}

/* One group: q[32] within +-most, scale[0] = dx, scale[1] = dx * sum(q). */
static void quantise_group(const float *x, float most, int32_t *q, float *scale)
{
    float amax = 0.0f;
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++)
        amax = max_f32(fabsf(x[i]), amax);
    if (amax < CONTRACT_TINY) {
        memset(q, 0, CONTRACT_GROUP * sizeof *q);
        scale[0] = scale[1] = 0.0f;
        return;
    }
    float inv = most / amax;
    int32_t sum = 0;
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++) {
        float v = x[i] * inv;
        v = v < most ? v : most;
        v = max_f32(v, -most);
        q[i] = (int32_t)math_round(v);
        sum += q[i];
    }
    scale[0] = amax / most;
    scale[1] = scale[0] * (float)sum;
}

static void split_bytes(const int32_t *q, int8_t *high, int8_t *low)
{
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++) {
        high[i] = (int8_t)((q[i] + 128) >> 8);
        low[i] = (int8_t)(q[i] - high[i] * 256);
    }
}

/* Row-major: q, q_low and f32 [row][n_in], scale [row][group][2]; bias is not used. */
static void reference_prepare(struct activations *a, unsigned rules, uint32_t row0, uint32_t n, const float *x)
{
    size_t n_in = a->n_in;
    if (rules & RULE_F32)
        memcpy(a->f32 + row0 * n_in, x, n * n_in * sizeof *x);
    if (!(rules & (RULE_INT8 | RULE_INT16)))
        return;
    float most = rules & RULE_INT16 ? CONTRACT_INT16_MAX : CONTRACT_INT8_MAX;
    size_t first = row0 * n_in / CONTRACT_GROUP;
    for (size_t g = 0; g < n * n_in / CONTRACT_GROUP; g++) {
        int32_t q[CONTRACT_GROUP];
        int8_t *dst = a->q + (first + g) * CONTRACT_GROUP;
        quantise_group(x + g * CONTRACT_GROUP, most, q, a->scale + (first + g) * 2);
        if (rules & RULE_INT16)
            split_bytes(q, dst, a->q_low + (first + g) * CONTRACT_GROUP);
        else
            for (uint32_t i = 0; i < CONTRACT_GROUP; i++)
                dst[i] = (int8_t)q[i];
    }
}

/* One weight group as integers, and its scale and minimum. */
static void unpack_group(enum dtype type, const uint8_t *block, int8_t w[CONTRACT_GROUP], float *d, float *m)
{
    uint16_t half[2];
    memcpy(half, block, sizeof half);
    *d = f16_to_f32(half[0]);
    *m = type == DTYPE_Q4_1 ? f16_to_f32(half[1]) : 0.0f;
    if (type == DTYPE_Q8_0) {
        memcpy(w, block + 2, CONTRACT_GROUP);
        return;
    }
    const uint8_t *nibbles = block + (type == DTYPE_Q4_1 ? 4 : 2);
    int offset = type == DTYPE_Q4_1 ? 0 : 8;
    for (uint32_t i = 0; i < 16; i++) {
        w[i] = (int8_t)((nibbles[i] & 15) - offset);
        w[i + 16] = (int8_t)((nibbles[i] >> 4) - offset);
    }
}

static int32_t dot_group(const int8_t *w, const int8_t *q)
{
    int32_t dot = 0;
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++)
        dot += w[i] * q[i];
    return dot;
}

/* n <= ROW_STEP rows of one output. */
static void product_int(const struct matrix *m, const struct activations *a, uint32_t row, uint32_t n, uint32_t o,
                        float acc[ROW_STEP])
{
    size_t block_bytes = dtype_block_bytes(m->type);
    size_t groups = m->n_in / CONTRACT_GROUP;
    const uint8_t *block = m->data + o * groups * block_bytes;
    memset(acc, 0, ROW_STEP * sizeof *acc);
    for (size_t g = 0; g < groups; g++) {
        int8_t w[CONTRACT_GROUP];
        float dw;
        float min;
        unpack_group(m->type, block + g * block_bytes, w, &dw, &min);
        for (uint32_t r = 0; r < n; r++) {
            size_t at = (row + r) * groups + g;
            int32_t dot = dot_group(w, a->q + at * CONTRACT_GROUP);
            if (m->rule == RULE_INT16)
                dot = dot * 256 + dot_group(w, a->q_low + at * CONTRACT_GROUP);
            acc[r] = fmaf((float)dot, dw * a->scale[at * 2], acc[r]);
            if (m->type == DTYPE_Q4_1)
                acc[r] = fmaf(min, a->scale[at * 2 + 1], acc[r]);
        }
    }
}

static void product_f32(const struct matrix *m, const struct activations *a, uint32_t row, uint32_t n, uint32_t o,
                        float acc[ROW_STEP])
{
    float w[CONTRACT_GROUP];
    const uint8_t *src = m->data + o * dtype_row_bytes(m->type, m->n_in);
    memset(acc, 0, ROW_STEP * sizeof *acc);
    for (uint32_t k0 = 0; k0 < m->n_in; k0 += CONTRACT_GROUP) {
        uint32_t len = m->n_in - k0 < CONTRACT_GROUP ? m->n_in - k0 : CONTRACT_GROUP;
        dtype_to_f32(m->type, src + dtype_row_bytes(m->type, k0), w, len);
        const float *x = a->f32 + (size_t)row * m->n_in + k0;
        if (n == ROW_STEP) {
            for (uint32_t k = 0; k < len; k++)
                for (uint32_t r = 0; r < ROW_STEP; r++)
                    acc[r] = fmaf(w[k], x[(size_t)r * m->n_in + k], acc[r]);
        } else {
            for (uint32_t r = 0; r < n; r++)
                for (uint32_t k = 0; k < len; k++)
                    acc[r] = fmaf(w[k], x[(size_t)r * m->n_in + k], acc[r]);
        }
    }
}

static void reference_product(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                              uint32_t panel0, uint32_t panel1, float *out, size_t stride)
{
    uint32_t end = panel1 * PANEL < m->n_out ? panel1 * PANEL : m->n_out;
    for (uint32_t o = panel0 * PANEL; o < end; o++) {
        for (uint32_t row = row0; row < row1; row += ROW_STEP) {
            uint32_t n = row1 - row < ROW_STEP ? row1 - row : ROW_STEP;
            float acc[ROW_STEP];
            if (m->rule == RULE_F32)
                product_f32(m, a, row, n, o, acc);
            else
                product_int(m, a, row, n, o, acc);
            for (uint32_t r = 0; r < n; r++)
                out[(row + r) * stride + o] = acc[r];
        }
    }
}

static void reference_rms_norm(const float *x, const float *weight, float eps, uint32_t n, float *out)
{
    float lanes[CONTRACT_NORM_LANES] = { 0 };
    for (uint32_t i = 0; i < n; i++)
        lanes[i % CONTRACT_NORM_LANES] = fmaf(x[i], x[i], lanes[i % CONTRACT_NORM_LANES]);
    for (uint32_t w = CONTRACT_NORM_LANES / 2; w > 0; w /= 2)
        for (uint32_t l = 0; l < w; l++)
            lanes[l] += lanes[l + w];
    float r = 1.0f / sqrtf(lanes[0] / (float)n + eps);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (x[i] * r) * weight[i];
}

static void reference_rope(float *x, const float *cosines, const float *sines, uint32_t dim, bool interleaved)
{
    uint32_t step = interleaved ? 1 : dim / 2;
    for (uint32_t p = 0; p < dim / 2; p++) {
        uint32_t i = interleaved ? 2 * p : p;
        float a = x[i];
        float b = x[i + step];
        x[i] = fmaf(a, cosines[i], b * sines[i]);
        x[i + step] = fmaf(b, cosines[i + step], a * sines[i + step]);
    }
}

static void reference_scale(float *x, float factor, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] *= factor;
}

static void reference_add(float *x, const float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] += y[i];
}

static void reference_silu_mul(float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        gate[i] = math_silu(gate[i]) * up[i];
}

static void reference_kv_store(enum dtype type, const float *x, void *dst, uint32_t n)
{
    uint16_t *half = dst;
    if (type == DTYPE_F32)
        memcpy(dst, x, n * sizeof *x);
    else
        for (uint32_t i = 0; i < n; i++)
            half[i] = type == DTYPE_F16 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]);
}

const struct backend backend_reference = {
    .name = "reference",
    .pack_bytes = reference_pack_bytes,
    .pack_describe = reference_describe,
    .pack_panel = reference_pack_panel,
    .prepare = reference_prepare,
    .product = reference_product,
    .rms_norm = reference_rms_norm,
    .rope = reference_rope,
    .scale = reference_scale,
    .add = reference_add,
    .silu_mul = reference_silu_mul,
    .kv_store = reference_kv_store,
    .attend_scratch_bytes = attention_reference_scratch_bytes,
    .attend_rows = attention_reference_rows,
    .attend = attention_reference,
};
