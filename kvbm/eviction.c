#include "kvbm/eviction_internal.h"

#include <stdlib.h>
#include <string.h>

static const struct eviction_policy *const policies[] = { &eviction_s3fifo, &eviction_s3fifo_plain, &eviction_lru,
                                                          &eviction_fifo };

const struct eviction_policy *eviction_policy_find(const char *name)
{
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
        if (!strcmp(policies[i]->name, name))
            return policies[i];
    return NULL;
}

const char *eviction_policy_name(const struct eviction_policy *policy)
{
    return policy->name;
}

status eviction_create(const struct eviction_options *options, struct eviction **out)
{
    const struct eviction_policy *policy = options->policy;
    struct eviction *e = calloc(1, sizeof *e);
    if (!e)
        return ST_NO_MEMORY;
    e->policy = policy;
    e->capacity = options->capacity;
    e->leaf_first = options->leaf_first;
    e->small_limit = (uint32_t)((uint64_t)options->capacity * policy->small_percent / 100);
    for (int i = 0; i < QUEUE_COUNT; i++)
        e->queues[i] = (struct eviction_queue){ EVICTION_NONE, EVICTION_NONE, 0 };
    e->entries = calloc(options->capacity, sizeof *e->entries);
    bool ok = e->entries != NULL;
    if (ok && policy->ghost_percent) {
        uint64_t ghosts = (uint64_t)options->capacity * policy->ghost_percent / 100;
        e->hashes = calloc(options->capacity, sizeof *e->hashes);
        ok = e->hashes &&
             ghosts_create(&e->ghosts, ghosts < UINT32_MAX / 4 ? (uint32_t)ghosts : UINT32_MAX / 4) == ST_OK;
    }
    if (!ok) {
        eviction_destroy(&e);
        return ST_NO_MEMORY;
    }
    *out = e;
    return ST_OK;
}

void eviction_destroy(struct eviction **eviction)
{
    struct eviction *e = *eviction;
    if (!e)
        return;
    ghosts_free(&e->ghosts);
    free(e->hashes);
    free(e->entries);
    free(e);
    *eviction = NULL;
}

/* ---- queues ---------------------------------------------------------------------------------------- */

void eviction_put_newest(struct eviction *e, uint32_t id)
{
    struct eviction_entry *entry = &e->entries[id];
    struct eviction_queue *queue = &e->queues[entry->queue];
    entry->newer = EVICTION_NONE;
    entry->older = queue->newest;
    if (queue->newest == EVICTION_NONE)
        queue->oldest = id;
    else
        e->entries[queue->newest].newer = id;
    queue->newest = id;
}

void eviction_put_oldest(struct eviction *e, uint32_t id)
{
    struct eviction_entry *entry = &e->entries[id];
    struct eviction_queue *queue = &e->queues[entry->queue];
    entry->older = EVICTION_NONE;
    entry->newer = queue->oldest;
    if (queue->oldest == EVICTION_NONE)
        queue->newest = id;
    else
        e->entries[queue->oldest].older = id;
    queue->oldest = id;
}

void eviction_take_out(struct eviction *e, uint32_t id)
{
    struct eviction_entry *entry = &e->entries[id];
    struct eviction_queue *queue = &e->queues[entry->queue];
    if (entry->newer == EVICTION_NONE)
        queue->newest = entry->older;
    else
        e->entries[entry->newer].older = entry->older;
    if (entry->older == EVICTION_NONE)
        queue->oldest = entry->newer;
    else
        e->entries[entry->older].newer = entry->newer;
}

void eviction_enter_queue(struct eviction *e, uint32_t id, uint8_t queue)
{
    e->queues[e->entries[id].queue].members--;
    e->queues[queue].members++;
    e->entries[id].queue = queue;
}

/* ---- what may go ------------------------------------------------------------------------------------- */

static struct eviction_entry *entry_at(const struct eviction *e, uint32_t id)
{
    ASSERT(id < e->capacity && e->entries[id].present);
    return &e->entries[id];
}

static bool may_go(const struct eviction_entry *entry)
{
    return !entry->pinned && !entry->children;
}

static void unpark(struct eviction *e, uint32_t id)
{
    struct eviction_entry *entry = &e->entries[id];
    if (!entry->parked || !may_go(entry))
        return;
    entry->parked = false;
    eviction_put_oldest(e, id);
}

/* Up the chain until somebody was busy before. */
static void become_busy(struct eviction *e, uint32_t id)
{
    for (; id != EVICTION_NONE && e->entries[id].busy++ == 0; id = e->entries[id].parent)
        e->n_busy++;
}

/* Up the chain while nobody else keeps it busy. */
static void become_idle(struct eviction *e, uint32_t id)
{
    for (; id != EVICTION_NONE && --e->entries[id].busy == 0; id = e->entries[id].parent)
        e->n_busy--;
}

void eviction_pin(struct eviction *e, uint32_t id)
{
    struct eviction_entry *entry = entry_at(e, id);
    ASSERT(!entry->pinned);
    entry->pinned = true;
    become_busy(e, id);
}

void eviction_unpin(struct eviction *e, uint32_t id)
{
    struct eviction_entry *entry = entry_at(e, id);
    ASSERT(entry->pinned);
    entry->pinned = false;
    become_idle(e, id);
    unpark(e, id);
}

/* ---- entries come and go ---------------------------------------------------------------------------------- */

void eviction_add(struct eviction *e, uint32_t id, uint64_t hash, uint32_t parent)
{
    ASSERT(id < e->capacity && !e->entries[id].present);
    if (!e->leaf_first)
        parent = EVICTION_NONE; /* it may go first, and its number be another's then */
    e->entries[id] = (struct eviction_entry){ .parent = parent, .present = true };
    if (parent != EVICTION_NONE)
        entry_at(e, parent)->children++;
    if (e->hashes)
        e->hashes[id] = hash;
    e->n_present++;
    e->queues[QUEUE_SMALL].members++; /* where a policy that puts it elsewhere takes it from */
    e->policy->added(e, id, hash);
}

void eviction_hit(struct eviction *e, uint32_t id)
{
    (void)entry_at(e, id);
    e->policy->hit(e, id);
}

/* The entry is in no queue. */
static void leave(struct eviction *e, uint32_t id)
{
    struct eviction_entry *entry = &e->entries[id];
    e->queues[entry->queue].members--;
    e->n_present--;
    entry->present = entry->parked = false;
    if (entry->parent == EVICTION_NONE)
        return;
    e->entries[entry->parent].children--;
    unpark(e, entry->parent);
}

uint32_t eviction_choose(struct eviction *e)
{
    for (;;) {
        uint32_t id = e->policy->candidate(e);
        if (id == EVICTION_NONE)
            return EVICTION_NONE;
        struct eviction_entry *entry = &e->entries[id];
        if (!may_go(entry)) {
            entry->parked = true;
            continue;
        }
        if (e->hashes && (entry->queue == QUEUE_SMALL || e->policy->ghosts_of_main))
            ghosts_add(&e->ghosts, e->hashes[id]);
        leave(e, id);
        return id;
    }
}

void eviction_remove(struct eviction *e, uint32_t id)
{
    struct eviction_entry *entry = entry_at(e, id);
    ASSERT(!entry->children);
    if (entry->pinned)
        become_idle(e, id);
    if (!entry->parked)
        eviction_take_out(e, id);
    leave(e, id);
}

uint32_t eviction_evictable(const struct eviction *e)
{
    return e->n_present - e->n_busy;
}
