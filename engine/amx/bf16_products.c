/* Products of class amx: 24 rows and two panels are four tiles of sums, so that each tile
 * of rows or weights that is loaded is used twice.
 *
 * Measured on Sapphire Rapids: a tile product takes 13 cycles for 12 rows and 17 for 16, a
 * load 7 and 9, which other ports do meanwhile, but a store 17 for either, which nothing hides. So sums stay in their
 * tiles for 16 steps, and go to memory where the tiles of all rows lie one after another; rows that are 4 KiB apart
 * would share a set of the first cache and take nine times as long.
 *
 * The 16 steps of two panels are 32 KiB that meet all rows before the next ones come, and are
 * made of quantised weights on the way: about a sixth of the time at 512 rows. The rows' part
 * of 16 steps stays in the second cache for up to 8 panels. */
#include <string.h>

#include "engine/amx/kernels.h"
#include "engine/amx/unpack.h"

#define DEPTH_STEPS 16u
#define PASS_PANELS 8u
#define PASS_TILES  44u /* of rows: a step of 512 tokens and more */
#define FEW_TILES   2u  /* rows that weights meet only once: panels are then read from one end to the other */
#define STEP_WORDS  (CONTRACT_STEP * PANEL) /* of one panel */

/* The sums of a tile of rows and a panel, and the weights of one panel's step. */
struct sums {
    float of[ACT_TILE][PANEL];
};
struct step {
    uint16_t of[STEP_WORDS];
};

/* --- activations: [tile of 12 rows][step][row][32] --- */

static uint32_t tile_rows(uint32_t rows_left)
{
    return rows_left < ACT_TILE ? rows_left : ACT_TILE;
}

/* 32 values, zeros behind the last of n. */
static inline __m512i round_step(const float *x, uint32_t n)
{
    __m512 low = vec_load_part(x, vec_part_at(0, n));
    __m512 high = vec_load_part(n > LANES ? x + LANES : x, vec_part_at(LANES, n));
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

void AMX(prepare_bf16)(struct activations *a, uint32_t row0, uint32_t n, const float *x)
{
    const size_t stride = act_bf16_stride(a->n_in);
    for (uint32_t row = row0; row < row0 + n; row++, x += a->n_in) {
        const uint32_t first = row / ACT_TILE * ACT_TILE;
        const uint32_t rows = tile_rows(a->n_rows - first);
        uint16_t *dst = a->bf16 + first * stride + (size_t)(row - first) * CONTRACT_STEP;
        for (uint32_t k = 0; k < stride; k += CONTRACT_STEP)
            _mm512_storeu_si512(dst + (size_t)k * rows, round_step(x + k, a->n_in - k));
    }
}

/* --- weights --- */

/* Values k and k + 1 of each output, as pairs of bfloat16. */
ALWAYS_INLINE __m512i pair_up(__m512 even, __m512 odd)
{
    return pair_halves((__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

/* One group of a panel is one step of it. */
ALWAYS_INLINE void widen_group(const enum dtype type, const uint8_t *panel, const struct pack_places *at, size_t g,
                               struct step *to)
{
    const uint8_t *low = panel + g * at->low_bytes;
    const uint8_t *high = panel + at->high + g * at->high_bytes;
    const __m512 minimum = quant_has_minimum(type) ? unpack_minimum(type, panel, at, g) : _mm512_setzero_ps();
    __m512 scale[2];
    UNROLL
    for (uint32_t h = 0; h < quant_halves(type); h++)
        scale[h] = unpack_scale(type, panel, at, g, h);
    UNROLL
    for (uint32_t s = 0; s < SLICES; s++) {
        const __m512i w = unpack_slice(type, low, high, s);
        __m512 x[4];
        UNROLL
        for (uint32_t i = 0; i < 4; i++) {
            const __m512i byte = _mm512_srai_epi32(_mm512_slli_epi32(w, 24 - 8 * i), 24);
            x[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(byte), scale[s * quant_halves(type) / SLICES]);
            if (quant_has_minimum(type))
                x[i] = _mm512_add_ps(x[i], minimum);
        }
        _mm512_storeu_si512(to->of + (size_t)s * 4 * PANEL, pair_up(x[0], x[1]));
        _mm512_storeu_si512(to->of + (size_t)(s * 4 + 2) * PANEL, pair_up(x[2], x[3]));
    }
}

static void widen_groups(const struct matrix *m, uint32_t panel, uint32_t first, uint32_t n, struct step *to)
{
    const struct pack_places at = pack_places(m->type, m->n_in / CONTRACT_GROUP);
    const uint8_t *src = m->data.host + panel * m->panel_bytes;
#define X(name, bits, offset, halves, minimum, super)                                                                  \
    if (m->type == DTYPE_##name) {                                                                                     \
        for (uint32_t i = 0; i < n; i++)                                                                               \
            widen_group(DTYPE_##name, src, &at, first + i, &to[i]);                                                    \
        return;                                                                                                        \
    }
    QUANT_FORMATS(X)
#undef X
    assert_failed("a quantised format without a function", __FILE__, __LINE__);
}

/* --- products --- */

/* Up to two tiles of rows against up to two panels for some steps. */
struct block {
    const uint16_t *x[2]; /* of each tile */
    const struct step *w[2];
    uint32_t rows[2], n_steps;
    bool begins;
    struct sums *sums[2]; /* of each tile, those of the panels side by side */
};

/* Sums 0 .. 3 as [tile][panel], rows 4 and 5, weights 6 and 7. */
static void configure(const uint32_t rows[2])
{
    struct amx_shapes shapes = { 0 };
    for (uint32_t i = 0; i < 2; i++) {
        amx_shape(&shapes, 6 + i, AMX_ROWS, AMX_ROW_BYTES);
        if (rows[i] == 0)
            continue;
        amx_shape(&shapes, 2 * i, rows[i], AMX_ROW_BYTES);
        amx_shape(&shapes, 2 * i + 1, rows[i], AMX_ROW_BYTES);
        amx_shape(&shapes, 4 + i, rows[i], AMX_ROW_BYTES);
    }
    amx_configure(&shapes);
}

ALWAYS_INLINE void load_sums(const uint32_t tile, const struct sums *sums, bool begins)
{
    if (begins)
        amx_zero(tile);
    else
        amx_load(tile, sums->of, sizeof sums->of[0]);
}

/* T tiles of rows, P panels. */
ALWAYS_INLINE void run_block(const uint32_t T, const uint32_t P, const struct block *b)
{
    const size_t row_bytes = CONTRACT_STEP * sizeof(uint16_t);
    load_sums(0, &b->sums[0][0], b->begins);
    if (P == 2)
        load_sums(1, &b->sums[0][1], b->begins);
    if (T == 2)
        load_sums(2, &b->sums[1][0], b->begins);
    if (T == 2 && P == 2)
        load_sums(3, &b->sums[1][1], b->begins);
    for (uint32_t s = 0; s < b->n_steps; s++) {
        amx_load(4, b->x[0] + (size_t)s * b->rows[0] * CONTRACT_STEP, row_bytes);
        amx_load(6, b->w[0][s].of, AMX_ROW_BYTES);
        amx_dot_bf16(0, 4, 6);
        if (T == 2) {
            amx_load(5, b->x[1] + (size_t)s * b->rows[1] * CONTRACT_STEP, row_bytes);
            amx_dot_bf16(2, 5, 6);
        }
        if (P == 2) {
            amx_load(7, b->w[1][s].of, AMX_ROW_BYTES);
            amx_dot_bf16(1, 4, 7);
        }
        if (T == 2 && P == 2)
            amx_dot_bf16(3, 5, 7);
    }
    amx_store(0, b->sums[0][0].of, sizeof b->sums[0][0].of[0]);
    if (P == 2)
        amx_store(1, b->sums[0][1].of, sizeof b->sums[0][1].of[0]);
    if (T == 2)
        amx_store(2, b->sums[1][0].of, sizeof b->sums[1][0].of[0]);
    if (T == 2 && P == 2)
        amx_store(3, b->sums[1][1].of, sizeof b->sums[1][1].of[0]);
}

/* Rows that begin a tile, and panels, that are gone through together. */
struct pass {
    const struct matrix *m;
    const struct activations *a;
    uint32_t row0, row1, panel0, panel1;
    struct sums (*sums)[PASS_TILES][2];  /* [pair of panels][tile][panel of the pair] */
    struct step (*widened)[DEPTH_STEPS]; /* [panel of the pair] */
    uint32_t configured[2];              /* rows */
};

/* Steps [step, step + n) of P panels from panel on. */
static void run_pair(struct pass *p, uint32_t panel, const uint32_t P, uint32_t step, uint32_t n)
{
    const size_t stride = act_bf16_stride(p->m->n_in);
    struct sums(*sums)[2] = p->sums[(panel - p->panel0) / 2];
    struct block b = { .n_steps = n, .begins = step == 0 };
    for (uint32_t i = 0; i < P; i++) {
        b.w[i] = p->widened[i];
        if (dtype_is_quantised(p->m->type))
            widen_groups(p->m, panel + i, step, n, p->widened[i]);
        else
            b.w[i] = (const struct step *)(const void *)(p->m->data.host + (panel + i) * p->m->panel_bytes) + step;
    }
    for (uint32_t row = p->row0, tile = 0; row < p->row1; row += b.rows[0] + b.rows[1], tile += 2) {
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t first = row + i * ACT_TILE;
            b.rows[i] = first < p->row1 ? tile_rows(p->a->n_rows - first) : 0;
            b.x[i] = p->a->bf16 + first * stride + (size_t)step * b.rows[i] * CONTRACT_STEP;
            b.sums[i] = b.rows[i] > 0 ? sums[tile + i] : NULL;
        }
        if (memcmp(b.rows, p->configured, sizeof b.rows) != 0)
            configure(b.rows);
        memcpy(p->configured, b.rows, sizeof b.rows);
        if (b.rows[1] > 0 && P == 2)
            run_block(2, 2, &b);
        else if (b.rows[1] > 0)
            run_block(2, 1, &b);
        else if (P == 2)
            run_block(1, 2, &b);
        else
            run_block(1, 1, &b);
    }
}

static void write_out(const struct pass *p, float *out, size_t stride)
{
    for (uint32_t panel = p->panel0; panel < p->panel1; panel++) {
        const uint32_t at = panel - p->panel0;
        const vec_part part = vec_part_at(panel * PANEL, p->m->n_out);
        for (uint32_t row = p->row0; row < p->row1; row++) {
            const uint32_t i = row - p->row0;
            vec_store_part(out + row * stride + (size_t)panel * PANEL,
                           vec_load(p->sums[at / 2][i / ACT_TILE][at % 2].of[i % ACT_TILE]), part);
        }
    }
}

static void run_pass(struct pass *p, float *out, size_t stride)
{
    const uint32_t steps = (uint32_t)(act_bf16_stride(p->m->n_in) / CONTRACT_STEP);
    for (uint32_t step = 0; step < steps; step += DEPTH_STEPS) {
        const uint32_t n = steps - step < DEPTH_STEPS ? steps - step : DEPTH_STEPS;
        for (uint32_t panel = p->panel0; panel < p->panel1; panel += 2)
            run_pair(p, panel, p->panel1 - panel < 2 ? 1 : 2, step, n);
    }
    write_out(p, out, stride);
}

void AMX(product_bf16)(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                       uint32_t panel0, uint32_t panel1, float *out, size_t stride)
{
    struct sums sums[PASS_PANELS / 2][PASS_TILES][2] __attribute__((aligned(64)));
    struct step widened[2][DEPTH_STEPS] __attribute__((aligned(64)));
    struct pass p = { .m = m, .a = a, .sums = sums, .widened = widened };
    const uint32_t panels = row1 - row0 <= FEW_TILES * ACT_TILE ? 2 : PASS_PANELS;
    for (p.row0 = row0; p.row0 < row1; p.row0 = p.row1) {
        p.row1 = row1 - p.row0 < PASS_TILES * ACT_TILE ? row1 : p.row0 + PASS_TILES * ACT_TILE;
        for (p.panel0 = panel0; p.panel0 < panel1; p.panel0 = p.panel1) {
            p.panel1 = panel1 - p.panel0 < panels ? panel1 : p.panel0 + panels;
            run_pass(&p, out, stride);
        }
    }
    amx_release();
}
