/* A lender and a borrower against ends that do not keep to the protocol. */
#include "stranger.h"

static void test_garbage_is_counted_and_disturbs_nobody(void **state)
{
    (void)state;
    struct lender_process lender;
    struct borrower b;
    struct stranger s;
    lender_start(&lender, TRANSFER_TCP, NULL, NULL);
    borrower_open(&b, TRANSFER_TCP, NULL);
    borrower_meet(&b, &lender, TRANSFER_TCP, 5000000);
    assert_int_equal(b.ready_st, ST_OK);
    stranger_open(&s, &lender, false);
    uint8_t noise[4096];
    srand(1);
    for (int i = 0; i < 500; i++) {
        struct wire_head head;
        for (size_t k = 0; k < sizeof noise; k++)
            noise[k] = (uint8_t)rand();
        memcpy(&head, noise, sizeof head);
        say(&s, &head, noise, (size_t)rand() % sizeof noise);
    }
    struct wire_head empty = { 0 };
    say(&s, &empty, NULL, 0);
    progress_for(&s, 300000);
    assert_int_equal(lender_order(&lender, 's', 0, NULL).stats.malformed, 501);
    struct one_take one;
    struct transfer_span span = { 0, 1, 1, 0, 16 };
    take_begin(&b, &one, 0, 6, &span, 1, NULL, 5000000);
    assert_true(wait_for(&b, &one.done, 6000000));
    assert_int_equal(one.take.st, ST_OK);
    stranger_close(&s);
    borrower_close(&b);
    assert_int_equal(lender_reap(&lender), 0);
}

static void test_hello_for_another_pool_gets_no_answer(void **state)
{
    (void)state;
    struct lender_process lender;
    struct stranger s;
    lender_start(&lender, TRANSFER_TCP, NULL, NULL);
    stranger_open(&s, &lender, false);
    say_hello(&s, 1 << 16, s.d.pool.nonce + 1);
    progress_for(&s, 200000);
    assert_int_equal(s.messages, 0);
    say_hello(&s, 1 << 16, s.d.pool.nonce);
    await(&s, &s.challenges, 1);
    stranger_close(&s);
    assert_int_equal(lender_reap(&lender), 0);
}

/* A request outside the pool, or more of them than the window holds, costs the session. */
static void test_bad_requests_end_the_session(void **state)
{
    (void)state;
    struct lender_process lender;
    lender_start(&lender, TRANSFER_TCP, NULL, NULL);
    for (int round = 0; round < 3; round++) {
        struct stranger s;
        uint8_t payload[WIRE_REQUEST_BYTES];
        stranger_open(&s, &lender, false);
        be_welcomed(&s, 5 << 16);
        struct transfer_span span = { 0, round == 0 ? TEST_BLOCKS : 1, 1, 0, 16 };
        size_t len = wire_request_encode(round == 1 ? 6 : 0, 1, &span, 1, payload);
        struct wire_head ask = { .magic = WIRE_MAGIC, .kind = WIRE_REQUEST, .session = 5 << 16, .value = 1000000 };
        if (round == 2)
            (void)lender_order(&lender, 'f', 0, "transfer.serve.sending=sleep(300),times=1");
        for (int i = 0; i < (round == 2 ? 30 : 1); i++, ask.request++)
            say(&s, &ask, payload, len);
        progress_for(&s, 20000000); /* until it failed */
        assert_true(s.failed);
        assert_int_equal(lender_order(&lender, 's', 0, NULL).stats.malformed, round + 1);
        stranger_close(&s);
    }
    assert_int_equal(lender_reap(&lender), 0);
}

static void test_a_request_past_its_deadline_is_not_served(void **state)
{
    (void)state;
    struct lender_process lender;
    struct stranger s;
    lender_start(&lender, TRANSFER_TCP, NULL, NULL);
    stranger_open(&s, &lender, false);
    be_welcomed(&s, 5 << 16);
    say_request(&s, 5 << 16, 0, 0);
    progress_for(&s, 200000);
    assert_int_equal(s.ends, 1);
    assert_int_equal(s.last_end, ST_TIMEOUT);
    assert_int_equal(lender_order(&lender, 's', 0, NULL).stats.served_bytes, 0);
    stranger_close(&s);
    assert_int_equal(lender_reap(&lender), 0);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--lender") == 0)
        return lender_main(argv + 2);
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_garbage_is_counted_and_disturbs_nobody),
        cmocka_unit_test(test_hello_for_another_pool_gets_no_answer),
        cmocka_unit_test(test_bad_requests_end_the_session),
        cmocka_unit_test(test_a_request_past_its_deadline_is_not_served),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
