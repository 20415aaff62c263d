/* timers.h - a heap of deadlines, without a clock of its own.
 * The owner says what time it is, so protocol code runs on real time in a
 * daemon and on virtual time in tests. One thread only. */
#ifndef BATON_COMMON_TIMERS_H
#define BATON_COMMON_TIMERS_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct timer {
    uint64_t due_us;
    void (*fire)(void *arg);
    void *arg;
    size_t slot; /* 0: not set; else 1 + its place in the heap */
};

struct timers {
    struct timer **heap;
    size_t n, capacity;
    uint64_t now_us;            /* as of the last timers_run or timers_set_now */
    uint64_t (*clock)(void);    /* the real clock behind a loop's timers; NULL: time is virtual, now_us */
    void (*changed)(void *arg); /* told when the earliest deadline changes; may be NULL */
    void *changed_arg;
};

#define TIMERS_NEVER UINT64_MAX

void timers_init(struct timers *t);
void timers_free(struct timers *t);
/* Moves virtual time without firing anything. */
void timers_set_now(struct timers *t, uint64_t now_us);
/* The time that deadlines are counted from. */
static inline uint64_t timers_now(const struct timers *t)
{
    return t->clock ? t->clock() : t->now_us;
}
/* (Re)arms timer to fire once at due_us (absolute). Memory for the heap is grown here; running out aborts. */
void timer_set(struct timers *t, struct timer *timer, uint64_t due_us, void (*fire)(void *), void *arg);
void timer_cancel(struct timers *t, struct timer *timer); /* also when not set */
static inline int timer_is_set(const struct timer *timer)
{
    return timer->slot != 0;
}
/* TIMERS_NEVER when none is set. */
uint64_t timers_next(const struct timers *t);
/* Fires all that are due, in order of their deadlines; a timer set by a callback
 * to a time that has passed fires in the same call (at most n_before + 1000 in one call). */
void timers_run(struct timers *t, uint64_t now_us);

#endif
