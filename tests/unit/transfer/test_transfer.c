/* Takes between real processes, by mapping and by active messages. */
#include "borrower_side.h"

#include "transfer/description.h"

#define SECOND     1000000u
#define ALL_LAYERS 0, 6

static char rdma_key[64]; /* file */

static enum transfer_mode mode_of(void **state)
{
    return *(enum transfer_mode *)*state;
}

static enum transfer_transport transport_of(enum transfer_mode mode)
{
    return mode == TRANSFER_AUTO ? TRANSPORT_SHM : (enum transfer_transport)mode;
}

struct pair {
    struct lender_process lender;
    struct borrower b;
};

static void pair_open(struct pair *p, enum transfer_mode mode)
{
    lender_start(&p->lender, TRANSFER_AUTO, NULL, NULL);
    borrower_open(&p->b, TRANSFER_AUTO, NULL);
    borrower_meet(&p->b, &p->lender, mode, 5 * SECOND);
    if (p->b.ready_st)
        print_error("%s\n", p->b.why);
    assert_int_equal(p->b.ready_st, ST_OK);
    assert_int_equal(p->b.transport, transport_of(mode));
    assert_int_equal(transfer_peer_transport(p->b.peer), transport_of(mode));
}

static void pair_close(struct pair *p)
{
    borrower_close(&p->b);
    assert_int_equal(lender_reap(&p->lender), 0);
}

static struct transfer_span whole(uint32_t local, uint32_t remote, uint64_t generation)
{
    return (struct transfer_span){ local, remote, generation, 0, (uint16_t)test_geometry.block_tokens };
}

/* A naive copy of the taken slots, byte by byte, into a model of our pool. */
static void model_take(uint8_t *model, const struct transfer_span *s, uint32_t first_layer, uint32_t n_layers)
{
    const struct transfer_geometry *g = &test_geometry;
    uint8_t *lent = malloc(transfer_block_bytes(g));
    lent_block(s->remote_block, s->remote_generation, lent);
    uint8_t *to = model + s->local_block * transfer_block_bytes(g);
    for (size_t i = 0; i < transfer_block_bytes(g); i++) {
        size_t layer = i / transfer_layer_bytes(g), token = i / g->slot_bytes % g->block_tokens;
        if (layer >= first_layer && layer < first_layer + n_layers && token >= s->first && token < s->first + s->n)
            to[i] = lent[i];
    }
    free(lent);
}

/* Random spans of random layers, each local block once. */
static uint32_t random_spans(struct transfer_span *spans, uint32_t most)
{
    uint32_t n = 1 + (uint32_t)rand() % most;
    for (uint32_t i = 0; i < n; i++) {
        uint16_t first = (uint16_t)(rand() % (int)test_geometry.block_tokens);
        uint16_t count = (uint16_t)(1 + rand() % ((int)test_geometry.block_tokens - first));
        spans[i] = (struct transfer_span){ i, (uint32_t)rand() % TEST_BLOCKS, 1, first, count };
        if (rand() % 3 == 0)
            spans[i] = whole(i, spans[i].remote_block, 1);
    }
    return n;
}

static void check_checksums(struct pair *p, const struct transfer_take *take)
{
    for (uint32_t l = 0; l < take->n_layers; l++)
        for (uint32_t i = 0; i < take->n_spans; i++) {
            const struct transfer_span *s = &take->spans[i];
            uint64_t wanted = transfer_layer_checksum(&test_geometry, own_block(&p->b, s->local_block),
                                                      take->first_layer + l, s->first, s->n);
            assert_true(take->checksums[l * take->n_spans + i] == wanted);
        }
}

static void test_round_trips(void **state)
{
    struct pair p;
    pair_open(&p, mode_of(state));
    size_t bytes = TEST_BLOCKS * transfer_block_bytes(&test_geometry);
    uint8_t *model = malloc(bytes);
    uint64_t sums[6 * TEST_BLOCKS];
    struct transfer_span spans[TEST_BLOCKS];
    struct one_take one;
    uint64_t moved = 0;
    srand(7);
    memcpy(model, transfer_blocks(p.b.t), bytes);
    for (int round = 0; round < 200; round++) {
        uint32_t n = random_spans(spans, TEST_BLOCKS), first = (uint32_t)rand() % 6;
        uint32_t layers = 1 + (uint32_t)rand() % (6 - first);
        take_begin(&p.b, &one, first, layers, spans, n, round % 2 ? sums : NULL, 10 * SECOND);
        assert_true(wait_for(&p.b, &one.done, 11 * SECOND));
        assert_int_equal(one.take.st, ST_OK);
        uint64_t expected = 0;
        for (uint32_t i = 0; i < n; i++) {
            model_take(model, &spans[i], first, layers);
            expected += (uint64_t)spans[i].n * layers * 4 * 128;
        }
        assert_true(one.take.bytes == expected);
        moved += expected;
        assert_memory_equal(model, transfer_blocks(p.b.t), bytes);
        if (round % 2)
            check_checksums(&p, &one.take);
    }
    struct transfer_stats stats;
    transfer_stats(p.b.t, &stats);
    assert_true(stats.bytes_taken[p.b.transport] == moved);
    assert_int_equal(stats.takes[p.b.transport], 200);
    assert_int_equal(stats.malformed, 0);
    assert_int_equal(lender_order(&p.lender, 's', 0, NULL).stats.malformed, 0);
    free(model);
    pair_close(&p);
}

#define MANY 1000

static uint32_t many_done;
static uint32_t many_order[MANY];

static void on_many_done(struct transfer_take *take)
{
    assert_int_equal(take->st, ST_OK);
    many_order[many_done++] = *(uint32_t *)take->arg;
}

static void test_a_thousand_takes_end_in_order(void **state)
{
    struct pair p;
    pair_open(&p, mode_of(state));
    static struct transfer_take takes[MANY];
    static struct transfer_span spans[MANY];
    static uint32_t numbers[MANY];
    many_done = 0;
    for (uint32_t i = 0; i < MANY; i++) {
        numbers[i] = i;
        spans[i] = whole(i % TEST_BLOCKS, i * 7 % TEST_BLOCKS, 1);
        takes[i] = (struct transfer_take){ .peer = p.b.peer,
                                           .first_layer = i % 6,
                                           .n_layers = 1,
                                           .n_spans = 1,
                                           .spans = &spans[i],
                                           .deadline_us = clock_now_us() + 20 * SECOND,
                                           .done = on_many_done,
                                           .arg = &numbers[i] };
        assert_int_equal(transfer_take(p.b.t, &takes[i]), ST_OK);
    }
    uint64_t until = clock_now_us() + 20 * SECOND;
    while (many_done < MANY && clock_now_us() < until)
        turn_loop(&p.b);
    assert_int_equal(many_done, MANY);
    for (uint32_t i = 0; i < MANY; i++)
        assert_int_equal(many_order[i], i);
    pair_close(&p);
}

static void test_stale_generation_is_refused(void **state)
{
    struct pair p;
    pair_open(&p, mode_of(state));
    struct one_take one;
    struct transfer_span spans[2] = { whole(0, 3, 1), whole(1, 4, 1) };
    (void)lender_order(&p.lender, 'r', 4, NULL);
    take_begin(&p.b, &one, ALL_LAYERS, spans, 2, NULL, 5 * SECOND);
    assert_true(wait_for(&p.b, &one.done, 6 * SECOND));
    assert_int_equal(one.take.st, ST_STALE);
    spans[1].remote_generation = 2;
    take_begin(&p.b, &one, ALL_LAYERS, spans, 2, NULL, 5 * SECOND);
    assert_true(wait_for(&p.b, &one.done, 6 * SECOND));
    assert_int_equal(one.take.st, ST_OK);
    uint8_t *wanted = malloc(transfer_block_bytes(&test_geometry));
    lent_block(4, 2, wanted);
    assert_memory_equal(own_block(&p.b, 1), wanted, transfer_block_bytes(&test_geometry));
    free(wanted);
    pair_close(&p);
}

static void arm(const char *text)
{
    struct error err;
    assert_int_equal(failpoint_arm(text, &err), ST_OK);
}

/* The block is rewritten between the copy and the second look at its generation. */
static void test_rewritten_in_the_middle_is_stale(void **state)
{
    struct pair p;
    pair_open(&p, mode_of(state));
    struct one_take one;
    struct transfer_span span = whole(0, 9, 1);
    bool by_lender = mode_of(state) == TRANSFER_TCP;
    if (by_lender)
        (void)lender_order(&p.lender, 'f', 0, "transfer.serve.sending=pause(60000)");
    else
        arm("transfer.take.before_generation=pause(60000)");
    take_begin(&p.b, &one, ALL_LAYERS, &span, 1, NULL, 60 * SECOND);
    wait_quietly(&p.b, 100000);
    assert_false(one.done);
    (void)lender_order(&p.lender, 'r', 9, NULL);
    if (by_lender)
        (void)lender_order(&p.lender, 'f', 0, "transfer.serve.sending=off");
    else
        failpoint_reset();
    assert_true(wait_for(&p.b, &one.done, 60 * SECOND));
    assert_int_equal(one.take.st, ST_STALE);
    struct transfer_stats stats;
    transfer_stats(p.b.t, &stats);
    assert_int_equal(stats.stale, 1);
    pair_close(&p);
}

static void begin_twenty(struct pair *p, struct one_take ones[20], const struct transfer_span *span)
{
    for (int i = 0; i < 20; i++)
        take_begin(&p->b, &ones[i], ALL_LAYERS, span, 1, NULL, 30 * SECOND);
    wait_quietly(&p->b, 50000);
}

static void test_killed_lender_is_noticed(void **state)
{
    struct pair p;
    pair_open(&p, mode_of(state));
    struct one_take ones[20];
    struct transfer_span span = whole(0, 1, 1);
    if (mode_of(state) == TRANSFER_TCP) {
        (void)lender_order(&p.lender, 'f', 0, "transfer.serve.sending=sleep(3000)");
        begin_twenty(&p, ones, &span);
    } else if (mode_of(state) == TRANSFER_RDMA) { /* where UCX plays them, it takes a living process to get from */
        lender_freeze(&p.lender);
        begin_twenty(&p, ones, &span);
    }
    uint64_t killed_us = clock_now_us();
    assert_int_equal(kill(p.lender.pid, SIGKILL), 0);
    assert_true(wait_for(&p.b, &p.b.lost, 2 * SECOND));
    assert_true(p.b.lost_us - killed_us < SECOND);
    if (mode_of(state) != TRANSFER_SHM)
        for (int i = 0; i < 20; i++) {
            assert_true(ones[i].done);
            assert_int_equal(ones[i].take.st, ST_CLOSED);
        }
    take_begin(&p.b, &ones[0], ALL_LAYERS, &span, 1, NULL, 5 * SECOND);
    assert_true(wait_for(&p.b, &ones[0].done, SECOND));
    assert_int_equal(ones[0].take.st, ST_CLOSED);
    borrower_close(&p.b);
    assert_true(WIFSIGNALED(lender_reap(&p.lender)));
}

static bool all_bytes(const uint8_t *data, size_t n, uint8_t value)
{
    while (n-- > 0)
        if (*data++ != value)
            return false;
    return true;
}

static void test_frozen_lender_times_out_and_thawed_does_no_harm(void **state)
{
    struct pair p;
    pair_open(&p, mode_of(state));
    struct one_take one, two;
    struct transfer_span span = whole(0, 1, 1);
    lender_freeze(&p.lender);
    uint64_t begun_us = clock_now_us();
    take_begin(&p.b, &one, ALL_LAYERS, &span, 1, NULL, 300000);
    take_begin(&p.b, &two, ALL_LAYERS, &span, 1, NULL, 400000);
    assert_true(wait_for(&p.b, &two.done, 2 * SECOND));
    assert_int_equal(one.take.st, ST_TIMEOUT);
    assert_int_equal(two.take.st, ST_TIMEOUT);
    assert_in_range(one.done_us - begun_us, 300000, 500000);
    size_t bytes = transfer_block_bytes(&test_geometry);
    memset(own_block(&p.b, 0), 0xa5, bytes);
    assert_int_equal(kill(p.lender.pid, SIGCONT), 0);
    wait_quietly(&p.b, 300000);
    assert_true(all_bytes(own_block(&p.b, 0), bytes, 0xa5));
    take_begin(&p.b, &one, ALL_LAYERS, &span, 1, NULL, 5 * SECOND);
    assert_true(wait_for(&p.b, &one.done, 6 * SECOND));
    assert_int_equal(one.take.st, ST_OK);
    struct transfer_stats stats;
    transfer_stats(p.b.t, &stats);
    assert_int_equal(stats.timeouts, 2);
    assert_int_equal(stats.malformed, 0);
    pair_close(&p);
}

static void test_cancel(void **state)
{
    struct pair p;
    pair_open(&p, mode_of(state));
    struct one_take one, two;
    struct transfer_span span = whole(0, 1, 1);
    if (mode_of(state) == TRANSFER_TCP)
        (void)lender_order(&p.lender, 'f', 0, "transfer.serve.sending=sleep(200),times=1");
    else
        arm("transfer.take.copying=sleep(200),times=1");
    take_begin(&p.b, &one, ALL_LAYERS, &span, 1, NULL, 5 * SECOND);
    take_begin(&p.b, &two, ALL_LAYERS, &span, 1, NULL, 5 * SECOND);
    wait_quietly(&p.b, 50000);
    transfer_cancel(p.b.t, &two.take);
    transfer_cancel(p.b.t, &one.take);
    transfer_cancel(p.b.t, &one.take);
    assert_true(wait_for(&p.b, &one.done, SECOND) && wait_for(&p.b, &two.done, SECOND));
    assert_int_equal(one.take.st, ST_CANCELLED);
    assert_int_equal(two.take.st, ST_CANCELLED);
    memset(own_block(&p.b, 0), 0x5a, transfer_block_bytes(&test_geometry));
    transfer_cancel(p.b.t, &one.take);
    wait_quietly(&p.b, 400000);
    assert_true(all_bytes(own_block(&p.b, 0), transfer_block_bytes(&test_geometry), 0x5a));
    failpoint_reset();
    take_begin(&p.b, &one, ALL_LAYERS, &span, 1, NULL, 5 * SECOND);
    assert_true(wait_for(&p.b, &one.done, 6 * SECOND));
    assert_int_equal(one.take.st, ST_OK);
    pair_close(&p);
}

static void test_disconnect_and_destroy_end_takes(void **state)
{
    struct pair p;
    pair_open(&p, mode_of(state));
    struct one_take ones[50];
    struct transfer_span span = whole(0, 1, 1);
    if (mode_of(state) == TRANSFER_TCP)
        (void)lender_order(&p.lender, 'f', 0, "transfer.serve.sending=sleep(100),times=2");
    else
        arm("transfer.take.copying=sleep(300),times=3");
    for (int i = 0; i < 50; i++)
        take_begin(&p.b, &ones[i], ALL_LAYERS, &span, 1, NULL, 20 * SECOND);
    transfer_disconnect(&p.b.peer);
    /* How many were through by then is the scheduler's business; most were not. */
    int closed = 0;
    for (int i = 0; i < 50; i++) {
        assert_true(wait_for(&p.b, &ones[i].done, 5 * SECOND));
        assert_true(ones[i].take.st == ST_CLOSED || ones[i].take.st == ST_OK);
        closed += ones[i].take.st == ST_CLOSED;
    }
    assert_true(closed > 0);
    failpoint_reset();
    (void)lender_order(&p.lender, 'f', 0, "");
    borrower_meet(&p.b, &p.lender, mode_of(state), 5 * SECOND);
    assert_int_equal(p.b.ready_st, ST_OK);
    for (int i = 0; i < 50; i++)
        take_begin(&p.b, &ones[i], ALL_LAYERS, &span, 1, NULL, 5 * SECOND);
    transfer_destroy(&p.b.t);
    for (int i = 0; i < 50; i++)
        assert_true(ones[i].done && (ones[i].take.st == ST_CLOSED || ones[i].take.st == ST_OK));
    assert_false(p.b.lost);
    loop_destroy(&p.b.loop);
    assert_int_equal(lender_reap(&p.lender), 0);
}

static void test_flipped_bit_shows_in_the_checksum(void **state)
{
    struct pair p;
    pair_open(&p, mode_of(state));
    struct one_take one;
    struct transfer_span span = whole(0, 1, 1);
    uint64_t good[6], bad[6];
    take_begin(&p.b, &one, ALL_LAYERS, &span, 1, good, 5 * SECOND);
    assert_true(wait_for(&p.b, &one.done, 6 * SECOND));
    arm("transfer.take.flip=flip,times=1");
    take_begin(&p.b, &one, ALL_LAYERS, &span, 1, bad, 5 * SECOND);
    assert_true(wait_for(&p.b, &one.done, 6 * SECOND));
    assert_int_equal(one.take.st, ST_OK);
    failpoint_reset();
    int differ = 0;
    for (int i = 0; i < 6; i++)
        differ += good[i] != bad[i];
    assert_int_equal(differ, 1);
    pair_close(&p);
}

/* A message that the lender lost shows as a gap: the take is CORRUPT, not silently short. */
static void test_lost_message_is_corrupt(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p, TRANSFER_TCP);
    struct one_take one;
    struct transfer_span spans[TEST_BLOCKS];
    for (uint32_t i = 0; i < TEST_BLOCKS; i++)
        spans[i] = whole(i, i, 1);
    (void)lender_order(&p.lender, 'f', 0, "transfer.serve.sending=drop,times=1");
    take_begin(&p.b, &one, ALL_LAYERS, spans, TEST_BLOCKS, NULL, 5 * SECOND);
    assert_true(wait_for(&p.b, &one.done, 6 * SECOND));
    assert_int_equal(one.take.st, ST_CORRUPT);
    assert_true(wait_for(&p.b, &p.b.lost, SECOND));
    struct transfer_stats stats;
    transfer_stats(p.b.t, &stats);
    assert_int_equal(stats.malformed, 1);
    pair_close(&p);
}

static void test_own_blocks_are_summed(void **state)
{
    (void)state;
    struct borrower b;
    borrower_open(&b, TRANSFER_AUTO, NULL);
    struct one_take one;
    struct transfer_span spans[2] = { { .local_block = 5, .first = 3, .n = 7 }, { .local_block = 6, .n = 16 } };
    uint64_t sums[6 * 2];
    lent_block(1, 1, own_block(&b, 5));
    lent_block(2, 1, own_block(&b, 6));
    take_begin(&b, &one, ALL_LAYERS, spans, 2, sums, 5 * SECOND);
    assert_true(wait_for(&b, &one.done, 6 * SECOND));
    assert_int_equal(one.take.st, ST_OK);
    for (uint32_t l = 0; l < 6; l++) {
        assert_true(sums[2 * l] == transfer_layer_checksum(&test_geometry, own_block(&b, 5), l, 3, 7));
        assert_true(sums[2 * l + 1] == transfer_layer_checksum(&test_geometry, own_block(&b, 6), l, 0, 16));
    }
    borrower_close(&b);
}

static void test_bad_takes_are_refused(void **state)
{
    struct pair p;
    pair_open(&p, mode_of(state));
    struct transfer_span span = whole(0, 1, 1);
    struct transfer_take take = { .peer = p.b.peer, .n_layers = 6, .n_spans = 1, .spans = &span, .done = on_take_done };
    take.n_layers = 7;
    assert_int_equal(transfer_take(p.b.t, &take), ST_INVALID);
    take.n_layers = 0;
    assert_int_equal(transfer_take(p.b.t, &take), ST_INVALID);
    take.n_layers = 6;
    take.first_layer = 1;
    assert_int_equal(transfer_take(p.b.t, &take), ST_INVALID);
    take.first_layer = 0;
    span.local_block = TEST_BLOCKS;
    assert_int_equal(transfer_take(p.b.t, &take), ST_INVALID);
    span = whole(0, 1, 1);
    span.first = 1;
    assert_int_equal(transfer_take(p.b.t, &take), ST_INVALID);
    struct one_take one;
    span = whole(0, TEST_BLOCKS, 1);
    take_begin(&p.b, &one, ALL_LAYERS, &span, 1, NULL, SECOND);
    assert_true(wait_for(&p.b, &one.done, SECOND));
    assert_int_equal(one.take.st, ST_CORRUPT);
    take_begin(&p.b, &one, ALL_LAYERS, NULL, 0, NULL, SECOND);
    assert_true(wait_for(&p.b, &one.done, SECOND));
    assert_int_equal(one.take.st, ST_OK);
    pair_close(&p);
}

static uint32_t limit_done;
static void on_limit_done(struct transfer_take *take)
{
    (void)take;
    limit_done++;
}

static void test_takes_under_way_are_bounded(void **state)
{
    struct pair p;
    pair_open(&p, mode_of(state));
    static struct transfer_take takes[TRANSFER_MAX_TAKES + 1];
    struct transfer_span span = whole(0, 1, 1);
    limit_done = 0;
    lender_freeze(&p.lender);
    for (uint32_t i = 0; i <= TRANSFER_MAX_TAKES; i++) {
        takes[i] = (struct transfer_take){ .peer = p.b.peer,
                                           .n_layers = 1,
                                           .n_spans = 1,
                                           .spans = &span,
                                           .deadline_us = clock_now_us() + 60 * SECOND,
                                           .done = on_limit_done };
        assert_int_equal(transfer_take(p.b.t, &takes[i]), i < TRANSFER_MAX_TAKES ? ST_OK : ST_LIMIT);
    }
    for (uint32_t i = 0; i < TRANSFER_MAX_TAKES; i++)
        transfer_cancel(p.b.t, &takes[i]);
    uint64_t until = clock_now_us() + 5 * SECOND;
    while (limit_done < TRANSFER_MAX_TAKES && clock_now_us() < until)
        turn_loop(&p.b);
    assert_int_equal(limit_done, TRANSFER_MAX_TAKES);
    assert_int_equal(kill(p.lender.pid, SIGCONT), 0);
    pair_close(&p);
}

static void test_connecting_to_the_dead_ends_in_time(void **state)
{
    struct lender_process lender;
    struct borrower b;
    lender_start(&lender, TRANSFER_AUTO, NULL, NULL);
    assert_int_equal(kill(lender.pid, SIGKILL), 0);
    (void)lender_reap(&lender);
    borrower_open(&b, TRANSFER_AUTO, NULL);
    uint64_t begun_us = clock_now_us();
    borrower_meet(&b, &lender, mode_of(state), SECOND);
    assert_int_not_equal(b.ready_st, ST_OK);
    assert_true(b.ready_us - begun_us < SECOND + 500000);
    assert_true(b.why[0]);
    borrower_close(&b);
}

/* Nothing that an earlier peer left is taken for the dead one's. */
static void test_one_that_died_among_others(void **state)
{
    struct lender_process living, dead;
    struct borrower b;
    lender_start(&living, TRANSFER_AUTO, NULL, NULL);
    borrower_open(&b, TRANSFER_AUTO, NULL);
    borrower_meet(&b, &living, mode_of(state), 5 * SECOND);
    assert_int_equal(b.ready_st, ST_OK);
    transfer_disconnect(&b.peer);
    lender_start(&dead, TRANSFER_AUTO, NULL, NULL);
    assert_int_equal(kill(dead.pid, SIGKILL), 0);
    (void)lender_reap(&dead);
    borrower_meet(&b, &dead, mode_of(state), SECOND);
    assert_int_not_equal(b.ready_st, ST_OK);
    transfer_disconnect(&b.peer);
    borrower_meet(&b, &living, mode_of(state), 5 * SECOND);
    assert_int_equal(b.ready_st, ST_OK);
    borrower_close(&b);
    assert_int_equal(lender_reap(&living), 0);
}

static void test_connecting_to_the_frozen_ends_in_time(void **state)
{
    struct lender_process lender;
    struct borrower b;
    lender_start(&lender, TRANSFER_AUTO, NULL, NULL);
    lender_freeze(&lender);
    borrower_open(&b, TRANSFER_AUTO, NULL);
    uint64_t begun_us = clock_now_us();
    borrower_meet(&b, &lender, mode_of(state), SECOND);
    assert_int_equal(b.ready_st, ST_TIMEOUT);
    assert_true(b.ready_us - begun_us < SECOND + 500000);
    assert_int_equal(kill(lender.pid, SIGCONT), 0);
    transfer_disconnect(&b.peer);
    borrower_meet(&b, &lender, mode_of(state), 5 * SECOND);
    assert_int_equal(b.ready_st, ST_OK);
    borrower_close(&b);
    assert_int_equal(lender_reap(&lender), 0);
}

static status try_description(struct borrower *b, const uint8_t *data, size_t len)
{
    struct error err;
    struct transfer_peer *peer = NULL;
    struct transfer_peer_options o = {
        .description = data, .description_len = len, .timeout_us = SECOND, .on_ready = on_ready, .arg = b
    };
    status st = transfer_connect(b->t, &o, &peer, &err);
    assert_true(st != ST_OK || peer);
    transfer_disconnect(&peer);
    return st;
}

static void test_damaged_descriptions_are_refused(void **state)
{
    (void)state;
    struct borrower b;
    borrower_open(&b, TRANSFER_AUTO, NULL);
    size_t len;
    const uint8_t *good = transfer_description(b.t, &len);
    uint8_t *bad = malloc(len + 8192);
    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(try_description(&b, good, cut), ST_CORRUPT);
    for (size_t i = 0; i < len; i++) {
        memcpy(bad, good, len);
        bad[i] ^= (uint8_t)(1 << (i % 8));
        assert_int_equal(try_description(&b, bad, len), ST_CORRUPT);
    }
    memset(bad, 0, len + 8192);
    assert_int_equal(try_description(&b, bad, len + 8192), ST_CORRUPT);
    free(bad);
    borrower_close(&b);
}

static void test_forced_modes_that_do_not_fit_say_why(void **state)
{
    (void)state;
    struct lender_process lender;
    struct borrower b;
    lender_start(&lender, TRANSFER_TCP, NULL, NULL);
    borrower_open(&b, TRANSFER_AUTO, NULL);
    borrower_meet(&b, &lender, TRANSFER_SHM, SECOND);
    assert_int_equal(b.ready_st, ST_UNSUPPORTED);
    assert_non_null(strstr(b.why, "shm"));
    transfer_disconnect(&b.peer);
    borrower_meet(&b, &lender, TRANSFER_AUTO, 5 * SECOND);
    assert_int_equal(b.ready_st, ST_OK);
    assert_int_equal(b.transport, TRANSPORT_TCP);
    borrower_close(&b);
    assert_int_equal(lender_reap(&lender), 0);
}

/* As of a lender on another host: not to be mapped. */
static void forget_mapping(struct lender_process *p)
{
    struct description d;
    struct error err;
    uint8_t copy[sizeof p->description];
    memcpy(copy, p->description, p->description_len);
    assert_int_equal(description_decode(copy, p->description_len, &d, &err), ST_OK);
    d.same_address.len = d.pid = d.fd = 0;
    p->description_len = description_encode(&d, p->description);
}

/* Between hosts rdma comes first, and tcp where its test does not pass: the key is damaged, or never comes, or
 * something else is read by it. */
static void test_rdma_comes_before_tcp(void **state)
{
    (void)state;
    const char *const spoilt[] = { "", "transfer.serve.key=flip", "transfer.serve.key=drop" };
    struct lender_process lender;
    struct borrower b;
    struct one_take one;
    struct transfer_span span = whole(0, 1, 1);
    lender_start(&lender, TRANSFER_AUTO, NULL, NULL);
    forget_mapping(&lender);
    borrower_open(&b, TRANSFER_AUTO, NULL);
    for (int i = 0; i < 3; i++) {
        (void)lender_order(&lender, 'f', 0, spoilt[i]);
        borrower_meet(&b, &lender, TRANSFER_AUTO, 3 * SECOND);
        assert_int_equal(b.ready_st, ST_OK);
        assert_int_equal(b.transport, i == 0 ? TRANSPORT_RDMA : TRANSPORT_TCP);
        take_begin(&b, &one, ALL_LAYERS, &span, 1, NULL, 5 * SECOND);
        assert_true(wait_for(&b, &one.done, 6 * SECOND));
        assert_int_equal(one.take.st, ST_OK);
        transfer_disconnect(&b.peer);
    }
    (void)lender_order(&lender, 'f', 0, "");
    arm("transfer.rdma.header=flip");
    borrower_meet(&b, &lender, TRANSFER_AUTO, 3 * SECOND);
    assert_int_equal(b.transport, TRANSPORT_TCP);
    transfer_disconnect(&b.peer);
    borrower_meet(&b, &lender, TRANSFER_RDMA, 3 * SECOND);
    assert_int_equal(b.ready_st, ST_STALE);
    transfer_disconnect(&b.peer);
    failpoint_reset();
    (void)lender_order(&lender, 'f', 0, "transfer.serve.key=drop");
    borrower_meet(&b, &lender, TRANSFER_RDMA, SECOND); /* whoever insists on it hears why not */
    assert_int_equal(b.ready_st, ST_TIMEOUT);
    transfer_disconnect(&b.peer);
    (void)lender_order(&lender, 'f', 0, "transfer.serve.key=flip");
    borrower_meet(&b, &lender, TRANSFER_RDMA, SECOND);
    assert_int_equal(b.ready_st, ST_CORRUPT);
    assert_non_null(strstr(b.why, "damaged"));
    borrower_close(&b);
    assert_int_equal(lender_reap(&lender), 0);
}

static void test_rdma_alone_and_others(void **state)
{
    (void)state;
    struct lender_process lender;
    struct borrower b;
    lender_start(&lender, TRANSFER_RDMA, NULL, NULL);
    borrower_open(&b, TRANSFER_AUTO, NULL);
    borrower_meet(&b, &lender, TRANSFER_TCP, SECOND);
    assert_int_equal(b.ready_st, ST_UNSUPPORTED);
    transfer_disconnect(&b.peer);
    borrower_meet(&b, &lender, TRANSFER_AUTO, 5 * SECOND);
    assert_int_equal(b.ready_st, ST_OK);
    assert_int_equal(b.transport, TRANSPORT_RDMA);
    borrower_close(&b);
    test_rdma_use(false); /* a borrower without a device */
    borrower_open(&b, TRANSFER_AUTO, NULL);
    borrower_meet(&b, &lender, TRANSFER_AUTO, SECOND);
    assert_int_equal(b.ready_st, ST_UNSUPPORTED);
    assert_non_null(strstr(b.why, "device"));
    borrower_close(&b);
    assert_int_equal(lender_reap(&lender), 0);
}

/* What daemons call: over other transports than those of devices rdma is not to be had, whatever UCX is told. */
static void test_without_a_device_rdma_ends_with_a_reason(void **state)
{
    (void)state;
    struct loop *loop;
    struct transfer *t;
    struct error err;
    if (access("/sys/class/infiniband", F_OK) == 0) {
        print_message("skipped: this machine has RDMA devices\n");
        skip();
    }
    assert_int_equal(loop_create(&loop), ST_OK);
    struct transfer_options o = {
        .loop = loop, .geometry = test_geometry, .n_blocks = 4, .mode = TRANSFER_RDMA, .incarnation = 1
    };
    assert_int_equal(transfer_create(&o, &t, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "--cluster-key-file"));
    o.cluster_key_file = rdma_key;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(transfer_create(&o, &t, &err), ST_UNSUPPORTED);
        assert_non_null(strstr(err.text, "--transfer rdma: UCX finds no device"));
        assert_int_equal(setenv("UCX_TLS", "tcp", 1), 0);
    }
    (void)unsetenv("UCX_TLS");
    loop_destroy(&loop);
}

/* What stands in UCX_ variables decides nothing. */
static void test_ucx_variables_do_not_choose_the_transport(void **state)
{
    assert_int_equal(setenv("UCX_TLS", "sysv,cma", 1), 0);
    assert_int_equal(setenv("UCX_NET_DEVICES", "nosuch0", 1), 0);
    assert_int_equal(setenv("UCX_RNDV_THRESH", "0", 1), 0);
    struct pair p;
    pair_open(&p, mode_of(state));
    struct one_take one;
    struct transfer_span span = whole(0, 1, 1);
    take_begin(&p.b, &one, ALL_LAYERS, &span, 1, NULL, 5 * SECOND);
    assert_true(wait_for(&p.b, &one.done, 6 * SECOND));
    assert_int_equal(one.take.st, ST_OK);
    pair_close(&p);
    (void)unsetenv("UCX_TLS");
    (void)unsetenv("UCX_NET_DEVICES");
    (void)unsetenv("UCX_RNDV_THRESH");
}

/* Neither many connections nor borrowers that end leave descriptors behind, here or there. */
static void test_connections_leave_nothing_behind(void **state)
{
    struct pair p;
    pair_open(&p, mode_of(state));
    uint32_t ours = 0, theirs = 0;
    for (int i = 0; i < 25; i++) {
        transfer_disconnect(&p.b.peer);
        borrower_meet(&p.b, &p.lender, mode_of(state), 5 * SECOND);
        assert_int_equal(p.b.ready_st, ST_OK);
        if (i == 4) {
            wait_quietly(&p.b, 300000);
            ours = open_descriptors();
            theirs = lender_order(&p.lender, 's', 0, NULL).descriptors;
        }
    }
    /* Of one for gets the lender's end is found by UCX's own keepalive, each second. */
    uint64_t until = clock_now_us() + 20 * SECOND;
    while ((open_descriptors() > ours + 2 || lender_order(&p.lender, 's', 0, NULL).descriptors > theirs + 2) &&
           clock_now_us() < until)
        wait_quietly(&p.b, 100000);
    assert_true(open_descriptors() <= ours + 2);
    assert_true(lender_order(&p.lender, 's', 0, NULL).descriptors <= theirs + 2);
    pair_close(&p);
}

/* A worker and the manager of its host do, and both connect when they meet. */
static void test_two_that_borrow_from_one_another(void **state)
{
    for (int round = 0; round < 10; round++) {
        struct pair p;
        struct transfer_span span = whole(1, 0, 1);
        struct one_take one;
        size_t len;
        lender_start(&p.lender, TRANSFER_AUTO, NULL, NULL);
        borrower_open(&p.b, TRANSFER_AUTO, NULL);
        const uint8_t *description = transfer_description(p.b.t, &len);
        lender_connects_to(&p.lender, mode_of(state), description, len);
        (void)usleep((useconds_t)round * 300); /* its connection may be there first, half or not at all */
        borrower_meet(&p.b, &p.lender, mode_of(state), 5 * SECOND);
        assert_int_equal(p.b.ready_st, ST_OK);
        take_begin(&p.b, &one, 0, test_geometry.n_layers, &span, 1, NULL, 5 * SECOND);
        assert_true(wait_for(&p.b, &one.done, 6 * SECOND));
        assert_int_equal(one.take.st, ST_OK);
        pair_close(&p);
    }
}

/* After a stop the pool's memory is still there: who owns it may look at it until the end. */
static void test_stopped_it_keeps_its_memory(void **state)
{
    struct pair p;
    struct transfer_span span = whole(0, 0, 1);
    struct one_take one, late;
    pair_open(&p, mode_of(state));
    take_begin(&p.b, &one, 0, test_geometry.n_layers, &span, 1, NULL, 5 * SECOND);
    transfer_disconnect(&p.b.peer);
    transfer_stop(p.b.t);
    assert_true(one.done);
    late = one;
    late.take.peer = NULL;
    assert_int_equal(transfer_take(p.b.t, &late.take), ST_CLOSED);
    memset(own_block(&p.b, TEST_BLOCKS - 1), 0xaa, transfer_block_bytes(&test_geometry));
    atomic_fetch_add(&transfer_generations(p.b.t)[TEST_BLOCKS - 1], 1);
    pair_close(&p);
}

/* Runs a shell command in which %1$d is a number of this process. */
__attribute__((format(printf, 1, 0))) static bool shell(const char *format, int number)
{
    char command[512];
    (void)snprintf(command, sizeof command, format, number);
    return system(command) == 0;
}

static bool make_space(int n)
{
    return shell("ip netns add batontest%1$d 2>/dev/null", n) &&
           shell("ip link add bt%1$da type veth peer name bt%1$db netns batontest%1$d", n) &&
           shell("ip addr add 10.213.%1$d.1/30 dev bt%1$da && ip link set bt%1$da up", n) &&
           shell("ip -n batontest%1$d addr add 10.213.%1$d.2/30 dev bt%1$db", n) &&
           shell("ip -n batontest%1$d link set bt%1$db up && ip -n batontest%1$d link set lo up", n);
}

static void remove_space(int n)
{
    (void)shell("ip netns del batontest%1$d 2>/dev/null; ip link del bt%1$da 2>/dev/null; true", n);
}

/* Another network name space of the same host: shared memory could be seen, but the
 * lane that notices failures could not. auto must say so at once, or take tcp. */
static void test_another_network_space(void **state)
{
    (void)state;
    int n = getpid() % 250;
    if (geteuid() != 0 || !make_space(n)) {
        remove_space(n);
        print_message("skipped: network name spaces need root and ip(8)\n");
        skip();
    }
    char space[32], ours[32], theirs[32], key[64];
    test_key_make(key, 'k');
    test_key_use(key);
    (void)snprintf(space, sizeof space, "batontest%d", n);
    (void)snprintf(ours, sizeof ours, "10.213.%d.1", n);
    (void)snprintf(theirs, sizeof theirs, "10.213.%d.2", n);
    struct lender_process alone, reachable;
    struct borrower b;
    lender_start(&alone, TRANSFER_AUTO, NULL, space);
    lender_start(&reachable, TRANSFER_AUTO, theirs, space);
    borrower_open(&b, TRANSFER_AUTO, ours);
    borrower_meet(&b, &alone, TRANSFER_AUTO, SECOND);
    assert_int_not_equal(b.ready_st, ST_OK);
    transfer_disconnect(&b.peer);
    borrower_meet(&b, &reachable, TRANSFER_AUTO, 5 * SECOND);
    assert_int_equal(b.ready_st, ST_OK);
    assert_int_equal(b.transport, TRANSPORT_TCP);
    struct one_take one;
    struct transfer_span span = whole(0, 1, 1);
    take_begin(&b, &one, ALL_LAYERS, &span, 1, NULL, 5 * SECOND);
    assert_true(wait_for(&b, &one.done, 6 * SECOND));
    assert_int_equal(one.take.st, ST_OK);
    /* A cut link says nothing: the take ends by its deadline all the same. */
    assert_true(shell("ip link set bt%1$da down", n));
    take_begin(&b, &one, ALL_LAYERS, &span, 1, NULL, 500000);
    assert_true(wait_for(&b, &one.done, 2 * SECOND));
    assert_true(one.take.st == ST_TIMEOUT || one.take.st == ST_CLOSED);
    uint64_t begun_us = clock_now_us();
    borrower_close(&b);
    assert_true(clock_now_us() - begun_us < 2 * SECOND);
    assert_int_equal(lender_reap(&alone), 0);
    assert_int_equal(lender_reap(&reachable), 0);
    remove_space(n);
    test_key_use(NULL);
    (void)unlink(key);
}

static enum transfer_mode by_shm = TRANSFER_SHM, by_tcp = TRANSFER_TCP, by_auto = TRANSFER_AUTO,
                          by_rdma = TRANSFER_RDMA;

static int open_rdma(void **state)
{
    (void)state;
    test_key_use(rdma_key);
    test_rdma_use(true);
    return 0;
}

static int close_rdma(void **state)
{
    (void)state;
    test_key_use(NULL);
    test_rdma_use(false);
    return 0;
}

/* A device reads a pool beside all threads, and the generations tell whether what it read holds. UCX's own get, which
 * stands in for one here, does that from a thread, and ends the process when it is slow. */
#ifdef __SANITIZE_THREAD__
enum { BY_RDMA_RUNS = false };
#else
enum { BY_RDMA_RUNS = true };
#endif

static void skip_rdma(void **state)
{
    (void)state;
    print_message("skipped: gets that UCX emulates race with who fills the pool\n");
    skip();
}

#define BY_RDMA(test)                                                                                                  \
    {                                                                                                                  \
#test "_rdma", BY_RDMA_RUNS ? test : skip_rdma, open_rdma, close_rdma, &by_rdma                                \
    }

#define EACH(test)                                                                                                     \
    { #test "_shm", test, NULL, NULL, &by_shm }, { #test "_tcp", test, NULL, NULL, &by_tcp }, BY_RDMA(test)

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--lender") == 0)
        return lender_main(argv + 2);
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        EACH(test_round_trips),
        EACH(test_a_thousand_takes_end_in_order),
        EACH(test_stale_generation_is_refused),
        EACH(test_rewritten_in_the_middle_is_stale),
        EACH(test_killed_lender_is_noticed),
        { "test_frozen_lender_times_out_and_thawed_does_no_harm_tcp",
          test_frozen_lender_times_out_and_thawed_does_no_harm, NULL, NULL, &by_tcp },
        BY_RDMA(test_frozen_lender_times_out_and_thawed_does_no_harm),
        EACH(test_cancel),
        EACH(test_disconnect_and_destroy_end_takes),
        EACH(test_flipped_bit_shows_in_the_checksum),
        cmocka_unit_test(test_lost_message_is_corrupt),
        cmocka_unit_test(test_own_blocks_are_summed),
        EACH(test_bad_takes_are_refused),
        { "test_takes_under_way_are_bounded_tcp", test_takes_under_way_are_bounded, NULL, NULL, &by_tcp },
        BY_RDMA(test_takes_under_way_are_bounded),
        EACH(test_connecting_to_the_dead_ends_in_time),
        EACH(test_one_that_died_among_others),
        EACH(test_connecting_to_the_frozen_ends_in_time),
        cmocka_unit_test(test_damaged_descriptions_are_refused),
        cmocka_unit_test(test_forced_modes_that_do_not_fit_say_why),
        BY_RDMA(test_rdma_comes_before_tcp),
        BY_RDMA(test_rdma_alone_and_others),
        cmocka_unit_test(test_without_a_device_rdma_ends_with_a_reason),
        EACH(test_ucx_variables_do_not_choose_the_transport),
        EACH(test_connections_leave_nothing_behind),
        { "test_connections_leave_nothing_behind_auto", test_connections_leave_nothing_behind, NULL, NULL, &by_auto },
        EACH(test_two_that_borrow_from_one_another),
        EACH(test_stopped_it_keeps_its_memory),
        cmocka_unit_test(test_another_network_space),
    };
    test_key_make(rdma_key, 'r');
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)unlink(rdma_key);
    return failed;
}
