/* Publishers on TCP that come, go, restart and fall silent, and the view of a router who follows them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

#include "common/clock.h"
#include "proto/kv_publisher.h"
#include "proto/kv_subscriber.h"
#include "router/kv_feeds.h"

#define BLOCK       16u
#define N_BLOCKS    64u
#define N_SOURCES   3u
#define SILENCE_US  400000u
#define PATIENCE_US 30000000u
#define RING        4u /* batches: what is older comes as a dump */
#define PIECE       5u /* blocks */

static uint32_t tokens[N_BLOCKS * BLOCK];
static struct block_hash chain[N_BLOCKS];

struct source {
    struct kv_publisher *publisher;
    struct instance record;
    char pub[128], replay[128];
    uint32_t n_held;   /* of the chain */
    uint32_t n_dumped; /* by the dump that is being made */
};

struct world {
    struct loop *loop;
    void *zmq;
    struct kv_view *view;
    struct kv_feeds *feeds;
    struct source sources[N_SOURCES];
    unsigned seed;
};

static unsigned draw(struct world *w, unsigned n)
{
    w->seed = w->seed * 1103515245 + 12345;
    return (w->seed >> 16) % n;
}

/* ---- publishers ---------------------------------------------------------------- */

/* Blocks [first, first + n) are stored or removed. */
static struct kv_event told(enum kv_event_kind kind, uint32_t first, uint32_t n)
{
    return (struct kv_event){ .kind = kind,
                              .hashes = (const struct kv_event_hash *)(const void *)&chain[first],
                              .n_hashes = n,
                              .has_parent = first > 0,
                              .parent = first ? (struct kv_event_hash){ chain[first - 1].low, chain[first - 1].high }
                                              : (struct kv_event_hash){ 0, 0 },
                              .tokens = tokens + (size_t)first * BLOCK,
                              .n_tokens = n * BLOCK,
                              .block_size = BLOCK };
}

/* A few blocks in a turn of the loop, while more are stored and removed. */
static bool dump(void *ctx, struct kv_dump *out, bool is_new)
{
    struct source *s = ctx;
    s->n_dumped = is_new ? 0 : s->n_dumped;
    uint32_t n = s->n_held < s->n_dumped ? 0 : s->n_held - s->n_dumped, piece = n < PIECE ? n : PIECE;
    struct kv_event event = told(KV_BLOCK_STORED, s->n_dumped, piece);
    if (piece)
        kv_dump_add(out, &event);
    s->n_dumped += piece;
    return n > piece;
}

static void start_source(struct world *w, struct source *s, bool ours)
{
    struct error err;
    const struct kv_publisher_options o = { .loop = w->loop,
                                            .zmq = w->zmq,
                                            .listen = s->pub[0] ? s->pub : "tcp://127.0.0.1:0",
                                            .listen_replay = s->replay[0] ? s->replay : "tcp://127.0.0.1:0",
                                            .rank = 0,
                                            .tokens = !ours,
                                            .max_batches = RING,
                                            .max_bytes = 1u << 20,
                                            .dump = ours ? dump : NULL,
                                            .ctx = s };
    uint64_t until_us = clock_now_us() + PATIENCE_US;
    while (kv_publisher_create(&o, &s->publisher, &err) != ST_OK) { /* ZeroMQ's threads still close the last one */
        if (clock_now_us() > until_us)
            fail_msg("%s", err.text);
        usleep(1000);
    }
    snprintf(s->pub, sizeof s->pub, "%.120s", kv_publisher_endpoint(s->publisher));
    snprintf(s->replay, sizeof s->replay, "%.120s", kv_publisher_replay_endpoint(s->publisher));
}

static void hold(struct source *s, uint32_t n)
{
    bool more = n > s->n_held;
    struct kv_event event =
        more ? told(KV_BLOCK_STORED, s->n_held, n - s->n_held) : told(KV_BLOCK_REMOVED, n, s->n_held - n);
    if (n != s->n_held)
        kv_publisher_add(s->publisher, &event);
    s->n_held = n;
    kv_publisher_flush(s->publisher);
}

/* As etcd tells it: another process each time. */
static void join(struct world *w, struct source *s)
{
    static uint64_t incarnation;
    s->record.incarnation = ++incarnation;
    snprintf(s->record.id, sizeof s->record.id, "w-%td", s - w->sources);
    strcpy(s->record.role, "decode");
    strcpy(s->record.model, "m");
    s->record.weights = 9;
    s->record.tokenizer = 5;
    s->record.block_tokens = BLOCK;
    snprintf(s->record.kv_events, sizeof s->record.kv_events, "%s", s->pub);
    snprintf(s->record.kv_replay, sizeof s->record.kv_replay, "%s", s->replay);
    kv_feeds_member(w->feeds, &s->record);
}

static void stop_source(struct source *s)
{
    kv_publisher_destroy(&s->publisher);
    s->n_held = 0;
}

/* ---- the router ------------------------------------------------------------------- */

static void set_up(struct world *w)
{
    struct error err;
    const struct kv_view_options view = { 4u << 20, 16 };
    const struct block_seed_parts seed = { .weights = 9, .tokenizer = 5 };
    struct block_hasher hasher;
    *w = (struct world){ .seed = 1 };
    assert_int_equal(loop_create(&w->loop), ST_OK);
    w->zmq = zmq_ctx_new();
    assert_int_equal(kv_view_create(&view, &w->view), ST_OK);
    struct kv_feeds_options o = { w->loop, w->zmq, w->view, kv_subscriber_rules() };
    o.rules.probe_us = 50000;
    o.rules.answer_us = 200000;
    o.rules.retry_us = 20000;
    o.rules.silence_us = SILENCE_US;
    assert_int_equal(kv_feeds_create(&o, &w->feeds, &err), ST_OK);
    for (uint32_t i = 0; i < N_BLOCKS * BLOCK; i++)
        tokens[i] = 5 * i + 1;
    block_hasher_init(&hasher, block_seed(&seed), BLOCK);
    assert_int_equal(block_hasher_grow(&hasher, tokens, N_BLOCKS * BLOCK, chain, N_BLOCKS), N_BLOCKS);
}

static void tear_down(struct world *w)
{
    for (uint32_t i = 0; i < N_SOURCES; i++)
        kv_publisher_destroy(&w->sources[i].publisher);
    kv_feeds_destroy(&w->feeds);
    kv_view_destroy(&w->view);
    zmq_ctx_term(w->zmq);
    loop_destroy(&w->loop);
}

/* How many blocks of the chain the view says somebody has. */
static uint32_t known(struct world *w, const char *id)
{
    struct kv_match m[N_SOURCES + 2];
    const struct kv_prompt p = { "m", "", { 0, 0 }, tokens, N_BLOCKS * BLOCK };
    uint32_t n = kv_view_find(w->view, &p, m, N_SOURCES + 2);
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(m[i].id, id))
            return m[i].tokens[KV_TIER_DEVICE] / BLOCK;
    return 0;
}

static struct kv_feeds_stats stats(struct world *w)
{
    struct kv_feeds_stats s;
    kv_feeds_stats(w->feeds, &s);
    return s;
}

struct wait {
    struct world *w;
    struct timer timer;
    uint64_t until_us;
    bool (*done)(struct world *w);
    bool met;
};

static void check(void *arg)
{
    struct wait *wait = arg;
    uint64_t now = clock_now_us();
    wait->met = wait->done && wait->done(wait->w);
    if (wait->met || now >= wait->until_us)
        loop_stop(wait->w->loop);
    else
        timer_set(loop_timers(wait->w->loop), &wait->timer, now + 500, check, wait);
}

/* Runs until it is done, at most for us; true: it is. */
static bool run(struct world *w, uint64_t us, bool (*done)(struct world *w))
{
    struct wait wait = { .w = w, .until_us = clock_now_us() + us, .done = done };
    timer_set(loop_timers(w->loop), &wait.timer, clock_now_us(), check, &wait);
    loop_run(w->loop);
    return wait.met;
}

static bool is_right(struct world *w)
{
    for (uint32_t i = 0; i < N_SOURCES; i++)
        if (known(w, w->sources[i].record.id) != w->sources[i].n_held)
            return false;
    return true;
}

static bool is_swept(struct world *w)
{
    struct prefix_index_stats s;
    uint32_t most = 0;
    kv_view_stats(w->view, &s);
    for (uint32_t i = 0; i < N_SOURCES; i++)
        most = w->sources[i].n_held > most ? w->sources[i].n_held : most;
    return s.blocks == most;
}

/* ---- tests ------------------------------------------------------------------------- */

static void change(struct world *w)
{
    struct source *s = &w->sources[draw(w, N_SOURCES)];
    if (s->publisher && draw(w, 16)) {
        hold(s, draw(w, N_BLOCKS + 1));
        return;
    }
    if (s->publisher) {
        stop_source(s);
        if (draw(w, 2)) /* or the next process's record comes before this one's is gone */
            kv_feeds_member_gone(w->feeds, s->record.id);
    }
    s->pub[0] = s->replay[0] = '\0';
    start_source(w, s, true);
    join(w, s);
}

static void test_what_is_known_becomes_what_is_true(void **state)
{
    (void)state;
    struct world w;
    set_up(&w);
    for (uint32_t i = 0; i < N_SOURCES; i++) {
        start_source(&w, &w.sources[i], true);
        hold(&w.sources[i], 10 + i); /* before anybody follows */
        join(&w, &w.sources[i]);
    }
    assert_true(run(&w, PATIENCE_US, is_right));
    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < 20; i++)
            change(&w);
        assert_true(run(&w, PATIENCE_US, is_right));
    }
    assert_true(run(&w, PATIENCE_US, is_swept));
    struct kv_feeds_stats s = stats(&w);
    assert_int_equal(s.followed, N_SOURCES);
    assert_true(s.events > 0 && s.follow.applied > 0 && s.follow.dumps >= N_SOURCES && s.hostile == 0);
    assert_int_equal(s.follow.corrupt, 0);
    for (uint32_t i = 0; i < N_SOURCES; i++) {
        kv_feeds_member_gone(w.feeds, w.sources[i].record.id);
        w.sources[i].n_held = 0;
    }
    assert_true(is_right(&w)); /* at once */
    assert_true(run(&w, PATIENCE_US, is_swept));
    assert_int_equal(stats(&w).followed, 0);
    assert_true(stats(&w).follow.dumps >= s.follow.dumps); /* counters do not go back */
    tear_down(&w);
}

static bool one_is_silent(struct world *w)
{
    return stats(w).silent == 1;
}

static bool nobody_is_silent(struct world *w)
{
    return stats(w).silent == 0;
}

static bool all_are_known(struct world *w)
{
    return stats(w).complete == N_SOURCES;
}

/* He keeps what he had, as he may still have it, until another process has his name. */
static void test_silence(void **state)
{
    (void)state;
    struct world w;
    set_up(&w);
    for (uint32_t i = 0; i < N_SOURCES; i++) {
        start_source(&w, &w.sources[i], true);
        join(&w, &w.sources[i]);
        hold(&w.sources[i], 20);
    }
    assert_true(run(&w, PATIENCE_US, is_right));
    assert_true(run(&w, PATIENCE_US, all_are_known));
    assert_false(run(&w, 2 * SILENCE_US, one_is_silent)); /* who has nothing to say is heard all the same */
    kv_publisher_destroy(&w.sources[0].publisher);
    assert_true(run(&w, PATIENCE_US, one_is_silent));
    assert_true(is_right(&w));
    w.sources[0].n_held = 7;
    start_source(&w, &w.sources[0], true); /* at the same address */
    assert_true(run(&w, PATIENCE_US, nobody_is_silent));
    assert_true(run(&w, PATIENCE_US, is_right));
    kv_feeds_member(w.feeds, &w.sources[1].record); /* told again: nothing begins anew */
    assert_true(is_right(&w));
    join(&w, &w.sources[0]); /* the record of the new process */
    assert_int_equal(known(&w, "w-0"), 0);
    assert_true(run(&w, PATIENCE_US, is_right));
    tear_down(&w);
}

static void test_who_is_not_followed(void **state)
{
    (void)state;
    struct world w;
    set_up(&w);
    struct source *s = &w.sources[0];
    join(&w, s); /* names no address */
    assert_int_equal(stats(&w).followed, 0);
    strcpy(s->pub, "nonsense");
    join(&w, s);
    assert_int_equal(stats(&w).followed, 0);
    assert_int_equal(kv_view_number(w.view, "w-0"), KV_VIEW_NOBODY);
    s->pub[0] = '\0';
    start_source(&w, s, true);
    s->record.block_tokens = 0;
    snprintf(s->record.kv_events, sizeof s->record.kv_events, "%s", s->pub);
    kv_feeds_member(w.feeds, &s->record);
    assert_int_equal(stats(&w).followed, 0);
    join(&w, s);
    assert_int_equal(stats(&w).followed, 1);
    assert_true(kv_view_number(w.view, "w-0") != KV_VIEW_NOBODY);
    s->record.kv_events[0] = '\0'; /* it does not publish any more */
    kv_feeds_member(w.feeds, &s->record);
    assert_int_equal(stats(&w).followed, 0);
    tear_down(&w);
}

static bool adapter(void *ctx, const char *model, const char *name, size_t len, uint64_t *fingerprint)
{
    (void)ctx, (void)model, (void)name, (void)len, (void)fingerprint;
    return false;
}

static bool foreign_is_right(struct world *w)
{
    return known(w, w->sources[0].pub) == w->sources[0].n_held;
}

static void test_a_foreign_publisher(void **state)
{
    (void)state;
    struct world w;
    struct source *s = &w.sources[0];
    struct error err;
    set_up(&w);
    start_source(&w, s, false);
    struct foreign_address address = { .model = "m" };
    snprintf(address.pub, sizeof address.pub, "%s", s->pub);
    snprintf(address.replay, sizeof address.replay, "%s", s->replay);
    const struct kv_holder holder = { address.pub, "foreign", "", "", "", "m", 9, 5, BLOCK };
    const struct foreign_feed_options o = { w.view, &holder, 1u << 20, adapter, NULL };
    hold(s, 3);
    assert_int_equal(kv_feeds_add_foreign(w.feeds, &address, &o, &err), ST_OK);
    assert_int_equal(kv_feeds_add_foreign(w.feeds, &address, &o, &err), ST_INVALID); /* twice */
    assert_true(run(&w, PATIENCE_US, foreign_is_right));
    for (int i = 0; i < 20; i++) {
        hold(s, draw(&w, N_BLOCKS + 1));
        assert_true(run(&w, PATIENCE_US, foreign_is_right));
    }
    assert_int_equal(stats(&w).followed, 1);
    stop_source(s); /* begins anew at the same address, with other numbers */
    start_source(&w, s, false);
    hold(s, 9);
    assert_true(run(&w, PATIENCE_US, foreign_is_right));
    tear_down(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_known_becomes_what_is_true),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_who_is_not_followed),
        cmocka_unit_test(test_a_foreign_publisher),
    };
    return cmocka_run_group_tests_name("feeds of KV events", tests, NULL, NULL);
}
