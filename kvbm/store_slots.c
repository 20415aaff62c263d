#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "common/log.h"
#include "common/zero_memory.h"
#include "kvbm/store_internal.h"

#define QUOTA_TRIES 64u /* oldest blocks of a salt whose ends are looked at for one that may go */

uint8_t *store_memory(const struct store *store, uint32_t slot)
{
    ASSERT(slot < store->options.n_slots);
    return store->options.memory + slot * store->options.slot_bytes;
}

void store_block_of(const struct store *store, uint32_t slot, struct store_block *out)
{
    const struct store_slot_record *r = &store->slots[slot];
    *out = (struct store_block){ .hash = r->hash,
                                 .parent = r->before,
                                 .is_first = block_hash_equal(r->before, r->seed),
                                 .format = r->format,
                                 .salt = r->salt,
                                 .checksum = r->checksum,
                                 .n_tokens = store->options.block_tokens,
                                 .tokens = store_tokens_of(store, slot),
                                 .slot = slot,
                                 .stored_s = r->stored_s };
}

static void tell(const struct store *store, void (*callback)(void *, enum store_tier, const struct store_block *),
                 uint32_t slot)
{
    struct store_block block;
    if (!callback)
        return;
    store_block_of(store, slot, &block);
    callback(store->options.ctx, STORE_HOST, &block);
}

bool store_slot_has_data(const struct store *store, uint32_t slot)
{
    const enum block_state state = block_pool_state(store->pool, slot);
    return state == BLOCK_COMPLETE || state == BLOCK_REGISTERED;
}

bool store_slot_intact(const struct store *store, uint32_t slot)
{
    const struct store_slot_record *r = &store->slots[slot];
    const uint8_t *memory = store_memory(store, slot);
    if (!store->options.checksum)
        return XXH3_64bits(memory, store->options.slot_bytes) == r->checksum;
    return store->options.checksum(store->options.ctx, r->format, memory) == r->checksum;
}

/* ---- zeroing ---------------------------------------------------------------------------------------------- */

bool store_slots_zero(struct store *store, uint32_t slot)
{
    struct store_slot_record *r = &store->slots[slot];
    /* As for another block's bytes: a borrower who copies still can tell. */
    atomic_fetch_add_explicit(&store->generations[slot], 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    memset(store_tokens_of(store, slot), 0, store->options.block_tokens * sizeof *store->tokens);
    r->dirty = r->overlaid = false;
    if (zero_memory(store_memory(store, slot), store->options.slot_bytes))
        return true;
    log_error("a slot of the KV store does not take zeros", "slot=%u", slot);
    return false;
}

/* ---- chains ------------------------------------------------------------------------------------------------- */

static void link_child(struct store *store, uint32_t slot)
{
    struct store_slot_record *r = &store->slots[slot];
    r->next = r->previous = NO_SLOT;
    if (r->parent == NO_SLOT)
        return;
    struct store_slot_record *parent = &store->slots[r->parent];
    r->previous = parent->newest_child;
    if (parent->newest_child == NO_SLOT)
        parent->oldest_child = slot;
    else
        store->slots[parent->newest_child].next = slot;
    parent->newest_child = slot;
}

static void unlink_child(struct store *store, uint32_t slot)
{
    struct store_slot_record *r = &store->slots[slot];
    if (r->parent == NO_SLOT)
        return;
    struct store_slot_record *parent = &store->slots[r->parent];
    if (r->previous == NO_SLOT)
        parent->oldest_child = r->next;
    else
        store->slots[r->previous].next = r->next;
    if (r->next == NO_SLOT)
        parent->newest_child = r->previous;
    else
        store->slots[r->next].previous = r->previous;
    r->parent = NO_SLOT;
}

static uint32_t end_of(const struct store *store, uint32_t slot)
{
    while (store->slots[slot].oldest_child != NO_SLOT)
        slot = store->slots[slot].oldest_child;
    return slot;
}

/* ---- what block_pool tells ------------------------------------------------------------------------------------ */

/* Evicted, or unregistered: nothing is registered behind it. */
static void on_evicting(void *ctx, block_id slot)
{
    struct store *store = ctx;
    ASSERT(store->slots[slot].oldest_child == NO_SLOT);
    tell(store, store->options.removed, slot);
    store_index_remove(store, slot);
    unlink_child(store, slot);
    store_salts_unlink(store, slot);
    store->count.removed[store->reason]++;
    if (store->slots[slot].is_pinned)
        store_pins_lost(store, slot);
}

static void on_entered(void *ctx, block_id slot, enum block_state state)
{
    struct store *store = ctx;
    struct store_slot_record *r = &store->slots[slot];
    if (state != BLOCK_FREE)
        return;
    ASSERT(!r->indexed);
    store_salts_uncount(&store->salts, r->account);
    const uint8_t awaited = r->wipe_bytes;
    if (!r->overlaid && !awaited)
        return;
    /* Half filled, it has bytes of two blocks, and of one of them no record. */
    const bool good = store_slots_zero(store, slot);
    if (awaited)
        store_wipe_gone(store, slot, awaited, true, good);
}

status store_slots_create(struct store *store)
{
    const struct store_options *o = &store->options;
    const struct block_pool_options pool = { .n_blocks = o->n_slots,
                                             .block_tokens = o->block_tokens,
                                             .generations = o->generations,
                                             .policy = o->policy,
                                             .entered = on_entered,
                                             .ctx = store };
    store->generations = o->generations;
    store->slots = calloc(o->n_slots, sizeof *store->slots);
    store->due = NO_SLOT;
    if (!store->slots || block_pool_create(&pool, &store->pool) != ST_OK)
        return ST_NO_MEMORY;
    block_pool_on_evicting(store->pool, on_evicting, store);
    return ST_OK;
}

/* ---- taking -------------------------------------------------------------------------------------------------- */

/* The end of the oldest chain of the salt that may go. */
static bool evict_own(struct store *store, uint32_t account)
{
    uint32_t at = store->salts.accounts[account].oldest;
    for (unsigned i = 0; i < QUOTA_TRIES && at != NO_SLOT; i++, at = store->slots[at].newer) {
        const uint32_t end = end_of(store, at);
        if (block_pool_state(store->pool, end) != BLOCK_REGISTERED ||
            block_pool_owners(store->pool, end, BLOCK_OF_SEQUENCE) ||
            block_pool_owners(store->pool, end, BLOCK_OF_TRANSFER))
            continue;
        store->reason = STORE_REMOVED_QUOTA;
        block_pool_unregister(store->pool, end);
        store->reason = STORE_REMOVED_EVICTED;
        return true;
    }
    return false;
}

static enum store_verdict make_room(struct store *store, uint32_t account)
{
    const uint64_t quota = store->options.salt_quota_bytes;
    while (quota && store->salts.accounts[account].slots * store->options.slot_bytes > quota)
        if (!evict_own(store, account))
            return STORE_QUOTA;
    return STORE_WANTED;
}

/* The account counts the slot before it is there, so that the account stays while room is made. */
static enum store_verdict take(struct store *store, uint64_t salt, uint32_t *account, uint32_t *out)
{
    *account = store_salts_count(&store->salts, salt);
    if (*account == NO_ACCOUNT)
        return STORE_SALTS;
    enum store_verdict verdict = make_room(store, *account);
    if (verdict == STORE_WANTED && block_pool_take(store->pool, 1, BLOCK_RESERVED, out) != ST_OK)
        verdict = STORE_ROOM;
    if (verdict != STORE_WANTED)
        store_salts_uncount(&store->salts, *account);
    return verdict;
}

static void name_slot(struct store *store, uint32_t slot, const struct store_name *name)
{
    struct store_slot_record *r = &store->slots[slot];
    ASSERT(!r->wipe_bytes ||
           store->wipe.active); /* the scan may reach a slot that is free, not one that it waits for */
    *r = (struct store_slot_record){ .seed = name->seed,
                                     .hash = name->hash,
                                     .before = name->before,
                                     .format = name->format,
                                     .salt = name->salt,
                                     .old_salt = r->salt,
                                     .parent = NO_SLOT,
                                     .oldest_child = NO_SLOT,
                                     .newest_child = NO_SLOT,
                                     .dirty = true,
                                     .overlaid = r->dirty };
    memcpy(store_tokens_of(store, slot), name->tokens, store->options.block_tokens * sizeof *name->tokens);
}

enum store_verdict store_slots_reserve(struct store *store, const struct store_name *name, uint32_t parent,
                                       bool indexed, uint32_t *out)
{
    uint32_t account;
    ASSERT(indexed || parent == NO_SLOT);
    /* Held until it is the registered parent of a registered child: not even the take may evict it. */
    if (parent != NO_SLOT)
        block_pool_hold(store->pool, parent, BLOCK_OF_SEQUENCE);
    enum store_verdict verdict = take(store, name->salt, &account, out);
    if (verdict != STORE_WANTED) {
        if (parent != NO_SLOT)
            block_pool_release(store->pool, parent, BLOCK_OF_SEQUENCE);
        return verdict;
    }
    name_slot(store, *out, name);
    struct store_slot_record *r = &store->slots[*out];
    r->account = account;
    if (!indexed)
        return STORE_WANTED;
    r->parent = parent;
    link_child(store, *out);
    store_index_add(store, *out);
    return STORE_WANTED;
}

/* ---- filled --------------------------------------------------------------------------------------------------- */

static void make_due(struct store *store, uint32_t slot)
{
    store->slots[slot].due = store->due;
    store->due = slot;
}

static void register_slot(struct store *store, uint32_t slot)
{
    struct store_slot_record *r = &store->slots[slot];
    if (r->parent != NO_SLOT && block_pool_state(store->pool, r->parent) != BLOCK_REGISTERED)
        return;
    r->stored_s = store->options.wall_s(store->options.ctx);
    block_pool_register(store->pool, slot, r->hash.low ^ r->format, r->parent);
    store_salts_link(store, slot);
    if (r->parent != NO_SLOT)
        block_pool_release(store->pool, r->parent, BLOCK_OF_SEQUENCE);
    tell(store, store->options.stored, slot);
    if (!r->is_read)
        store_disk_queue(store, slot);
    for (uint32_t child = r->oldest_child; child != NO_SLOT; child = store->slots[child].next)
        if (block_pool_state(store->pool, child) == BLOCK_COMPLETE)
            make_due(store, child);
    block_pool_release(store->pool, slot, BLOCK_OF_SEQUENCE);
}

void store_slots_filled(struct store *store, uint32_t slot)
{
    struct store_slot_record *r = &store->slots[slot];
    block_pool_filled(store->pool, slot, store->options.block_tokens);
    r->overlaid = false;
    if (r->wipe_bytes & WIPE_OLD)
        store_wipe_gone(store, slot, WIPE_OLD, false, true);
    if (!r->indexed) {
        block_pool_release(store->pool, slot, BLOCK_OF_SEQUENCE);
        return;
    }
    make_due(store, slot);
    while (store->due != NO_SLOT) {
        uint32_t next = store->due;
        store->due = store->slots[next].due;
        register_slot(store, next);
    }
}

/* ---- forgotten -------------------------------------------------------------------------------------------------- */

/* Not registered yet, and never will be. A read goes on, for the tickets that wait for it; what somebody fills is
 * thrown away when he has ended. */
static void orphan(struct store *store, uint32_t slot)
{
    struct store_slot_record *r = &store->slots[slot];
    const uint32_t parent = r->parent;
    store_index_remove(store, slot);
    unlink_child(store, slot);
    if (parent != NO_SLOT)
        block_pool_release(store->pool, parent, BLOCK_OF_SEQUENCE);
    if (block_pool_state(store->pool, slot) == BLOCK_COMPLETE) {
        store->count.orphans++;
        block_pool_release(store->pool, slot, BLOCK_OF_SEQUENCE);
    } else if (!r->is_read) {
        r->is_unwanted = true;
        r->failed = ST_NOT_FOUND;
    }
}

static void forget(struct store *store, uint32_t slot, enum store_removal reason)
{
    if (block_pool_state(store->pool, slot) != BLOCK_REGISTERED) {
        orphan(store, slot);
        return;
    }
    store->reason = reason;
    block_pool_unregister(store->pool, slot);
    store->reason = STORE_REMOVED_EVICTED;
}

void store_slots_drop(struct store *store, uint32_t slot, enum store_removal reason, enum store_removal behind)
{
    for (uint32_t at = end_of(store, slot), parent; at != slot; at = end_of(store, parent)) {
        parent = store->slots[at].parent;
        forget(store, at, behind);
    }
    forget(store, slot, reason);
}

void store_slots_failed(struct store *store, uint32_t slot, status st)
{
    struct store_slot_record *r = &store->slots[slot];
    if (r->indexed)
        store_slots_drop(store, slot, STORE_REMOVED_BEHIND, STORE_REMOVED_BEHIND); /* nothing there is registered */
    r->failed = (uint8_t)st;
    block_pool_release(store->pool, slot, BLOCK_OF_SEQUENCE);
}
