#include "proto/link_liveness.h"

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void liveness_start(struct liveness *lv, const struct liveness_rules *rules, bool initiator, uint64_t now)
{
    *lv = (struct liveness){
        .initiator = initiator,
        .heard_us = now,
        .moved_us = now,
        .closed_since_us = LIVENESS_OPEN,
        .ping_us = now + rules->ping_interval_us,
    };
    lv->due_us = now + earlier(initiator ? rules->ping_interval_us : UINT64_MAX, rules->frozen_us / 2);
}

/* Since when the peer gives reason for suspicion. */
static uint64_t quiet_since(const struct liveness *lv)
{
    return lv->busy ? earlier(lv->heard_us, lv->moved_us) : lv->heard_us;
}

void liveness_heard(struct liveness *lv, uint64_t now)
{
    uint64_t before = quiet_since(lv);
    lv->heard_us = now;
    lv->closed_since_us = LIVENESS_OPEN;
    lv->probed = lv->probed && quiet_since(lv) == before;
}

void liveness_engine(struct liveness *lv, uint64_t progress, bool busy, uint64_t now)
{
    uint64_t before = quiet_since(lv);
    /* A step that starts between two pings is not older than the second one. */
    if (!busy || !lv->busy || progress != lv->progress)
        lv->moved_us = now;
    lv->progress = progress;
    lv->busy = busy;
    lv->probed = lv->probed && quiet_since(lv) == before;
}

void liveness_closed(struct liveness *lv, const struct liveness_rules *rules, uint64_t now)
{
    if (lv->closed_since_us != LIVENESS_OPEN)
        return;
    lv->closed_since_us = now;
    lv->due_us = earlier(lv->due_us, now + rules->closed_us);
}

bool liveness_is_frozen(const struct liveness *lv, const struct liveness_rules *rules, uint64_t now)
{
    return now >= quiet_since(lv) + rules->frozen_us;
}

static void forgive(struct liveness *lv, uint64_t late, uint64_t now)
{
    lv->heard_us = earlier(lv->heard_us + late, now);
    lv->moved_us = earlier(lv->moved_us + late, now);
    if (lv->closed_since_us != LIVENESS_OPEN)
        lv->closed_since_us = earlier(lv->closed_since_us + late, now);
}

static bool wants_ping(struct liveness *lv, const struct liveness_rules *rules, bool frozen, uint64_t now)
{
    bool ping = (lv->initiator || frozen) && now >= lv->ping_us;
    if (ping)
        lv->ping_us = now + rules->ping_interval_us;
    if (!lv->probed && now >= quiet_since(lv) + rules->frozen_us / 2)
        ping = lv->probed = true;
    return ping;
}

static uint64_t next_due(const struct liveness *lv, const struct liveness_rules *rules, bool frozen, uint64_t now)
{
    uint64_t due = UINT64_MAX;
    if (lv->initiator || frozen)
        due = lv->ping_us;
    if (!frozen)
        due = earlier(due, quiet_since(lv) + (lv->probed ? rules->frozen_us : rules->frozen_us / 2));
    if (lv->closed_since_us != LIVENESS_OPEN)
        due = earlier(due, lv->closed_since_us + rules->closed_us);
    return due > now ? due : now + rules->ping_interval_us;
}

struct liveness_advice liveness_step(struct liveness *lv, const struct liveness_rules *rules, uint64_t now)
{
    uint64_t late = now > lv->due_us ? now - lv->due_us : 0;
    forgive(lv, late, now);
    bool frozen = lv->probed && liveness_is_frozen(lv, rules, now);
    bool gone = lv->closed_since_us != LIVENESS_OPEN && now >= lv->closed_since_us + rules->closed_us;
    struct liveness_advice advice = { .ping = wants_ping(lv, rules, frozen, now) };
    lv->due_us = next_due(lv, rules, frozen, now);
    /* After a pause of our own, what came in meanwhile is read before anybody is judged. */
    if (late < rules->ping_interval_us / 2)
        advice.verdict = gone ? LIVENESS_CLOSED : frozen ? LIVENESS_FROZEN : LIVENESS_FINE;
    else
        lv->due_us = earlier(lv->due_us, now + rules->ping_interval_us);
    return advice;
}
