#include "kvbm/eviction_internal.h"

#define MOST_HITS 3u /* that count: two bits in the paper */

static void to_newest(struct eviction *e, uint32_t id, uint64_t hash)
{
    (void)hash;
    eviction_put_newest(e, id);
}

static void not_looked_at(struct eviction *e, uint32_t id)
{
    (void)e;
    (void)id;
}

static uint32_t oldest_of(struct eviction *e, uint8_t queue)
{
    uint32_t id = e->queues[queue].oldest;
    if (id != EVICTION_NONE)
        eviction_take_out(e, id);
    return id;
}

static uint32_t oldest(struct eviction *e)
{
    return oldest_of(e, QUEUE_SMALL);
}

static void lru_hit(struct eviction *e, uint32_t id)
{
    if (!e->entries[id].parked)
        eviction_take_out(e, id);
    e->entries[id].parked = false;
    eviction_put_newest(e, id);
}

static void s3fifo_added(struct eviction *e, uint32_t id, uint64_t hash)
{
    if (ghosts_take(&e->ghosts, hash))
        eviction_enter_queue(e, id, QUEUE_MAIN);
    eviction_put_newest(e, id);
}

static void s3fifo_hit(struct eviction *e, uint32_t id)
{
    if (e->entries[id].hits < MOST_HITS)
        e->entries[id].hits++;
}

static bool small_is_next(const struct eviction *e)
{
    const struct eviction_queue *small = &e->queues[QUEUE_SMALL];
    return small->oldest != EVICTION_NONE &&
           (small->members > e->small_limit || e->queues[QUEUE_MAIN].oldest == EVICTION_NONE);
}

/* Each pass through the loop takes a hit from somebody, so that hits pay for it. */
static uint32_t s3fifo_candidate(struct eviction *e)
{
    for (;;) {
        bool small = small_is_next(e);
        uint32_t id = oldest_of(e, small ? QUEUE_SMALL : QUEUE_MAIN);
        if (id == EVICTION_NONE)
            return id;
        struct eviction_entry *entry = &e->entries[id];
        if (entry->hits < (small ? e->policy->hits_to_main : 1))
            return id;
        entry->hits = small ? 0 : (uint8_t)(entry->hits - 1);
        eviction_enter_queue(e, id, QUEUE_MAIN);
        eviction_put_newest(e, id);
    }
}

const struct eviction_policy eviction_lru = {
    .name = "lru",
    .added = to_newest,
    .hit = lru_hit,
    .candidate = oldest,
};

const struct eviction_policy eviction_fifo = {
    .name = "fifo",
    .added = to_newest,
    .hit = not_looked_at,
    .candidate = oldest,
};

/* Half the small queue and more ghosts than the paper has: turns of a conversation come back long after a block
 * would have left any queue, so the ghosts are what tells a conversation from a single question. */
const struct eviction_policy eviction_s3fifo = {
    .name = "s3fifo",
    .added = s3fifo_added,
    .hit = s3fifo_hit,
    .candidate = s3fifo_candidate,
    .small_percent = 5,
    .hits_to_main = 1,
    .ghost_percent = 400,
    .ghosts_of_main = true,
};

const struct eviction_policy eviction_s3fifo_plain = {
    .name = "s3fifo-plain",
    .added = s3fifo_added,
    .hit = s3fifo_hit,
    .candidate = s3fifo_candidate,
    .small_percent = 10,
    .hits_to_main = 2,
    .ghost_percent = 90,
    .ghosts_of_main = false,
};
