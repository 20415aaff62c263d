/* The store of the KV block manager: putting, getting, evicting, and what it does when memory or disk fail. */
#include "store_rig.h"

static struct store_found find(struct store_rig *rig, const struct rig_chain *c)
{
    return store_find(rig->store, &c->chain);
}

static void a_block_comes_back(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct rig_reader r;
    store_rig_init(&rig, 8, 0);
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 3);
    assert_int_equal(find(&rig, &c).host, 0);
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 0);
    assert_int_equal(r.st, ST_NOT_FOUND);
    assert_int_equal(store_rig_put(&rig, &c), 3);
    assert_int_equal(find(&rig, &c).host, 3);
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 3);
    assert_int_equal(r.st, ST_OK);
    assert_int_equal(store_rig_get(&rig, &c, 2, &r), 1);
    assert_int_equal(store_rig_put(&rig, &c), 0); /* it is there */
    const struct store_stats stats = store_rig_stats(&rig);
    assert_int_equal(stats.tiers[STORE_HOST].hit_blocks, 4);
    assert_int_equal(stats.tiers[STORE_HOST].hit_tokens, 4 * CHAIN_TOKENS);
    assert_int_equal(stats.verdicts[STORE_PRESENT], 3);
    assert_int_equal(stats.asked, 3 + 3 + 1);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void blocks_are_admitted_on_second_sight(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, longer;
    struct store_answer a[3];
    const bool shared[3] = { true, false, false };
    store_rig_init(&rig, 8, 0);
    rig.options.admission = STORE_ADMIT_SECOND_SIGHT;
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 2);
    chain_run(&longer, 5, 100, 3);
    assert_int_equal(store_rig_put(&rig, &c), 0);
    assert_int_equal(store_rig_put(&rig, &longer), 2);
    store_rig_offer(&rig, &longer, 2, a);
    assert_int_equal(a[0].verdict, STORE_WANTED);
    store_abort(rig.store, a[0].slot, false);
    chain_run(&c, 5, 200, 3);
    const struct store_offer offer = {
        .chain = c.chain, .block_bytes = STORE_BYTES, .checksums = c.checksums, .shared = shared
    };
    store_offer(rig.store, &offer, a);
    assert_int_equal(a[0].verdict, STORE_WANTED);
    assert_int_equal(a[1].verdict, STORE_ADMISSION);
    assert_int_equal(a[2].verdict, STORE_PARENT);
    store_abort(rig.store, a[0].slot, false);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void what_cannot_be_taken_is_refused_by_name(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, other;
    struct store_answer a[CHAIN_MAX];
    store_rig_init(&rig, 4, 0);
    rig.options.max_salts = 1;
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 6);
    struct store_offer offer = { .chain = c.chain, .block_bytes = STORE_BYTES - 1, .checksums = c.checksums };
    store_offer(rig.store, &offer, a);
    assert_int_equal(a[0].verdict, STORE_SIZE);
    store_rig_offer(&rig, &c, 1, a); /* the block before it is not there */
    assert_int_equal(a[0].verdict, STORE_PARENT);
    store_rig_offer(&rig, &c, 0, a);
    assert_int_equal(a[3].verdict, STORE_WANTED);
    assert_int_equal(a[4].verdict, STORE_ROOM);
    assert_int_equal(a[5].verdict, STORE_PARENT);
    struct store_answer again[CHAIN_MAX];
    store_rig_offer(&rig, &c, 0, again);
    assert_int_equal(again[3].verdict, STORE_COMING);
    assert_int_equal(again[4].verdict, STORE_ROOM);
    chain_run(&other, 6, 100, 1);
    store_rig_offer(&rig, &other, 0, again);
    assert_int_equal(again[0].verdict, STORE_SALTS);
    for (int i = 3; i >= 0; i--)
        store_abort(rig.store, a[i].slot, false);
    assert_int_equal(store_rig_put(&rig, &other), 1);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void blocks_are_committed_in_any_order(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct store_answer a[3];
    struct rig_reader r;
    store_rig_init(&rig, 8, 0);
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 3);
    store_rig_offer(&rig, &c, 0, a);
    for (uint32_t i = 3; i-- > 0;) {
        assert_int_equal(find(&rig, &c).host, 0);
        store_rig_fill(&rig, &c, i, a[i].slot);
        assert_int_equal(store_commit(rig.store, a[i].slot), ST_OK);
        assert_int_equal(store_commit(rig.store, a[i].slot), ST_STALE);
    }
    assert_int_equal(find(&rig, &c).host, 3);
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 3);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void what_stands_behind_a_block_that_did_not_come_is_not_kept(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct store_answer a[4];
    store_rig_init(&rig, 8, 0);
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 4);
    store_rig_offer(&rig, &c, 0, a);
    assert_int_equal(store_commit(rig.store, a[0].slot), ST_OK);
    assert_int_equal(store_commit(rig.store, a[2].slot), ST_OK); /* waits for the second */
    store_abort(rig.store, a[1].slot, true);
    store_abort(rig.store, a[1].slot, true);
    assert_int_equal(store_commit(rig.store, a[2].slot), ST_STALE);
    assert_int_equal(store_commit(rig.store, a[3].slot), ST_CANCELLED);
    assert_int_equal(find(&rig, &c).host, 1);
    const struct store_stats stats = store_rig_stats(&rig);
    assert_int_equal(stats.damaged_offers, 1);
    assert_int_equal(stats.orphans, 2);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

/* Each part of a block's name keeps it apart, and a hash that was made to collide finds nothing. */
static void blocks_are_what_they_are_called(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, other;
    struct store_answer a[3];
    const uint32_t numbers[] = { 100, 101, 102 };
    store_rig_init(&rig, 12, 0);
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 3);
    assert_int_equal(store_rig_put(&rig, &c), 3);
    chain_make(&other, 5, STORE_FORMAT + 1, numbers, 3);
    assert_int_equal(find(&rig, &other).host, 0);
    assert_int_equal(store_rig_put(&rig, &other), 3); /* side by side */
    chain_run(&other, 6, 100, 3);
    assert_int_equal(find(&rig, &other).host, 0);
    memcpy(other.hashes, c.hashes, sizeof c.hashes); /* another salt's, forged */
    assert_int_equal(find(&rig, &other).host, 0);
    chain_copy(&other, &c);
    other.chain.salt++;
    assert_int_equal(find(&rig, &other).host, 0);
    chain_copy(&other, &c);
    other.chain.seed.high++;
    assert_int_equal(find(&rig, &other).host, 0);
    chain_copy(&other, &c);
    other.tokens[1]++;
    assert_int_equal(find(&rig, &other).host, 0);
    store_rig_offer(&rig, &other, 0, a);
    assert_int_equal(a[0].verdict, STORE_COLLISION);
    assert_int_equal(a[1].verdict, STORE_PARENT);
    assert_int_equal(find(&rig, &c).host, 3);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

/* One hash in as many formats as there are slots, so that they are neighbours in the table. */
static void formats_share_hashes_and_no_block(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct rig_reader r;
    const uint32_t number = 100;
    store_rig_init(&rig, 12, 0);
    store_rig_open(&rig, false);
    for (uint64_t i = 0; i < 12; i++) {
        chain_make(&c, 5, XXH3_64bits(&i, sizeof i), &number, 1);
        assert_int_equal(find(&rig, &c).host, 0);
        assert_int_equal(store_rig_put(&rig, &c), 1);
    }
    for (uint64_t i = 0; i < 12; i++) {
        chain_make(&c, 5, XXH3_64bits(&i, sizeof i), &number, 1);
        assert_int_equal(store_rig_get(&rig, &c, 0, &r), 1);
    }
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

/* Two second blocks of one hash and the same tokens behind different first ones. */
static void a_block_belongs_to_the_one_before_it(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain a, b;
    struct store_answer answers[2];
    const uint32_t of_a[] = { 100, 7 }, of_b[] = { 200, 7 };
    store_rig_init(&rig, 8, 0);
    store_rig_open(&rig, false);
    chain_make(&a, 5, STORE_FORMAT, of_a, 2);
    chain_make(&b, 5, STORE_FORMAT, of_b, 2);
    b.hashes[1] = a.hashes[1];
    assert_int_equal(store_rig_put(&rig, &a), 2);
    store_rig_offer(&rig, &b, 0, answers);
    assert_int_equal(answers[0].verdict, STORE_WANTED);
    assert_int_equal(answers[1].verdict, STORE_COLLISION);
    assert_int_equal(store_commit(rig.store, answers[0].slot), ST_OK);
    assert_int_equal(find(&rig, &b).host, 1);
    assert_int_equal(store_rig_stats(&rig).mismatches, 2);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void reservations_are_bounded(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct store_answer a[3];
    store_rig_init(&rig, 8, 0);
    rig.options.max_reserved = 2;
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 3);
    for (int i = 0; i < 3; i++) { /* and are given back */
        store_rig_offer(&rig, &c, 0, a);
        assert_int_equal(a[1].verdict, STORE_WANTED);
        assert_int_equal(a[2].verdict, STORE_ROOM);
        store_abort(rig.store, a[0].slot, false);
        store_abort(rig.store, a[1].slot, false);
    }
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void chains_go_from_their_ends(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, other;
    store_rig_init(&rig, 6, 0);
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 4);
    chain_run(&other, 5, 200, 4);
    assert_int_equal(store_rig_put(&rig, &c), 4);
    assert_int_equal(store_rig_put(&rig, &other), 4);
    assert_int_equal(find(&rig, &c).host, 2);
    assert_int_equal(find(&rig, &other).host, 4);
    assert_int_equal(store_rig_stats(&rig).removed[STORE_REMOVED_EVICTED], 2);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void a_ticket_keeps_what_it_holds_until_its_deadline(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, other;
    struct rig_reader r;
    struct store_answer a[4];
    struct store_found found;
    uint64_t ticket;
    store_rig_init(&rig, 4, 0);
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 4);
    chain_run(&other, 5, 200, 4);
    assert_int_equal(store_rig_put(&rig, &c), 4);
    assert_int_equal(store_rig_start(&rig, &c, 0, &r, &ticket, &found), ST_OK);
    assert_int_equal(store_next_us(rig.store), 0);
    store_run(rig.store);
    assert_int_equal(r.n_ready, 4);
    assert_true(store_next_us(rig.store) == rig.disk.now_us + 500);
    store_rig_offer(&rig, &other, 0, a);
    assert_int_equal(a[0].verdict, STORE_ROOM);
    rig.disk.now_us += 499;
    assert_true(store_renew(rig.store, ticket, rig.disk.now_us + 5000));
    rig.disk.now_us += rig.options.ticket_us - 1; /* no farther ahead */
    store_run(rig.store);
    assert_int_equal(r.over, 0);
    rig.disk.now_us += 1;
    store_run(rig.store);
    assert_int_equal(r.over, 1);
    assert_false(store_renew(rig.store, ticket, rig.disk.now_us + 50));
    store_close(rig.store, ticket);
    assert_int_equal(store_rig_put(&rig, &other), 4);
    for (int i = 0; i < 4; i++) /* a borrower that copies still can tell */
        assert_false(atomic_load(&rig.generations[r.lent[i].slot.slot]) == r.lent[i].slot.generation);
    assert_int_equal(store_rig_stats(&rig).tickets_over, 1);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

/* A borrower who does in its callbacks what it likes. */
struct busy {
    struct store_rig *rig;
    const struct rig_chain *chain;
    struct rig_reader other;
    uint64_t ticket;
    int ready, done, over;
};

static void close_in_ready(void *ctx, uint64_t ticket, uint32_t first, const struct store_lent *lent, uint32_t n)
{
    struct busy *b = ctx;
    struct store_found found;
    (void)first;
    (void)lent;
    (void)n;
    b->ready++;
    store_run(b->rig->store);
    store_close(b->rig->store, ticket);
    if (b->ready < 3)
        assert_int_equal(store_rig_start(b->rig, b->chain, 0, &b->other, &b->ticket, &found), ST_OK);
}

static void count_done(void *ctx, uint64_t ticket, status st, uint32_t n_ready)
{
    (void)ticket;
    (void)st;
    (void)n_ready;
    ((struct busy *)ctx)->done++;
}

static void callbacks_may_call_back(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct store_found found;
    store_rig_init(&rig, 8, 0);
    rig.options.max_tickets = 1;
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 4);
    assert_int_equal(store_rig_put(&rig, &c), 4);
    struct busy b = { .rig = &rig, .chain = &c };
    const struct store_reader reader = { close_in_ready, count_done, NULL, &b };
    const struct store_request request = { .chain = c.chain, .deadline_us = rig.disk.now_us + 500, .reader = &reader };
    assert_int_equal(store_open(rig.store, &request, &b.ticket, &found), ST_OK);
    store_rig_settle(&rig);
    assert_int_equal(b.ready, 1);
    assert_int_equal(b.done, 0);          /* it was closed before */
    assert_int_equal(b.other.n_ready, 4); /* in the place of the first */
    assert_int_equal(b.other.done, 1);
    rig.disk.now_us += 500;
    store_run(rig.store);
    assert_int_equal(b.other.over, 1);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void tickets_are_bounded(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct rig_reader r[9];
    struct store_found found;
    uint64_t ticket[9];
    store_rig_init(&rig, 8, 0);
    rig.options.max_ticket_blocks = 2;
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 4);
    assert_int_equal(store_rig_put(&rig, &c), 4);
    for (int i = 0; i < 9; i++)
        assert_int_equal(store_rig_start(&rig, &c, 1, &r[i], &ticket[i], &found), i < 8 ? ST_OK : ST_AGAIN);
    assert_int_equal(found.host, 3); /* of which it gets those behind the first */
    store_run(rig.store);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(r[i].n_ready, 2);
        store_close(rig.store, ticket[i]);
    }
    assert_int_equal(store_rig_stats(&rig).tickets_refused, 1);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void a_damaged_block_is_not_lent(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct rig_reader r;
    store_rig_init(&rig, 8, 12);
    store_rig_open(&rig, true);
    chain_run(&c, 5, 100, 4);
    assert_int_equal(store_rig_put(&rig, &c), 4);
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 4);
    store_memory(rig.store, r.lent[1].slot.slot)[77] ^= 4;
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 1);
    assert_int_equal(r.st, ST_CORRUPT);
    const struct store_stats stats = store_rig_stats(&rig);
    assert_int_equal(stats.damaged_host, 1);
    assert_int_equal(stats.removed[STORE_REMOVED_DAMAGED], 1);
    assert_int_equal(stats.removed[STORE_REMOVED_BEHIND], 2);
    const struct store_found found = find(&rig, &c);
    assert_int_equal(found.host, 1);
    assert_int_equal(found.disk, 3);
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 4); /* the disk has it as it was */
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static uint32_t n_looks;

static uint64_t count_looks(void *ctx, uint64_t format, const void *payload)
{
    (void)ctx;
    (void)format;
    n_looks++;
    return XXH3_64bits(payload, STORE_BYTES);
}

static void begin_with_suspects(struct store_rig *rig, uint32_t n_slots)
{
    store_rig_init(rig, n_slots, 0);
    rig->options.verify_host = false;
    rig->options.checksum = count_looks;
    rig->options.ticket_us = UINT64_C(1000000);
    store_rig_open(rig, false);
}

/* Somebody blames what is good, again and again: time passes, work does not. */
static void suspects_are_looked_at_one_by_one(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct rig_reader r;
    begin_with_suspects(&rig, 8);
    chain_run(&c, 5, 100, 4);
    assert_int_equal(store_rig_put(&rig, &c), 4);
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 4);
    n_looks = 0;
    for (uint32_t turn = 1; turn <= 4; turn++) {
        for (uint32_t i = turn - 1; i < 4; i++)
            store_suspect(rig.store, r.lent[i].slot);
        store_rig_settle(&rig);
        assert_int_equal(n_looks, turn);
        assert_true(store_next_us(rig.store) == (turn < 4 ? rig.disk.now_us + STORE_SUSPECT_PAUSE_US : UINT64_MAX));
        rig.disk.now_us += STORE_SUSPECT_PAUSE_US;
    }
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 4);
    assert_int_equal(n_looks, 4); /* nobody is suspected any more */
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void a_suspect_is_looked_at_before_it_is_lent(void **state)
{
    (void)state;
    struct store_rig rig;
    static struct rig_chain chains[STORE_MAX_SUSPECTS / 4 + 2];
    struct rig_reader r, last;
    const uint32_t n = STORE_MAX_SUSPECTS / 4 + 2;
    begin_with_suspects(&rig, 4 * n);
    for (uint32_t i = 0; i < n; i++) {
        chain_run(&chains[i], 5, 100 * (i + 1), 4);
        assert_int_equal(store_rig_put(&rig, &chains[i]), 4);
        assert_int_equal(store_rig_get(&rig, &chains[i], 0, &last), 4);
        for (uint32_t k = 0; k < 4; k++)
            store_suspect(rig.store, last.lent[k].slot); /* more than wait for their turn */
    }
    store_memory(rig.store, last.lent[2].slot.slot)[77] ^= 4;
    n_looks = 0;
    assert_int_equal(store_rig_get(&rig, &chains[n - 1], 0, &r), 2);
    assert_int_equal(r.st, ST_CORRUPT);
    assert_int_equal(n_looks, 3); /* the fourth has gone with the third */
    assert_int_equal(store_rig_stats(&rig).damaged_host, 1);
    assert_int_equal(find(&rig, &chains[n - 1]).host, 2);
    for (uint32_t i = 0; i < STORE_MAX_SUSPECTS; i++) { /* the chain's end came too late to be waited for */
        rig.disk.now_us += STORE_SUSPECT_PAUSE_US;
        store_run(rig.store);
    }
    assert_int_equal(n_looks, 3 + STORE_MAX_SUSPECTS);
    assert_true(store_next_us(rig.store) == UINT64_MAX);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void a_salt_has_a_quota(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, other, stranger;
    struct rig_reader r;
    struct store_answer a[2], refused;
    struct store_found found;
    uint64_t ticket;
    store_rig_init(&rig, 10, 0);
    rig.options.salt_quota_bytes = 4 * STORE_BYTES;
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 3);
    chain_run(&other, 5, 200, 2);
    chain_run(&stranger, 6, 300, 4);
    assert_int_equal(store_rig_put(&rig, &c), 3);
    assert_int_equal(store_rig_put(&rig, &stranger), 4);
    assert_int_equal(store_rig_put(&rig, &other), 2); /* the end of its own oldest chain goes */
    assert_int_equal(find(&rig, &c).host, 2);
    assert_int_equal(find(&rig, &stranger).host, 4);
    assert_int_equal(store_rig_stats(&rig).removed[STORE_REMOVED_QUOTA], 1);
    assert_int_equal(store_rig_start(&rig, &c, 0, &r, &ticket, &found), ST_OK);
    chain_run(&stranger, 5, 400, 2);
    store_rig_offer(&rig, &stranger, 0, a);
    assert_int_equal(a[0].verdict, STORE_WANTED); /* in place of the other chain's end */
    assert_int_equal(a[1].verdict, STORE_WANTED);
    assert_int_equal(find(&rig, &other).host, 0);
    chain_run(&stranger, 5, 500, 1);
    store_rig_offer(&rig, &stranger, 0, &refused);
    assert_int_equal(refused.verdict, STORE_QUOTA);
    store_abort(rig.store, a[1].slot, false);
    store_abort(rig.store, a[0].slot, false);
    store_close(rig.store, ticket);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void pins_keep_a_chain(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, other;
    uint32_t n;
    store_rig_init(&rig, 6, 0);
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 3);
    chain_run(&other, 5, 200, 6);
    assert_int_equal(store_pin(rig.store, &c.chain, UINT64_MAX, &n), ST_NOT_FOUND);
    assert_int_equal(store_rig_put(&rig, &c), 3);
    assert_int_equal(store_pin(rig.store, &c.chain, rig.disk.now_us + 50, &n), ST_OK);
    assert_int_equal(n, 3);
    assert_int_equal(store_rig_put(&rig, &other), 3);
    assert_int_equal(store_pin(rig.store, &other.chain, UINT64_MAX, &n), ST_LIMIT); /* half of the slots */
    assert_int_equal(store_pin(rig.store, &c.chain, rig.disk.now_us + 60, &n), ST_OK);
    rig.disk.now_us += 59;
    assert_true(store_next_us(rig.store) == rig.disk.now_us + 1);
    store_run(rig.store);
    assert_int_equal(store_rig_stats(&rig).pins, 1);
    rig.disk.now_us += 1;
    store_run(rig.store);
    assert_int_equal(store_rig_stats(&rig).slots_pinned, 0);
    assert_false(store_unpin(rig.store, &c.chain));
    assert_int_equal(store_pin(rig.store, &c.chain, UINT64_MAX, &n), ST_OK);
    assert_true(store_next_us(rig.store) == rig.disk.now_us + rig.options.pin_us);
    assert_true(store_unpin(rig.store, &c.chain));
    chain_run(&c, 5, 300, 6);
    assert_int_equal(store_rig_put(&rig, &c), 6);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void wrong_options_are_named(void **state)
{
    (void)state;
    struct store_rig rig;
    struct error err;
    enum store_admission admission;
    store_rig_init(&rig, 4, 0);
    rig.options.block_tokens = STORE_MAX_BLOCK_TOKENS + 1;
    assert_int_equal(store_create(&rig.options, &rig.store, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "509 tokens"));
    rig.options.block_tokens = 4;
    rig.options.max_reads = 0;
    assert_int_equal(store_create(&rig.options, &rig.store, &err), ST_INVALID);
    rig.options.memory = NULL;
    assert_int_equal(store_create(&rig.options, &rig.store, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "no memory"));
    assert_true(store_admission_parse("second-sight", &admission));
    assert_int_equal(admission, STORE_ADMIT_SECOND_SIGHT);
    assert_false(store_admission_parse("some", &admission));
    assert_string_equal(store_verdict_name(STORE_COLLISION), "collision");
    store_rig_free(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_comes_back),
        cmocka_unit_test(blocks_are_admitted_on_second_sight),
        cmocka_unit_test(what_cannot_be_taken_is_refused_by_name),
        cmocka_unit_test(blocks_are_committed_in_any_order),
        cmocka_unit_test(what_stands_behind_a_block_that_did_not_come_is_not_kept),
        cmocka_unit_test(blocks_are_what_they_are_called),
        cmocka_unit_test(formats_share_hashes_and_no_block),
        cmocka_unit_test(a_block_belongs_to_the_one_before_it),
        cmocka_unit_test(reservations_are_bounded),
        cmocka_unit_test(chains_go_from_their_ends),
        cmocka_unit_test(a_ticket_keeps_what_it_holds_until_its_deadline),
        cmocka_unit_test(callbacks_may_call_back),
        cmocka_unit_test(tickets_are_bounded),
        cmocka_unit_test(a_damaged_block_is_not_lent),
        cmocka_unit_test(suspects_are_looked_at_one_by_one),
        cmocka_unit_test(a_suspect_is_looked_at_before_it_is_lent),
        cmocka_unit_test(a_salt_has_a_quota),
        cmocka_unit_test(pins_keep_a_chain),
        cmocka_unit_test(wrong_options_are_named),
    };
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
