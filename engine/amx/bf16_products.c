/* Products with BF16 weights in class amx: 32 rows and two panels are four tiles of
 * sums, so that each tile of rows or weights that is loaded is used twice, and 64 cycles
 * of tile products stand beside 32 of loads from the first cache. Weights of two panels
 * are taken 512 values deep, 32 KiB that meet all rows before the next ones come; the
 * sums wait in the output meanwhile, which for a tile is exact. */
#include <string.h>

#include "engine/amx/kernels.h"

#define ROW_BLOCK   (2 * AMX_ROWS)
#define DEPTH_STEPS 16u
#define STEP_BYTES  (CONTRACT_STEP * PANEL * sizeof(uint16_t)) /* of one panel */

void AMX(prepare_bf16)(struct activations *a, uint32_t row0, uint32_t n, const float *x)
{
    const size_t stride = act_bf16_stride(a->n_in);
    for (uint32_t r = 0; r < n; r++) {
        const float *src = x + (size_t)r * a->n_in;
        uint16_t *dst = a->bf16 + (row0 + r) * stride;
        for (uint32_t k = 0; k < stride; k += LANES) {
            vec_part part = vec_part_at(k, a->n_in);
            _mm256_storeu_si256((__m256i *)(void *)(dst + k),
                                (__m256i)_mm512_cvtneps_pbh(vec_load_part(src + k, part)));
        }
    }
}

/* Rows [row, row + n) against P panels for some steps. */
struct block {
    const uint16_t *x;
    size_t x_stride;
    uint32_t n_rows, n_steps;
    const uint8_t *panels;
    size_t panel_bytes;
    bool begins;
    float *out;
    size_t stride;
    uint32_t last_outputs; /* of the last panel */
};

/* Sums 0 .. 3 as [half of the rows][panel], rows 4 and 5, weights 6 and 7. */
static void configure(uint32_t n_rows)
{
    struct amx_shapes shapes = { 0 };
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t rows = i == 0 ? (n_rows < AMX_ROWS ? n_rows : AMX_ROWS) : n_rows > AMX_ROWS ? n_rows - AMX_ROWS : 0;
        amx_shape(&shapes, 6 + i, AMX_ROWS, AMX_ROW_BYTES);
        if (rows == 0)
            continue;
        amx_shape(&shapes, 2 * i, rows, AMX_ROW_BYTES);
        amx_shape(&shapes, 2 * i + 1, rows, AMX_ROW_BYTES);
        amx_shape(&shapes, 4 + i, rows, AMX_ROW_BYTES);
    }
    amx_configure(&shapes);
}

/* Sums of a panel that the matrix does not fill pass through here. */
struct corner {
    float of[AMX_ROWS][PANEL];
};

static void copy_corner(float *to, size_t to_stride, const float *from, size_t from_stride, uint32_t rows, uint32_t n)
{
    for (uint32_t r = 0; r < rows; r++)
        memcpy(to + r * to_stride, from + r * from_stride, n * sizeof *to);
}

ALWAYS_INLINE void load_sums(const uint32_t tile, const struct block *b, const float *out, uint32_t rows,
                             uint32_t outputs)
{
    struct corner corner = { 0 };
    if (b->begins) {
        amx_zero(tile);
    } else if (outputs == PANEL) {
        amx_load(tile, out, b->stride * sizeof *out);
    } else {
        copy_corner(corner.of[0], PANEL, out, b->stride, rows, outputs);
        amx_load(tile, corner.of, sizeof corner.of[0]);
    }
}

ALWAYS_INLINE void store_sums(const uint32_t tile, const struct block *b, float *out, uint32_t rows, uint32_t outputs)
{
    struct corner corner;
    if (outputs == PANEL) {
        amx_store(tile, out, b->stride * sizeof *out);
    } else {
        amx_store(tile, corner.of, sizeof corner.of[0]);
        copy_corner(out, b->stride, corner.of[0], PANEL, rows, outputs);
    }
}

/* I halves of the rows, P panels. */
ALWAYS_INLINE void run_block(const uint32_t I, const uint32_t P, const struct block *b)
{
    const uint32_t rows[2] = { b->n_rows < AMX_ROWS ? b->n_rows : AMX_ROWS, b->n_rows - AMX_ROWS };
    const uint32_t outputs[2] = { P == 2 ? PANEL : b->last_outputs, b->last_outputs };
    float *second = b->out + AMX_ROWS * b->stride;
    load_sums(0, b, b->out, rows[0], outputs[0]);
    if (P == 2)
        load_sums(1, b, b->out + PANEL, rows[0], outputs[1]);
    if (I == 2)
        load_sums(2, b, second, rows[1], outputs[0]);
    if (I == 2 && P == 2)
        load_sums(3, b, second + PANEL, rows[1], outputs[1]);
    for (uint32_t s = 0; s < b->n_steps; s++) {
        const uint16_t *x = b->x + (size_t)s * CONTRACT_STEP;
        const uint8_t *w = b->panels + s * STEP_BYTES;
        amx_load(4, x, b->x_stride * sizeof *x);
        amx_load(6, w, AMX_ROW_BYTES);
        amx_dot_bf16(0, 4, 6);
        if (I == 2) {
            amx_load(5, x + AMX_ROWS * b->x_stride, b->x_stride * sizeof *x);
            amx_dot_bf16(2, 5, 6);
        }
        if (P == 2) {
            amx_load(7, w + b->panel_bytes, AMX_ROW_BYTES);
            amx_dot_bf16(1, 4, 7);
        }
        if (I == 2 && P == 2)
            amx_dot_bf16(3, 5, 7);
    }
    store_sums(0, b, b->out, rows[0], outputs[0]);
    if (P == 2)
        store_sums(1, b, b->out + PANEL, rows[0], outputs[1]);
    if (I == 2)
        store_sums(2, b, second, rows[1], outputs[0]);
    if (I == 2 && P == 2)
        store_sums(3, b, second + PANEL, rows[1], outputs[1]);
}

static void run(const struct block *b, uint32_t n_panels)
{
    if (b->n_rows > AMX_ROWS && n_panels == 2)
        run_block(2, 2, b);
    else if (b->n_rows > AMX_ROWS)
        run_block(2, 1, b);
    else if (n_panels == 2)
        run_block(1, 2, b);
    else
        run_block(1, 1, b);
}

void AMX(product_bf16)(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                       uint32_t panel0, uint32_t panel1, float *out, size_t stride)
{
    const size_t x_stride = act_bf16_stride(m->n_in);
    const uint32_t steps = (uint32_t)(x_stride / CONTRACT_STEP);
    uint32_t configured = 0;
    for (uint32_t panel = panel0, n; panel < panel1; panel += n) {
        n = panel1 - panel >= 2 ? 2 : 1;
        const uint32_t left = m->n_out - (panel + n - 1) * PANEL;
        for (uint32_t step = 0; step < steps; step += DEPTH_STEPS)
            for (uint32_t row = row0; row < row1; row += ROW_BLOCK) {
                struct block b = {
                    .x = a->bf16 + row * x_stride + (size_t)step * CONTRACT_STEP,
                    .x_stride = x_stride,
                    .n_rows = row1 - row < ROW_BLOCK ? row1 - row : ROW_BLOCK,
                    .n_steps = steps - step < DEPTH_STEPS ? steps - step : DEPTH_STEPS,
                    .panels = m->data.host + panel * m->panel_bytes + step * STEP_BYTES,
                    .panel_bytes = m->panel_bytes,
                    .begins = step == 0,
                    .out = out + row * stride + (size_t)panel * PANEL,
                    .stride = stride,
                    .last_outputs = left < PANEL ? left : PANEL,
                };
                if (b.n_rows != configured)
                    configure(b.n_rows);
                configured = b.n_rows;
                run(&b, n);
            }
    }
    amx_release();
}
