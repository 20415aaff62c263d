/* Each policy and the closure on a few entries. Long runs stand in tests/conformance/evict_reference.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kvbm/eviction.h"

#define CAPACITY 20u

static struct eviction *make(const struct eviction_policy *policy, bool leaf_first)
{
    struct eviction *e;
    const struct eviction_options options = { policy, CAPACITY, leaf_first };
    assert_int_equal(eviction_create(&options, &e), ST_OK);
    return e;
}

static void add_all(struct eviction *e, uint32_t n, bool chain)
{
    for (uint32_t id = 0; id < n; id++)
        eviction_add(e, id, id + 100, chain && id ? id - 1 : EVICTION_NONE);
}

static void expect(struct eviction *e, const uint32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(eviction_evictable(e), n - i);
        assert_int_equal(eviction_choose(e), ids[i]);
    }
    assert_int_equal(eviction_choose(e), EVICTION_NONE);
    assert_int_equal(eviction_evictable(e), 0);
}

static void test_lru_and_fifo(void **state)
{
    (void)state;
    struct eviction *lru = make(&eviction_lru, false), *fifo = make(&eviction_fifo, false);
    add_all(lru, 5, false);
    add_all(fifo, 5, false);
    eviction_hit(lru, 0), eviction_hit(lru, 2);
    eviction_hit(fifo, 0), eviction_hit(fifo, 2);
    expect(lru, (uint32_t[]){ 1, 3, 4, 0, 2 }, 5);
    expect(fifo, (uint32_t[]){ 0, 1, 2, 3, 4 }, 5);
    eviction_destroy(&lru);
    eviction_destroy(&fifo);
    assert_null(lru);
}

/* What was hit in the small queue outlives what was not; a ghost goes to the main queue at once. */
static void test_s3fifo_keeps_what_was_hit(void **state)
{
    (void)state;
    struct eviction *e = make(&eviction_s3fifo, false);
    add_all(e, 6, false);
    eviction_hit(e, 0), eviction_hit(e, 3);
    assert_int_equal(eviction_choose(e), 1);
    assert_int_equal(eviction_choose(e), 2);
    eviction_add(e, 1, 101, EVICTION_NONE); /* back, known by its ghost */
    eviction_add(e, 2, 999, EVICTION_NONE); /* another one in its slot */
    expect(e, (uint32_t[]){ 4, 5, 0, 1, 3, 2 }, 6);
    eviction_destroy(&e);
}

static void test_a_chain_goes_from_its_end(void **state)
{
    (void)state;
    static const struct eviction_policy *const policies[] = { &eviction_s3fifo, &eviction_s3fifo_plain, &eviction_lru,
                                                              &eviction_fifo };
    for (int i = 0; i < 4; i++) {
        struct eviction *e = make(policies[i], true);
        add_all(e, 4, true);
        eviction_hit(e, 3); /* newer than its parents, and still it must go first */
        expect(e, (uint32_t[]){ 3, 2, 1, 0 }, 4);
        eviction_destroy(&e);
    }
}

static void test_a_pin_keeps_what_stands_before_it(void **state)
{
    (void)state;
    struct eviction *e = make(&eviction_lru, true);
    add_all(e, 4, true);
    eviction_add(e, 4, 104, 0); /* a second child of the first */
    eviction_pin(e, 2);
    assert_int_equal(eviction_evictable(e), 2);
    assert_int_equal(eviction_choose(e), 3);
    assert_int_equal(eviction_choose(e), 4);
    assert_int_equal(eviction_choose(e), EVICTION_NONE);
    eviction_unpin(e, 2);
    expect(e, (uint32_t[]){ 2, 1, 0 }, 3);
    eviction_destroy(&e);
}

/* Four ghosts an entry: the fifth round of strangers makes it forget. */
static void test_ghosts_are_bounded(void **state)
{
    (void)state;
    for (uint32_t strangers = 4 * CAPACITY - 1; strangers <= 4 * CAPACITY; strangers++) {
        struct eviction *e = make(&eviction_s3fifo, false);
        eviction_add(e, 0, 7, EVICTION_NONE);
        assert_int_equal(eviction_choose(e), 0);
        for (uint32_t i = 0; i < strangers; i++) {
            eviction_add(e, 1, 1000 + i, EVICTION_NONE);
            assert_int_equal(eviction_choose(e), 1);
        }
        eviction_add(e, 0, 7, EVICTION_NONE);
        eviction_add(e, 1, 8, EVICTION_NONE);
        eviction_add(e, 2, 9, EVICTION_NONE);
        bool known = strangers < 4 * CAPACITY; /* in the main queue, then, which the small one goes before */
        assert_int_equal(eviction_choose(e), known ? 1 : 0);
        eviction_destroy(&e);
    }
}

/* Pinned, parked or neither; what stood before it may go then, and its hash is nobody's ghost. */
static void test_an_entry_is_removed(void **state)
{
    (void)state;
    struct eviction *e = make(&eviction_s3fifo, true);
    add_all(e, 4, true);
    eviction_pin(e, 3);
    assert_int_equal(eviction_choose(e), EVICTION_NONE); /* all are parked now */
    eviction_remove(e, 3);
    assert_int_equal(eviction_evictable(e), 3);
    eviction_remove(e, 2);
    eviction_add(e, 2, 102, 1);
    eviction_pin(e, 2);
    eviction_remove(e, 2);
    eviction_add(e, 3, 102, 1);
    expect(e, (uint32_t[]){ 3, 1, 0 }, 3);
    eviction_add(e, 0, 103, EVICTION_NONE);
    eviction_add(e, 1, 104, EVICTION_NONE);
    expect(e, (uint32_t[]){ 0, 1 }, 2); /* in the small queue: with a ghost the first would be in the main one */
    eviction_destroy(&e);
}

static void test_names(void **state)
{
    (void)state;
    assert_ptr_equal(eviction_policy_find("s3fifo"), &eviction_s3fifo);
    assert_ptr_equal(eviction_policy_find("lru"), &eviction_lru);
    assert_null(eviction_policy_find("mru"));
    assert_string_equal(eviction_policy_name(&eviction_s3fifo_plain), "s3fifo-plain");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lru_and_fifo),
        cmocka_unit_test(test_s3fifo_keeps_what_was_hit),
        cmocka_unit_test(test_a_chain_goes_from_its_end),
        cmocka_unit_test(test_a_pin_keeps_what_stands_before_it),
        cmocka_unit_test(test_ghosts_are_bounded),
        cmocka_unit_test(test_an_entry_is_removed),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests_name("eviction", tests, NULL, NULL);
}
