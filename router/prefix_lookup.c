/* Readers of the prefix index: any number of threads, each with its own prefix_reader. */
#include <stdlib.h>
#include <string.h>

#include "router/prefix_table.h"

#define MAX_CHANGES 1024u /* of owners along one chain; more are kept of the far end only */

/* From block `first` of the chain to block `last` the owners are these. */
struct run {
    uint32_t last;
    uint32_t from, count; /* in entries */
};

struct prefix_reader {
    uint32_t n_slots, capacity;
    owner_entry *entries; /* [capacity] */
    uint32_t *seen;       /* [n_slots]: the lookup that met it last */
    uint32_t lookup;
    struct run runs[MAX_CHANGES];
    uint32_t n_runs, n_entries;
    uint64_t looked_at;
};

status prefix_reader_create(const struct prefix_index *x, struct prefix_reader **out)
{
    struct prefix_reader *r = calloc(1, sizeof *r);
    if (!r)
        return ST_NO_MEMORY;
    r->n_slots = x->n_slots;
    r->capacity = 16 * x->n_slots + 4096;
    r->entries = calloc(r->capacity, sizeof *r->entries);
    r->seen = calloc(r->n_slots, sizeof *r->seen);
    if (!r->entries || !r->seen) {
        prefix_reader_destroy(&r);
        return ST_NO_MEMORY;
    }
    *out = r;
    return ST_OK;
}

void prefix_reader_destroy(struct prefix_reader **reader)
{
    struct prefix_reader *r = *reader;
    *reader = NULL;
    if (!r)
        return;
    free(r->entries);
    free(r->seen);
    free(r);
}

uint64_t prefix_reader_looked_at(const struct prefix_reader *r)
{
    return r->looked_at;
}

/* --- one block --- */

struct found {
    owners_ref ref;
    uint32_t n_entries;
};

enum glance { GLANCE_FOUND, GLANCE_ABSENT, GLANCE_CHANGED };

static uint32_t version_of(const struct prefix_bucket *b)
{
    return atomic_load_explicit(&b->version, memory_order_acquire);
}

/* Copies at most max owners of the block to entries. */
static enum glance glance(const struct prefix_index *x, const struct prefix_bucket *b, uint32_t version, uint64_t key,
                          owner_entry entries[], uint32_t max, struct found *out)
{
    if (version & 1)
        return GLANCE_CHANGED;
    enum glance result = GLANCE_ABSENT;
    for (unsigned i = 0; i < PREFIX_BUCKET_BLOCKS && result == GLANCE_ABSENT; i++) {
        if (atomic_load_explicit(&b->keys[i], memory_order_acquire) != key)
            continue;
        out->ref = prefix_ref(atomic_load_explicit(&b->owners[i], memory_order_acquire));
        out->n_entries = max ? owner_sets_read(&x->sets, out->ref, entries, max) : 0;
        result = GLANCE_FOUND;
    }
    return version_of(b) == version ? result : GLANCE_CHANGED;
}

/* A block that is moved from its second bucket to its first shows in neither to who looks in this order; but then the
 * first has changed. */
static struct found look(const struct prefix_index *x, struct prefix_reader *r, const struct block_hash *hash,
                         owner_entry entries[], uint32_t max)
{
    uint64_t key = prefix_key(hash);
    const struct prefix_bucket *first = prefix_first_bucket(x, key), *second = prefix_second_bucket(x, key);
    r->looked_at++;
    for (int tries = 0; tries < PREFIX_MAX_TRIES; tries++) {
        struct found found = { OWNERS_NOBODY, 0 };
        uint32_t version = version_of(first);
        enum glance seen = glance(x, first, version, key, entries, max, &found);
        if (seen == GLANCE_FOUND)
            return found;
        if (seen == GLANCE_CHANGED)
            continue;
        seen = glance(x, second, version_of(second), key, entries, max, &found);
        if (seen == GLANCE_FOUND || (seen == GLANCE_ABSENT && version_of(first) == version))
            return found;
    }
    return (struct found){ OWNERS_NOBODY, 0 };
}

/* --- the runs of a chain --- */

struct chain {
    const struct prefix_index *x;
    struct prefix_reader *r;
    const struct block_hash *hashes;
    uint32_t n;
};

static void forget_first_run(struct prefix_reader *r)
{
    uint32_t count = r->runs[0].count;
    r->n_runs--;
    memmove(&r->runs[0], &r->runs[1], r->n_runs * sizeof r->runs[0]);
    r->n_entries -= count;
    memmove(&r->entries[0], &r->entries[count], r->n_entries * sizeof r->entries[0]);
    for (uint32_t i = 0; i < r->n_runs; i++)
        r->runs[i].from -= count;
}

static void add_run(const struct chain *c, uint32_t last)
{
    struct prefix_reader *r = c->r;
    while (r->n_runs && (r->n_runs == MAX_CHANGES || r->capacity - r->n_entries < r->n_slots))
        forget_first_run(r);
    struct found found = look(c->x, r, &c->hashes[last], &r->entries[r->n_entries], r->capacity - r->n_entries);
    r->runs[r->n_runs++] = (struct run){ last, r->n_entries, found.n_entries };
    r->n_entries += found.n_entries;
}

/* Adds the runs that end in [low, high). Between two blocks with the same owners nothing changes. */
static void divide(const struct chain *c, uint32_t low, owners_ref at_low, uint32_t high, owners_ref at_high)
{
    if (at_low == at_high || !at_low)
        return;
    if (high == low + 1) {
        add_run(c, low);
        return;
    }
    uint32_t middle = low + (high - low) / 2;
    owners_ref at_middle = look(c->x, c->r, &c->hashes[middle], NULL, 0).ref;
    divide(c, low, at_low, middle, at_middle);
    divide(c, middle, at_middle, high, at_high);
}

/* Steps double, so that a short beginning of a long chain costs little. */
static void find_runs(const struct chain *c)
{
    uint32_t low = 0, step = 1;
    for (uint32_t at = 0; at < c->n; at = 2 * at + 1)
        prefix_prefetch(c->x, prefix_key(&c->hashes[at]));
    owners_ref at_low = look(c->x, c->r, &c->hashes[0], NULL, 0).ref;
    while (at_low && low < c->n - 1) {
        uint32_t high = c->n - 1 - low < step ? c->n - 1 : low + step;
        owners_ref at_high = look(c->x, c->r, &c->hashes[high], NULL, 0).ref;
        divide(c, low, at_low, high, at_high);
        low = high;
        at_low = at_high;
        step *= 2;
    }
    if (at_low)
        add_run(c, low);
}

/* --- workers --- */

/* The owner's entry among those of a run, ascending by slot; 0: none. */
static owner_entry entry_in(const struct prefix_reader *r, const struct run *run, uint32_t slot)
{
    const owner_entry *entries = &r->entries[run->from];
    uint32_t low = 0, high = run->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (owner_slot(entries[middle]) < slot)
            low = middle + 1;
        else
            high = middle;
    }
    return low < run->count && owner_slot(entries[low]) == slot ? entries[low] : 0;
}

/* As far as the owner is in every run, in tiers up to each. */
static void measure(const struct prefix_reader *r, uint32_t slot, struct prefix_match *out)
{
    unsigned least = 0; /* tiers below it ended in an earlier run */
    for (uint32_t i = 0; i < r->n_runs && least < KV_TIER_COUNT; i++) {
        uint32_t tiers = owner_tiers(entry_in(r, &r->runs[i], slot));
        unsigned best = tiers ? (unsigned)__builtin_ctz(tiers) : KV_TIER_COUNT;
        least = best > least ? best : least;
        for (unsigned t = least; t < KV_TIER_COUNT; t++)
            out->blocks[t] = r->runs[i].last + 1;
    }
}

static void sort_by_length(struct prefix_match out[], uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) {
        struct prefix_match m = out[i];
        uint32_t at = i;
        for (; at && out[at - 1].blocks[KV_TIER_COUNT - 1] < m.blocks[KV_TIER_COUNT - 1]; at--)
            out[at] = out[at - 1];
        out[at] = m;
    }
}

static uint32_t add_matches(const struct chain *c, const struct run *run, struct prefix_match out[], uint32_t n,
                            uint32_t max)
{
    struct prefix_reader *r = c->r;
    for (uint32_t i = 0; i < run->count && n < max; i++) {
        uint32_t slot = owner_slot(r->entries[run->from + i]);
        if (slot >= r->n_slots || r->seen[slot] == r->lookup)
            continue;
        r->seen[slot] = r->lookup;
        uint32_t worker = atomic_load_explicit(&c->x->slot_worker[slot], memory_order_acquire);
        if (worker == PREFIX_NO_WORKER)
            continue;
        out[n] = (struct prefix_match){ .worker = worker };
        measure(r, slot, &out[n]);
        n += out[n].blocks[KV_TIER_COUNT - 1] > 0;
    }
    return n;
}

static void next_lookup(struct prefix_reader *r)
{
    r->n_runs = r->n_entries = 0;
    if (++r->lookup)
        return;
    memset(r->seen, 0, r->n_slots * sizeof *r->seen); /* after 2^32 lookups the old marks would mean something again */
    r->lookup = 1;
}

static uint32_t turns_of(const struct prefix_index *x)
{
    return atomic_load_explicit(&x->turns, memory_order_acquire);
}

uint32_t prefix_index_lookup(const struct prefix_index *x, struct prefix_reader *r, const struct block_hash hashes[],
                             uint32_t n, struct prefix_match out[], uint32_t max)
{
    struct chain c = { x, r, hashes, n };
    for (int tries = 0; n && tries < PREFIX_MAX_TRIES; tries++) {
        uint32_t turns = turns_of(x), found = 0;
        next_lookup(r);
        find_runs(&c);
        for (uint32_t i = r->n_runs; i-- && found < max;)
            found = add_matches(&c, &r->runs[i], out, found, max);
        if (turns_of(x) != turns)
            continue;
        sort_by_length(out, found);
        return found;
    }
    return 0;
}
