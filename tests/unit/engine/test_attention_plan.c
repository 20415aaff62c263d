/* When attention is divided by splits, and into how much. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/attention_plan.h"

#define MOST 96u

struct scene {
    struct kv_layout kv;
    struct attention a;
    struct attention_item items[MOST];
    uint32_t n;
};

/* n_seqs sequences of one row each, of so many positions. */
static void decode(struct scene *s, uint32_t n_heads, uint32_t n_kv_heads, uint32_t n_seqs, uint32_t positions)
{
    *s = (struct scene){ .kv = { .n_kv_heads = n_kv_heads, .head_dim = 64 } };
    s->a = (struct attention){ .kv = &s->kv, .n_heads = n_heads };
    for (uint32_t i = 0; i < n_seqs * n_kv_heads; i++)
        s->items[s->n++] =
            (struct attention_item){ .n_rows = 1, .first_pos = positions - 1, .kv_head = i % n_kv_heads };
}

static uint64_t plan(const struct scene *s, uint32_t n_threads)
{
    return attention_plan(&s->a, s->items, s->n, n_threads);
}

static uint32_t parts_of(const struct scene *s, uint32_t item, uint32_t n_threads)
{
    return attention_plan_parts(attention_cost(&s->a, &s->items[item]), plan(s, n_threads),
                                attention_splits(&s->a, &s->items[item]));
}

static void test_heads_that_fill_the_threads_stay_whole(void **state)
{
    (void)state;
    struct scene s;
    decode(&s, 32, 4, 1, 2048);
    assert_true(plan(&s, 1) == UINT64_MAX);
    assert_true(plan(&s, 2) == UINT64_MAX);
    assert_true(plan(&s, 4) == UINT64_MAX);
    decode(&s, 9, 3, 1, 2048);
    assert_true(plan(&s, 1) == UINT64_MAX);
    assert_true(plan(&s, 3) == UINT64_MAX);
    decode(&s, 9, 3, 16, 2048); /* 48 on 5: 10 for one of them, 9.6 for each */
    assert_true(plan(&s, 5) == UINT64_MAX);
}

static void test_heads_that_leave_threads_idle_are_divided(void **state)
{
    (void)state;
    struct scene s;
    decode(&s, 9, 3, 1, 64 * 64);
    assert_int_equal(plan(&s, 2), 64 * 2 * 3 / 2 / 8);
    assert_int_equal(parts_of(&s, 0, 2), 6);
    decode(&s, 32, 4, 1, 64 * 64);
    assert_int_equal(parts_of(&s, 0, 3), 7);
    assert_int_equal(parts_of(&s, 3, 8), 16);
    assert_int_equal(parts_of(&s, 3, 64), 32); /* two splits each, more threads or not */
    decode(&s, 9, 3, 1, 64 * 4);
    assert_int_equal(parts_of(&s, 0, 2), 2);
    decode(&s, 9, 3, 1, 64 * 3);
    assert_int_equal(parts_of(&s, 0, 2), 1);
}

/* One long sequence beside short ones, which come before it. */
static void test_only_long_items_are_divided(void **state)
{
    (void)state;
    struct scene s;
    decode(&s, 4, 1, 5, 128);
    s.items[4].first_pos = 64 * 40 - 1;
    assert_int_equal(plan(&s, 2), 2 * (4 * 2 + 40) / 2 / 8);
    assert_int_equal(parts_of(&s, 0, 2), 1);
    assert_int_equal(parts_of(&s, 4, 2), 14);
}

static void test_a_window_is_what_counts(void **state)
{
    (void)state;
    struct scene s;
    decode(&s, 9, 3, 1, 64 * 64);
    s.a.window = 65;
    assert_int_equal(attention_first_split(&s.a, &s.items[0]), 62 * 64);
    assert_int_equal(attention_cost(&s.a, &s.items[0]), 2 * 2);
    assert_int_equal(parts_of(&s, 0, 2), 1);
    s.items[0].n_rows = 20; /* of 3 heads: 4 vectors; the last row sees into another split */
    assert_int_equal(attention_cost(&s.a, &s.items[0]), 3 * 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heads_that_fill_the_threads_stay_whole),
        cmocka_unit_test(test_heads_that_leave_threads_idle_are_divided),
        cmocka_unit_test(test_only_long_items_are_divided),
        cmocka_unit_test(test_a_window_is_what_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
