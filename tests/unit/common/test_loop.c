/* The event loop: posts from other threads, timers on the real clock, stopping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/loop.h"

#define N_THREADS        4
#define POSTS_PER_THREAD 40000

struct shared {
    struct loop *loop;
    int received; /* loop thread only */
    int last[N_THREADS];
    int out_of_order;
};

struct item {
    struct shared *shared;
    int thread, number;
};

struct sender {
    struct shared *shared;
    int thread;
    pthread_t id;
    struct item items[POSTS_PER_THREAD];
};

static void receive(void *arg)
{
    struct item *item = arg;
    struct shared *s = item->shared;
    s->out_of_order += item->number != s->last[item->thread] + 1;
    s->last[item->thread] = item->number;
    if (++s->received == N_THREADS * POSTS_PER_THREAD)
        loop_stop(s->loop);
}

static void *send_all(void *arg)
{
    struct sender *sender = arg;
    for (int i = 0; i < POSTS_PER_THREAD; i++) {
        sender->items[i] = (struct item){ sender->shared, sender->thread, i + 1 };
        loop_post(sender->shared->loop, receive, &sender->items[i]);
    }
    return NULL;
}

/* More posts than the queue holds: senders wait for room, nothing is lost, order per thread is kept. */
static void test_posts_from_threads(void **state)
{
    (void)state;
    static struct sender senders[N_THREADS];
    struct shared shared = { 0 };
    assert_int_equal(loop_create(&shared.loop), ST_OK);
    for (int i = 0; i < N_THREADS; i++) {
        senders[i].shared = &shared;
        senders[i].thread = i;
        assert_int_equal(pthread_create(&senders[i].id, NULL, send_all, &senders[i]), 0);
    }
    loop_run(shared.loop);
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(senders[i].id, NULL);
    assert_int_equal(shared.received, N_THREADS * POSTS_PER_THREAD);
    assert_int_equal(shared.out_of_order, 0);
    assert_true(loop_turns(shared.loop) > 0);
    loop_destroy(&shared.loop);
    assert_null(shared.loop);
}

struct counter {
    struct loop *loop;
    int n, stop_at;
};

static void tick(void *arg)
{
    struct counter *c = arg;
    if (++c->n == c->stop_at)
        loop_stop(c->loop);
}

/* The loop thread itself never waits, whatever the bound says. */
static void test_the_loop_thread_may_post_beyond_the_bound(void **state)
{
    (void)state;
    struct counter c = { .stop_at = LOOP_MAX_POSTS + 10 };
    assert_int_equal(loop_create(&c.loop), ST_OK);
    for (int i = 0; i < c.stop_at; i++)
        loop_post(c.loop, tick, &c);
    assert_int_equal(c.n, 0);
    loop_run(c.loop);
    assert_int_equal(c.n, c.stop_at);
    loop_destroy(&c.loop);
}

struct timed {
    struct counter counter;
    struct timer timer;
    uint64_t due, late_us;
};

static void on_time(void *arg)
{
    struct timed *t = arg;
    uint64_t now = clock_now_us();
    assert_true(now >= t->due);
    t->late_us = now - t->due;
    tick(&t->counter);
}

static void test_timers_fire_not_before_their_time(void **state)
{
    (void)state;
    struct timed t = { .counter = { .stop_at = 1 } };
    assert_int_equal(loop_create(&t.counter.loop), ST_OK);
    struct timers *timers = loop_timers(t.counter.loop);
    t.due = timers_now(timers) + 20000;
    timer_set(timers, &t.timer, t.due, on_time, &t);
    loop_run(t.counter.loop);
    assert_int_equal(t.counter.n, 1);
    assert_true(t.late_us < 5000000);
    loop_destroy(&t.counter.loop);
}

static void move_sooner(void *arg)
{
    struct timed *t = arg;
    t->due = clock_now_us() + 1000;
    timer_set(loop_timers(t->counter.loop), &t->timer, t->due, on_time, t);
}

/* A deadline moved from an hour to a millisecond while the loop runs. */
static void test_a_sooner_deadline_is_noticed(void **state)
{
    (void)state;
    struct timed t = { .counter = { .stop_at = 1 } };
    assert_int_equal(loop_create(&t.counter.loop), ST_OK);
    timer_set(loop_timers(t.counter.loop), &t.timer, clock_now_us() + 3600000000u, on_time, &t);
    loop_post(t.counter.loop, move_sooner, &t);
    loop_run(t.counter.loop);
    assert_int_equal(t.counter.n, 1);
    loop_destroy(&t.counter.loop);
}

static void test_a_deadline_in_the_past_fires(void **state)
{
    (void)state;
    struct timed t = { .counter = { .stop_at = 1 } };
    assert_int_equal(loop_create(&t.counter.loop), ST_OK);
    timer_set(loop_timers(t.counter.loop), &t.timer, 0, on_time, &t);
    loop_run(t.counter.loop);
    assert_int_equal(t.counter.n, 1);
    loop_destroy(&t.counter.loop);
}

static void again(void *arg)
{
    struct timed *t = arg;
    if (t->counter.n < t->counter.stop_at)
        timer_set(loop_timers(t->counter.loop), &t->timer, 0, again, t);
    tick(&t->counter);
}

/* More firings than timers_run does in one call, and the earliest deadline stays the same all the time. */
static void test_a_deadline_left_over_fires_in_the_next_turn(void **state)
{
    (void)state;
    struct timed t = { .counter = { .stop_at = 3000 } }, u;
    assert_int_equal(loop_create(&t.counter.loop), ST_OK);
    u = t;
    timer_set(loop_timers(t.counter.loop), &t.timer, 0, again, &t);
    timer_set(loop_timers(u.counter.loop), &u.timer, 0, again, &u);
    loop_run(t.counter.loop);
    assert_true(t.counter.n >= 3000 || u.counter.n >= 3000);
    loop_destroy(&t.counter.loop);
}

struct ending {
    struct loop *loop;
    struct loop_task task, never;
    struct timer timer;
    int n, at_timer;
};

static void at_end(void *arg)
{
    struct ending *e = arg;
    e->n++;
    loop_stop(e->loop);
}

static void ask_often(void *arg)
{
    struct ending *e = arg;
    for (int i = 0; i < 5; i++)
        loop_at_turn_end(e->loop, &e->task, at_end, e);
    e->at_timer = e->n;
}

/* Behind what the turn brought, timers that became due in it too, and once. */
static void test_the_end_of_a_turn_is_told_once(void **state)
{
    (void)state;
    struct ending e = { 0 };
    assert_int_equal(loop_create(&e.loop), ST_OK);
    timer_set(loop_timers(e.loop), &e.timer, 0, ask_often, &e);
    loop_at_turn_end(e.loop, &e.never, at_end, &e);
    loop_task_cancel(e.loop, &e.never);
    loop_run(e.loop);
    assert_int_equal(e.at_timer, 0);
    assert_int_equal(e.n, 1);
    assert_int_equal(loop_turns(e.loop), 1);
    loop_destroy(&e.loop);
}

struct stopper {
    struct loop *loop;
    atomic_bool runs;
};

static void note_running(void *arg)
{
    atomic_store(&((struct stopper *)arg)->runs, true);
}

/* Only once the loop runs: a stop that came before is another case. */
static void *stop_from_thread(void *arg)
{
    struct stopper *s = arg;
    loop_post(s->loop, note_running, s);
    for (int i = 0; i < 3000 && !atomic_load(&s->runs); i++)
        usleep(1000);
    loop_stop(s->loop);
    return NULL;
}

static void test_stop_from_another_thread_and_run_again(void **state)
{
    (void)state;
    struct counter c = { .stop_at = 1 };
    pthread_t thread;
    assert_int_equal(loop_create(&c.loop), ST_OK);
    struct stopper s = { .loop = c.loop };
    assert_int_equal(pthread_create(&thread, NULL, stop_from_thread, &s), 0);
    loop_run(c.loop);
    pthread_join(thread, NULL);
    assert_true(atomic_load(&s.runs));
    loop_stop(c.loop);
    loop_post(c.loop, tick, &c);
    loop_run(c.loop); /* was stopped before: ends at once, nothing runs */
    assert_int_equal(c.n, 0);
    loop_run(c.loop);
    assert_int_equal(c.n, 1);
    loop_destroy(&c.loop);
}

#define POLL_US  20000u
#define N_ROUNDS 20

struct polled {
    struct loop *loop;
    struct timer timer;
    atomic_int asked, came;
    uint64_t polled_us; /* in the end */
};

static void more_came(void *arg)
{
    struct polled *p = arg;
    loop_more_follows(p->loop);
    if (atomic_fetch_add(&p->came, 1) + 1 < N_ROUNDS)
        return;
    loop_stop(p->loop);
}

/* A post each time that the loop has taken the last. */
static void *post_in_turn(void *arg)
{
    struct polled *p = arg;
    for (int i = 0; i < N_ROUNDS; i++) {
        while (atomic_load(&p->came) < i)
            usleep(200);
        usleep(1000);
        loop_post(p->loop, more_came, p);
    }
    return NULL;
}

static void run_polled(struct polled *p, uint64_t window_us)
{
    pthread_t thread;
    assert_int_equal(loop_create(&p->loop), ST_OK);
    loop_set_poll(p->loop, window_us);
    usleep(1000); /* of which a third may be polled */
    assert_int_equal(pthread_create(&thread, NULL, post_in_turn, p), 0);
    loop_run(p->loop);
    pthread_join(thread, NULL);
    assert_int_equal(p->came, N_ROUNDS);
    p->polled_us = loop_polled_us(p->loop);
    loop_destroy(&p->loop);
}

/* What comes from another thread is taken while the loop polls, too. */
static void test_a_loop_that_polls(void **state)
{
    (void)state;
    struct polled with = { 0 }, without = { 0 };
    run_polled(&with, 100);
    run_polled(&without, 0);
    assert_true(with.polled_us > 0);
    assert_int_equal(without.polled_us, 0);
}

static void ends_poll(void *arg)
{
    loop_stop(((struct polled *)arg)->loop);
}

static void begins_poll(void *arg)
{
    struct polled *p = arg;
    loop_more_follows(p->loop);
    timer_set(loop_timers(p->loop), &p->timer, clock_now_us() + 3000, ends_poll, p);
}

/* Timers fire while it polls, which shows in its many turns. */
static void test_timers_of_a_loop_that_polls(void **state)
{
    (void)state;
    struct polled p = { 0 };
    assert_int_equal(loop_create(&p.loop), ST_OK);
    loop_set_poll(p.loop, POLL_US);
    usleep(4 * POLL_US); /* of which it may poll a third */
    loop_post(p.loop, begins_poll, &p);
    loop_run(p.loop);
    assert_false(timer_is_set(&p.timer));
    assert_true(loop_turns(p.loop) > 10);
    loop_destroy(&p.loop);
}

struct flood {
    struct loop *loop;
    atomic_int posted;
    atomic_bool is_full;
};

static void nothing(void *arg)
{
    (void)arg;
}

static void *flood_loop(void *arg)
{
    struct flood *f = arg;
    for (int i = 0; i < LOOP_MAX_POSTS + 100; i++) {
        if (i == LOOP_MAX_POSTS)
            atomic_store(&f->is_full, true);
        loop_post(f->loop, nothing, NULL);
        atomic_fetch_add(&f->posted, 1);
    }
    return NULL;
}

/* A full queue holds its senders back until there is room or the loop was stopped. */
static void test_a_waiting_sender_is_let_go_by_stop(void **state)
{
    (void)state;
    struct flood f = { 0 };
    pthread_t thread;
    assert_int_equal(loop_create(&f.loop), ST_OK);
    assert_int_equal(pthread_create(&thread, NULL, flood_loop, &f), 0);
    for (int i = 0; i < 10000 && !atomic_load(&f.is_full); i++)
        usleep(1000);
    usleep(20000); /* in which one more could get in */
    assert_int_equal(atomic_load(&f.posted), LOOP_MAX_POSTS);
    loop_stop(f.loop);
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&f.posted), LOOP_MAX_POSTS + 100);
    loop_destroy(&f.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_posts_from_threads),
        cmocka_unit_test(test_the_loop_thread_may_post_beyond_the_bound),
        cmocka_unit_test(test_timers_fire_not_before_their_time),
        cmocka_unit_test(test_a_sooner_deadline_is_noticed),
        cmocka_unit_test(test_a_deadline_in_the_past_fires),
        cmocka_unit_test(test_a_deadline_left_over_fires_in_the_next_turn),
        cmocka_unit_test(test_the_end_of_a_turn_is_told_once),
        cmocka_unit_test(test_stop_from_another_thread_and_run_again),
        cmocka_unit_test(test_a_loop_that_polls),
        cmocka_unit_test(test_timers_of_a_loop_that_polls),
        cmocka_unit_test(test_a_waiting_sender_is_let_go_by_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
