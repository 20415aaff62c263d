#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/http_request.h"

static const struct http_limits limits = { .max_header_bytes = 2048, .max_body_bytes = 1000 };

struct outcome {
    int status; /* 200: complete, 100: more is needed, else a fault */
    struct http_request *request;
    size_t rest; /* bytes that were not used */
};

/* Feeds text in pieces of step bytes, the way a connection does. */
static struct outcome read_request(const char *text, size_t len, size_t step)
{
    size_t scanned = 0, head_len = 0, at = step < len ? step : len, used = 0;
    struct http_fault fault = { 0 };
    struct outcome out = { .status = 100 };
    enum http_step found;
    while ((found = http_head_find(text, at, limits.max_header_bytes, &scanned, &head_len, &fault)) == HTTP_MORE) {
        if (at == len)
            return out;
        at = at + step < len ? at + step : len;
    }
    if (found == HTTP_DONE)
        out.request = http_request_create(text, head_len, &limits, &fault);
    if (!out.request) {
        out.status = fault.status;
        return out;
    }
    for (at = head_len; !out.request->complete && at < len; at += used) {
        size_t piece = at + step < len ? step : len - at;
        if (http_request_feed(out.request, text + at, piece, &used, &fault) == HTTP_FAULTY) {
            http_request_destroy(&out.request);
            out.status = fault.status;
            return out;
        }
    }
    out.status = out.request->complete ? 200 : 100;
    out.rest = len - at;
    return out;
}

static int status_of(const char *text, size_t len, size_t step)
{
    struct outcome out = read_request(text, len, step);
    http_request_destroy(&out.request);
    return out.status;
}

#define HOST "Host: a\r\n"

static const struct {
    int status;
    const char *text;
} cases[] = {
    { 200, "GET / HTTP/1.1\r\n" HOST "\r\n" },
    { 200, "\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "\r\n\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n" },
    { 200, "GET / HTTP/1.0\r\n\r\n" },
    { 200, "GET /a?b=c HTTP/1.1\r\n" HOST "\r\n" },
    { 200, "OPTIONS * HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET * HTTP/1.1\r\n" HOST "\r\n" },
    { 200, "GET http://a/b HTTP/1.1\r\n" HOST "\r\n" },
    { 200, "GET http://a HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET http:///b HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET http://u@a/b HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET ftp://a/b HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET a HTTP/1.1\r\n" HOST "\r\n" },
    { 501, "CONNECT a:1 HTTP/1.1\r\n" HOST "\r\n" },
    { 501, "FOO / HTTP/1.1\r\n" HOST "\r\n" },
    { 501, "get / HTTP/1.1\r\n" HOST "\r\n" },
    { 501, "GETT / HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "G@T / HTTP/1.1\r\n" HOST "\r\n" },
    { 400, " GET / HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET  / HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET / HTTP/1.1 \r\n" HOST "\r\n" },
    { 400, "GET /\r\n" HOST "\r\n" },
    { 400, "GET / HTTP/1.1 x\r\n" HOST "\r\n" },
    { 400, "GET / FTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET / http/1.1\r\n" HOST "\r\n" },
    { 505, "GET / HTTP/2.0\r\n" HOST "\r\n" },
    { 505, "GET / HTTP/1.2\r\n" HOST "\r\n" },
    { 505, "GET / HTTP/3.0\r\n" HOST "\r\n" },
    { 505, "GET / HTTP/0.9\r\n" HOST "\r\n" },
    { 400, "GET / HTTP/1\r\n" HOST "\r\n" },
    { 400, "GET / HTTP/11\r\n" HOST "\r\n" },
    { 400, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" },
    { 400, "\x16\x03\x01\x02" },
    /* line ends */
    { 400, "GET / HTTP/1.1\n" HOST "\r\n" },
    { 400, "GET / HTTP/1.1\r\nHost: a\n\r\n" },
    { 400, "GET / HTTP/1.1\r\nHost: a\r\n\n" },
    { 400, "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\n" HOST "X: a\r\n b\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\n" HOST "X: a\r\n\tb\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\n " HOST "\r\n" },
    { 400, "GET / HTTP/1.1\r\n" HOST "\r\r\n\r\n" },
    /* fields */
    { 400, "GET / HTTP/1.1\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\nHost:\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n" },
    { 400, "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\nHost: a:x\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n" },
    { 200, "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\n" HOST "X y: b\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\n" HOST "X\x01: b\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\n" HOST "X: a\x01 b\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\n" HOST "X: a\x7f b\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\n" HOST "X\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\n" HOST ": b\r\n\r\n" },
    { 400, "GET / HTTP/1.1\r\n" HOST "\xc3\xa9: b\r\n\r\n" },
    { 200, "GET / HTTP/1.1\r\n" HOST "X: caf\xc3\xa9\r\n\r\n" },
    { 200, "GET / HTTP/1.1\r\n" HOST "X:\r\n\r\n" },
    { 417, "POST / HTTP/1.1\r\n" HOST "Expect: cookies\r\nContent-Length: 1\r\n\r\nx" },
    /* targets */
    { 400, "GET /%00 HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /%0a HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /%7f HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /% HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /%4 HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /%gg HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /%ff HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /%c0%80 HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /%ed%a0%80 HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /%f4%90%80%80 HTTP/1.1\r\n" HOST "\r\n" },
    { 200, "GET /%f0%9f%98%80%c3%a9 HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /caf\xc3\xa9 HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /a\x01 HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /a<b HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /a\\b HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /a#b HTTP/1.1\r\n" HOST "\r\n" },
    { 400, "GET /a?b#c HTTP/1.1\r\n" HOST "\r\n" },
    { 200, "GET /a?b=[c]|{d} HTTP/1.1\r\n" HOST "\r\n" },
    /* lengths */
    { 200, "POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc" },
    { 100, "POST / HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\nabc" },
    { 200, "POST / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n" },
    { 200, "POST / HTTP/1.1\r\n" HOST "\r\n" },
    { 200, "POST / HTTP/1.1\r\n" HOST "Content-Length: 0003\r\n\r\nabc" },
    { 413, "POST / HTTP/1.1\r\n" HOST "Content-Length: 1001\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999999\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551616\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Content-Length: +3\r\n\r\nabc" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 0x3\r\n\r\nabc" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 3 3\r\n\r\nabc" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 3,3\r\n\r\nabc" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 3.0\r\n\r\nabc" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\nabc" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc" },
    /* transfer codings */
    { 200, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" },
    { 200, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n" },
    { 100, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: identity\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip\r\n\r\n" },
    { 501, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding:\r\n\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: \x0b chunked\r\n\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nx\r\nabc\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc0\r\n\r\n" },
    { 400, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc" },
    { 413, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc" },
    { 413, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3e9\r\nabc" },
    { 413, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3e6\r\nabc" },
};

static void statuses_do_not_depend_on_pieces(void **state)
{
    (void)state;
    static const size_t steps[] = { 1u << 20, 1, 2, 3, 7, 16 };
    int failed = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
            int got = status_of(cases[i].text, strlen(cases[i].text), steps[s]);
            if (got == cases[i].status)
                continue;
            print_message("case %zu, pieces of %zu: %d, not %d: %s\n", i, steps[s], got, cases[i].status,
                          cases[i].text);
            failed++;
        }
    assert_int_equal(failed, 0);
}

static void nul_bytes_are_refused(void **state)
{
    (void)state;
    static const char in_path[] = "GET /a\0b HTTP/1.1\r\n" HOST "\r\n";
    static const char in_value[] = "GET / HTTP/1.1\r\n" HOST "X: a\0b\r\n\r\n";
    static const char in_name[] = "GET / HTTP/1.1\r\n" HOST "X\0: ab\r\n\r\n";
    static const char in_front[] = "\0GET / HTTP/1.1\r\n" HOST "\r\n";
    assert_int_equal(status_of(in_path, sizeof in_path - 1, 5), 400);
    assert_int_equal(status_of(in_value, sizeof in_value - 1, 5), 400);
    assert_int_equal(status_of(in_name, sizeof in_name - 1, 5), 400);
    assert_int_equal(status_of(in_front, sizeof in_front - 1, 5), 400);
}

static void parts_of_a_request(void **state)
{
    (void)state;
    static const char text[] =
        "POST /v1/a%2Fb%20c?x=%20&y HTTP/1.1\r\nHost: h\r\nX-One:  two words \t\r\nempty:\r\nX-ONE: "
        "again\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        "4;e=1\r\nab\0c\r\n1\r\nd\r\n0\r\nX-Trailer: z\r\n\r\nGET";
    for (size_t step = 1; step < 40; step++) {
        struct outcome out = read_request(text, sizeof text - 1, step);
        struct http_request *r = out.request;
        assert_int_equal(out.status, 200);
        assert_string_equal(r->method, "POST");
        assert_string_equal(r->target.path, "/v1/a/b c");
        assert_string_equal(r->target.query, "x=%20&y");
        assert_string_equal(http_request_field(r, "x-one"), "two words");
        assert_string_equal(http_request_field(r, "Empty"), "");
        assert_null(http_request_field(r, "x-trailer"));
        assert_null(http_request_field(r, "x"));
        assert_int_equal(r->body_len, 5);
        assert_memory_equal(r->body, "ab\0cd", 6);
        assert_false(r->keep_alive);
        assert_int_equal(out.rest, 3);
        http_request_destroy(&r);
    }
}

static void limits_hold(void **state)
{
    (void)state;
    char text[8192];
    int n = snprintf(text, sizeof text, "GET /%0*d HTTP/1.1\r\n" HOST "\r\n", 3000, 0);
    assert_int_equal(status_of(text, (size_t)n, 1000), 414);
    assert_int_equal(status_of(text, (size_t)n, 10000), 414);
    n = snprintf(text, sizeof text, "GET / HTTP/1.1\r\n" HOST "X: %0*d\r\n\r\n", 3000, 0);
    assert_int_equal(status_of(text, (size_t)n, 1000), 431);
    assert_int_equal(status_of(text, (size_t)n, 10000), 431);
    n = snprintf(text, sizeof text, "GET / HTTP/1.1\r\n" HOST);
    for (int i = 0; i < HTTP_MAX_FIELDS - 1; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "X: %d\r\n", i);
    strcpy(text + n, "\r\n");
    assert_int_equal(status_of(text, strlen(text), 10000), 200);
    strcpy(text + n, "X:\r\n\r\n");
    assert_int_equal(status_of(text, strlen(text), 10000), 431);
    /* trailers and chunk extensions */
    n = snprintf(text, sizeof text, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\nX: %0*d\r\n\r\n",
                 3000, 0);
    assert_int_equal(status_of(text, (size_t)n, 10000), 431);
    n = snprintf(text, sizeof text,
                 "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1;%0*d\r\na\r\n0\r\n\r\n", 3000, 0);
    assert_int_equal(status_of(text, (size_t)n, 10000), 431);
}

static void a_declared_length_takes_no_memory(void **state)
{
    (void)state;
    static const struct http_limits large = { .max_header_bytes = 2048, .max_body_bytes = (size_t)1 << 40 };
    static const char head[] = "POST / HTTP/1.1\r\n" HOST "Content-Length: 1000000000000\r\n\r\n";
    struct http_fault fault;
    size_t used;
    struct http_request *r = http_request_create(head, sizeof head - 1, &large, &fault);
    assert_non_null(r);
    assert_int_equal(http_request_feed(r, "abc", 3, &used, &fault), HTTP_MORE);
    assert_true(r->body_capacity < 100000);
    http_request_destroy(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statuses_do_not_depend_on_pieces),
        cmocka_unit_test(nul_bytes_are_refused),
        cmocka_unit_test(parts_of_a_request),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(a_declared_length_takes_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
