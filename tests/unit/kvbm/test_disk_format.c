/* Pages of the disk tier: what is encoded is decoded, and no flipped bit passes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "kvbm/disk_format.h"

#define STORE   UINT64_C(0x1234567890)
#define SEGMENT (64u << 10)

static _Alignas(8) uint8_t page[DISK_PAGE];

/* Decoders of one kind of page, behind one shape. */
static status decode_super(void)
{
    struct disk_super s;
    return disk_super_decode(page, &s);
}

static status decode_head(void)
{
    struct disk_head h;
    return disk_head_decode(page, STORE, &h);
}

static status decode_record(void)
{
    struct disk_record_page r;
    return disk_record_decode(page, STORE, 8192, &r);
}

static status decode_footer(void)
{
    struct disk_footer f;
    return disk_footer_decode(page, STORE, SEGMENT, &f);
}

static void every_bit_counts(status (*decode)(void))
{
    assert_int_equal(decode(), ST_OK);
    for (unsigned i = 0; i < 8 * DISK_PAGE; i += 7) {
        page[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_int_not_equal(decode(), ST_OK);
        page[i / 8] ^= (uint8_t)(1u << i % 8);
    }
}

static void superblocks(void **state)
{
    (void)state;
    struct disk_super s = { .store = 1, .written = 2, .segment_bytes = SEGMENT, .n_segments = 4, .wear_left = -5 }, d;
    disk_super_encode(&s, page);
    assert_int_equal(disk_super_decode(page, &d), ST_OK);
    assert_memory_equal(&s, &d, sizeof s);
    every_bit_counts(decode_super);
    page[8]++; /* another version, and whole */
    disk_page_seal(page, DISK_MAGIC_SUPER, 0);
    assert_int_equal(disk_super_decode(page, &d), ST_UNSUPPORTED);
    s.segment_bytes = 5000;
    disk_super_encode(&s, page);
    assert_int_equal(disk_super_decode(page, &d), ST_CORRUPT);
}

static void heads_are_of_one_store(void **state)
{
    (void)state;
    const struct disk_head h = { .sequence = 3, .segment = 2, .opened_s = 9 };
    struct disk_head d;
    disk_head_encode(&h, STORE, page);
    assert_int_equal(disk_head_decode(page, STORE, &d), ST_OK);
    assert_memory_equal(&h, &d, sizeof h);
    assert_int_equal(disk_head_decode(page, STORE + 1, &d), ST_CORRUPT);
    every_bit_counts(decode_head);
}

static void records_fit(void **state)
{
    (void)state;
    struct disk_record_page r = { .payload_bytes = 8192, .n_tokens = DISK_MAX_TOKENS }, d;
    const uint32_t payloads[] = { 0, 8193 };
    memset(page, 0, sizeof page);
    memcpy(page, &r, sizeof r);
    disk_page_seal(page, DISK_MAGIC_RECORD, STORE);
    every_bit_counts(decode_record);
    for (int i = 0; i < 3; i++) {
        r.payload_bytes = i < 2 ? payloads[i] : 1;
        r.n_tokens = i < 2 ? 0 : DISK_MAX_TOKENS + 1;
        memcpy(page, &r, sizeof r);
        disk_page_seal(page, DISK_MAGIC_RECORD, STORE);
        assert_int_equal(disk_record_decode(page, STORE, 8192, &d), ST_CORRUPT);
    }
}

static struct disk_footer footer_of(struct disk_entry *entries, uint32_t n, uint8_t *buffer)
{
    struct disk_footer f = { .sequence = 1,
                             .segment = 2,
                             .fill = SEGMENT / 2,
                             .entries_offset = SEGMENT - disk_footer_bytes(n),
                             .n_entries = n };
    memcpy(buffer, entries, n * sizeof *entries);
    disk_footer_encode(&f, STORE, buffer);
    memcpy(page, buffer + disk_footer_bytes(n) - DISK_PAGE, DISK_PAGE);
    f.entries_checksum = XXH3_64bits_withSeed(buffer, n * sizeof *entries, STORE);
    return f;
}

static void footers_and_their_entries(void **state)
{
    (void)state;
    static _Alignas(8) uint8_t buffer[4 * DISK_PAGE];
    struct disk_entry e[2] = { { .offset = 4096, .payload_bytes = 5000, .extent_bytes = 3 * 4096 },
                               { .offset = 4 * 4096, .extent_bytes = 4096, .flags = DISK_ENTRY_TORN } };
    struct disk_footer f = footer_of(e, 2, buffer), d;
    every_bit_counts(decode_footer);
    assert_int_equal(disk_footer_decode(page, STORE, SEGMENT, &d), ST_OK);
    assert_int_equal(disk_entries_check((struct disk_entry *)(void *)buffer, &d, STORE, 8192), ST_OK);
    assert_int_equal(disk_footer_decode(page, STORE, 2 * SEGMENT, &d), ST_CORRUPT);
    buffer[3] ^= 1;
    assert_int_equal(disk_entries_check((struct disk_entry *)(void *)buffer, &f, STORE, 8192), ST_CORRUPT);
    /* Whole, but not what a tier writes: overlapping, beyond the records, of a wrong length, unaligned, too large. */
    const struct disk_entry bad[] = {
        { .offset = 3 * 4096, .extent_bytes = 4096, .flags = DISK_ENTRY_TORN },
        { .offset = SEGMENT / 2, .extent_bytes = 4096, .flags = DISK_ENTRY_TORN },
        { .offset = 4 * 4096, .payload_bytes = 5000, .extent_bytes = 2 * 4096 },
        { .offset = 4 * 4096 + 8, .extent_bytes = 4096, .flags = DISK_ENTRY_TORN },
        { .offset = 4 * 4096, .payload_bytes = 8193, .extent_bytes = 4 * 4096 },
        { .offset = 4 * 4096, .extent_bytes = 0, .flags = DISK_ENTRY_TORN },
        { .offset = 4 * 4096, .extent_bytes = 0xfffff000, .flags = DISK_ENTRY_TORN },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        e[1] = bad[i];
        f = footer_of(e, 2, buffer);
        assert_int_equal(disk_entries_check((struct disk_entry *)(void *)buffer, &f, STORE, 8192), ST_CORRUPT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(superblocks),
        cmocka_unit_test(heads_are_of_one_store),
        cmocka_unit_test(records_fit),
        cmocka_unit_test(footers_and_their_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
