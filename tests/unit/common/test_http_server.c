/* The server as a whole: addresses, limits, draining and the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "http_rig.h"

static void connections_are_limited(void **state)
{
    (void)state;
    struct http_server_options o = usual;
    o.max_connections = 2;
    o.retry_after_s = 7;
    start(o);
    int a = dial(), b = dial();
    put(a, "GET /a HTTP/1.1\r\n" HOST "\r\n");
    get(a, "|1", PATIENCE_MS);
    put(b, "GET /b HTTP/1.1\r\n" HOST "\r\n");
    get(b, "|1", PATIENCE_MS);
    const char *refusal = ask("GET /c HTTP/1.1\r\n" HOST "\r\n");
    assert_true(strncmp(refusal, "HTTP/1.1 503 ", 13) == 0);
    assert_non_null(strstr(refusal, "\r\nRetry-After: 7\r\n"));
    assert_int_equal(stats().refused, 1);
    close(a);
    assert_true(has_open(1));
    assert_non_null(strstr(ask("GET /d HTTP/1.1\r\n" HOST CLOSE "\r\n"), "GET|/d|"));
    close(b);
    stop();
}

static void accepting_pauses_without_descriptors(void **state)
{
    (void)state;
    start(usual);
    int fd = new_socket();
    struct rlimit old, none;
    getrlimit(RLIMIT_NOFILE, &old);
    none = old;
    none.rlim_cur = (rlim_t)fd + 1;
    setrlimit(RLIMIT_NOFILE, &none);
    connect_socket(fd);
    put(fd, "GET /1 HTTP/1.1\r\n" HOST "\r\n");
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    usleep(300 * MS);
    getrusage(RUSAGE_SELF, &after);
    setrlimit(RLIMIT_NOFILE, &old);
    int64_t cpu_us =
        (after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000 +
        (after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec);
    assert_true(cpu_us < 100000);
    assert_non_null(strstr(get(fd, "|1", PATIENCE_MS), "GET|/1|"));
    close(fd);
    stop();
}

static void drain(void *arg)
{
    (void)arg;
    http_server_drain(rig.server);
}

static void draining(void **state)
{
    (void)state;
    start(usual);
    int idle = dial(), busy = dial();
    put(idle, "GET /1 HTTP/1.1\r\n" HOST "\r\n");
    get(idle, "|1", PATIENCE_MS);
    put(busy, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    assert_true(reaches(&rig.handled, 2));
    on_loop(drain, NULL);
    assert_string_equal(get(idle, "<end>", PATIENCE_MS), "<end>");
    assert_string_equal(get(busy, "<", QUIET_MS), "");
    int late = new_socket();
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(rig.port) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(late, (struct sockaddr *)&a, sizeof a), -1);
    on_loop(release_held, "done");
    char *text = get(busy, "<end>", PATIENCE_MS);
    assert_non_null(strstr(text, "Connection: close\r\n"));
    assert_non_null(strstr(text, "done<end>"));
    close(idle);
    close(busy);
    close(late);
    stop();
}

static void destroy_tells_who_waits(void **state)
{
    (void)state;
    start(usual);
    int a = dial(), b = dial();
    put(a, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    put(b, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    assert_true(reaches(&rig.handled, 2));
    stop();
    assert_int_equal(atomic_load(&rig.gone), 2);
    close(a);
    close(b);
}

static void bad_addresses_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",       ":80",   "127.0.0.1",    "127.0.0.1:",   "127.0.0.1:x",   "127.0.0.1:99999",
        "::1:80", "[]:80", "127.0.0.1:-1", "256.0.0.1:80", "203.0.113.77:1"
    };
    struct http_server_options o = usual;
    struct http_server *server;
    struct error err;
    assert_int_equal(loop_create(&o.loop), ST_OK);
    o.handle = handle;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        o.listen = bad[i];
        err.text[0] = '\0';
        assert_int_not_equal(http_server_create(&o, &server, &err), ST_OK);
        assert_true(strlen(err.text) > 10);
    }
    o.listen = "[::1]:0";
    if (http_server_create(&o, &server, &err) == ST_OK) /* where there is IPv6 */
        http_server_destroy(&server);
    loop_destroy(&o.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(connections_are_limited),
        cmocka_unit_test(accepting_pauses_without_descriptors),
        cmocka_unit_test(draining),
        cmocka_unit_test(destroy_tells_who_waits),
        cmocka_unit_test(bad_addresses_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
