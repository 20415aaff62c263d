/* tile_software.h - the tiles of tile.h in plain C; included by it alone. As
 * with the processor's, shapes that do not fit one another are an error. */
#ifndef BATON_ENGINE_AMX_TILE_SOFTWARE_H
#define BATON_ENGINE_AMX_TILE_SOFTWARE_H

#include <string.h>

#include "engine/bf16_steps.h"

static _Thread_local struct {
    struct amx_shapes shapes;
    uint8_t rows[AMX_TILES][AMX_ROWS][AMX_ROW_BYTES];
} amx_state;

static inline void amx_configure(const struct amx_shapes *s)
{
    ASSERT(s->palette == 1 && s->start_row == 0);
    for (uint32_t t = 0; t < AMX_TILES; t++)
        ASSERT(s->rows[t] <= AMX_ROWS && s->row_bytes[t] <= AMX_ROW_BYTES && s->row_bytes[t] % 4 == 0 &&
               (s->rows[t] == 0) == (s->row_bytes[t] == 0));
    memset(&amx_state, 0, sizeof amx_state);
    amx_state.shapes = *s;
}

static inline void amx_release(void)
{
    memset(&amx_state, 0, sizeof amx_state);
}

static inline void amx_zero(uint32_t tile)
{
    ASSERT(amx_state.shapes.rows[tile] > 0);
    memset(amx_state.rows[tile], 0, sizeof amx_state.rows[tile]);
}

static inline void amx_load(uint32_t tile, const void *base, size_t stride)
{
    amx_zero(tile);
    for (uint32_t r = 0; r < amx_state.shapes.rows[tile]; r++)
        memcpy(amx_state.rows[tile][r], (const uint8_t *)base + r * stride, amx_state.shapes.row_bytes[tile]);
}

static inline void amx_store(uint32_t tile, void *base, size_t stride)
{
    ASSERT(amx_state.shapes.rows[tile] > 0);
    for (uint32_t r = 0; r < amx_state.shapes.rows[tile]; r++)
        memcpy((uint8_t *)base + r * stride, amx_state.rows[tile][r], amx_state.shapes.row_bytes[tile]);
}

static inline void amx_check_product(uint32_t c, uint32_t a, uint32_t b)
{
    const struct amx_shapes *s = &amx_state.shapes;
    ASSERT(c != a && c != b && a != b && s->rows[c] > 0);
    ASSERT(s->rows[c] == s->rows[a] && s->row_bytes[c] == s->row_bytes[b] && s->row_bytes[a] == 4 * s->rows[b]);
}

static inline void amx_dot_int8(uint32_t c, uint32_t a, uint32_t b)
{
    amx_check_product(c, a, b);
    for (uint32_t i = 0; i < amx_state.shapes.rows[c]; i++)
        for (uint32_t j = 0; j < amx_state.shapes.row_bytes[c] / 4u; j++) {
            int32_t sum;
            memcpy(&sum, &amx_state.rows[c][i][j * 4], sizeof sum);
            for (uint32_t k = 0; k < amx_state.shapes.row_bytes[a]; k++)
                sum += (int8_t)amx_state.rows[a][i][k] * (int8_t)amx_state.rows[b][k / 4][j * 4 + k % 4];
            memcpy(&amx_state.rows[c][i][j * 4], &sum, sizeof sum);
        }
}

static inline void amx_dot_bf16(uint32_t c, uint32_t a, uint32_t b)
{
    amx_check_product(c, a, b);
    for (uint32_t i = 0; i < amx_state.shapes.rows[c]; i++)
        for (uint32_t j = 0; j < amx_state.shapes.row_bytes[c] / 4u; j++) {
            struct bf16_pair sums = { 0.0f, 0.0f };
            float sum;
            for (uint32_t k = 0; k < amx_state.shapes.rows[b]; k++) {
                uint16_t x[2];
                uint16_t y[2];
                memcpy(x, &amx_state.rows[a][i][k * 4], sizeof x);
                memcpy(y, &amx_state.rows[b][k][j * 4], sizeof y);
                sums = bf16_pair_add(sums, x, y);
            }
            memcpy(&sum, &amx_state.rows[c][i][j * 4], sizeof sum);
            sum = bf16_pair_onto(sum, sums);
            memcpy(&amx_state.rows[c][i][j * 4], &sum, sizeof sum);
        }
}

#endif
