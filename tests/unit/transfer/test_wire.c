#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "transfer/wire.h"

static const struct transfer_geometry geometry = {
    .n_layers = 6, .n_segments = 4, .block_tokens = 16, .slot_bytes = 8
};
#define BLOCKS 10u

static void test_heads_are_checked(void **state)
{
    (void)state;
    struct wire_head good = { .magic = WIRE_MAGIC, .kind = WIRE_DATA }, out;
    assert_int_equal(wire_head_decode(&good, sizeof good, 1, &out), ST_OK);
    assert_int_equal(wire_head_decode(&good, sizeof good, WIRE_DATA_BYTES, &out), ST_OK);
    assert_int_equal(wire_head_decode(&good, sizeof good, WIRE_DATA_BYTES + 1, &out), ST_CORRUPT);
    assert_int_equal(wire_head_decode(&good, sizeof good, 0, &out), ST_CORRUPT);
    assert_int_equal(wire_head_decode(&good, sizeof good - 1, 1, &out), ST_CORRUPT);
    assert_int_equal(wire_head_decode(NULL, 0, 1, &out), ST_CORRUPT);
    struct wire_head bad = good;
    bad.magic ^= 1;
    assert_int_equal(wire_head_decode(&bad, sizeof bad, 1, &out), ST_CORRUPT);
    bad = good;
    bad.st = ST_COUNT;
    assert_int_equal(wire_head_decode(&bad, sizeof bad, 1, &out), ST_CORRUPT);
    for (int kind = 0; kind < 256; kind++) {
        bad = good;
        bad.kind = (uint8_t)kind;
        bool end = kind == WIRE_END || kind == WIRE_CANCEL || kind == WIRE_BYE || kind == WIRE_KEY_ASK;
        assert_int_equal(wire_head_decode(&bad, sizeof bad, 0, &out), end ? ST_OK : ST_CORRUPT);
    }
}

static size_t encode_two(uint8_t *out)
{
    const struct transfer_span spans[2] = { { 1, 2, 99, 0, 16 }, { 3, 9, 7, 15, 1 } };
    return wire_request_encode(1, 5, spans, 2, out);
}

static void test_requests_survive_the_way(void **state)
{
    (void)state;
    uint8_t bytes[WIRE_REQUEST_BYTES];
    static struct wire_request r;
    size_t len = encode_two(bytes);
    assert_int_equal(wire_request_decode(bytes, len, &geometry, BLOCKS, &r), ST_OK);
    assert_int_equal(r.first_layer, 1);
    assert_int_equal(r.n_layers, 5);
    assert_int_equal(r.n_spans, 2);
    assert_int_equal(r.spans[1].local_block, 9);
    assert_true(r.spans[1].remote_generation == 7);
    assert_int_equal(r.spans[1].first, 15);
    assert_int_equal(r.spans[1].n, 1);
}

static void test_requests_outside_the_pool_are_refused(void **state)
{
    (void)state;
    uint8_t bytes[WIRE_REQUEST_BYTES];
    static struct wire_request r;
    size_t len = encode_two(bytes);
    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(wire_request_decode(bytes, cut, &geometry, BLOCKS, &r), ST_CORRUPT);
    assert_int_equal(wire_request_decode(bytes, len, &geometry, 9, &r), ST_CORRUPT);
    const struct {
        size_t at;
        uint32_t value;
    } spoiled[] = { { 0, 2 },          { 0, UINT32_MAX }, { 4, 0 },           { 4, 7 },  { 4, UINT32_MAX },
                    { 8, 0 },          { 8, 3 },          { 8, UINT32_MAX },  { 12, 1 }, { 24, 10 },
                    { 28, 17u << 16 }, { 28, 0 },         { 28, 0x00010010u } };
    for (size_t i = 0; i < sizeof spoiled / sizeof spoiled[0]; i++) {
        len = encode_two(bytes);
        memcpy(bytes + spoiled[i].at, &spoiled[i].value, 4);
        assert_int_equal(wire_request_decode(bytes, len, &geometry, BLOCKS, &r), ST_CORRUPT);
    }
}

static void test_hellos_are_checked(void **state)
{
    (void)state;
    uint8_t bytes[WIRE_HELLO_BYTES + 1], address[WIRE_MAX_ADDRESS];
    struct wire_hello hello = { .incarnation = 7, .nonce = { 1 }, .proof = { 2 } }, out;
    const uint8_t *found;
    size_t found_len;
    memset(address, 3, sizeof address);
    size_t len = wire_hello_encode(&hello, address, sizeof address, bytes);
    assert_int_equal(len, WIRE_HELLO_BYTES);
    assert_int_equal(wire_hello_decode(bytes, len, &out, &found, &found_len), ST_OK);
    assert_memory_equal(&out, &hello, sizeof hello);
    assert_int_equal(found_len, sizeof address);
    assert_memory_equal(found, address, found_len);
    assert_int_equal(wire_hello_decode(bytes, len + 1, &out, &found, &found_len), ST_CORRUPT);
    for (size_t cut = 0; cut <= sizeof hello; cut++)
        assert_int_equal(wire_hello_decode(bytes, cut, &out, &found, &found_len), ST_CORRUPT);
    assert_int_equal(wire_hello_decode(bytes, sizeof hello + 1, &out, &found, &found_len), ST_OK);
}

static void test_keys_are_checked(void **state)
{
    (void)state;
    static uint8_t bytes[WIRE_KEY_BYTES + 1], address[WIRE_MAX_ADDRESS], key[WIRE_MAX_KEY];
    struct wire_key out;
    memset(address, 3, sizeof address);
    memset(key, 4, sizeof key);
    size_t len = wire_key_encode(77, address, sizeof address, key, sizeof key, bytes);
    assert_int_equal(len, WIRE_KEY_BYTES);
    assert_int_equal(wire_key_decode(bytes, len, &out), ST_OK);
    assert_int_equal(wire_key_decode(bytes, len + 1, &out), ST_CORRUPT);
    len = wire_key_encode(77, address, 5, key, 6, bytes);
    assert_int_equal(wire_key_decode(bytes, len, &out), ST_OK);
    assert_true(out.pool == 77 && out.address_len == 5 && out.key_len == 6);
    assert_memory_equal(bytes + sizeof out, address, 5);
    assert_memory_equal(bytes + sizeof out + 5, key, 6);
    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(wire_key_decode(bytes, cut, &out), ST_CORRUPT);
    for (size_t at = 40; at < 48; at++) { /* lengths and zero */
        (void)wire_key_encode(77, address, 5, key, 6, bytes);
        bytes[at] ^= 0x81;
        assert_int_equal(wire_key_decode(bytes, len, &out), ST_CORRUPT);
    }
    /* that fit together, but one of which is nothing or too much */
    const uint16_t lens[][2] = { { 0, 11 }, { 11, 0 }, { 0, WIRE_MAX_KEY + 1 }, { 5, WIRE_MAX_KEY + 1 } };
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        memcpy(bytes + 40, lens[i], 4);
        memset(bytes + 44, 0, 4);
        assert_int_equal(wire_key_decode(bytes, sizeof out + lens[i][0] + lens[i][1], &out), ST_CORRUPT);
    }
}

static void test_random_requests_stay_inside(void **state)
{
    (void)state;
    uint8_t bytes[WIRE_REQUEST_BYTES];
    static struct wire_request r;
    srand(11);
    for (int round = 0; round < 100000; round++) {
        size_t len = encode_two(bytes);
        for (int k = rand() % 4; k >= 0; k--)
            bytes[(size_t)rand() % len] = (uint8_t)(rand() % 20);
        if (wire_request_decode(bytes, len, &geometry, BLOCKS, &r))
            continue;
        assert_true(r.n_layers && r.first_layer + r.n_layers <= 6 && r.n_spans == 2);
        for (uint32_t i = 0; i < r.n_spans; i++)
            assert_true(r.spans[i].local_block < BLOCKS && r.spans[i].n && r.spans[i].first + r.spans[i].n <= 16);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heads_are_checked),
        cmocka_unit_test(test_requests_survive_the_way),
        cmocka_unit_test(test_requests_outside_the_pool_are_refused),
        cmocka_unit_test(test_hellos_are_checked),
        cmocka_unit_test(test_keys_are_checked),
        cmocka_unit_test(test_random_requests_stay_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
