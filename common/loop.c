#include "common/loop.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/loop_poll.h"

struct post {
    void (*fn)(void *arg);
    void *arg;
};

struct posts {
    struct post *items;
    size_t n, capacity;
};

struct loop {
    struct event_base *base;
    struct timers timers;
    bool deadline_changed; /* the timerfd is set once a turn, not once a change */
    uint64_t armed_us;     /* what the timerfd is set to; TIMERS_NEVER: it is not, or has fired */
    TAILQ_HEAD(, loop_task) tasks;
    struct loop_poll poll;
    bool poll_pays; /* as on_poll was told */
    void (*on_poll)(void *arg, bool pays);
    void *on_poll_arg;
    uint64_t came_us; /* when loop_more_follows was first called in this turn; 0: not */
    int timer_fd, wake_fd;
    struct event *timer_event, *wake_event;
    atomic_bool stopping;
    _Atomic uint64_t turns;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t room;
    pthread_t thread;
    bool unattended; /* stopped: nobody will make room */
    struct posts queued;
    struct posts running; /* loop thread only */
};

static void on_deadline_changed(void *arg)
{
    ((struct loop *)arg)->deadline_changed = true;
}

static void clear_fd(int fd)
{
    uint64_t count;
    while (read(fd, &count, sizeof count) < 0 && errno == EINTR) {
    }
}

static void wake(struct loop *loop)
{
    const uint64_t one = 1;
    /* EAGAIN means that the counter is full, so the loop is awake anyway. */
    while (write(loop->wake_fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct loop *loop = arg;
    clear_fd(fd);
    loop->deadline_changed = true;
    loop->armed_us = TIMERS_NEVER;
    timers_run(&loop->timers, clock_now_us());
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct loop *loop = arg;
    clear_fd(fd);
    pthread_mutex_lock(&loop->lock);
    struct posts batch = loop->queued;
    loop->queued = loop->running;
    loop->queued.n = 0;
    pthread_cond_broadcast(&loop->room);
    pthread_mutex_unlock(&loop->lock);
    for (size_t i = 0; i < batch.n; i++)
        batch.items[i].fn(batch.items[i].arg);
    loop->running = batch;
}

static bool add_events(struct loop *loop)
{
    loop->timer_event = event_new(loop->base, loop->timer_fd, EV_READ | EV_PERSIST, on_timer, loop);
    loop->wake_event = event_new(loop->base, loop->wake_fd, EV_READ | EV_PERSIST, on_wake, loop);
    return loop->timer_event && loop->wake_event && !event_add(loop->timer_event, NULL) &&
           !event_add(loop->wake_event, NULL);
}

status loop_create(struct loop **out)
{
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return ST_NO_MEMORY;
    pthread_mutex_init(&loop->lock, NULL);
    pthread_cond_init(&loop->room, NULL);
    loop->thread = pthread_self();
    TAILQ_INIT(&loop->tasks);
    loop->armed_us = TIMERS_NEVER;
    timers_init(&loop->timers);
    loop->timers.clock = clock_now_us;
    loop->timers.changed = on_deadline_changed;
    loop->timers.changed_arg = loop;
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    loop->base = event_base_new();
    if (loop->timer_fd < 0 || loop->wake_fd < 0 || !loop->base || !add_events(loop)) {
        loop_destroy(&loop);
        return ST_IO;
    }
    *out = loop;
    return ST_OK;
}

void loop_destroy(struct loop **p)
{
    struct loop *loop = *p;
    if (!loop)
        return;
    *p = NULL;
    if (loop->timer_event)
        event_free(loop->timer_event);
    if (loop->wake_event)
        event_free(loop->wake_event);
    if (loop->base)
        event_base_free(loop->base);
    if (loop->timer_fd >= 0)
        close(loop->timer_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    timers_free(&loop->timers);
    free(loop->queued.items);
    free(loop->running.items);
    pthread_cond_destroy(&loop->room);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}

struct event_base *loop_base(struct loop *loop)
{
    return loop->base;
}

struct timers *loop_timers(struct loop *loop)
{
    return &loop->timers;
}

static void set_deadline(struct loop *loop)
{
    uint64_t due = timers_next(&loop->timers);
    /* All zero disarms; a deadline of 0 is long past, so 1 does as well. */
    struct itimerspec when = { 0 };
    if (due != TIMERS_NEVER) {
        uint64_t us = due ? due : 1;
        when.it_value.tv_sec = (time_t)(us / 1000000);
        when.it_value.tv_nsec = (long)(us % 1000000) * 1000;
    }
    loop->deadline_changed = false;
    if (due == loop->armed_us)
        return;
    loop->armed_us = due;
    ASSERT(timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) == 0);
}

void loop_at_turn_end(struct loop *loop, struct loop_task *task, void (*fn)(void *arg), void *arg)
{
    if (!task->fn)
        TAILQ_INSERT_TAIL(&loop->tasks, task, entry);
    task->fn = fn;
    task->arg = arg;
}

void loop_task_cancel(struct loop *loop, struct loop_task *task)
{
    if (task->fn)
        TAILQ_REMOVE(&loop->tasks, task, entry);
    task->fn = NULL;
}

/* Timers that were set to a time that has come need no timerfd. */
static void run_due(struct loop *loop)
{
    uint64_t now = clock_now_us();
    if (timers_next(&loop->timers) <= now)
        timers_run(&loop->timers, now);
}

static void end_turn(struct loop *loop)
{
    struct loop_task *task;
    if (loop->deadline_changed)
        run_due(loop);
    while ((task = TAILQ_FIRST(&loop->tasks))) {
        void (*fn)(void *) = task->fn;
        ASSERT(fn != NULL);
        loop_task_cancel(loop, task);
        fn(task->arg);
    }
    if (loop->deadline_changed)
        set_deadline(loop);
}

void loop_set_poll(struct loop *loop, uint64_t window_us)
{
    loop_poll_init(&loop->poll, window_us, clock_now_us());
}

void loop_more_follows(struct loop *loop)
{
    if (loop->poll.window_us && !loop->came_us)
        loop->came_us = clock_now_us();
}

uint64_t loop_polled_us(const struct loop *loop)
{
    return loop->poll.polled_us;
}

void loop_on_poll(struct loop *loop, void (*on_poll)(void *arg, bool pays), void *arg)
{
    loop->on_poll = on_poll;
    loop->on_poll_arg = arg;
}

static bool yield(struct loop *loop, uint64_t now)
{
    (void)sched_yield();
    uint64_t after = clock_now_us();
    return loop_poll_yielded(&loop->poll, after - now, after);
}

static void tell_poll(struct loop *loop)
{
    bool pays = loop->poll.score > 0;
    if (pays != loop->poll_pays && loop->on_poll)
        loop->on_poll(loop->on_poll_arg, pays);
    loop->poll_pays = pays;
}

/* How libevent is to wait. */
static int wait_flags(struct loop *loop)
{
    if (!loop->poll.window_us)
        return EVLOOP_ONCE;
    uint64_t now = clock_now_us();
    bool polls = loop_poll_turn(&loop->poll, loop->came_us, now) && yield(loop, now);
    loop->came_us = 0;
    tell_poll(loop);
    return polls ? EVLOOP_ONCE | EVLOOP_NONBLOCK : EVLOOP_ONCE;
}

/* From now on posts do not wait: the threads that post are about to be joined. */
static void leave(struct loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    loop->unattended = true;
    pthread_cond_broadcast(&loop->room);
    pthread_mutex_unlock(&loop->lock);
}

void loop_run(struct loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    loop->thread = pthread_self();
    loop->unattended = false;
    pthread_mutex_unlock(&loop->lock);
    while (!atomic_load_explicit(&loop->stopping, memory_order_acquire)) {
        end_turn(loop);
        ASSERT(event_base_loop(loop->base, wait_flags(loop)) == 0);
        atomic_fetch_add_explicit(&loop->turns, 1, memory_order_relaxed);
    }
    leave(loop);
    atomic_store_explicit(&loop->stopping, false, memory_order_release);
}

void loop_stop(struct loop *loop)
{
    atomic_store_explicit(&loop->stopping, true, memory_order_release);
    leave(loop);
    wake(loop);
}

/* Under the lock. */
static void push(struct posts *posts, struct post post)
{
    if (posts->n == posts->capacity) {
        size_t capacity = posts->capacity ? 2 * posts->capacity : 64;
        struct post *items = realloc(posts->items, capacity * sizeof *items);
        ASSERT(items != NULL);
        posts->items = items;
        posts->capacity = capacity;
    }
    posts->items[posts->n++] = post;
}

void loop_post(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&loop->lock);
    bool may_wait = !pthread_equal(loop->thread, pthread_self());
    while (may_wait && loop->queued.n >= LOOP_MAX_POSTS && !loop->unattended)
        pthread_cond_wait(&loop->room, &loop->lock);
    bool first = loop->queued.n == 0;
    push(&loop->queued, (struct post){ fn, arg });
    pthread_mutex_unlock(&loop->lock);
    if (first)
        wake(loop);
}

uint64_t loop_turns(const struct loop *loop)
{
    return atomic_load_explicit(&loop->turns, memory_order_relaxed);
}
