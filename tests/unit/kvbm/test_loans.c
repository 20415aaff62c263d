/* What the property test does not reach: the bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kvbm/loans.h"

static struct block_pool *pool;
static struct loans *loans;
static block_id blocks[4];

static int set_up(void **state)
{
    (void)state;
    const struct block_pool_options options = { .n_blocks = 4, .block_tokens = 16 };
    if (block_pool_create(&options, &pool) != ST_OK || block_pool_take(pool, 4, BLOCK_FILLING, blocks) != ST_OK)
        return -1;
    const struct loans_options lending = { .pool = pool, .max_loans = 2, .max_blocks = 3, .lifetime_us = 100 };
    return loans_create(&lending, &loans) == ST_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    loans_destroy(&loans);
    uint32_t held = 0;
    for (int i = 0; i < 4; i++)
        held += block_pool_owners(pool, blocks[i], BLOCK_OF_TRANSFER);
    block_pool_destroy(&pool);
    return held ? -1 : 0;
}

static status lend(uint64_t request, uint32_t attempt, uint32_t n_blocks)
{
    return loans_open(loans, (struct loan_id){ request, attempt, 1 }, 7, blocks, n_blocks, 0, 1000);
}

static void test_full_and_too_long(void **state)
{
    (void)state;
    assert_int_equal(lend(1, 1, 4), ST_LIMIT);
    assert_int_equal(lend(1, 1, 3), ST_OK);
    assert_int_equal(lend(2, 1, 3), ST_OK);
    assert_int_equal(lend(3, 1, 1), ST_LIMIT);
    assert_int_equal(block_pool_owners(pool, blocks[0], BLOCK_OF_TRANSFER), 2);
    assert_int_equal(lend(2, 2, 1), ST_OK); /* takes the place of its elder */
    assert_int_equal(loans_open_count(loans), 2);
}

/* The ended loan that was known for the longest makes room. */
static void test_ended_ones_are_remembered_while_there_is_room(void **state)
{
    (void)state;
    assert_int_equal(lend(1, 1, 1), ST_OK);
    assert_true(loans_end(loans, (struct loan_id){ 1, 1, 1 }));
    assert_int_equal(lend(2, 1, 1), ST_OK);
    assert_true(loans_end(loans, (struct loan_id){ 2, 1, 1 }));
    assert_int_equal(lend(1, 1, 1), ST_STALE);
    assert_int_equal(lend(2, 1, 1), ST_STALE);
    assert_int_equal(lend(3, 1, 1), ST_OK);
    assert_int_equal(lend(2, 1, 1), ST_STALE);
    assert_int_equal(lend(1, 1, 1), ST_OK);
}

static void test_time_ends_a_loan(void **state)
{
    (void)state;
    assert_int_equal(lend(1, 1, 1), ST_OK);
    assert_int_equal(loans_expire(loans, 99), 0);
    loans_renew(loans, 7, 90);
    loans_renew(loans, 8, 150); /* somebody else */
    assert_int_equal(loans_expire(loans, 189), 0);
    assert_int_equal(loans_expire(loans, 190), 1);
    assert_int_equal(lend(2, 1, 1), ST_OK);
    loans_renew(loans, 7, 999);
    assert_int_equal(loans_expire(loans, 999), 0);
    assert_int_equal(loans_expire(loans, 1000), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_full_and_too_long, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_ended_ones_are_remembered_while_there_is_room, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_time_ends_a_loan, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("loans", tests, NULL, NULL);
}
