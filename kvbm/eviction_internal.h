/* eviction_internal.h - what policies see of an eviction: two queues of entries, and a count of hits in each.
 * An entry that comes to its queue's tail and may not go is parked: it is in no queue until it may, and
 * then it is at the tail again. So nobody looks at it twice in vain. */
#ifndef BATON_KVBM_EVICTION_INTERNAL_H
#define BATON_KVBM_EVICTION_INTERNAL_H

#include "kvbm/eviction.h"

enum { QUEUE_SMALL, QUEUE_MAIN, QUEUE_COUNT };

struct eviction_entry {
    uint32_t newer, older; /* neighbours in the queue; EVICTION_NONE at its ends */
    uint32_t parent;
    uint32_t children;
    uint32_t busy; /* 1 if pinned, and the children that are busy: an entry with any may not go */
    uint8_t queue; /* the one it belongs to, also while parked */
    uint8_t hits;
    bool present : 1, parked : 1, pinned : 1;
};

_Static_assert(sizeof(struct eviction_entry) == 24, "192 bits for an entry");

struct eviction_queue {
    uint32_t newest, oldest;
    uint32_t members; /* parked ones included */
};

/* Hashes of the entries that went last, first in, first out. */
struct ghosts {
    uint64_t *hashes; /* [limit]; also of those that were taken since */
    uint32_t *cells;  /* [n_cells], hashed: places in hashes */
    uint32_t limit, n_cells, next;
};

struct eviction_policy {
    const char *name;
    /* Puts a new entry into a queue. */
    void (*added)(struct eviction *e, uint32_t id, uint64_t hash);
    void (*hit)(struct eviction *e, uint32_t id);
    /* Takes the next candidate out of its queue; EVICTION_NONE when the queues are empty. */
    uint32_t (*candidate)(struct eviction *e);
    /* Numbers of an S3-FIFO. */
    uint32_t small_percent; /* of the capacity, for the small queue */
    uint32_t hits_to_main;  /* in the small queue */
    uint32_t ghost_percent; /* of the capacity */
    bool ghosts_of_main;    /* what goes from the main queue leaves a ghost, too */
};

struct eviction {
    const struct eviction_policy *policy;
    struct eviction_entry *entries;
    uint64_t *hashes; /* of entries, for their ghosts; NULL without any */
    struct eviction_queue queues[QUEUE_COUNT];
    struct ghosts ghosts;
    uint32_t capacity, small_limit;
    uint32_t n_present, n_busy;
    bool leaf_first;
};

/* At the end that goes last, or first. */
void eviction_put_newest(struct eviction *e, uint32_t id);
void eviction_put_oldest(struct eviction *e, uint32_t id);
void eviction_take_out(struct eviction *e, uint32_t id);
/* Counts the entry, which is in no queue, as a member of another one. */
void eviction_enter_queue(struct eviction *e, uint32_t id, uint8_t queue);

MUST_CHECK status ghosts_create(struct ghosts *ghosts, uint32_t limit);
void ghosts_free(struct ghosts *ghosts);
void ghosts_add(struct ghosts *ghosts, uint64_t hash);
/* True if the hash is there; then it no longer is. */
bool ghosts_take(struct ghosts *ghosts, uint64_t hash);

#endif
