#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sim/draws.h"
#include "sim/kv_blocks.h"

#define CAPACITY 40u
#define KEYS     200u
#define ROUNDS   20000u
#define HOLDS    5u
#define CHAIN    8u

/* Who was told what. */
struct told {
    bool here[KEYS];
    uint32_t n;
};

static void on_stored(void *ctx, const uint32_t keys[], uint32_t n)
{
    struct told *t = ctx;
    for (uint32_t i = 0; i < n; i++, t->n++) {
        assert_false(t->here[keys[i]]);
        t->here[keys[i]] = true;
    }
}

static void on_removed(void *ctx, uint32_t key)
{
    struct told *t = ctx;
    assert_true(t->here[key]);
    t->here[key] = false;
    t->n--;
}

static uint32_t told_free;

static struct kv_blocks *make(uint32_t capacity, struct told *told)
{
    struct kv_blocks *b;
    const struct kv_blocks_options options = { capacity, &eviction_s3fifo, on_stored, on_removed, told, &told_free };
    assert_int_equal(kv_blocks_create(&options, &b), ST_OK);
    return b;
}

static void what_was_filled_is_found(void **state)
{
    struct told told = { .n = 0 };
    struct kv_blocks *b = make(10, &told);
    struct kv_hold one = { 0 }, two = { 0 };
    const uint32_t chain[] = { 3, 4, 5 }, other[] = { 3, 4, 6 };
    (void)state;
    assert_true(kv_blocks_take(b, chain, 3, 4, 0, &one));
    assert_int_equal(kv_blocks_free(b), 6);
    assert_int_equal(kv_blocks_peek(b, chain, 3), 0);
    kv_blocks_filled(b, chain, 2, &one);
    kv_blocks_filled(b, chain, 3, &one);
    assert_int_equal(one.known, 3);
    assert_int_equal(one.others, 1);
    assert_int_equal(kv_blocks_peek(b, other, 3), 2);
    assert_true(kv_blocks_take(b, other, 3, 5, 0, &two));
    assert_int_equal(two.known, 2);
    assert_int_equal(kv_blocks_free(b), 3);
    kv_blocks_release(b, &one);
    assert_int_equal(kv_blocks_free(b), 5); /* 5, and the one without a key; 3 and 4 are still held */
    kv_blocks_release(b, &two);
    assert_int_equal(kv_blocks_free(b), 10);
    assert_int_equal(kv_blocks_counters(b)->hit, 2);
    kv_blocks_destroy(&b);
}

/* Two compute the same at once: it is kept once. */
static void a_block_is_kept_once(void **state)
{
    struct told told = { .n = 0 };
    struct kv_blocks *b = make(10, &told);
    struct kv_hold one = { 0 }, two = { 0 };
    const uint32_t chain[] = { 7, 8 };
    (void)state;
    assert_true(kv_blocks_take(b, chain, 2, 2, 0, &one));
    assert_true(kv_blocks_take(b, chain, 2, 2, 0, &two));
    assert_int_equal(kv_blocks_free(b), 6);
    kv_blocks_filled(b, chain, 2, &one);
    kv_blocks_filled(b, chain, 2, &two);
    assert_int_equal(kv_blocks_free(b), 8);
    kv_blocks_release(b, &one);
    assert_int_equal(kv_blocks_free(b), 8);
    kv_blocks_release(b, &two);
    assert_int_equal(kv_blocks_free(b), 10);
    kv_blocks_destroy(&b);
}

static void all_or_none(void **state)
{
    struct told told = { .n = 0 };
    struct kv_blocks *b = make(10, &told);
    struct kv_hold one = { 0 }, two = { 0 };
    (void)state;
    assert_true(kv_blocks_take(b, NULL, 0, 8, 2, &one));
    assert_false(kv_blocks_take(b, NULL, 0, 2, 1, &two));
    assert_int_equal(two.others, 0);
    assert_false(kv_blocks_grow(b, 3, &one));
    assert_true(kv_blocks_grow(b, 2, &one));
    assert_int_equal(kv_blocks_free(b), 0);
    kv_blocks_forget(b);
    assert_int_equal(kv_blocks_free(b), 10);
    kv_blocks_destroy(&b);
}

/* Chains that share beginnings: key 8 * group + i for the first four blocks of a group, and from there on one's own. */
static void make_chain(struct draws *d, uint32_t keys[CHAIN])
{
    uint32_t group = (uint32_t)(draws_next(d) % 5), own = (uint32_t)(draws_next(d) % 7);
    for (uint32_t i = 0; i < CHAIN; i++)
        keys[i] = group * 32 + (i < 4 ? i : 4 + own * 4 + (i - 4));
}

static void check(const struct kv_blocks *b, const struct told *told, const struct kv_hold holds[HOLDS],
                  uint32_t chains[HOLDS][CHAIN])
{
    uint32_t others = 0;
    for (uint32_t h = 0; h < HOLDS; h++) {
        others += holds[h].others;
        assert_true(kv_blocks_peek(b, chains[h], holds[h].known) == holds[h].known); /* nothing held goes */
    }
    assert_true(told->n + others <= CAPACITY);
    assert_true(kv_blocks_free(b) <= CAPACITY - others);
    assert_int_equal(told_free, kv_blocks_free(b));
}

static void nothing_held_goes_and_nothing_is_lost(void **state)
{
    struct told told = { .n = 0 };
    struct kv_blocks *b = make(CAPACITY, &told);
    struct kv_hold holds[HOLDS] = { { 0 } };
    uint32_t chains[HOLDS][CHAIN] = { { 0 } };
    struct draws d = draws_begin(11, 0);
    (void)state;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t h = (uint32_t)(draws_next(&d) % HOLDS), filled = (uint32_t)(draws_next(&d) % (CHAIN + 1));
        if (holds[h].known + holds[h].others == 0) {
            make_chain(&d, chains[h]);
            (void)kv_blocks_take(b, chains[h], CHAIN - 1, CHAIN + 1, 0, &holds[h]);
        } else if (filled > holds[h].known) {
            kv_blocks_filled(b, chains[h], filled, &holds[h]);
        } else {
            kv_blocks_release(b, &holds[h]);
        }
        check(b, &told, holds, chains);
    }
    for (uint32_t h = 0; h < HOLDS; h++)
        kv_blocks_release(b, &holds[h]);
    assert_int_equal(kv_blocks_free(b), CAPACITY);
    assert_true(kv_blocks_counters(b)->evicted > 100);
    kv_blocks_destroy(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(what_was_filled_is_found),
                                        cmocka_unit_test(a_block_is_kept_once), cmocka_unit_test(all_or_none),
                                        cmocka_unit_test(nothing_held_goes_and_nothing_is_lost) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
