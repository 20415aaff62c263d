#include "kvbm/disk_index.h"

#include <stdlib.h>

#include <xxhash.h>

#define NONE DISK_NO_RECORD

struct salt_account {
    uint64_t salt, bytes;
    uint32_t blocks; /* 0: free */
    uint32_t next;   /* in its bucket, or in the free list */
};

struct disk_index {
    struct disk_record *records;
    disk_record_id *buckets, free;
    uint32_t max_records, used, mask; /* used: records ever taken; those of the free list lie below */
    struct salt_account *salts;
    uint32_t *salt_buckets, salt_free, max_salts, salts_used, salt_mask;
    uint64_t bytes;
    uint32_t blocks;
    void (*changed)(void *ctx, const struct disk_record *record, bool live); /* NULL: nobody watches */
    void *changed_ctx;
};

static uint32_t buckets_for(uint32_t n)
{
    uint32_t size = 64;
    while (size < n && size < UINT32_C(1) << 31)
        size *= 2;
    return size;
}

/* Empty is 0, so that fresh memory needs no touch: ids stand there plus one. */
static uint32_t get(const uint32_t *buckets, uint32_t at)
{
    return buckets[at] - 1;
}

status disk_index_create(uint32_t max_records, uint32_t max_salts, struct disk_index **out)
{
    struct disk_index *index = calloc(1, sizeof *index);
    if (!index)
        return ST_NO_MEMORY;
    const uint32_t buckets = buckets_for(max_records), salt_buckets = buckets_for(max_salts);
    index->max_records = max_records;
    index->max_salts = max_salts;
    index->mask = buckets - 1;
    index->salt_mask = salt_buckets - 1;
    index->free = index->salt_free = NONE;
    index->records = calloc(max_records, sizeof *index->records);
    index->buckets = calloc(buckets, sizeof *index->buckets);
    index->salts = calloc(max_salts, sizeof *index->salts);
    index->salt_buckets = calloc(salt_buckets, sizeof *index->salt_buckets);
    if (!index->records || !index->buckets || !index->salts || !index->salt_buckets) {
        disk_index_destroy(&index);
        return ST_NO_MEMORY;
    }
    *out = index;
    return ST_OK;
}

void disk_index_destroy(struct disk_index **index)
{
    if (!*index)
        return;
    free((*index)->records);
    free((*index)->buckets);
    free((*index)->salts);
    free((*index)->salt_buckets);
    free(*index);
    *index = NULL;
}

void disk_record_list_init(struct disk_record_list *list)
{
    *list = (struct disk_record_list){ .first = NONE, .last = NONE };
}

struct disk_record *disk_index_at(struct disk_index *index, disk_record_id id)
{
    ASSERT(id < index->used);
    return &index->records[id];
}

uint32_t disk_index_places(const struct disk_index *index)
{
    return index->used;
}

static uint32_t bucket_of(const struct disk_index *index, struct block_hash hash, uint64_t format)
{
    const uint64_t key[3] = { hash.low, hash.high, format };
    return (uint32_t)XXH3_64bits(key, sizeof key) & index->mask;
}

disk_record_id disk_index_find(const struct disk_index *index, struct block_hash hash, uint64_t format)
{
    disk_record_id id = get(index->buckets, bucket_of(index, hash, format));
    for (; id != NONE; id = index->records[id].next_in_bucket) {
        const struct disk_record *r = &index->records[id];
        if (r->hash.low == hash.low && r->hash.high == hash.high && r->format == format)
            return id;
    }
    return NONE;
}

static uint32_t *salt_link(const struct disk_index *index, uint64_t salt)
{
    uint32_t *at = &index->salt_buckets[(uint32_t)XXH3_64bits(&salt, sizeof salt) & index->salt_mask];
    while (*at && index->salts[*at - 1].salt != salt)
        at = &index->salts[*at - 1].next;
    return at;
}

static struct salt_account *salt_open(struct disk_index *index, uint64_t salt)
{
    uint32_t *at = salt_link(index, salt), id;
    if (*at)
        return &index->salts[*at - 1];
    if (index->salt_free != NONE) {
        id = index->salt_free;
        index->salt_free = index->salts[id].next;
    } else if (index->salts_used < index->max_salts) {
        id = index->salts_used++;
    } else {
        return NULL;
    }
    index->salts[id] = (struct salt_account){ .salt = salt };
    *at = id + 1;
    return &index->salts[id];
}

static void salt_close_empty(struct disk_index *index, uint64_t salt)
{
    uint32_t *at = salt_link(index, salt);
    uint32_t id = *at - 1;
    if (index->salts[id].blocks)
        return;
    *at = index->salts[id].next;
    index->salts[id].next = index->salt_free;
    index->salt_free = id;
}

static void count_in(struct disk_index *index, struct salt_account *account, const struct disk_record *r)
{
    account->bytes += r->extent_bytes;
    account->blocks++;
    index->bytes += r->extent_bytes;
    index->blocks++;
}

static void count_out(struct disk_index *index, const struct disk_record *r)
{
    struct salt_account *account = salt_open(index, r->salt);
    account->bytes -= r->extent_bytes;
    account->blocks--;
    index->bytes -= r->extent_bytes;
    index->blocks--;
    salt_close_empty(index, r->salt);
}

static bool is_found(const struct disk_record *r)
{
    return r->state == DISK_RECORD_PENDING || r->state == DISK_RECORD_LIVE;
}

void disk_index_watch(struct disk_index *index, void (*changed)(void *ctx, const struct disk_record *record, bool live),
                      void *ctx)
{
    index->changed = changed;
    index->changed_ctx = ctx;
}

static void tell(const struct disk_index *index, const struct disk_record *r, bool live)
{
    if (index->changed)
        index->changed(index->changed_ctx, r, live);
}

static disk_record_id take_record(struct disk_index *index)
{
    disk_record_id id = index->free;
    if (id != NONE)
        index->free = index->records[id].next;
    else if (index->used < index->max_records)
        id = index->used++;
    return id;
}

static void link_bucket(struct disk_index *index, disk_record_id id)
{
    struct disk_record *r = &index->records[id];
    uint32_t at = bucket_of(index, r->hash, r->format);
    r->next_in_bucket = get(index->buckets, at);
    index->buckets[at] = id + 1;
}

static void unlink_bucket(struct disk_index *index, disk_record_id id)
{
    const struct disk_record *r = &index->records[id];
    uint32_t at = bucket_of(index, r->hash, r->format);
    if (get(index->buckets, at) == id) {
        index->buckets[at] = r->next_in_bucket + 1;
        return;
    }
    disk_record_id before = get(index->buckets, at);
    while (index->records[before].next_in_bucket != id)
        before = index->records[before].next_in_bucket;
    index->records[before].next_in_bucket = r->next_in_bucket;
}

status disk_index_add(struct disk_index *index, struct disk_record_list *list, const struct disk_record *record,
                      disk_record_id *out)
{
    struct salt_account *account = NULL;
    if (index->free == NONE && index->used == index->max_records)
        return ST_LIMIT;
    if (is_found(record) && !(account = salt_open(index, record->salt)))
        return ST_LIMIT;
    disk_record_id id = take_record(index);
    struct disk_record *r = &index->records[id];
    *r = *record;
    r->next = NONE;
    if (list->last == NONE)
        list->first = id;
    else
        index->records[list->last].next = id;
    list->last = id;
    list->n++;
    if (account) {
        count_in(index, account, r);
        link_bucket(index, id);
    }
    if (r->state == DISK_RECORD_LIVE)
        tell(index, r, true);
    *out = id;
    return ST_OK;
}

void disk_index_written(struct disk_index *index, disk_record_id id)
{
    struct disk_record *r = disk_index_at(index, id);
    ASSERT(r->state == DISK_RECORD_PENDING);
    r->state = DISK_RECORD_LIVE;
    tell(index, r, true);
}

void disk_index_kill(struct disk_index *index, disk_record_id id)
{
    struct disk_record *r = disk_index_at(index, id);
    if (!is_found(r))
        return;
    const bool was_live = r->state == DISK_RECORD_LIVE;
    unlink_bucket(index, id);
    count_out(index, r);
    r->state = DISK_RECORD_DEAD;
    if (was_live)
        tell(index, r, false);
}

void disk_index_forget(struct disk_index *index, struct disk_record_list *list,
                       bool (*matches)(const struct disk_record *record, const void *arg), const void *arg)
{
    struct disk_record_list kept;
    disk_record_list_init(&kept);
    for (disk_record_id id = list->first, next; id != NONE; id = next) {
        struct disk_record *r = &index->records[id];
        next = r->next;
        r->next = NONE;
        if (matches && !matches(r, arg)) {
            if (kept.last == NONE)
                kept.first = id;
            else
                index->records[kept.last].next = id;
            kept.last = id;
            kept.n++;
            continue;
        }
        disk_index_kill(index, id);
        r->next = index->free;
        index->free = id;
    }
    *list = kept;
}

uint64_t disk_index_salt_bytes(const struct disk_index *index, uint64_t salt)
{
    uint32_t at = *salt_link(index, salt);
    return at ? index->salts[at - 1].bytes : 0;
}

uint64_t disk_index_bytes(const struct disk_index *index)
{
    return index->bytes;
}

uint32_t disk_index_blocks(const struct disk_index *index)
{
    return index->blocks;
}
