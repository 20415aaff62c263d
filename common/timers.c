#include "common/timers.h"

#include <stdlib.h>

#include "common/status.h"

#define TIMERS_EXTRA_PER_RUN 1000 /* fired in one call beyond those that were set before it */

void timers_init(struct timers *t)
{
    *t = (struct timers){ 0 };
}

void timers_free(struct timers *t)
{
    for (size_t i = 0; i < t->n; i++)
        t->heap[i]->slot = 0;
    free(t->heap);
    timers_init(t);
}

static void place(struct timers *t, size_t i, struct timer *timer)
{
    t->heap[i] = timer;
    timer->slot = i + 1;
}

static void sift_up(struct timers *t, size_t i, struct timer *timer)
{
    for (; i > 0 && t->heap[(i - 1) / 2]->due_us > timer->due_us; i = (i - 1) / 2)
        place(t, i, t->heap[(i - 1) / 2]);
    place(t, i, timer);
}

static void sift_down(struct timers *t, size_t i, struct timer *timer)
{
    for (size_t child; (child = 2 * i + 1) < t->n; i = child) {
        if (child + 1 < t->n && t->heap[child + 1]->due_us < t->heap[child]->due_us)
            child++;
        if (t->heap[child]->due_us >= timer->due_us)
            break;
        place(t, i, t->heap[child]);
    }
    place(t, i, timer);
}

static void settle(struct timers *t, size_t i, struct timer *timer)
{
    if (i > 0 && t->heap[(i - 1) / 2]->due_us > timer->due_us)
        sift_up(t, i, timer);
    else
        sift_down(t, i, timer);
}

static void take_out(struct timers *t, struct timer *timer)
{
    size_t i = timer->slot - 1;
    struct timer *last = t->heap[--t->n];
    timer->slot = 0;
    if (last != timer)
        settle(t, i, last);
}

static void tell(const struct timers *t, uint64_t before)
{
    if (t->changed && timers_next(t) != before)
        t->changed(t->changed_arg);
}

static void grow(struct timers *t)
{
    size_t capacity = t->capacity ? 2 * t->capacity : 64;
    struct timer **heap = realloc(t->heap, capacity * sizeof *heap);
    ASSERT(heap != NULL);
    t->heap = heap;
    t->capacity = capacity;
}

void timer_set(struct timers *t, struct timer *timer, uint64_t due_us, void (*fire)(void *), void *arg)
{
    uint64_t before = timers_next(t);
    timer->due_us = due_us;
    timer->fire = fire;
    timer->arg = arg;
    if (timer->slot) {
        ASSERT(timer->slot <= t->n && t->heap[timer->slot - 1] == timer);
        settle(t, timer->slot - 1, timer);
    } else {
        if (t->n == t->capacity)
            grow(t);
        t->n++;
        sift_up(t, t->n - 1, timer);
    }
    tell(t, before);
}

void timer_cancel(struct timers *t, struct timer *timer)
{
    if (!timer->slot)
        return;
    ASSERT(timer->slot <= t->n && t->heap[timer->slot - 1] == timer);
    uint64_t before = timers_next(t);
    take_out(t, timer);
    tell(t, before);
}

uint64_t timers_next(const struct timers *t)
{
    return t->n ? t->heap[0]->due_us : TIMERS_NEVER;
}

void timers_set_now(struct timers *t, uint64_t now_us)
{
    t->now_us = now_us;
}

void timers_run(struct timers *t, uint64_t now_us)
{
    uint64_t before = timers_next(t);
    size_t left = t->n + TIMERS_EXTRA_PER_RUN;
    t->now_us = now_us;
    while (t->n && t->heap[0]->due_us <= now_us && left--) {
        struct timer *timer = t->heap[0];
        take_out(t, timer);
        timer->fire(timer->arg);
    }
    tell(t, before);
}
