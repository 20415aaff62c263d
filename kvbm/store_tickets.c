/* Tickets are opened, hold what is in memory, and are closed. */
#include <stdlib.h>
#include <string.h>

#include "kvbm/store_internal.h"

struct ticket *store_ticket_at(const struct store *store, uint64_t id)
{
    const uint32_t at = (uint32_t)id;
    if (at >= store->options.max_tickets)
        return NULL;
    struct ticket *t = &store->tickets[at];
    return t->open && t->generation == (uint32_t)(id >> 32) ? t : NULL;
}

uint64_t store_ticket_id(const struct store *store, const struct ticket *t)
{
    return (uint64_t)t->generation << 32 | (uint32_t)(t - store->tickets);
}

void store_ticket_hold(struct store *store, uint32_t slot)
{
    block_pool_hold(store->pool, slot, BLOCK_OF_TRANSFER);
    store->n_held++;
}

static void release(struct store *store, uint32_t slot)
{
    store->n_held--;
    block_pool_release(store->pool, slot, BLOCK_OF_TRANSFER);
}

void store_ticket_cut(struct store *store, struct ticket *t, uint32_t end, status outcome)
{
    while (t->issued > end)
        release(store, store_ticket_block(t, --t->issued)->slot);
    t->end = end;
    t->outcome = outcome;
}

void store_ticket_end(struct store *store, struct ticket *t)
{
    t->told = true;
    store_ticket_cut(store, t, t->first, ST_CANCELLED);
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
        *store_ticket_block(t, i - 1) = (struct ticket_block){ slot, STORE_HOST };
        store_ticket_hold(store, slot);
    }
    t->issued = host > t->first ? host : t->first;
    t->anchor = host >= t->first ? slot : NO_SLOT;
    if (t->anchor != NO_SLOT)
        store_ticket_hold(store, t->anchor);
}

/* What is coming is not used yet. */
static void touch_run(struct store *store, uint32_t n, uint32_t last)
{
    for (; n; n--, last = store->slots[last].parent)
        if (block_pool_state(store->pool, last) == BLOCK_REGISTERED)
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

/* *last: the slot of the last block in memory; with await_coming, of the last one that is coming. */
static struct store_found find_with_last(struct store *store, const struct store_chain *chain, bool await_coming,
                                         uint32_t *last)
{
    struct store_found found = { 0, 0, 0 };
    *last = NO_SLOT;
    if (store_wipe_covers(store, chain->salt))
        return found;
    found.host = store_match(store, chain, last);
    found.disk = run_on_disk(store, chain, found.host);
    uint32_t end = *last;
    found.coming = found.disk ? 0 : store_match_coming(store, chain, found.host, &end);
    if (await_coming)
        *last = end;
    return found;
}

struct store_found store_find(struct store *store, const struct store_chain *chain)
{
    uint32_t last;
    return find_with_last(store, chain, false, &last);
}

static status start(struct store *store, struct ticket *t, const struct store_request *request,
                    struct store_found *found)
{
    const struct store_chain *chain = &request->chain;
    uint32_t last;
    *found = find_with_last(store, chain, request->await_coming, &last);
    if (request->await_coming) /* held like those that are there, and ready later */
        found->host += found->coming;
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
    store->count.asked += request->chain.n_blocks - request->first;
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
    *ticket = store_ticket_id(store, t);
    *promised = found;
    return ST_OK;
}

void store_close(struct store *store, uint64_t id)
{
    struct ticket *t = store_ticket_at(store, id);
    if (t)
        store_ticket_end(store, t);
}

bool store_renew(struct store *store, uint64_t id, uint64_t deadline_us)
{
    struct ticket *t = store_ticket_at(store, id);
    if (t)
        t->deadline_us = bounded(store, deadline_us);
    return t != NULL;
}

void store_tickets_close_all(struct store *store)
{
    for (uint32_t i = 0; store->tickets && i < store->options.max_tickets; i++)
        if (store->tickets[i].open)
            store_ticket_end(store, &store->tickets[i]);
}

void store_tickets_wiped(struct store *store)
{
    for (uint32_t i = 0; i < store->options.max_tickets; i++) {
        struct ticket *t = &store->tickets[i];
        if (!t->open || !store_wipe_covers(store, t->salt))
            continue;
        if (t->delivered < t->end)
            store_ticket_cut(store, t, t->delivered, ST_CANCELLED);
        explicit_bzero(t->hashes, t->memory_bytes - (size_t)((uint8_t *)t->hashes - (uint8_t *)t->memory));
    }
}
