/* Identity: known values, chaining, what tells two sequences apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "kvbm/block_hash.h"

#define TOKENS 16
#define BLOCKS 9

static const struct block_seed_parts parts = { .weights = 1, .tokenizer = 2, .adapter = 3, .salt = { 4, 5 } };

/* The record spelled out byte by byte. */
static void test_is_xxh3_of_the_record_in_the_header(void **state)
{
    (void)state;
    uint8_t bytes[16 + 3 * 4] = { 8,    7,    6, 5, 4, 3, 2, 1, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13,
                                  0x12, 0x11, 1, 0, 0, 0, 0, 1, 0,    0,    4,    3,    2,    1 };
    const struct block_hash parent = { 0x0102030405060708u, 0x1112131415161718u };
    const uint32_t tokens[3] = { 1, 256, 0x01020304 };
    XXH128_hash_t want = XXH3_128bits(bytes, sizeof bytes);
    struct block_hash got = block_hash_next(parent, tokens, 3);
    assert_true(got.low == want.low64 && got.high == want.high64);
}

/* Peers of other versions, and what lies on disks, depend on these. */
static void test_known_values_stay(void **state)
{
    (void)state;
    char text[BLOCK_HASH_TEXT_BYTES];
    uint32_t tokens[TOKENS];
    for (uint32_t i = 0; i < TOKENS; i++)
        tokens[i] = i;
    struct block_hash seed = block_seed(&parts), salt;
    assert_string_equal(block_hash_text(seed, text), "f2548052311862d51298f0216988e5f6");
    assert_string_equal(block_hash_text(block_hash_next(seed, tokens, TOKENS), text),
                        "0905fd98de33e8bceb986a800471089b");
    assert_int_equal(block_salt("key", 3, "secret", 6, &salt), ST_OK);
    assert_string_equal(block_hash_text(salt, text), "8bfe223ec2f7cbe81393f3c8443ccf25");
}

static void test_each_part_of_the_seed_counts(void **state)
{
    (void)state;
    struct block_seed_parts other[5] = { parts, parts, parts, parts, parts };
    other[0].weights++, other[1].tokenizer++, other[2].adapter++, other[3].salt.low++, other[4].salt.high++;
    for (int i = 0; i < 5; i++) {
        assert_false(block_hash_equal(block_seed(&parts), block_seed(&other[i])));
        for (int j = 0; j < i; j++)
            assert_false(block_hash_equal(block_seed(&other[i]), block_seed(&other[j])));
    }
}

static void test_salts_depend_on_key_and_secret(void **state)
{
    (void)state;
    struct block_hash a, b, c, none;
    assert_int_equal(block_salt("k1", 2, "tenant", 6, &a), ST_OK);
    assert_int_equal(block_salt("k2", 2, "tenant", 6, &b), ST_OK);
    assert_int_equal(block_salt("k1", 2, "tenanu", 6, &c), ST_OK);
    assert_int_equal(block_salt("k1", 2, "", 0, &none), ST_OK);
    assert_false(block_hash_equal(a, b));
    assert_false(block_hash_equal(a, c));
    assert_true(block_hash_equal(none, (struct block_hash){ 0, 0 }));
    assert_int_equal(block_salt(NULL, 0, "tenant", 6, &b), ST_OK);
    assert_false(block_hash_equal(a, b));
}

/* However the sequence grows, and however small the batches, the hashes are those of the chain. */
static void test_growing_gives_the_chain(void **state)
{
    (void)state;
    uint32_t tokens[BLOCKS * TOKENS];
    struct block_hash want[BLOCKS], seed = block_seed(&parts), last = seed;
    for (uint32_t i = 0; i < BLOCKS * TOKENS; i++)
        tokens[i] = i * 2654435761u;
    for (int i = 0; i < BLOCKS; i++)
        last = want[i] = block_hash_next(last, tokens + i * TOKENS, TOKENS);
    for (size_t step = 1; step <= BLOCKS * TOKENS; step++)
        for (size_t max = 1; max <= 3; max++) {
            struct block_hasher h;
            struct block_hash got[BLOCKS];
            size_t n = 0;
            block_hasher_init(&h, seed, TOKENS);
            for (size_t len = step; len < BLOCKS * TOKENS; len += step) {
                size_t full = len / TOKENS, made = block_hasher_grow(&h, tokens, len, got + n, max);
                assert_int_equal(made, full - n < max ? full - n : max);
                n += made;
            }
            n += block_hasher_grow(&h, tokens, BLOCKS * TOKENS, got + n, BLOCKS - n);
            assert_int_equal(n, BLOCKS);
            assert_memory_equal(got, want, sizeof want);
            assert_int_equal(block_hasher_grow(&h, tokens, BLOCKS * TOKENS, got, BLOCKS), 0);
        }
}

static void test_text_and_back(void **state)
{
    (void)state;
    char text[BLOCK_HASH_TEXT_BYTES];
    const struct block_hash hash = { 0x0123456789abcdefu, 0xfedcba9876543210u };
    struct block_hash back = { 0, 0 };
    assert_string_equal(block_hash_text(hash, text), "fedcba98765432100123456789abcdef");
    assert_int_equal(block_hash_parse(text, &back), ST_OK);
    assert_true(block_hash_equal(hash, back));
    assert_int_equal(block_hash_parse("fedcba98765432100123456789abcde", &back), ST_INVALID);
    assert_int_equal(block_hash_parse("fedcba98765432100123456789abcdef0", &back), ST_INVALID);
    assert_int_equal(block_hash_parse("Fedcba98765432100123456789abcdef", &back), ST_INVALID);
    assert_true(block_hash_equal(hash, back));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_is_xxh3_of_the_record_in_the_header),
        cmocka_unit_test(test_known_values_stay),
        cmocka_unit_test(test_each_part_of_the_seed_counts),
        cmocka_unit_test(test_salts_depend_on_key_and_secret),
        cmocka_unit_test(test_growing_gives_the_chain),
        cmocka_unit_test(test_text_and_back),
    };
    return cmocka_run_group_tests_name("block hash", tests, NULL, NULL);
}
