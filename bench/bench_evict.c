#include "bench/bench_evict.h"

#include <stdlib.h>

struct cache {
    struct eviction *eviction;
    uint32_t *slot_of; /* [n_ids]; EVICTION_NONE: not here */
    uint32_t *id_of;   /* [capacity] */
    uint32_t capacity, used;
};

static void cache_close(struct cache *c)
{
    eviction_destroy(&c->eviction);
    free(c->slot_of);
    free(c->id_of);
}

static status cache_open(struct cache *c, const struct trace *trace, const struct eviction_options *options)
{
    *c = (struct cache){ .capacity = options->capacity };
    c->slot_of = malloc(trace->n_ids * sizeof *c->slot_of);
    c->id_of = malloc(options->capacity * sizeof *c->id_of);
    if (!c->slot_of || !c->id_of || eviction_create(options, &c->eviction) != ST_OK) {
        cache_close(c);
        return ST_NO_MEMORY;
    }
    for (uint32_t i = 0; i < trace->n_ids; i++)
        c->slot_of[i] = EVICTION_NONE;
    return ST_OK;
}

static uint32_t free_slot(struct cache *c)
{
    if (c->used < c->capacity)
        return c->used++;
    uint32_t slot = eviction_choose(c->eviction);
    if (slot != EVICTION_NONE)
        c->slot_of[c->id_of[slot]] = EVICTION_NONE;
    return slot;
}

static uint32_t leading_run(const struct cache *c, const uint32_t *ids, size_t n)
{
    uint32_t run = 0;
    while (run < n && c->slot_of[ids[run]] != EVICTION_NONE)
        run++;
    return run;
}

/* Ids are numbered as they appear; as hashes they must be spread. */
static uint64_t hash_of(uint32_t id)
{
    return (id + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15);
}

/* Uses what is there, computes what is missing while there is room, and lets all of it go at the end. */
static uint32_t serve(struct cache *c, const uint32_t *ids, size_t n)
{
    uint32_t run = leading_run(c, ids, n), parent = EVICTION_NONE;
    size_t served = 0;
    for (; served < n; served++) {
        uint32_t slot = c->slot_of[ids[served]];
        if (slot != EVICTION_NONE) {
            eviction_hit(c->eviction, slot);
        } else {
            slot = free_slot(c);
            if (slot == EVICTION_NONE)
                break;
            c->slot_of[ids[served]] = slot;
            c->id_of[slot] = ids[served];
            eviction_add(c->eviction, slot, hash_of(ids[served]), parent);
        }
        eviction_pin(c->eviction, slot);
        parent = slot;
    }
    for (size_t i = 0; i < served; i++)
        eviction_unpin(c->eviction, c->slot_of[ids[i]]);
    return run;
}

status bench_evict(const struct trace *trace, const struct eviction_options *options, uint32_t hits[],
                   struct bench_evict_result *out)
{
    struct cache cache;
    struct bench_evict_result result = { .blocks = trace->n_blocks };
    status st = cache_open(&cache, trace, options);
    if (st != ST_OK)
        return st;
    for (size_t r = 0, first = 0; r < trace->n_requests; first = trace->ends[r++]) {
        uint32_t run = serve(&cache, trace->blocks + first, trace->ends[r] - first);
        if (hits)
            hits[r] = run;
        result.hits += run;
    }
    cache_close(&cache);
    *out = result;
    return ST_OK;
}
