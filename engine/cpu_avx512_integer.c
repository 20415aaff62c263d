/* Integer products with VNNI: quantised weights as unsigned bytes in registers,
 * activation bytes broadcast. 16-bit activations are two bytes: the high ones are
 * multiplied first and the sum shifted. */
#include <immintrin.h>
#include <string.h>

#include "engine/lanes/kernels.h"

#define SLICES         8u /* of 4 values in a group */
#define PREFETCH_BYTES 2048u

/* One tile of activations against P neighbouring panels. */
struct tile {
    const uint8_t *panels;
    size_t panel_bytes, groups;
    const int8_t *q, *q_low;
    const float *scale;
    const int32_t *bias;
    float *out;
    size_t stride;
    uint16_t last_mask; /* outputs of the last panel */
};

static __m512i quantise_half(__m512 x, float most, __m512 inv)
{
    __m512 v = _mm512_min_ps(_mm512_mul_ps(x, inv), _mm512_set1_ps(most));
    v = _mm512_max_ps(v, _mm512_set1_ps(-most));
    return _mm512_cvtps_epi32(v);
}

/* 32 values as bytes, the low eight bits of each. */
static __m256i narrow_bytes(__m512i lo, __m512i hi)
{
    return _mm256_set_m128i(_mm512_cvtepi32_epi8(hi), _mm512_cvtepi32_epi8(lo));
}

static __m512i high_bytes(__m512i q)
{
    return _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
}

static void store_slices(__m256i bytes, uint32_t tile_rows, int32_t *q)
{
    int32_t slices[SLICES];
    _mm256_storeu_si256((__m256i *)slices, bytes);
    for (uint32_t j = 0; j < SLICES; j++)
        q[j * tile_rows] = slices[j];
}

/* Where a group of one row goes, in its tile. */
struct group_place {
    int32_t *q, *q_low; /* q_low NULL: 8 bits */
    float *scale;
    int32_t *bias;
};

static void quantise_group(const float *x, uint32_t tile_rows, const struct group_place *to)
{
    float most = to->q_low != NULL ? CONTRACT_INT16_MAX : CONTRACT_INT8_MAX;
    __m512 lo = _mm512_loadu_ps(x);
    __m512 hi = _mm512_loadu_ps(x + 16);
    __m512 max = _mm512_max_ps(_mm512_abs_ps(lo), _mm512_setzero_ps());
    max = _mm512_max_ps(_mm512_abs_ps(hi), max);
    float amax = _mm512_reduce_max_ps(max);
    __m512i q_lo = _mm512_setzero_si512();
    __m512i q_hi = _mm512_setzero_si512();
    float dx = 0.0f;
    if (!(amax < CONTRACT_TINY)) {
        __m512 inv = _mm512_set1_ps(most / amax);
        q_lo = quantise_half(lo, most, inv);
        q_hi = quantise_half(hi, most, inv);
        dx = amax / most;
    }
    int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(q_lo, q_hi));
    to->scale[0] = dx;
    to->scale[tile_rows] = dx * (float)sum;
    to->bias[0] = -8 * sum;
    to->bias[tile_rows] = -128 * sum;
    if (to->q_low != NULL) {
        store_slices(narrow_bytes(q_lo, q_hi), tile_rows, to->q_low);
        q_lo = high_bytes(q_lo);
        q_hi = high_bytes(q_hi);
    }
    store_slices(narrow_bytes(q_lo, q_hi), tile_rows, to->q);
}

void avx512_prepare_int(struct activations *a, bool wide, uint32_t row0, uint32_t n, const float *x)
{
    size_t groups = a->n_in / CONTRACT_GROUP;
    for (uint32_t done = 0; done < n;) {
        uint32_t row = row0 + done;
        uint32_t tile_rows = act_tile_rows(a->n_rows - row);
        int32_t *q = (int32_t *)(void *)(a->q + (size_t)row * a->n_in);
        int32_t *q_low = wide ? (int32_t *)(void *)(a->q_low + (size_t)row * a->n_in) : NULL;
        float *scale = a->scale + row * groups * 2;
        int32_t *bias = a->bias + row * groups * 2;
        for (size_t g = 0; g < groups; g++)
            for (uint32_t r = 0; r < tile_rows; r++) {
                size_t at = g * 2 * tile_rows + r;
                size_t q_at = g * SLICES * tile_rows + r;
                struct group_place to = { q + q_at, wide ? q_low + q_at : NULL, scale + at, bias + at };
                quantise_group(x + (size_t)(done + r) * a->n_in + g * CONTRACT_GROUP, tile_rows, &to);
            }
        done += tile_rows;
    }
}

/* The byte operand of slice j: dword r of a row of the tile. */
ALWAYS_INLINE __m512i broadcast_bytes(const int8_t *q)
{
    int32_t word;
    memcpy(&word, q, sizeof word);
    return _mm512_set1_epi32(word);
}

/* dot[r * P + p] += slice j of the weights times that of the activations. */
ALWAYS_INLINE void multiply_slice(const uint32_t R, const uint32_t P, const int8_t *q, uint32_t j, const __m512i *w,
                                  __m512i *dot)
{
    UNROLL
    for (uint32_t r = 0; r < R; r++) {
        __m512i x = broadcast_bytes(q + (j * R + r) * 4);
        UNROLL
        for (uint32_t p = 0; p < P; p++)
            dot[r * P + p] = _mm512_dpbusd_epi32(dot[r * P + p], w[p], x);
    }
}

ALWAYS_INLINE void multiply_group(const enum dtype type, const uint32_t R, const uint32_t P, const struct tile *t,
                                  size_t g, const int8_t *q, __m512i *dot)
{
    const size_t group_bytes = type == DTYPE_Q8_0 ? 512 : 256;
    const __m512i nibble = _mm512_set1_epi8(15);
    UNROLL
    for (uint32_t j = 0; j < group_bytes / 64; j++) {
        __m512i w[4];
        __m512i high[4];
        UNROLL
        for (uint32_t p = 0; p < P; p++) {
            const uint8_t *src = t->panels + p * t->panel_bytes + g * group_bytes + j * 64;
            _mm_prefetch((const char *)src + PREFETCH_BYTES, _MM_HINT_T0);
            w[p] = _mm512_loadu_si512(src);
            if (type != DTYPE_Q8_0) {
                high[p] = _mm512_and_si512(_mm512_srli_epi16(w[p], 4), nibble);
                w[p] = _mm512_and_si512(w[p], nibble);
            }
        }
        multiply_slice(R, P, q, j, w, dot);
        if (type != DTYPE_Q8_0)
            multiply_slice(R, P, q, j + 4, high, dot);
    }
}

ALWAYS_INLINE __m512 load_halves(const uint8_t *src)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)src));
}

ALWAYS_INLINE void run_tile(const enum dtype type, const bool wide, const uint32_t R, const uint32_t P,
                            const struct tile *t)
{
    const size_t scale_bytes = PANEL * sizeof(uint16_t);
    const size_t scales_at = t->groups * (type == DTYPE_Q8_0 ? 512 : 256);
    const size_t minima_at = scales_at + t->groups * scale_bytes;
    __m512 acc[12];
    UNROLL
    for (uint32_t i = 0; i < R * P; i++)
        acc[i] = _mm512_setzero_ps();
    for (size_t g = 0; g < t->groups; g++) {
        const float *scale = t->scale + g * 2 * R;
        const int32_t *bias = t->bias + (g * 2 + (type == DTYPE_Q8_0)) * R;
        __m512i dot[12];
        UNROLL
        for (uint32_t i = 0; i < R * P; i++)
            dot[i] = wide || type == DTYPE_Q4_1 ? _mm512_setzero_si512() : _mm512_set1_epi32(bias[i / P]);
        multiply_group(type, R, P, t, g, t->q + g * CONTRACT_GROUP * R, dot);
        if (wide) {
            UNROLL
            for (uint32_t i = 0; i < R * P; i++) {
                dot[i] = _mm512_slli_epi32(dot[i], 8);
                if (type != DTYPE_Q4_1)
                    dot[i] = _mm512_add_epi32(dot[i], _mm512_set1_epi32(bias[i / P]));
            }
            multiply_group(type, R, P, t, g, t->q_low + g * CONTRACT_GROUP * R, dot);
        }
        UNROLL
        for (uint32_t p = 0; p < P; p++) {
            const uint8_t *panel = t->panels + p * t->panel_bytes;
            __m512 d = load_halves(panel + scales_at + g * scale_bytes);
            UNROLL
            for (uint32_t r = 0; r < R; r++)
                acc[r * P + p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r * P + p]),
                                                 _mm512_mul_ps(d, _mm512_set1_ps(scale[r])), acc[r * P + p]);
            if (type != DTYPE_Q4_1)
                continue;
            __m512 min = load_halves(panel + minima_at + g * scale_bytes);
            UNROLL
            for (uint32_t r = 0; r < R; r++)
                acc[r * P + p] = _mm512_fmadd_ps(min, _mm512_set1_ps(scale[R + r]), acc[r * P + p]);
        }
    }
    UNROLL
    for (uint32_t r = 0; r < R; r++)
        UNROLL
    for (uint32_t p = 0; p < P; p++)
        _mm512_mask_storeu_ps(t->out + r * t->stride + p * PANEL, p + 1 == P ? t->last_mask : (__mmask16)0xffff,
                              acc[r * P + p]);
}

/* One function for each type, width of activations and shape of tile. */
#define TILE_SHAPES(X, type) X(type, 12, 1) X(type, 8, 1) X(type, 4, 1) X(type, 2, 1) X(type, 1, 1) X(type, 1, 4)
#define DEFINE_TILE(type, R, P)                                                                                        \
    static __attribute__((noinline)) void tile_##type##_##R##_##P(const struct tile *t)                                \
    {                                                                                                                  \
        run_tile(DTYPE_##type, false, R, P, t);                                                                        \
    }                                                                                                                  \
    static __attribute__((noinline)) void wide_##type##_##R##_##P(const struct tile *t)                                \
    {                                                                                                                  \
        run_tile(DTYPE_##type, true, R, P, t);                                                                         \
    }
TILE_SHAPES(DEFINE_TILE, Q8_0)
TILE_SHAPES(DEFINE_TILE, Q4_0)
TILE_SHAPES(DEFINE_TILE, Q4_1)

typedef void (*tile_fn)(const struct tile *);

static tile_fn find_tile(enum dtype type, bool wide, uint32_t rows, uint32_t panels)
{
#define FIND_TILE(name, R, P)                                                                                          \
    if (type == DTYPE_##name && rows == (R) && panels == (P))                                                          \
        return wide ? wide_##name##_##R##_##P : tile_##name##_##R##_##P;
    TILE_SHAPES(FIND_TILE, Q8_0)
    TILE_SHAPES(FIND_TILE, Q4_0)
    TILE_SHAPES(FIND_TILE, Q4_1)
#undef FIND_TILE
    assert_failed("a tile shape without a function", __FILE__, __LINE__);
}

/* Outputs of the panel that exist. */
static uint16_t panel_mask(const struct matrix *m, uint32_t panel)
{
    uint32_t left = m->n_out - panel * PANEL;
    return (uint16_t)(left >= PANEL ? 0xffff : (1u << left) - 1);
}

void avx512_product_int(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                        uint32_t panel0, uint32_t panel1, float *out, size_t stride)
{
    size_t groups = m->n_in / CONTRACT_GROUP;
    for (uint32_t panel = panel0; panel < panel1;) {
        uint32_t n_panels = row1 - row0 == 1 && panel1 - panel >= 4 ? 4 : 1;
        for (uint32_t row = row0; row < row1;) {
            uint32_t rows = act_tile_rows(a->n_rows - row);
            struct tile t = {
                .panels = m->data + panel * m->panel_bytes,
                .panel_bytes = m->panel_bytes,
                .groups = groups,
                .q = a->q + (size_t)row * a->n_in,
                .q_low = m->rule == RULE_INT16 ? a->q_low + (size_t)row * a->n_in : NULL,
                .scale = a->scale + row * groups * 2,
                .bias = a->bias + row * groups * 2,
                .out = out + row * stride + panel * PANEL,
                .stride = stride,
                .last_mask = panel_mask(m, panel + n_panels - 1),
            };
            find_tile(m->type, m->rule == RULE_INT16, rows, n_panels)(&t);
            row += rows;
        }
        panel += n_panels;
    }
}
