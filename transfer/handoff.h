/* handoff.h - a bounded ring of messages from one thread to one other, which
 * sleeps on a descriptor. One pusher, one popper; nothing blocks, nothing allocates. */
#ifndef BATON_TRANSFER_HANDOFF_H
#define BATON_TRANSFER_HANDOFF_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

struct handoff_item {
    int kind;
    void *what;
};

struct handoff {
    struct handoff_item *items;
    uint32_t mask;
    int fd;             /* readable while the popper has been woken and did not notice yet */
    atomic_bool asleep; /* the popper waits, or is about to wait, on fd */
    _Atomic uint32_t pushed;
    char apart[64]; /* each counter has a cache line that only one thread writes */
    _Atomic uint32_t popped;
};

/* capacity is a power of two. */
MUST_CHECK status handoff_init(struct handoff *ring, uint32_t capacity);
void handoff_free(struct handoff *ring); /* also of an object that is all zeros */

/* Pusher. What may be in the ring at one time is bounded by the caller, so a full ring is our own bug. */
void handoff_push(struct handoff *ring, int kind, void *what);
/* The same in two steps, for many messages and one wake. */
void handoff_add(struct handoff *ring, int kind, void *what);
void handoff_wake(struct handoff *ring);

/* Popper. */
bool handoff_pop(struct handoff *ring, struct handoff_item *out);
/* True: the ring is empty, and a push from now on makes fd readable. */
bool handoff_may_sleep(struct handoff *ring);
void handoff_woken(struct handoff *ring);

#endif
