/* Getting: blocks are held for a borrower, in order, those on disk as they are read. */
#include <stdlib.h>
#include <string.h>

#include "kvbm/store_internal.h"

#define TICKET_WINDOW 8u  /* blocks of one ticket that are read ahead of what is ready */
#define READY_BATCH   64u /* blocks told of in one call */

static struct ticket *ticket_at(const struct store *store, uint64_t id)
{
    const uint32_t at = (uint32_t)id;
    if (at >= store->options.max_tickets)
        return NULL;
    struct ticket *t = &store->tickets[at];
    return t->open && t->generation == (uint32_t)(id >> 32) ? t : NULL;
}

static uint64_t id_of(const struct store *store, const struct ticket *t)
{
    return (uint64_t)t->generation << 32 | (uint32_t)(t - store->tickets);
}

static struct ticket_block *block_at(const struct ticket *t, uint32_t i)
{
    return &t->blocks[i - t->first];
}

static struct store_name name_at(const struct store *store, const struct ticket *t, uint32_t i)
{
    return (struct store_name){ t->format,
                                t->salt,
                                t->seed,
                                t->hashes[i - t->base + 1],
                                t->hashes[i - t->base],
                                t->tokens + (size_t)(i - t->base) * store->options.block_tokens };
}

static void hold(struct store *store, uint32_t slot)
{
    block_pool_hold(store->pool, slot, BLOCK_OF_TRANSFER);
    store->n_held++;
}

static void release(struct store *store, uint32_t slot)
{
    store->n_held--;
    block_pool_release(store->pool, slot, BLOCK_OF_TRANSFER);
}

/* ---- opened and closed ------------------------------------------------------------------------------------- */

/* Nothing of it is read or told of any more from block `end` on. */
static void cut(struct store *store, struct ticket *t, uint32_t end, status outcome)
{
    while (t->issued > end)
        release(store, block_at(t, --t->issued)->slot);
    t->end = end;
    t->outcome = outcome;
}

static void end_ticket(struct store *store, struct ticket *t)
{
    t->told = true;
    cut(store, t, t->first, ST_CANCELLED);
    if (t->anchor != NO_SLOT)
        release(store, t->anchor);
    explicit_bzero(t->memory, t->memory_bytes); /* tokens are the salt's own */
    free(t->memory);
    t->memory = NULL;
    t->open = false;
    t->generation++;
    store->n_tickets--;
}

static struct ticket *free_ticket(struct store *store)
{
    for (uint32_t i = 0; i < store->options.max_tickets; i++)
        if (!store->tickets[i].open)
            return &store->tickets[i];
    return NULL;
}

static uint32_t at_most(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Room for what it keeps of the chain: of blocks that are in memory, nothing. */
static status allocate(const struct store *store, struct ticket *t)
{
    const size_t n = t->end - t->first, named = t->end - t->base;
    const size_t hashes = n * sizeof *t->blocks, tokens = hashes + (named + 1) * sizeof *t->hashes;
    _Static_assert(sizeof *t->blocks % _Alignof(struct block_hash) == 0, "hashes stand behind blocks");
    t->memory_bytes = tokens + named * store->options.block_tokens * sizeof *t->tokens;
    t->memory = malloc(t->memory_bytes);
    if (!t->memory)
        return ST_NO_MEMORY;
    t->blocks = t->memory;
    t->hashes = (void *)((uint8_t *)t->memory + hashes);
    t->tokens = (void *)((uint8_t *)t->memory + tokens);
    return ST_OK;
}

static void copy_chain(const struct store *store, struct ticket *t, const struct store_chain *chain)
{
    const size_t named = t->end - t->base;
    t->hashes[0] = t->base ? chain->hashes[t->base - 1] : chain->seed;
    if (!named)
        return;
    memcpy(t->hashes + 1, chain->hashes + t->base, named * sizeof *t->hashes);
    memcpy(t->tokens, chain->tokens + (size_t)t->base * store->options.block_tokens,
           named * store->options.block_tokens * sizeof *t->tokens);
}

/* Holds blocks [first, host), the last of which is `last`, and the one before first. */
static void hold_run(struct store *store, struct ticket *t, uint32_t host, uint32_t last)
{
    uint32_t slot = last;
    for (uint32_t i = host; i > t->first; i--, slot = store->slots[slot].parent) {
        *block_at(t, i - 1) = (struct ticket_block){ slot, STORE_HOST };
        hold(store, slot);
    }
    t->issued = host > t->first ? host : t->first;
    t->anchor = host >= t->first ? slot : NO_SLOT;
    if (t->anchor != NO_SLOT)
        hold(store, t->anchor);
}

static void touch_run(struct store *store, uint32_t n, uint32_t last)
{
    for (; n; n--, last = store->slots[last].parent)
        block_pool_used(store->pool, last);
}

/* The digest of the block before the first one that has to be read: from memory as far as it goes. */
static void begin_digest(const struct store *store, struct ticket *t, const struct store_chain *chain, uint32_t host,
                         uint32_t last)
{
    if (host)
        t->digest = store->slots[last].digest;
    for (uint32_t i = host; i < t->base; i++) {
        const struct store_name name = store_name_of(store, chain, i);
        store_digest_next(store, i ? &t->digest : NULL, &name, &t->digest);
    }
}

static uint32_t run_on_disk(struct store *store, const struct store_chain *chain, uint32_t host)
{
    uint32_t n = host;
    for (; n < chain->n_blocks; n++) {
        const struct store_name name = store_name_of(store, chain, n);
        if (!store_disk_has(store, &name))
            break;
    }
    return n - host;
}

static struct store_found find_with_last(struct store *store, const struct store_chain *chain, uint32_t *last)
{
    struct store_found found = { 0, 0 };
    *last = NO_SLOT;
    if (store_wipe_covers(store, chain->salt))
        return found;
    found.host = store_match(store, chain, last);
    found.disk = run_on_disk(store, chain, found.host);
    return found;
}

struct store_found store_find(struct store *store, const struct store_chain *chain)
{
    uint32_t last;
    return find_with_last(store, chain, &last);
}

static status start(struct store *store, struct ticket *t, const struct store_request *request,
                    struct store_found *found)
{
    const struct store_chain *chain = &request->chain;
    uint32_t last;
    *found = find_with_last(store, chain, &last);
    const uint32_t most = at_most(chain->n_blocks - request->first, store->options.max_ticket_blocks);
    t->first = t->delivered = request->first;
    t->end = at_most(found->host + found->disk, request->first + most);
    if (t->end <= t->first)
        return ST_NOT_FOUND;
    t->base = found->host > t->first ? at_most(found->host, t->end) : t->first;
    if (allocate(store, t) != ST_OK)
        return ST_NO_MEMORY;
    t->format = chain->format;
    t->salt = chain->salt;
    t->seed = chain->seed;
    copy_chain(store, t, chain);
    touch_run(store, found->host, last);
    begin_digest(store, t, chain, found->host, last);
    for (; found->host > t->end; found->host--)
        last = store->slots[last].parent;
    found->disk = t->end - found->host;
    hold_run(store, t, found->host, last);
    return ST_OK;
}

static uint64_t bounded(const struct store *store, uint64_t deadline_us)
{
    const uint64_t latest = store_now(store) + store->options.ticket_us;
    return deadline_us < latest ? deadline_us : latest;
}

status store_open(struct store *store, const struct store_request *request, uint64_t *ticket,
                  struct store_found *promised)
{
    struct store_found found;
    ASSERT(request->first <= request->chain.n_blocks && request->reader->ready);
    if (store_wipe_covers(store, request->chain.salt))
        return ST_CANCELLED;
    if (request->deadline_us <= store_now(store))
        return ST_TIMEOUT;
    struct ticket *t = free_ticket(store);
    if (!t) {
        store->count.tickets_refused++;
        return ST_AGAIN;
    }
    const uint32_t generation = t->generation;
    *t = (struct ticket){ .generation = generation, .reader = *request->reader };
    status st = start(store, t, request, &found);
    if (st != ST_OK)
        return st;
    t->deadline_us = bounded(store, request->deadline_us);
    t->open = true;
    store->n_tickets++;
    store->count.tickets++;
    store->work_left = true;
    *ticket = id_of(store, t);
    *promised = found;
    return ST_OK;
}

void store_close(struct store *store, uint64_t id)
{
    struct ticket *t = ticket_at(store, id);
    if (t)
        end_ticket(store, t);
}

bool store_renew(struct store *store, uint64_t id, uint64_t deadline_us)
{
    struct ticket *t = ticket_at(store, id);
    if (t)
        t->deadline_us = bounded(store, deadline_us);
    return t != NULL;
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
    *parent = i > t->first ? block_at(t, i - 1)->slot : t->anchor;
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
    hold(store, slot);
    if (block_pool_state(store->pool, slot) == BLOCK_REGISTERED)
        block_pool_used(store->pool, slot);
    t->digest = store->slots[slot].digest;
    *block_at(t, t->issued++) = (struct ticket_block){ slot, from };
    return ST_OK;
}

/* A disk that has no place for a read during as long as a read may take is as good as one that does not answer. */
static status stalled(struct store *store, struct ticket *t)
{
    const uint64_t now = store_now(store);
    if (t->issued > t->delivered)
        return ST_AGAIN; /* what is on its way ends in time */
    if (!t->stalled_us)
        t->stalled_us = now + store->options.read_us;
    return now >= t->stalled_us ? ST_TIMEOUT : ST_AGAIN;
}

static void issue_some(struct store *store, struct ticket *t)
{
    while (t->issued < t->end && t->issued - t->delivered < TICKET_WINDOW) {
        status st = issue(store, t);
        if (st == ST_OK) {
            t->stalled_us = 0;
            continue;
        }
        if (st == ST_AGAIN)
            st = stalled(store, t);
        if (st == ST_AGAIN)
            return;
        cut(store, t, t->issued, st);
    }
}

/* ---- ready ------------------------------------------------------------------------------------------------------ */

/* Of a block in memory that is about to be lent. */
static bool verify(struct store *store, const struct ticket_block *block, uint64_t *budget)
{
    if (!store->options.verify_host || block->from != STORE_HOST)
        return true;
    *budget -= *budget < store->options.slot_bytes ? *budget : store->options.slot_bytes;
    if (store_slot_intact(store, block->slot))
        return true;
    store->count.damaged_host++;
    if (store->slots[block->slot].indexed)
        store_slots_drop(store, block->slot, STORE_REMOVED_DAMAGED, STORE_REMOVED_BEHIND);
    return false;
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
        const struct ticket_block *block = block_at(t, t->delivered + n);
        if (store->slots[block->slot].failed) {
            cut(store, t, t->delivered + n, (status)store->slots[block->slot].failed);
            break;
        }
        if (!store_slot_has_data(store, block->slot))
            break;
        if (!verify(store, block, budget)) {
            cut(store, t, t->delivered + n, ST_CORRUPT);
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
    const uint64_t id = id_of(store, t);
    struct store_lent lent[READY_BATCH];
    issue_some(store, t);
    const uint32_t n = collect(store, t, lent, budget), first = t->delivered;
    if (n) {
        t->delivered += n;
        count_hits(store, lent, n);
        t->reader.ready(t->reader.ctx, id, first, lent, n);
        return ticket_at(store, id) == t;
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
    const uint64_t id = id_of(store, t);
    const struct store_reader reader = t->reader;
    store->count.tickets_over++;
    end_ticket(store, t);
    if (reader.over)
        reader.over(reader.ctx, id);
}

void store_tickets_run(struct store *store)
{
    uint64_t budget = STORE_WORK_BYTES;
    const uint64_t now = store_now(store);
    for (uint32_t i = 0; i < store->options.max_tickets && store->n_tickets; i++) {
        struct ticket *t = &store->tickets[i];
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

void store_tickets_close_all(struct store *store)
{
    for (uint32_t i = 0; store->tickets && i < store->options.max_tickets; i++)
        if (store->tickets[i].open)
            end_ticket(store, &store->tickets[i]);
}

void store_tickets_wiped(struct store *store)
{
    for (uint32_t i = 0; i < store->options.max_tickets; i++) {
        struct ticket *t = &store->tickets[i];
        if (!t->open || !store_wipe_covers(store, t->salt))
            continue;
        if (t->delivered < t->end)
            cut(store, t, t->delivered, ST_CANCELLED);
        explicit_bzero(t->hashes, t->memory_bytes - (size_t)((uint8_t *)t->hashes - (uint8_t *)t->memory));
    }
}
