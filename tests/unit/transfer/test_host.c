#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "transfer/host.h"

static void test_loopback_addresses(void **state)
{
    (void)state;
    assert_true(host_is_loopback(NULL));
    assert_true(host_is_loopback(""));
    assert_true(host_is_loopback("127.0.0.1"));
    assert_true(host_is_loopback("127.9.9.9"));
    assert_true(host_is_loopback("::1"));
    assert_false(host_is_loopback("10.0.0.1"));
    assert_false(host_is_loopback("0.0.0.0"));
    assert_false(host_is_loopback("fe80::1"));
    assert_false(host_is_loopback("not an address"));
}

static void test_device_by_address(void **state)
{
    (void)state;
    char device[HOST_DEVICE_BYTES] = "";
    struct error err;
    assert_int_equal(host_device_of("127.0.0.1", device, &err), ST_OK);
    assert_string_equal(device, "lo");
    assert_int_equal(host_device_of("203.0.113.77", device, &err), ST_NOT_FOUND);
    assert_int_equal(host_device_of("nonsense", device, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "nonsense"));
}

static void test_identity_is_stable_and_compared_whole(void **state)
{
    (void)state;
    struct host_identity a, b;
    struct error err;
    assert_int_equal(host_identity_read(&a, &err), ST_OK);
    assert_int_equal(host_identity_read(&b, &err), ST_OK);
    assert_true(host_identity_equal(&a, &b));
    b.boot[15] ^= 1;
    assert_false(host_identity_equal(&a, &b));
    b = a;
    b.ipc_space++;
    assert_false(host_identity_equal(&a, &b));
    b = a;
    b.net_space++;
    assert_false(host_identity_equal(&a, &b));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loopback_addresses),
        cmocka_unit_test(test_device_by_address),
        cmocka_unit_test(test_identity_is_stable_and_compared_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
