/* The disk tier against a naive model: random puts, gets, drops, wipes and crashes, on a disk that reorders, fails,
 * truncates and spoils. Never a wrong block; and nothing is lost but what may be. */
#include <stdlib.h>

#include "../unit/kvbm/disk_rig.h"
#include "tests/unit/effort.h"

#define BLOCKS    64u
#define SALTS     3u
#define IN_FLIGHT 16u
#define STEPS     4000u

/* What is known of a block. */
enum known {
    ABSENT,  /* never stored, or wiped: must not be found */
    PERHAPS, /* may be there */
    WRITTEN, /* must be there while the machine has power */
    DURABLE, /* must be there */
};

struct model;

struct flight {
    struct rig_end end;
    bool used, is_get, dropped; /* a put that was dropped before it ended */
    uint32_t number;
    uint8_t got[RIG_PAYLOAD];
};

struct model {
    struct disk_rig rig;
    enum known blocks[BLOCKS];
    struct flight flights[IN_FLIGHT];
    bool may_evict, may_fail; /* then a block may be gone at any time */
    bool half_cleared;        /* an end interrupted a wipe, or a crash a clearing: what the index has may be zeros */
    unsigned syncs;
    struct rig_end wiped;
    bool wiping;
    uint64_t wipe_salt;
    unsigned checked_gets, checked_found; /* so that the test knows it has tested something */
};

static uint64_t salt_of(uint32_t number)
{
    return 0x21 + number % SALTS;
}

static uint32_t draw(struct model *m, uint32_t below)
{
    return simulated_draw(&m->rig.disk, below);
}

static struct flight *free_flight(struct model *m)
{
    for (unsigned i = 0; i < IN_FLIGHT; i++)
        if (!m->flights[i].used)
            return &m->flights[i];
    return NULL;
}

static bool is_wiped_now(const struct model *m, uint32_t number)
{
    return m->wiping && salt_of(number) == m->wipe_salt;
}

static void start_put(struct model *m)
{
    struct flight *f = free_flight(m);
    struct rig_block b;
    if (!f)
        return;
    f->number = draw(m, BLOCKS);
    f->is_get = f->dropped = false;
    f->end = (struct rig_end){ 0 };
    rig_block(&b, f->number, salt_of(f->number));
    const struct disk_call call = { draw(m, 8) ? RIG_FOREVER : m->rig.now_us + 5, rig_ended, &f->end };
    enum disk_refusal refusal = disk_tier_put(m->rig.tier, &b.block, b.payload, &call, NULL);
    f->used = refusal == DISK_TAKEN;
    if (f->used && m->blocks[f->number] == ABSENT)
        m->blocks[f->number] = PERHAPS;
    if (is_wiped_now(m, f->number))
        assert_int_not_equal(refusal, DISK_TAKEN);
}

static void start_get(struct model *m)
{
    struct flight *f = free_flight(m);
    struct rig_block b;
    if (!f)
        return;
    f->number = draw(m, BLOCKS);
    f->is_get = true;
    f->end = (struct rig_end){ 0 };
    rig_block(&b, f->number, salt_of(f->number));
    const struct disk_call call = { RIG_FOREVER, rig_ended, &f->end };
    status st = disk_tier_get(m->rig.tier, &b.block, f->got, &call, NULL);
    f->used = st == ST_OK;
    if (st == ST_NOT_FOUND)
        assert_true(m->may_evict || m->may_fail || m->blocks[f->number] <= PERHAPS);
}

static void end_get(struct model *m, struct flight *f)
{
    struct rig_block b;
    m->checked_gets++;
    if (f->end.st == ST_OK) {
        rig_block(&b, f->number, salt_of(f->number));
        assert_memory_equal(f->got, b.payload, RIG_PAYLOAD);
        m->checked_found++;
        return;
    }
    assert_true(m->may_evict || m->may_fail || m->blocks[f->number] <= PERHAPS);
}

static void end_put(struct model *m, struct flight *f)
{
    if (f->end.st == ST_OK && !f->dropped && m->blocks[f->number] == PERHAPS && !is_wiped_now(m, f->number))
        m->blocks[f->number] = WRITTEN;
    if (!m->may_fail)
        assert_true(f->end.st == ST_OK || f->end.st == ST_TIMEOUT);
}

/* Blocks whose write had ended before the sync began are durable. */
static void turn(struct model *m)
{
    bool before[BLOCKS];
    for (uint32_t i = 0; i < BLOCKS; i++)
        before[i] = m->blocks[i] == WRITTEN;
    m->rig.now_us += 1;
    disk_tier_run(m->rig.tier);
    for (uint32_t i = 0; i < BLOCKS && m->rig.disk.syncs != m->syncs; i++)
        if (before[i])
            m->blocks[i] = DURABLE;
    m->syncs = m->rig.disk.syncs;
    for (unsigned i = 0; i < IN_FLIGHT; i++) {
        struct flight *f = &m->flights[i];
        if (!f->used || !f->end.calls)
            continue;
        assert_int_equal(f->end.calls, 1);
        f->used = false;
        if (f->is_get)
            end_get(m, f);
        else
            end_put(m, f);
    }
}

static void drop(struct model *m)
{
    struct rig_block b;
    uint32_t number = draw(m, BLOCKS);
    rig_block(&b, number, salt_of(number));
    disk_tier_drop(m->rig.tier, b.block.hash, b.block.format);
    if (m->blocks[number] != ABSENT)
        m->blocks[number] = PERHAPS; /* a start may find it again */
    for (unsigned i = 0; i < IN_FLIGHT; i++)
        m->flights[i].dropped |= m->flights[i].number == number;
    assert_false(disk_tier_find(m->rig.tier, b.block.hash, b.block.format, NULL));
}

static void start_wipe(struct model *m)
{
    if (m->wiping)
        return;
    m->wipe_salt = 0x21 + draw(m, SALTS);
    m->wiped = (struct rig_end){ 0 };
    const struct disk_wipe_call call = { &m->wipe_salt, RIG_FOREVER, rig_wiped, &m->wiped };
    m->wiping = disk_tier_wipe(m->rig.tier, &call) == ST_OK;
    for (uint32_t i = 0; i < BLOCKS && m->wiping; i++)
        if (is_wiped_now(m, i) && m->blocks[i] != ABSENT)
            m->blocks[i] = PERHAPS;
}

static void look_at_wipe(struct model *m)
{
    if (!m->wiping || !m->wiped.calls)
        return;
    m->wiping = false;
    if (!m->may_fail)
        assert_int_equal(m->wiped.st, ST_OK);
    if (m->wiped.st != ST_OK)
        return;
    assert_false(rig_holds_salt(&m->rig, m->wipe_salt));
    for (uint32_t i = 0; i < BLOCKS; i++)
        if (salt_of(i) == m->wipe_salt)
            m->blocks[i] = ABSENT;
}

static void restart(struct model *m)
{
    const uint32_t way = draw(m, 3); /* as it should be; killed; without power */
    const unsigned fails = m->rig.disk.fail_one_in;
    m->half_cleared |= m->wiping || (way == 2 && m->may_evict);
    if (way)
        simulated_crash(&m->rig.disk, way == 2);
    m->rig.disk.fail_one_in = 0;
    disk_tier_destroy(&m->rig.tier);
    for (uint32_t i = 0; i < BLOCKS; i++)
        if (way == 2 && m->blocks[i] == WRITTEN)
            m->blocks[i] = PERHAPS;
    for (unsigned i = 0; i < IN_FLIGHT; i++)
        m->flights[i].used = false;
    m->wiping = false;
    rig_open(&m->rig);
    m->rig.disk.fail_one_in = fails;
    m->syncs = m->rig.disk.syncs;
}

static void check_all(struct model *m)
{
    for (uint32_t i = 0; i < BLOCKS; i++) {
        struct rig_block b;
        rig_block(&b, i, salt_of(i));
        bool found = disk_tier_find(m->rig.tier, b.block.hash, b.block.format, NULL);
        if (m->blocks[i] == ABSENT)
            assert_false(found);
        if (m->blocks[i] >= WRITTEN && !m->may_evict && !m->may_fail)
            assert_true(found);
    }
    struct disk_metrics k = rig_metrics(&m->rig);
    if (!m->may_fail && !m->half_cleared && k.errors[DISK_ERROR_CHECKSUM])
        fail_msg("a block was damaged without a failure");
    assert_in_range(k.bytes, 0, k.capacity_bytes);
}

static void step(struct model *m, bool may_crash)
{
    const uint32_t what = draw(m, 1000);
    if (what < 300)
        start_put(m);
    else if (what < 550)
        start_get(m);
    else if (what < 560)
        drop(m);
    else if (what < 562)
        start_wipe(m);
    else if (what < 566 && may_crash)
        restart(m);
    else
        turn(m);
    look_at_wipe(m);
    check_all(m);
}

static unsigned rounds(unsigned few)
{
    return is_long() ? 20 * few : few;
}

static void play(uint64_t seed, uint32_t segments, unsigned fail_one_in, int error)
{
    struct model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    rig_init(&m->rig, segments);
    m->rig.disk.random = seed;
    m->rig.options.probe_us = 50;
    /* 64 blocks dropped and put again do not fill the larger disk before the rounds are over. */
    m->may_evict = segments < 64;
    rig_open(&m->rig);
    m->may_fail = fail_one_in > 0;
    m->rig.disk.fail_one_in = fail_one_in;
    m->rig.disk.error = error;
    for (unsigned i = 0; i < STEPS; i++) {
        if (fail_one_in && draw(m, 50) == 0)
            m->rig.disk.spoil = 1;
        step(m, true);
        assert_true(m->may_evict || !rig_metrics(&m->rig).evicted);
    }
    assert_in_range(m->checked_gets, 100, STEPS);
    assert_in_range(m->checked_found, 50, STEPS);
    rig_free(&m->rig);
    free(m);
}

static void nothing_is_lost_but_what_may_be(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= rounds(3); seed++)
        play(seed, 200, 0, 0);
}

static void eviction_and_crashes_give_no_wrong_block(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= rounds(3); seed++)
        play(100 + seed, 5, 0, 0);
}

static void failures_give_no_wrong_block(void **state)
{
    (void)state;
    static const int errors[] = { EIO, ENOSPC, SIMULATED_SHORT };
    for (uint64_t seed = 1; seed <= rounds(3); seed++)
        play(200 + seed, 5 + (uint32_t)(seed % 2) * 20, 60, errors[seed % 3]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_lost_but_what_may_be),
        cmocka_unit_test(eviction_and_crashes_give_no_wrong_block),
        cmocka_unit_test(failures_give_no_wrong_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
