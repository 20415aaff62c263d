/* The backend with tiles: AVX-512's, but for the products and the attention that tiles make. */
#include "engine/amx/kernels.h"
#include "engine/bf16_panels.h"

/* Weights are made ready for tiles once for all rows of an item: a step of 512 tokens. */
#define PRODUCT_TILES 44u

static void prepare(struct activations *a, unsigned rules, uint32_t row0, uint32_t n, const float *x)
{
    if (rules & RULE_F32)
        avx512_prepare_f32(a, row0, n, x);
    if (rules & RULE_BF16)
        AMX(prepare_bf16)(a, row0, n, x);
    if (rules & (RULE_INT8 | RULE_INT16))
        AMX(prepare_int)(a, rules & RULE_INT16, row0, n, x);
}

static void product(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1, uint32_t panel0,
                    uint32_t panel1, float *out, size_t stride)
{
    if (m->rule == RULE_F32)
        avx512_product_f32(m, a, row0, row1, panel0, panel1, out, stride);
    else if (m->rule == RULE_BF16)
        AMX(product_bf16)(m, a, row0, row1, panel0, panel1, out, stride);
    else
        AMX(product_int)(m, a, row0, row1, panel0, panel1, out, stride);
}

static void attend(const struct attention *a, const struct attention_item *items, uint32_t n_items, void *scratch)
{
    for (uint32_t i = 0; i < n_items; i++)
        AMX(attend)(a, &items[i], scratch);
}

struct backend AMX(backend)(enum contract_class class)
{
    struct backend b = backend_avx512;
    b.name = "amx";
    b.prepare = prepare;
    b.product = product;
    b.product_rows = PRODUCT_TILES * ACT_TILE;
    if (class == CLASS_AMX) {
        b.pack_bytes = bf16_panels_bytes;
        b.pack_describe = bf16_panels_describe;
        b.pack_panel = bf16_panels_pack;
        b.attend_scratch_bytes = AMX(attend_scratch_bytes);
        b.attend_rows = AMX(attend_rows);
        b.attend = attend;
        b.attend_part = NULL;
    }
    return b;
}
