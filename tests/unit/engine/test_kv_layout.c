#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/kv_layout.h"

static const struct kv_layout layout = {
    .n_layers = 3, .n_kv_heads = 5, .head_dim = 24, .block_tokens = 16, .type = DTYPE_BF16
};

static void test_sizes(void **state)
{
    (void)state;
    assert_int_equal(kv_value_bytes(&layout), 2);
    assert_int_equal(kv_slot_bytes(&layout), 48);
    assert_int_equal(kv_layer_bytes(&layout), 2 * 5 * 16 * 48);
    assert_int_equal(kv_block_bytes(&layout), 3 * 2 * 5 * 16 * 48);
    assert_int_equal(kv_token_bytes(&layout), 3 * 2 * 5 * 48);
    struct kv_layout wide = layout;
    wide.type = DTYPE_F32;
    assert_int_equal(kv_block_bytes(&wide), 2 * kv_block_bytes(&layout));
    struct kv_layout narrow = layout;
    narrow.type = DTYPE_INT8;
    assert_int_equal(kv_slot_bytes(&narrow), 24 + 4);
    assert_int_equal(kv_offset(&narrow, 1, KV_V, 2, 3), (((2 + 1) * 5 + 2) * 16 + 3) * 28);
}

/* [layer][k|v][kv_head][token][head_dim] without gaps. */
static void test_offsets_walk_the_block(void **state)
{
    (void)state;
    size_t at = 0;
    for (uint32_t layer = 0; layer < layout.n_layers; layer++)
        for (uint32_t side = KV_K; side <= KV_V; side++)
            for (uint32_t head = 0; head < layout.n_kv_heads; head++)
                for (uint32_t token = 0; token < layout.block_tokens; token++, at += kv_slot_bytes(&layout))
                    assert_int_equal(kv_offset(&layout, layer, (enum kv_side)side, head, token), at);
    assert_int_equal(at, kv_block_bytes(&layout));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_offsets_walk_the_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
