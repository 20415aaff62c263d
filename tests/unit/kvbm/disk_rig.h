/* disk_rig.h - a disk tier with a clock of its own, and blocks whose bytes follow from a number. */
#ifndef BATON_TESTS_DISK_RIG_H
#define BATON_TESTS_DISK_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <xxhash.h>

#include "kvbm/disk_tier.h"
#include "simulated_disk.h"

#define RIG_PAYLOAD 6000u /* two pages, the second in part */
#define RIG_EXTENT  (3u * 4096u)
#define RIG_TOKENS  16u
#define RIG_SEGMENT (64u << 10)
#define RIG_FOREVER (UINT64_MAX - 1)

struct disk_rig {
    struct disk_tier_options options;
    struct disk_tier *tier;
    struct simulated_disk disk;
    uint64_t now_us, wall_s;
};

struct rig_end {
    int calls;
    status st;
    uint64_t checksum, bytes;
};

struct rig_block {
    struct disk_block block;
    uint32_t tokens[RIG_TOKENS];
    uint8_t payload[RIG_PAYLOAD];
};

static inline void rig_block(struct rig_block *b, uint32_t number, uint64_t salt)
{
    for (uint32_t i = 0; i < RIG_TOKENS; i++)
        b->tokens[i] = number * 100 + i;
    for (uint32_t i = 0; i < RIG_PAYLOAD; i += 8) {
        /* The salt stands in every piece, so that a wipe can be looked for; never zero. */
        const uint32_t piece[2] = { (uint32_t)salt * 0x01010101u, number * 2654435761u + i };
        memcpy(b->payload + i, piece, sizeof piece);
    }
    b->block = (struct disk_block){ .hash = { number * 7919u + 1, salt },
                                    .parent = { number, salt },
                                    .format = 77,
                                    .salt = salt,
                                    .payload_bytes = RIG_PAYLOAD,
                                    .n_tokens = RIG_TOKENS,
                                    .tokens = b->tokens };
    b->block.checksum = XXH3_64bits(b->payload, RIG_PAYLOAD);
}

static inline status rig_open_io(void *ctx, unsigned depth, struct disk_io **out, struct error *err)
{
    return simulated_open(&((struct disk_rig *)ctx)->disk, depth, out, err);
}

static inline uint64_t rig_now(void *ctx)
{
    return ((struct disk_rig *)ctx)->now_us;
}

static inline uint64_t rig_wall(void *ctx)
{
    return ((struct disk_rig *)ctx)->wall_s;
}

static inline void rig_init(struct disk_rig *rig, uint32_t segments)
{
    memset(rig, 0, sizeof *rig);
    disk_tier_defaults(&rig->options);
    rig->now_us = 1000000;
    rig->wall_s = 1000000;
    rig->options.segment_bytes = RIG_SEGMENT;
    rig->options.capacity_bytes = (uint64_t)segments * RIG_SEGMENT;
    rig->options.max_payload_bytes = 8192;
    rig->options.max_blocks = 4096;
    rig->options.max_salts = 16;
    rig->options.slots = 8;
    rig->options.wait_ms = 2000;
    rig->options.open_io = rig_open_io;
    rig->options.now_us = rig_now;
    rig->options.wall_s = rig_wall;
    rig->options.ctx = rig;
    simulated_init(&rig->disk, (1u << 20) + (uint64_t)segments * RIG_SEGMENT);
}

static inline void rig_open(struct disk_rig *rig)
{
    struct error err;
    status st = disk_tier_create(&rig->options, &rig->tier, &err);
    if (st != ST_OK)
        fail_msg("%s", err.text);
}

static inline void rig_free(struct disk_rig *rig)
{
    disk_tier_destroy(&rig->tier);
    simulated_free(&rig->disk);
}

/* As long as something is on its way, and a few turns more for what follows from it. */
static inline void rig_settle(struct disk_rig *rig)
{
    for (int i = 0; i < 400; i++)
        disk_tier_run(rig->tier);
}

static inline void rig_ended(void *ctx, status st, const struct disk_block *found)
{
    struct rig_end *end = ctx;
    end->calls++;
    end->st = st;
    end->checksum = found ? found->checksum : 0;
}

static inline void rig_wiped(void *ctx, status st, uint64_t bytes)
{
    struct rig_end *end = ctx;
    end->calls++;
    end->st = st;
    end->bytes = bytes;
}

static inline enum disk_refusal rig_put(struct disk_rig *rig, uint32_t number, uint64_t salt, struct rig_end *end)
{
    struct rig_block b;
    rig_block(&b, number, salt);
    const struct disk_call call = { RIG_FOREVER, rig_ended, end };
    *end = (struct rig_end){ 0 };
    return disk_tier_put(rig->tier, &b.block, b.payload, &call, NULL);
}

/* Puts and waits. */
static inline void rig_store(struct disk_rig *rig, uint32_t number, uint64_t salt)
{
    struct rig_end end;
    enum disk_refusal refusal = rig_put(rig, number, salt, &end);
    for (int i = 0; i < 10 && refusal == DISK_BUSY; i++) {
        rig_settle(rig);
        refusal = rig_put(rig, number, salt, &end);
    }
    assert_int_equal(refusal, DISK_TAKEN);
    rig_settle(rig);
    assert_int_equal(end.calls, 1);
    assert_int_equal(end.st, ST_OK);
}

/* Gets and waits; a block that comes is compared. */
static inline status rig_get(struct disk_rig *rig, uint32_t number, uint64_t salt)
{
    struct rig_block b;
    struct rig_end end = { 0 };
    uint8_t got[RIG_PAYLOAD];
    rig_block(&b, number, salt);
    const struct disk_call call = { RIG_FOREVER, rig_ended, &end };
    status st = disk_tier_get(rig->tier, &b.block, got, &call, NULL);
    if (st != ST_OK)
        return st;
    rig_settle(rig);
    assert_int_equal(end.calls, 1);
    if (end.st == ST_OK) {
        assert_memory_equal(got, b.payload, RIG_PAYLOAD);
        assert_true(end.checksum == b.block.checksum);
    }
    return end.st;
}

static inline struct disk_metrics rig_metrics(struct disk_rig *rig)
{
    struct disk_metrics m;
    disk_tier_metrics(rig->tier, &m);
    return m;
}

/* Whether a piece of a payload of this salt stands anywhere on the disk. */
static inline bool rig_holds_salt(const struct disk_rig *rig, uint64_t salt)
{
    const uint32_t mark = (uint32_t)salt * 0x01010101u;
    for (uint64_t at = 0; at + 8 <= rig->disk.room; at += 8)
        if (memcmp(rig->disk.seen + at, &mark, sizeof mark) == 0)
            return true;
    return false;
}

#endif
