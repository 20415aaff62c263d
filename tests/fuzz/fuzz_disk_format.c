/* Pages of the disk tier's file. The first byte says which kind, the rest is its beginning. Magic and checksums are
 * made right, so that what stands behind them is reached; odd kinds leave them as they are. */
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "kvbm/disk_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STORE       UINT64_C(99)
#define SEGMENT     (256u << 10)
#define MAX_PAYLOAD 16384u
#define FOOTER_HEAD 64u /* bytes of a footer's last page that are not zero */

static _Alignas(8) uint8_t page[DISK_PAGE];

static void check_entries(const struct disk_footer *f, const uint8_t *data, size_t size)
{
    struct disk_footer footer = *f;
    const size_t bytes = f->n_entries * sizeof(struct disk_entry);
    struct disk_entry *entries = calloc(1, bytes ? bytes : 1); /* exact, so that a read past the end is seen */
    if (!entries)
        abort();
    memcpy(entries, data, size < bytes ? size : bytes);
    footer.entries_checksum = XXH3_64bits_withSeed(entries, bytes, STORE);
    uint64_t end = DISK_PAGE;
    if (disk_entries_check(entries, &footer, STORE, MAX_PAYLOAD) == ST_OK)
        for (uint32_t i = 0; i < f->n_entries; i++) {
            if (entries[i].offset < end || entries[i].extent_bytes > f->fill - entries[i].offset)
                abort();
            end = entries[i].offset + entries[i].extent_bytes;
        }
    free(entries);
}

static void check_footer(const uint8_t *data, size_t size)
{
    struct disk_footer f;
    if (disk_footer_decode(page, STORE, SEGMENT, &f) != ST_OK)
        return;
    if (f.fill > f.entries_offset || f.entries_offset + disk_footer_bytes(f.n_entries) != SEGMENT)
        abort();
    check_entries(&f, data, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t magics[] = { DISK_MAGIC_SUPER, DISK_MAGIC_HEAD, DISK_MAGIC_RECORD, DISK_MAGIC_FOOTER };
    struct disk_super super;
    struct disk_head head;
    struct disk_record_page record;
    if (!size)
        return 0;
    const unsigned kind = data[0] / 2 % 4;
    const size_t most = kind == 3 ? FOOTER_HEAD : DISK_PAGE, n = size - 1 < most ? size - 1 : most;
    memset(page, 0, sizeof page);
    memcpy(page, data + 1, n);
    if (data[0] % 2 == 0)
        disk_page_seal(page, magics[kind], kind ? STORE : 0);
    if (disk_super_decode(page, &super) == ST_OK && (!super.n_segments || super.segment_bytes % DISK_PAGE))
        abort();
    (void)!disk_head_decode(page, STORE, &head);
    if (disk_record_decode(page, STORE, MAX_PAYLOAD, &record) == ST_OK &&
        (record.payload_bytes > MAX_PAYLOAD || record.n_tokens > DISK_MAX_TOKENS))
        abort();
    check_footer(data + 1 + n, size - 1 - n);
    return 0;
}
