/* link_liveness.h - when a peer is pinged, probed, and held for frozen or gone.
 * Pure: the caller says what it saw and what time it is (microseconds), and
 * liveness_step says what to do. The rules:
 *  - the side that connected pings each ping_interval; the other side only probes;
 *  - a peer is frozen when nothing was heard of it for frozen_us, or when its
 *    engine stayed busy without progress for so long; half-way it is probed by
 *    one extra ping. A frozen peer is pinged by either side until it recovers;
 *  - a connection that stays closed for closed_us is lost;
 *  - time in which we did not run ourselves counts against nobody. */
#ifndef BATON_PROTO_LINK_LIVENESS_H
#define BATON_PROTO_LINK_LIVENESS_H

#include <stdbool.h>
#include <stdint.h>

#define LIVENESS_OPEN UINT64_MAX

struct liveness_rules {
    uint64_t ping_interval_us, frozen_us, closed_us;
};

struct liveness {
    bool initiator;
    uint64_t heard_us; /* when its loop last spoke */
    uint64_t moved_us; /* when its engine was last seen idle or further than before */
    uint64_t progress;
    bool busy;
    uint64_t closed_since_us; /* LIVENESS_OPEN: connected */
    uint64_t ping_us;         /* when the next regular ping is due */
    bool probed;
    uint64_t due_us; /* when liveness_step wants to be called */
};

enum liveness_verdict { LIVENESS_FINE, LIVENESS_FROZEN, LIVENESS_CLOSED };

struct liveness_advice {
    enum liveness_verdict verdict;
    bool ping; /* send one now */
};

/* At each HELLO: the peer is alive and its engine unknown. */
void liveness_start(struct liveness *lv, const struct liveness_rules *rules, bool initiator, uint64_t now);
/* Any valid frame; it also proves that the connection is open. */
void liveness_heard(struct liveness *lv, uint64_t now);
/* What a ping or its answer says of the peer's engine. */
void liveness_engine(struct liveness *lv, uint64_t progress, bool busy, uint64_t now);
/* The connection closed; more calls while it stays closed change nothing. Brings due_us forward. */
void liveness_closed(struct liveness *lv, const struct liveness_rules *rules, uint64_t now);
bool liveness_is_frozen(const struct liveness *lv, const struct liveness_rules *rules, uint64_t now);
/* Sets due_us to a later time than now. */
struct liveness_advice liveness_step(struct liveness *lv, const struct liveness_rules *rules, uint64_t now);

#endif
