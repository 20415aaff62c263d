#include "kvbm/disk_format.h"

#include <string.h>

#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "pages are written as they stand in memory");

#define AT_CHECKSUM (DISK_PAGE - 8)

struct super_page {
    uint64_t magic;
    uint32_t version, zero;
    struct disk_super body;
};
_Static_assert(sizeof(struct super_page) == 88, "super_page is a disk format");

struct head_page {
    uint64_t magic;
    struct disk_head body;
};
_Static_assert(sizeof(struct head_page) == 32, "head_page is a disk format");

struct footer_page {
    uint64_t magic, sequence, segment, fill, entries_offset, entries_checksum, opened_s;
    uint32_t n_entries, zero;
};
_Static_assert(sizeof(struct footer_page) == 64, "footer_page is a disk format");

static uint64_t page_checksum(const void *page, uint64_t seed)
{
    return XXH3_64bits_withSeed(page, AT_CHECKSUM, seed);
}

void disk_page_seal(void *page, uint64_t magic, uint64_t seed)
{
    memcpy(page, &magic, sizeof magic);
    uint64_t checksum = page_checksum(page, seed);
    memcpy((uint8_t *)page + AT_CHECKSUM, &checksum, sizeof checksum);
}

static bool page_is(const void *page, uint64_t magic, uint64_t seed)
{
    uint64_t found, checksum;
    memcpy(&found, page, sizeof found);
    if (found != magic)
        return false;
    memcpy(&checksum, (const uint8_t *)page + AT_CHECKSUM, sizeof checksum);
    return checksum == page_checksum(page, seed);
}

static void write_page(void *page, const void *body, size_t bytes, uint64_t magic, uint64_t seed)
{
    memset(page, 0, DISK_PAGE);
    memcpy(page, body, bytes);
    disk_page_seal(page, magic, seed);
}

void disk_super_encode(const struct disk_super *s, void *page)
{
    const struct super_page p = { .version = DISK_VERSION, .body = *s };
    write_page(page, &p, sizeof p, DISK_MAGIC_SUPER, 0);
}

status disk_super_decode(const void *page, struct disk_super *out)
{
    struct super_page p;
    if (!page_is(page, DISK_MAGIC_SUPER, 0))
        return ST_CORRUPT;
    memcpy(&p, page, sizeof p);
    if (p.version != DISK_VERSION)
        return ST_UNSUPPORTED;
    if (p.body.segment_bytes < 4 * DISK_PAGE || p.body.segment_bytes % DISK_PAGE || !p.body.n_segments)
        return ST_CORRUPT;
    *out = p.body;
    return ST_OK;
}

void disk_head_encode(const struct disk_head *h, uint64_t store, void *page)
{
    const struct head_page p = { .body = *h };
    write_page(page, &p, sizeof p, DISK_MAGIC_HEAD, store);
}

status disk_head_decode(const void *page, uint64_t store, struct disk_head *out)
{
    struct head_page p;
    if (!page_is(page, DISK_MAGIC_HEAD, store))
        return ST_CORRUPT;
    memcpy(&p, page, sizeof p);
    *out = p.body;
    return ST_OK;
}

status disk_record_decode(const void *page, uint64_t store, uint32_t max_payload, struct disk_record_page *out)
{
    if (!page_is(page, DISK_MAGIC_RECORD, store))
        return ST_CORRUPT;
    memcpy(out, page, sizeof *out);
    if (!out->payload_bytes || out->payload_bytes > max_payload || out->n_tokens > DISK_MAX_TOKENS)
        return ST_CORRUPT;
    return ST_OK;
}

void disk_footer_encode(const struct disk_footer *f, uint64_t store, void *buffer)
{
    const size_t used = f->n_entries * sizeof(struct disk_entry);
    const size_t room = disk_footer_bytes(f->n_entries) - DISK_PAGE;
    const struct footer_page p = {
        .sequence = f->sequence,
        .segment = f->segment,
        .fill = f->fill,
        .entries_offset = f->entries_offset,
        .entries_checksum = XXH3_64bits_withSeed(buffer, used, store),
        .opened_s = f->opened_s,
        .n_entries = f->n_entries,
    };
    memset((uint8_t *)buffer + used, 0, room - used);
    write_page((uint8_t *)buffer + room, &p, sizeof p, DISK_MAGIC_FOOTER, store);
}

status disk_footer_decode(const void *page, uint64_t store, uint64_t segment_bytes, struct disk_footer *out)
{
    struct footer_page p;
    if (!page_is(page, DISK_MAGIC_FOOTER, store))
        return ST_CORRUPT;
    memcpy(&p, page, sizeof p);
    uint64_t bytes = disk_footer_bytes(p.n_entries);
    if (bytes > segment_bytes || p.entries_offset != segment_bytes - bytes || p.fill > p.entries_offset ||
        p.fill < DISK_PAGE)
        return ST_CORRUPT;
    *out = (struct disk_footer){ .sequence = p.sequence,
                                 .segment = p.segment,
                                 .fill = p.fill,
                                 .entries_offset = p.entries_offset,
                                 .entries_checksum = p.entries_checksum,
                                 .opened_s = p.opened_s,
                                 .n_entries = p.n_entries };
    return ST_OK;
}

static bool entry_fits(const struct disk_entry *e, uint64_t from, uint64_t to, uint32_t max_payload)
{
    if (e->offset < from || e->offset % DISK_PAGE || e->extent_bytes % DISK_PAGE || !e->extent_bytes)
        return false;
    if (e->offset > to || e->extent_bytes > to - e->offset)
        return false;
    if (e->flags & DISK_ENTRY_TORN)
        return true;
    return e->payload_bytes && e->payload_bytes <= max_payload && e->extent_bytes == disk_extent(e->payload_bytes);
}

status disk_entries_check(const struct disk_entry *entries, const struct disk_footer *f, uint64_t store,
                          uint32_t max_payload)
{
    if (XXH3_64bits_withSeed(entries, f->n_entries * sizeof *entries, store) != f->entries_checksum)
        return ST_CORRUPT;
    uint64_t from = DISK_PAGE;
    for (uint32_t i = 0; i < f->n_entries; i++) {
        if (!entry_fits(&entries[i], from, f->fill, max_payload))
            return ST_CORRUPT;
        from = entries[i].offset + entries[i].extent_bytes;
    }
    return ST_OK;
}
