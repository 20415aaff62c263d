/* Timers on virtual time, and against a sorted list under random operations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/timers.h"

struct probe {
    struct timer timer;
    struct timers *timers;
    int id, fired;
    uint64_t again_at; /* not 0: sets itself once more */
};

static int order[64];
static int n_order;

static void note(void *arg)
{
    struct probe *p = arg;
    p->fired++;
    if (n_order < 64)
        order[n_order++] = p->id;
    if (p->again_at) {
        uint64_t at = p->again_at;
        p->again_at = 0;
        timer_set(p->timers, &p->timer, at, note, p);
    }
}

static int reset(void **state)
{
    (void)state;
    n_order = 0;
    return 0;
}

static void test_fires_in_order_of_deadlines(void **state)
{
    (void)state;
    struct timers t;
    struct probe p[5] = { { .id = 0 }, { .id = 1 }, { .id = 2 }, { .id = 3 }, { .id = 4 } };
    const uint64_t due[5] = { 50, 10, 40, 20, 30 };
    timers_init(&t);
    assert_int_equal(timers_next(&t), TIMERS_NEVER);
    for (int i = 0; i < 5; i++)
        timer_set(&t, &p[i].timer, due[i], note, &p[i]);
    assert_int_equal(timers_next(&t), 10);
    timers_run(&t, 9);
    assert_int_equal(n_order, 0);
    timers_run(&t, 30);
    assert_memory_equal(order, ((int[]){ 1, 3, 4 }), 3 * sizeof(int));
    assert_int_equal(timers_now(&t), 30);
    timers_run(&t, 50);
    assert_memory_equal(order, ((int[]){ 1, 3, 4, 2, 0 }), 5 * sizeof(int));
    assert_false(timer_is_set(&p[0].timer));
    timers_free(&t);
}

static void test_cancel_and_rearm(void **state)
{
    (void)state;
    struct timers t;
    struct probe a = { .id = 1 }, b = { .id = 2 };
    timers_init(&t);
    timer_cancel(&t, &a.timer);
    timer_set(&t, &a.timer, 10, note, &a);
    timer_set(&t, &b.timer, 20, note, &b);
    timer_set(&t, &a.timer, 30, note, &a); /* later */
    assert_int_equal(timers_next(&t), 20);
    timer_set(&t, &a.timer, 5, note, &a); /* sooner */
    assert_int_equal(timers_next(&t), 5);
    timer_cancel(&t, &b.timer);
    timers_run(&t, 100);
    assert_int_equal(a.fired, 1);
    assert_int_equal(b.fired, 0);
    timers_free(&t);
}

static void cancel_other(void *arg)
{
    struct probe *p = arg;
    timer_cancel(p[0].timers, &p[1].timer);
}

static void test_a_callback_may_cancel_another(void **state)
{
    (void)state;
    struct timers t;
    struct probe p[2] = { { .timers = &t }, { .timers = &t } };
    timers_init(&t);
    timer_set(&t, &p[0].timer, 1, cancel_other, p);
    timer_set(&t, &p[1].timer, 2, note, &p[1]);
    timers_run(&t, 10);
    assert_int_equal(p[1].fired, 0);
    timers_free(&t);
}

static void test_a_past_deadline_set_by_a_callback_fires_in_the_same_run(void **state)
{
    (void)state;
    struct timers t;
    struct probe p = { .timers = &t, .again_at = 3 };
    timers_init(&t);
    timer_set(&t, &p.timer, 1, note, &p);
    timers_run(&t, 10);
    assert_int_equal(p.fired, 2);
    p.again_at = 11;
    timer_set(&t, &p.timer, 10, note, &p);
    timers_run(&t, 10);
    assert_int_equal(p.fired, 3);
    assert_true(timer_is_set(&p.timer));
    timers_free(&t);
}

static void set_again(void *arg)
{
    struct probe *p = arg;
    p->fired++;
    timer_set(p->timers, &p->timer, 0, set_again, p);
}

static void test_a_run_ends_although_a_callback_sets_itself_for_ever(void **state)
{
    (void)state;
    struct timers t;
    struct probe p = { .timers = &t };
    timers_init(&t);
    timer_set(&t, &p.timer, 0, set_again, &p);
    timers_run(&t, 10);
    assert_int_equal(p.fired, 1001);
    timers_free(&t);
    assert_false(timer_is_set(&p.timer));
}

static void count(void *arg)
{
    ++*(int *)arg;
}

static void test_the_owner_hears_of_a_new_earliest_deadline(void **state)
{
    (void)state;
    struct timers t;
    int changes = 0;
    struct probe a = { 0 }, b = { 0 };
    timers_init(&t);
    t.changed = count;
    t.changed_arg = &changes;
    timer_set(&t, &a.timer, 10, note, &a);
    timer_set(&t, &b.timer, 20, note, &b); /* not the earliest */
    assert_int_equal(changes, 1);
    timer_cancel(&t, &a.timer);
    assert_int_equal(changes, 2);
    timers_run(&t, 20);
    assert_int_equal(changes, 3);
    timers_free(&t);
}

#define MODEL_TIMERS 200

/* The model is an array of deadlines that is searched in full. */
static uint64_t model_next(const struct probe *p)
{
    uint64_t next = TIMERS_NEVER;
    for (int i = 0; i < MODEL_TIMERS; i++)
        if (p[i].again_at && p[i].again_at - 1 < next)
            next = p[i].again_at - 1;
    return next;
}

static void model_fire(void *arg)
{
    struct probe *p = arg;
    assert_int_not_equal(p->again_at, 0);
    assert_true(p->again_at - 1 <= p->timers->now_us);
    p->again_at = 0;
    p->fired++;
}

static void test_random_operations_against_a_model(void **state)
{
    (void)state;
    struct timers t;
    static struct probe p[MODEL_TIMERS]; /* again_at: 1 + the deadline in the model */
    uint64_t now = 0;
    srand(7);
    memset(p, 0, sizeof p);
    timers_init(&t);
    for (int step = 0; step < 20000; step++) {
        int i = rand() % MODEL_TIMERS, what = rand() % 10;
        p[i].timers = &t;
        if (what < 6) {
            uint64_t due = now + (uint64_t)(rand() % 500);
            timer_set(&t, &p[i].timer, due, model_fire, &p[i]);
            p[i].again_at = due + 1;
        } else if (what < 8) {
            timer_cancel(&t, &p[i].timer);
            p[i].again_at = 0;
        } else {
            now += (uint64_t)(rand() % 50);
            timers_run(&t, now);
            assert_true(model_next(p) > now);
        }
        assert_int_equal(timers_next(&t), model_next(p));
    }
    timers_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_fires_in_order_of_deadlines, reset),
        cmocka_unit_test_setup(test_cancel_and_rearm, reset),
        cmocka_unit_test_setup(test_a_callback_may_cancel_another, reset),
        cmocka_unit_test_setup(test_a_past_deadline_set_by_a_callback_fires_in_the_same_run, reset),
        cmocka_unit_test_setup(test_a_run_ends_although_a_callback_sets_itself_for_ever, reset),
        cmocka_unit_test(test_the_owner_hears_of_a_new_earliest_deadline),
        cmocka_unit_test(test_random_operations_against_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
