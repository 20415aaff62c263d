#include "engine/bf16_panels.h"

#include <string.h>

#include "engine/pack.h"

static bool is_paired(const struct tensor *t, bool f32_math)
{
    return t->type == DTYPE_BF16 && !f32_math;
}

void bf16_panels_describe(const struct tensor *t, bool f32_math, uint8_t *dst, struct matrix *out)
{
    pack_describe(t, f32_math, dst, out);
    if (dtype_is_quantised(t->type) && !f32_math)
        out->rule = RULE_BF16; /* widened as they are used */
    if (!is_paired(t, f32_math))
        return;
    out->rule = RULE_BF16;
    out->panel_bytes = act_bf16_stride(out->n_in) * PANEL * sizeof(uint16_t);
}

size_t bf16_panels_bytes(const struct tensor *t, bool f32_math)
{
    struct matrix m;
    bf16_panels_describe(t, f32_math, NULL, &m);
    return matrix_panels(&m) * m.panel_bytes;
}

void bf16_panels_pack(const struct tensor *t, const struct matrix *m, uint32_t panel, float *row)
{
    if (m->rule != RULE_BF16 || m->type != DTYPE_BF16) {
        pack_panel(t, m, panel, row);
        return;
    }
    uint8_t *dst = m->data.host + panel * m->panel_bytes;
    memset(dst, 0, m->panel_bytes);
    uint32_t end = (panel + 1) * PANEL < m->n_out ? (panel + 1) * PANEL : m->n_out;
    for (uint32_t o = panel * PANEL; o < end; o++) {
        const uint8_t *src = (const uint8_t *)t->data + o * dtype_row_bytes(t->type, m->n_in);
        for (size_t k = 0; k < m->n_in; k++)
            memcpy(dst + ((k / 2 * PANEL + o % PANEL) * 2 + k % 2) * sizeof(uint16_t), src + k * sizeof(uint16_t),
                   sizeof(uint16_t));
    }
}
