/* What each salt has in memory: how many slots, and which blocks, the oldest first. */
#include <stdlib.h>

#include "kvbm/store_internal.h"

status store_salts_create(struct store_salts *salts, uint32_t max)
{
    uint32_t buckets = 64;
    while (buckets < max && buckets < UINT32_C(1) << 31)
        buckets *= 2;
    salts->mask = buckets - 1;
    salts->max = max;
    salts->free = NO_ACCOUNT;
    salts->accounts = calloc(max, sizeof *salts->accounts);
    salts->buckets = calloc(buckets, sizeof *salts->buckets);
    return salts->accounts && salts->buckets ? ST_OK : ST_NO_MEMORY;
}

void store_salts_free(struct store_salts *salts)
{
    free(salts->accounts);
    free(salts->buckets);
}

static uint32_t *link_of(const struct store_salts *salts, uint64_t salt)
{
    uint32_t *at = &salts->buckets[(salt * UINT64_C(0x9e3779b97f4a7c15) >> 32) & salts->mask];
    while (*at && salts->accounts[*at - 1].salt != salt)
        at = &salts->accounts[*at - 1].next;
    return at;
}

uint32_t store_salts_find(const struct store_salts *salts, uint64_t salt)
{
    return *link_of(salts, salt) - 1; /* NO_ACCOUNT stands there as 0 */
}

static uint32_t take(struct store_salts *salts)
{
    uint32_t id = salts->free;
    if (id != NO_ACCOUNT)
        salts->free = salts->accounts[id].next;
    else if (salts->used < salts->max)
        id = salts->used++;
    return id;
}

uint32_t store_salts_count(struct store_salts *salts, uint64_t salt)
{
    uint32_t *at = link_of(salts, salt), id = *at - 1;
    if (!*at) {
        id = take(salts);
        if (id == NO_ACCOUNT)
            return id;
        salts->accounts[id] = (struct salt_account){ .salt = salt, .oldest = NO_SLOT, .newest = NO_SLOT };
        *at = id + 1;
        salts->open++;
    }
    salts->accounts[id].slots++;
    return id;
}

void store_salts_uncount(struct store_salts *salts, uint32_t id)
{
    struct salt_account *account = &salts->accounts[id];
    if (--account->slots)
        return;
    *link_of(salts, account->salt) = account->next;
    account->next = salts->free;
    salts->free = id;
    salts->open--;
}

void store_salts_link(struct store *store, uint32_t slot)
{
    struct store_slot_record *r = &store->slots[slot];
    struct salt_account *account = &store->salts.accounts[r->account];
    r->newer = NO_SLOT;
    r->older = account->newest;
    if (account->newest == NO_SLOT)
        account->oldest = slot;
    else
        store->slots[account->newest].newer = slot;
    account->newest = slot;
}

void store_salts_unlink(struct store *store, uint32_t slot)
{
    const struct store_slot_record *r = &store->slots[slot];
    struct salt_account *account = &store->salts.accounts[r->account];
    if (r->newer == NO_SLOT)
        account->newest = r->older;
    else
        store->slots[r->newer].older = r->older;
    if (r->older == NO_SLOT)
        account->oldest = r->newer;
    else
        store->slots[r->older].newer = r->newer;
}
