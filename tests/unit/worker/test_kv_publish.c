/* A worker that tells of its blocks, and a follower on TCP who reads it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include <cmocka.h>

#include "common/clock.h"
#include "proto/kv_subscriber.h"
#include "worker/kv_publish.h"

#define BLOCK       4u
#define MAX_EVENTS  64u
#define MAX_BLOCKS  400u
#define PATIENCE_US 30000000u

/* An event, as it came. */
struct heard {
    enum kv_event_kind kind;
    uint32_t n_hashes, n_tokens, block_size;
    uint64_t first, parent;
    uint32_t first_token;
    char adapter[32];
};

struct world {
    struct loop *loop;
    void *zmq;
    struct kv_publish *publish;
    struct kv_subscriber *subscriber;
    struct heard heard[MAX_EVENTS];
    uint32_t n_heard, n_batches, n_forgotten;
    uint32_t n_blocks; /* that the worker has: 1 to n_blocks of one chain */
    bool memory;
    /* waiting */
    struct timer timer;
    uint64_t until_us;
    uint32_t wanted;
};

static const uint32_t tokens[BLOCK] = { 1, 2, 70000, 4 };

/* Block i of a chain; 0 is before its first. */
static struct block_stored block(uint64_t i, const char *adapter, bool has_salt)
{
    return (struct block_stored){ .hash = { i, ~i },
                                  .has_parent = i > 1,
                                  .parent = { i - 1, ~(i - 1) },
                                  .tokens = tokens,
                                  .n_tokens = BLOCK,
                                  .adapter_id = adapter,
                                  .has_salt = has_salt };
}

static status each(void *ctx, void (*visit)(void *ctx, const struct block_stored *what), void *visit_ctx)
{
    const struct world *w = ctx;
    for (uint32_t i = 1; w->memory && i <= w->n_blocks; i++) {
        struct block_stored b = block(i, "", false);
        visit(visit_ctx, &b);
    }
    return w->memory ? ST_OK : ST_NO_MEMORY;
}

static status apply(void *ctx, struct kv_batch_reader *batch)
{
    struct world *w = ctx;
    struct kv_event e;
    status st;
    w->n_batches++;
    while ((st = kv_batch_next(batch, &e, NULL)) == ST_OK) {
        assert_true(w->n_heard < MAX_EVENTS);
        struct heard *h = &w->heard[w->n_heard++];
        *h = (struct heard){ .kind = e.kind,
                             .n_hashes = e.n_hashes,
                             .n_tokens = e.n_tokens,
                             .block_size = e.block_size,
                             .first = e.n_hashes ? e.hashes[0].low : 0,
                             .parent = e.has_parent ? e.parent.low : 0,
                             .first_token = e.n_tokens ? e.tokens[0] : 0 };
        assert_true(!e.n_hashes || (e.tier == KV_TIER_DEVICE && e.hashes[0].high == ~e.hashes[0].low));
        snprintf(h->adapter, sizeof h->adapter, "%.*s", (int)e.adapter_len, e.adapter_len ? e.adapter : "");
    }
    return st == ST_NOT_FOUND ? ST_OK : st;
}

static void forget(void *ctx)
{
    ((struct world *)ctx)->n_forgotten++;
}

static void set_up(struct world *w, bool with_tokens)
{
    struct error err;
    *w = (struct world){ .memory = true };
    assert_int_equal(loop_create(&w->loop), ST_OK);
    w->zmq = zmq_ctx_new();
    const struct kv_publish_options o = { .loop = w->loop,
                                          .zmq = w->zmq,
                                          .listen = "tcp://127.0.0.1:0",
                                          .listen_replay = "tcp://127.0.0.1:0",
                                          .tokens = with_tokens,
                                          .block_tokens = BLOCK,
                                          .each = each,
                                          .ctx = w };
    assert_int_equal(kv_publish_create(&o, &w->publish, &err), ST_OK);
}

static void follow(struct world *w)
{
    struct error err;
    const struct kv_subscriber_options o = {
        .loop = w->loop,
        .zmq = w->zmq,
        .endpoint = kv_publisher_endpoint(kv_publish_publisher(w->publish)),
        .replay = kv_publisher_replay_endpoint(kv_publish_publisher(w->publish)),
        .topic = KV_EVENTS_TOPIC,
        .rules = kv_subscriber_rules(),
        .apply = apply,
        .clear = forget,
        .ctx = w,
    };
    w->n_heard = w->n_batches = 0;
    assert_int_equal(kv_subscriber_create(&o, &w->subscriber, &err), ST_OK);
}

static void tear_down(struct world *w)
{
    kv_subscriber_destroy(&w->subscriber);
    kv_publish_destroy(&w->publish);
    kv_publish_destroy(&w->publish);
    zmq_ctx_term(w->zmq);
    loop_destroy(&w->loop);
}

static void check(void *arg)
{
    struct world *w = arg;
    if (w->n_heard >= w->wanted || clock_now_us() >= w->until_us)
        loop_stop(w->loop);
    else
        timer_set(loop_timers(w->loop), &w->timer, clock_now_us() + 500, check, w);
}

/* Until so many events were heard. */
static void hear(struct world *w, uint32_t n)
{
    w->wanted = n;
    w->until_us = clock_now_us() + PATIENCE_US;
    timer_set(loop_timers(w->loop), &w->timer, clock_now_us(), check, w);
    loop_run(w->loop);
    assert_int_equal(w->n_heard, n);
}

static void check_stored(const struct heard *h, uint64_t first, uint32_t n, uint64_t parent, uint32_t n_tokens)
{
    assert_int_equal(h->kind, KV_BLOCK_STORED);
    assert_int_equal(h->first, first);
    assert_int_equal(h->n_hashes, n);
    assert_int_equal(h->parent, parent);
    assert_int_equal(h->n_tokens, n_tokens);
    assert_int_equal(h->first_token, n_tokens ? 1 : 0);
    assert_int_equal(h->block_size, BLOCK);
}

static void store(struct world *w, uint64_t i, const char *adapter, bool has_salt)
{
    struct block_stored b = block(i, adapter, has_salt);
    kv_publish_stored(w->publish, &b);
}

/* After the dump the follower knows where he is: what is published later comes live, or when he asks for it. */
static void meet(struct world *w)
{
    follow(w);
    hear(w, 1);
    assert_int_equal(w->heard[0].kind, KV_ALL_CLEARED);
    w->n_heard = w->n_batches = 0;
}

static void test_one_turn_goes_out_together(void **state)
{
    (void)state;
    struct world w;
    set_up(&w, true);
    meet(&w);
    const struct block_hash gone[2] = { { 3, ~3ull }, { 2, ~2ull } };
    store(&w, 1, "", false);
    store(&w, 2, "", false);
    store(&w, 3, "", false);
    store(&w, 11, "", false); /* another chain's */
    kv_publish_removed(w.publish, gone, 1);
    kv_publish_removed(w.publish, gone + 1, 1);
    store(&w, 2, "", false);
    hear(&w, 4);
    assert_int_equal(w.n_batches, 1);
    check_stored(&w.heard[0], 1, 3, 0, 3 * BLOCK);
    check_stored(&w.heard[1], 11, 1, 10, BLOCK);
    assert_int_equal(w.heard[2].kind, KV_BLOCK_REMOVED);
    assert_int_equal(w.heard[2].n_hashes, 2);
    assert_int_equal(w.heard[2].first, 3);
    check_stored(&w.heard[3], 2, 1, 1, BLOCK);
    store(&w, 3, "", false);
    hear(&w, 5);
    assert_int_equal(w.n_batches, 2);
    tear_down(&w);
}

static void test_adapters_and_salts_stay_apart(void **state)
{
    (void)state;
    struct world w;
    set_up(&w, true);
    meet(&w);
    store(&w, 1, "poet@0000000000000001", false);
    store(&w, 2, "poet@0000000000000001", false);
    store(&w, 3, "", false);
    store(&w, 4, "", true);
    store(&w, 5, "", true);
    hear(&w, 3);
    check_stored(&w.heard[0], 1, 2, 0, 2 * BLOCK);
    assert_string_equal(w.heard[0].adapter, "poet@0000000000000001");
    check_stored(&w.heard[1], 3, 1, 2, BLOCK);
    assert_string_equal(w.heard[1].adapter, "");
    check_stored(&w.heard[2], 4, 2, 3, 0); /* its tokens are nobody's business */
    tear_down(&w);
}

static void test_no_tokens_unless_asked(void **state)
{
    (void)state;
    struct world w;
    set_up(&w, false);
    meet(&w);
    store(&w, 1, "", false);
    hear(&w, 1);
    check_stored(&w.heard[0], 1, 1, 0, 0);
    tear_down(&w);
}

static void test_a_dump_of_all(void **state)
{
    (void)state;
    struct world w;
    struct kv_publisher_stats s;
    set_up(&w, true);
    w.n_blocks = MAX_BLOCKS;
    follow(&w);
    hear(&w, 5); /* a chain in events of 128 blocks */
    assert_int_equal(w.heard[0].kind, KV_ALL_CLEARED);
    check_stored(&w.heard[1], 1, 128, 0, 128 * BLOCK);
    check_stored(&w.heard[2], 129, 128, 128, 128 * BLOCK);
    check_stored(&w.heard[4], 385, 16, 384, 16 * BLOCK);
    kv_subscriber_destroy(&w.subscriber);
    w.memory = false; /* says less than is true, and goes on */
    w.until_us = clock_now_us() + 300000;
    w.wanted = UINT32_MAX;
    timer_set(loop_timers(w.loop), &w.timer, clock_now_us(), check, &w);
    loop_run(w.loop); /* the last dump is not fresh any more */
    follow(&w);
    hear(&w, 1);
    assert_int_equal(w.heard[0].kind, KV_ALL_CLEARED);
    kv_publisher_stats(kv_publish_publisher(w.publish), &s);
    assert_int_equal(s.dumps, 2);
    tear_down(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_turn_goes_out_together),
        cmocka_unit_test(test_adapters_and_salts_stay_apart),
        cmocka_unit_test(test_no_tokens_unless_asked),
        cmocka_unit_test(test_a_dump_of_all),
    };
    return cmocka_run_group_tests_name("KV events of a worker", tests, NULL, NULL);
}
