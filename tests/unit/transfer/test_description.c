#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>
#include <xxhash.h>

#include "transfer/description.h"

static const uint8_t parts[2][5] = { "same", "net." };

static size_t encode(uint8_t *out)
{
    struct description d = { .host = { { 1, 2, 3 }, 4, 5 },
                             .pool = { { 6, 7, 8, 9 }, 10, 11, 12 },
                             .rdma = DESCRIPTION_RDMA_ONLY,
                             .pid = 13,
                             .fd = 14,
                             .same_address = { parts[0], 4 },
                             .net_address = { parts[1], 3 } };
    return description_encode(&d, out);
}

static void test_survives_the_way(void **state)
{
    (void)state;
    uint8_t bytes[DESCRIPTION_MAX_BYTES];
    struct description d;
    struct error err;
    size_t len = encode(bytes);
    assert_int_equal(description_decode(bytes, len, &d, &err), ST_OK);
    assert_true(host_identity_equal(&d.host, &(struct host_identity){ { 1, 2, 3 }, 4, 5 }));
    assert_int_equal(d.pool.geometry.slot_bytes, 9);
    assert_true(d.pool.n_blocks == 10 && d.pool.incarnation == 11 && d.pool.nonce == 12);
    assert_true(d.pid == 13 && d.fd == 14 && d.rdma == DESCRIPTION_RDMA_ONLY);
    assert_int_equal(d.same_address.len, 4);
    assert_memory_equal(d.same_address.data, "same", 4);
    assert_int_equal(d.net_address.len, 3);
    assert_memory_equal(d.net_address.data, "net", 3);
}

static void test_damage_is_noticed(void **state)
{
    (void)state;
    uint8_t bytes[DESCRIPTION_MAX_BYTES];
    struct description d;
    struct error err;
    size_t len = encode(bytes);
    for (size_t i = 0; i < len * 8; i++) {
        bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_int_equal(description_decode(bytes, len, &d, &err), ST_CORRUPT);
        bytes[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(description_decode(bytes, cut, &d, &err), ST_CORRUPT);
}

/* With a checksum that holds, the lengths are looked at all the same. */
static void test_lengths_are_checked_behind_the_checksum(void **state)
{
    (void)state;
    uint8_t bytes[DESCRIPTION_MAX_BYTES];
    struct description d;
    struct error err;
    for (size_t at = 4; at < 8; at++) {
        size_t len = encode(bytes);
        bytes[at] = 0xff;
        uint64_t sum = XXH3_64bits(bytes, len - 8);
        memcpy(bytes + len - 8, &sum, 8);
        assert_int_equal(description_decode(bytes, len, &d, &err), ST_CORRUPT);
    }
    size_t len = encode(bytes);
    bytes[8] = DESCRIPTION_RDMA_ONLY + 1;
    uint64_t sum = XXH3_64bits(bytes, len - 8);
    memcpy(bytes + len - 8, &sum, 8);
    assert_int_equal(description_decode(bytes, len, &d, &err), ST_CORRUPT);
    len = encode(bytes);
    memset(bytes + 12, 0, 4); /* no layers */
    sum = XXH3_64bits(bytes, len - 8);
    memcpy(bytes + len - 8, &sum, 8);
    assert_int_equal(description_decode(bytes, len, &d, &err), ST_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_survives_the_way),
        cmocka_unit_test(test_damage_is_noticed),
        cmocka_unit_test(test_lengths_are_checked_behind_the_checksum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
