/* Reads and writes of the disk tier. Blocks are written through in the order in which they were registered, so a
 * parent stands before its children. A disk that does not answer in time is left alone for a while. */
#include <stdlib.h>
#include <string.h>

#include "common/failpoint.h"
#include "common/log.h"
#include "kvbm/store_internal.h"

#define AWAY_TIMES 4u /* as long as a read may take */

static void on_changed(void *ctx, const struct disk_block *block, bool found)
{
    const struct store *store = ctx;
    const struct store_block told = { .hash = block->hash,
                                      .parent = block->parent,
                                      .is_first = block->is_first,
                                      .format = block->format,
                                      .salt = block->salt,
                                      .checksum = block->checksum,
                                      .n_tokens = store->options.block_tokens,
                                      .stored_s = block->stored_s };
    void (*callback)(void *, enum store_tier, const struct store_block *) =
        found ? store->options.stored : store->options.removed;
    if (callback)
        callback(store->options.ctx, STORE_DISK, &told);
}

status store_disk_create(struct store *store)
{
    const struct store_options *o = &store->options;
    store->disk_tokens = calloc(o->block_tokens + DIGEST_WORDS, sizeof *store->disk_tokens);
    store->reads = calloc(o->max_reads, sizeof *store->reads);
    store->waiting = calloc(o->max_writes, sizeof *store->waiting);
    store->writes = calloc(o->max_writes, sizeof *store->writes);
    if (!store->disk_tokens || !store->reads || !store->waiting || !store->writes)
        return ST_NO_MEMORY;
    for (uint32_t i = 0; i < o->max_reads; i++)
        store->reads[i].store = store;
    for (uint32_t i = 0; i < o->max_writes; i++)
        store->writes[i].store = store;
    if (o->disk)
        disk_tier_watch(o->disk, on_changed, store);
    return ST_OK;
}

static bool answers(const struct store *store)
{
    return store->options.disk && store_now(store) >= store->disk_away_until;
}

static void did_not_answer(struct store *store)
{
    if (answers(store))
        log_warn("the disk did not answer in time", "asked_again_after_us=%llu",
                 (unsigned long long)(AWAY_TIMES * store->options.read_us));
    store->disk_away_until = store_now(store) + AWAY_TIMES * store->options.read_us;
}

bool store_disk_has(struct store *store, const struct store_name *name)
{
    struct disk_block found;
    return answers(store) && disk_tier_find(store->options.disk, name->hash, name->format, &found) &&
           found.salt == name->salt && block_hash_equal(found.parent, name->before) &&
           found.payload_bytes == store->options.slot_bytes;
}

/* The digest makes the tokens of the whole chain be compared: the tier itself knows a parent by its hash only. */
static struct disk_block disk_block_of_slot(struct store *store, uint32_t slot)
{
    const struct store_slot_record *r = &store->slots[slot];
    const uint32_t n = store->options.block_tokens;
    memcpy(store->disk_tokens, store_tokens_of(store, slot), n * sizeof *store->disk_tokens);
    memcpy(store->disk_tokens + n, &r->digest, sizeof r->digest);
    return (struct disk_block){ .hash = r->hash,
                                .parent = r->before,
                                .format = r->format,
                                .salt = r->salt,
                                .checksum = r->checksum,
                                .payload_bytes = (uint32_t)store->options.slot_bytes,
                                .n_tokens = n + DIGEST_WORDS,
                                .is_first = block_hash_equal(r->before, r->seed),
                                .tokens = store->disk_tokens };
}

/* ---- reads ------------------------------------------------------------------------------------------------ */

static void on_read(void *ctx, status st, const struct disk_block *found)
{
    struct store_read *read = ctx;
    struct store *store = read->store;
    const uint32_t slot = read->slot;
    read->used = false;
    store->n_reads--;
    store->work_left = true;
    if (st == ST_OK) {
        store->slots[slot].checksum = found->checksum;
        store->read_at_us = store_now(store);
        store->count.promoted++;
        store->count.promoted_unkept += !store->slots[slot].indexed;
        store_slots_filled(store, slot);
        return;
    }
    store->count.promotion_failures += st != ST_CANCELLED;
    if (st == ST_TIMEOUT)
        did_not_answer(store);
    store_slots_failed(store, slot, st);
}

static struct store_read *free_read(struct store *store)
{
    for (uint32_t i = 0; i < store->options.max_reads; i++)
        if (!store->reads[i].used)
            return &store->reads[i];
    return NULL;
}

status store_disk_read(struct store *store, uint32_t slot)
{
    struct store_read *read = free_read(store);
    if (!read)
        return ST_AGAIN;
    if (!answers(store))
        return ST_TIMEOUT;
    const struct disk_block want = disk_block_of_slot(store, slot);
    const struct disk_call call = { store_now(store) + store->options.read_us, on_read, read };
    status st = disk_tier_get(store->options.disk, &want, store_memory(store, slot), &call, &read->disk_ticket);
    if (st != ST_OK)
        return st;
    read->slot = slot;
    read->used = true;
    store->slots[slot].is_read = true;
    store->n_reads++;
    return ST_OK;
}

void store_disk_wiped(struct store *store)
{
    for (uint32_t i = 0; i < store->options.max_reads; i++) {
        const struct store_read *read = &store->reads[i];
        if (read->used && store_wipe_covers(store, store->slots[read->slot].salt))
            disk_tier_cancel(store->options.disk, read->disk_ticket);
    }
}

/* ---- writes ------------------------------------------------------------------------------------------------- */

static bool is_current(const struct store *store, struct store_slot slot)
{
    return block_pool_state(store->pool, slot.slot) == BLOCK_REGISTERED &&
           block_pool_generation(store->pool, slot.slot) == slot.generation;
}

static void count_unwritten(struct store *store, enum store_unwritten why)
{
    store->count.unwritten[why]++;
}

void store_disk_queue(struct store *store, uint32_t slot)
{
    const uint32_t max = store->options.max_writes;
    if (!store->options.disk)
        return;
    if (store->n_waiting == max) {
        count_unwritten(store, STORE_UNWRITTEN_QUEUE);
        return;
    }
    struct store_write *write = &store->waiting[(store->write_head + store->n_waiting++) % max];
    *write = (struct store_write){ .slot = { slot, block_pool_generation(store->pool, slot) },
                                   .deadline_us = store_now(store) + store->options.write_us };
    store->slots[slot].to_disk = true;
}

static void on_written(void *ctx, status st, const struct disk_block *found)
{
    struct store_write *write = ctx;
    struct store *store = write->store;
    (void)found;
    write->used = false;
    store->n_writes--;
    if (block_pool_generation(store->pool, write->slot.slot) == write->slot.generation)
        store->slots[write->slot.slot].to_disk = false;
    if (st == ST_OK)
        store->count.written++;
    else
        count_unwritten(store, STORE_UNWRITTEN_FAILED);
}

static bool parent_is_on_disk(struct store *store, uint32_t slot)
{
    const struct store_slot_record *r = &store->slots[slot];
    return r->parent == NO_SLOT || store->slots[r->parent].to_disk ||
           disk_tier_find(store->options.disk, r->before, r->format, NULL);
}

static struct store_write *free_write(struct store *store)
{
    for (uint32_t i = 0; i < store->options.max_writes; i++)
        if (!store->writes[i].used)
            return &store->writes[i];
    return NULL;
}

static enum disk_refusal put(struct store *store, const struct store_write *waiting)
{
    struct store_write *write = free_write(store);
    if (!write)
        return DISK_BUSY;
    write->slot = waiting->slot;
    if (FAILPOINT("store.write.flip") == FAILPOINT_FLIP)
        store_memory(store, waiting->slot.slot)[0] ^= 1;
    const struct disk_block block = disk_block_of_slot(store, waiting->slot.slot);
    const struct disk_call call = { waiting->deadline_us, on_written, write };
    enum disk_refusal refusal =
        disk_tier_put(store->options.disk, &block, store_memory(store, waiting->slot.slot), &call, &write->disk_ticket);
    if (refusal != DISK_TAKEN)
        return refusal;
    write->used = true;
    store->n_writes++;
    return DISK_TAKEN;
}

/* False: the disk is busy, and this one waits on. */
static bool write_one(struct store *store, const struct store_write *waiting)
{
    const uint32_t slot = waiting->slot.slot;
    if (!is_current(store, waiting->slot)) {
        count_unwritten(store, STORE_UNWRITTEN_GONE);
        return true;
    }
    struct store_slot_record *r = &store->slots[slot];
    const bool late = store_now(store) >= waiting->deadline_us;
    if (late || !answers(store) || !parent_is_on_disk(store, slot)) {
        r->to_disk = false;
        count_unwritten(store, late              ? STORE_UNWRITTEN_LATE
                               : !answers(store) ? STORE_UNWRITTEN_DISK
                                                 : STORE_UNWRITTEN_PARENT);
        return true;
    }
    const enum disk_refusal refusal = put(store, waiting);
    if (refusal == DISK_BUSY)
        return false;
    if (refusal == DISK_TAKEN)
        return true;
    r->to_disk = false;
    if (refusal != DISK_PRESENT)
        count_unwritten(store, STORE_UNWRITTEN_DISK);
    if (refusal == DISK_CHECKSUM) {
        store->count.damaged_host++;
        store_slots_drop(store, slot, STORE_REMOVED_DAMAGED, STORE_REMOVED_BEHIND);
    }
    return true;
}

void store_disk_run(struct store *store)
{
    uint64_t budget = STORE_WORK_BYTES;
    while (store->n_waiting) {
        if (budget < store->options.slot_bytes) {
            store->work_left = true;
            return;
        }
        if (!write_one(store, &store->waiting[store->write_head]))
            return;
        budget -= store->options.slot_bytes;
        store->write_head = (store->write_head + 1) % store->options.max_writes;
        store->n_waiting--;
    }
}

uint64_t store_disk_next(const struct store *store)
{
    uint64_t next = store->options.disk ? disk_tier_next_us(store->options.disk) : UINT64_MAX;
    if (store->n_waiting && store->waiting[store->write_head].deadline_us < next)
        next = store->waiting[store->write_head].deadline_us;
    return next;
}

void store_disk_cancel(struct store *store)
{
    if (!store->options.disk)
        return;
    disk_tier_watch(store->options.disk, NULL, NULL);
    for (uint32_t i = 0; store->reads && i < store->options.max_reads; i++)
        if (store->reads[i].used)
            disk_tier_cancel(store->options.disk, store->reads[i].disk_ticket);
    for (uint32_t i = 0; store->writes && i < store->options.max_writes; i++)
        if (store->writes[i].used)
            disk_tier_cancel(store->options.disk, store->writes[i].disk_ticket);
}
