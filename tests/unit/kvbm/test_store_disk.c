/* The store over its disk: written through, read back, and what follows when the disk fails, hangs or lies. */
#include "store_rig.h"

static struct store_found find(struct store_rig *rig, const struct rig_chain *c)
{
    return store_find(rig->store, &c->chain);
}

/* Pushes everything out of memory that may go. */
static void flood(struct store_rig *rig)
{
    static uint32_t start = 100000;
    struct rig_chain c;
    chain_run(&c, 9, start, rig->options.n_slots);
    start += 100;
    assert_int_equal(store_rig_put(rig, &c), rig->options.n_slots);
}

static void blocks_come_back_from_disk(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct rig_reader r;
    store_rig_init(&rig, 12, 40);
    store_rig_open(&rig, true);
    chain_run(&c, 5, 100, 12);
    assert_int_equal(store_rig_put(&rig, &c), 12);
    assert_int_equal(store_rig_stats(&rig).written, 12);
    flood(&rig);
    assert_int_equal(find(&rig, &c).host, 0);
    assert_int_equal(find(&rig, &c).disk, 12);
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 12);
    assert_int_equal(r.st, ST_OK);
    assert_int_equal(r.lent[11].from, STORE_DISK);
    assert_int_equal(find(&rig, &c).host, 12); /* and stay in memory */
    const struct store_stats stats = store_rig_stats(&rig);
    assert_int_equal(stats.promoted, 12);
    assert_int_equal(stats.promoted_unkept, 0);
    assert_int_equal(stats.tiers[STORE_DISK].hit_blocks, 12);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void blocks_outlive_the_process(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, other;
    struct rig_reader r;
    store_rig_init(&rig, 12, 40);
    store_rig_open(&rig, true);
    chain_run(&c, 5, 100, 6);
    assert_int_equal(store_rig_put(&rig, &c), 6);
    store_rig_restart(&rig);
    assert_int_equal(find(&rig, &c).disk, 6);
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 6);
    chain_run(&other, 6, 100, 6);
    assert_int_equal(find(&rig, &other).disk, 0);
    chain_copy(&other, &c);
    other.chain.salt++;
    assert_int_equal(find(&rig, &other).disk, 0);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

/* Whether what is told of is the beginning of a chain, by the tier that tells. */
static void count_first(void *ctx, const struct store_block *block)
{
    uint32_t *n = ctx;
    const bool has_seed = block_hash_equal(block->parent, block_seed(&(struct block_seed_parts){ 1, 2, 0, { 5, 3 } }));
    assert_int_equal(block->is_first, has_seed);
    n[block->is_first]++;
}

/* A seed is no block, and who follows events must not look for it: also of what a footer, and a segment without one,
 * brought back. */
static void the_first_of_a_chain_is_known_as_such(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    uint32_t host[2] = { 0 }, disk[2] = { 0 }, later[2] = { 0 };
    store_rig_init(&rig, 30, 40);
    store_rig_open(&rig, true);
    for (uint32_t i = 0; i < 10; i++) {
        chain_run(&c, 5, 100 * (i + 1), 3);
        assert_int_equal(store_rig_put(&rig, &c), 3);
    }
    store_rig_dump(rig.store, STORE_HOST, count_first, host);
    store_rig_dump(rig.store, STORE_DISK, count_first, disk);
    store_rig_restart(&rig);
    store_rig_dump(rig.store, STORE_DISK, count_first, later);
    for (int is_first = 0; is_first < 2; is_first++) {
        assert_int_equal(host[is_first], is_first ? 10 : 20);
        assert_int_equal(disk[is_first], host[is_first]);
        assert_int_equal(later[is_first], host[is_first]);
    }
    store_rig_free(&rig);
}

/* Without the blocks before them in memory they are lent, and not kept. */
static void the_end_of_a_chain_is_lent_from_disk(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, part;
    struct rig_reader r;
    store_rig_init(&rig, 12, 40);
    store_rig_open(&rig, true);
    chain_run(&c, 5, 100, 6);
    assert_int_equal(store_rig_put(&rig, &c), 6);
    store_rig_restart(&rig);
    assert_int_equal(store_rig_get(&rig, &c, 3, &r), 3);
    assert_int_equal(store_rig_stats(&rig).promoted_unkept, 3);
    assert_int_equal(find(&rig, &c).host, 0);
    store_rig_check_quiet(&rig);
    part = c;
    part.chain = chain_part(&c, 3);
    assert_int_equal(store_rig_get(&rig, &part, 0, &r), 3);
    assert_int_equal(store_rig_get(&rig, &c, 3, &r), 3); /* behind what is there they are kept */
    assert_int_equal(find(&rig, &c).host, 6);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void two_tickets_share_a_read(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct rig_reader r[2];
    struct store_found found;
    uint64_t ticket[2];
    store_rig_init(&rig, 12, 40);
    store_rig_open(&rig, true);
    chain_run(&c, 5, 100, 2);
    assert_int_equal(store_rig_put(&rig, &c), 2);
    store_rig_restart(&rig);
    rig.disk.disk.hung = true;
    for (int i = 0; i < 2; i++)
        assert_int_equal(store_rig_start(&rig, &c, 0, &r[i], &ticket[i], &found), ST_OK);
    store_run(rig.store);
    assert_int_equal(store_rig_stats(&rig).reads, 2);
    store_close(rig.store, ticket[0]); /* what it began goes on */
    rig.disk.disk.hung = false;
    store_rig_settle(&rig);
    assert_int_equal(r[0].n_ready, 0);
    assert_int_equal(r[1].n_ready, 2);
    store_rig_compare(&rig, &c, &r[1]);
    store_close(rig.store, ticket[1]);
    assert_int_equal(rig_metrics(&rig.disk).reads, 2);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void a_damaged_block_ends_the_run(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct rig_reader r;
    store_rig_init(&rig, 12, 40);
    rig.options.max_reads = 1;
    store_rig_open(&rig, true);
    chain_run(&c, 5, 100, 4);
    assert_int_equal(store_rig_put(&rig, &c), 4);
    store_rig_restart(&rig);
    rig.disk.disk.spoil = 1;
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 0);
    assert_int_equal(r.st, ST_CORRUPT);
    assert_int_equal(store_rig_stats(&rig).promotion_failures, 1);
    assert_int_equal(find(&rig, &c).disk, 0); /* the first is gone, so nothing behind it is found */
    rig.disk.disk.fail[DISK_IO_READ] = 1;
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 0);
    assert_int_equal(r.st, ST_NOT_FOUND);
    assert_int_equal(store_rig_put(&rig, &c), 4); /* computed anew, it is written anew */
    store_rig_restart(&rig);
    assert_int_equal(find(&rig, &c).disk, 4);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

/* A reads error costs a block; what came before it is lent. */
static void a_block_that_changes_before_it_is_written_is_dropped(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct store_answer a[2];
    store_rig_init(&rig, 12, 40);
    store_rig_open(&rig, true);
    store_rig_settle(&rig);
    chain_run(&c, 5, 100, 2);
    store_rig_offer(&rig, &c, 0, a);
    for (uint32_t i = 0; i < 2; i++) {
        store_rig_fill(&rig, &c, i, a[i].slot);
        assert_int_equal(store_commit(rig.store, a[i].slot), ST_OK);
    }
    store_memory(rig.store, a[1].slot.slot)[9] ^= 1;
    store_rig_settle(&rig);
    assert_int_equal(find(&rig, &c).host, 1);
    assert_int_equal(find(&rig, &c).disk, 0);
    const struct store_stats stats = store_rig_stats(&rig);
    assert_int_equal(stats.damaged_host, 1);
    assert_int_equal(stats.unwritten[STORE_UNWRITTEN_DISK], 1);
    assert_int_equal(stats.written, 1);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void what_is_on_disk_is_worth_a_slot(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, longer;
    store_rig_init(&rig, 12, 40);
    rig.options.admission = STORE_ADMIT_SECOND_SIGHT;
    store_rig_open(&rig, true);
    chain_run(&c, 5, 100, 2);
    chain_run(&longer, 5, 100, 3);
    assert_int_equal(store_rig_put(&rig, &c), 0);
    assert_int_equal(store_rig_put(&rig, &c), 2);
    store_rig_restart(&rig); /* what was seen is forgotten */
    assert_int_equal(store_rig_put(&rig, &longer), 2);
    assert_int_equal(rig_metrics(&rig.disk).writes, 0); /* and not written again */
    assert_int_equal(store_rig_stats(&rig).unwritten[STORE_UNWRITTEN_DISK], 0);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void a_read_error_ends_the_run(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, part;
    struct rig_reader r;
    store_rig_init(&rig, 12, 40);
    rig.options.max_reads = 1;
    store_rig_open(&rig, true);
    chain_run(&c, 5, 100, 4);
    assert_int_equal(store_rig_put(&rig, &c), 4);
    store_rig_restart(&rig);
    part = c;
    part.chain = chain_part(&c, 2);
    assert_int_equal(store_rig_get(&rig, &part, 0, &r), 2);
    rig.disk.disk.fail[DISK_IO_READ] = 1;
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 2);
    assert_int_equal(r.st, ST_IO);
    assert_int_equal(r.lent[1].from, STORE_HOST);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void a_hung_disk_costs_the_time_of_a_read(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct rig_reader r;
    struct store_found found;
    uint64_t ticket;
    store_rig_init(&rig, 12, 40);
    store_rig_open(&rig, true);
    chain_run(&c, 5, 100, 4);
    assert_int_equal(store_rig_put(&rig, &c), 4);
    store_rig_restart(&rig);
    rig.disk.disk.hung = true;
    assert_int_equal(store_rig_start(&rig, &c, 0, &r, &ticket, &found), ST_OK);
    store_run(rig.store);
    assert_true(store_next_us(rig.store) <= rig.disk.now_us + rig.options.read_us);
    rig.disk.now_us += rig.options.read_us;
    store_rig_settle(&rig);
    assert_int_equal(r.done, 1);
    assert_int_equal(r.st, ST_TIMEOUT);
    store_close(rig.store, ticket);
    assert_int_equal(find(&rig, &c).disk, 0); /* not asked again for a while */
    assert_int_equal(store_rig_put(&rig, &c), 4);
    assert_int_equal(store_rig_stats(&rig).unwritten[STORE_UNWRITTEN_DISK], 4);
    store_rig_check_quiet(&rig);
    rig.disk.disk.hung = false;
    rig.disk.now_us += 4 * rig.options.read_us;
    store_rig_settle(&rig);
    flood(&rig);
    assert_int_equal(find(&rig, &c).disk, 4);
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 4);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void a_full_disk_costs_no_block_in_memory(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct rig_reader r;
    store_rig_init(&rig, 12, 40);
    rig.disk.disk.error = ENOSPC;
    store_rig_open(&rig, true);
    rig.disk.disk.fail[DISK_IO_WRITE] = 2;
    chain_run(&c, 5, 100, 4);
    assert_int_equal(store_rig_put(&rig, &c), 4);
    const struct store_stats stats = store_rig_stats(&rig);
    assert_int_equal(stats.written + stats.unwritten[STORE_UNWRITTEN_FAILED] + stats.unwritten[STORE_UNWRITTEN_DISK] +
                         stats.unwritten[STORE_UNWRITTEN_PARENT] + stats.unwritten[STORE_UNWRITTEN_LATE],
                     4);
    assert_int_not_equal(stats.written, 4);
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 4);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void what_waits_for_the_disk_is_bounded(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, other;
    store_rig_init(&rig, 40, 40);
    rig.options.max_writes = 8;
    store_rig_open(&rig, true);
    store_rig_settle(&rig);
    rig.disk.disk.hung = true;
    chain_run(&c, 5, 100, 20);
    assert_int_equal(store_rig_put(&rig, &c), 20);
    struct store_stats stats = store_rig_stats(&rig);
    /* Committed without a run between: 8 waited, the others found no place; of these the first segment takes 4. */
    assert_int_equal(stats.unwritten[STORE_UNWRITTEN_QUEUE], 12);
    assert_int_equal(stats.writes_waiting, 8);
    chain_run(&other, 5, 200, 8);
    assert_int_equal(store_rig_put(&rig, &other), 8);
    stats = store_rig_stats(&rig);
    assert_int_equal(stats.unwritten[STORE_UNWRITTEN_QUEUE], 16);
    assert_int_equal(stats.writes_waiting, 12);
    assert_true(store_next_us(rig.store) <= rig.disk.now_us + rig.options.write_us);
    rig.disk.now_us += rig.options.write_us;
    store_rig_settle(&rig);
    stats = store_rig_stats(&rig);
    assert_int_equal(stats.writes_waiting, 0);
    assert_int_equal(stats.unwritten[STORE_UNWRITTEN_FAILED], 4);
    assert_int_equal(stats.unwritten[STORE_UNWRITTEN_LATE], 8);
    rig.disk.disk.hung = false;
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

/* A child without its parent on disk would never be asked for. */
static void parents_are_written_before_their_children(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, more;
    store_rig_init(&rig, 12, 40);
    store_rig_open(&rig, true);
    chain_run(&c, 5, 100, 2);
    chain_run(&more, 5, 100, 4);
    assert_int_equal(store_rig_put(&rig, &c), 2);
    disk_tier_drop(rig.disk.tier, c.hashes[1], STORE_FORMAT);
    assert_int_equal(store_rig_put(&rig, &more), 2);
    assert_int_equal(store_rig_stats(&rig).unwritten[STORE_UNWRITTEN_PARENT], 2);
    assert_int_equal(rig_metrics(&rig.disk).blocks, 1);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

/* Two sequences whose first blocks were made to have one hash: their second blocks have the same hash, tokens and
 * parent's hash, and still are not each other's. */
static void a_forged_parent_gives_nobody_its_child(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain a, b;
    struct rig_reader r;
    store_rig_init(&rig, 12, 40);
    store_rig_open(&rig, true);
    const uint32_t of_a[] = { 100, 7, 8 }, of_b[] = { 200, 7, 8 };
    chain_make(&a, 5, STORE_FORMAT, of_a, 3);
    chain_make(&b, 5, STORE_FORMAT, of_b, 3);
    memcpy(b.hashes, a.hashes, sizeof a.hashes);
    assert_int_equal(store_rig_put(&rig, &a), 3);
    store_rig_restart(&rig);
    disk_tier_drop(rig.disk.tier, a.hashes[0], STORE_FORMAT);
    struct rig_chain first;
    chain_copy(&first, &b);
    first.chain.n_blocks = 1;
    assert_int_equal(store_rig_put(&rig, &first), 1);
    assert_int_equal(find(&rig, &b).disk, 2); /* as far as hashes tell */
    assert_int_equal(store_rig_get(&rig, &b, 0, &r), 1);
    assert_int_equal(r.st, ST_NOT_FOUND);
    assert_int_equal(rig_metrics(&rig.disk).errors[DISK_ERROR_FOREIGN], 2);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

struct order {
    struct block_hash seen[64];
    uint32_t n;
    const struct rig_chain *chains;
};

static bool was_seen(const struct order *order, struct block_hash hash)
{
    for (uint32_t i = 0; i < order->n; i++)
        if (block_hash_equal(order->seen[i], hash))
            return true;
    return false;
}

static void see(void *ctx, const struct store_block *block)
{
    struct order *order = ctx;
    assert_false(was_seen(order, block->hash));
    if (!block_hash_equal(block->parent, order->chains->chain.seed))
        assert_true(was_seen(order, block->parent));
    order->seen[order->n++] = block->hash;
}

/* A child in a slot before its parent's. */
static void a_dump_of_memory_tells_parents_first(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, stranger;
    store_rig_init(&rig, 2, 0);
    store_rig_open(&rig, false);
    chain_run(&stranger, 5, 300, 1);
    chain_run(&c, 5, 100, 1);
    assert_int_equal(store_rig_put(&rig, &stranger), 1);
    assert_int_equal(store_rig_put(&rig, &c), 1);
    chain_run(&c, 5, 100, 2);
    assert_int_equal(store_rig_put(&rig, &c), 1);
    struct order order = { .chains = &c };
    store_rig_dump(rig.store, STORE_HOST, see, &order);
    assert_int_equal(order.n, 2);
    store_rig_free(&rig);
}

/* A follower of events: what it knows, and what came since the dump began, which it applies behind that. */
struct follower {
    struct block_hash known[64];
    uint32_t n_known;
    struct {
        struct block_hash hash;
        bool is_stored;
    } later[4096];
    uint32_t n_later;
};

static void knows(struct follower *f, struct block_hash hash, bool is_stored)
{
    uint32_t at = 0;
    while (at < f->n_known && !block_hash_equal(f->known[at], hash))
        at++;
    if (is_stored && at == f->n_known)
        f->known[f->n_known++] = hash;
    else if (!is_stored && at < f->n_known)
        f->known[at] = f->known[--f->n_known];
    assert_true(f->n_known < 64);
}

static void dumped(void *ctx, const struct store_block *block)
{
    knows(ctx, block->hash, true);
}

static struct follower followers[STORE_TIER_COUNT];

static void note_later(enum store_tier tier, const struct store_block *block, bool is_stored)
{
    struct follower *f = &followers[tier];
    assert_true(f->n_later < sizeof f->later / sizeof f->later[0]);
    f->later[f->n_later].hash = block->hash;
    f->later[f->n_later++].is_stored = is_stored;
}

static void stored_later(void *ctx, enum store_tier tier, const struct store_block *block)
{
    store_rig_stored(ctx, tier, block);
    note_later(tier, block, true);
}

static void removed_later(void *ctx, enum store_tier tier, const struct store_block *block)
{
    store_rig_removed(ctx, tier, block);
    note_later(tier, block, false);
}

static void check_follower(const struct store_rig *rig, enum store_tier tier)
{
    struct follower *f = &followers[tier];
    for (uint32_t i = 0; i < f->n_later; i++)
        knows(f, f->later[i].hash, f->later[i].is_stored);
    assert_int_equal(f->n_known, rig->n_known[tier]);
    for (uint32_t i = 0; i < f->n_known; i++) {
        uint32_t at = 0;
        while (at < f->n_known && !block_hash_equal(rig->known[tier][at], f->known[i]))
            at++;
        assert_true(at < f->n_known);
    }
}

/* Chains come and go between two pieces, in memory and on disk. */
static void a_dump_in_pieces_and_events_are_the_truth(void **state)
{
    (void)state;
    struct store_rig rig;
    struct store_dump *dumps[STORE_TIER_COUNT];
    struct rig_chain c;
    uint32_t n_dumps = 0;
    store_rig_init(&rig, 16, 0);
    rig.options.stored = stored_later;
    rig.options.removed = removed_later;
    store_rig_open(&rig, true);
    for (uint32_t step = 0; n_dumps < 8; step++) {
        bool more = step % 64 != 0;
        for (int tier = 0; tier < STORE_TIER_COUNT && more; tier++)
            more &= store_dump_some(dumps[tier], 1, dumped, &followers[tier]) || tier == STORE_HOST;
        for (int tier = 0; tier < STORE_TIER_COUNT && !more; tier++) {
            if (step) {
                while (store_dump_some(dumps[tier], 1, dumped, &followers[tier]))
                    continue;
                check_follower(&rig, (enum store_tier)tier);
                store_dump_end(&dumps[tier]);
                n_dumps++;
            }
            followers[tier].n_known = followers[tier].n_later = 0;
            assert_int_equal(store_dump_begin(rig.store, (enum store_tier)tier, &dumps[tier]), ST_OK);
        }
        chain_run(&c, 5, step * 7 % 11 * 100, 1 + step * 5 % 7);
        (void)store_rig_put(&rig, &c);
    }
    for (int tier = 0; tier < STORE_TIER_COUNT; tier++)
        store_dump_end(&dumps[tier]);
    store_rig_free(&rig);
}

/* Also where the children lie before their parents. */
static void a_dump_tells_parents_first(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, fork;
    const uint32_t numbers[] = { 100, 101, 7, 8 };
    store_rig_init(&rig, 12, 40);
    store_rig_open(&rig, true);
    chain_run(&c, 5, 100, 4);
    chain_make(&fork, 5, STORE_FORMAT, numbers, 4);
    assert_int_equal(store_rig_put(&rig, &c), 4);
    assert_int_equal(store_rig_put(&rig, &fork), 2);
    for (int tier = 0; tier < STORE_TIER_COUNT; tier++) {
        struct order order = { .chains = &c };
        store_rig_dump(rig.store, (enum store_tier)tier, see, &order);
        assert_int_equal(order.n, 6);
        disk_tier_drop(rig.disk.tier, c.hashes[0], STORE_FORMAT); /* written again it stands behind the others */
        struct rig_block first = { .block = { .hash = c.hashes[0],
                                              .parent = c.chain.seed,
                                              .format = STORE_FORMAT,
                                              .salt = c.chain.salt,
                                              .checksum = c.checksums[0],
                                              .payload_bytes = STORE_BYTES } };
        chain_payload(&c, 0, first.payload);
        const struct disk_call call = { RIG_FOREVER, NULL, NULL };
        assert_int_equal(disk_tier_put(rig.disk.tier, &first.block, first.payload, &call, NULL), DISK_TAKEN);
        store_rig_settle(&rig);
    }
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_come_back_from_disk),
        cmocka_unit_test(blocks_outlive_the_process),
        cmocka_unit_test(the_first_of_a_chain_is_known_as_such),
        cmocka_unit_test(the_end_of_a_chain_is_lent_from_disk),
        cmocka_unit_test(two_tickets_share_a_read),
        cmocka_unit_test(a_damaged_block_ends_the_run),
        cmocka_unit_test(a_read_error_ends_the_run),
        cmocka_unit_test(a_hung_disk_costs_the_time_of_a_read),
        cmocka_unit_test(a_full_disk_costs_no_block_in_memory),
        cmocka_unit_test(what_waits_for_the_disk_is_bounded),
        cmocka_unit_test(parents_are_written_before_their_children),
        cmocka_unit_test(a_forged_parent_gives_nobody_its_child),
        cmocka_unit_test(a_block_that_changes_before_it_is_written_is_dropped),
        cmocka_unit_test(what_is_on_disk_is_worth_a_slot),
        cmocka_unit_test(a_dump_of_memory_tells_parents_first),
        cmocka_unit_test(a_dump_tells_parents_first),
        cmocka_unit_test(a_dump_in_pieces_and_events_are_the_truth),
    };
    return cmocka_run_group_tests_name("store over disk", tests, NULL, NULL);
}
