/* A lender and a borrower against ends that do not keep to the protocol. */
#include "borrower_side.h"

#include "transfer/description.h"
#include "transfer/ucx_link.h"

struct stranger {
    struct ucx_link link;
    ucp_ep_h ep;
    bool failed;
    uint32_t welcomes, ends;
    status last_end;
};

static void on_message(void *arg, struct ucx_link *link, const void *head, size_t head_len, const uint8_t *payload,
                       size_t len, bool whole)
{
    (void)link, (void)payload;
    struct stranger *s = arg;
    struct wire_head h;
    assert_true(whole);
    assert_int_equal(wire_head_decode(head, head_len, len, &h), ST_OK);
    s->welcomes += h.kind == WIRE_WELCOME;
    s->ends += h.kind == WIRE_END;
    if (h.kind == WIRE_END)
        s->last_end = (status)h.st;
}

static void on_failed(void *arg, ucp_ep_h ep, ucs_status_t st)
{
    (void)ep, (void)st;
    ((struct stranger *)arg)->failed = true;
}

static void stranger_open(struct stranger *s, const struct description *d)
{
    struct error err;
    *s = (struct stranger){ 0 };
    assert_int_equal(ucx_link_open(&s->link, false, "lo", on_message, s, &err), ST_OK);
    assert_int_equal(ucx_link_connect(&s->link, d->net_address.data, on_failed, s, &s->ep, &err), ST_OK);
}

static void stranger_close(struct stranger *s)
{
    if (s->ep)
        ucx_link_disconnect(&s->link, &s->ep);
    for (int i = 0; i < 100000 && s->link.closing; i++)
        (void)ucx_link_progress(&s->link);
    ucx_link_close(&s->link);
}

static void progress_for(struct stranger *s, uint64_t us)
{
    uint64_t until = clock_now_us() + us;
    while (clock_now_us() < until && !s->failed)
        (void)ucx_link_progress(&s->link);
}

/* Longer than any machine takes. */
static void await_welcome(struct stranger *s, uint32_t n)
{
    uint64_t until = clock_now_us() + 20000000;
    while (clock_now_us() < until && !s->failed && s->welcomes < n)
        (void)ucx_link_progress(&s->link);
    assert_int_equal(s->welcomes, n);
}

static void say(struct stranger *s, const struct wire_head *head, const void *payload, size_t len)
{
    if (ucx_link_send(&s->link, s->ep, head, payload, len, NULL, NULL))
        s->failed = true;
}

static void say_hello(struct stranger *s, uint64_t session, uint64_t nonce)
{
    uint8_t address[WIRE_MAX_ADDRESS];
    size_t len;
    struct error err;
    assert_int_equal(ucx_link_address(&s->link, address, sizeof address, &len, &err), ST_OK);
    struct wire_head hello = { .magic = WIRE_MAGIC, .kind = WIRE_HELLO, .session = session, .request = nonce };
    say(s, &hello, address, len);
}

static void describe(const struct lender_process *p, struct description *d)
{
    struct error err;
    assert_int_equal(description_decode(p->description, p->description_len, d, &err), ST_OK);
}

static void test_garbage_is_counted_and_disturbs_nobody(void **state)
{
    (void)state;
    struct lender_process lender;
    struct borrower b;
    struct stranger s;
    struct description d;
    lender_start(&lender, TRANSFER_TCP, NULL, NULL);
    describe(&lender, &d);
    borrower_open(&b, TRANSFER_TCP, NULL);
    borrower_meet(&b, &lender, TRANSFER_TCP, 5000000);
    assert_int_equal(b.ready_st, ST_OK);
    stranger_open(&s, &d);
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
    struct description d;
    lender_start(&lender, TRANSFER_TCP, NULL, NULL);
    describe(&lender, &d);
    stranger_open(&s, &d);
    say_hello(&s, 1 << 16, d.pool.nonce + 1);
    progress_for(&s, 200000);
    assert_int_equal(s.welcomes, 0);
    say_hello(&s, 1 << 16, d.pool.nonce);
    await_welcome(&s, 1);
    stranger_close(&s);
    assert_int_equal(lender_reap(&lender), 0);
}

/* A request outside the pool, or more of them than the window holds, costs the session. */
static void test_bad_requests_end_the_session(void **state)
{
    (void)state;
    struct lender_process lender;
    struct description d;
    lender_start(&lender, TRANSFER_TCP, NULL, NULL);
    describe(&lender, &d);
    for (int round = 0; round < 3; round++) {
        struct stranger s;
        uint8_t payload[WIRE_REQUEST_BYTES];
        stranger_open(&s, &d);
        say_hello(&s, 5 << 16, d.pool.nonce);
        await_welcome(&s, 1);
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
    struct description d;
    uint8_t payload[WIRE_REQUEST_BYTES];
    lender_start(&lender, TRANSFER_TCP, NULL, NULL);
    describe(&lender, &d);
    stranger_open(&s, &d);
    say_hello(&s, 5 << 16, d.pool.nonce);
    progress_for(&s, 200000);
    struct transfer_span span = { 0, 1, 1, 0, 16 };
    size_t len = wire_request_encode(0, 6, &span, 1, payload);
    struct wire_head ask = { .magic = WIRE_MAGIC, .kind = WIRE_REQUEST, .session = 5 << 16, .value = 0 };
    say(&s, &ask, payload, len);
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
