/* One connection: requests in a row, in pieces and too slow; readers that are slow, stop, or go away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "http_rig.h"

static void answers_and_keeps_the_connection(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    for (int i = 0; i < 3; i++) {
        put(fd, "GET /a%20b?c=%20 HTTP/1.1\r\n" HOST "user-agent: me\r\n\r\n");
        assert_string_equal(get(fd, "|1", PATIENCE_MS), "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
                                                        "Content-Length: 19\r\n\r\nGET|/a b|c=%20|me|1");
    }
    put(fd, "GET / HTTP/1.1\r\n" HOST CLOSE "\r\n");
    assert_non_null(strstr(get(fd, "<end>", PATIENCE_MS), "Connection: close\r\n"));
    close(fd);
    assert_int_equal(stats().requests, 4);
    assert_int_equal(stats().connections, 1);
    stop();
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    put(fd, "GET /1 HTTP/1.1\r\n" HOST "\r\nGET /hold HTTP/1.1\r\n" HOST "\r\nPOST /echo HTTP/1.1\r\n" HOST
            "Content-Length: 5\r\n\r\nthirdGET /stream HTTP/1.1\r\n" HOST "\r\nGET /hold HTTP/1.1\r\n" HOST "\r\n");
    assert_true(reaches(&rig.handled, 2));
    char *first = get(fd, "third", QUIET_MS);
    assert_non_null(strstr(first, "GET|/1|"));
    assert_null(strstr(first, "third"));
    on_loop(release_held, "second");
    char *rest = get(fd, "0\r\n\r\n", PATIENCE_MS);
    assert_true(strstr(rest, "second") < strstr(rest, "third") && strstr(rest, "third") < strstr(rest, "data: 1"));
    assert_true(reaches(&rig.handled, 5));
    on_loop(release_held, "last");
    assert_non_null(strstr(get(fd, "last", PATIENCE_MS), "last"));
    close(fd);
    stop();
}

static void half_closed_clients_get_their_answers(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    put(fd, "GET /1 HTTP/1.1\r\n" HOST "\r\nGET /2 HTTP/1.1\r\n" HOST "\r\n");
    shutdown(fd, SHUT_WR);
    char *text = get(fd, "<end>", PATIENCE_MS);
    assert_non_null(strstr(text, "GET|/1|"));
    assert_non_null(strstr(text, "GET|/2|"));
    assert_non_null(strstr(text, "<end>"));
    close(fd);
    stop();
}

static void bytes_may_come_one_by_one(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    static const char text[] = "POST /echo HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n" CLOSE "\r\n"
                               "3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: 1\r\n\r\n";
    for (const char *at = text; *at; at++) {
        assert_int_equal(send(fd, at, 1, 0), 1);
        assert_true(has_read((uint64_t)(at - text) + 1));
    }
    assert_non_null(strstr(get(fd, "<end>", PATIENCE_MS), "\r\n\r\nabcde"));
    close(fd);
    stop();
}

static void expect_continue(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    put(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_string_equal(get(fd, "\r\n\r\n", PATIENCE_MS), "HTTP/1.1 100 Continue\r\n\r\n");
    put(fd, "abc");
    assert_non_null(strstr(get(fd, "abc", PATIENCE_MS), "HTTP/1.1 200 OK"));
    /* With the body in the same packet nobody waits for it. */
    put(fd, "POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 3\r\n\r\ndef");
    assert_true(strncmp(get(fd, "def", PATIENCE_MS), "HTTP/1.1 200 OK", 15) == 0);
    close(fd);
    char *refused = ask("POST /echo HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 100001\r\n\r\n");
    assert_true(strncmp(refused, "HTTP/1.1 413 ", 13) == 0);
    refused = ask("POST /full HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_true(strncmp(refused, "HTTP/1.1 429 ", 13) == 0);
    assert_non_null(strstr(refused, "Connection: close\r\n"));
    stop();
}

static void early_answers_drop_the_body(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    put(fd, "POST /full HTTP/1.1\r\n" HOST "Content-Length: 6\r\n\r\n");
    assert_non_null(strstr(get(fd, "full", PATIENCE_MS), " 429 Too Many Requests"));
    uint64_t head = stats().bytes_in;
    put(fd, "abc");
    assert_true(has_read(head + 3)); /* the rest comes by itself */
    put(fd, "defGET /next HTTP/1.1\r\n" HOST "\r\n");
    assert_non_null(strstr(get(fd, "|1", PATIENCE_MS), "GET|/next|"));
    assert_int_equal(atomic_load(&rig.handled), 1);
    close(fd);
    char *chunked = ask("POST /full HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    assert_non_null(strstr(chunked, "Connection: close\r\n"));
    assert_non_null(strstr(chunked, "<end>"));
    stop();
}

static void a_refused_upload_still_sees_its_answer(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    put(fd, "POST /echo HTTP/1.1\r\n" HOST "Content-Length: 8000000\r\n\r\n");
    char *block = calloc(1, 8000000);
    for (size_t sent = 0; sent < 8000000;) {
        ssize_t n = send(fd, block + sent, 8000000 - sent, MSG_NOSIGNAL);
        assert_true(n > 0);
        sent += (size_t)n;
    }
    free(block);
    assert_true(strncmp(get(fd, "<end>", PATIENCE_MS), "HTTP/1.1 413 ", 13) == 0);
    close(fd);
    stop();
}

static void slow_requests_time_out(void **state)
{
    (void)state;
    struct http_server_options o = usual;
    o.request_timeout_us = 150 * MS;
    o.idle_timeout_us = 400 * MS;
    start(o);
    uint64_t begin = clock_now_us();
    int head = dial(), body = dial(), idle = dial(), drip = dial();
    put(head, "GET / HT");
    put(body, "POST /watched HTTP/1.1\r\n" HOST "Content-Length: 10\r\n\r\nabc");
    struct pollfd answered = { .fd = drip, .events = POLLIN };
    for (int i = 0; i < PATIENCE_MS / 10 && poll(&answered, 1, 10) == 0; i++)
        send(drip, "G", 1, MSG_NOSIGNAL); /* which must not put the end off */
    assert_true(strncmp(get(head, "<end>", PATIENCE_MS), "HTTP/1.1 408 ", 13) == 0);
    assert_true(strncmp(get(body, "<end>", PATIENCE_MS), "HTTP/1.1 408 ", 13) == 0);
    assert_true(strncmp(get(drip, "<", PATIENCE_MS), "HTTP/1.1 408 ", 13) == 0);
    assert_in_range(clock_now_us() - begin, 140 * MS, PATIENCE_MS * MS);
    assert_string_equal(get(idle, "<end>", PATIENCE_MS), "<end>");
    assert_true(clock_now_us() - begin > 390 * MS);
    assert_true(reaches(&rig.gone, 1)); /* who was admitted hears of it */
    assert_int_equal(stats().timeouts, 3);
    close(head);
    close(body);
    close(idle);
    close(drip);
    stop();
}

static void slow_readers_push_back(void **state)
{
    (void)state;
    start(usual);
    int fd = dial();
    put(fd, "GET /much HTTP/1.1\r\n" HOST CLOSE "\r\n");
    assert_true(reaches(&rig.again, 1));
    usleep(QUIET_MS * MS);
    assert_int_equal(atomic_load(&rig.writable), 0);
    size_t total = 0;
    static char block[65536];
    ssize_t n;
    while ((n = recv(fd, block, sizeof block, 0)) > 0)
        total += (size_t)n;
    assert_int_equal(n, 0);
    assert_int_equal(atomic_load(&rig.writable), 1);
    assert_int_equal(atomic_load(&rig.gone), 0);
    assert_true(total > 65536);
    close(fd);
    stop();
}

/* One that never reads costs its window, what the kernel may keep unsent, and the backlog: not megabytes. */
static void unread_bytes_are_bounded(void **state)
{
    (void)state;
    const int window = 4096;
    start(usual);
    int fd = new_socket();
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &window, sizeof window);
    connect_socket(fd);
    put(fd, "GET /endless HTTP/1.1\r\n" HOST "\r\n");
    assert_true(reaches(&rig.again, 1));
    assert_in_range(stats().bytes_out, 1, 2 * HTTP_UNSENT_BYTES);
    close(fd);
    stop();
}

static void write_on(void *arg)
{
    static char block[16384];
    int *closed = arg;
    for (int i = 0; i < 100 && rig.held && !*closed; i++)
        *closed = http_stream_write(rig.held, block, sizeof block) == ST_CLOSED;
}

static void readers_who_stop_are_dropped(void **state)
{
    (void)state;
    struct http_server_options o = usual;
    o.write_timeout_us = 200 * MS;
    start(o);
    int fd = dial();
    put(fd, "GET /endless HTTP/1.1\r\n" HOST "\r\n");
    assert_true(reaches(&rig.again, 1));
    uint64_t begin = clock_now_us();
    assert_true(reaches(&rig.gone, 1));
    assert_in_range(clock_now_us() - begin, 100 * MS, 600 * MS);
    close(fd);
    /* A handler that writes on regardless loses the client at a bound. */
    fd = dial();
    put(fd, "GET /endless HTTP/1.1\r\n" HOST "\r\n");
    assert_true(reaches(&rig.again, 2));
    int closed = 0;
    on_loop(write_on, &closed);
    assert_int_equal(closed, 1);
    assert_true(reaches(&rig.gone, 2));
    close(fd);
    stop();
}

static void check_gone(bool by_reset, bool with_more_input)
{
    start(usual);
    int fd = dial();
    put(fd, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
    assert_true(reaches(&rig.handled, 1));
    if (with_more_input) { /* more than the server cares to read, so that the end stands behind it */
        static char junk[100000];
        memset(junk, 'x', sizeof junk);
        uint64_t request = stats().bytes_in;
        assert_int_equal(send(fd, junk, sizeof junk, MSG_NOSIGNAL), sizeof junk);
        assert_true(has_read(request + HTTP_READ_BYTES));
    }
    assert_int_equal(atomic_load(&rig.gone), 0);
    if (by_reset) {
        reset_on_close(fd);
        close(fd);
    } else {
        shutdown(fd, SHUT_WR);
    }
    uint64_t begin = clock_now_us();
    assert_true(reaches(&rig.gone, 1));
    assert_true(clock_now_us() - begin < 1000 * MS);
    if (!by_reset)
        close(fd);
    assert_int_equal(stats().open_connections, 0);
    assert_int_equal(stats().gone, 1);
    stop();
}

static void gone_clients_are_noticed(void **state)
{
    (void)state;
    check_gone(false, false);
    check_gone(false, true);
    check_gone(true, false);
    check_gone(true, true);
}

static void reset_right_after_the_request(void **state)
{
    (void)state;
    start(usual);
    for (int i = 1; i <= 50; i++) {
        int fd = dial();
        reset_on_close(fd);
        put(fd, "GET /hold HTTP/1.1\r\n" HOST "\r\n");
        close(fd);
    }
    assert_true(has_open(0));
    assert_int_equal(atomic_load(&rig.gone), atomic_load(&rig.handled));
    stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_and_keeps_the_connection),
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(half_closed_clients_get_their_answers),
        cmocka_unit_test(bytes_may_come_one_by_one),
        cmocka_unit_test(expect_continue),
        cmocka_unit_test(early_answers_drop_the_body),
        cmocka_unit_test(a_refused_upload_still_sees_its_answer),
        cmocka_unit_test(slow_requests_time_out),
        cmocka_unit_test(slow_readers_push_back),
        cmocka_unit_test(unread_bytes_are_bounded),
        cmocka_unit_test(readers_who_stop_are_dropped),
        cmocka_unit_test(gone_clients_are_noticed),
        cmocka_unit_test(reset_right_after_the_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
