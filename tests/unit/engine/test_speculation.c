/* Guesses by lookup, and how many of them pay. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/speculation.h"

static void test_lookup(void **state)
{
    (void)state;
    uint32_t drafts[8];
    const uint32_t twice[] = { 5, 1, 2, 3, 4, 6, 7, 8, 1, 2, 9, 1, 2, 3, 4 };
    assert_int_equal(speculation_lookup(twice, 15, 3, drafts), 3); /* the longest match, not the latest pair */
    assert_int_equal(drafts[0], 6);
    assert_int_equal(drafts[2], 8);
    assert_int_equal(speculation_lookup(twice, 13, 8, drafts), 8); /* (1, 2): the later place, over and over */
    const uint32_t over[] = { 9, 1, 2, 9, 1, 2, 9, 1 };
    assert_memory_equal(drafts, over, sizeof over);
    assert_int_equal(speculation_lookup(twice, 8, 8, drafts), 0);
    assert_int_equal(speculation_lookup(twice, 15, 0, drafts), 0);
    assert_int_equal(speculation_lookup(twice, 1, 8, drafts), 0);
    const uint32_t same[] = { 3, 3, 3, 3, 3, 3 };
    assert_int_equal(speculation_lookup(same, 6, 8, drafts), 8);
    assert_int_equal(drafts[7], 3);
    for (uint32_t round = 0; round < 5000; round++) {
        uint32_t tokens[40];
        uint32_t n = 1 + (uint32_t)random() % 40;
        for (uint32_t i = 0; i < n; i++)
            tokens[i] = (uint32_t)random() % 4;
        uint32_t found = speculation_lookup(tokens, n, 8, drafts);
        assert_true(found == 0 || found == 8);
        for (uint32_t i = 0; i < found; i++)
            assert_true(drafts[i] < 4);
    }
}

static void test_depth_follows_price(void **state)
{
    (void)state;
    struct speculation s;
    speculation_begin(&s);
    assert_int_equal(speculation_depth(&s, 0.0, 5), 5);
    assert_int_equal(speculation_depth(&s, 0.2, 5), 2); /* 1/2, 1/4, and 1/8 does not pay */
    assert_int_equal(speculation_depth(&s, 0.2, 1), 1);
    assert_int_equal(speculation_depth(&s, 0.9, 0), 0);
    assert_false(s.paused); /* there was nothing to guess */
    assert_int_equal(speculation_depth(&s, 0.9, 5), 0);
    assert_true(s.paused);
}

/* Wrong guesses pause it; a probe now and then notices when they become right. */
static void test_pauses_and_returns(void **state)
{
    (void)state;
    struct speculation s;
    uint32_t drafted = 0, depth;
    speculation_begin(&s);
    for (uint32_t i = 0; i < 3200; i++) {
        depth = speculation_depth(&s, 0.1, 4);
        drafted += depth;
        speculation_verified(&s, depth, 0);
    }
    assert_true(s.paused && s.acceptance < 0.1f);
    assert_true(drafted >= 3200 / SPECULATION_PROBE - 2 && drafted < 3200 / SPECULATION_PROBE + 100);
    for (uint32_t i = 0; i < 400; i++) {
        depth = speculation_depth(&s, 0.1, 4);
        speculation_verified(&s, depth, depth);
    }
    assert_false(s.paused);
    assert_int_equal(speculation_depth(&s, 0.1, 4), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookup),
        cmocka_unit_test(test_depth_follows_price),
        cmocka_unit_test(test_pauses_and_returns),
    };
    return cmocka_run_group_tests_name("speculation", tests, NULL, NULL);
}
