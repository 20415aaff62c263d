#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kvbm/whole_checksum.h"

#define BLOCKS 6u

static const struct transfer_geometry geometry = { 3, 2, 4, 16 };
static uint8_t memory[BLOCKS][3 * 2 * 4 * 16];
static struct block_pool *pool;
static struct whole_checksums *sums;
static struct transfer_take *taken;
static block_id blocks[BLOCKS];
static uint32_t n_done;
static bool refuse;

static uint64_t io_now(void *ctx)
{
    (void)ctx;
    return 1000;
}

static status io_take(void *ctx, struct transfer_take *take)
{
    (void)ctx;
    if (refuse)
        return ST_LIMIT;
    assert_null(take->peer);
    taken = take;
    return ST_OK;
}

static const struct exchange_io io = { .now = io_now, .take = io_take };

static void end_take(status st)
{
    struct transfer_take *take = taken;
    taken = NULL;
    for (uint32_t l = 0; l < take->n_layers; l++)
        for (uint32_t i = 0; i < take->n_spans; i++)
            take->checksums[l * take->n_spans + i] =
                transfer_layer_checksum(&geometry, memory[take->spans[i].local_block], l, 0, 4);
    take->st = st;
    take->done(take);
}

static void on_done(void *ctx, block_id block, uint64_t checksum)
{
    (void)ctx;
    assert_true(checksum == whole_checksum_of_bytes(&geometry, memory[block]));
    n_done++;
}

static int set_up(void **state)
{
    (void)state;
    const struct block_pool_options options = { .n_blocks = BLOCKS, .block_tokens = 4 };
    n_done = 0;
    refuse = false;
    if (block_pool_create(&options, &pool) || block_pool_take(pool, BLOCKS, BLOCK_FILLING, blocks))
        return -1;
    for (uint32_t i = 0; i < BLOCKS; i++) {
        memset(memory[blocks[i]], (int)i + 1, sizeof memory[0]);
        block_pool_filled(pool, blocks[i], 4);
    }
    const struct whole_checksums_options making = { &io, pool, geometry, 1, 50, on_done, NULL, NULL };
    return whole_checksums_create(&making, &sums) == ST_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    whole_checksums_destroy(&sums);
    uint32_t held = 0;
    for (uint32_t i = 0; i < BLOCKS; i++)
        held += block_pool_owners(pool, blocks[i], BLOCK_OF_TRANSFER);
    block_pool_destroy(&pool);
    return held ? -1 : 0;
}

static void test_made_and_known(void **state)
{
    (void)state;
    uint64_t sum;
    assert_int_equal(whole_checksums_make(sums, blocks, 3), ST_OK);
    assert_int_equal(taken->deadline_us, 1050);
    assert_int_equal(taken->n_layers, 3);
    assert_false(whole_checksums_get(sums, blocks[0], &sum));
    assert_int_equal(whole_checksums_make(sums, blocks + 3, 1), ST_LIMIT);
    assert_int_equal(block_pool_owners(pool, blocks[0], BLOCK_OF_TRANSFER), 1);
    end_take(ST_OK);
    assert_int_equal(n_done, 3);
    for (uint32_t i = 0; i < 3; i++) {
        assert_true(whole_checksums_get(sums, blocks[i], &sum));
        assert_true(sum == whole_checksum_of_bytes(&geometry, memory[blocks[i]]));
    }
    assert_false(whole_checksums_get(sums, blocks[3], &sum));
    assert_int_equal(block_pool_owners(pool, blocks[0], BLOCK_OF_TRANSFER), 0);
}

static void test_of_another_life(void **state)
{
    (void)state;
    uint64_t sum;
    whole_checksums_set(sums, blocks[0], 7);
    assert_true(whole_checksums_get(sums, blocks[0], &sum) && sum == 7);
    block_pool_release(pool, blocks[0], BLOCK_OF_SEQUENCE);
    block_id again;
    assert_int_equal(block_pool_take(pool, 1, BLOCK_FILLING, &again), ST_OK);
    assert_int_equal(again, blocks[0]);
    assert_false(whole_checksums_get(sums, blocks[0], &sum));
}

static void test_not_made(void **state)
{
    (void)state;
    uint64_t sum;
    refuse = true;
    assert_int_equal(whole_checksums_make(sums, blocks, 2), ST_LIMIT);
    refuse = false;
    assert_int_equal(whole_checksums_make(sums, blocks, 0), ST_OK);
    assert_null(taken);
    assert_int_equal(whole_checksums_make(sums, blocks, 2), ST_OK);
    end_take(ST_TIMEOUT);
    assert_int_equal(n_done, 0);
    assert_false(whole_checksums_get(sums, blocks[0], &sum));
    assert_int_equal(whole_checksums_make(sums, blocks, 2), ST_OK); /* left to be destroyed */
}

/* The formula of the header, once more. */
static void test_the_formula(void **state)
{
    (void)state;
    uint64_t layers[3], two[3][2];
    for (uint32_t l = 0; l < 3; l++) {
        layers[l] = transfer_layer_checksum(&geometry, memory[2], l, 0, 4);
        two[l][0] = l;
        two[l][1] = layers[l];
    }
    assert_true(whole_checksum_of_bytes(&geometry, memory[2]) == transfer_block_checksum(layers, 3));
    assert_true(whole_checksum_of(&two[0][0], 3, 2, 1) == transfer_block_checksum(layers, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_made_and_known, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_of_another_life, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_not_made, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_formula, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("whole_checksum", tests, NULL, NULL);
}
