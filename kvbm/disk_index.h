/* disk_index.h - what lies on disk: a record for each extent of each segment, found by hash and format.
 * Also what dead and torn extents there are, as a wipe must reach them, and how much each salt holds. All memory is
 * taken at create (and touched as it fills). One thread. */
#ifndef BATON_KVBM_DISK_INDEX_H
#define BATON_KVBM_DISK_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "kvbm/block_hash.h"

typedef uint32_t disk_record_id;
#define DISK_NO_RECORD UINT32_MAX

/* PENDING: being written. Only PENDING and LIVE ones are found. */
enum disk_record_state { DISK_RECORD_PENDING, DISK_RECORD_LIVE, DISK_RECORD_DEAD, DISK_RECORD_TORN };

struct disk_record {
    struct block_hash hash, parent;
    uint64_t format, salt, checksum, stored_s;
    uint64_t offset; /* in its segment */
    uint32_t payload_bytes, extent_bytes;
    uint32_t segment;
    disk_record_id next;           /* in its segment, by offset; or in the free list */
    disk_record_id next_in_bucket; /* PENDING and LIVE */
    enum disk_record_state state;
    bool hit;      /* read since it was written */
    bool is_first; /* of its chain */
};

/* Records of one segment, in order. */
struct disk_record_list {
    disk_record_id first, last;
    uint32_t n;
};

struct disk_index;

MUST_CHECK status disk_index_create(uint32_t max_records, uint32_t max_salts, struct disk_index **out);
void disk_index_destroy(struct disk_index **index);
void disk_record_list_init(struct disk_record_list *list);

struct disk_record *disk_index_at(struct disk_index *index, disk_record_id id);
/* Ids ever given, of which forgotten ones are neither PENDING nor LIVE: all are below it. */
uint32_t disk_index_places(const struct disk_index *index);
/* A PENDING or LIVE one, or DISK_NO_RECORD. */
disk_record_id disk_index_find(const struct disk_index *index, struct block_hash hash, uint64_t format);
/* Copies *record to the end of the list; its key must be new when it is PENDING or LIVE.
 * ST_LIMIT: as many records, or as many salts, as there may be. */
MUST_CHECK status disk_index_add(struct disk_index *index, struct disk_record_list *list,
                                 const struct disk_record *record, disk_record_id *out);
void disk_index_written(struct disk_index *index, disk_record_id id); /* PENDING turns LIVE */
void disk_index_kill(struct disk_index *index, disk_record_id id);    /* PENDING and LIVE turn DEAD */
/* Forgets what lies in the list and satisfies matches (NULL: all), whatever its state. */
void disk_index_forget(struct disk_index *index, struct disk_record_list *list,
                       bool (*matches)(const struct disk_record *record, const void *arg), const void *arg);

/* Told of each record that becomes LIVE, and of each LIVE one that no longer is. One at a time. */
void disk_index_watch(struct disk_index *index, void (*changed)(void *ctx, const struct disk_record *record, bool live),
                      void *ctx);

/* LIVE and PENDING extents. */
uint64_t disk_index_salt_bytes(const struct disk_index *index, uint64_t salt);
uint64_t disk_index_bytes(const struct disk_index *index);
uint32_t disk_index_blocks(const struct disk_index *index);

#endif
