/* store_rig.h - a store over a simulated disk, and chains whose tokens, hashes and bytes follow from numbers. */
#ifndef BATON_TESTS_STORE_RIG_H
#define BATON_TESTS_STORE_RIG_H

#include "disk_rig.h"
#include "kvbm/store.h"

#define CHAIN_TOKENS 4u
#define CHAIN_MAX    24u
#define STORE_BYTES  RIG_PAYLOAD
#define STORE_FORMAT 77u

/* The blocks of a sequence in one format: its own copy of everything. */
struct rig_chain {
    struct store_chain chain;
    struct block_hash hashes[CHAIN_MAX];
    uint32_t tokens[CHAIN_MAX * CHAIN_TOKENS];
    uint64_t checksums[CHAIN_MAX];
};

/* What a borrower got of one ticket. */
struct rig_reader {
    struct store_reader reader;
    struct store_lent lent[CHAIN_MAX];
    uint32_t first, n_ready;
    int done, over;
    status st;
};

struct store_rig {
    struct disk_rig disk;
    struct store_options options;
    struct store *store;
    uint8_t *memory;
    _Atomic uint64_t *generations;
    /* As told by events: hashes of what is found in each tier. */
    struct block_hash known[STORE_TIER_COUNT][512];
    uint32_t n_known[STORE_TIER_COUNT];
};

/* ---- chains ------------------------------------------------------------------------------------------------ */

/* The bytes of a block are a function of all that it stands for. The salt stands in every piece, never as zero. */
static inline void chain_payload(const struct rig_chain *c, uint32_t i, uint8_t out[STORE_BYTES])
{
    const uint32_t seed = (uint32_t)XXH3_64bits_withSeed(c->tokens, (i + 1) * CHAIN_TOKENS * sizeof *c->tokens,
                                                         c->chain.format ^ c->chain.seed.low);
    for (uint32_t at = 0; at < STORE_BYTES; at += 8) {
        const uint32_t piece[2] = { (uint32_t)c->chain.salt * 0x01010101u, seed + at };
        memcpy(out + at, piece, sizeof piece);
    }
}

/* numbers[i] is what block i is about; equal beginnings are equal blocks. */
static inline void chain_make(struct rig_chain *c, uint64_t salt, uint64_t format, const uint32_t *numbers, uint32_t n)
{
    const struct block_seed_parts parts = { .weights = 1, .tokenizer = 2, .salt = { salt, 3 } };
    uint8_t payload[STORE_BYTES];
    ASSERT(n <= CHAIN_MAX);
    c->chain = (struct store_chain){ .format = format,
                                     .salt = store_salt_id(parts.salt),
                                     .seed = block_seed(&parts),
                                     .hashes = c->hashes,
                                     .tokens = c->tokens,
                                     .n_blocks = n };
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < CHAIN_TOKENS; k++)
            c->tokens[i * CHAIN_TOKENS + k] = numbers[i] * 10 + k;
        c->hashes[i] =
            block_hash_next(i ? c->hashes[i - 1] : c->chain.seed, c->tokens + (size_t)i * CHAIN_TOKENS, CHAIN_TOKENS);
        chain_payload(c, i, payload);
        c->checksums[i] = XXH3_64bits(payload, STORE_BYTES);
    }
}

/* Blocks start, start + 1... of one sequence. */
static inline void chain_run(struct rig_chain *c, uint64_t salt, uint32_t start, uint32_t n)
{
    uint32_t numbers[CHAIN_MAX];
    for (uint32_t i = 0; i < n && i < CHAIN_MAX; i++)
        numbers[i] = start + i;
    chain_make(c, salt, STORE_FORMAT, numbers, n);
}

/* A copy that may be forged. */
static inline void chain_copy(struct rig_chain *to, const struct rig_chain *from)
{
    *to = *from;
    to->chain.hashes = to->hashes;
    to->chain.tokens = to->tokens;
}

static inline struct store_chain chain_part(const struct rig_chain *c, uint32_t n)
{
    struct store_chain part = c->chain;
    part.n_blocks = n;
    return part;
}

/* Of the whole tier at once. */
static inline void store_rig_dump(struct store *store, enum store_tier tier,
                                  void (*each)(void *ctx, const struct store_block *block), void *ctx)
{
    struct store_dump *dump;
    assert_int_equal(store_dump_begin(store, tier, &dump), ST_OK);
    while (store_dump_some(dump, 1, each, ctx))
        continue;
    store_dump_end(&dump);
}

/* ---- the store ----------------------------------------------------------------------------------------------- */

static inline uint64_t store_rig_now(void *ctx)
{
    return ((struct store_rig *)ctx)->disk.now_us;
}

static inline uint64_t store_rig_wall(void *ctx)
{
    return ((struct store_rig *)ctx)->disk.wall_s;
}

static inline void store_rig_stored(void *ctx, enum store_tier tier, const struct store_block *block)
{
    struct store_rig *rig = ctx;
    ASSERT(rig->n_known[tier] < 512);
    rig->known[tier][rig->n_known[tier]++] = block->hash;
}

static inline void store_rig_removed(void *ctx, enum store_tier tier, const struct store_block *block)
{
    struct store_rig *rig = ctx;
    for (uint32_t i = 0; i < rig->n_known[tier]; i++)
        if (block_hash_equal(rig->known[tier][i], block->hash)) {
            rig->known[tier][i] = rig->known[tier][--rig->n_known[tier]];
            return;
        }
    fail_msg("a block was removed that had not been stored");
}

static inline void store_rig_init(struct store_rig *rig, uint32_t n_slots, uint32_t segments)
{
    memset(rig, 0, sizeof *rig);
    rig_init(&rig->disk, segments ? segments : DISK_TIER_MIN_SEGMENTS);
    store_defaults(&rig->options);
    rig->memory = calloc(n_slots, STORE_BYTES);
    rig->generations = calloc(n_slots, sizeof *rig->generations);
    ASSERT(rig->memory && rig->generations);
    rig->options.memory = rig->memory;
    rig->options.generations = rig->generations;
    rig->options.slot_bytes = STORE_BYTES;
    rig->options.n_slots = n_slots;
    rig->options.block_tokens = CHAIN_TOKENS;
    rig->options.admission = STORE_ADMIT_ALL;
    rig->options.max_seen = 256;
    rig->options.max_salts = 8;
    rig->options.max_reserved = 64;
    rig->options.max_tickets = 8;
    rig->options.max_pins = 4;
    rig->options.max_reads = 4;
    rig->disk.options.slots = 16;
    rig->options.max_writes = 16;
    rig->options.ticket_us = 1000;
    rig->options.pin_us = 100000;
    rig->options.read_us = 100;
    rig->options.write_us = 500;
    rig->options.verify_host = true;
    rig->options.stored = store_rig_stored;
    rig->options.removed = store_rig_removed;
    rig->options.now_us = store_rig_now;
    rig->options.wall_s = store_rig_wall;
    rig->options.ctx = rig;
}

static inline void store_rig_note(void *ctx, const struct store_block *block)
{
    store_rig_stored(ctx, STORE_DISK, block);
}

/* with_disk: opens it, too. */
static inline void store_rig_open(struct store_rig *rig, bool with_disk)
{
    struct error err;
    if (with_disk)
        rig_open(&rig->disk);
    rig->options.disk = with_disk ? rig->disk.tier : NULL;
    if (store_create(&rig->options, &rig->store, &err) != ST_OK)
        fail_msg("%s", err.text);
    rig->n_known[STORE_HOST] = rig->n_known[STORE_DISK] = 0;
    store_rig_dump(rig->store, STORE_DISK, store_rig_note, rig);
}

/* Ends store and disk, and begins again with what is on disk and other memory. */
static inline void store_rig_restart(struct store_rig *rig)
{
    store_destroy(&rig->store);
    disk_tier_destroy(&rig->disk.tier);
    memset(rig->memory, 0, (size_t)rig->options.n_slots * STORE_BYTES);
    store_rig_open(rig, true);
}

static inline struct store_stats store_rig_stats(struct store_rig *rig)
{
    struct store_stats stats;
    store_stats(rig->store, &stats);
    return stats;
}

static inline void store_rig_settle(struct store_rig *rig)
{
    for (int i = 0; i < 400; i++)
        store_run(rig->store);
}

/* Everything was given back: no slot is owned, and what events told is what a dump tells. */
static inline void store_rig_count(void *ctx, const struct store_block *block)
{
    (void)block;
    ++*(uint32_t *)ctx;
}

static inline void store_rig_check_quiet(struct store_rig *rig)
{
    const struct store_stats stats = store_rig_stats(rig);
    assert_int_equal(stats.slots_reserved + stats.slots_held + stats.open_tickets + stats.reads, 0);
    assert_int_equal(stats.slots_free + stats.tiers[STORE_HOST].blocks, rig->options.n_slots);
    for (int tier = 0; tier < STORE_TIER_COUNT; tier++) {
        uint32_t n = 0;
        store_rig_dump(rig->store, (enum store_tier)tier, store_rig_count, &n);
        assert_int_equal(n, rig->n_known[tier]);
    }
}

static inline void store_rig_free(struct store_rig *rig)
{
    store_destroy(&rig->store);
    rig_free(&rig->disk);
    free(rig->memory);
    free((void *)rig->generations);
}

/* ---- putting and getting ---------------------------------------------------------------------------------------- */

/* Offers blocks [first, n) of the chain. */
static inline void store_rig_offer(struct store_rig *rig, const struct rig_chain *c, uint32_t first,
                                   struct store_answer out[])
{
    const struct store_offer offer = {
        .chain = c->chain, .first = first, .block_bytes = STORE_BYTES, .checksums = c->checksums + first
    };
    store_offer(rig->store, &offer, out);
}

/* Writes block i of the chain into its slot. */
static inline void store_rig_fill(struct store_rig *rig, const struct rig_chain *c, uint32_t i, struct store_slot slot)
{
    chain_payload(c, i, store_memory(rig->store, slot.slot));
}

/* Offers all, fills and commits what is wanted; returns how many. */
static inline uint32_t store_rig_put(struct store_rig *rig, const struct rig_chain *c)
{
    struct store_answer answers[CHAIN_MAX];
    uint32_t n = 0;
    store_rig_offer(rig, c, 0, answers);
    for (uint32_t i = 0; i < c->chain.n_blocks; i++) {
        if (answers[i].verdict != STORE_WANTED)
            continue;
        store_rig_fill(rig, c, i, answers[i].slot);
        assert_int_equal(store_commit(rig->store, answers[i].slot), ST_OK);
        n++;
    }
    store_rig_settle(rig);
    return n;
}

static inline void rig_on_ready(void *ctx, uint64_t ticket, uint32_t first, const struct store_lent *lent, uint32_t n)
{
    struct rig_reader *r = ctx;
    (void)ticket;
    assert_int_equal(first, r->first + r->n_ready);
    assert_int_equal(r->done, 0);
    memcpy(r->lent + r->n_ready, lent, n * sizeof *lent);
    r->n_ready += n;
}

static inline void rig_on_done(void *ctx, uint64_t ticket, status st, uint32_t n_ready)
{
    struct rig_reader *r = ctx;
    (void)ticket;
    assert_int_equal(n_ready, r->n_ready);
    r->done++;
    r->st = st;
}

static inline void rig_on_over(void *ctx, uint64_t ticket)
{
    (void)ticket;
    ((struct rig_reader *)ctx)->over++;
}

static inline status store_rig_start(struct store_rig *rig, const struct rig_chain *c, uint32_t first,
                                     struct rig_reader *r, uint64_t *ticket, struct store_found *found)
{
    *r = (struct rig_reader){ .first = first };
    r->reader = (struct store_reader){ rig_on_ready, rig_on_done, rig_on_over, r };
    const struct store_request request = {
        .chain = c->chain, .first = first, .deadline_us = rig->disk.now_us + 500, .reader = &r->reader
    };
    return store_open(rig->store, &request, ticket, found);
}

/* What is ready is what was asked for. */
static inline void store_rig_compare(struct store_rig *rig, const struct rig_chain *c, const struct rig_reader *r)
{
    uint8_t want[STORE_BYTES];
    for (uint32_t i = 0; i < r->n_ready; i++) {
        chain_payload(c, r->first + i, want);
        assert_memory_equal(store_memory(rig->store, r->lent[i].slot.slot), want, STORE_BYTES);
        assert_true(r->lent[i].checksum == c->checksums[r->first + i]);
        assert_true(atomic_load(&rig->generations[r->lent[i].slot.slot]) == r->lent[i].slot.generation);
    }
}

/* Opens, waits, compares, closes. How many blocks came of the run; *r says the rest. */
static inline uint32_t store_rig_get(struct store_rig *rig, const struct rig_chain *c, uint32_t first,
                                     struct rig_reader *r)
{
    uint64_t ticket;
    struct store_found found;
    const status st = store_rig_start(rig, c, first, r, &ticket, &found);
    if (st != ST_OK) {
        r->st = st;
        return 0;
    }
    store_rig_settle(rig);
    assert_int_equal(r->done, 1);
    store_rig_compare(rig, c, r);
    store_close(rig->store, ticket);
    return r->n_ready;
}

static inline bool store_rig_holds_salt(const struct store_rig *rig, uint64_t salt)
{
    const uint32_t mark = (uint32_t)salt * 0x01010101u;
    for (size_t at = 0; at + 8 <= (size_t)rig->options.n_slots * STORE_BYTES; at += 8)
        if (memcmp(rig->memory + at, &mark, sizeof mark) == 0)
            return true;
    return false;
}

#endif
