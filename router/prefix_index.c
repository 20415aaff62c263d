#include "router/prefix_index.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "router/prefix_table.h"

#define LOAD_PERCENT 75u /* of the slots, at which max_blocks are held; beyond it blocks are moved more and more */
#define EPOCHS       (1u << (32 - OWNERS_BITS))
#define AHEAD        8u /* blocks whose buckets are fetched while others are worked on */
#define SWEEP_FULL   (1u << 20)

/* --- versions --- */

static void begin_change(struct prefix_bucket *b)
{
    uint32_t version = atomic_load_explicit(&b->version, memory_order_relaxed);
    atomic_store_explicit(&b->version, version + 1, memory_order_relaxed);
}

static void end_change(struct prefix_bucket *b)
{
    uint32_t version = atomic_load_explicit(&b->version, memory_order_relaxed);
    atomic_store_explicit(&b->version, version + 1, memory_order_release);
}

static uint64_t key_at(const struct prefix_bucket *b, unsigned i)
{
    return atomic_load_explicit(&b->keys[i], memory_order_relaxed);
}

static uint32_t owners_at(const struct prefix_bucket *b, unsigned i)
{
    return atomic_load_explicit(&b->owners[i], memory_order_relaxed);
}

static void set_slot(struct prefix_bucket *b, unsigned i, uint64_t key, uint32_t owners)
{
    begin_change(b);
    atomic_store_explicit(&b->keys[i], key, memory_order_release);
    atomic_store_explicit(&b->owners[i], owners, memory_order_release);
    end_change(b);
}

/* --- life --- */

static status divide_memory(struct prefix_index *x, const struct prefix_index_options *o)
{
    x->max_blocks = o->max_bytes / PREFIX_BYTES_A_BLOCK;
    x->n_buckets = (uint32_t)(x->max_blocks * 100 / (PREFIX_BUCKET_BLOCKS * LOAD_PERCENT)) + 2;
    size_t buckets = x->n_buckets * sizeof *x->buckets;
    /* Cleared workers keep their slot until the sweep is done, so there are twice as many as workers. */
    x->n_slots = 2 * o->max_workers;
    size_t slots = x->n_slots * (sizeof *x->slot_worker + sizeof *x->slot_gone + sizeof *x->slot_state) +
                   o->max_workers * sizeof *x->worker_slot + sizeof *x;
    if (buckets + slots > o->max_bytes)
        return ST_LIMIT;
    x->bytes = buckets + slots;
    return owner_sets_init(&x->sets, o->max_bytes - x->bytes, x->n_slots);
}

/* Zeroed. In huge pages a lookup misses only the caches. */
static struct prefix_bucket *map_buckets(uint32_t n, bool huge_pages)
{
    size_t bytes = n * sizeof(struct prefix_bucket);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    madvise(memory, bytes, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return memory;
}

static status create_parts(struct prefix_index *x, const struct prefix_index_options *o, struct error *err)
{
    status st = divide_memory(x, o);
    if (st == ST_LIMIT)
        return error_set(err, ST_INVALID, "a prefix index of %zu bytes is too small for %u workers", o->max_bytes,
                         o->max_workers);
    x->buckets = map_buckets(x->n_buckets, o->huge_pages);
    x->slot_worker = calloc(x->n_slots, sizeof *x->slot_worker);
    x->slot_gone = calloc(x->n_slots, sizeof *x->slot_gone);
    x->slot_state = calloc(x->n_slots, sizeof *x->slot_state);
    x->worker_slot = calloc(o->max_workers, sizeof *x->worker_slot);
    if (st != ST_OK || !x->buckets || !x->slot_worker || !x->slot_gone || !x->slot_state || !x->worker_slot)
        return error_set(err, ST_NO_MEMORY, "no memory for a prefix index of %zu bytes", o->max_bytes);
    x->bytes += x->sets.bytes;
    for (uint32_t i = 0; i < o->max_workers; i++) {
        x->worker_slot[i] = (uint16_t)i;
        x->slot_state[i] = SLOT_IN_USE;
    }
    for (uint32_t i = 0; i < x->n_slots; i++)
        atomic_init(&x->slot_worker[i], i < o->max_workers ? i : PREFIX_NO_WORKER);
    return ST_OK;
}

status prefix_index_create(const struct prefix_index_options *o, struct prefix_index **out, struct error *err)
{
    if (!o->max_workers || o->max_workers > PREFIX_MAX_WORKERS)
        return error_set(err, ST_INVALID, "a prefix index for %u workers; 1 to %u are possible", o->max_workers,
                         PREFIX_MAX_WORKERS);
    struct prefix_index *x = calloc(1, sizeof *x);
    if (!x)
        return error_set(err, ST_NO_MEMORY, "no memory for a prefix index");
    x->max_workers = o->max_workers;
    status st = create_parts(x, o, err);
    if (st == ST_OK)
        *out = x;
    else
        prefix_index_destroy(&x);
    return st;
}

void prefix_index_destroy(struct prefix_index **index)
{
    struct prefix_index *x = *index;
    *index = NULL;
    if (!x)
        return;
    if (x->buckets)
        munmap(x->buckets, x->n_buckets * sizeof *x->buckets);
    owner_sets_free(&x->sets);
    free(x->slot_worker);
    free(x->slot_gone);
    free(x->slot_state);
    free(x->worker_slot);
    free(x);
}

void prefix_index_stats(const struct prefix_index *x, struct prefix_index_stats *out)
{
    *out = x->stats;
    out->sets = x->sets.n_sets;
    out->bytes = x->bytes;
    out->max_blocks = x->max_blocks;
}

/* --- where blocks lie --- */

struct place {
    struct prefix_bucket *bucket; /* NULL: nowhere */
    unsigned i;
};

static bool find_in(struct prefix_bucket *b, uint64_t key, struct place *out)
{
    for (unsigned i = 0; i < PREFIX_BUCKET_BLOCKS; i++)
        if (key_at(b, i) == key) {
            *out = (struct place){ b, i };
            return true;
        }
    return false;
}

static bool find(struct prefix_index *x, uint64_t key, struct place *out)
{
    return find_in(prefix_first_bucket(x, key), key, out) || find_in(prefix_second_bucket(x, key), key, out);
}

static struct prefix_bucket *other_bucket(struct prefix_index *x, uint64_t key, const struct prefix_bucket *b)
{
    struct prefix_bucket *first = prefix_first_bucket(x, key);
    return first == b ? prefix_second_bucket(x, key) : first;
}

static void drop(struct prefix_index *x, struct place p)
{
    uint32_t owners = owners_at(p.bucket, p.i);
    set_slot(p.bucket, p.i, 0, OWNERS_NOBODY);
    owner_sets_release(&x->sets, prefix_ref(owners));
    x->stats.blocks--;
}

/* The block there without owners that are gone; it is dropped when it has no other. */
static void forget_gone(struct prefix_index *x, struct place p)
{
    uint32_t owners = owners_at(p.bucket, p.i);
    owners_ref before = prefix_ref(owners), after;
    if (!owner_sets_strip(&x->sets, before, x->slot_gone, &after)) {
        x->stats.not_kept++;
        after = OWNERS_NOBODY;
    }
    if (!after) {
        drop(x, p);
    } else if (after != before) {
        owner_sets_hold(&x->sets, after);
        set_slot(p.bucket, p.i, key_at(p.bucket, p.i), after | (owners & ~((1u << OWNERS_BITS) - 1)));
        owner_sets_release(&x->sets, before);
    }
}

/* Frees slot i of b by moving its block to where it may lie as well: first there, then not here any more, so that
 * a reader who looks in both buckets, and again where the first has changed, finds it. */
static bool move_away(struct prefix_index *x, struct prefix_bucket *b, unsigned i)
{
    struct place free_place;
    uint64_t key = key_at(b, i);
    struct prefix_bucket *other = other_bucket(x, key, b);
    if (other == b || !find_in(other, 0, &free_place))
        return false;
    if (x->n_gone) /* the sweep may have passed where it goes, and not where it is */
        forget_gone(x, (struct place){ b, i });
    if (!key_at(b, i))
        return true;
    set_slot(other, free_place.i, key, owners_at(b, i));
    set_slot(b, i, 0, OWNERS_NOBODY);
    x->stats.moved++;
    return true;
}

static uint32_t age_of(const struct prefix_index *x, uint32_t owners)
{
    uint32_t age = (x->epoch - (owners >> OWNERS_BITS)) & (EPOCHS - 1);
    return owners & OWNERS_ARE_SET ? age : age + EPOCHS; /* what has one owner goes first */
}

static struct place oldest(struct prefix_index *x, struct prefix_bucket *const both[2])
{
    struct place best = { both[0], 0 };
    uint32_t best_age = 0;
    for (unsigned k = 0; k < 2; k++)
        for (unsigned i = 0; i < PREFIX_BUCKET_BLOCKS; i++) {
            uint32_t age = age_of(x, owners_at(both[k], i));
            if (age > best_age) {
                best = (struct place){ both[k], i };
                best_age = age;
            }
        }
    return best;
}

static unsigned count_free(const struct prefix_bucket *b)
{
    unsigned n = 0;
    for (unsigned i = 0; i < PREFIX_BUCKET_BLOCKS; i++)
        n += !key_at(b, i);
    return n;
}

/* The emptier one of the two is taken, so that both are full only when nearly all are. */
static struct place make_room(struct prefix_index *x, uint64_t key)
{
    struct prefix_bucket *both[2] = { prefix_first_bucket(x, key), prefix_second_bucket(x, key) };
    struct place p;
    if (find_in(both[count_free(both[1]) > count_free(both[0])], 0, &p))
        return p;
    for (unsigned k = 0; k < 2; k++)
        for (unsigned i = 0; i < PREFIX_BUCKET_BLOCKS; i++)
            if (move_away(x, both[k], i))
                return (struct place){ both[k], i };
    p = oldest(x, both);
    drop(x, p);
    x->stats.evicted++;
    return p;
}

/* --- storing and removing --- */

/* Neighbours in a chain mostly have the same owners before and after. What the last change of owners was is kept, and
 * both are held meanwhile. */
struct memo {
    bool set;
    owners_ref before, after;
};

static void memo_keep(struct prefix_index *x, struct memo *m, owners_ref before, owners_ref after)
{
    owner_sets_hold(&x->sets, before);
    owner_sets_hold(&x->sets, after);
    if (m->set) {
        owner_sets_release(&x->sets, m->before);
        owner_sets_release(&x->sets, m->after);
    }
    *m = (struct memo){ true, before, after };
}

static void memo_drop(struct prefix_index *x, struct memo *m)
{
    if (!m->set)
        return;
    owner_sets_release(&x->sets, m->before);
    owner_sets_release(&x->sets, m->after);
}

struct change {
    uint32_t slot, tier;
    bool (*apply)(struct owner_sets *s, owners_ref ref, uint32_t slot, uint32_t tier, owners_ref *out);
};

static bool changed_owners(struct prefix_index *x, const struct change *c, struct memo *m, owners_ref before,
                           owners_ref *after)
{
    if (m->set && m->before == before) {
        *after = m->after;
        return true;
    }
    if (!c->apply(&x->sets, before, c->slot, c->tier, after))
        return false;
    if ((before | *after) & OWNERS_ARE_SET)
        memo_keep(x, m, before, *after);
    return true;
}

static uint32_t stamped(const struct prefix_index *x, owners_ref ref)
{
    return ref | x->epoch << OWNERS_BITS;
}

static void store_one(struct prefix_index *x, const struct change *c, struct memo *m, uint64_t key)
{
    struct place p;
    bool is_there = find(x, key, &p);
    owners_ref before = is_there ? prefix_ref(owners_at(p.bucket, p.i)) : OWNERS_NOBODY, after = before;
    if (!changed_owners(x, c, m, before, &after))
        x->stats.not_kept++;
    if (!is_there) {
        p = make_room(x, key);
        x->stats.blocks++;
    }
    owner_sets_hold(&x->sets, after);
    set_slot(p.bucket, p.i, key, stamped(x, after));
    owner_sets_release(&x->sets, before);
}

static void remove_one(struct prefix_index *x, const struct change *c, struct memo *m, uint64_t key)
{
    struct place p;
    if (!find(x, key, &p))
        return;
    uint32_t owners = owners_at(p.bucket, p.i);
    owners_ref before = prefix_ref(owners), after;
    if (!changed_owners(x, c, m, before, &after)) {
        x->stats.not_kept++; /* a smaller set cannot be made: rather nobody than somebody who has it no more */
        after = OWNERS_NOBODY;
    }
    if (!after) {
        drop(x, p);
        return;
    }
    if (after == before)
        return;
    owner_sets_hold(&x->sets, after);
    set_slot(p.bucket, p.i, key, after | (owners & ~((1u << OWNERS_BITS) - 1)));
    owner_sets_release(&x->sets, before);
}

/* Time goes on with what is stored: EPOCHS of it are four times what the index holds. */
static void count_stored(struct prefix_index *x, uint32_t n)
{
    x->stats.stored += n;
    x->in_epoch += n;
    if (x->in_epoch < x->max_blocks / (EPOCHS / 4) + 1)
        return;
    x->in_epoch = 0;
    x->epoch = (x->epoch + 1) & (EPOCHS - 1);
}

static struct change change_of(const struct prefix_index *x, uint32_t worker, enum kv_tier tier)
{
    ASSERT(worker < x->max_workers && tier < KV_TIER_COUNT);
    return (struct change){ .slot = x->worker_slot[worker], .tier = tier };
}

/* Called for each block i in turn. */
__attribute__((always_inline)) static inline void fetch_ahead(const struct prefix_index *x,
                                                              const struct block_hash hashes[], uint32_t n, uint32_t i)
{
    if (i + AHEAD < n)
        prefix_prefetch(x, prefix_key(&hashes[i + AHEAD]));
    for (uint32_t k = 0; !i && k < AHEAD && k < n; k++)
        prefix_prefetch(x, prefix_key(&hashes[k]));
}

void prefix_index_store(struct prefix_index *x, uint32_t worker, enum kv_tier tier, const struct block_hash hashes[],
                        uint32_t n)
{
    struct change c = change_of(x, worker, tier);
    struct memo m = { 0 };
    c.apply = owner_sets_add;
    for (uint32_t i = 0; i < n; i++) {
        fetch_ahead(x, hashes, n, i);
        store_one(x, &c, &m, prefix_key(&hashes[i]));
    }
    memo_drop(x, &m);
    count_stored(x, n);
}

void prefix_index_remove(struct prefix_index *x, uint32_t worker, enum kv_tier tier, const struct block_hash hashes[],
                         uint32_t n)
{
    struct change c = change_of(x, worker, tier);
    struct memo m = { 0 };
    c.apply = owner_sets_remove;
    for (uint32_t i = 0; i < n; i++) {
        fetch_ahead(x, hashes, n, i);
        remove_one(x, &c, &m, prefix_key(&hashes[i]));
    }
    memo_drop(x, &m);
    x->stats.removed += n;
}

/* --- workers that are gone --- */

static void sweep_bucket(struct prefix_index *x, struct prefix_bucket *b)
{
    for (unsigned i = 0; i < PREFIX_BUCKET_BLOCKS; i++)
        if (key_at(b, i))
            forget_gone(x, (struct place){ b, i });
}

/* A slot cleared during a turn waits for the next whole one. */
static void end_turn(struct prefix_index *x)
{
    x->swept = 0;
    x->n_gone = 0;
    atomic_fetch_add_explicit(&x->turns, 1, memory_order_release);
    for (uint32_t i = 0; i < x->n_slots; i++) {
        if (x->slot_state[i] == SLOT_SWEPT) {
            x->slot_state[i] = SLOT_FREE;
            x->slot_gone[i] = 0;
        } else if (x->slot_state[i] == SLOT_GONE) {
            x->slot_state[i] = SLOT_SWEPT;
            x->n_gone++;
        }
    }
}

bool prefix_index_sweep(struct prefix_index *x, uint32_t max_blocks)
{
    uint32_t n = max_blocks / PREFIX_BUCKET_BLOCKS + 1;
    while (x->n_gone && n--) {
        sweep_bucket(x, &x->buckets[x->swept]);
        if (++x->swept == x->n_buckets)
            end_turn(x);
    }
    return x->n_gone > 0;
}

static uint32_t free_slot(struct prefix_index *x)
{
    for (;;) {
        for (uint32_t i = 0; i < x->n_slots; i++) {
            uint32_t slot = (x->next_slot + i) % x->n_slots;
            if (x->slot_state[slot] == SLOT_FREE) {
                x->next_slot = slot + 1;
                return slot;
            }
        }
        prefix_index_sweep(x, SWEEP_FULL);
    }
}

void prefix_index_clear(struct prefix_index *x, uint32_t worker)
{
    ASSERT(worker < x->max_workers);
    uint32_t old = x->worker_slot[worker], fresh = free_slot(x);
    atomic_store_explicit(&x->slot_worker[old], PREFIX_NO_WORKER, memory_order_release);
    atomic_store_explicit(&x->slot_worker[fresh], worker, memory_order_release);
    x->slot_state[fresh] = SLOT_IN_USE;
    x->worker_slot[worker] = (uint16_t)fresh;
    x->slot_gone[old] = 1;
    /* What has begun sweeping was not yet looking for it, unless the turn is just about to begin. */
    x->slot_state[old] = x->swept ? SLOT_GONE : SLOT_SWEPT;
    x->n_gone++;
}
