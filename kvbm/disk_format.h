/* disk_format.h - the bytes of the disk tier's file; docs/KV.md has the offsets as a table.
 * The file is two superblocks, and from DISK_FIRST_SEGMENT on segments of one size. A segment is a head page,
 * records (a page about the block, then its payload, padded to a page), and when it is finished a footer: entries,
 * one a record, and the last page, which says where they begin. Everything is little-endian. Each page ends with an
 * XXH3-64 of what stands before it, seeded with the store's random id, so that nothing of another store and
 * nothing in a payload passes for one. Decoders take any bytes and check every bound. */
#ifndef BATON_KVBM_DISK_FORMAT_H
#define BATON_KVBM_DISK_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "kvbm/block_hash.h"

#define DISK_PAGE          4096u
#define DISK_VERSION       1u
#define DISK_SUPERBLOCKS   2u /* written in turns, so that a torn one leaves the other */
#define DISK_FIRST_SEGMENT (UINT64_C(1) << 20)
#define DISK_MAX_TOKENS    512u

#define DISK_MAGIC_SUPER  UINT64_C(0x53444b4e4f544142) /* "BATONKDS" */
#define DISK_MAGIC_HEAD   UINT64_C(0x48444b4e4f544142) /* "BATONKDH" */
#define DISK_MAGIC_RECORD UINT64_C(0x52444b4e4f544142) /* "BATONKDR" */
#define DISK_MAGIC_FOOTER UINT64_C(0x46444b4e4f544142) /* "BATONKDF" */

/* What a superblock holds. */
struct disk_super {
    uint64_t store;   /* random, drawn when the store is made */
    uint64_t written; /* the higher one of two superblocks counts */
    uint64_t segment_bytes, n_segments;
    uint64_t sequence; /* the highest that a segment has had */
    int64_t wear_left; /* the wear budget at wall_s, when the newest segment was filled to wear_fill */
    uint64_t wall_s, wear_sequence, wear_fill;
};

struct disk_head {
    uint64_t sequence, segment, opened_s;
};

/* A page of disk_record_page precedes each payload. */
struct disk_record_page {
    uint64_t magic, sequence, offset; /* of the page in its segment */
    struct block_hash hash, parent;
    uint64_t format, salt, checksum, stored_s;
    uint32_t payload_bytes, n_tokens;
    uint32_t tokens[DISK_MAX_TOKENS];
    uint32_t is_first, zero; /* first of its chain: parent is a seed, not a block */
};
_Static_assert(sizeof(struct disk_record_page) == 104 + 4 * DISK_MAX_TOKENS, "disk_record_page is a disk format");
_Static_assert(sizeof(struct disk_record_page) <= DISK_PAGE - 8, "the page's checksum stands behind it");

enum disk_entry_flag {
    DISK_ENTRY_DEAD = 1,  /* dropped, or its write failed: its bytes are there still, for a wipe to find */
    DISK_ENTRY_TORN = 2,  /* bytes of unknown salt that a crash left */
    DISK_ENTRY_FIRST = 4, /* the first block of its chain */
};

struct disk_entry {
    struct block_hash hash, parent;
    uint64_t format, salt, checksum, stored_s;
    uint64_t offset; /* of the record in its segment */
    uint32_t payload_bytes, extent_bytes;
    uint32_t flags, zero;
};
_Static_assert(sizeof(struct disk_entry) == 88, "disk_entry is a disk format");

struct disk_footer {
    uint64_t sequence, segment, fill; /* fill: where the records end */
    uint64_t entries_offset;          /* in the segment */
    uint64_t entries_checksum;
    uint64_t opened_s;
    uint32_t n_entries;
};

static inline uint64_t disk_round_up(uint64_t bytes)
{
    return (bytes + DISK_PAGE - 1) / DISK_PAGE * DISK_PAGE;
}

/* Bytes of a record with its page. */
static inline uint64_t disk_extent(uint32_t payload_bytes)
{
    return DISK_PAGE + disk_round_up(payload_bytes);
}

/* Bytes of a footer of n entries, its last page included. */
static inline uint64_t disk_footer_bytes(uint64_t n_entries)
{
    return disk_round_up(n_entries * sizeof(struct disk_entry)) + DISK_PAGE;
}

/* Writes magic and checksum around what stands in page. */
void disk_page_seal(void *page, uint64_t magic, uint64_t seed);

void disk_super_encode(const struct disk_super *s, void *page);
MUST_CHECK status disk_super_decode(const void *page, struct disk_super *out);
void disk_head_encode(const struct disk_head *h, uint64_t store, void *page);
MUST_CHECK status disk_head_decode(const void *page, uint64_t store, struct disk_head *out);
/* Checks the page on its own: a payload that fits into max_payload, tokens that fit. */
MUST_CHECK status disk_record_decode(const void *page, uint64_t store, uint32_t max_payload,
                                     struct disk_record_page *out);
/* Entries stand in buffer, which has room for disk_footer_bytes(n_entries); fills in their checksum and last page. */
void disk_footer_encode(const struct disk_footer *f, uint64_t store, void *buffer);
/* The last page: bounds within a segment of segment_bytes. */
MUST_CHECK status disk_footer_decode(const void *page, uint64_t store, uint64_t segment_bytes, struct disk_footer *out);
/* The entries behind it: checksum, order, bounds. */
MUST_CHECK status disk_entries_check(const struct disk_entry *entries, const struct disk_footer *f, uint64_t store,
                                     uint32_t max_payload);

#endif
