/* Blocks that somebody says came damaged. Most often it was the way, or the borrower; so they are looked at one by one,
 * with a pause after each, and always before they are lent again. */
#include "common/log.h"
#include "kvbm/store_internal.h"

bool store_look_at(struct store *store, uint32_t slot)
{
    store->slots[slot].is_suspect = false;
    if (store_slot_intact(store, slot))
        return true;
    store->count.damaged_host++;
    log_error("a block in memory is damaged", "slot=%u", slot);
    if (store->slots[slot].indexed)
        store_slots_drop(store, slot, STORE_REMOVED_DAMAGED, STORE_REMOVED_BEHIND);
    return false;
}

static bool is_there(const struct store *store, struct store_slot slot)
{
    return slot.slot < store->options.n_slots && block_pool_generation(store->pool, slot.slot) == slot.generation &&
           store_slot_has_data(store, slot.slot);
}

void store_suspect(struct store *store, struct store_slot slot)
{
    if (!is_there(store, slot) || store->slots[slot.slot].is_suspect)
        return;
    store->slots[slot.slot].is_suspect = true;
    if (store->n_suspects < STORE_MAX_SUSPECTS)
        store->suspects[(store->suspect_head + store->n_suspects++) % STORE_MAX_SUSPECTS] = slot;
}

/* The next one that is there still, and that nobody has looked at meanwhile. */
static bool next_suspect(struct store *store, uint32_t *out)
{
    while (store->n_suspects) {
        const struct store_slot slot = store->suspects[store->suspect_head];
        store->suspect_head = (store->suspect_head + 1) % STORE_MAX_SUSPECTS;
        store->n_suspects--;
        *out = slot.slot;
        if (is_there(store, slot) && store->slots[slot.slot].is_suspect)
            return true;
    }
    return false;
}

void store_suspects_run(struct store *store)
{
    uint32_t slot;
    const uint64_t now = store_now(store);
    if (now < store->suspect_us || !next_suspect(store, &slot))
        return;
    store->suspect_us = now + STORE_SUSPECT_PAUSE_US;
    (void)store_look_at(store, slot);
}

uint64_t store_suspects_next(const struct store *store)
{
    return store->n_suspects ? store->suspect_us : UINT64_MAX;
}
