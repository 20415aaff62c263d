/* The default size of a KV pool. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/quantity.h"
#include "worker/kv_memory.h"

static void few_workers_take_a_sixteenth_each(void **state)
{
    (void)state;
    for (uint64_t n = 1; n <= 4; n++)
        assert_int_equal(kv_memory_default(GIB(64), n, GIB(1)), GIB(4));
}

static void many_share_a_quarter(void **state)
{
    (void)state;
    assert_int_equal(kv_memory_default(GIB(64), 8, GIB(1)), GIB(2));
    for (uint64_t n = 1; n <= 1000; n++)
        assert_true(n * kv_memory_default(GIB(64), n, GIB(1)) <= GIB(16));
}

static void a_small_model_needs_less(void **state)
{
    (void)state;
    assert_int_equal(kv_memory_default(GIB(64), 2, MIB(1)), MIB(16));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(few_workers_take_a_sixteenth_each),
        cmocka_unit_test(many_share_a_quarter),
        cmocka_unit_test(a_small_model_needs_less),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
