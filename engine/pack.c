#include "engine/pack.h"

#include <string.h>

#define PANEL_ALIGN 64u
#define SLICE       4u /* values of one output that stand together */

size_t pack_group_bytes(enum dtype type)
{
    switch (type) {
    case DTYPE_Q8_0:
        return CONTRACT_GROUP * PANEL;
    case DTYPE_Q4_0:
    case DTYPE_Q4_1:
        return CONTRACT_GROUP * PANEL / 2;
    default:
        return 0;
    }
}

static enum dtype packed_type(const struct tensor *t, bool f32_math)
{
    return f32_math && dtype_block_values(t->type) > 1 ? DTYPE_F32 : t->type;
}

static size_t panel_bytes(enum dtype type, size_t n_in)
{
    size_t scales = type == DTYPE_Q4_1 ? 2 : 1;
    size_t bytes = dtype_block_values(type) > 1
                       ? n_in / CONTRACT_GROUP * (pack_group_bytes(type) + scales * PANEL * sizeof(uint16_t))
                       : n_in * PANEL * dtype_block_bytes(type);
    return (bytes + PANEL_ALIGN - 1) / PANEL_ALIGN * PANEL_ALIGN;
}

void pack_describe(const struct tensor *t, bool f32_math, uint8_t *dst, struct matrix *out)
{
    enum dtype type = packed_type(t, f32_math);
    *out = (struct matrix){
        .type = type,
        .rule = dtype_block_values(type) > 1 ? RULE_INT8 : RULE_F32,
        .n_out = (uint32_t)t->shape[0],
        .n_in = (uint32_t)t->shape[1],
        .data = dst,
        .panel_bytes = panel_bytes(type, t->shape[1]),
    };
}

size_t pack_bytes(const struct tensor *t, bool f32_math)
{
    struct matrix m;
    pack_describe(t, f32_math, NULL, &m);
    return matrix_panels(&m) * m.panel_bytes;
}

static void pack_quantised(const struct matrix *m, const uint8_t *src, uint32_t lane, uint8_t *panel)
{
    size_t groups = m->n_in / CONTRACT_GROUP;
    size_t group_bytes = pack_group_bytes(m->type);
    size_t header = m->type == DTYPE_Q4_1 ? 4 : 2;
    uint32_t flip = m->type == DTYPE_Q8_0 ? 0x80808080u : 0;
    uint8_t *scales = panel + groups * group_bytes + lane * sizeof(uint16_t);
    uint8_t *minima = scales + groups * PANEL * sizeof(uint16_t);
    for (size_t g = 0; g < groups; g++, src += dtype_block_bytes(m->type)) {
        memcpy(scales + g * PANEL * sizeof(uint16_t), src, sizeof(uint16_t));
        if (m->type == DTYPE_Q4_1)
            memcpy(minima + g * PANEL * sizeof(uint16_t), src + 2, sizeof(uint16_t));
        uint8_t *dst = panel + g * group_bytes + lane * SLICE;
        for (size_t i = 0; i < group_bytes / PANEL; i += SLICE, dst += SLICE * PANEL) {
            uint32_t values;
            memcpy(&values, src + header + i, SLICE);
            values ^= flip;
            memcpy(dst, &values, SLICE);
        }
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
    if (bytes == sizeof(uint16_t))
        for (size_t k = 0; k < m->n_in; k++)
            memcpy(panel + (k * PANEL + lane) * sizeof(uint16_t), src + k * sizeof(uint16_t), sizeof(uint16_t));
    else
        for (size_t k = 0; k < m->n_in; k++)
            memcpy(panel + (k * PANEL + lane) * sizeof(float), src + k * sizeof(float), sizeof(float));
}

void pack_panel(const struct tensor *t, const struct matrix *m, uint32_t panel, float *row)
{
    /* The packed bytes are const to everyone but the packer. */
    uint8_t *dst = (uint8_t *)(uintptr_t)m->data + panel * m->panel_bytes;
    memset(dst, 0, m->panel_bytes);
    uint32_t end = (panel + 1) * PANEL < m->n_out ? (panel + 1) * PANEL : m->n_out;
    for (uint32_t o = panel * PANEL; o < end; o++)
        pack_lane(t, m, o, dst, row);
}
