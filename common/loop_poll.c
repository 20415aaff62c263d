#include "common/loop_poll.h"

void loop_poll_init(struct loop_poll *p, uint64_t window_us, uint64_t now)
{
    *p = (struct loop_poll){ .window_us = window_us, .turned_us = now };
}

static void save(struct loop_poll *p, uint64_t now)
{
    uint64_t most = LOOP_POLL_SHARE * LOOP_POLL_SAVED * p->window_us;
    uint64_t saved = p->saved_us + (now - p->turned_us);
    p->saved_us = saved < most ? saved : most;
    p->turned_us = now;
}

static void end(struct loop_poll *p, bool found, uint64_t now)
{
    uint64_t took = now - p->since_us, cost = LOOP_POLL_SHARE * took;
    p->polling = false;
    p->polled_us += took;
    p->saved_us -= cost < p->saved_us ? cost : p->saved_us;
    if (found)
        p->score += p->score < LOOP_POLL_SURE;
    else
        p->score -= p->score < LOOP_POLL_MISS ? p->score : LOOP_POLL_MISS;
}

static bool pays(struct loop_poll *p)
{
    if (p->saved_us < LOOP_POLL_SHARE * p->window_us || p->turned_us < p->rests_until_us)
        return false;
    return p->score > 0 || p->passed_over++ % LOOP_POLL_PROBED == 0;
}

bool loop_poll_turn(struct loop_poll *p, uint64_t came_us, uint64_t now)
{
    if (!p->window_us)
        return false;
    save(p, now);
    if (p->polling && came_us)
        end(p, true, came_us);
    else if (p->polling && now - p->since_us >= p->window_us)
        end(p, false, now);
    if (came_us && pays(p)) {
        p->polling = true;
        p->since_us = now;
    }
    return p->polling;
}

bool loop_poll_yielded(struct loop_poll *p, uint64_t for_us, uint64_t now)
{
    if (for_us < p->window_us)
        return true;
    end(p, false, now);
    p->score = 0;
    p->rests_until_us = now + LOOP_POLL_REST_US;
    return false;
}
