/* The backend of one instruction set: packed products, and row operations over vectors. */
#include <string.h>

#include "engine/lanes/kernels.h"
#include "engine/pack.h"

#define NORM_VECTORS (CONTRACT_NORM_LANES / LANES)

static void prepare(struct activations *a, unsigned rules, uint32_t row0, uint32_t n, const float *x)
{
    if (rules & RULE_F32)
        ISA(prepare_f32)(a, row0, n, x);
    if (rules & (RULE_INT8 | RULE_INT16))
        ISA(prepare_int)(a, rules & RULE_INT16, row0, n, x);
}

static void product(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1, uint32_t panel0,
                    uint32_t panel1, float *out, size_t stride)
{
    if (m->rule == RULE_F32)
        ISA(product_f32)(m, a, row0, row1, panel0, panel1, out, stride);
    else
        ISA(product_int)(m, a, row0, row1, panel0, panel1, out, stride);
}

/* lane l += lane l + w for w = 8, 4, 2, 1. */
static float sum_lanes(const vec lanes[NORM_VECTORS])
{
    __m256 a = vec_halves_added(lanes);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    b = _mm_add_ss(b, _mm_shuffle_ps(b, b, 1));
    return _mm_cvtss_f32(b);
}

static void norm_row(const float *x, const float *weight, float eps, uint32_t n, float *out)
{
    vec lanes[NORM_VECTORS];
    for (uint32_t l = 0; l < NORM_VECTORS; l++)
        lanes[l] = vec_zero();
    for (uint32_t i = 0; i < n; i += CONTRACT_NORM_LANES)
        for (uint32_t l = 0; l < NORM_VECTORS; l++) {
            /* Lanes past n add a square of zero to a sum that is not -0: nothing. */
            vec v = vec_load_part(x + i + l * LANES, vec_part_at(i + l * LANES, n));
            lanes[l] = vec_fma(v, v, lanes[l]);
        }
    __m128 mean = _mm_set_ss(sum_lanes(lanes) / (float)n + eps);
    vec r = vec_set1(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(mean)));
    for (uint32_t i = 0; i < n; i += LANES) {
        vec_part part = vec_part_at(i, n);
        vec v = vec_mul(vec_load_part(x + i, part), r);
        vec_store_part(out + i, vec_mul(v, vec_load_part(weight + i, part)), part);
    }
}

static void rms_norm(const float *x, const float *weight, float eps, uint32_t n_rows, uint32_t width, float *out)
{
    for (size_t r = 0; r < n_rows; r++)
        norm_row(x + r * width, weight, eps, width, out + r * width);
}

static void rope_halves(float *x, const float *cosines, const float *sines, uint32_t half)
{
    for (uint32_t i = 0; i < half; i += LANES) {
        vec_part part = vec_part_at(i, half);
        vec a = vec_load_part(x + i, part);
        vec b = vec_load_part(x + half + i, part);
        vec sin_a = vec_mul(b, vec_load_part(sines + i, part));
        vec sin_b = vec_mul(a, vec_load_part(sines + half + i, part));
        vec_store_part(x + i, vec_fma(a, vec_load_part(cosines + i, part), sin_a), part);
        vec_store_part(x + half + i, vec_fma(b, vec_load_part(cosines + half + i, part), sin_b), part);
    }
}

static void rope_pairs(float *x, const float *cosines, const float *sines, uint32_t dim)
{
    for (uint32_t i = 0; i < dim; i += LANES) {
        vec_part part = vec_part_at(i, dim);
        vec v = vec_load_part(x + i, part);
        vec partner = vec_mul(vec_swap_pairs(v), vec_load_part(sines + i, part));
        vec_store_part(x + i, vec_fma(v, vec_load_part(cosines + i, part), partner), part);
    }
}

static void rope(float *x, const struct rotation *r)
{
    for (size_t row = 0; row < r->n_rows; row++) {
        const float *cosines = r->cosines + row * r->stride, *sines = r->sines + row * r->stride;
        for (uint32_t h = 0; h < r->n_heads; h++, x += r->head_dim)
            if (r->interleaved)
                rope_pairs(x, cosines, sines, r->dim);
            else
                rope_halves(x, cosines, sines, r->dim / 2);
    }
}

static void scale(float *x, float factor, uint32_t n)
{
    vec f = vec_set1(factor);
    for (uint32_t i = 0; i < n; i += LANES) {
        vec_part part = vec_part_at(i, n);
        vec_store_part(x + i, vec_mul(vec_load_part(x + i, part), f), part);
    }
}

static void add(float *x, const float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        vec_part part = vec_part_at(i, n);
        vec sum = vec_add(vec_load_part(x + i, part), vec_load_part(y + i, part));
        vec_store_part(x + i, sum, part);
    }
}

static void add_to_rows(float *x, const float *y, uint32_t n_rows, uint32_t width)
{
    for (size_t r = 0; r < n_rows; r++)
        add(x + r * width, y, width);
}

static void silu_mul(float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        vec_part part = vec_part_at(i, n);
        vec g = vec_silu(vec_load_part(gate + i, part));
        vec_store_part(gate + i, vec_mul(g, vec_load_part(up + i, part)), part);
    }
}

static void gelu_mul(float *gate, const float *up, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        vec_part part = vec_part_at(i, n);
        vec g = vec_gelu(vec_load_part(gate + i, part));
        vec_store_part(gate + i, vec_mul(g, vec_load_part(up + i, part)), part);
    }
}

static void soft_cap(float *x, float cap, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += LANES) {
        vec_part part = vec_part_at(i, n);
        vec_store_part(x + i, vec_soft_cap(vec_load_part(x + i, part), vec_set1(cap)), part);
    }
}

/* Every step is as in quantise_group() of cpu_reference.c. */
static void store_int8(const float *x, int8_t *dst, uint32_t n)
{
    float lanes[LANES];
    vec most = vec_zero();
    for (uint32_t i = 0; i < n; i += LANES)
        most = vec_max(vec_abs(vec_load_part(x + i, vec_part_at(i, n))), most);
    vec_store(lanes, most);
    float amax = 0.0f;
    for (uint32_t l = 0; l < LANES; l++)
        amax = lanes[l] > amax ? lanes[l] : amax;
    const bool tiny = amax < CONTRACT_TINY;
    const float scale = tiny ? 0.0f : amax / CONTRACT_INT8_MAX;
    const vec inv = vec_set1(CONTRACT_INT8_MAX / amax);
    for (uint32_t i = 0; i < n; i += LANES) {
        vec_part part = vec_part_at(i, n);
        vec v = vec_min(vec_mul(vec_load_part(x + i, part), inv), vec_set1(CONTRACT_INT8_MAX));
        v = vec_max(v, vec_set1(-CONTRACT_INT8_MAX));
        vec_store_8_part(dst + i, tiny ? vec_zero() : v, part);
    }
    memcpy(dst + n, &scale, sizeof scale);
}

static void store_head(enum dtype type, const float *x, void *dst, uint32_t n)
{
    uint16_t *half = dst;
    if (type == DTYPE_F32) {
        memcpy(dst, x, n * sizeof *x);
        return;
    }
    if (type == DTYPE_INT8) {
        store_int8(x, dst, n);
        return;
    }
    for (uint32_t i = 0; i < n; i += LANES) {
        vec_part part = vec_part_at(i, n);
        vec v = vec_load_part(x + i, part);
        vec_store_16_part(half + i, type == DTYPE_BF16 ? vec_narrow_bf16(v) : vec_narrow_f16(v), part);
    }
}

static void kv_store(const struct kv_rows *rows, enum kv_side side, const float *x)
{
    const struct kv_layout *l = rows->kv;
    for (uint32_t r = 0; r < rows->n_rows; r++)
        for (uint32_t h = 0; h < l->n_kv_heads; h++, x += l->head_dim)
            store_head(l->type, x, kv_rows_slot(rows, side, r, h), l->head_dim);
}

static void attend(const struct attention *a, const struct attention_item *items, uint32_t n_items, void *scratch)
{
    for (uint32_t i = 0; i < n_items; i++)
        ISA(attend)(a, &items[i], scratch);
}

const struct backend BACKEND = {
    .name = ISA_NAME,
    .pack_bytes = pack_bytes,
    .pack_describe = pack_describe,
    .pack_panel = pack_panel,
    .embed = embeddings_widen,
    .prepare = prepare,
    .product_rows = 8 * ACT_TILE,
    .product = product,
    .rms_norm = rms_norm,
    .rope = rope,
    .scale = scale,
    .add = add,
    .add_to_rows = add_to_rows,
    .silu_mul = silu_mul,
    .gelu_mul = gelu_mul,
    .soft_cap = soft_cap,
    .kv_store = kv_store,
    .attend_scratch_bytes = ISA(attend_scratch_bytes),
    .attend_rows = ISA(attend_rows),
    .attend = attend,
    .attend_part = ISA(attend_part),
};
