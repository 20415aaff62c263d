/* The blocks of tickets become ready, in order: those in memory once they are verified, those on disk as they are
 * read. */
#include <stdlib.h>

#include "common/failpoint.h"
#include "kvbm/store_internal.h"

#define MOST_AHEAD  8u  /* blocks of one ticket that are read ahead of what is ready */
#define READY_BATCH 64u /* blocks told of in one call */

static struct store_name name_at(const struct store *store, const struct ticket *t, uint32_t i)
{
    return (struct store_name){ t->format,
                                t->salt,
                                t->seed,
                                t->hashes[i - t->base + 1],
                                t->hashes[i - t->base],
                                t->tokens + (size_t)(i - t->base) * store->options.block_tokens };
}

/* ---- read ---------------------------------------------------------------------------------------------------- */

/* A slot for the block, and its read. ST_AGAIN: the disk is busy. Where the block before it is not in memory it is
 * lent only. */
static status read_block(struct store *store, const struct ticket *t, const struct store_name *name, uint32_t parent,
                         bool indexed, uint32_t *out)
{
    uint32_t slot;
    if (store->n_reads == store->options.max_reads)
        return ST_AGAIN;
    if (!store_disk_has(store, name))
        return ST_NOT_FOUND;
    if (store_slots_reserve(store, name, parent, indexed, &slot) != STORE_WANTED) {
        store->count.promotion_no_room++;
        return ST_LIMIT;
    }
    store_digest_next(store, t->issued ? &t->digest : NULL, name, &store->slots[slot].digest);
    status st = store_disk_read(store, slot);
    if (st != ST_OK) {
        store_slots_failed(store, slot, st);
        return st;
    }
    *out = slot;
    return ST_OK;
}

/* Whether the block at hand has a place in the index: the one before it has. */
static bool has_parent(const struct store *store, const struct ticket *t, uint32_t *parent)
{
    const uint32_t i = t->issued;
    *parent = i > t->first ? store_ticket_block(t, i - 1)->slot : t->anchor;
    return i == 0 || (*parent != NO_SLOT && store->slots[*parent].indexed);
}

/* Holds the next block, or has it read. ST_AGAIN: not yet; else why the run ends here. */
static status issue(struct store *store, struct ticket *t)
{
    const struct store_name name = name_at(store, t, t->issued);
    uint32_t parent, slot = NO_SLOT;
    bool collides = false;
    const bool indexed = has_parent(store, t, &parent);
    if (indexed)
        slot = store_index_find(store, &name, parent, &collides);
    enum store_tier from = STORE_HOST;
    if (slot == NO_SLOT) {
        const bool kept = indexed && !collides;
        status st = read_block(store, t, &name, kept ? parent : NO_SLOT, kept, &slot);
        if (st != ST_OK)
            return st;
        from = STORE_DISK;
    }
    store_ticket_hold(store, slot);
    if (block_pool_state(store->pool, slot) == BLOCK_REGISTERED)
        block_pool_used(store->pool, slot);
    t->digest = store->slots[slot].digest;
    *store_ticket_block(t, t->issued++) = (struct ticket_block){ slot, from };
    return ST_OK;
}

/* A disk that has no place for a read, and ends none during as long as one may take, is as good as one that does not
 * answer. */
static status stalled(const struct store *store, struct ticket *t)
{
    const uint64_t now = store_now(store);
    if (t->issued > t->delivered)
        return ST_AGAIN; /* what is on its way ends in time */
    if (!t->stalled_us || t->stalled_us < store->read_at_us + store->options.read_us)
        t->stalled_us = now + store->options.read_us;
    return now >= t->stalled_us ? ST_TIMEOUT : ST_AGAIN;
}

/* No ticket has all the reads. */
static uint32_t ahead(const struct store *store)
{
    const uint32_t half = (store->options.max_reads + 1) / 2;
    return half < MOST_AHEAD ? half : MOST_AHEAD;
}

static void issue_some(struct store *store, struct ticket *t)
{
    while (t->issued < t->end && t->issued - t->delivered < ahead(store)) {
        status st = issue(store, t);
        if (st == ST_OK) {
            t->stalled_us = 0;
            continue;
        }
        if (st == ST_AGAIN)
            st = stalled(store, t);
        if (st == ST_AGAIN)
            return;
        store_ticket_cut(store, t, t->issued, st);
    }
}

/* ---- ready ------------------------------------------------------------------------------------------------------ */

/* Of a block in memory that is about to be lent. */
static bool verify(struct store *store, const struct ticket_block *block, uint64_t *budget)
{
    const bool always = store->options.verify_host && block->from == STORE_HOST;
    if (!always && !store->slots[block->slot].is_suspect)
        return true;
    *budget -= *budget < store->options.slot_bytes ? *budget : store->options.slot_bytes;
    return store_look_at(store, block->slot);
}

static void count_hits(struct store *store, const struct store_lent *lent, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct store_tier_stats *tier = &store->count.tiers[lent[i].from];
        tier->hit_blocks++;
        tier->hit_tokens += store->options.block_tokens;
    }
}

/* What is ready now, at most a batch. */
static uint32_t collect(struct store *store, struct ticket *t, struct store_lent lent[], uint64_t *budget)
{
    uint32_t n = 0;
    for (; n < READY_BATCH && t->delivered + n < t->issued && *budget; n++) {
        const struct ticket_block *block = store_ticket_block(t, t->delivered + n);
        if (store->slots[block->slot].failed) {
            store_ticket_cut(store, t, t->delivered + n, (status)store->slots[block->slot].failed);
            break;
        }
        if (!store_slot_has_data(store, block->slot))
            break;
        if (FAILPOINT("store.lend.flip") == FAILPOINT_FLIP)
            store_memory(store, block->slot)[0] ^= 1;
        if (!verify(store, block, budget)) {
            store_ticket_cut(store, t, t->delivered + n, ST_CORRUPT);
            break;
        }
        lent[n] = (struct store_lent){ { block->slot, block_pool_generation(store->pool, block->slot) },
                                       store->slots[block->slot].checksum,
                                       block->from };
    }
    return n;
}

/* False: nothing more for now, or the ticket was closed meanwhile. */
static bool advance(struct store *store, struct ticket *t, uint64_t *budget)
{
    const uint64_t id = store_ticket_id(store, t);
    struct store_lent lent[READY_BATCH];
    issue_some(store, t);
    const uint32_t n = collect(store, t, lent, budget), first = t->delivered;
    if (n) {
        t->delivered += n;
        count_hits(store, lent, n);
        t->reader.ready(t->reader.ctx, id, first, lent, n);
        return store_ticket_at(store, id) == t;
    }
    if (t->delivered == t->end && !t->told) {
        t->told = true;
        if (t->reader.done)
            t->reader.done(t->reader.ctx, id, t->outcome, t->end - t->first);
    }
    return false;
}

static void expire(struct store *store, struct ticket *t)
{
    const uint64_t id = store_ticket_id(store, t);
    const struct store_reader reader = t->reader;
    store->count.tickets_over++;
    store_ticket_end(store, t);
    if (reader.over)
        reader.over(reader.ctx, id);
}

void store_tickets_run(struct store *store)
{
    uint64_t budget = STORE_WORK_BYTES;
    const uint64_t now = store_now(store);
    const uint32_t n = store->options.max_tickets, first = store->first_ticket;
    store->first_ticket = (first + 1) % n;
    for (uint32_t i = 0; i < n && store->n_tickets; i++) {
        struct ticket *t = &store->tickets[(first + i) % n];
        if (!t->open)
            continue;
        if (t->deadline_us <= now) {
            expire(store, t);
            continue;
        }
        while (!t->told && budget && advance(store, t, &budget))
            continue;
    }
    if (!budget)
        store->work_left = true;
}

uint64_t store_tickets_next(const struct store *store)
{
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < store->options.max_tickets; i++) {
        const struct ticket *t = &store->tickets[i];
        if (!t->open)
            continue;
        if (t->deadline_us < next)
            next = t->deadline_us;
        if (t->stalled_us && !t->told && t->stalled_us < next)
            next = t->stalled_us;
    }
    return next;
}
