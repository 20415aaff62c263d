/* borrower_side.h - for tests: a transfer object with a loop that is turned by hand, and one peer. */
#ifndef BATON_TESTS_BORROWER_SIDE_H
#define BATON_TESTS_BORROWER_SIDE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lender_process.h"

struct borrower {
    struct loop *loop;
    struct transfer *t;
    struct transfer_peer *peer;
    bool ready, lost;
    status ready_st;
    enum transfer_transport transport;
    char why[512];
    uint64_t ready_us, lost_us;
};

static inline void on_ready(void *arg, status st, enum transfer_transport transport, const char *why)
{
    struct borrower *b = arg;
    assert_false(b->ready);
    b->ready = true;
    b->ready_st = st;
    b->transport = transport;
    b->ready_us = clock_now_us();
    (void)snprintf(b->why, sizeof b->why, "%s", why);
}

static inline void on_lost(void *arg)
{
    struct borrower *b = arg;
    assert_false(b->lost);
    b->lost = true;
    b->lost_us = clock_now_us();
}

static inline void turn_loop(struct borrower *b)
{
    assert_true(event_base_loop(loop_base(b->loop), EVLOOP_NONBLOCK | EVLOOP_ONCE) >= 0);
    (void)usleep(50);
}

/* Turns the loop until *flag, at most so long. */
static inline bool wait_for(struct borrower *b, const bool *flag, uint64_t timeout_us)
{
    uint64_t until = clock_now_us() + timeout_us;
    while (!*flag && clock_now_us() < until)
        turn_loop(b);
    return *flag;
}

static inline void wait_quietly(struct borrower *b, uint64_t us)
{
    const bool never = false;
    (void)wait_for(b, &never, us);
}

static inline void borrower_open(struct borrower *b, enum transfer_mode mode, const char *address)
{
    struct error err = { "" };
    *b = (struct borrower){ 0 };
    assert_int_equal(loop_create(&b->loop), ST_OK);
    struct transfer_options o = { .loop = b->loop,
                                  .geometry = test_geometry,
                                  .n_blocks = TEST_BLOCKS,
                                  .mode = mode,
                                  .network_address = address,
                                  .cluster_key_file = getenv(TEST_KEY_VARIABLE),
                                  .incarnation = 77 };
    status st = test_transfer_create(&o, &b->t, &err);
    if (st)
        print_error("%s\n", err.text);
    assert_int_equal(st, ST_OK);
}

static inline void borrower_meet(struct borrower *b, const struct lender_process *p, enum transfer_mode mode,
                                 uint64_t timeout_us)
{
    struct error err = { "" };
    struct transfer_peer_options o = { .description = p->description,
                                       .description_len = p->description_len,
                                       .mode = mode,
                                       .timeout_us = timeout_us,
                                       .on_ready = on_ready,
                                       .on_lost = on_lost,
                                       .arg = b };
    b->ready = b->lost = false;
    assert_int_equal(transfer_connect(b->t, &o, &b->peer, &err), ST_OK);
    assert_true(wait_for(b, &b->ready, timeout_us + 2000000));
}

static inline void borrower_close(struct borrower *b)
{
    transfer_disconnect(&b->peer);
    transfer_destroy(&b->t);
    loop_destroy(&b->loop);
}

struct one_take {
    struct transfer_take take;
    bool done;
    uint64_t done_us;
};

static inline void on_take_done(struct transfer_take *take)
{
    struct one_take *one = take->arg;
    assert_false(one->done);
    one->done = true;
    one->done_us = clock_now_us();
}

static inline void take_begin(struct borrower *b, struct one_take *one, uint32_t first_layer, uint32_t n_layers,
                              const struct transfer_span *spans, uint32_t n_spans, uint64_t *checksums,
                              uint64_t timeout_us)
{
    *one = (struct one_take){ .take = { .peer = b->peer,
                                        .first_layer = first_layer,
                                        .n_layers = n_layers,
                                        .spans = spans,
                                        .n_spans = n_spans,
                                        .checksums = checksums,
                                        .deadline_us = clock_now_us() + timeout_us,
                                        .done = on_take_done,
                                        .arg = one } };
    one->take.arg = one;
    assert_int_equal(transfer_take(b->t, &one->take), ST_OK);
}

static inline uint8_t *own_block(struct borrower *b, uint32_t block)
{
    return transfer_blocks(b->t) + block * transfer_block_bytes(&test_geometry);
}

#endif
