/* Pins: the end of a chain is held for a sequence, and with it what stands before it. */
#include <stdlib.h>

#include "kvbm/store_internal.h"

static struct pin *pin_of(struct store *store, uint32_t slot)
{
    for (uint32_t i = 0; i < store->options.max_pins; i++)
        if (store->pins[i].used && store->pins[i].slot == slot)
            return &store->pins[i];
    return NULL;
}

static struct pin *free_pin(struct store *store)
{
    for (uint32_t i = 0; i < store->options.max_pins; i++)
        if (!store->pins[i].used)
            return &store->pins[i];
    return NULL;
}

static void end_pin(struct store *store, struct pin *pin)
{
    pin->used = false;
    store->n_pins--;
    store->n_pinned -= pin->n_blocks;
    store->slots[pin->slot].is_pinned = false;
    block_pool_release(store->pool, pin->slot, BLOCK_OF_SEQUENCE);
}

static status make_pin(struct store *store, uint32_t slot, uint32_t n, struct pin **out)
{
    struct pin *pin = free_pin(store);
    if (!pin || n > store->options.max_pinned - store->n_pinned)
        return ST_LIMIT;
    *pin = (struct pin){ .used = true, .slot = slot, .n_blocks = n };
    store->n_pins++;
    store->n_pinned += n;
    store->slots[slot].is_pinned = true;
    block_pool_hold(store->pool, slot, BLOCK_OF_SEQUENCE);
    *out = pin;
    return ST_OK;
}

status store_pin(struct store *store, const struct store_chain *chain, uint64_t until_us, uint32_t *n_pinned)
{
    uint32_t last;
    const uint32_t n = store_wipe_covers(store, chain->salt) ? 0 : store_match(store, chain, &last);
    if (!n)
        return ST_NOT_FOUND;
    struct pin *pin = pin_of(store, last);
    status st = pin ? ST_OK : make_pin(store, last, n, &pin);
    if (st != ST_OK)
        return st;
    const uint64_t latest = store_now(store) + store->options.pin_us;
    pin->until_us = until_us < latest ? until_us : latest;
    *n_pinned = n;
    return ST_OK;
}

bool store_unpin(struct store *store, const struct store_chain *chain)
{
    uint32_t slot;
    uint32_t n = store_match(store, chain, &slot);
    for (; n; n--, slot = store->slots[slot].parent) {
        struct pin *pin = store->slots[slot].is_pinned ? pin_of(store, slot) : NULL;
        if (!pin)
            continue;
        end_pin(store, pin);
        return true;
    }
    return false;
}

void store_pins_lost(struct store *store, uint32_t slot)
{
    end_pin(store, pin_of(store, slot));
}

void store_pins_run(struct store *store)
{
    const uint64_t now = store_now(store);
    for (uint32_t i = 0; i < store->options.max_pins && store->n_pins; i++)
        if (store->pins[i].used && store->pins[i].until_us <= now)
            end_pin(store, &store->pins[i]);
}

uint64_t store_pins_next(const struct store *store)
{
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < store->options.max_pins && store->n_pins; i++)
        if (store->pins[i].used && store->pins[i].until_us < next)
            next = store->pins[i].until_us;
    return next;
}

void store_pins_end_all(struct store *store)
{
    for (uint32_t i = 0; store->pins && i < store->options.max_pins; i++)
        if (store->pins[i].used)
            end_pin(store, &store->pins[i]);
}
