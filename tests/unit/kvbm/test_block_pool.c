/* The pool against a naive model, with random operations; and leases. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kvbm/block_pool.h"
#include "kvbm/lease.h"

#define BLOCKS 64
#define TOKENS 16

struct naive {
    uint32_t owners[BLOCKS][BLOCK_OWNER_COUNT], valid[BLOCKS];
    uint64_t generation[BLOCKS];
    enum block_state state[BLOCKS];
};

static uint64_t random_state = 1;

static uint32_t draw(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % below;
}

static struct block_pool *make(void)
{
    struct block_pool *pool;
    struct block_pool_options options = { .n_blocks = BLOCKS, .block_tokens = TOKENS };
    assert_int_equal(block_pool_create(&options, &pool), ST_OK);
    return pool;
}

static uint32_t naive_free(const struct naive *n)
{
    uint32_t free_blocks = 0;
    for (int i = 0; i < BLOCKS; i++)
        free_blocks += n->state[i] == BLOCK_FREE;
    return free_blocks;
}

static void take(struct block_pool *pool, struct naive *n)
{
    block_id out[BLOCKS];
    uint32_t count = draw(BLOCKS / 4), before = naive_free(n);
    enum block_state state = draw(2) ? BLOCK_RESERVED : BLOCK_FILLING;
    status st = block_pool_take(pool, count, state, out);
    assert_int_equal(st, count <= before ? ST_OK : ST_AGAIN);
    if (st != ST_OK)
        return;
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(n->state[out[i]], BLOCK_FREE);
        n->state[out[i]] = state;
        n->owners[out[i]][BLOCK_OF_SEQUENCE] = 1;
        n->valid[out[i]] = 0;
        n->generation[out[i]]++;
    }
}

static void change(struct block_pool *pool, struct naive *n)
{
    block_id b = draw(BLOCKS);
    enum block_owner owner = (enum block_owner)draw(BLOCK_OWNER_COUNT);
    if (n->state[b] == BLOCK_FREE)
        return;
    switch (draw(3)) {
    case 0:
        block_pool_hold(pool, b, owner);
        n->owners[b][owner]++;
        break;
    case 1:
        if (!n->owners[b][owner])
            return;
        block_pool_release(pool, b, owner);
        if (--n->owners[b][owner] == 0 && !n->owners[b][!owner])
            n->state[b] = BLOCK_FREE;
        break;
    default:
        n->valid[b] += draw(TOKENS - n->valid[b] + 1);
        block_pool_filled(pool, b, n->valid[b]);
        n->state[b] = n->valid[b] == TOKENS ? BLOCK_COMPLETE : BLOCK_FILLING;
    }
}

static void test_random_operations(void **state)
{
    (void)state;
    struct block_pool *pool = make();
    struct naive n;
    memset(&n, 0, sizeof n);
    for (int i = 0; i < 200000; i++) {
        if (draw(8) == 0)
            take(pool, &n);
        else
            change(pool, &n);
        assert_int_equal(block_pool_free(pool), naive_free(&n));
        block_id b = draw(BLOCKS);
        assert_int_equal(block_pool_state(pool, b), n.state[b]);
        assert_int_equal(block_pool_generation(pool, b), n.generation[b]);
        assert_int_equal(block_pool_owners(pool, b, BLOCK_OF_TRANSFER),
                         n.state[b] == BLOCK_FREE ? 0 : n.owners[b][BLOCK_OF_TRANSFER]);
    }
    block_pool_destroy(&pool);
    assert_null(pool);
}

static void test_states_are_counted_and_told(void **state)
{
    (void)state;
    struct block_pool *pool = make();
    block_id b[4];
    assert_int_equal(block_pool_take(pool, 4, BLOCK_RESERVED, b), ST_OK);
    assert_int_equal(block_pool_in_state(pool, BLOCK_RESERVED), 4);
    block_pool_filled(pool, b[0], 3);
    block_pool_filled(pool, b[1], TOKENS);
    assert_int_equal(block_pool_in_state(pool, BLOCK_FILLING), 1);
    assert_int_equal(block_pool_in_state(pool, BLOCK_COMPLETE), 1);
    assert_int_equal(block_pool_valid(pool, b[0]), 3);
    assert_string_equal(block_state_name(BLOCK_COMPLETE), "COMPLETE");
    for (int i = 0; i < 4; i++)
        block_pool_release(pool, b[i], BLOCK_OF_SEQUENCE);
    assert_int_equal(block_pool_in_state(pool, BLOCK_FREE), BLOCKS);
    block_pool_destroy(&pool);
}

/* A block rests as long as possible before it is rewritten. */
static void test_a_free_block_is_renewed(void **state)
{
    (void)state;
    struct block_pool *pool = make();
    block_id taken;
    const uint64_t before = block_pool_generation(pool, 0);
    block_pool_renew(pool, 0);
    assert_int_equal(block_pool_generation(pool, 0), before + 1);
    assert_int_equal(block_pool_generation(pool, 1), before);
    assert_int_equal(block_pool_take(pool, 1, BLOCK_FILLING, &taken), ST_OK);
    assert_int_equal(taken, 0);
    assert_int_equal(block_pool_generation(pool, 0), before + 2);
    block_pool_release(pool, taken, BLOCK_OF_SEQUENCE);
    block_pool_destroy(&pool);
}

static void test_freed_blocks_are_reused_last(void **state)
{
    (void)state;
    struct block_pool *pool = make();
    block_id first, other;
    assert_int_equal(block_pool_take(pool, 1, BLOCK_FILLING, &first), ST_OK);
    block_pool_release(pool, first, BLOCK_OF_SEQUENCE);
    for (int i = 0; i < BLOCKS - 1; i++) {
        assert_int_equal(block_pool_take(pool, 1, BLOCK_FILLING, &other), ST_OK);
        assert_int_not_equal(other, first);
    }
    assert_int_equal(block_pool_take(pool, 1, BLOCK_FILLING, &other), ST_OK);
    assert_int_equal(other, first);
    assert_int_equal(block_pool_generation(pool, first), 2);
    block_pool_destroy(&pool);
}

static void test_lease_outlives_the_sequence(void **state)
{
    (void)state;
    struct block_pool *pool = make();
    struct lease lease;
    block_id b[3];
    assert_int_equal(block_pool_take(pool, 3, BLOCK_FILLING, b), ST_OK);
    lease_open(&lease, pool, b, 3);
    for (int i = 0; i < 3; i++)
        block_pool_release(pool, b[i], BLOCK_OF_SEQUENCE);
    assert_int_equal(block_pool_free(pool), BLOCKS - 3);
    lease_end(&lease);
    lease_end(&lease);
    assert_int_equal(block_pool_free(pool), BLOCKS);
    block_pool_destroy(&pool);
}

static void count_call(void *ctx, block_id block)
{
    (void)block;
    ++*(int *)ctx;
}

/* What is found no longer is free at once, or when its last owner goes. */
static void test_a_registered_block_is_unregistered(void **state)
{
    (void)state;
    struct block_pool *pool;
    struct block_pool_options options = { .n_blocks = 2, .block_tokens = TOKENS, .policy = &eviction_s3fifo };
    block_id b[2];
    int told = 0;
    assert_int_equal(block_pool_create(&options, &pool), ST_OK);
    block_pool_on_evicting(pool, count_call, &told);
    assert_int_equal(block_pool_take(pool, 2, BLOCK_FILLING, b), ST_OK);
    for (int i = 0; i < 2; i++) {
        block_pool_filled(pool, b[i], TOKENS);
        block_pool_register(pool, b[i], (uint64_t)i, i ? b[0] : BLOCK_NONE);
    }
    block_pool_release(pool, b[0], BLOCK_OF_SEQUENCE);
    block_pool_unregister(pool, b[1]);
    assert_int_equal(block_pool_state(pool, b[1]), BLOCK_COMPLETE);
    assert_int_equal(block_pool_free(pool), 1);
    block_pool_unregister(pool, b[0]);
    assert_int_equal(block_pool_state(pool, b[0]), BLOCK_FREE);
    assert_int_equal(told, 2);
    block_pool_release(pool, b[1], BLOCK_OF_SEQUENCE);
    assert_int_equal(block_pool_free(pool), 2);
    assert_int_equal(block_pool_take(pool, 2, BLOCK_FILLING, b), ST_OK);
    assert_int_equal(told, 2);
    block_pool_destroy(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_operations),           cmocka_unit_test(test_states_are_counted_and_told),
        cmocka_unit_test(test_a_free_block_is_renewed),     cmocka_unit_test(test_freed_blocks_are_reused_last),
        cmocka_unit_test(test_lease_outlives_the_sequence), cmocka_unit_test(test_a_registered_block_is_unregistered),
    };
    return cmocka_run_group_tests_name("block pool", tests, NULL, NULL);
}
