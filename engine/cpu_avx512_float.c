/* Products with float weights: 16 outputs in a vector, k ascending. */
#include <immintrin.h>

#include "engine/cpu_avx512_products.h"
#include "engine/math_avx512.h"

#define PREFETCH_VALUES 512u

struct tile {
    const uint8_t *panels;
    size_t panel_bytes;
    uint32_t n_in;
    const float *x; /* [n_in][R] */
    float *out;
    size_t stride;
    uint16_t last_mask; /* outputs of the last panel */
};

void avx512_prepare_f32(struct activations *a, uint32_t row0, uint32_t n, const float *x)
{
    for (uint32_t done = 0; done < n;) {
        uint32_t row = row0 + done;
        uint32_t rows = act_tile_rows(a->n_rows - row);
        float *tile = a->f32 + (size_t)row * a->n_in;
        for (uint32_t k = 0; k < a->n_in; k++)
            for (uint32_t r = 0; r < rows; r++)
                tile[k * rows + r] = x[(size_t)(done + r) * a->n_in + k];
        done += rows;
    }
}

ALWAYS_INLINE __m512 load_weights(const enum dtype type, const uint8_t *src)
{
    if (type == DTYPE_F32)
        return _mm512_loadu_ps((const float *)(const void *)src);
    __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)src);
    return type == DTYPE_F16 ? _mm512_cvtph_ps(half) : math_widen_bf16(half);
}

ALWAYS_INLINE void run_tile(const enum dtype type, const uint32_t R, const uint32_t P, const struct tile *t)
{
    const size_t step = PANEL * (type == DTYPE_F32 ? sizeof(float) : sizeof(uint16_t));
    __m512 acc[12];
    UNROLL
    for (uint32_t i = 0; i < R * P; i++)
        acc[i] = _mm512_setzero_ps();
    for (uint32_t k = 0; k < t->n_in; k++) {
        UNROLL
        for (uint32_t p = 0; p < P; p++) {
            const uint8_t *src = t->panels + p * t->panel_bytes + k * step;
            _mm_prefetch((const char *)src + PREFETCH_VALUES * 4, _MM_HINT_T0);
            __m512 w = load_weights(type, src);
            UNROLL
            for (uint32_t r = 0; r < R; r++)
                acc[r * P + p] = _mm512_fmadd_ps(w, _mm512_set1_ps(t->x[(size_t)k * R + r]), acc[r * P + p]);
        }
    }
    UNROLL
    for (uint32_t r = 0; r < R; r++)
        UNROLL
    for (uint32_t p = 0; p < P; p++)
        _mm512_mask_storeu_ps(t->out + r * t->stride + p * PANEL, p + 1 == P ? t->last_mask : (__mmask16)0xffff,
                              acc[r * P + p]);
}

/* One function for each type and shape of tile. */
#define TILE_SHAPES(X, type) X(type, 12, 1) X(type, 8, 1) X(type, 4, 1) X(type, 2, 1) X(type, 1, 1) X(type, 1, 4)
#define DEFINE_TILE(type, R, P)                                                                                        \
    static __attribute__((noinline)) void tile_##type##_##R##_##P(const struct tile *t)                                \
    {                                                                                                                  \
        run_tile(DTYPE_##type, R, P, t);                                                                               \
    }
TILE_SHAPES(DEFINE_TILE, F32)
TILE_SHAPES(DEFINE_TILE, F16)
TILE_SHAPES(DEFINE_TILE, BF16)

typedef void (*tile_fn)(const struct tile *);

static tile_fn find_tile(enum dtype type, uint32_t rows, uint32_t panels)
{
#define FIND_TILE(name, R, P)                                                                                          \
    if (type == DTYPE_##name && rows == (R) && panels == (P))                                                          \
        return tile_##name##_##R##_##P;
    TILE_SHAPES(FIND_TILE, F32)
    TILE_SHAPES(FIND_TILE, F16)
    TILE_SHAPES(FIND_TILE, BF16)
#undef FIND_TILE
    assert_failed("a tile shape without a function", __FILE__, __LINE__);
}

void avx512_product_f32(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                        uint32_t panel0, uint32_t panel1, float *out, size_t stride)
{
    for (uint32_t panel = panel0; panel < panel1;) {
        uint32_t n_panels = row1 - row0 == 1 && panel1 - panel >= 4 ? 4 : 1;
        for (uint32_t row = row0; row < row1;) {
            uint32_t rows = act_tile_rows(a->n_rows - row);
            struct tile t = {
                .panels = m->data + panel * m->panel_bytes,
                .panel_bytes = m->panel_bytes,
                .n_in = m->n_in,
                .x = a->f32 + (size_t)row * a->n_in,
                .out = out + row * stride + panel * PANEL,
                .stride = stride,
                .last_mask = panel_mask(m, panel + n_panels - 1),
            };
            find_tile(m->type, rows, n_panels)(&t);
            row += rows;
        }
        panel += n_panels;
    }
}
