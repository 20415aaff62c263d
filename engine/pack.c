#include "engine/pack.h"

#include <string.h>

#define PANEL_ALIGN 64u
#define SLICE       4u /* values of one output that stand together */
#define SLICES      (CONTRACT_GROUP / SLICE)
#define SLICE_BYTES (SLICE * PANEL)

static enum dtype packed_type(const struct tensor *t, bool f32_math)
{
    return f32_math && dtype_is_quantised(t->type) ? DTYPE_F32 : t->type;
}

static size_t panel_bytes(enum dtype type, size_t n_in)
{
    size_t whole = type == DTYPE_BF16 ? (n_in + 1) / 2 * 2 : n_in;
    size_t bytes = dtype_is_quantised(type) ? pack_places(type, n_in / CONTRACT_GROUP).end
                                            : whole * PANEL * dtype_block_bytes(type);
    return (bytes + PANEL_ALIGN - 1) / PANEL_ALIGN * PANEL_ALIGN;
}

void pack_describe(const struct tensor *t, bool f32_math, uint8_t *dst, struct matrix *out)
{
    enum dtype type = packed_type(t, f32_math);
    *out = (struct matrix){
        .type = type,
        .rule = dtype_is_quantised(type) ? RULE_INT8 : RULE_F32,
        .n_out = (uint32_t)t->shape[0],
        .n_in = (uint32_t)t->shape[1],
        .data = { .host = dst },
        .panel_bytes = panel_bytes(type, t->shape[1]),
    };
}

size_t pack_bytes(const struct tensor *t, bool f32_math)
{
    struct matrix m;
    pack_describe(t, f32_math, NULL, &m);
    return matrix_panels(&m) * m.panel_bytes;
}

/* The values of one output in one group; low and high are its slice 0 in the panel. */
static void pack_values(uint32_t bits, const uint8_t *u, uint8_t *low, uint8_t *high)
{
    if (bits == 8) {
        for (uint32_t j = 0; j < SLICES; j++)
            memcpy(low + (size_t)j * SLICE_BYTES, u + (size_t)j * SLICE, SLICE);
        return;
    }
    const uint32_t upper = bits - 4;
    for (uint32_t i = 0; i < CONTRACT_GROUP / 2; i++)
        low[i / SLICE * SLICE_BYTES + i % SLICE] = (uint8_t)((u[i] & 15) | (u[i + CONTRACT_GROUP / 2] & 15) << 4);
    for (uint32_t i = 0; upper > 0 && i < CONTRACT_GROUP; i++) {
        uint32_t bit = i / SLICE * upper;
        uint8_t *to = high + bit / 8 * SLICE_BYTES + i % SLICE;
        *to = (uint8_t)(*to | u[i] >> 4 << bit % 8);
    }
}

/* The panel was zeros. */
static void pack_quantised(const struct matrix *m, const uint8_t *src, uint32_t lane, uint8_t *panel)
{
    const size_t groups = m->n_in / CONTRACT_GROUP;
    const bool minimum = quant_has_minimum(m->type), super = quant_is_super(m->type);
    const uint32_t halves = quant_halves(m->type);
    const struct pack_places at = pack_places(m->type, groups);
    for (size_t g = 0; g < groups; g++) {
        struct quant_group group;
        quant_read(m->type, src, g, &group);
        pack_values(quant_bits(m->type), group.u, panel + g * at.low_bytes + (size_t)lane * SLICE,
                    panel + at.high + g * at.high_bytes + (size_t)lane * SLICE);
        size_t block = (super ? g / QUANT_SUPER_GROUPS : g) * PANEL + lane;
        memcpy(panel + at.d + block * sizeof(uint16_t), &group.d, sizeof group.d);
        if (minimum)
            memcpy(panel + at.m + block * sizeof(uint16_t), &group.m, sizeof group.m);
        for (uint32_t h = 0; super && h < halves; h++)
            panel[at.d_factors + (g * halves + h) * PANEL + lane] = (uint8_t)group.d_factor[h];
        if (super && minimum)
            panel[at.m_factors + g * PANEL + lane] = group.m_factor;
    }
}

static void pack_lane(const struct tensor *t, const struct matrix *m, uint32_t output, uint8_t *panel, float *row)
{
    const uint8_t *src = (const uint8_t *)t->data + output * dtype_row_bytes(t->type, m->n_in);
    uint32_t lane = output % PANEL;
    if (m->rule != RULE_F32) {
        pack_quantised(m, src, lane, panel);
        return;
    }
    size_t bytes = dtype_block_bytes(m->type);
    if (m->type != t->type) {
        dtype_to_f32(t->type, src, row, m->n_in);
        src = (const uint8_t *)row;
    }
    if (m->type == DTYPE_BF16)
        for (size_t k = 0; k < m->n_in; k++)
            memcpy(panel + (k / 2 * PANEL + lane) * 4 + k % 2 * sizeof(uint16_t), src + k * sizeof(uint16_t),
                   sizeof(uint16_t));
    else if (bytes == sizeof(uint16_t))
        for (size_t k = 0; k < m->n_in; k++)
            memcpy(panel + (k * PANEL + lane) * sizeof(uint16_t), src + k * sizeof(uint16_t), sizeof(uint16_t));
    else
        for (size_t k = 0; k < m->n_in; k++)
            memcpy(panel + (k * PANEL + lane) * sizeof(float), src + k * sizeof(float), sizeof(float));
}

void pack_panel(const struct tensor *t, const struct matrix *m, uint32_t panel, float *row)
{
    uint8_t *dst = m->data.host + panel * m->panel_bytes;
    memset(dst, 0, m->panel_bytes);
    uint32_t end = (panel + 1) * PANEL < m->n_out ? (panel + 1) * PANEL : m->n_out;
    for (uint32_t o = panel * PANEL; o < end; o++)
        pack_lane(t, m, o, dst, row);
}
