/* What is known of other managers' blocks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kvbm/peer_index.h"

static struct block_hash hash(uint64_t i)
{
    return block_hash_next((struct block_hash){ i, i }, (const uint32_t[]){ 1 }, 1);
}

static void each_tier_of_each_peer_is_known(void **state)
{
    (void)state;
    struct peer_index *index;
    assert_int_equal(peer_index_create(100, &index), ST_OK);
    peer_index_add(index, 0, false, hash(1));
    peer_index_add(index, 63, true, hash(1));
    peer_index_add(index, 63, false, hash(2));
    assert_int_equal(peer_index_blocks(index), 2);
    struct peer_set set = peer_index_find(index, hash(1));
    assert_true(set.in_memory == 1 && set.on_disk == UINT64_C(1) << 63);
    peer_index_remove(index, 63, false, hash(1)); /* it is on disk there */
    peer_index_remove(index, 0, false, hash(1));
    set = peer_index_find(index, hash(1));
    assert_true(set.in_memory == 0 && set.on_disk == UINT64_C(1) << 63);
    peer_index_remove(index, 63, true, hash(1));
    peer_index_remove(index, 63, true, hash(1));
    assert_int_equal(peer_index_blocks(index), 1);
    set = peer_index_find(index, hash(1));
    assert_true(!set.in_memory && !set.on_disk);
    peer_index_destroy(&index);
    assert_null(index);
    peer_index_destroy(&index);
}

static void a_peer_is_forgotten(void **state)
{
    (void)state;
    struct peer_index *index;
    assert_int_equal(peer_index_create(1000, &index), ST_OK);
    for (uint64_t i = 0; i < 500; i++) {
        peer_index_add(index, 3, i % 2, hash(i));
        if (i % 5 == 0)
            peer_index_add(index, 4, false, hash(i));
    }
    peer_index_clear(index, 3);
    assert_int_equal(peer_index_blocks(index), 100);
    for (uint64_t i = 0; i < 500; i++) {
        struct peer_set set = peer_index_find(index, hash(i));
        assert_true(set.on_disk == 0 && set.in_memory == (i % 5 == 0 ? 16 : 0));
    }
    peer_index_destroy(&index);
}

/* Nearly all of as many as there shall be room for are kept; of many more, what came last, and no more than fit. */
static void it_is_bounded(void **state)
{
    (void)state;
    struct peer_index *index;
    assert_int_equal(peer_index_create(4096, &index), ST_OK);
    for (uint64_t i = 0; i < 4096; i++)
        peer_index_add(index, 1, false, hash(i));
    assert_true(peer_index_blocks(index) > 4096 * 9 / 10);
    for (uint64_t i = 0; i < 100000; i++)
        peer_index_add(index, 1, false, hash(i));
    assert_true(peer_index_blocks(index) <= 4096 * 5 / 4 + 8);
    assert_true(peer_index_find(index, hash(99999)).in_memory == 2);
    assert_true(peer_index_find(index, hash(0)).in_memory == 0);
    peer_index_destroy(&index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_tier_of_each_peer_is_known),
        cmocka_unit_test(a_peer_is_forgotten),
        cmocka_unit_test(it_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
