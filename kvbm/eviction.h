/* eviction.h - which cached block goes next.
 * Entries are numbers below `capacity`: blocks of a pool, or slots of a replayed trace. A policy keeps them in order; a
 * closure common to all policies lets an entry go only when it is not pinned and, with leaf_first, after all entries
 * behind it, so that what stays can still be found from its beginning. Every call is O(1) amortised (pins and
 * children are counted up the chain only as far as the count was zero), nothing is allocated after create. A value for
 * one thread.
 *
 * S3-FIFO is the policy of Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023: new entries
 * pass through a small FIFO queue; what was hit there moves to the main one, the rest goes and leaves a ghost (its
 * hash); what comes back while its ghost is there goes to the main queue at once; the main one gives its oldest another
 * round for each time that it was hit, up to three.
 *
 * Memory: 192 bits an entry. An S3-FIFO keeps 64 of its hash, too, and 128 for each ghost: 768 bits an entry with the
 * four ghosts an entry of eviction_s3fifo, 371 with the plain one's 0.9. */
#ifndef BATON_KVBM_EVICTION_H
#define BATON_KVBM_EVICTION_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

#define EVICTION_NONE UINT32_MAX

struct eviction;
struct eviction_policy;

/* eviction_s3fifo_plain is the paper's: a tenth for the small queue, as many ghosts as entries of the main one, none
 * from there, and two hits to get there. eviction_s3fifo is tuned for chains of KV blocks (docs/KV.md). */
extern const struct eviction_policy eviction_lru, eviction_fifo, eviction_s3fifo, eviction_s3fifo_plain;

/* "lru", "fifo", "s3fifo" or "s3fifo-plain"; NULL for any other word. */
const struct eviction_policy *eviction_policy_find(const char *name);
const char *eviction_policy_name(const struct eviction_policy *policy);

struct eviction_options {
    const struct eviction_policy *policy;
    uint32_t capacity;
    bool leaf_first;
};

MUST_CHECK status eviction_create(const struct eviction_options *options, struct eviction **out);
void eviction_destroy(struct eviction **eviction);

/* A new entry, not pinned. hash tells whether it was here before; parent is the entry before it in its chain, or
 * EVICTION_NONE. */
void eviction_add(struct eviction *e, uint32_t id, uint64_t hash, uint32_t parent);
void eviction_hit(struct eviction *e, uint32_t id);
/* Of an entry that is not pinned; it is not chosen, nor what stands before it with leaf_first, until it is unpinned. */
void eviction_pin(struct eviction *e, uint32_t id);
void eviction_unpin(struct eviction *e, uint32_t id);

/* Takes out the entry that goes next; EVICTION_NONE when none may. */
uint32_t eviction_choose(struct eviction *e);
/* Takes out this entry, behind which there is none, pinned or not. It leaves no ghost: nobody shall think it worth more
 * when it comes again. */
void eviction_remove(struct eviction *e, uint32_t id);
/* How many times eviction_choose() would succeed in a row. */
uint32_t eviction_evictable(const struct eviction *e);

#endif
