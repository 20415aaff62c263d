/* loop.h - the one event loop of a daemon: libevent, timers, and posts from other threads. */
#ifndef BATON_COMMON_LOOP_H
#define BATON_COMMON_LOOP_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "common/status.h"
#include "common/timers.h"

struct loop;

MUST_CHECK status loop_create(struct loop **out);
void loop_destroy(struct loop **loop);
struct event_base *loop_base(struct loop *loop);
/* Timers on the real clock, driven by this loop; count deadlines from timers_now(). */
struct timers *loop_timers(struct loop *loop);
/* Runs until loop_stop; a stop that came before ends it at once. The calling thread is the loop thread. */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop); /* any thread */

/* Runs fn(arg) soon on the loop thread; any thread may call it. The queue holds
 * LOOP_MAX_POSTS; beyond it the call waits (never from the loop thread itself:
 * there it runs at the next turn and the queue may grow by what the loop thread posts).
 * After loop_stop no call waits, so that threads can be joined; posts that are
 * still queued run when the loop runs again and are dropped by loop_destroy. */
#define LOOP_MAX_POSTS 65536
void loop_post(struct loop *loop, void (*fn)(void *arg), void *arg);

/* Runs fn(arg) once, when what this turn of the loop brought is done and before it waits again; asked for once more
 * before that, it still runs once; it must not ask for itself again. Loop thread only; the owner of the memory ends it
 * with loop_task_cancel. */
struct loop_task {
    TAILQ_ENTRY(loop_task) entry;
    void (*fn)(void *arg); /* NULL: not asked for */
    void *arg;
};
void loop_at_turn_end(struct loop *loop, struct loop_task *task, void (*fn)(void *arg), void *arg);
void loop_task_cancel(struct loop *loop, struct loop_task *task);

/* For a thread with a processor of its own: after turns in which loop_more_follows was called the loop looks for
 * events for up to window_us without sleeping, as loop_poll.h says; 0, as at first: never. While it polls it yields to
 * every other thread of the processor. Loop thread only, or before it runs. */
void loop_set_poll(struct loop *loop, uint64_t window_us);
/* on_poll is told when polling begins to pay, so that the loop polls after most turns, and when it ceases to; NULL:
 * nobody wants to know. */
void loop_on_poll(struct loop *loop, void (*on_poll)(void *arg, bool pays), void *arg);
/* What this turn brings is usually followed by more, soon. Loop thread only. */
void loop_more_follows(struct loop *loop);
uint64_t loop_polled_us(const struct loop *loop); /* time that went into that; loop thread only */

/* Raised once a turn; pings carry it. Any thread. */
uint64_t loop_turns(const struct loop *loop);

#endif
