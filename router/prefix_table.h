/* prefix_table.h - what the writer (prefix_index.c) and the readers (prefix_lookup.c) of the prefix index share; nobody
 * else includes it. */
#ifndef BATON_ROUTER_PREFIX_TABLE_H
#define BATON_ROUTER_PREFIX_TABLE_H

#include "router/owner_sets.h"
#include "router/prefix_index.h"

#define PREFIX_BUCKET_BLOCKS 5u
#define PREFIX_NO_WORKER     UINT32_MAX

struct prefix_bucket {
    _Atomic uint32_t version;                      /* odd while the writer is in it */
    _Atomic uint32_t owners[PREFIX_BUCKET_BLOCKS]; /* owners_ref, and above it when it was stored */
    _Atomic uint64_t keys[PREFIX_BUCKET_BLOCKS];   /* 0: empty */
};

_Static_assert(sizeof(struct prefix_bucket) == 64, "one cache line");

enum slot_state { SLOT_FREE, SLOT_IN_USE, SLOT_GONE, SLOT_SWEPT };

/* A worker's place in sets of owners. After a clear the worker has another one, and the old one stands for nobody until
 * the sweep has been through all buckets. */
struct prefix_index {
    struct prefix_bucket *buckets; /* [n_buckets], mapped */
    uint32_t n_buckets, n_slots, max_workers;
    _Atomic uint32_t *slot_worker; /* [n_slots], for readers */
    uint8_t *slot_gone;            /* [n_slots] */
    uint8_t *slot_state;           /* [n_slots], enum slot_state */
    uint16_t *worker_slot;         /* [max_workers] */
    struct owner_sets sets;
    _Atomic uint32_t turns; /* of the sweep that set places free */
    uint32_t epoch, next_slot;
    uint32_t swept, n_gone; /* buckets of this turn; slots that wait for it */
    uint64_t in_epoch, max_blocks;
    size_t bytes;
    struct prefix_index_stats stats;
};

static inline uint64_t prefix_key(const struct block_hash *hash)
{
    return hash->low ? hash->low : 1;
}

static inline owners_ref prefix_ref(uint32_t owners)
{
    return owners & ((1u << OWNERS_BITS) - 1);
}

static inline struct prefix_bucket *prefix_first_bucket(const struct prefix_index *x, uint64_t key)
{
    return &x->buckets[(key >> 32) * x->n_buckets >> 32];
}

static inline struct prefix_bucket *prefix_second_bucket(const struct prefix_index *x, uint64_t key)
{
    return &x->buckets[(key & UINT32_MAX) * x->n_buckets >> 32];
}

/* Always inlined: gcc takes a function that only prefetches for one without effect, and drops its calls. */
__attribute__((always_inline)) static inline void prefix_prefetch(const struct prefix_index *x, uint64_t key)
{
    __builtin_prefetch(prefix_first_bucket(x, key));
    __builtin_prefetch(prefix_second_bucket(x, key));
}

#endif
