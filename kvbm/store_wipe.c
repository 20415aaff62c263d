/* Wiping a salt, or everything. What can be found is forgotten at once; then all slots are looked at, a piece at a
 * time: who owns none of them is zeroed and read back, also where only the remains of an evicted block lie, and who
 * does is waited for. The disk tier wipes meanwhile. */
#include <string.h>

#include "common/log.h"
#include "kvbm/store_internal.h"

#define SCAN_SLOTS 65536u /* looked at in one run */

bool store_wipe_covers(const struct store *store, uint64_t salt)
{
    return store->wipe.active && (store->wipe.all || store->wipe.salt == salt);
}

/* of_this: not of one whose deadline has passed. */
static void count_zeroed(struct store *store, bool good, bool of_this)
{
    store->count.wiped_slots += good;
    store->count.bad_slots += !good;
    if (!of_this)
        return;
    store->wipe.wiped.slots += good;
    store->wipe.wiped.slots_bad += !good;
    store->wipe.wiped.host_bytes += good ? store->options.slot_bytes : 0;
}

void store_wipe_gone(struct store *store, uint32_t slot, uint8_t bytes, bool zeroed, bool good)
{
    struct store_slot_record *r = &store->slots[slot];
    const bool of_this = store->wipe.active && r->wipe == store->wipe.number;
    r->wipe_bytes = (uint8_t)(r->wipe_bytes & ~bytes);
    if (zeroed)
        count_zeroed(store, good, of_this);
    if (!r->wipe_bytes && of_this)
        store->wipe.waiting--;
}

static uint8_t bytes_covered(const struct store *store, const struct store_slot_record *r)
{
    const bool new = r->dirty &&store_wipe_covers(store, r->salt);
    const bool old = r->overlaid && store_wipe_covers(store, r->old_salt);
    return (uint8_t)((new ? WIPE_NEW : 0) | (old ? WIPE_OLD : 0));
}

/* False: nothing had to be done to it. */
static bool look_at(struct store *store, uint32_t slot)
{
    struct store_slot_record *r = &store->slots[slot];
    const uint8_t bytes = bytes_covered(store, r);
    if (!bytes)
        return false;
    if (block_pool_state(store->pool, slot) == BLOCK_FREE) {
        count_zeroed(store, store_slots_zero(store, slot), true);
        return true;
    }
    store->wipe.waiting++;
    r->wipe_bytes |= bytes;
    r->wipe = store->wipe.number;
    return false;
}

static void scan(struct store *store)
{
    uint64_t budget = STORE_WORK_BYTES;
    for (uint32_t n = 0; n < SCAN_SLOTS && store->wipe.cursor < store->options.n_slots && budget; n++)
        if (look_at(store, store->wipe.cursor++))
            budget -= budget < store->options.slot_bytes ? budget : store->options.slot_bytes;
    if (store->wipe.cursor < store->options.n_slots)
        store->work_left = true;
}

static uint32_t not_reached(const struct store *store)
{
    uint32_t n = 0;
    for (uint32_t i = store->wipe.cursor; i < store->options.n_slots; i++)
        n += bytes_covered(store, &store->slots[i]) != 0;
    return n;
}

static status outcome(const struct store_wiped *wiped)
{
    if (wiped->slots_bad)
        return ST_CORRUPT;
    return wiped->slots_left ? ST_TIMEOUT : wiped->disk;
}

void store_wipe_run(struct store *store)
{
    struct wipe_state *w = &store->wipe;
    if (!w->active)
        return;
    scan(store);
    const bool late = store_now(store) >= w->call.deadline_us;
    if (!late && (w->cursor < store->options.n_slots || w->waiting || w->disk_pending))
        return;
    w->wiped.slots_left = w->waiting + not_reached(store);
    if (w->disk_pending)
        w->wiped.disk = ST_TIMEOUT;
    const struct store_wiped wiped = w->wiped;
    const struct store_wipe_call call = w->call;
    w->active = w->disk_pending = false;
    if (outcome(&wiped) != ST_OK)
        log_error("a wipe of the KV store failed", "status=%s slots_left=%u slots_bad=%u disk=%s",
                  status_text(outcome(&wiped)), wiped.slots_left, wiped.slots_bad, status_text(wiped.disk));
    call.done(call.ctx, outcome(&wiped), &wiped);
}

static void on_disk_wiped(void *ctx, status st, uint64_t bytes)
{
    struct store *store = ctx;
    if (!store->wipe.disk_pending)
        return;
    store->wipe.disk_pending = false;
    store->wipe.wiped.disk = st;
    store->wipe.wiped.disk_bytes = bytes;
    store->work_left = true;
}

static void wipe_disk(struct store *store)
{
    struct wipe_state *w = &store->wipe;
    const struct disk_wipe_call call = { w->all ? NULL : &w->salt, w->call.deadline_us, on_disk_wiped, store };
    w->wiped.disk = store->options.disk ? disk_tier_wipe(store->options.disk, &call) : ST_OK;
    w->disk_pending = store->options.disk && w->wiped.disk == ST_OK;
}

static void forget_all(struct store *store)
{
    const uint64_t before = store->count.removed[STORE_REMOVED_WIPED];
    for (uint32_t slot = 0; slot < store->options.n_slots; slot++)
        if (store->slots[slot].indexed && store_wipe_covers(store, store->slots[slot].salt))
            store_slots_drop(store, slot, STORE_REMOVED_WIPED, STORE_REMOVED_WIPED);
    store->wipe.wiped.blocks = (uint32_t)(store->count.removed[STORE_REMOVED_WIPED] - before);
}

status store_wipe(struct store *store, const struct store_wipe_call *call)
{
    struct wipe_state *w = &store->wipe;
    ASSERT(call->done);
    if (w->active)
        return ST_AGAIN;
    *w = (struct wipe_state){
        .active = true, .all = !call->salt, .number = w->number + 1, .salt = call->salt ? *call->salt : 0, .call = *call
    };
    store->count.wipes++;
    store->work_left = true;
    store_tickets_wiped(store);
    store_disk_wiped(store);
    explicit_bzero(store->disk_tokens, (store->options.block_tokens + DIGEST_WORDS) * sizeof *store->disk_tokens);
    forget_all(store);
    wipe_disk(store);
    return ST_OK;
}
