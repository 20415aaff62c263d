/* Cached tokens as workers tell them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "router/cached_tokens.h"

static void check(const uint32_t *told, size_t n, uint32_t n_prompt, const uint64_t wanted[KV_TIER_COUNT])
{
    Baton__Timing timing = BATON__TIMING__INIT;
    struct cached_tokens got = { { 9, 9, 9, 9 } };
    uint64_t total = 0;
    timing.cached_tokens = (uint32_t *)(uintptr_t)told;
    timing.n_cached_tokens = n;
    cached_tokens_read(&timing, n_prompt, &got);
    for (int i = 0; i < KV_TIER_COUNT; i++) {
        assert_int_equal(got.by_tier[i], wanted[i]);
        total += wanted[i];
    }
    assert_int_equal(cached_tokens_total(&got), total);
}

static void test_as_told(void **state)
{
    (void)state;
    check(NULL, 0, 10, (uint64_t[]){ 0, 0, 0, 0 }); /* by a worker that does not know of them */
    check((uint32_t[]){ 3 }, 1, 10, (uint64_t[]){ 3, 0, 0, 0 });
    check((uint32_t[]){ 1, 2, 3, 3 }, 4, 10, (uint64_t[]){ 1, 2, 3, 3 });
    check((uint32_t[]){ 1, 0, 0, 2, 4 }, 5, 10, (uint64_t[]){ 1, 0, 0, 6 }); /* a tier of the future */
}

/* Somebody has to compute the last token. */
static void test_never_the_whole_prompt(void **state)
{
    (void)state;
    check((uint32_t[]){ 10 }, 1, 10, (uint64_t[]){ 9, 0, 0, 0 });
    check((uint32_t[]){ 4, UINT32_MAX, 1, UINT32_MAX }, 4, 10, (uint64_t[]){ 4, 5, 0, 0 });
    check((uint32_t[]){ 1 }, 1, 1, (uint64_t[]){ 0, 0, 0, 0 });
    check((uint32_t[]){ 1 }, 1, 0, (uint64_t[]){ 0, 0, 0, 0 });
}

static void test_sums(void **state)
{
    (void)state;
    struct cached_tokens sum = { { 1, 2, 3, UINT32_MAX } };
    cached_tokens_add(&sum, &(struct cached_tokens){ { 1, 0, 5, 1 } });
    assert_true(sum.by_tier[0] == 2 && sum.by_tier[1] == 2 && sum.by_tier[2] == 8);
    assert_int_equal(sum.by_tier[3], UINT64_C(1) << 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_told),
        cmocka_unit_test(test_never_the_whole_prompt),
        cmocka_unit_test(test_sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
