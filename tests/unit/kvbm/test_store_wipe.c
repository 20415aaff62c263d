/* Wiping: what is found, what is lent, what is being filled, what lies in free slots, and what is on disk. */
#include "store_rig.h"

struct wiped {
    int calls;
    status st;
    struct store_wiped wiped;
};

static void on_wiped(void *ctx, status st, const struct store_wiped *wiped)
{
    struct wiped *w = ctx;
    w->calls++;
    w->st = st;
    w->wiped = *wiped;
}

static status wipe(struct store_rig *rig, const struct rig_chain *c, struct wiped *w)
{
    *w = (struct wiped){ 0 };
    const struct store_wipe_call call = { c ? &c->chain.salt : NULL, rig->disk.now_us + 200, on_wiped, w };
    return store_wipe(rig->store, &call);
}

static void a_wipe_leaves_nothing(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, long_one, other;
    struct rig_reader r;
    struct wiped w;
    store_rig_init(&rig, 8, 40);
    store_rig_open(&rig, true);
    chain_run(&c, 5, 100, 3);
    chain_run(&long_one, 5, 200, 4);
    chain_run(&other, 6, 100, 4);
    assert_int_equal(store_rig_put(&rig, &c), 3);
    assert_int_equal(store_rig_put(&rig, &long_one), 4);
    assert_int_equal(store_rig_put(&rig, &other), 4);
    assert_true(store_rig_holds_salt(&rig, 5) && rig_holds_salt(&rig.disk, 5));
    assert_int_equal(wipe(&rig, &c, &w), ST_OK);
    assert_int_equal(store_find(rig.store, &c.chain).host + store_find(rig.store, &c.chain).disk, 0);
    assert_int_equal(wipe(&rig, &other, &(struct wiped){ 0 }), ST_AGAIN);
    store_rig_settle(&rig);
    assert_int_equal(w.calls, 1);
    assert_int_equal(w.st, ST_OK);
    assert_int_equal(w.wiped.blocks, 4); /* three of these eight had made room */
    assert_int_equal(w.wiped.slots, 4);
    assert_int_equal(w.wiped.host_bytes, 4 * STORE_BYTES);
    assert_int_equal(w.wiped.disk_bytes, 7 * RIG_EXTENT);
    assert_false(store_rig_holds_salt(&rig, 5));
    assert_false(rig_holds_salt(&rig.disk, 5));
    assert_int_equal(store_rig_get(&rig, &other, 0, &r), 4);
    assert_int_equal(store_rig_put(&rig, &c), 3); /* the salt may come again */
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

/* The bytes of an evicted block lie in its slot until another block's do. */
static void remains_are_wiped(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct rig_reader r;
    struct wiped w;
    struct store_found found;
    uint64_t ticket;
    store_rig_init(&rig, 4, 0);
    rig.options.admission = STORE_ADMIT_ALL;
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 4);
    assert_int_equal(store_rig_put(&rig, &c), 4);
    assert_int_equal(store_rig_start(&rig, &c, 0, &r, &ticket, &found), ST_OK);
    store_run(rig.store);
    store_memory(rig.store, r.lent[3].slot.slot)[0] ^= 1;
    store_close(rig.store, ticket);
    assert_int_equal(store_rig_get(&rig, &c, 0, &r), 3); /* the last one was damaged: its slot is free, not empty */
    assert_int_equal(wipe(&rig, &c, &w), ST_OK);
    store_rig_settle(&rig);
    assert_int_equal(w.st, ST_OK);
    assert_int_equal(w.wiped.blocks, 3);
    assert_int_equal(w.wiped.slots, 4);
    assert_false(store_rig_holds_salt(&rig, 5));
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void what_is_lent_is_wiped_when_its_loan_ends(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct rig_reader r;
    struct wiped w;
    struct store_found found;
    uint64_t ticket;
    store_rig_init(&rig, 8, 0);
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 3);
    assert_int_equal(store_rig_put(&rig, &c), 3);
    assert_int_equal(store_rig_start(&rig, &c, 0, &r, &ticket, &found), ST_OK);
    store_run(rig.store);
    assert_int_equal(r.n_ready, 3);
    assert_int_equal(wipe(&rig, &c, &w), ST_OK);
    store_rig_settle(&rig);
    assert_int_equal(w.calls, 0);
    store_rig_compare(&rig, &c, &r); /* who copies them gets what he was promised */
    assert_int_equal(store_find(rig.store, &c.chain).host, 0);
    store_close(rig.store, ticket);
    store_rig_settle(&rig);
    assert_int_equal(w.st, ST_OK);
    assert_int_equal(w.wiped.slots, 3);
    assert_false(store_rig_holds_salt(&rig, 5));
    for (int i = 0; i < 3; i++)
        assert_false(atomic_load(&rig.generations[r.lent[i].slot.slot]) == r.lent[i].slot.generation);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void a_wipe_has_a_deadline(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct rig_reader r;
    struct wiped w;
    struct store_found found;
    uint64_t ticket;
    store_rig_init(&rig, 8, 40);
    store_rig_open(&rig, true);
    chain_run(&c, 5, 100, 3);
    assert_int_equal(store_rig_put(&rig, &c), 3);
    assert_int_equal(store_rig_start(&rig, &c, 0, &r, &ticket, &found), ST_OK);
    store_run(rig.store);
    rig.disk.disk.hung = true;
    assert_int_equal(wipe(&rig, &c, &w), ST_OK);
    store_rig_settle(&rig);
    assert_true(store_next_us(rig.store) == rig.disk.now_us + 200);
    rig.disk.now_us += 200;
    store_rig_settle(&rig);
    assert_int_equal(w.calls, 1);
    assert_int_equal(w.st, ST_TIMEOUT);
    assert_int_equal(w.wiped.slots_left, 3);
    assert_int_equal(w.wiped.disk, ST_TIMEOUT);
    assert_int_equal(store_find(rig.store, &c.chain).host, 0);
    rig.disk.now_us += 300;
    store_rig_settle(&rig);
    assert_int_equal(r.over, 1);
    assert_false(store_rig_holds_salt(&rig, 5)); /* all the same */
    assert_int_equal(store_rig_stats(&rig).wiped_slots, 3);
    rig.disk.disk.hung = false;
    store_rig_settle(&rig);
    assert_int_equal(wipe(&rig, NULL, &w), ST_OK);
    store_rig_settle(&rig);
    assert_int_equal(w.st, ST_OK);
    assert_false(rig_holds_salt(&rig.disk, 5));
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

/* Slots being filled, by its own blocks and over its remains, and reads. */
static void what_is_on_its_way_is_wiped(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c, old, other;
    struct rig_reader r;
    struct store_answer a[3], b[2];
    struct store_found found;
    struct wiped w;
    uint64_t ticket;
    store_rig_init(&rig, 5, 40);
    store_rig_open(&rig, true);
    chain_run(&old, 5, 300, 2);
    chain_run(&other, 6, 200, 2);
    chain_run(&c, 5, 100, 3);
    assert_int_equal(store_rig_put(&rig, &old), 2);
    store_rig_restart(&rig);
    assert_int_equal(store_rig_put(&rig, &c), 3);
    store_rig_offer(&rig, &other, 0, b); /* into the two free slots */
    assert_int_equal(store_rig_start(&rig, &old, 0, &r, &ticket, &found), ST_OK);
    rig.disk.disk.hung = true;
    store_run(rig.store); /* two of the three go for the reads */
    assert_int_equal(store_rig_stats(&rig).reads, 2);
    chain_run(&c, 5, 100, 2);
    store_rig_offer(&rig, &c, 0, a);
    assert_int_equal(a[1].verdict, STORE_ROOM);
    assert_int_equal(wipe(&rig, &c, &w), ST_OK);
    rig.disk.disk.hung = false;
    store_rig_settle(&rig);
    assert_int_equal(r.done, 1);
    assert_int_equal(r.st, ST_CANCELLED);
    assert_int_equal(r.n_ready, 0);
    assert_int_equal(w.calls, 1);
    assert_int_equal(w.st, ST_OK);
    assert_false(store_rig_holds_salt(&rig, 5));
    store_close(rig.store, ticket);

    assert_int_equal(store_commit(rig.store, b[0].slot), ST_OK);
    store_abort(rig.store, b[1].slot, false);
    chain_run(&c, 5, 100, 3);
    store_rig_offer(&rig, &c, 0, a);
    store_rig_fill(&rig, &c, 0, a[0].slot);
    store_rig_fill(&rig, &c, 1, a[1].slot);
    store_rig_fill(&rig, &c, 2, a[2].slot);
    assert_int_equal(store_commit(rig.store, a[0].slot), ST_OK);
    assert_int_equal(wipe(&rig, &c, &w), ST_OK);
    store_rig_settle(&rig);
    assert_int_equal(w.calls, 0);
    struct store_answer refused[3];
    store_rig_offer(&rig, &c, 0, refused);
    assert_int_equal(refused[0].verdict, STORE_WIPING);
    assert_int_equal(store_rig_start(&rig, &c, 0, &r, &ticket, &found), ST_CANCELLED);
    assert_int_equal(store_commit(rig.store, a[1].slot), ST_CANCELLED);
    store_abort(rig.store, a[2].slot, false);
    store_rig_settle(&rig);
    assert_int_equal(w.st, ST_OK);
    assert_int_equal(w.wiped.slots, 3);
    assert_int_equal(w.wiped.blocks, 1);
    assert_false(store_rig_holds_salt(&rig, 5));
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

/* A slot that another salt's block is being written into has the old bytes until that is done. */
static void remains_under_a_block_that_comes_are_waited_for(void **state)
{
    (void)state;
    for (int aborts = 0; aborts < 2; aborts++) {
        struct store_rig rig;
        struct rig_chain c, other;
        struct store_answer a[2];
        struct wiped w;
        store_rig_init(&rig, 2, 0);
        store_rig_open(&rig, false);
        chain_run(&c, 5, 100, 2);
        chain_run(&other, 6, 100, 2);
        assert_int_equal(store_rig_put(&rig, &c), 2);
        store_rig_offer(&rig, &other, 0, a);
        assert_int_equal(a[1].verdict, STORE_WANTED);
        assert_int_equal(wipe(&rig, &c, &w), ST_OK);
        store_rig_settle(&rig);
        assert_int_equal(w.calls, 0);
        store_rig_fill(&rig, &other, 0, a[0].slot);
        assert_int_equal(store_commit(rig.store, a[0].slot), ST_OK);
        if (aborts) {
            store_abort(rig.store, a[1].slot, false);
        } else {
            store_rig_fill(&rig, &other, 1, a[1].slot);
            assert_int_equal(store_commit(rig.store, a[1].slot), ST_OK);
        }
        store_rig_settle(&rig);
        assert_int_equal(w.calls, 1);
        assert_int_equal(w.st, ST_OK);
        assert_int_equal(w.wiped.slots, aborts);
        assert_false(store_rig_holds_salt(&rig, 5));
        assert_int_equal(store_find(rig.store, &other.chain).host, 2 - aborts);
        store_rig_check_quiet(&rig);
        store_rig_free(&rig);
    }
}

/* Two blocks were to come into a slot, one after the other, and did not: the bytes of the one that was there are gone.
 */
static void remains_under_blocks_that_did_not_come_are_gone(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct store_answer a;
    struct wiped w;
    store_rig_init(&rig, 1, 0);
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 1);
    assert_int_equal(store_rig_put(&rig, &c), 1);
    for (uint64_t salt = 6; salt < 8; salt++) {
        chain_run(&c, salt, 100, 1);
        store_rig_offer(&rig, &c, 0, &a);
        assert_int_equal(a.verdict, STORE_WANTED);
        store_abort(rig.store, a.slot, false);
    }
    chain_run(&c, 5, 100, 1);
    assert_int_equal(wipe(&rig, &c, &w), ST_OK);
    store_rig_settle(&rig);
    assert_int_equal(w.st, ST_OK);
    assert_false(store_rig_holds_salt(&rig, 5));
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void a_ticket_gets_nothing_of_a_wiped_salt(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct rig_reader r;
    struct store_found found;
    struct wiped w;
    uint64_t ticket;
    store_rig_init(&rig, 8, 40);
    rig.options.read_us = 100000;
    store_rig_open(&rig, true);
    chain_run(&c, 5, 100, 2);
    assert_int_equal(store_rig_put(&rig, &c), 2);
    assert_int_equal(store_rig_start(&rig, &c, 0, &r, &ticket, &found), ST_OK);
    assert_int_equal(wipe(&rig, &c, &w), ST_OK);
    store_rig_settle(&rig);
    assert_int_equal(r.n_ready, 0);
    assert_int_equal(r.st, ST_CANCELLED);
    assert_int_equal(w.st, ST_OK);
    store_close(rig.store, ticket);

    assert_int_equal(store_rig_put(&rig, &c), 2);
    store_rig_restart(&rig);
    assert_int_equal(store_rig_start(&rig, &c, 0, &r, &ticket, &found), ST_OK);
    rig.disk.disk.hung = true;
    store_run(rig.store);
    assert_int_equal(store_rig_stats(&rig).reads, 2);
    assert_int_equal(wipe(&rig, &c, &w), ST_OK);
    rig.disk.now_us += 200;
    store_rig_settle(&rig);
    assert_int_equal(w.wiped.slots_left, 0); /* the reads were given up; the disk hangs on */
    assert_int_equal(w.wiped.disk, ST_TIMEOUT);
    store_close(rig.store, ticket);
    rig.disk.disk.hung = false;
    store_rig_settle(&rig);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

static void a_wipe_ends_pins(void **state)
{
    (void)state;
    struct store_rig rig;
    struct rig_chain c;
    struct wiped w;
    uint32_t n;
    store_rig_init(&rig, 8, 0);
    store_rig_open(&rig, false);
    chain_run(&c, 5, 100, 3);
    assert_int_equal(store_rig_put(&rig, &c), 3);
    assert_int_equal(store_pin(rig.store, &c.chain, UINT64_MAX, &n), ST_OK);
    assert_int_equal(wipe(&rig, NULL, &w), ST_OK);
    assert_int_equal(store_rig_stats(&rig).pins, 0);
    assert_int_equal(store_pin(rig.store, &c.chain, UINT64_MAX, &n), ST_NOT_FOUND);
    store_rig_settle(&rig);
    assert_int_equal(w.st, ST_OK);
    assert_int_equal(w.wiped.slots, 3);
    store_rig_check_quiet(&rig);
    store_rig_free(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wipe_leaves_nothing),
        cmocka_unit_test(remains_are_wiped),
        cmocka_unit_test(what_is_lent_is_wiped_when_its_loan_ends),
        cmocka_unit_test(a_wipe_has_a_deadline),
        cmocka_unit_test(what_is_on_its_way_is_wiped),
        cmocka_unit_test(remains_under_a_block_that_comes_are_waited_for),
        cmocka_unit_test(remains_under_blocks_that_did_not_come_are_gone),
        cmocka_unit_test(a_ticket_gets_nothing_of_a_wiped_salt),
        cmocka_unit_test(a_wipe_ends_pins),
    };
    return cmocka_run_group_tests_name("wipes of the store", tests, NULL, NULL);
}
