/* Putting: which blocks are wanted, and what becomes of their slots. */
#include "kvbm/store_internal.h"

static uint64_t sight_of(const struct store_name *name)
{
    return name->hash.low ^ name->format * UINT64_C(0x9e3779b97f4a7c15);
}

/* A block that nobody has asked for twice is not worth a slot, and what is on disk was worth one before. */
static bool is_admitted(struct store *store, const struct store_name *name, bool shared)
{
    switch (store->options.admission) {
    case STORE_ADMIT_ALL:
        return true;
    case STORE_ADMIT_SECOND_SIGHT:
        return shared || ghosts_take(&store->seen, sight_of(name)) || store_disk_has(store, name);
    case STORE_ADMIT_NONE:
    case STORE_ADMISSION_COUNT:
        break;
    }
    return false;
}

static enum store_verdict reserve(struct store *store, const struct store_name *name, uint32_t parent, uint32_t *slot)
{
    if (store->n_reserved == store->options.max_reserved)
        return STORE_ROOM;
    enum store_verdict verdict = store_slots_reserve(store, name, parent, true, slot);
    if (verdict != STORE_WANTED)
        return verdict;
    store->n_reserved++;
    store_digest_next(store, parent == NO_SLOT ? NULL : &store->slots[parent].digest, name,
                      &store->slots[*slot].digest);
    return STORE_WANTED;
}

/* How a block is offered. */
struct want {
    bool has_parent, shared, is_fetch;
};

/* *parent: of the block in, its own slot out; NO_SLOT when it has none. */
static enum store_verdict offer_one(struct store *store, const struct store_name *name, struct want want,
                                    uint32_t *parent)
{
    const uint32_t before = *parent;
    bool collides = false;
    *parent = want.has_parent ? store_index_find(store, name, before, &collides) : NO_SLOT;
    if (*parent != NO_SLOT) {
        if (block_pool_state(store->pool, *parent) != BLOCK_REGISTERED)
            return STORE_COMING;
        block_pool_used(store->pool, *parent);
        return STORE_PRESENT;
    }
    if (collides)
        return STORE_COLLISION;
    const bool is_worth_it = want.has_parent && (want.is_fetch || is_admitted(store, name, want.shared));
    enum store_verdict verdict = !want.has_parent ? STORE_PARENT
                                 : !is_worth_it   ? STORE_ADMISSION
                                                  : reserve(store, name, before, parent);
    if (verdict != STORE_WANTED && store->options.admission == STORE_ADMIT_SECOND_SIGHT)
        ghosts_add(&store->seen, sight_of(name)); /* seen once; or still, if there was no room this time */
    return verdict;
}

/* The slot of the block before the first one offered, registered or reserved. False: it is not here. */
static bool find_context(struct store *store, const struct store_offer *offer, uint32_t *parent)
{
    *parent = NO_SLOT;
    for (uint32_t i = 0; i < offer->first; i++) {
        const struct store_name name = store_name_of(store, &offer->chain, i);
        bool collides;
        *parent = store_index_find(store, &name, *parent, &collides);
        if (*parent == NO_SLOT)
            return false;
    }
    return true;
}

static void refuse_all(struct store *store, uint32_t n, enum store_verdict verdict, struct store_answer out[])
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = (struct store_answer){ .verdict = verdict };
    store->count.verdicts[verdict] += n;
}

void store_offer(struct store *store, const struct store_offer *offer, struct store_answer out[])
{
    const struct store_chain *chain = &offer->chain;
    ASSERT(offer->first <= chain->n_blocks);
    const uint32_t n = chain->n_blocks - offer->first;
    uint32_t slot;
    store->count.offers += n;
    if (offer->block_bytes != store->options.slot_bytes) {
        refuse_all(store, n, STORE_SIZE, out);
        return;
    }
    if (store_wipe_covers(store, chain->salt)) {
        refuse_all(store, n, STORE_WIPING, out);
        return;
    }
    bool has_parent = find_context(store, offer, &slot);
    for (uint32_t i = 0; i < n; i++) {
        const struct store_name name = store_name_of(store, chain, offer->first + i);
        const struct want want = { has_parent, offer->shared && offer->shared[i], offer->is_fetch };
        enum store_verdict verdict = offer_one(store, &name, want, &slot);
        out[i] = (struct store_answer){ .verdict = verdict };
        store->count.verdicts[verdict]++;
        has_parent = slot != NO_SLOT;
        if (verdict != STORE_WANTED)
            continue;
        store->slots[slot].checksum = offer->checksums ? offer->checksums[i] : 0;
        store->slots[slot].is_fetched = offer->is_fetch;
        out[i].slot = (struct store_slot){ slot, block_pool_generation(store->pool, slot) };
    }
}

static bool is_reserved(const struct store *store, struct store_slot slot)
{
    return slot.slot < store->options.n_slots && block_pool_state(store->pool, slot.slot) == BLOCK_RESERVED &&
           block_pool_generation(store->pool, slot.slot) == slot.generation && !store->slots[slot.slot].is_read &&
           block_pool_owners(store->pool, slot.slot, BLOCK_OF_SEQUENCE) > 0;
}

status store_commit(struct store *store, struct store_slot slot)
{
    if (!is_reserved(store, slot))
        return ST_STALE;
    const bool unwanted = store->slots[slot.slot].is_unwanted;
    store->n_reserved--;
    store->count.commits++;
    store->count.orphans += unwanted;
    store->work_left = true;
    store_slots_filled(store, slot.slot);
    return unwanted ? ST_CANCELLED : ST_OK;
}

status store_commit_summed(struct store *store, struct store_slot slot, uint64_t checksum)
{
    if (!is_reserved(store, slot))
        return ST_STALE;
    store->slots[slot.slot].checksum = checksum;
    return store_commit(store, slot);
}

void store_abort(struct store *store, struct store_slot slot, bool damaged)
{
    if (!is_reserved(store, slot))
        return;
    store->n_reserved--;
    store->count.aborts++;
    store->count.damaged_offers += damaged;
    store_slots_failed(store, slot.slot, ST_NOT_FOUND);
}

bool store_is_awaited(const struct store *store, struct store_slot slot)
{
    return is_reserved(store, slot) && block_pool_owners(store->pool, slot.slot, BLOCK_OF_TRANSFER) > 0;
}
