/* How many blocks a manager takes memory for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "kvbm/daemon/process.h"

static const struct kv_layout tiny = { 4, 4, 32, 16, DTYPE_BF16 }; /* 32 KiB a block */
static struct error err;

static void memory_is_divided_into_blocks(void **state)
{
    (void)state;
    static struct kvbm_config config;
    uint32_t n = 0;
    assert_int_equal(tiers_size(&config, &tiny, GIB(8), &n, &err), ST_OK);
    assert_int_equal(n, GIB(1) / KIB(32)); /* an eighth of the machine */
    config.kv_memory = KIB(100);
    assert_int_equal(tiers_size(&config, &tiny, GIB(8), &n, &err), ST_OK);
    assert_int_equal(n, 3);
}

static void too_little_and_too_much(void **state)
{
    (void)state;
    static struct kvbm_config config;
    uint32_t n = 99;
    config.kv_memory = KIB(31);
    assert_int_equal(tiers_size(&config, &tiny, GIB(8), &n, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "--kv-memory of 31744 bytes gives 0 blocks of 32768 bytes"));
    config.kv_memory = UINT64_MAX;
    assert_int_equal(tiers_size(&config, &tiny, GIB(8), &n, &err), ST_INVALID);
    assert_int_equal(n, 99);
}

/* Formats come from etcd. */
static void no_geometry_overflows(void **state)
{
    (void)state;
    static struct kvbm_config config;
    uint32_t n;
    struct kv_layout l = tiny;
    l.n_layers = l.n_kv_heads = l.head_dim = l.block_tokens = 1u << 29; /* 2^117 bytes: 0 in 64 bits */
    assert_int_equal(tiers_size(&config, &l, GIB(8), &n, &err), ST_UNSUPPORTED);
    l = tiny;
    l.n_layers = 0;
    assert_int_equal(tiers_size(&config, &l, GIB(8), &n, &err), ST_UNSUPPORTED);
    l = tiny;
    l.n_layers = 8192; /* 64 MiB */
    assert_int_equal(tiers_size(&config, &l, GIB(8), &n, &err), ST_OK);
    l.n_layers = 8193;
    assert_int_equal(tiers_size(&config, &l, GIB(8), &n, &err), ST_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_divided_into_blocks),
        cmocka_unit_test(too_little_and_too_much),
        cmocka_unit_test(no_geometry_overflows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
