#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>
#include <sys/mman.h>

#include "transfer/pool.h"

static const struct pool_identity identity = {
    .geometry = { 3, 2, 4, 100 }, .n_blocks = 700, .incarnation = 5, .nonce = 6
};

static void test_parts_do_not_overlap(void **state)
{
    (void)state;
    struct pool pool;
    struct error err;
    size_t bytes = pool_bytes(&identity);
    uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_int_equal(pool_init(&pool, &identity, memory, &err), ST_OK);
    assert_ptr_equal(pool_generations(&pool), memory + 4096);
    assert_int_equal(pool_blocks_offset(&identity), 4096 + 8192);
    assert_true(pool_block(&pool, 699) + 2400 <= memory + bytes);
    for (uint32_t b = 0; b < 700; b++) {
        assert_int_equal(atomic_load(&pool_generations(&pool)[b]), 0);
        atomic_store(&pool_generations(&pool)[b], UINT64_MAX);
        memset(pool_block(&pool, b), 0xff, 2400);
    }
    assert_true(pool_header_matches(memory, &identity));
    (void)munmap(memory, bytes);
}

static void test_header_tells_pools_apart(void **state)
{
    (void)state;
    struct pool pool;
    struct error err;
    size_t bytes = pool_bytes(&identity);
    uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_int_equal(pool_init(&pool, &identity, memory, &err), ST_OK);
    struct pool_identity other = identity;
    other.nonce++;
    assert_false(pool_header_matches(memory, &other));
    other = identity;
    other.incarnation++;
    assert_false(pool_header_matches(memory, &other));
    other = identity;
    other.n_blocks++;
    assert_false(pool_header_matches(memory, &other));
    for (size_t i = 0; i < 4096; i++) {
        memory[i] ^= 0x10;
        assert_false(pool_header_matches(memory, &identity));
        memory[i] ^= 0x10;
    }
    (void)munmap(memory, bytes);
}

static void test_impossible_sizes_are_refused(void **state)
{
    (void)state;
    struct error err;
    struct transfer_geometry g = identity.geometry;
    assert_int_equal(pool_check_geometry(&g, 1, &err), ST_OK);
    assert_int_equal(pool_check_geometry(&g, 0, &err), ST_INVALID);
    assert_int_equal(pool_check_geometry(&g, UINT64_MAX, &err), ST_INVALID);
    g.slot_bytes = 0;
    assert_int_equal(pool_check_geometry(&g, 1, &err), ST_INVALID);
    g = (struct transfer_geometry){ 4096, 8192, 4096, 65536 };
    assert_int_equal(pool_check_geometry(&g, 1u << 26, &err), ST_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts_do_not_overlap),
        cmocka_unit_test(test_header_tells_pools_apart),
        cmocka_unit_test(test_impossible_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
