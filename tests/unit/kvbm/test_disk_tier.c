/* The disk tier on a simulated disk: what it keeps, refuses and survives. */
#include "disk_rig.h"
#include "kvbm/disk_tier_internal.h"

static void a_block_comes_back(void **state)
{
    (void)state;
    struct disk_rig rig;
    rig_init(&rig, 8);
    rig_open(&rig);
    rig_store(&rig, 1, 5);
    assert_int_equal(rig_get(&rig, 1, 5), ST_OK);
    assert_int_equal(rig_get(&rig, 2, 5), ST_NOT_FOUND);
    struct rig_end end;
    assert_int_equal(rig_put(&rig, 1, 5, &end), DISK_PRESENT);
    struct disk_metrics m = rig_metrics(&rig);
    assert_int_equal(m.blocks, 1);
    assert_int_equal(m.bytes, RIG_EXTENT);
    assert_int_equal(m.reads, 1);
    assert_int_equal(m.writes, 1);
    assert_int_equal(m.refused[DISK_PRESENT], 1);
    rig_free(&rig);
}

static void reopen(struct disk_rig *rig)
{
    disk_tier_destroy(&rig->tier);
    rig_open(rig);
}

static void crash(struct disk_rig *rig, bool power)
{
    simulated_crash(&rig->disk, power);
    disk_tier_destroy(&rig->tier);
    rig_open(rig);
}

/* Enough for finished segments and one that is not. */
static void blocks_outlive_the_process(void **state)
{
    (void)state;
    for (int way = 0; way < 2; way++) {
        struct disk_rig rig;
        rig_init(&rig, 12);
        rig_open(&rig);
        for (uint32_t i = 0; i < 23; i++)
            rig_store(&rig, i, 5);
        if (way)
            crash(&rig, false);
        else
            reopen(&rig);
        assert_int_equal(rig_metrics(&rig).blocks, 23);
        for (uint32_t i = 0; i < 23; i++)
            assert_int_equal(rig_get(&rig, i, 5), ST_OK);
        /* The segment that was open goes on. */
        rig_store(&rig, 100, 5);
        reopen(&rig);
        assert_int_equal(rig_get(&rig, 100, 5), ST_OK);
        assert_int_equal(rig_metrics(&rig).errors[DISK_ERROR_TORN], 0);
        rig_free(&rig);
    }
}

static void who_asks_for_another_block_gets_none(void **state)
{
    (void)state;
    struct disk_rig rig;
    struct rig_block b;
    struct rig_end end = { 0 };
    uint8_t got[RIG_PAYLOAD];
    const struct disk_call call = { RIG_FOREVER, rig_ended, &end };
    rig_init(&rig, 8);
    rig_open(&rig);
    rig_store(&rig, 1, 5);
    for (int what = 0; what < 4; what++) {
        rig_block(&b, 1, 5);
        b.tokens[RIG_TOKENS - 1] ^= what == 0;
        b.block.parent.high ^= what == 1;
        b.block.salt ^= what == 2;
        b.block.n_tokens -= what == 3;
        end = (struct rig_end){ 0 };
        assert_int_equal(disk_tier_get(rig.tier, &b.block, got, &call, NULL), ST_OK);
        rig_settle(&rig);
        assert_int_equal(end.st, ST_NOT_FOUND);
    }
    rig_block(&b, 1, 5);
    b.block.payload_bytes--;
    assert_int_equal(disk_tier_get(rig.tier, &b.block, got, &call, NULL), ST_NOT_FOUND);
    assert_int_equal(rig_metrics(&rig).errors[DISK_ERROR_FOREIGN], 5);
    assert_int_equal(rig_get(&rig, 1, 5), ST_OK);
    rig_free(&rig);
}

static void a_damaged_block_is_dropped(void **state)
{
    (void)state;
    struct disk_rig rig;
    rig_init(&rig, 8);
    rig_open(&rig);
    rig_store(&rig, 1, 5);
    rig_store(&rig, 2, 5);
    /* A bit of the padding is nobody's loss, so one of the payload. */
    const uint64_t record = (1u << 20) + 4096;
    rig.disk.seen[record + 4096 + 77] ^= 4;
    assert_int_equal(rig_get(&rig, 1, 5), ST_CORRUPT);
    assert_int_equal(rig_get(&rig, 1, 5), ST_NOT_FOUND);
    assert_int_equal(rig_get(&rig, 2, 5), ST_OK);
    assert_int_equal(rig_metrics(&rig).errors[DISK_ERROR_CHECKSUM], 1);
    assert_int_equal(rig_metrics(&rig).health, DISK_IS_HEALTHY);
    rig_free(&rig);
}

static void a_damaged_payload_is_not_taken(void **state)
{
    (void)state;
    struct disk_rig rig;
    struct rig_block b;
    struct rig_end end = { 0 };
    const struct disk_call call = { RIG_FOREVER, rig_ended, &end };
    rig_init(&rig, 8);
    rig_open(&rig);
    rig_settle(&rig);
    rig_block(&b, 1, 5);
    b.payload[99] ^= 1;
    assert_int_equal(disk_tier_put(rig.tier, &b.block, b.payload, &call, NULL), DISK_CHECKSUM);
    b.block.payload_bytes = 8193;
    assert_int_equal(disk_tier_put(rig.tier, &b.block, b.payload, &call, NULL), DISK_SIZE);
    rig_free(&rig);
}

static void a_read_error_costs_a_block(void **state)
{
    (void)state;
    static const int errors[] = { EIO, SIMULATED_SHORT };
    for (int i = 0; i < 2; i++) {
        struct disk_rig rig;
        rig_init(&rig, 8);
        rig_open(&rig);
        rig_store(&rig, 1, 5);
        rig_store(&rig, 2, 5);
        rig.disk.error = errors[i];
        rig.disk.fail[DISK_IO_READ] = 1;
        assert_int_equal(rig_get(&rig, 1, 5), ST_IO);
        assert_int_equal(rig_get(&rig, 1, 5), ST_NOT_FOUND);
        assert_int_equal(rig_get(&rig, 2, 5), ST_OK);
        assert_int_equal(rig_metrics(&rig).errors[i ? DISK_ERROR_SHORT : DISK_ERROR_READ], 1);
        rig_free(&rig);
    }
}

static void a_write_error_makes_it_read_only_until_a_probe(void **state)
{
    (void)state;
    static const struct {
        int error;
        enum disk_error counted;
    } cases[] = { { EIO, DISK_ERROR_WRITE }, { ENOSPC, DISK_ERROR_NO_SPACE }, { SIMULATED_SHORT, DISK_ERROR_SHORT } };
    for (int i = 0; i < 3; i++) {
        struct disk_rig rig;
        struct rig_end end;
        rig_init(&rig, 8);
        rig_open(&rig);
        rig_store(&rig, 1, 5);
        rig_settle(&rig);
        rig.disk.error = cases[i].error;
        rig.disk.fail[DISK_IO_WRITE] = 1;
        assert_int_equal(rig_put(&rig, 2, 5, &end), DISK_TAKEN);
        rig_settle(&rig);
        assert_int_equal(end.st, ST_IO);
        assert_int_equal(rig_metrics(&rig).errors[cases[i].counted], 1);
        assert_int_equal(rig_metrics(&rig).health, DISK_IS_READ_ONLY);
        assert_int_equal(rig_put(&rig, 3, 5, &end), DISK_READ_ONLY);
        assert_int_equal(rig_get(&rig, 1, 5), ST_OK);
        assert_int_equal(rig_get(&rig, 2, 5), ST_NOT_FOUND);
        rig.disk.fail[DISK_IO_WRITE] = 1; /* the first probe fails as well */
        rig.now_us = disk_tier_next_us(rig.tier);
        rig_settle(&rig);
        assert_int_equal(rig_metrics(&rig).health, DISK_IS_READ_ONLY);
        rig.now_us = disk_tier_next_us(rig.tier);
        rig_settle(&rig);
        assert_int_equal(rig_metrics(&rig).health, DISK_IS_HEALTHY);
        rig_store(&rig, 2, 5);
        reopen(&rig);
        assert_int_equal(rig_get(&rig, 1, 5), ST_OK);
        assert_int_equal(rig_get(&rig, 2, 5), ST_OK);
        rig_free(&rig);
    }
}

static void a_full_disk_takes_what_it_has_room_for(void **state)
{
    (void)state;
    struct disk_rig rig;
    rig_init(&rig, 8);
    rig.disk.room = (1u << 20) + 3 * RIG_SEGMENT; /* of eight */
    rig_open(&rig);
    rig_settle(&rig);
    uint32_t taken = 0;
    for (uint32_t i = 0; i < 40; i++) {
        struct rig_end end;
        taken += rig_put(&rig, i, 5, &end) == DISK_TAKEN;
        rig_settle(&rig);
    }
    struct disk_metrics m = rig_metrics(&rig);
    assert_in_range(taken, 8, 15);
    assert_int_equal(m.blocks, taken);
    assert_int_equal(m.health, DISK_IS_READ_ONLY);
    assert_in_range(m.errors[DISK_ERROR_NO_SPACE], 1, 100);
    assert_int_equal(rig_get(&rig, 0, 5), ST_OK);
    /* Somebody makes room. */
    rig.disk.room = (1u << 20) + 8 * RIG_SEGMENT;
    rig.now_us = disk_tier_next_us(rig.tier);
    rig_settle(&rig);
    rig_store(&rig, 41, 5);
    rig_free(&rig);
}

static void a_hung_disk_costs_the_deadline(void **state)
{
    (void)state;
    struct disk_rig rig;
    struct rig_block b;
    struct rig_end end = { 0 }, put_end;
    uint8_t got[RIG_PAYLOAD] = { 0 };
    rig_init(&rig, 8);
    rig_open(&rig);
    rig_store(&rig, 1, 5);
    rig.disk.hung = true;
    rig_block(&b, 1, 5);
    const struct disk_call call = { rig.now_us + 5000, rig_ended, &end };
    assert_int_equal(disk_tier_get(rig.tier, &b.block, got, &call, NULL), ST_OK);
    assert_int_equal(disk_tier_next_us(rig.tier), rig.now_us + 5000);
    rig.now_us += 4999;
    disk_tier_run(rig.tier);
    assert_int_equal(end.calls, 0);
    rig.now_us += 1;
    disk_tier_run(rig.tier);
    assert_int_equal(end.calls, 1);
    assert_int_equal(end.st, ST_TIMEOUT);
    /* What it cannot end fills it up, and is refused. */
    int taken = 0;
    for (uint32_t i = 10; i < 30; i++)
        taken += rig_put(&rig, i, 5, &put_end) == DISK_TAKEN;
    assert_in_range(taken, 1, 6);
    rig.disk.hung = false;
    rig_settle(&rig);
    assert_int_equal(end.calls, 1); /* its late end is nobody's */
    assert_int_equal(got[0], 0);
    assert_int_equal(rig_get(&rig, 1, 5), ST_OK);
    assert_int_equal(rig_metrics(&rig).timeouts, 1);
    rig_free(&rig);
}

static void a_cancel_ends_at_once(void **state)
{
    (void)state;
    struct disk_rig rig;
    struct rig_block b;
    struct rig_end end = { 0 };
    uint8_t got[RIG_PAYLOAD] = { 0 };
    uint64_t ticket;
    const struct disk_call call = { RIG_FOREVER, rig_ended, &end };
    rig_init(&rig, 8);
    rig_open(&rig);
    rig_store(&rig, 1, 5);
    rig_block(&b, 1, 5);
    assert_int_equal(disk_tier_get(rig.tier, &b.block, got, &call, &ticket), ST_OK);
    disk_tier_cancel(rig.tier, ticket);
    assert_int_equal(end.calls, 1);
    assert_int_equal(end.st, ST_CANCELLED);
    rig_settle(&rig);
    disk_tier_cancel(rig.tier, ticket);
    assert_int_equal(end.calls, 1);
    assert_int_equal(got[0], 0);
    rig_free(&rig);
}

static void operations_are_bounded_and_gets_have_places_left(void **state)
{
    (void)state;
    struct disk_rig rig;
    struct rig_end end;
    struct rig_block b;
    uint8_t got[RIG_PAYLOAD];
    const struct disk_call call = { RIG_FOREVER, rig_ended, &end };
    rig_init(&rig, 16);
    rig.options.segment_bytes = 4 * RIG_SEGMENT;
    rig_open(&rig);
    rig_store(&rig, 1, 5);
    rig.disk.hung = true;
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(rig_put(&rig, 10 + i, 5, &end), DISK_TAKEN);
    assert_int_equal(rig_put(&rig, 20, 5, &end), DISK_BUSY);
    rig_block(&b, 1, 5);
    assert_int_equal(disk_tier_get(rig.tier, &b.block, got, &call, NULL), ST_OK);
    assert_int_equal(disk_tier_get(rig.tier, &b.block, got, &call, NULL), ST_OK);
    assert_int_equal(disk_tier_get(rig.tier, &b.block, got, &call, NULL), ST_AGAIN);
    rig.disk.hung = false;
    rig_settle(&rig);
    assert_int_equal(rig_metrics(&rig).blocks, 7);
    rig_free(&rig);
}

static void a_salt_has_a_quota(void **state)
{
    (void)state;
    struct disk_rig rig;
    struct rig_end end;
    rig_init(&rig, 8);
    rig.options.salt_quota_bytes = 2 * RIG_EXTENT;
    rig_open(&rig);
    rig_store(&rig, 1, 5);
    rig_store(&rig, 2, 5);
    assert_int_equal(rig_put(&rig, 3, 5, &end), DISK_QUOTA);
    rig_store(&rig, 3, 6);
    struct rig_block b;
    rig_block(&b, 1, 5);
    disk_tier_drop(rig.tier, b.block.hash, b.block.format);
    assert_int_equal(rig_get(&rig, 1, 5), ST_NOT_FOUND);
    rig_store(&rig, 4, 5);
    rig_free(&rig);
}

static void wear_is_budgeted_over_restarts(void **state)
{
    (void)state;
    struct disk_rig rig;
    struct rig_end end;
    rig_init(&rig, 32);
    rig.options.wear_bytes_per_day = 24 * 3600 * 10; /* ten bytes a second; a segment at once */
    rig_open(&rig);
    rig_settle(&rig);
    uint32_t n = 0;
    for (; n < 50 && rig_put(&rig, n, 5, &end) == DISK_TAKEN; n++)
        rig_settle(&rig);
    assert_in_range(n, 2, 5);
    assert_int_equal(rig_metrics(&rig).refused[DISK_WEAR], 1);
    for (int way = 0; way < 2; way++) {
        int64_t left = rig_metrics(&rig).wear_left;
        if (way)
            crash(&rig, false);
        else
            reopen(&rig);
        assert_int_equal(rig_put(&rig, 50, 5, &end), DISK_WEAR);
        /* Heads of segments may have cost a page or two more. */
        assert_in_range((uint64_t)(left - rig_metrics(&rig).wear_left), 0, 5 * 4096);
    }
    rig.wall_s += 100;
    rig.now_us += 1000000; /* another second passes while it is open */
    int64_t left = rig_metrics(&rig).wear_left;
    reopen(&rig);
    assert_in_range((uint64_t)(rig_metrics(&rig).wear_left - left + 4096), 990, 4096 + 1010);
    rig.now_us += 3600 * UINT64_C(1000000);
    rig_store(&rig, 50, 5);
    rig_free(&rig);
}

/* Written twice over: the oldest go, what was read stays. */
static void the_oldest_segment_makes_room(void **state)
{
    (void)state;
    struct disk_rig rig;
    rig_init(&rig, 6);
    rig_open(&rig);
    for (uint32_t i = 0; i < 60; i++) {
        rig_store(&rig, i, 5);
        assert_int_equal(rig_get(&rig, 0, 5), ST_OK);
    }
    struct disk_metrics m = rig_metrics(&rig);
    assert_in_range(m.evicted, 20, 59);
    assert_in_range(m.readmitted, 1, 20);
    assert_int_equal(rig_get(&rig, 1, 5), ST_NOT_FOUND);
    assert_int_equal(rig_get(&rig, 59, 5), ST_OK);
    assert_int_equal(m.blocks + m.evicted, 60);
    assert_int_equal(m.errors[DISK_ERROR_CHECKSUM], 0);
    reopen(&rig);
    assert_int_equal(rig_get(&rig, 0, 5), ST_OK);
    assert_int_equal(rig_get(&rig, 59, 5), ST_OK);
    rig_free(&rig);
}

/* Pages of freed segments read as zeros, with holes and without. */
static void freed_segments_are_cleared(void **state)
{
    (void)state;
    for (int way = 0; way < 2; way++) {
        struct disk_rig rig;
        rig_init(&rig, 6);
        rig.disk.no_punch = way;
        rig_open(&rig);
        for (uint32_t i = 0; i < 10; i++)
            rig_store(&rig, i, 9);
        assert_true(rig_holds_salt(&rig, 9));
        for (uint32_t i = 0; i < 60; i++)
            rig_store(&rig, i, 5);
        assert_false(rig_holds_salt(&rig, 9));
        rig_free(&rig);
    }
}

static void wipe(struct disk_rig *rig, const uint64_t *salt, struct rig_end *end)
{
    const struct disk_wipe_call call = { salt, RIG_FOREVER, rig_wiped, end };
    *end = (struct rig_end){ 0 };
    assert_int_equal(disk_tier_wipe(rig->tier, &call), ST_OK);
}

/* Whether a piece of its payloads lies in a buffer of the tier still. */
static bool buffers_hold_salt(const struct disk_rig *rig, uint64_t salt)
{
    const uint32_t mark = (uint32_t)salt * 0x01010101u;
    bool found = false;
    for (uint32_t i = 0; i <= rig->options.slots; i++) {
        const uint8_t *buffer = i == rig->options.slots ? rig->tier->reclaimer_buffer : rig->tier->slots[i].buffer;
        for (uint32_t at = 4096; at + 8 <= RIG_EXTENT; at += 8)
            found |= memcmp(buffer + at, &mark, sizeof mark) == 0;
    }
    return found;
}

static void a_wipe_leaves_nothing(void **state)
{
    (void)state;
    const uint64_t salt = 9;
    for (int way = 0; way < 2; way++) {
        struct disk_rig rig;
        struct rig_end end;
        struct rig_block b;
        rig_init(&rig, 12);
        rig_open(&rig);
        for (uint32_t i = 0; i < 12; i++)
            rig_store(&rig, i, i % 3 ? 9 : 5);
        rig_block(&b, 1, 9);
        disk_tier_drop(rig.tier, b.block.hash, b.block.format); /* forgotten, but there */
        if (way)
            reopen(&rig);
        rig_settle(&rig);
        assert_true(rig_holds_salt(&rig, 9));
        assert_int_equal(rig_get(&rig, 4, 9), ST_OK);
        assert_true(buffers_hold_salt(&rig, 9));
        wipe(&rig, &salt, &end);
        assert_int_equal(rig_get(&rig, 2, 9), ST_NOT_FOUND);
        struct rig_end put_end;
        assert_int_equal(rig_put(&rig, 50, 9, &put_end), DISK_WIPING);
        rig_settle(&rig);
        assert_int_equal(end.calls, 1);
        assert_int_equal(end.st, ST_OK);
        assert_int_equal(end.bytes, 8 * RIG_EXTENT);
        assert_false(rig_holds_salt(&rig, 9) || buffers_hold_salt(&rig, 9));
        for (uint32_t i = 0; i < 12; i += 3)
            assert_int_equal(rig_get(&rig, i, 5), ST_OK);
        crash(&rig, true); /* it is durable */
        assert_false(rig_holds_salt(&rig, 9));
        assert_int_equal(rig_get(&rig, 2, 9), ST_NOT_FOUND);
        assert_int_equal(rig_metrics(&rig).errors[DISK_ERROR_CHECKSUM], 0);
        rig_store(&rig, 2, 9);
        wipe(&rig, NULL, &end);
        rig_settle(&rig);
        assert_int_equal(end.st, ST_OK);
        assert_int_equal(rig_metrics(&rig).blocks, 0);
        assert_false(rig_holds_salt(&rig, 5));
        rig_free(&rig);
    }
}

/* A segment that was half cleared when the power went does not pass for a clear one: a wipe finds what is left in it.
 */
static void a_wipe_after_a_loss_of_power_leaves_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct disk_rig rig;
        struct rig_end end;
        rig_init(&rig, 6);
        rig.disk.no_punch = seed % 2;
        rig.disk.random = seed;
        rig_open(&rig);
        for (uint32_t i = 0; i < 28 + seed % 16; i++)
            rig_store(&rig, i, 9);
        for (uint32_t i = 0; i < 4; i++) { /* stops in the middle of whatever the tier does */
            (void)rig_put(&rig, 100 + i, 9, &end);
            disk_tier_run(rig.tier);
        }
        crash(&rig, true);
        rig_settle(&rig);
        wipe(&rig, NULL, &end);
        rig_settle(&rig);
        rig_settle(&rig);
        assert_int_equal(end.st, ST_OK);
        assert_false(rig_holds_salt(&rig, 9));
        rig_free(&rig);
    }
}

static void a_wipe_that_cannot_be_proven_says_so(void **state)
{
    (void)state;
    const uint64_t salt = 9;
    static const enum disk_io_kind kinds[] = { DISK_IO_WRITE, DISK_IO_READ, DISK_IO_SYNC };
    for (int i = 0; i < 4; i++) {
        struct disk_rig rig;
        struct rig_end end;
        rig_init(&rig, 12);
        rig_open(&rig);
        rig_store(&rig, 1, 9);
        rig_settle(&rig);
        if (i < 3)
            rig.disk.fail[kinds[i]] = 1;
        else
            rig.disk.spoil = 1;
        wipe(&rig, &salt, &end);
        rig_settle(&rig);
        assert_int_equal(end.calls, 1);
        assert_int_equal(end.st, i < 3 ? ST_IO : ST_CORRUPT);
        rig.now_us = disk_tier_next_us(rig.tier);
        rig_settle(&rig);
        wipe(&rig, &salt, &end);
        rig_settle(&rig);
        assert_int_equal(end.st, ST_OK);
        assert_false(rig_holds_salt(&rig, 9));
        rig_free(&rig);
    }
}

static void a_wipe_has_a_deadline(void **state)
{
    (void)state;
    struct disk_rig rig;
    struct rig_end end = { 0 };
    rig_init(&rig, 12);
    rig_open(&rig);
    rig_store(&rig, 1, 9);
    rig_settle(&rig);
    rig.disk.hung = true;
    const struct disk_wipe_call call = { NULL, rig.now_us + 10, rig_wiped, &end };
    assert_int_equal(disk_tier_wipe(rig.tier, &call), ST_OK);
    assert_int_equal(disk_tier_wipe(rig.tier, &call), ST_AGAIN);
    disk_tier_run(rig.tier);
    rig.now_us += 10;
    disk_tier_run(rig.tier);
    assert_int_equal(end.st, ST_TIMEOUT);
    rig.disk.hung = false;
    rig_settle(&rig);
    assert_int_equal(end.calls, 1);
    wipe(&rig, NULL, &end);
    rig_settle(&rig);
    assert_int_equal(end.st, ST_OK);
    rig_free(&rig);
}

static void a_folder_that_goes_and_comes_is_begun_anew(void **state)
{
    (void)state;
    struct disk_rig rig;
    struct rig_end end;
    rig_init(&rig, 8);
    rig_open(&rig);
    rig_store(&rig, 1, 5);
    rig.disk.gone = true;
    rig.now_us = disk_tier_next_us(rig.tier);
    rig_settle(&rig);
    assert_int_equal(rig_metrics(&rig).health, DISK_IS_LOST);
    assert_int_equal(rig_metrics(&rig).errors[DISK_ERROR_LOST], 1);
    assert_int_equal(rig_put(&rig, 2, 5, &end), DISK_READ_ONLY);
    assert_int_equal(rig_get(&rig, 1, 5), ST_IO);
    rig.now_us = disk_tier_next_us(rig.tier);
    rig_settle(&rig);
    assert_int_equal(rig_metrics(&rig).health, DISK_IS_LOST);
    rig.disk.gone = false; /* as it was: it was only out of sight */
    rig.now_us = disk_tier_next_us(rig.tier);
    rig_settle(&rig);
    assert_int_equal(rig_metrics(&rig).health, DISK_IS_HEALTHY);
    assert_int_equal(rig_get(&rig, 1, 5), ST_OK);
    rig_free(&rig);
}

static void blocks_are_listed(void **state)
{
    (void)state;
    struct disk_rig rig;
    struct rig_block b;
    struct disk_block found;
    int n = 0;
    rig_init(&rig, 12);
    rig_open(&rig);
    for (uint32_t i = 0; i < 9; i++)
        rig_store(&rig, i, 5);
    rig_block(&b, 3, 5);
    assert_true(disk_tier_find(rig.tier, b.block.hash, b.block.format, &found));
    assert_true(found.checksum == b.block.checksum);
    assert_false(disk_tier_find(rig.tier, b.block.hash, b.block.format + 1, NULL));
    disk_tier_drop(rig.tier, b.block.hash, b.block.format);
    for (uint32_t at = 0; at < disk_tier_places(rig.tier); at++) {
        n += disk_tier_at(rig.tier, at, &found);
        assert_true(!disk_tier_at(rig.tier, at, &found) || disk_tier_place(rig.tier, found.hash, found.format) == at);
    }
    assert_int_equal(n, 8);
    assert_false(disk_tier_at(rig.tier, disk_tier_places(rig.tier), &found));
    assert_true(disk_tier_place(rig.tier, b.block.hash, b.block.format) == DISK_NO_PLACE);
    rig.wall_s += 60;
    assert_int_equal(rig_metrics(&rig).oldest_s, 60);
    rig_free(&rig);
}

/* A footer that is damaged costs a scan, no block; a damaged head costs nothing where there is a footer. */
static void a_damaged_footer_is_read_around(void **state)
{
    (void)state;
    struct disk_rig rig;
    rig_init(&rig, 12);
    rig_open(&rig);
    for (uint32_t i = 0; i < 23; i++)
        rig_store(&rig, i, 5);
    disk_tier_destroy(&rig.tier);
    rig.disk.seen[(1u << 20) + RIG_SEGMENT - 4096 + 20] ^= 1;
    rig.disk.seen[(1u << 20) + 2 * RIG_SEGMENT - 8192 + 20] ^= 1;
    rig.disk.seen[(1u << 20) + 2 * RIG_SEGMENT + 9] ^= 1;
    rig_open(&rig);
    assert_int_equal(rig_metrics(&rig).blocks, 23);
    assert_int_equal(rig_metrics(&rig).errors[DISK_ERROR_FOOTER], 1);
    rig_settle(&rig); /* footers are written again */
    reopen(&rig);
    assert_int_equal(rig_metrics(&rig).errors[DISK_ERROR_FOOTER], 0);
    for (uint32_t i = 0; i < 23; i++)
        assert_int_equal(rig_get(&rig, i, 5), ST_OK);
    rig_free(&rig);
}

static void another_geometry_begins_anew_and_a_smaller_one_gives_back(void **state)
{
    (void)state;
    struct disk_rig rig;
    rig_init(&rig, 12);
    rig_open(&rig);
    for (uint32_t i = 0; i < 23; i++)
        rig_store(&rig, i, 5);
    rig.options.capacity_bytes = 5 * RIG_SEGMENT;
    reopen(&rig);
    assert_in_range(rig_metrics(&rig).blocks, 1, 20);
    assert_int_equal(rig_get(&rig, 0, 5), ST_OK);
    assert_int_equal(rig.disk.seen[(1u << 20) + 5 * RIG_SEGMENT], 0);
    rig.options.segment_bytes = 2 * RIG_SEGMENT;
    rig.options.capacity_bytes = 12 * RIG_SEGMENT;
    reopen(&rig);
    assert_int_equal(rig_metrics(&rig).blocks, 0);
    rig_settle(&rig);
    assert_false(rig_holds_salt(&rig, 5));
    rig_store(&rig, 0, 5);
    rig_free(&rig);
}

static void an_index_that_was_made_smaller_gives_up_segments(void **state)
{
    (void)state;
    struct disk_rig rig;
    rig_init(&rig, 12);
    rig_open(&rig);
    for (uint32_t i = 0; i < 23; i++)
        rig_store(&rig, i, 5);
    rig.options.max_blocks = 10;
    reopen(&rig);
    assert_in_range(rig_metrics(&rig).blocks, 4, 10);
    rig_settle(&rig);
    struct rig_end end;
    for (uint32_t i = 0; i < 40; i++) { /* full again and again: the oldest make room */
        (void)!rig_put(&rig, 100 + i, 5, &end);
        rig_settle(&rig);
    }
    assert_int_equal(rig_get(&rig, 139, 5), ST_OK);
    rig_free(&rig);
}

/* Of the n-th block that was ever put. */
static uint64_t place_of(uint32_t n)
{
    return (1u << 20) + 4096 + n * (uint64_t)RIG_EXTENT;
}

static void no_footer_names(uint64_t seed)
{
    struct disk_rig rig;
    struct rig_end end;
    rig_init(&rig, 8);
    rig.disk.random = seed;
    rig_open(&rig);
    rig_settle(&rig);
    rig.disk.stuck = place_of(1);
    rig_store(&rig, 0, 5);
    assert_int_equal(rig_put(&rig, 1, 5, &end), DISK_TAKEN);
    for (uint32_t i = 2; i < 8; i++)
        rig_store(&rig, i, 5);
    assert_int_equal(end.calls, 0);
    crash(&rig, false);
    rig.disk.stuck = 0;
    (void)!rig_get(&rig, 1, 5); /* it may be there, if all of it is */
    assert_int_equal(rig_metrics(&rig).errors[DISK_ERROR_CHECKSUM], 0);
    assert_int_equal(rig_get(&rig, 0, 5), ST_OK);
    assert_int_equal(rig_get(&rig, 7, 5), ST_OK);
    rig_free(&rig);
}

static void no_footer_names_a_block_that_is_being_written(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++)
        no_footer_names(seed);
}

static void a_segment_that_is_read_is_not_reused(void **state)
{
    (void)state;
    struct disk_rig rig;
    struct rig_block b;
    struct rig_end end = { 0 }, put_end;
    uint8_t got[RIG_PAYLOAD] = { 0 };
    const struct disk_call call = { RIG_FOREVER, rig_ended, &end };
    rig_init(&rig, 5);
    rig_open(&rig);
    for (uint32_t i = 0; i < 4; i++)
        rig_store(&rig, i, 5);
    rig.disk.stuck = place_of(1);
    rig_block(&b, 1, 5);
    assert_int_equal(disk_tier_get(rig.tier, &b.block, got, &call, NULL), ST_OK);
    for (uint32_t i = 10; i < 60; i++) { /* refused in the end, as no room comes */
        (void)!rig_put(&rig, i, 5, &put_end);
        rig_settle(&rig);
    }
    assert_int_equal(end.calls, 0);
    assert_memory_equal(rig.disk.seen + place_of(1) + 4096, b.payload, RIG_PAYLOAD);
    rig.disk.stuck = 0;
    rig_settle(&rig);
    assert_int_equal(end.st, ST_NOT_FOUND);
    rig_store(&rig, 100, 5);
    rig_free(&rig);
}

static void a_wipe_waits_for_what_is_being_written(void **state)
{
    (void)state;
    const uint64_t salt = 9;
    struct disk_rig rig;
    struct rig_end end, put_end;
    rig_init(&rig, 8);
    rig_open(&rig);
    rig_settle(&rig);
    rig.disk.stuck = place_of(0);
    assert_int_equal(rig_put(&rig, 0, 9, &put_end), DISK_TAKEN);
    wipe(&rig, &salt, &end);
    rig_settle(&rig);
    assert_int_equal(end.calls, 0);
    rig_store(&rig, 1, 5); /* others go on */
    rig.disk.stuck = 0;
    rig_settle(&rig);
    assert_int_equal(put_end.calls, 1);
    assert_int_equal(end.st, ST_OK);
    assert_int_equal(end.bytes, RIG_EXTENT);
    assert_false(rig_holds_salt(&rig, 9));
    assert_int_equal(rig_get(&rig, 0, 9), ST_NOT_FOUND);
    rig_free(&rig);
}

static void wrong_options_are_named(void **state)
{
    (void)state;
    struct disk_rig rig;
    struct error err;
    rig_init(&rig, 12);
    rig.options.capacity_bytes = 3 * RIG_SEGMENT;
    assert_int_equal(disk_tier_create(&rig.options, &rig.tier, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "capacity"));
    rig.options.segment_bytes = 5000;
    assert_int_equal(disk_tier_create(&rig.options, &rig.tier, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "segments"));
    rig_free(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_comes_back),
        cmocka_unit_test(blocks_outlive_the_process),
        cmocka_unit_test(who_asks_for_another_block_gets_none),
        cmocka_unit_test(a_damaged_block_is_dropped),
        cmocka_unit_test(a_damaged_payload_is_not_taken),
        cmocka_unit_test(a_read_error_costs_a_block),
        cmocka_unit_test(a_write_error_makes_it_read_only_until_a_probe),
        cmocka_unit_test(a_full_disk_takes_what_it_has_room_for),
        cmocka_unit_test(a_hung_disk_costs_the_deadline),
        cmocka_unit_test(a_cancel_ends_at_once),
        cmocka_unit_test(operations_are_bounded_and_gets_have_places_left),
        cmocka_unit_test(a_salt_has_a_quota),
        cmocka_unit_test(wear_is_budgeted_over_restarts),
        cmocka_unit_test(the_oldest_segment_makes_room),
        cmocka_unit_test(freed_segments_are_cleared),
        cmocka_unit_test(a_wipe_leaves_nothing),
        cmocka_unit_test(a_wipe_after_a_loss_of_power_leaves_nothing),
        cmocka_unit_test(a_wipe_that_cannot_be_proven_says_so),
        cmocka_unit_test(a_wipe_has_a_deadline),
        cmocka_unit_test(a_folder_that_goes_and_comes_is_begun_anew),
        cmocka_unit_test(blocks_are_listed),
        cmocka_unit_test(a_damaged_footer_is_read_around),
        cmocka_unit_test(another_geometry_begins_anew_and_a_smaller_one_gives_back),
        cmocka_unit_test(an_index_that_was_made_smaller_gives_up_segments),
        cmocka_unit_test(no_footer_names_a_block_that_is_being_written),
        cmocka_unit_test(a_segment_that_is_read_is_not_reused),
        cmocka_unit_test(a_wipe_waits_for_what_is_being_written),
        cmocka_unit_test(wrong_options_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
