#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "transfer/transfer.h"

static const struct transfer_geometry geometry = {
    .n_layers = 4, .n_segments = 6, .block_tokens = 16, .slot_bytes = 64
};

static void test_covers_exactly_the_slots_in_order(void **state)
{
    (void)state;
    uint8_t *block = malloc(transfer_block_bytes(&geometry)), *gathered = malloc(transfer_layer_bytes(&geometry));
    srand(5);
    for (size_t i = 0; i < transfer_block_bytes(&geometry); i++)
        block[i] = (uint8_t)rand();
    for (uint32_t layer = 0; layer < 4; layer++)
        for (uint32_t first = 0; first < 16; first++)
            for (uint32_t n = 1; n <= 16 - first; n++) {
                size_t at = 0;
                for (uint32_t s = 0; s < 6; s++)
                    for (uint32_t t = first; t < first + n; t++, at += 64)
                        memcpy(gathered + at, block + ((layer * 6 + s) * 16 + t) * 64, 64);
                assert_true(XXH3_64bits(gathered, at) == transfer_layer_checksum(&geometry, block, layer, first, n));
            }
    uint64_t before = transfer_layer_checksum(&geometry, block, 1, 0, 5);
    block[(1 * 6 + 2) * 16 * 64 + 5 * 64] ^= 1; /* the slot behind the last one */
    assert_true(before == transfer_layer_checksum(&geometry, block, 1, 0, 5));
    assert_true(before != transfer_layer_checksum(&geometry, block, 1, 1, 5));
    free(block);
    free(gathered);
}

static void test_block_is_the_hash_of_its_layers(void **state)
{
    (void)state;
    const uint64_t sums[3] = { 1, 0x0102030405060708ull, 3 };
    const uint8_t bytes[24] = { 1, 0, 0, 0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 3 };
    assert_true(transfer_block_checksum(sums, 3) == XXH3_64bits(bytes, 24));
    assert_true(transfer_block_checksum(sums, 2) == XXH3_64bits(bytes, 16));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_covers_exactly_the_slots_in_order),
        cmocka_unit_test(test_block_is_the_hash_of_its_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
