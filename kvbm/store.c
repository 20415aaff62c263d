#include "kvbm/store.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "kvbm/store_internal.h"

/* ---- words ------------------------------------------------------------------------------------------------ */

static const char *const admission_names[] = {
#define X(name, text) text,
    STORE_ADMISSIONS(X)
#undef X
};

static const char *const verdict_names[] = {
#define X(name, text) text,
    STORE_VERDICTS(X)
#undef X
};

static const char *const removal_names[] = {
#define X(name, text) text,
    STORE_REMOVALS(X)
#undef X
};

static const char *const unwritten_names[] = {
#define X(name, text) text,
    STORE_UNWRITTEN(X)
#undef X
};

const char *store_admission_name(enum store_admission admission)
{
    return (unsigned)admission < STORE_ADMISSION_COUNT ? admission_names[admission] : "?";
}

bool store_admission_parse(const char *name, enum store_admission *out)
{
    for (unsigned i = 0; i < STORE_ADMISSION_COUNT; i++)
        if (!strcmp(name, admission_names[i])) {
            *out = (enum store_admission)i;
            return true;
        }
    return false;
}

const char *store_verdict_name(enum store_verdict verdict)
{
    return (unsigned)verdict < STORE_VERDICT_COUNT ? verdict_names[verdict] : "?";
}

const char *store_removal_name(enum store_removal removal)
{
    return (unsigned)removal < STORE_REMOVAL_COUNT ? removal_names[removal] : "?";
}

const char *store_unwritten_name(enum store_unwritten why)
{
    return (unsigned)why < STORE_UNWRITTEN_COUNT ? unwritten_names[why] : "?";
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

void store_defaults(struct store_options *options)
{
    *options = (struct store_options){
        .policy = &eviction_s3fifo,
        .admission = STORE_ADMIT_SECOND_SIGHT,
        .max_seen = 1u << 20,
        .max_salts = 4096,
        .max_reserved = 4096,
        .max_tickets = 1024,
        .max_ticket_blocks = 8192,
        .max_pins = 256,
        .max_reads = 8,
        .max_writes = 256,
        .ticket_us = 60 * UINT64_C(1000000),
        .pin_us = 24 * 3600 * UINT64_C(1000000),
        .read_us = UINT64_C(1000000),
        .write_us = 5 * UINT64_C(1000000),
    };
}

static status check_options(const struct store_options *o, struct error *err)
{
    if (!o->memory || !o->generations || !o->n_slots || o->n_slots > 1u << 30)
        return error_set(err, ST_INVALID, "KV store: no memory, or %u slots (1 to %u)", o->n_slots, 1u << 30);
    if (!o->slot_bytes || o->slot_bytes > UINT32_MAX)
        return error_set(err, ST_INVALID, "KV store: slots of %llu bytes (1 to %u)", (unsigned long long)o->slot_bytes,
                         UINT32_MAX);
    if (!o->block_tokens || o->block_tokens > STORE_MAX_BLOCK_TOKENS)
        return error_set(err, ST_INVALID, "KV store: blocks of %u tokens (1 to %u)", o->block_tokens,
                         STORE_MAX_BLOCK_TOKENS);
    if (!o->policy || (unsigned)o->admission >= STORE_ADMISSION_COUNT)
        return error_set(err, ST_INVALID, "KV store: no policy of eviction, or admission %u", (unsigned)o->admission);
    if (!o->max_seen || !o->max_salts || !o->max_reserved || !o->max_tickets || !o->max_ticket_blocks || !o->max_pins ||
        !o->max_reads || !o->max_writes)
        return error_set(err, ST_INVALID, "KV store: each of its bounds must be at least 1");
    return ST_OK;
}

static uint64_t real_now(void *ctx)
{
    (void)ctx;
    return clock_now_us();
}

static uint64_t real_wall(void *ctx)
{
    (void)ctx;
    return (uint64_t)time(NULL);
}

static void fill_in(struct store_options *o)
{
    o->now_us = o->now_us ? o->now_us : real_now;
    o->wall_s = o->wall_s ? o->wall_s : real_wall;
    o->max_pinned = o->max_pinned ? o->max_pinned : o->n_slots / 2;
}

static status allocate(struct store *store)
{
    const struct store_options *o = &store->options;
    store->tickets = calloc(o->max_tickets, sizeof *store->tickets);
    store->pins = calloc(o->max_pins, sizeof *store->pins);
    if (!store->tickets || !store->pins || store_slots_create(store) != ST_OK || store_index_create(store) != ST_OK ||
        store_salts_create(&store->salts, o->max_salts) != ST_OK || ghosts_create(&store->seen, o->max_seen) != ST_OK ||
        store_disk_create(store) != ST_OK)
        return ST_NO_MEMORY;
    for (uint32_t i = 0; i < o->max_tickets; i++)
        store->tickets[i].generation = 1; /* so that 0 names none */
    return ST_OK;
}

status store_create(const struct store_options *options, struct store **out, struct error *err)
{
    status st = check_options(options, err);
    struct store *store = st == ST_OK ? calloc(1, sizeof *store) : NULL;
    if (st != ST_OK)
        return st;
    if (!store)
        return error_set(err, ST_NO_MEMORY, "KV store: out of memory");
    store->options = *options;
    fill_in(&store->options);
    if (allocate(store) != ST_OK) {
        store_destroy(&store);
        return error_set(err, ST_NO_MEMORY, "KV store: out of memory for %u slots", options->n_slots);
    }
    *out = store;
    return ST_OK;
}

void store_destroy(struct store **store)
{
    struct store *s = *store;
    if (!s)
        return;
    s->options.stored = s->options.removed = NULL;
    store_disk_cancel(s);
    store_tickets_close_all(s);
    store_pins_end_all(s);
    block_pool_destroy(&s->pool);
    store_salts_free(&s->salts);
    ghosts_free(&s->seen);
    free(s->slots);
    free(s->tokens);
    free(s->cells);
    free(s->tickets);
    free(s->pins);
    free(s->reads);
    free(s->waiting);
    free(s->writes);
    free(s->disk_tokens);
    free(s);
    *store = NULL;
}

int store_event_fd(const struct store *store)
{
    return store->options.disk ? disk_tier_event_fd(store->options.disk) : -1;
}

void store_run(struct store *store)
{
    if (store->is_running) {
        store->work_left = true;
        return;
    }
    store->is_running = true;
    store->work_left = false;
    if (store->options.disk)
        disk_tier_run(store->options.disk);
    store_pins_run(store);
    store_tickets_run(store);
    store_suspects_run(store);
    if (store->options.disk)
        store_disk_run(store);
    store_wipe_run(store);
    store->is_running = false;
}

uint64_t store_next_us(const struct store *store)
{
    if (store->work_left)
        return 0;
    uint64_t next = store_disk_next(store);
    const uint64_t others[] = { store_tickets_next(store), store_pins_next(store), store_suspects_next(store),
                                store->wipe.active ? store->wipe.call.deadline_us : UINT64_MAX };
    for (unsigned i = 0; i < sizeof others / sizeof *others; i++)
        next = others[i] < next ? others[i] : next;
    return next;
}

/* ---- what there is --------------------------------------------------------------------------------------------- */

static uint64_t oldest_age(const struct store *store)
{
    const uint64_t now = store->options.wall_s(store->options.ctx);
    uint64_t oldest = now;
    for (uint32_t i = 0; i < store->salts.used; i++) {
        const struct salt_account *account = &store->salts.accounts[i];
        if (account->slots && account->oldest != NO_SLOT && store->slots[account->oldest].stored_s < oldest)
            oldest = store->slots[account->oldest].stored_s;
    }
    return now - oldest;
}

static void host_stats(const struct store *store, struct store_tier_stats *tier)
{
    tier->blocks = block_pool_in_state(store->pool, BLOCK_REGISTERED);
    tier->bytes = tier->blocks * store->options.slot_bytes;
    tier->capacity_bytes = store->options.n_slots * store->options.slot_bytes;
    tier->oldest_s = oldest_age(store);
}

static void disk_stats(const struct store *store, struct store_tier_stats *tier)
{
    struct disk_metrics metrics;
    disk_tier_metrics(store->options.disk, &metrics);
    tier->blocks = metrics.blocks;
    tier->bytes = metrics.bytes;
    tier->capacity_bytes = metrics.capacity_bytes;
    tier->oldest_s = metrics.oldest_s;
}

void store_stats(struct store *store, struct store_stats *out)
{
    *out = store->count;
    host_stats(store, &out->tiers[STORE_HOST]);
    if (store->options.disk)
        disk_stats(store, &out->tiers[STORE_DISK]);
    out->slots_free = block_pool_in_state(store->pool, BLOCK_FREE);
    out->slots_reserved = store->n_reserved;
    out->slots_held = store->n_held;
    out->slots_pinned = store->n_pinned;
    out->open_tickets = store->n_tickets;
    out->pins = store->n_pins;
    out->reads = store->n_reads;
    out->writes_waiting = store->n_waiting + store->n_writes;
    out->salts = store->salts.open;
    out->wiping = store->wipe.active;
}
