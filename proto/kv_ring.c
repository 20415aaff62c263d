#include "proto/kv_ring.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct kv_batch {
    atomic_uint users;
    size_t len;
    uint8_t data[];
};

struct kv_batch *kv_batch_create(const uint8_t *data, size_t len)
{
    struct kv_batch *batch = malloc(sizeof *batch + len);
    if (!batch)
        return NULL;
    atomic_init(&batch->users, 1);
    batch->len = len;
    memcpy(batch->data, data, len);
    return batch;
}

struct kv_batch *kv_batch_share(struct kv_batch *batch)
{
    atomic_fetch_add_explicit(&batch->users, 1, memory_order_relaxed);
    return batch;
}

void kv_batch_release(struct kv_batch **p)
{
    struct kv_batch *batch = *p;
    *p = NULL;
    if (batch && atomic_fetch_sub_explicit(&batch->users, 1, memory_order_acq_rel) == 1)
        free(batch);
}

const uint8_t *kv_batch_data(const struct kv_batch *batch)
{
    return batch->data;
}

size_t kv_batch_len(const struct kv_batch *batch)
{
    return batch->len;
}

status kv_ring_init(struct kv_ring *ring, uint32_t max_batches, size_t max_bytes, uint64_t first)
{
    *ring = (struct kv_ring){ .max_batches = max_batches, .max_bytes = max_bytes, .first = first, .next = first };
    ring->slots = calloc(max_batches, sizeof *ring->slots);
    return ring->slots ? ST_OK : ST_NO_MEMORY;
}

static void drop_first(struct kv_ring *ring)
{
    struct kv_batch **slot = &ring->slots[ring->first % ring->max_batches];
    ring->bytes -= kv_batch_len(*slot);
    kv_batch_release(slot);
    ring->first++;
}

static void drop_all(struct kv_ring *ring)
{
    while (ring->first < ring->next)
        drop_first(ring);
}

void kv_ring_free(struct kv_ring *ring)
{
    if (ring->slots)
        drop_all(ring);
    free(ring->slots);
    ring->slots = NULL;
}

void kv_ring_add(struct kv_ring *ring, struct kv_batch *batch)
{
    if (ring->next - ring->first == ring->max_batches)
        drop_first(ring);
    ring->slots[ring->next % ring->max_batches] = batch;
    ring->next++;
    ring->bytes += kv_batch_len(batch);
    while (ring->bytes > ring->max_bytes)
        drop_first(ring);
}

void kv_ring_skip(struct kv_ring *ring)
{
    drop_all(ring);
    ring->first = ++ring->next;
}

struct kv_batch *kv_ring_get(const struct kv_ring *ring, uint64_t sequence)
{
    bool held = sequence >= ring->first && sequence < ring->next;
    return held ? ring->slots[sequence % ring->max_batches] : NULL;
}

enum kv_answer kv_ring_answer(const struct kv_ring *ring, uint64_t from)
{
    return from >= ring->first && from <= ring->next ? KV_ANSWER_REPLAY : KV_ANSWER_DUMP;
}
