/* What answers look like: heads, streams, HTTP/1.0, and errors that the server finds itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "http_rig.h"

static void head_has_no_body(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    put(fd, "HEAD /1 HTTP/1.1\r\n" HOST "\r\n");
    char *text = get(fd, "\r\n\r\n", PATIENCE_MS);
    assert_non_null(strstr(text, "Content-Length: 15\r\n\r\n"));
    assert_string_equal(strstr(text, "\r\n\r\n"), "\r\n\r\n");
    put(fd, "HEAD /stream HTTP/1.1\r\n" HOST "\r\n");
    assert_string_equal(strstr(get(fd, "\r\n\r\n", PATIENCE_MS), "\r\n\r\n"), "\r\n\r\n");
    put(fd, "GET /2 HTTP/1.1\r\n" HOST "\r\n");
    assert_true(strncmp(get(fd, "|1", PATIENCE_MS), "HTTP/1.1 200 OK", 15) == 0);
    close(fd);
    stop();
}

static void http_1_0(void **state)
{
    (void)state;
    start(usual);
    char *text = ask("GET /1 HTTP/1.0\r\n\r\n");
    assert_non_null(strstr(text, "Connection: close\r\n"));
    assert_non_null(strstr(text, "<end>"));
    text = ask("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_null(strstr(text, "chunked"));
    assert_string_equal(strstr(text, "\r\n\r\n"), "\r\n\r\ndata: 1\n\ndata: 2\n\n<end>");
    text = ask("GET /stream?abort HTTP/1.0\r\n\r\n");
    assert_null(strstr(text, "<end>"));
    int fd = dial();
    put(fd, "GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_non_null(strstr(get(fd, "|1", PATIENCE_MS), "Connection: keep-alive\r\n"));
    put(fd, "GET /1 HTTP/1.0\r\n\r\n");
    assert_non_null(strstr(get(fd, "<end>", PATIENCE_MS), "<end>"));
    close(fd);
    stop();
}

static void streams_are_chunked(void **state)
{
    (void)state;
    start(usual);
    char *text = ask("GET /stream HTTP/1.1\r\n" HOST CLOSE "\r\n");
    assert_string_equal(text, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
                              "Connection: close\r\nx-kind: stream\r\n\r\n"
                              "9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n<end>");
    text = ask("GET /stream?abort HTTP/1.1\r\n" HOST "\r\n");
    assert_non_null(strstr(text, "data: 2\n\n\r\n<end>"));
    stop();
}

static void faults_have_a_body_and_end_the_connection(void **state)
{
    (void)state;
    struct http_server_options o = usual;
    o.error_body = error_body;
    start(o);
    assert_string_equal(ask("GET / HTTP/1.1\r\n\r\n"),
                        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 69\r\n"
                        "Connection: close\r\n\r\n"
                        "{\"error\":{\"code\":400,\"message\":\"exactly one Host field is required\"}}"
                        "<end>");
    assert_int_equal(stats().parse_errors, 1);
    assert_int_equal(atomic_load(&rig.handled), 0);
    /* What came before a bad request is answered, what follows it is not. */
    char *text = ask("GET /1 HTTP/1.1\r\n" HOST "\r\nGET / HTTP/9.9\r\n" HOST "\r\nGET /3 HTTP/1.1\r\n" HOST "\r\n");
    assert_non_null(strstr(text, "GET|/1|"));
    assert_non_null(strstr(text, "505"));
    assert_null(strstr(text, "GET|/3|"));
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(head_has_no_body),
        cmocka_unit_test(http_1_0),
        cmocka_unit_test(streams_are_chunked),
        cmocka_unit_test(faults_have_a_body_and_end_the_connection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
