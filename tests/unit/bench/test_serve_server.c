/* Where a server is, as people write it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bench/serve_server.h"

static void check(const char *url, const char *host, uint16_t port, const char *base, const char *whole)
{
    struct serve_address a;
    struct error err;
    assert_int_equal(serve_address_parse(url, &a, &err), ST_OK);
    assert_string_equal(a.host, host);
    assert_int_equal(a.port, port);
    assert_string_equal(a.base, base);
    assert_string_equal(a.url, whole);
}

static void test_addresses(void **state)
{
    (void)state;
    check("http://127.0.0.1:8000", "127.0.0.1", 8000, "", "http://127.0.0.1:8000");
    check("http://10.1.2.3/", "10.1.2.3", 80, "", "http://10.1.2.3:80");
    check("http://10.1.2.3:81/a/b/", "10.1.2.3", 81, "/a/b", "http://10.1.2.3:81/a/b");
    check("http://10.1.2.3/v1", "10.1.2.3", 80, "", "http://10.1.2.3:80");
    check("http://[::1]:9/x", "::1", 9, "/x", "http://[::1]:9/x");
}

static void test_refused(void **state)
{
    static const char *const bad[] = { "",
                                       "127.0.0.1:8000",
                                       "https://127.0.0.1",
                                       "http://",
                                       "http://:80",
                                       "http://[::1:80",
                                       "http://127.0.0.1:0",
                                       "http://127.0.0.1:65536",
                                       "http://127.0.0.1:8x" };
    struct serve_address a = { .port = 7 };
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(serve_address_parse(bad[i], &a, &err), ST_INVALID);
    assert_int_equal(a.port, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_addresses), cmocka_unit_test(test_refused) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
