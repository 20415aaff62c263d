#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>

#include "transfer/handoff.h"

#define ITEMS    300000u
#define CAPACITY 64u

struct stream {
    struct handoff ring;
    _Atomic uint32_t taken; /* keeps the pusher inside the ring, as owners do */
    uint32_t numbers[ITEMS];
};

static void *push_all(void *arg)
{
    struct stream *s = arg;
    for (uint32_t i = 0; i < ITEMS; i++) {
        while (i - atomic_load(&s->taken) >= CAPACITY)
            (void)sched_yield();
        s->numbers[i] = i;
        if (i % 3) {
            handoff_push(&s->ring, (int)(i % 7), &s->numbers[i]);
        } else {
            handoff_add(&s->ring, (int)(i % 7), &s->numbers[i]);
            handoff_wake(&s->ring);
        }
    }
    return NULL;
}

/* In order, nothing lost, and no sleep that nobody ends. */
static void test_threads_hand_over_in_order(void **state)
{
    (void)state;
    static struct stream s;
    pthread_t pusher;
    assert_int_equal(handoff_init(&s.ring, CAPACITY), ST_OK);
    assert_int_equal(pthread_create(&pusher, NULL, push_all, &s), 0);
    struct handoff_item item;
    for (uint32_t i = 0; i < ITEMS;) {
        if (handoff_pop(&s.ring, &item)) {
            assert_int_equal(item.kind, i % 7);
            assert_int_equal(*(uint32_t *)item.what, i);
            i++;
            atomic_store(&s.taken, i);
        } else if (handoff_may_sleep(&s.ring)) {
            struct pollfd p = { .fd = s.ring.fd, .events = POLLIN };
            assert_int_equal(poll(&p, 1, 5000), 1);
            handoff_woken(&s.ring);
        }
    }
    assert_int_equal(pthread_join(pusher, NULL), 0);
    handoff_free(&s.ring);
}

static void test_wakes_only_who_sleeps(void **state)
{
    (void)state;
    struct handoff ring;
    struct handoff_item item;
    assert_int_equal(handoff_init(&ring, 4), ST_OK);
    struct pollfd p = { .fd = ring.fd, .events = POLLIN };
    handoff_push(&ring, 1, NULL);
    assert_int_equal(poll(&p, 1, 0), 0);
    assert_false(handoff_may_sleep(&ring));
    assert_true(handoff_pop(&ring, &item));
    assert_true(handoff_may_sleep(&ring));
    handoff_add(&ring, 2, NULL);
    assert_int_equal(poll(&p, 1, 0), 0);
    handoff_wake(&ring);
    assert_int_equal(poll(&p, 1, 0), 1);
    handoff_woken(&ring);
    assert_int_equal(poll(&p, 1, 0), 0);
    handoff_free(&ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_hand_over_in_order),
        cmocka_unit_test(test_wakes_only_who_sleeps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
