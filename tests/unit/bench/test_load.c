/* The load client against a server of a few lines: requests that wait, servers that go away, and answers that never
 * come. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/load.h"
#include "common/clock.h"

#define MAX_PEERS 16

enum manner {
    ANSWERS,
    STREAMS,
    CLOSES_AFTER, /* says that it keeps the connection, and closes it after an answer */
    CLOSES_INSIDE,
    SILENT,
    NOT_HTTP
};

static const char *const says[] = {
    [ANSWERS] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    [CLOSES_AFTER] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    [STREAMS] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                "9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n0\r\n\r\n",
    [CLOSES_INSIDE] = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
    [NOT_HTTP] = "hello\r\n\r\n",
};

static struct world {
    struct loop *loop;
    enum manner manner;
    struct event *accepting, *peers[MAX_PEERS];
    int listener, sockets[MAX_PEERS], n_peers;
    uint16_t port;
    struct load *load;
    /* what next() says */
    uint64_t n_ready, n_given, n_all;
    struct load_answer answers[64];
    uint64_t n_answers;
    struct timer timer;
} w;

static void on_request(evutil_socket_t fd, short what, void *arg)
{
    char bytes[4096];
    int i = *(int *)arg;
    (void)what;
    ssize_t n = recv(fd, bytes, sizeof bytes, 0);
    if (n > 0 && w.manner != SILENT)
        assert_int_equal(send(fd, says[w.manner], strlen(says[w.manner]), MSG_NOSIGNAL), strlen(says[w.manner]));
    if (n > 0 && w.manner != CLOSES_AFTER && w.manner != CLOSES_INSIDE)
        return;
    event_free(w.peers[i]);
    w.peers[i] = NULL;
    close(fd);
}

static void on_connection(evutil_socket_t fd, short what, void *arg)
{
    static int indices[MAX_PEERS];
    int i = w.n_peers++;
    (void)what;
    (void)arg;
    assert_true(i < MAX_PEERS);
    indices[i] = i;
    w.sockets[i] = accept(fd, NULL, NULL);
    w.peers[i] = event_new(loop_base(w.loop), w.sockets[i], EV_READ | EV_PERSIST, on_request, &indices[i]);
    event_add(w.peers[i], NULL);
}

static enum load_next next_request(void *ctx, uint64_t number, const char **path, struct text_buffer *body)
{
    (void)ctx;
    if (w.n_given == w.n_all)
        return LOAD_NO_MORE;
    if (w.n_given == w.n_ready)
        return LOAD_NOTHING_YET;
    assert_int_equal(number, w.n_given++);
    *path = "/x";
    text_buffer_add(body, "{}");
    return LOAD_REQUEST;
}

static bool on_event(void *ctx, uint64_t number, const char *data, size_t len, uint64_t received_us)
{
    (void)ctx;
    (void)number;
    (void)received_us;
    assert_int_equal(len, 1);
    return *data == 'b';
}

static void on_answer(void *ctx, const struct load_answer *answer)
{
    (void)ctx;
    w.answers[w.n_answers++] = *answer;
}

static void on_done(void *ctx)
{
    (void)ctx;
    loop_stop(w.loop);
}

static void open_world(enum manner manner, uint32_t n_connections, uint64_t n_ready, uint64_t n_all)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof address;
    struct error err;
    w = (struct world){ .manner = manner, .n_ready = n_ready, .n_all = n_all };
    assert_int_equal(loop_create(&w.loop), ST_OK);
    w.listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(w.listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(w.listener, 8), 0);
    assert_int_equal(getsockname(w.listener, (struct sockaddr *)&address, &len), 0);
    w.port = ntohs(address.sin_port);
    w.accepting = event_new(loop_base(w.loop), w.listener, EV_READ | EV_PERSIST, on_connection, NULL);
    event_add(w.accepting, NULL);
    const struct load_options o = { .loop = w.loop,
                                    .host = "127.0.0.1",
                                    .port = w.port,
                                    .n_connections = n_connections,
                                    .timeout_us = 200000,
                                    .keeps_trying = true,
                                    .next = next_request,
                                    .on_event = on_event,
                                    .on_answer = on_answer,
                                    .on_done = on_done };
    assert_int_equal(load_create(&o, &w.load, &err), ST_OK);
}

static void stop_listening(void)
{
    event_free(w.accepting);
    close(w.listener);
    w.accepting = NULL;
}

static void run_and_close(void)
{
    load_start(w.load);
    loop_run(w.loop);
    load_destroy(&w.load);
    for (int i = 0; i < w.n_peers; i++)
        if (w.peers[i]) {
            event_free(w.peers[i]);
            close(w.sockets[i]);
        }
    if (w.accepting)
        stop_listening();
    loop_destroy(&w.loop);
}

static void check_failures(enum load_failure failure, uint64_t n)
{
    assert_int_equal(w.n_answers, n);
    for (uint64_t i = 0; i < n; i++) {
        assert_int_equal(w.answers[i].failure, failure);
        assert_int_equal(w.answers[i].error != NULL, failure != LOAD_COMPLETE);
        assert_true(w.answers[i].done_us >= w.answers[i].sent_us);
    }
}

static void give_more(void *arg)
{
    (void)arg;
    w.n_ready += 2;
    load_wake(w.load);
    if (w.n_ready < w.n_all)
        timer_set(loop_timers(w.loop), &w.timer, clock_now_us() + 2000, give_more, NULL);
}

/* An open loop: connections wait until there is something, and the same ones are used again. */
static void test_woken(void **state)
{
    (void)state;
    open_world(ANSWERS, 4, 0, 10);
    timer_set(loop_timers(w.loop), &w.timer, clock_now_us() + 2000, give_more, NULL);
    run_and_close();
    check_failures(LOAD_COMPLETE, 10);
    assert_true(w.n_peers <= 4);
    assert_int_equal(w.answers[9].status, 200);
}

static void stop(void *arg)
{
    (void)arg;
    load_stop(w.load);
}

static void test_stopped_while_all_wait(void **state)
{
    (void)state;
    open_world(ANSWERS, 4, 0, 10);
    timer_set(loop_timers(w.loop), &w.timer, clock_now_us() + 2000, stop, NULL);
    run_and_close();
    check_failures(LOAD_COMPLETE, 0);
}

static void test_streams(void **state)
{
    (void)state;
    open_world(STREAMS, 1, 3, 3);
    run_and_close();
    check_failures(LOAD_COMPLETE, 3);
    assert_int_equal(w.n_peers, 1);
    assert_true(w.answers[2].is_stream && w.answers[2].first_us > 0);
    assert_int_equal(w.answers[2].n_events, 2);
}

/* Each request finds a connection that is closed already, or is while it goes out. */
static void test_closed_connections_are_opened_again(void **state)
{
    (void)state;
    open_world(CLOSES_AFTER, 1, 5, 5);
    run_and_close();
    check_failures(LOAD_COMPLETE, 5);
    assert_int_equal(w.n_peers, 5);
}

static void test_closed_inside(void **state)
{
    (void)state;
    open_world(CLOSES_INSIDE, 1, 3, 3);
    run_and_close();
    check_failures(LOAD_CLOSED, 3);
}

static void test_silent(void **state)
{
    (void)state;
    open_world(SILENT, 2, 2, 2);
    run_and_close();
    check_failures(LOAD_TIMED_OUT, 2);
    assert_true(w.answers[0].done_us - w.answers[0].sent_us >= 200000);
}

static void test_not_http(void **state)
{
    (void)state;
    open_world(NOT_HTTP, 1, 2, 2);
    run_and_close();
    check_failures(LOAD_NOT_HTTP, 2);
}

/* More in a row than a connection that gives up would try. */
static void test_nobody_listens(void **state)
{
    (void)state;
    open_world(ANSWERS, 2, 40, 40);
    stop_listening();
    run_and_close();
    check_failures(LOAD_NOT_CONNECTED, 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_woken),         cmocka_unit_test(test_stopped_while_all_wait),
        cmocka_unit_test(test_streams),       cmocka_unit_test(test_closed_connections_are_opened_again),
        cmocka_unit_test(test_closed_inside), cmocka_unit_test(test_silent),
        cmocka_unit_test(test_not_http),      cmocka_unit_test(test_nobody_listens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
