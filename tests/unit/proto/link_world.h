/* link_world.h - daemons in small, for the tests of links: each end counts what its callbacks hear.
 * All ends of a process share one loop. Intervals are a tenth of the usual ones. */
#ifndef BATON_TESTS_LINK_WORLD_H
#define BATON_TESTS_LINK_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/log.h"
#include "proto/link.h"

#define WORLD_PING_US   30000
#define WORLD_FROZEN_US 300000
#define WORLD_CLOSED_US 50000
#define WORLD_REPEAT_US 25000
#define WORLD_PATIENCE  5000000 /* microseconds until a wait is a failure */

struct end {
    struct links *links;
    struct link *link; /* the last one that came up; NULL when it was lost */
    int n_up, n_first, n_lost, n_messages;
    char reason[32];
    size_t n_live; /* of the peer, in the last HELLO */
    uint64_t live_seq;
    uint64_t changed_us; /* last up or lost */
    struct frame last;
    uint64_t last_deadline_us;
    uint64_t own_live; /* this many are listed in our HELLO, seq 1000.. */
    uint64_t progress;
    bool busy;
    bool echo; /* answers each GENERATE with TOKENS, same key */
    void (*on_up)(struct end *end, struct link *link);
    void (*on_lost)(struct end *end, struct link *link);
    void (*on_message)(struct end *end, struct link *link, const struct frame *frame);
};

static inline void world_on_up(void *ctx, struct link *link, const Baton__Hello *hello, bool first)
{
    struct end *end = ctx;
    end->link = link;
    end->n_up++;
    end->n_first += first;
    end->n_live = hello->n_live;
    end->live_seq = hello->n_live ? hello->live[0]->seq : 0;
    end->changed_us = clock_now_us();
    if (end->on_up)
        end->on_up(end, link);
}

static inline void world_on_lost(void *ctx, struct link *link, const char *reason)
{
    struct end *end = ctx;
    if (end->link == link)
        end->link = NULL;
    end->n_lost++;
    snprintf(end->reason, sizeof end->reason, "%s", reason);
    end->changed_us = clock_now_us();
    if (end->on_lost)
        end->on_lost(end, link);
}

static inline void world_on_message(void *ctx, struct link *link, const struct frame *frame, uint64_t deadline_us)
{
    struct end *end = ctx;
    end->n_messages++;
    end->last = *frame;
    end->last_deadline_us = deadline_us;
    if (end->echo && frame->type == FRAME_GENERATE) {
        struct message_head head = { .type = FRAME_TOKENS, .key = frame->key, .deadline_us = FRAME_NO_DEADLINE };
        link_send(link, &head, NULL);
    }
    if (end->on_message)
        end->on_message(end, link, frame);
}

static inline size_t world_live(void *ctx, struct link *link, Baton__Live *out, size_t max)
{
    (void)link;
    const struct end *end = ctx;
    size_t n = end->own_live < max ? end->own_live : max;
    for (size_t i = 0; i < n; i++)
        out[i].seq = 1000 + i;
    return n;
}

static inline void world_progress(void *ctx, uint64_t *counter, bool *busy)
{
    const struct end *end = ctx;
    *counter = end->progress;
    *busy = end->busy;
}

static inline struct links_options world_options(struct end *end, struct loop *loop, const char *id)
{
    return (struct links_options){
        .loop = loop,
        .listen = "tcp://127.0.0.1:0",
        .id = id,
        .role = "decode",
        .cluster = "test",
        .model = "tiny",
        .kv_format = "bf16",
        .incarnation = clock_now_us() ^ (uint64_t)(uintptr_t)id,
        .transfer = (const uint8_t *)"shm",
        .transfer_len = 3,
        .ping_interval_us = WORLD_PING_US,
        .frozen_us = WORLD_FROZEN_US,
        .closed_us = WORLD_CLOSED_US,
        .repeat_us = WORLD_REPEAT_US,
        .max_pending = 64,
        .progress = world_progress,
        .on_up = world_on_up,
        .on_lost = world_on_lost,
        .on_message = world_on_message,
        .live = world_live,
        .ctx = end,
    };
}

static inline void end_open_with(struct end *end, const struct links_options *options)
{
    struct error err = { "" };
    if (links_create(options, &end->links, &err) != ST_OK)
        fail_msg("%s", err.text);
}

static inline void end_open(struct end *end, struct loop *loop, const char *id)
{
    struct links_options options = world_options(end, loop, id);
    end_open_with(end, &options);
}

static inline struct link *end_connect(struct end *end, const char *id, const char *endpoint)
{
    struct link *link = NULL;
    assert_int_equal(links_connect(end->links, id, endpoint, &link), ST_OK);
    return link;
}

static inline struct links_stats end_stats(const struct end *end)
{
    struct links_stats stats;
    links_stats(end->links, &stats);
    return stats;
}

static inline struct loop *world_loop(void)
{
    struct loop *loop;
    assert_int_equal(loop_create(&loop), ST_OK);
    return loop;
}

struct world_wait {
    struct loop *loop;
    struct timer timer;
    uint64_t until_us;
    bool (*done)(void *arg);
    void *arg;
    bool met;
};

static inline void world_look(void *arg)
{
    struct world_wait *w = arg;
    uint64_t now = clock_now_us();
    w->met = w->done && w->done(w->arg);
    if (w->met || now >= w->until_us)
        loop_stop(w->loop);
    else
        timer_set(loop_timers(w->loop), &w->timer, now + 500, world_look, w);
}

/* Runs the loop until done(arg), or for us; true: it is done. */
static inline bool world_run(struct loop *loop, uint64_t us, bool (*done)(void *arg), void *arg)
{
    struct world_wait w = { .loop = loop, .until_us = clock_now_us() + us, .done = done, .arg = arg };
    timer_set(loop_timers(loop), &w.timer, clock_now_us(), world_look, &w);
    loop_run(loop);
    return w.met;
}

/* A counter that must reach a number. */
struct at_least {
    const int *counter;
    int n;
};

static inline bool world_reached(void *arg)
{
    const struct at_least *a = arg;
    return *a->counter >= a->n;
}

#define world_wait_for(loop, counter_, n_)                                                                             \
    do {                                                                                                               \
        struct at_least at_least_ = { &(counter_), (n_) };                                                             \
        if (!world_run((loop), WORLD_PATIENCE, world_reached, &at_least_))                                             \
            fail_msg("%s stays at %d, not %d", #counter_, (counter_), (n_));                                           \
    } while (0)

static inline struct message_head head_of(enum frame_type type, uint64_t seq)
{
    return (struct message_head){ .type = type, .key = { 7, seq }, .deadline_us = FRAME_NO_DEADLINE };
}

#endif
