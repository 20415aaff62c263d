/* The backend in plain C: what every other backend is compared with. */
#include <math.h>
#include <string.h>

#include "engine/attention_bf16_reference.h"
#include "engine/attention_reference.h"
#include "engine/backend.h"
#include "engine/bf16_steps.h"
#include "engine/math_f32.h"
#include "engine/quantised.h"

#define ROW_STEP   8u   /* rows whose chains run side by side */
#define WIDEN_STEP 256u /* weights widened at once: a multiple of every block */

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
    *out = (struct matrix){
        .type = t->type,
        .rule = dtype_is_quantised(t->type) && !f32_math ? RULE_INT8 : RULE_F32,
        .n_out = (uint32_t)t->shape[0],
        .n_in = (uint32_t)t->shape[1],
        .data = { .host = (uint8_t *)(uintptr_t)t->data }, /* only read */
    };
}

static void reference_describe_amx(const struct tensor *t, bool f32_math, uint8_t *dst, struct matrix *out)
{
    reference_describe(t, f32_math, dst, out);
    if ((t->type == DTYPE_BF16 || dtype_is_quantised(t->type)) && !f32_math)
        out->rule = RULE_BF16;
}

static void reference_pack_panel(const struct tensor *t, const struct matrix *m, uint32_t panel, float *row)
{
    (void)t;
    (void)m;
    (void)panel;
    (void)row;
}

/* The scale of n values that are to become integers within +-most; 0 where all of those are 0. */
static float integer_scale(const float *x, uint32_t n, float most, float *inv)
{
    float amax = 0.0f;
    for (uint32_t i = 0; i < n; i++)
        amax = max_f32(fabsf(x[i]), amax);
    *inv = amax < CONTRACT_TINY ? 0.0f : most / amax;
    return amax < CONTRACT_TINY ? 0.0f : amax / most;
}

static int32_t to_integer(float x, float inv, float most)
{
    float v = x * inv;
    v = v < most ? v : most;
    return (int32_t)math_round(max_f32(v, -most));
}

/* One group: q[32] within +-most, scale[0] = dx, scale[1] = dx * sum(q). */
static void quantise_group(const float *x, float most, int32_t *q, float *scale)
{
    float inv;
    int32_t sum = 0;
    scale[0] = integer_scale(x, CONTRACT_GROUP, most, &inv);
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++) {
        q[i] = scale[0] == 0.0f ? 0 : to_integer(x[i], inv, most);
        sum += q[i];
    }
    scale[1] = scale[0] * (float)sum;
}

static void split_bytes(const int32_t *q, int8_t *high, int8_t *low)
{
    for (uint32_t i = 0; i < CONTRACT_GROUP; i++) {
        high[i] = (int8_t)((q[i] + 128) >> 8);
        low[i] = (int8_t)(q[i] - high[i] * 256);
    }
}

static void round_rows(struct activations *a, uint32_t row0, uint32_t n, const float *x)
{
    const size_t stride = act_bf16_stride(a->n_in);
    for (uint32_t r = 0; r < n; r++) {
        uint16_t *dst = a->bf16 + (row0 + r) * stride;
        memset(dst, 0, stride * sizeof *dst);
        for (uint32_t k = 0; k < a->n_in; k++)
            dst[k] = bf16_round(x[(size_t)r * a->n_in + k]);
    }
}

/* Row-major: q, q_low and f32 [row][n_in], scale [row][group][2]; bias is not used. */
static void reference_prepare(struct activations *a, unsigned rules, uint32_t row0, uint32_t n, const float *x)
{
    size_t n_in = a->n_in;
    if (rules & RULE_F32)
        memcpy(a->f32 + row0 * n_in, x, n * n_in * sizeof *x);
    if (rules & RULE_BF16)
        round_rows(a, row0, n, x);
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

/* n is known where this is called: a loop of vectors. */
static inline __attribute__((always_inline)) int32_t dot_bytes(const int8_t *w, const int8_t *q, const uint32_t n)
{
    int32_t dot = 0;
    for (uint32_t i = 0; i < n; i++)
        dot += w[i] * q[i];
    return dot;
}

/* The dots of the group's halves, or dot[0] of all of it. */
static void dot_group(bool halved, const int8_t *w, const int8_t *q, int32_t dot[2])
{
    if (!halved) {
        dot[0] = dot_bytes(w, q, CONTRACT_GROUP);
        return;
    }
    dot[0] = dot_bytes(w, q, CONTRACT_GROUP / 2);
    dot[1] = dot_bytes(w + CONTRACT_GROUP / 2, q + CONTRACT_GROUP / 2, CONTRACT_GROUP / 2);
}

/* What one group of an output is multiplied with. */
struct group_terms {
    bool halved, has_minimum;
    float scale[2], minimum;
};

static struct group_terms terms_of(enum dtype type, const struct quant_group *group)
{
    return (struct group_terms){
        .halved = quant_halves(type) == 2,
        .has_minimum = quant_has_minimum(type),
        .scale = { quant_scale(group, 0), quant_scale(group, 1) },
        .minimum = quant_minimum(type, group),
    };
}

/* acc += group at of the activations times the weights w, which are without their offset. */
static float add_group(const struct matrix *m, const struct group_terms *t, const int8_t *w,
                       const struct activations *a, size_t at, float acc)
{
    int32_t dot[2] = { 0, 0 };
    dot_group(t->halved, w, a->q + at * CONTRACT_GROUP, dot);
    if (m->rule == RULE_INT16) {
        int32_t low[2] = { 0, 0 };
        dot_group(t->halved, w, a->q_low + at * CONTRACT_GROUP, low);
        dot[0] = dot[0] * 256 + low[0];
        dot[1] = dot[1] * 256 + low[1];
    }
    acc = fmaf((float)dot[0], t->scale[0] * a->scale[at * 2], acc);
    if (t->halved)
        acc = fmaf((float)dot[1], t->scale[1] * a->scale[at * 2], acc);
    return t->has_minimum ? fmaf(t->minimum, a->scale[at * 2 + 1], acc) : acc;
}

/* n <= ROW_STEP rows of one output. */
static void product_int(const struct matrix *m, const struct activations *a, uint32_t row, uint32_t n, uint32_t o,
                        float acc[ROW_STEP])
{
    const size_t groups = m->n_in / CONTRACT_GROUP;
    const int32_t offset = (int32_t)quant_offset(m->type);
    const uint8_t *weights = m->data.host + o * dtype_row_bytes(m->type, m->n_in);
    memset(acc, 0, ROW_STEP * sizeof *acc);
    for (size_t g = 0; g < groups; g++) {
        struct quant_group group;
        int8_t w[CONTRACT_GROUP];
        quant_read(m->type, weights, g, &group);
        for (uint32_t i = 0; i < CONTRACT_GROUP; i++)
            w[i] = (int8_t)(group.u[i] - offset);
        struct group_terms terms = terms_of(m->type, &group);
        for (uint32_t r = 0; r < n; r++)
            acc[r] = add_group(m, &terms, w, a, (row + r) * groups + g, acc[r]);
    }
}

static void product_f32(const struct matrix *m, const struct activations *a, uint32_t row, uint32_t n, uint32_t o,
                        float acc[ROW_STEP])
{
    float w[WIDEN_STEP];
    const uint8_t *src = m->data.host + o * dtype_row_bytes(m->type, m->n_in);
    memset(acc, 0, ROW_STEP * sizeof *acc);
    for (uint32_t k0 = 0; k0 < m->n_in; k0 += WIDEN_STEP) {
        uint32_t len = m->n_in - k0 < WIDEN_STEP ? m->n_in - k0 : WIDEN_STEP;
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

/* The step of a row that begins with value k, rounded, zeros behind the last value. */
static void read_step(const struct matrix *m, const uint8_t *row, size_t k, uint16_t w[CONTRACT_STEP])
{
    const size_t n = m->n_in - k < CONTRACT_STEP ? m->n_in - k : CONTRACT_STEP;
    float wide[CONTRACT_STEP];
    memset(w, 0, CONTRACT_STEP * sizeof *w);
    if (m->type == DTYPE_BF16) {
        memcpy(w, row + k * sizeof *w, n * sizeof *w);
        return;
    }
    quant_widen(m->type, row, k / CONTRACT_GROUP, wide);
    for (size_t i = 0; i < n; i++)
        w[i] = bf16_round(wide[i]);
}

static void product_bf16(const struct matrix *m, const struct activations *a, uint32_t row, uint32_t n, uint32_t o,
                         float acc[ROW_STEP])
{
    const size_t stride = act_bf16_stride(m->n_in);
    const uint8_t *src = m->data.host + o * dtype_row_bytes(m->type, m->n_in);
    memset(acc, 0, ROW_STEP * sizeof *acc);
    for (size_t k = 0; k < m->n_in; k += CONTRACT_STEP) {
        uint16_t w[CONTRACT_STEP];
        read_step(m, src, k, w);
        for (uint32_t r = 0; r < n; r++)
            acc[r] = bf16_step(acc[r], a->bf16 + (row + r) * stride + k, w);
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
            else if (m->rule == RULE_BF16)
                product_bf16(m, a, row, n, o, acc);
            else
                product_int(m, a, row, n, o, acc);
            for (uint32_t r = 0; r < n; r++)
                out[(row + r) * stride + o] = acc[r];
        }
    }
}

static void norm_row(const float *x, const float *weight, float eps, uint32_t n, float *out)
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

static void reference_rms_norm(const float *x, const float *weight, float eps, uint32_t n_rows, uint32_t width,
                               float *out)
{
    for (size_t r = 0; r < n_rows; r++)
        norm_row(x + r * width, weight, eps, width, out + r * width);
}

static void rotate_head(float *x, const float *cosines, const float *sines, uint32_t dim, bool interleaved)
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

static void reference_rope(float *x, const struct rotation *r)
{
    for (size_t row = 0; row < r->n_rows; row++)
        for (uint32_t h = 0; h < r->n_heads; h++)
            rotate_head(x + (row * r->n_heads + h) * r->head_dim, r->cosines + row * r->stride,
                        r->sines + row * r->stride, r->dim, r->interleaved);
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

static void reference_add_to_rows(float *x, const float *y, uint32_t n_rows, uint32_t width)
{
    for (size_t r = 0; r < n_rows; r++)
        reference_add(x + r * width, y, width);
}

static void reference_silu_mul(float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        gate[i] = math_silu(gate[i]) * up[i];
}

static void reference_gelu_mul(float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        gate[i] = math_gelu(gate[i]) * up[i];
}

static void reference_soft_cap(float *x, float cap, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] = math_soft_cap(x[i], cap);
}

static void store_int8(const float *x, int8_t *dst, uint32_t n)
{
    float inv;
    float scale = integer_scale(x, n, CONTRACT_INT8_MAX, &inv);
    for (uint32_t i = 0; i < n; i++)
        dst[i] = (int8_t)(scale == 0.0f ? 0 : to_integer(x[i], inv, CONTRACT_INT8_MAX));
    memcpy(dst + n, &scale, sizeof scale);
}

static void store_head(enum dtype type, const float *x, void *dst, uint32_t n)
{
    uint16_t *half = dst;
    if (type == DTYPE_F32)
        memcpy(dst, x, n * sizeof *x);
    else if (type == DTYPE_INT8)
        store_int8(x, dst, n);
    else
        for (uint32_t i = 0; i < n; i++)
            half[i] = type == DTYPE_F16 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]);
}

static void reference_kv_store(const struct kv_rows *rows, enum kv_side side, const float *x)
{
    const struct kv_layout *l = rows->kv;
    for (uint32_t r = 0; r < rows->n_rows; r++)
        for (uint32_t h = 0; h < l->n_kv_heads; h++)
            store_head(l->type, x + ((size_t)r * l->n_kv_heads + h) * l->head_dim, kv_rows_slot(rows, side, r, h),
                       l->head_dim);
}

static void reference_attend(const struct attention *a, const struct attention_item *items, uint32_t n_items,
                             void *scratch)
{
    for (uint32_t i = 0; i < n_items; i++)
        attention_reference(a, &items[i], scratch);
}

static void reference_attend_bf16(const struct attention *a, const struct attention_item *items, uint32_t n_items,
                                  void *scratch)
{
    for (uint32_t i = 0; i < n_items; i++)
        attention_bf16_reference(a, &items[i], scratch);
}

const struct backend backend_reference = {
    .name = "reference",
    .pack_bytes = reference_pack_bytes,
    .pack_describe = reference_describe,
    .pack_panel = reference_pack_panel,
    .embed = embeddings_widen,
    .prepare = reference_prepare,
    .product_rows = 8 * ACT_TILE,
    .product = reference_product,
    .rms_norm = reference_rms_norm,
    .rope = reference_rope,
    .scale = reference_scale,
    .add = reference_add,
    .add_to_rows = reference_add_to_rows,
    .silu_mul = reference_silu_mul,
    .gelu_mul = reference_gelu_mul,
    .soft_cap = reference_soft_cap,
    .kv_store = reference_kv_store,
    .attend_scratch_bytes = attention_reference_scratch_bytes,
    .attend_rows = attention_reference_rows,
    .attend = reference_attend,
    .attend_part = attention_reference_part,
};

struct backend reference_backend(enum contract_class class)
{
    struct backend b = backend_reference;
    if (class == CLASS_AMX) {
        b.pack_describe = reference_describe_amx;
        b.attend_scratch_bytes = attention_bf16_reference_scratch_bytes;
        b.attend = reference_attend_bf16;
        b.attend_part = NULL;
    }
    return b;
}
