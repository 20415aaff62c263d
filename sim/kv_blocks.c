#include "sim/kv_blocks.h"

#include <stdlib.h>
#include <string.h>

#define NONE EVICTION_NONE

struct slot {
    uint32_t key, holds;
};

struct kv_blocks {
    struct kv_blocks_options options;
    struct eviction *eviction;
    struct slot *slots; /* [capacity] */
    uint32_t *unused;   /* [capacity]: slots, n_unused of them */
    uint32_t *table;    /* [mask + 1]: slot + 1, 0: empty; linear probing */
    uint32_t mask, n_unused;
    uint32_t others; /* blocks without a key */
    struct kv_blocks_counters counters;
};

/* ---- room ----------------------------------------------------------------------------------------------------- */

/* Slots are as many as blocks, so a block without a key leaves one of them over. */
static uint32_t never_used(const struct kv_blocks *b)
{
    return b->n_unused - b->others;
}

uint32_t kv_blocks_free(const struct kv_blocks *b)
{
    return never_used(b) + eviction_evictable(b->eviction);
}

static void tell_free(const struct kv_blocks *b)
{
    if (b->options.free_blocks)
        *b->options.free_blocks = kv_blocks_free(b);
}

/* ---- life ---------------------------------------------------------------------------------------------- */

static status reset(struct kv_blocks *b)
{
    const struct eviction_options options = { b->options.policy, b->options.capacity, true };
    eviction_destroy(&b->eviction);
    memset(b->table, 0, ((size_t)b->mask + 1) * sizeof *b->table);
    b->n_unused = b->options.capacity;
    for (uint32_t i = 0; i < b->n_unused; i++)
        b->unused[i] = b->n_unused - 1 - i;
    b->others = 0;
    status st = eviction_create(&options, &b->eviction);
    if (st == ST_OK)
        tell_free(b);
    return st;
}

status kv_blocks_create(const struct kv_blocks_options *options, struct kv_blocks **out)
{
    struct kv_blocks *b = calloc(1, sizeof *b);
    if (!b)
        return ST_NO_MEMORY;
    b->options = *options;
    b->mask = 1;
    while (b->mask < 2 * (uint64_t)options->capacity)
        b->mask = 2 * b->mask + 1;
    b->slots = calloc(options->capacity, sizeof *b->slots);
    b->unused = calloc(options->capacity, sizeof *b->unused);
    b->table = calloc((size_t)b->mask + 1, sizeof *b->table);
    if (!b->slots || !b->unused || !b->table || reset(b) != ST_OK) {
        kv_blocks_destroy(&b);
        return ST_NO_MEMORY;
    }
    *out = b;
    return ST_OK;
}

void kv_blocks_destroy(struct kv_blocks **blocks)
{
    struct kv_blocks *b = *blocks;
    if (!b)
        return;
    eviction_destroy(&b->eviction);
    free(b->slots);
    free(b->unused);
    free(b->table);
    free(b);
    *blocks = NULL;
}

/* Whoever was told of blocks knows that the worker is gone. Order and ghosts are made anew, which is rare. */
void kv_blocks_forget(struct kv_blocks *b)
{
    ASSERT(reset(b) == ST_OK);
}

const struct kv_blocks_counters *kv_blocks_counters(const struct kv_blocks *b)
{
    return &b->counters;
}

/* ---- the table of keys ------------------------------------------------------------------------------------ */

static uint32_t home_of(const struct kv_blocks *b, uint32_t key)
{
    return (uint32_t)((key + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15) >> 32) & b->mask;
}

static uint32_t find(const struct kv_blocks *b, uint32_t key)
{
    for (uint32_t i = home_of(b, key); b->table[i]; i = (i + 1) & b->mask)
        if (b->slots[b->table[i] - 1].key == key)
            return b->table[i] - 1;
    return NONE;
}

static void enter(struct kv_blocks *b, uint32_t slot)
{
    uint32_t i = home_of(b, b->slots[slot].key);
    while (b->table[i])
        i = (i + 1) & b->mask;
    b->table[i] = slot + 1;
}

/* What stands behind it and would no longer be found moves up. */
static void leave(struct kv_blocks *b, uint32_t slot)
{
    uint32_t hole = home_of(b, b->slots[slot].key);
    while (b->table[hole] != slot + 1)
        hole = (hole + 1) & b->mask;
    for (uint32_t i = (hole + 1) & b->mask; b->table[i]; i = (i + 1) & b->mask) {
        uint32_t home = home_of(b, b->slots[b->table[i] - 1].key);
        if (((i - home) & b->mask) < ((i - hole) & b->mask))
            continue;
        b->table[hole] = b->table[i];
        hole = i;
    }
    b->table[hole] = 0;
}

static void evict_one(struct kv_blocks *b)
{
    uint32_t slot = eviction_choose(b->eviction);
    ASSERT(slot != NONE);
    leave(b, slot);
    b->unused[b->n_unused++] = slot;
    b->counters.evicted++;
    if (b->options.removed)
        b->options.removed(b->options.ctx, b->slots[slot].key);
}

static bool take_others(struct kv_blocks *b, uint32_t n, uint32_t spare, struct kv_hold *hold)
{
    if (kv_blocks_free(b) < (uint64_t)n + spare)
        return false;
    while (never_used(b) < n)
        evict_one(b);
    b->others += n;
    hold->others += n;
    return true;
}

/* ---- holding --------------------------------------------------------------------------------------------------- */

/* A chain is held by its last block: nothing goes before what stands behind it. */
static void pin(struct kv_blocks *b, uint32_t slot)
{
    if (b->slots[slot].holds++ == 0)
        eviction_pin(b->eviction, slot);
}

static void unpin(struct kv_blocks *b, uint32_t slot)
{
    ASSERT(b->slots[slot].holds > 0);
    if (--b->slots[slot].holds == 0)
        eviction_unpin(b->eviction, slot);
}

static void move_pin(struct kv_blocks *b, struct kv_hold *hold, uint32_t slot)
{
    pin(b, slot);
    if (hold->known)
        unpin(b, hold->leaf);
    hold->leaf = slot;
    hold->known++;
}

uint32_t kv_blocks_peek(const struct kv_blocks *b, const uint32_t keys[], uint32_t n)
{
    uint32_t run = 0;
    while (run < n && find(b, keys[run]) != NONE)
        run++;
    return run;
}

bool kv_blocks_take(struct kv_blocks *b, const uint32_t keys[], uint32_t n, uint32_t total, uint32_t spare,
                    struct kv_hold *hold)
{
    uint32_t found = kv_blocks_peek(b, keys, n);
    ASSERT(hold->known == 0 && hold->others == 0 && found <= total);
    if (kv_blocks_free(b) + (uint64_t)found < (uint64_t)total + spare)
        return false; /* not even where all that was found could go otherwise */
    if (found) {
        hold->leaf = find(b, keys[found - 1]);
        hold->known = found;
        pin(b, hold->leaf);
    }
    if (!take_others(b, total - found, spare, hold)) {
        kv_blocks_release(b, hold);
        return false;
    }
    for (uint32_t i = 0; i < found; i++)
        eviction_hit(b->eviction, find(b, keys[i]));
    b->counters.hit += found;
    b->counters.asked += n;
    tell_free(b);
    return true;
}

bool kv_blocks_grow(struct kv_blocks *b, uint32_t more, struct kv_hold *hold)
{
    bool taken = take_others(b, more, 0, hold);
    tell_free(b);
    return taken;
}

static void add(struct kv_blocks *b, uint32_t key, struct kv_hold *hold)
{
    uint32_t slot = b->unused[--b->n_unused], parent = hold->known ? hold->leaf : NONE;
    b->slots[slot] = (struct slot){ .key = key };
    enter(b, slot);
    eviction_add(b->eviction, slot, (key + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15), parent);
    b->counters.stored++;
    move_pin(b, hold, slot);
}

void kv_blocks_filled(struct kv_blocks *b, const uint32_t keys[], uint32_t n, struct kv_hold *hold)
{
    uint32_t first = n;
    while (hold->known < n) {
        uint32_t at = hold->known, slot = find(b, keys[at]);
        ASSERT(hold->others > 0);
        hold->others--;
        b->others--;
        if (slot != NONE) {
            move_pin(b, hold, slot);
            continue;
        }
        add(b, keys[at], hold);
        first = at < first ? at : first;
    }
    if (first < n && b->options.stored)
        b->options.stored(b->options.ctx, keys + first, n - first);
    tell_free(b);
}

void kv_blocks_release(struct kv_blocks *b, struct kv_hold *hold)
{
    if (hold->known)
        unpin(b, hold->leaf);
    b->others -= hold->others;
    *hold = (struct kv_hold){ 0 };
    tell_free(b);
}
