#include "common/clock.h"
#include "proto/link_internal.h"

#define DOUBT_SHARE 8 /* of a ping interval: closed connections are looked for together */

static bool is_judged(const struct link *link)
{
    return link->state != LINK_GREETING;
}

static uint64_t due_of(const struct link *link)
{
    uint64_t due = link->overrun ? 0 : pending_due(&link->pending);
    if (is_judged(link) && link->liveness.due_us < due)
        due = link->liveness.due_us;
    if (link->awaiting && link->hello_due_us < due)
        due = link->hello_due_us;
    return due;
}

/* False: the link is gone. */
static bool judge(struct link *link, uint64_t now)
{
    struct liveness_advice advice = liveness_step(&link->liveness, &link->links->rules, now);
    if (advice.ping)
        link_ping(link);
    if (advice.verdict == LIVENESS_CLOSED)
        link_lost(link, LINK_LOST_CLOSED);
    else if (advice.verdict == LIVENESS_FROZEN && link->state == LINK_UP)
        link_lost(link, LINK_LOST_FROZEN);
    return !link->dead;
}

static void tick(struct link *link)
{
    uint64_t now = clock_now_us();
    if (link->overrun)
        link_lost(link, LINK_LOST_OVERRUN);
    if (link->dead)
        return;
    if (link->awaiting && now >= link->hello_due_us)
        link_send_hello(link);
    if (is_judged(link) && now >= link->liveness.due_us && !judge(link, now))
        return;
    link_repeat(link, now);
    link_rearm(link);
}

static void on_timer(void *arg)
{
    struct link *link = arg;
    struct links *links = link->links;
    links_enter(links);
    tick(link);
    links_leave(links);
}

void link_rearm(struct link *link)
{
    struct timers *timers = loop_timers(link->links->options.loop);
    uint64_t due = due_of(link);
    if (link->dead || due == TIMERS_NEVER)
        timer_cancel(timers, &link->timer);
    /* One that fires too early looks again; most changes only put the time off. */
    else if (!timer_is_set(&link->timer) || due < link->timer.due_us)
        timer_set(timers, &link->timer, due, on_timer, link);
}

static void on_doubt(void *arg)
{
    struct links *links = arg;
    struct link *link;
    links_enter(links);
    TAILQ_FOREACH(link, &links->all, entry)
    {
        if (!link->outgoing)
            link_ping(link);
    }
    links_leave(links);
}

void links_doubt_incoming(struct links *links)
{
    struct timers *timers = loop_timers(links->options.loop);
    if (!timer_is_set(&links->doubt))
        timer_set(timers, &links->doubt, clock_now_us() + links->rules.ping_interval_us / DOUBT_SHARE, on_doubt, links);
}
