/* A worker that streams to the load client itself: every token once, in order, told before it is sent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bench/direct_worker.h"
#include "bench/load.h"
#include "bench/mock_worker.h"
#include "common/clock.h"

#define LETTERS   "abcde"
#define N_STREAMS 6u
#define N_TOKENS  12u
#define STEP_US   300u
#define LIMIT_US  20000000u

struct talk {
    struct loop *loop;
    struct direct_worker *worker;
    struct load *load;
    struct timer limit;
    uint64_t n_requests, n_answers;
    uint32_t max_tokens; /* asked for; 0: the body does not say */
    uint32_t received[N_STREAMS];
    int status;
    const char *error;
    bool stop_at_token; /* ends the worker under way */
    _Atomic uint64_t emitted_us[N_STREAMS][N_TOKENS];
};

static void on_emit(void *ctx, uint64_t seed, uint32_t index, uint64_t now_us)
{
    struct talk *t = ctx;
    if (seed >= N_STREAMS || index >= N_TOKENS || t->emitted_us[seed][index])
        abort();
    t->emitted_us[seed][index] = now_us;
}

static enum load_next next_request(void *ctx, uint64_t number, const char **path, struct text_buffer *body)
{
    struct talk *t = ctx;
    *path = "/v1/chat/completions";
    if (number >= t->n_requests)
        return LOAD_NO_MORE;
    text_buffer_printf(body, "{\"seed\":%llu", (unsigned long long)number);
    if (t->max_tokens)
        text_buffer_printf(body, ",\"max_tokens\":%u", t->max_tokens);
    text_buffer_add(body, "}");
    return LOAD_REQUEST;
}

static bool on_event(void *ctx, uint64_t number, const char *data, size_t len, uint64_t received_us)
{
    static const char key[] = "\"content\":\"";
    struct talk *t = ctx;
    const char *at = strstr(data, key);
    (void)len;
    if (!at) {
        assert_string_equal(data, "[DONE]");
        assert_int_equal(t->received[number], N_TOKENS);
        return false;
    }
    uint32_t index = t->received[number]++;
    uint64_t emitted_us = t->emitted_us[number][index];
    assert_int_equal(at[sizeof key - 1], LETTERS[mock_worker_token(number, index, sizeof LETTERS - 1)]);
    assert_true(emitted_us && emitted_us <= received_us);
    if (t->stop_at_token)
        direct_worker_stop(&t->worker);
    return true;
}

static void on_answer(void *ctx, const struct load_answer *answer)
{
    struct talk *t = ctx;
    t->n_answers++;
    t->status = answer->status;
    t->error = answer->error;
    if (t->stop_at_token)
        load_stop(t->load);
}

static void on_done(void *ctx)
{
    loop_stop(((struct talk *)ctx)->loop);
}

static void on_limit(void *arg)
{
    (void)arg;
    fail_msg("no end within %u s", LIMIT_US / 1000000);
}

static void talk(struct talk *t)
{
    struct error err;
    assert_int_equal(loop_create(&t->loop), ST_OK);
    const struct direct_worker_options options = { 0, STEP_US, N_STREAMS / 2, LETTERS, on_emit, t };
    assert_int_equal(direct_worker_start(&options, &t->worker, &err), ST_OK);
    const struct load_options load = { .loop = t->loop,
                                       .host = "127.0.0.1",
                                       .port = direct_worker_port(t->worker),
                                       .n_connections = (uint32_t)t->n_requests,
                                       .next = next_request,
                                       .on_event = on_event,
                                       .on_answer = on_answer,
                                       .on_done = on_done,
                                       .ctx = t };
    assert_int_equal(load_create(&load, &t->load, &err), ST_OK);
    timer_set(loop_timers(t->loop), &t->limit, clock_now_us() + LIMIT_US, on_limit, t);
    load_start(t->load);
    loop_run(t->loop);
    timer_cancel(loop_timers(t->loop), &t->limit);
    load_destroy(&t->load);
    direct_worker_stop(&t->worker);
    loop_destroy(&t->loop);
}

static void test_every_token_comes(void **state)
{
    struct talk t = { .n_requests = N_STREAMS, .max_tokens = N_TOKENS };
    (void)state;
    talk(&t);
    assert_int_equal(t.n_answers, N_STREAMS);
    for (uint32_t i = 0; i < N_STREAMS; i++)
        assert_int_equal(t.received[i], N_TOKENS);
    /* Tokens of one stream are a step apart, late ones made up for at most once. */
    uint64_t took_us = t.emitted_us[0][N_TOKENS - 1] - t.emitted_us[0][0];
    assert_true(took_us >= (N_TOKENS - 3) * STEP_US);
}

static void test_no_number_of_tokens(void **state)
{
    struct talk t = { .n_requests = 1 };
    (void)state;
    talk(&t);
    assert_int_equal(t.status, 400);
    assert_null(t.error);
    assert_int_equal(t.received[0], 0);
}

static void test_stop_under_way(void **state)
{
    struct talk t = { .n_requests = N_STREAMS, .max_tokens = N_TOKENS, .stop_at_token = true };
    (void)state;
    talk(&t);
    assert_non_null(t.error);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_token_comes),
        cmocka_unit_test(test_no_number_of_tokens),
        cmocka_unit_test(test_stop_under_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
