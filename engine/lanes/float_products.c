/* Products with float weights: lanes are outputs, k ascending. */
#include "engine/lanes/kernels.h"

#define PREFETCH_BYTES 2048u
#define PANELS_AT_ONCE 4u

struct tile {
    const uint8_t *panels;
    size_t panel_bytes;
    uint32_t n_in;
    const float *x; /* [n_in][T] */
    float *out;
    size_t stride;
    vec_part last[PANEL_VECTORS]; /* outputs of the last panel */
};

void ISA(prepare_f32)(struct activations *a, uint32_t row0, uint32_t n, const float *x)
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

/* What lanes v of a panel hold of K values of k: pairs of bfloat16 are two, all else is one. */
ALWAYS_INLINE void load_weights(const enum dtype type, const uint8_t *src, const uint32_t v, const uint32_t V, vec *w)
{
    if (type == DTYPE_F32) {
        w[v] = vec_load((const float *)(const void *)src + v % PANEL_VECTORS * LANES);
    } else if (type == DTYPE_F16) {
        w[v] = vec_widen_f16(vec_load_16(src + v % PANEL_VECTORS * LANES * sizeof(uint16_t)));
    } else {
        vec_i32 pairs = vec_load_i32((const int32_t *)(const void *)src + v % PANEL_VECTORS * LANES);
        w[v] = vec_widen_low_bf16(pairs);
        w[V + v] = vec_widen_high_bf16(pairs);
    }
}

/* One value of k. */
ALWAYS_INLINE void multiply(const uint32_t R, const uint32_t V, const vec *w, const float *x, vec *acc)
{
    UNROLL
    for (uint32_t r = 0; r < R; r++) {
        vec row = vec_set1(x[r]);
        UNROLL
        for (uint32_t v = 0; v < V; v++)
            acc[r * V + v] = vec_fma(w[v], row, acc[r * V + v]);
    }
}

/* Rows first .. first + R - 1 of a tile of T rows against P panels. */
ALWAYS_INLINE void run_rows(const enum dtype type, const uint32_t T, const uint32_t R, const uint32_t P,
                            const struct tile *t, uint32_t first)
{
    const uint32_t V = P * PANEL_VECTORS;
    const uint32_t K = type == DTYPE_BF16 ? 2 : 1;
    const size_t value_bytes = type == DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
    vec acc[24];
    UNROLL
    for (uint32_t i = 0; i < R * V; i++)
        acc[i] = vec_zero();
    for (uint32_t k = 0; k < t->n_in; k += K) {
        vec w[2 * 4 * PANEL_VECTORS];
        UNROLL
        for (uint32_t v = 0; v < V; v++) {
            const uint8_t *src = t->panels + v / PANEL_VECTORS * t->panel_bytes + k * PANEL * value_bytes;
            if (v % PANEL_VECTORS == 0)
                _mm_prefetch((const char *)src + PREFETCH_BYTES, _MM_HINT_T0);
            load_weights(type, src, v, V, w);
        }
        const float *x = t->x + (size_t)k * T + first;
        multiply(R, V, w, x, acc);
        if (K == 2 && k + 1 < t->n_in)
            multiply(R, V, w + V, x + T, acc);
    }
    UNROLL
    for (uint32_t i = 0; i < R * V; i++) {
        uint32_t v = i % V;
        float *out = t->out + (first + i / V) * t->stride + v * LANES;
        if (v < V - PANEL_VECTORS)
            vec_store(out, acc[i]);
        else
            vec_store_part(out, acc[i], t->last[v % PANEL_VECTORS]);
    }
}

/* A tile's rows, R at a time. */
ALWAYS_INLINE void run_tile(const enum dtype type, const uint32_t T, const uint32_t R, const uint32_t P,
                            const struct tile *t)
{
    for (uint32_t first = 0; first < T; first += R)
        run_rows(type, T, R, P, t, first);
}

/* One function for each type and shape of tile. A shape is rows of the tile, rows and panels at a time:
 * accumulators enough to hide what a multiply-add takes, and not more than there are registers. */
#if LANES == 16
#define TILE_SHAPES(X, type)                                                                                           \
    X(type, 12, 12, 2)                                                                                                 \
    X(type, 12, 12, 1)                                                                                                 \
    X(type, 8, 8, 2)                                                                                                   \
    X(type, 8, 8, 1)                                                                                                   \
    X(type, 4, 4, 4) X(type, 4, 4, 1) X(type, 2, 2, 4) X(type, 2, 2, 1) X(type, 1, 1, 4) X(type, 1, 1, 1)
#else
#define TILE_SHAPES(X, type)                                                                                           \
    X(type, 12, 6, 1) X(type, 8, 4, 1) X(type, 4, 4, 1) X(type, 2, 2, 1) X(type, 1, 1, 1) X(type, 1, 1, 4)
#endif
#define DEFINE_TILE(type, T, R, P)                                                                                     \
    static __attribute__((noinline)) void tile_##type##_##T##_##P(const struct tile *t)                                \
    {                                                                                                                  \
        run_tile(DTYPE_##type, T, R, P, t);                                                                            \
    }
TILE_SHAPES(DEFINE_TILE, F32)
TILE_SHAPES(DEFINE_TILE, F16)
TILE_SHAPES(DEFINE_TILE, BF16)

typedef void (*tile_fn)(const struct tile *);

static tile_fn find_tile(enum dtype type, uint32_t rows, uint32_t panels)
{
#define FIND_TILE(name, T, R, P)                                                                                       \
    if (type == DTYPE_##name && rows == (T) && panels == (P))                                                          \
        return tile_##name##_##T##_##P;
    TILE_SHAPES(FIND_TILE, F32)
    TILE_SHAPES(FIND_TILE, F16)
    TILE_SHAPES(FIND_TILE, BF16)
#undef FIND_TILE
    assert_failed("a tile shape without a function", __FILE__, __LINE__);
}

/* Of the shapes above. */
static uint32_t panels_at_once(uint32_t rows)
{
    if (LANES == 16)
        return rows <= 4 ? 4 : 2;
    return rows == 1 ? 4 : 1;
}

static void run_row_tile(const struct matrix *m, const struct activations *a, uint32_t row, uint32_t panel0,
                         uint32_t panel1, float *out, size_t stride)
{
    const uint32_t rows = act_tile_rows(a->n_rows - row);
    const uint32_t step = panels_at_once(rows);
    for (uint32_t panel = panel0; panel < panel1;) {
        uint32_t n_panels = panel1 - panel >= step ? step : 1;
        struct tile t = {
            .panels = m->data.host + panel * m->panel_bytes,
            .panel_bytes = m->panel_bytes,
            .n_in = m->n_in,
            .x = a->f32 + (size_t)row * a->n_in,
            .out = out + row * stride + panel * PANEL,
            .stride = stride,
        };
        for (uint32_t v = 0; v < PANEL_VECTORS; v++)
            t.last[v] = vec_part_at((panel + n_panels - 1) * PANEL + v * LANES, m->n_out);
        find_tile(m->type, rows, n_panels)(&t);
        panel += n_panels;
    }
}

/* Some panels at a time, so that they stay in a cache while all rows meet them. */
void ISA(product_f32)(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                      uint32_t panel0, uint32_t panel1, float *out, size_t stride)
{
    for (uint32_t panel = panel0; panel < panel1; panel += PANELS_AT_ONCE) {
        uint32_t end = panel1 - panel > PANELS_AT_ONCE ? panel + PANELS_AT_ONCE : panel1;
        for (uint32_t row = row0; row < row1; row += act_tile_rows(a->n_rows - row))
            run_row_tile(m, a, row, panel, end, out, stride);
    }
}
