/* Publishers that lose, repeat, delay and damage what they say and are restarted, and one who follows each: when the
 * faults end, the follower knows what the publisher has. BATON_TEST_LONG=1 runs more of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/kv_follow.h"
#include "tests/unit/effort.h"

#define N_BLOCKS     64u
#define MAX_FLYING   512u
#define MAX_BATCHES  24u
#define MS           1000u
#define FAULTY_STEPS 4000
#define CALM_US      (60u * 1000 * MS)

enum kind {
    OURS,    /* dumps, and numbers that go on after a restart */
    FOREIGN, /* begins at 0 after a restart, and repeats only what its ring has */
    DEAF     /* answers nothing */
};

struct flying {
    bool used, answer;
    uint64_t sequence, due_us;
    struct kv_batch *batch; /* NULL: the end of an answer */
};

struct world {
    unsigned seed;
    enum kind kind;
    bool faults;
    bool cut; /* the answer that is being given */
    uint64_t now, answers_due;
    /* publisher */
    bool truth[N_BLOCKS];
    struct kv_ring ring;
    double clock;
    /* network */
    struct flying flying[MAX_FLYING];
    /* follower */
    struct kv_follow follow;
    bool known[N_BLOCKS];
};

static unsigned draw(struct world *w, unsigned n)
{
    return (unsigned)rand_r(&w->seed) % n;
}

static bool fault(struct world *w, unsigned per_mille)
{
    return w->faults && draw(w, 1000) < per_mille;
}

/* --- network --- */

static void fly(struct world *w, bool is_answer, uint64_t sequence, struct kv_batch *batch, uint64_t due)
{
    for (unsigned i = 0; i < MAX_FLYING; i++)
        if (!w->flying[i].used) {
            w->flying[i] = (struct flying){ true, is_answer, sequence, due, batch ? kv_batch_share(batch) : NULL };
            return;
        }
}

static void land(struct flying *f)
{
    kv_batch_release(&f->batch);
    f->used = false;
}

static void drop_answers(struct world *w)
{
    for (unsigned i = 0; i < MAX_FLYING; i++)
        if (w->flying[i].used && w->flying[i].answer)
            land(&w->flying[i]);
}

static struct flying *next_due(struct world *w)
{
    struct flying *first = NULL;
    for (unsigned i = 0; i < MAX_FLYING; i++) {
        struct flying *f = &w->flying[i];
        if (f->used && f->due_us <= w->now && (!first || f->due_us < first->due_us))
            first = f;
    }
    return first;
}

static void deliver_due(struct world *w)
{
    struct flying *f;
    while ((f = next_due(w))) {
        const uint8_t *data = f->batch ? kv_batch_data(f->batch) : NULL;
        size_t len = f->batch ? kv_batch_len(f->batch) : 0;
        if (f->answer)
            kv_follow_answer(&w->follow, f->sequence, data, len, w->now);
        else
            kv_follow_live(&w->follow, f->sequence, data, len, w->now);
        land(f);
    }
}

static void send_live(struct world *w, uint64_t sequence, struct kv_batch *batch)
{
    unsigned copies = fault(w, 150) ? 0 : fault(w, 150) ? 2 : 1;
    for (unsigned i = 0; i < copies; i++)
        fly(w, false, sequence, batch, w->now + (fault(w, 300) ? draw(w, 3000 * MS) : MS));
}

/* One connection: in order, until it is cut or a queue is full, and then nothing more. */
static void send_answer(struct world *w, uint64_t sequence, struct kv_batch *batch)
{
    w->answers_due += draw(w, 2) * MS;
    w->cut |= fault(w, 50);
    if (!w->cut)
        fly(w, true, sequence, batch, w->answers_due);
}

/* --- publisher --- */

static struct kv_batch *batch_of(struct world *w, const struct kv_event *events, unsigned n)
{
    struct kv_batch_writer writer;
    const uint8_t *data;
    size_t len;
    kv_batch_writer_init(&writer, KV_HASH_AS_BYTES, 1u << 16);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(kv_batch_add(&writer, &events[i]), ST_OK);
    assert_int_equal(kv_batch_finish(&writer, w->clock += 0.001, 0, &data, &len), ST_OK);
    struct kv_batch *batch = kv_batch_create(data, len);
    kv_batch_writer_free(&writer);
    return batch;
}

static void publish(struct world *w)
{
    struct kv_event_hash hashes[4];
    struct kv_event events[4];
    unsigned n = 1 + draw(w, 4);
    for (unsigned i = 0; i < n; i++) {
        bool store = draw(w, 2);
        unsigned block = draw(w, N_BLOCKS);
        hashes[i] = (struct kv_event_hash){ block, 1 };
        events[i] = (struct kv_event){
            .kind = store ? KV_BLOCK_STORED : KV_BLOCK_REMOVED, .hashes = &hashes[i], .n_hashes = 1, .block_size = 16
        };
        w->truth[block] = store;
        if (!draw(w, 60)) {
            events[i] = (struct kv_event){ .kind = KV_ALL_CLEARED };
            memset(w->truth, 0, sizeof w->truth);
        }
    }
    struct kv_batch *batch = batch_of(w, events, n);
    send_live(w, w->ring.next, batch);
    kv_ring_add(&w->ring, batch);
}

static void restart(struct world *w)
{
    uint64_t first = w->kind == OURS ? w->ring.next + 1000 + draw(w, 1000) : 0;
    kv_ring_free(&w->ring);
    assert_int_equal(kv_ring_init(&w->ring, MAX_BATCHES, 1u << 20, first), ST_OK);
    memset(w->truth, 0, sizeof w->truth);
    w->clock += 10;
    drop_answers(w);
}

static uint64_t answer_dump(struct world *w)
{
    struct kv_event_hash hashes[N_BLOCKS];
    struct kv_event events[N_BLOCKS + 1] = { { .kind = KV_ALL_CLEARED } };
    unsigned n = 1;
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        if (!w->truth[i])
            continue;
        hashes[i] = (struct kv_event_hash){ i, 1 };
        events[n++] =
            (struct kv_event){ .kind = KV_BLOCK_STORED, .hashes = &hashes[i], .n_hashes = 1, .block_size = 16 };
    }
    const unsigned per_batch = 5;
    unsigned n_batches = (n + per_batch - 1) / per_batch;
    for (unsigned i = 0; i < n_batches; i++) {
        unsigned from = i * per_batch, to = from + per_batch < n ? from + per_batch : n;
        struct kv_batch *batch = batch_of(w, events + from, to - from);
        send_answer(w, w->ring.next - n_batches + i, batch);
        kv_batch_release(&batch);
    }
    return w->ring.next;
}

static void answer(struct world *w, uint64_t from)
{
    w->cut = false;
    if (w->answers_due < w->now)
        w->answers_due = w->now;
    if (kv_ring_answer(&w->ring, from) == KV_ANSWER_DUMP)
        from = w->kind == OURS ? answer_dump(w) : from > w->ring.next ? w->ring.next : w->ring.first;
    for (; from < w->ring.next; from++)
        send_answer(w, from, kv_ring_get(&w->ring, from));
    send_answer(w, KV_SEQUENCE_END, NULL);
}

/* --- follower --- */

static status apply(void *ctx, struct kv_batch_reader *batch)
{
    struct world *w = ctx;
    struct kv_event event;
    status st;
    while ((st = kv_batch_next(batch, &event, NULL)) == ST_OK) {
        if (event.kind == KV_ALL_CLEARED)
            memset(w->known, 0, sizeof w->known);
        for (uint32_t i = 0; i < event.n_hashes; i++) {
            assert_in_range(event.hashes[i].low, 0, N_BLOCKS - 1);
            w->known[event.hashes[i].low] = event.kind == KV_BLOCK_STORED;
        }
    }
    return st == ST_NOT_FOUND ? ST_OK : st;
}

static void clear(void *ctx)
{
    struct world *w = ctx;
    memset(w->known, 0, sizeof w->known);
}

static void follow(struct world *w)
{
    uint64_t from;
    bool fresh;
    uint64_t due = kv_follow_step(&w->follow, w->now);
    assert_true(due > w->now);
    if (!kv_follow_take_request(&w->follow, &from, &fresh))
        return;
    assert_true(w->kind != DEAF);
    if (fresh)
        drop_answers(w);
    if (!fault(w, 200))
        answer(w, from);
}

/* --- the world --- */

static void create(struct world *w, enum kind kind, unsigned seed)
{
    struct kv_follow_rules rules = { .can_ask = kind != DEAF,
                                     .dumps = kind == OURS,
                                     .probe_us = 1000 * MS,
                                     .answer_us = 500 * MS,
                                     .retry_us = 100 * MS,
                                     .silence_us = 5000 * MS,
                                     .max_held = 16,
                                     .max_held_bytes = 4096 };
    *w = (struct world){ .seed = seed, .kind = kind, .faults = true, .clock = 1 };
    assert_int_equal(kv_ring_init(&w->ring, MAX_BATCHES, 1u << 20, kind == OURS ? 100000 : 0), ST_OK);
    assert_int_equal(kv_follow_init(&w->follow, &rules, 0), ST_OK);
    w->follow.apply = apply;
    w->follow.clear = clear;
    w->follow.ctx = w;
}

static void destroy(struct world *w)
{
    for (unsigned i = 0; i < MAX_FLYING; i++)
        if (w->flying[i].used)
            land(&w->flying[i]);
    kv_follow_free(&w->follow);
    kv_ring_free(&w->ring);
}

static void turn(struct world *w)
{
    deliver_due(w);
    follow(w);
    w->now += 5 * MS;
}

/* What the follower may lack or have too much at the end. */
static void check(struct world *w)
{
    bool all = w->kind == OURS || (w->kind == FOREIGN && w->ring.first == 0);
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        if (w->known[i] && !w->truth[i])
            fail_msg("kind %d: block %u is known and gone", w->kind, i);
        if (all && w->truth[i] && !w->known[i])
            fail_msg("kind %d: block %u is there and not known", w->kind, i);
    }
}

static void run(enum kind kind, unsigned seed)
{
    struct world w;
    create(&w, kind, seed);
    for (int i = 0; i < FAULTY_STEPS; i++) {
        if (!draw(&w, 4))
            publish(&w);
        if (!draw(&w, 1500))
            restart(&w);
        if (!draw(&w, 300))
            w.now += draw(&w, 4000 * MS);
        turn(&w);
    }
    w.faults = false;
    for (unsigned i = 0; i < 2; i++) {
        /* What still flies lands, and then something new comes of a publisher who cannot be asked, or who began anew.
         */
        for (uint64_t end = w.now + CALM_US; w.now < end;)
            turn(&w);
        if (kind != OURS && !i)
            publish(&w);
    }
    check(&w);
    destroy(&w);
}

static void run_many(enum kind kind)
{
    unsigned n = is_long() ? 400 : 12;
    for (unsigned seed = 1; seed <= n; seed++)
        run(kind, seed);
}

static void test_ours_converges_to_the_truth(void **state)
{
    (void)state;
    run_many(OURS);
}

static void test_a_ring_alone_converges_as_far_as_it_reaches(void **state)
{
    (void)state;
    run_many(FOREIGN);
}

static void test_one_who_answers_nothing_is_never_believed_too_much(void **state)
{
    (void)state;
    run_many(DEAF);
}

/* Nothing follows the lost batch that would show the gap. */
static void test_the_last_batch_is_lost(void **state)
{
    (void)state;
    struct world w;
    create(&w, OURS, 1);
    w.faults = false;
    for (unsigned i = 0; i < 300; i++) {
        if (i >= 50 && i < 60)
            publish(&w);
        for (unsigned k = 0; i == 59 && k < MAX_FLYING; k++)
            if (w.flying[k].used)
                land(&w.flying[k]);
        turn(&w);
    }
    assert_int_equal(w.follow.next, w.ring.next);
    check(&w);
    destroy(&w);
}

/* A clock set back while the publisher was down: old numbers with old times, which are none of the old ones. */
static void test_a_restart_with_an_older_clock(void **state)
{
    (void)state;
    struct world w;
    create(&w, FOREIGN, 1);
    w.faults = false;
    for (unsigned i = 0; i < 400; i++) {
        if (i < 200)
            publish(&w);
        turn(&w);
    }
    restart(&w);
    w.clock = 0;
    for (unsigned i = 0; i < 2000; i++) {
        if (i < KV_FOLLOW_MAX_REPEATS + 10)
            publish(&w);
        turn(&w);
    }
    for (unsigned i = 0; i < N_BLOCKS; i++)
        assert_false(w.known[i] && !w.truth[i]);
    assert_int_equal(w.follow.stats.restarts, 1);
    destroy(&w);
}

static void test_silence_and_damage(void **state)
{
    (void)state;
    struct world w;
    create(&w, DEAF, 1);
    w.faults = false;
    publish(&w);
    turn(&w), turn(&w);
    assert_false(w.follow.silent);
    for (uint64_t end = w.now + 6000 * MS; w.now < end;)
        turn(&w);
    assert_true(w.follow.silent);
    publish(&w);
    turn(&w), turn(&w);
    assert_false(w.follow.silent);
    memset(w.known, 1, sizeof w.known);
    kv_follow_live(&w.follow, w.follow.next, (const uint8_t *)"\x91", 1, w.now);
    assert_int_equal(w.follow.stats.corrupt, 1);
    for (unsigned i = 0; i < N_BLOCKS; i++)
        assert_false(w.known[i]);
    destroy(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ours_converges_to_the_truth),
        cmocka_unit_test(test_a_ring_alone_converges_as_far_as_it_reaches),
        cmocka_unit_test(test_one_who_answers_nothing_is_never_believed_too_much),
        cmocka_unit_test(test_the_last_batch_is_lost),
        cmocka_unit_test(test_a_restart_with_an_older_clock),
        cmocka_unit_test(test_silence_and_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
