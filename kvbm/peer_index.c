#include "kvbm/peer_index.h"

#include <stdlib.h>

#define CELLS 8u /* of a bucket */

struct cell {
    uint64_t hash;       /* its low half */
    struct peer_set who; /* nobody: the cell is free */
};

struct peer_index {
    struct cell *cells; /* [n_buckets * CELLS] */
    uint64_t n_buckets, n_blocks;
    uint32_t turn; /* which cell of a full bucket makes room next */
};

status peer_index_create(uint64_t n_blocks, struct peer_index **out)
{
    struct peer_index *index = calloc(1, sizeof *index);
    if (!index)
        return ST_NO_MEMORY;
    index->n_buckets = n_blocks / CELLS * 5 / 4 + 1; /* few of them are full while n_blocks are known */
    index->cells = calloc(index->n_buckets, CELLS * sizeof *index->cells);
    if (!index->cells) {
        free(index);
        return ST_NO_MEMORY;
    }
    *out = index;
    return ST_OK;
}

void peer_index_destroy(struct peer_index **index)
{
    if (*index)
        free((*index)->cells);
    free(*index);
    *index = NULL;
}

static struct cell *bucket_of(const struct peer_index *index, uint64_t hash)
{
    return &index->cells[(hash >> 32) * index->n_buckets / ((uint64_t)UINT32_MAX + 1) * CELLS];
}

static bool is_free(const struct cell *cell)
{
    return !(cell->who.in_memory | cell->who.on_disk);
}

/* NULL: nobody is known to have it. */
static struct cell *find(const struct peer_index *index, struct block_hash hash)
{
    struct cell *bucket = bucket_of(index, hash.low);
    for (uint32_t i = 0; i < CELLS; i++)
        if (bucket[i].hash == hash.low && !is_free(&bucket[i]))
            return &bucket[i];
    return NULL;
}

static struct cell *make(struct peer_index *index, struct block_hash hash)
{
    struct cell *bucket = bucket_of(index, hash.low), *cell = NULL;
    for (uint32_t i = 0; i < CELLS && !cell; i++)
        if (is_free(&bucket[i]))
            cell = &bucket[i];
    if (!cell)
        cell = &bucket[index->turn++ % CELLS];
    index->n_blocks += is_free(cell);
    *cell = (struct cell){ .hash = hash.low };
    return cell;
}

void peer_index_add(struct peer_index *index, uint32_t peer, bool on_disk, struct block_hash hash)
{
    struct cell *cell = find(index, hash);
    ASSERT(peer < PEER_INDEX_PEERS);
    if (!cell)
        cell = make(index, hash);
    *(on_disk ? &cell->who.on_disk : &cell->who.in_memory) |= UINT64_C(1) << peer;
}

static void forget(struct peer_index *index, struct cell *cell, uint64_t in_memory, uint64_t on_disk)
{
    bool was_free = is_free(cell);
    cell->who.in_memory &= ~in_memory;
    cell->who.on_disk &= ~on_disk;
    index->n_blocks -= !was_free && is_free(cell);
}

void peer_index_remove(struct peer_index *index, uint32_t peer, bool on_disk, struct block_hash hash)
{
    struct cell *cell = find(index, hash);
    uint64_t bit = UINT64_C(1) << peer;
    if (cell)
        forget(index, cell, on_disk ? 0 : bit, on_disk ? bit : 0);
}

void peer_index_clear(struct peer_index *index, uint32_t peer)
{
    uint64_t bit = UINT64_C(1) << peer;
    for (uint64_t i = 0; i < index->n_buckets * CELLS; i++)
        if ((index->cells[i].who.in_memory | index->cells[i].who.on_disk) & bit)
            forget(index, &index->cells[i], bit, bit);
}

struct peer_set peer_index_find(const struct peer_index *index, struct block_hash hash)
{
    const struct cell *cell = find(index, hash);
    return cell ? cell->who : (struct peer_set){ 0, 0 };
}

uint64_t peer_index_blocks(const struct peer_index *index)
{
    return index->n_blocks;
}
