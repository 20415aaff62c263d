#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

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

static uint8_t *random_block(void)
{
    uint8_t *block = malloc(kv_block_bytes(&layout));
    for (size_t i = 0; i < kv_block_bytes(&layout); i++)
        block[i] = (uint8_t)(i * 2654435761u >> 13);
    return block;
}

/* One hash over the slots' bytes, gathered one by one. */
static uint64_t gathered_checksum(const uint8_t *block, uint32_t layer, uint32_t first, uint32_t n)
{
    size_t slot = kv_slot_bytes(&layout), used = 0;
    uint8_t *bytes = malloc(kv_layer_bytes(&layout) + 1);
    for (uint32_t side = KV_K; side <= KV_V; side++)
        for (uint32_t head = 0; head < layout.n_kv_heads; head++)
            for (uint32_t token = first; token < first + n; token++, used += slot)
                memcpy(bytes + used, block + kv_offset(&layout, layer, (enum kv_side)side, head, token), slot);
    uint64_t hash = XXH3_64bits(bytes, used);
    free(bytes);
    return hash;
}

static void test_layer_checksum_of_every_range(void **state)
{
    (void)state;
    uint8_t *block = random_block();
    for (uint32_t layer = 0; layer < layout.n_layers; layer++)
        for (uint32_t first = 0; first <= layout.block_tokens; first++)
            for (uint32_t n = 0; n <= layout.block_tokens - first; n++)
                assert_true(kv_layer_checksum(&layout, block, layer, first, n) ==
                            gathered_checksum(block, layer, first, n));
    free(block);
}

/* A changed byte changes the checksum exactly when it lies in the range. */
static void test_checksum_covers_its_range_only(void **state)
{
    (void)state;
    uint8_t *block = random_block();
    uint64_t before = kv_layer_checksum(&layout, block, 1, 4, 3);
    for (uint32_t token = 0; token < layout.block_tokens; token++) {
        uint8_t *byte = block + kv_offset(&layout, 1, KV_V, 4, token) + kv_slot_bytes(&layout) - 1;
        *byte ^= 1;
        bool inside = token >= 4 && token < 7;
        assert_int_equal(kv_layer_checksum(&layout, block, 1, 4, 3) != before, inside);
        *byte ^= 1;
    }
    free(block);
}

static void test_block_checksum(void **state)
{
    (void)state;
    const uint64_t layers[] = { 1, 0x0123456789abcdef, UINT64_MAX };
    assert_true(kv_block_checksum(layers, 3) == XXH3_64bits(layers, sizeof layers));
    assert_true(kv_block_checksum(layers, 3) != kv_block_checksum(layers, 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_offsets_walk_the_block),
        cmocka_unit_test(test_layer_checksum_of_every_range),
        cmocka_unit_test(test_checksum_covers_its_range_only),
        cmocka_unit_test(test_block_checksum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
