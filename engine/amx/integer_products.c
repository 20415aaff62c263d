/* Integer products with AMX tiles: the exact dot of a group is one tile product, all
 * that follows it is float32 arithmetic as the contract has it.
 *
 * A group's tile product has a depth of 32 bytes, so every dot must leave its tile and
 * be multiplied by its scales: that, not the tiles, bounds the speed. Measured on Sapphire Rapids
 * for 12 rows and two panels of 16 outputs: 61 cycles for the tiles of a group, of which 34 are their two stores, which
 * no tile product hides, 39 for what follows (a conversion, a multiplication and a multiply-add a dot, on two ports),
 * and 84 to 89 for both together, wherever the one stands in the other. 24 dots of 32 in 84 cycles are 1.6 times what
 * VNNI does in practice. The accumulators of R rows and two panels must stay in registers: 12 rows fit, 2 x 2 tiles of
 * 16 rows would not and would load and store them for each group.
 *
 * Weights of two panels and 16 groups are first unpacked to signed bytes and float32
 * scales, 22 KiB that stay in the first cache for all rows. The sums of rows whose
 * groups are not all done wait side by side; in the output, where rows lie 4 KiB apart, they would fall on one set of
 * the cache. */
#include <string.h>

#include "engine/amx/kernels.h"
#include "engine/amx/unpack.h"

#define CHUNK_GROUPS 16u
#define LEAST_ROWS   8u  /* of a tile that is worth unpacking weights for */
#define REGION_TILES 44u /* that weights, once unpacked, meet */

/* One panel's part of a chunk. */
struct staged {
    int8_t w[CHUNK_GROUPS][SLICES][SLICE_BYTES];
    float d[CHUNK_GROUPS][2][PANEL]; /* of each half */
    float m[CHUNK_GROUPS][PANEL];
} __attribute__((aligned(64)));

/* The sums of a tile of rows and up to two panels. */
struct sums {
    float of[ACT_TILE][2][PANEL];
};

/* A tile of rows against neighbouring panels for one chunk. */
struct chunk {
    const struct staged *panels;
    uint32_t n_groups;
    bool begins;
    const int8_t *q, *q_low;
    const float *scale;
    struct sums *sums;
};

/* --- activations --- */

/* From dword j of every row to every row's dwords, in place. */
static void turn_groups(int8_t *q, size_t groups, uint32_t rows)
{
    int32_t turned[SLICES * ACT_TILE];
    for (size_t g = 0; g < groups; g++, q += (size_t)CONTRACT_GROUP * rows) {
        for (uint32_t j = 0; j < SLICES; j++)
            for (uint32_t r = 0; r < rows; r++)
                memcpy(turned + r * SLICES + j, q + (j * rows + r) * sizeof *turned, sizeof *turned);
        memcpy(q, turned, (size_t)CONTRACT_GROUP * rows);
    }
}

void AMX(prepare_int)(struct activations *a, bool wide, uint32_t row0, uint32_t n, const float *x)
{
    avx512_prepare_int(a, wide, row0, n, x);
    size_t groups = a->n_in / CONTRACT_GROUP;
    for (uint32_t row = row0, rows; row < row0 + n; row += rows) {
        rows = act_tile_rows(a->n_rows - row);
        if (rows < LEAST_ROWS)
            continue;
        turn_groups(a->q + (size_t)row * a->n_in, groups, rows);
        if (wide)
            turn_groups(a->q_low + (size_t)row * a->n_in, groups, rows);
    }
}

/* --- weights --- */

ALWAYS_INLINE void stage(const enum dtype type, const struct matrix *m, uint32_t panel, uint32_t group0, uint32_t n,
                         struct staged *to)
{
    const struct pack_places at = pack_places(type, m->n_in / CONTRACT_GROUP);
    const uint8_t *src = m->data.host + panel * m->panel_bytes;
    for (uint32_t i = 0; i < n; i++) {
        const size_t g = group0 + i;
        const uint8_t *low = src + g * at.low_bytes;
        const uint8_t *high = src + at.high + g * at.high_bytes;
        UNROLL
        for (uint32_t s = 0; s < SLICES; s++)
            _mm512_store_si512(to->w[i][s], unpack_slice(type, low, high, s));
        UNROLL
        for (uint32_t h = 0; h < quant_halves(type); h++)
            _mm512_store_ps(to->d[i][h], unpack_scale(type, src, &at, g, h));
        if (quant_has_minimum(type))
            _mm512_store_ps(to->m[i], unpack_minimum(type, src, &at, g));
    }
}

static void stage_panel(const struct matrix *m, uint32_t panel, uint32_t group0, uint32_t n, struct staged *to)
{
#define X(name, bits, offset, halves, minimum, super)                                                                  \
    if (m->type == DTYPE_##name) {                                                                                     \
        stage(DTYPE_##name, m, panel, group0, n, to);                                                                  \
        return;                                                                                                        \
    }
    QUANT_FORMATS(X)
#undef X
    assert_failed("a quantised format without a function", __FILE__, __LINE__);
}

/* --- products --- */

/* What a format's groups are made of. */
enum form { PLAIN, HALVED, WITH_MINIMUM, FORM_COUNT };

static enum form form_of(enum dtype type)
{
    return quant_halves(type) == 2 ? HALVED : quant_has_minimum(type) ? WITH_MINIMUM : PLAIN;
}

/* Tiles of sums 0 and 1, of rows 2, of weights 3 and 4. */
static void configure(uint32_t rows, enum form form)
{
    const uint32_t depth = form == HALVED ? CONTRACT_GROUP / 2 : CONTRACT_GROUP;
    struct amx_shapes shapes = { 0 };
    for (uint32_t p = 0; p < 2; p++) {
        amx_shape(&shapes, p, rows, SLICE_BYTES);
        amx_shape(&shapes, 3 + p, depth / 4, SLICE_BYTES);
    }
    amx_shape(&shapes, 2, rows, depth);
    amx_configure(&shapes);
}

/* Dots of R rows and P panels, as tiles store them. */
struct dots {
    int32_t of[2][ACT_TILE][PANEL];
} __attribute__((aligned(64)));

/* Half h (all of it but in HALVED) of group g, with the high or the low bytes. */
ALWAYS_INLINE void multiply(const uint32_t R, const uint32_t P, const enum form form, const struct chunk *c, uint32_t g,
                            uint32_t h, const int8_t *q, struct dots *to)
{
    const uint32_t slices = form == HALVED ? SLICES / 2 : SLICES;
    amx_load(2, q + (size_t)g * CONTRACT_GROUP * R + (size_t)h * slices * 4, CONTRACT_GROUP);
    amx_zero(0);
    amx_load(3, c->panels[0].w[g][h * slices], SLICE_BYTES);
    amx_dot_int8(0, 2, 3);
    amx_store(0, to->of[0], SLICE_BYTES);
    if (P == 1)
        return;
    amx_zero(1);
    amx_load(4, c->panels[1].w[g][h * slices], SLICE_BYTES);
    amx_dot_int8(1, 2, 4);
    amx_store(1, to->of[1], SLICE_BYTES);
}

/* acc[r * P + p] += the dots times their scales. */
ALWAYS_INLINE void add_dots(const uint32_t R, const uint32_t P, const bool wide, const struct chunk *c, uint32_t g,
                            uint32_t h, const struct dots dots[2], __m512 *acc)
{
    const float *scale = c->scale + (size_t)g * 2 * R;
    __m512 d[2];
    UNROLL
    for (uint32_t p = 0; p < P; p++)
        d[p] = _mm512_load_ps(c->panels[p].d[g][h]);
    UNROLL
    for (uint32_t r = 0; r < R; r++) {
        __m512 dx = _mm512_set1_ps(scale[r]);
        UNROLL
        for (uint32_t p = 0; p < P; p++) {
            __m512i dot = _mm512_load_si512(dots[0].of[p][r]);
            if (wide)
                dot = _mm512_add_epi32(_mm512_slli_epi32(dot, 8), _mm512_load_si512(dots[1].of[p][r]));
            acc[r * P + p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(d[p], dx), acc[r * P + p]);
        }
    }
}

ALWAYS_INLINE void add_minima(const uint32_t R, const uint32_t P, const struct chunk *c, uint32_t g, __m512 *acc)
{
    const float *sums = c->scale + ((size_t)g * 2 + 1) * R;
    UNROLL
    for (uint32_t p = 0; p < P; p++) {
        __m512 m = _mm512_load_ps(c->panels[p].m[g]);
        UNROLL
        for (uint32_t r = 0; r < R; r++)
            acc[r * P + p] = _mm512_fmadd_ps(m, _mm512_set1_ps(sums[r]), acc[r * P + p]);
    }
}

ALWAYS_INLINE void run_chunk(const uint32_t R, const uint32_t P, const enum form form, const bool wide,
                             const struct chunk *c)
{
    const uint32_t halves = form == HALVED ? 2 : 1;
    const uint32_t n = c->n_groups * halves;
    struct dots dots[2][2]; /* of this step and of the next one, which tiles make meanwhile; high and low bytes */
    __m512 acc[24];
    UNROLL
    for (uint32_t r = 0; r < R; r++) {
        UNROLL
        for (uint32_t p = 0; p < P; p++)
            acc[r * P + p] = c->begins ? _mm512_setzero_ps() : _mm512_load_ps(c->sums->of[r][p]);
    }
    for (uint32_t i = 0; i <= n; i++) {
        if (i < n) {
            multiply(R, P, form, c, i / halves, i % halves, c->q, &dots[i % 2][0]);
            if (wide)
                multiply(R, P, form, c, i / halves, i % halves, c->q_low, &dots[i % 2][1]);
        }
        if (i == 0)
            continue;
        const uint32_t done = i - 1;
        add_dots(R, P, wide, c, done / halves, done % halves, dots[done % 2], acc);
        if (form == WITH_MINIMUM)
            add_minima(R, P, c, done, acc);
    }
    UNROLL
    for (uint32_t r = 0; r < R; r++) {
        UNROLL
        for (uint32_t p = 0; p < P; p++)
            _mm512_store_ps(c->sums->of[r][p], acc[r * P + p]);
    }
}

/* One function for each shape of tile, form and width of activations. */
#define CHUNK_SHAPES(X, form) X(form, 12, 2) X(form, 12, 1) X(form, 8, 2) X(form, 8, 1)
#define CHUNK_FORMS(X)        CHUNK_SHAPES(X, PLAIN) CHUNK_SHAPES(X, HALVED) CHUNK_SHAPES(X, WITH_MINIMUM)
#define DEFINE_CHUNK(form, R, P)                                                                                       \
    static __attribute__((noinline)) void chunk_##form##_##R##_##P(const struct chunk *c)                              \
    {                                                                                                                  \
        run_chunk(R, P, form, false, c);                                                                               \
    }                                                                                                                  \
    static __attribute__((noinline)) void wide_##form##_##R##_##P(const struct chunk *c)                               \
    {                                                                                                                  \
        run_chunk(R, P, form, true, c);                                                                                \
    }
CHUNK_FORMS(DEFINE_CHUNK)

typedef void (*chunk_fn)(const struct chunk *);

static chunk_fn find_chunk(enum form of, bool wide, uint32_t rows, uint32_t panels)
{
#define FIND_CHUNK(form, R, P)                                                                                         \
    if (of == (form) && rows == (R) && panels == (P))                                                                  \
        return wide ? wide_##form##_##R##_##P : chunk_##form##_##R##_##P;
    CHUNK_FORMS(FIND_CHUNK)
#undef FIND_CHUNK
    assert_failed("a tile shape without a function", __FILE__, __LINE__);
}

/* What one call works on: rows that stand in tiles of LEAST_ROWS or more. */
struct region {
    const struct matrix *m;
    const struct activations *a;
    uint32_t row0, row1;
    struct sums *sums; /* of each tile */
    float *out;
    size_t stride;
};

/* n_panels of a chunk's groups against all rows; *rows is what tiles are configured for. */
static void run_rows(const struct region *g, const struct staged *panels, uint32_t n_panels, uint32_t group0,
                     uint32_t n_groups, uint32_t *rows)
{
    const struct activations *a = g->a;
    const size_t groups = a->n_in / CONTRACT_GROUP;
    const bool wide = g->m->rule == RULE_INT16;
    struct sums *sums = g->sums;
    for (uint32_t row = g->row0; row < g->row1; row += *rows) {
        const uint32_t tile_rows = act_tile_rows(a->n_rows - row);
        if (tile_rows != *rows)
            configure(tile_rows, form_of(g->m->type));
        *rows = tile_rows;
        const size_t q_at = (size_t)row * a->n_in + (size_t)group0 * CONTRACT_GROUP * tile_rows;
        struct chunk c = {
            .panels = panels,
            .n_groups = n_groups,
            .begins = group0 == 0,
            .q = a->q + q_at,
            .q_low = wide ? a->q_low + q_at : NULL,
            .scale = a->scale + row * groups * 2 + (size_t)group0 * 2 * tile_rows,
            .sums = sums++,
        };
        find_chunk(form_of(g->m->type), wide, tile_rows, n_panels)(&c);
    }
}

static void write_out(const struct region *g, uint32_t panel, uint32_t n_panels)
{
    const struct sums *sums = g->sums;
    for (uint32_t row = g->row0, rows; row < g->row1; row += rows, sums++) {
        rows = act_tile_rows(g->a->n_rows - row);
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t p = 0; p < n_panels; p++)
                vec_store_part(g->out + (row + r) * g->stride + (size_t)(panel + p) * PANEL, vec_load(sums->of[r][p]),
                               vec_part_at((panel + p) * PANEL, g->m->n_out));
    }
}

static void run_region(const struct region *g, uint32_t panel0, uint32_t panel1)
{
    const uint32_t groups = g->m->n_in / CONTRACT_GROUP;
    struct staged panels[2];
    uint32_t rows = 0;
    for (uint32_t panel = panel0, n; panel < panel1; panel += n) {
        n = panel1 - panel >= 2 ? 2 : 1;
        for (uint32_t group0 = 0; group0 < groups; group0 += CHUNK_GROUPS) {
            const uint32_t n_groups = groups - group0 < CHUNK_GROUPS ? groups - group0 : CHUNK_GROUPS;
            for (uint32_t p = 0; p < n; p++)
                stage_panel(g->m, panel + p, group0, n_groups, &panels[p]);
            run_rows(g, panels, n, group0, n_groups, &rows);
        }
        write_out(g, panel, n);
    }
    amx_release();
}

void AMX(product_int)(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                      uint32_t panel0, uint32_t panel1, float *out, size_t stride)
{
    struct sums sums[REGION_TILES] __attribute__((aligned(64)));
    uint32_t row = row0;
    while (row < row1 && act_tile_rows(a->n_rows - row) >= LEAST_ROWS) {
        struct region g = { .m = m, .a = a, .row0 = row, .row1 = row, .sums = sums, .out = out, .stride = stride };
        for (uint32_t tiles = 0, rows; tiles < REGION_TILES && g.row1 < row1; tiles++, g.row1 += rows) {
            rows = act_tile_rows(a->n_rows - g.row1);
            if (rows < LEAST_ROWS)
                break;
        }
        run_region(&g, panel0, panel1);
        row = g.row1;
    }
    if (row < row1)
        avx512_product_int(m, a, row, row1, panel0, panel1, out, stride);
}
