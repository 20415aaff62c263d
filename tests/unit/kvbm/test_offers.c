/* Offering what was computed to a manager, and the manager's taking it: a worker (node 1) and a manager (node 0). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "virtual_exchange.h"

static const struct block_seed_parts parts = { 1, 2, 0, { 5, 6 } };
static uint32_t tokens[VX_CHAIN * VX_BLOCK_TOKENS];

static struct vx *begin(struct vx_options options)
{
    for (uint32_t i = 0; i < VX_CHAIN * VX_BLOCK_TOKENS; i++)
        tokens[i] = 100 + i;
    options.random = 1;
    return vx_create(&options);
}

static void finish(struct vx *vx)
{
    vx_run(vx, 20000000);
    vx_assert_at_rest(vx);
    vx_destroy(vx);
}

static const struct offers_counters *offers(const struct vx *vx)
{
    return offers_counters(vx->nodes[1].offers);
}

static const struct acceptor_counters *acceptor(const struct vx *vx)
{
    return acceptor_counters(vx->nodes[0].acceptor);
}

static void compute(struct vx *vx, uint32_t n)
{
    assert_int_equal(vx_compute(&vx->nodes[1], &parts, tokens, n, true), n);
}

static uint32_t manager_has(struct vx *vx)
{
    return vx_has(&vx->nodes[0], &parts, tokens, VX_CHAIN);
}

static void test_what_is_offered_is_taken(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    compute(vx, 10);
    assert_int_equal(vx->sent[FRAME_OFFER], 2); /* full batches; the rest waits for more */
    vx_run(vx, 10000);
    assert_int_equal(vx->sent[FRAME_OFFER], 3);
    assert_int_equal(manager_has(vx), 10);
    assert_int_equal(offers(vx)->taken, 10);
    assert_int_equal(acceptor(vx)->taken, 10);
    assert_int_equal(offers_under_way(vx->nodes[1].offers), 0);
    finish(vx);
}

static void test_chunks_of_a_sequence_join(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    compute(vx, 1);
    compute(vx, 3);
    vx_run(vx, 10000);
    assert_int_equal(vx->sent[FRAME_OFFER], 1);
    assert_int_equal(manager_has(vx), 3);
    finish(vx);
}

static void test_what_is_there_is_not_taken_again(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    assert_int_equal(vx_compute(&vx->nodes[0], &parts, tokens, 2, false), 2);
    compute(vx, 4);
    vx_run(vx, 10000);
    assert_int_equal(offers(vx)->present, 2);
    assert_int_equal(offers(vx)->taken, 2);
    assert_int_equal(acceptor(vx)->bytes, 2 * VX_LAYERS * 2 * VX_BLOCK_TOKENS * 16);
    finish(vx);
}

/* Lent blocks stay while the manager is frozen, no longer than the offer lives; the queue fills up and no more. */
static void test_a_frozen_manager(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    vx_freeze(&vx->nodes[0], 2900000);
    compute(vx, VX_CHAIN);
    assert_int_equal(offers_under_way(vx->nodes[1].offers), 2);
    assert_int_equal(vx->sent[FRAME_OFFER], 2); /* the bound */
    struct block_seed_parts other = parts;
    for (other.salt.low = 100; other.salt.low < 103; other.salt.low++)
        assert_int_equal(vx_compute(&vx->nodes[1], &other, tokens, VX_CHAIN - 3, true), VX_CHAIN - 3);
    assert_int_equal(offers(vx)->queue_full, VX_CHAIN - 8 + 3 * (VX_CHAIN - 3) - 2 * VX_CHAIN);
    vx_crowd_out(&vx->nodes[1]);
    assert_int_equal(vx_has(&vx->nodes[1], &parts, tokens, VX_CHAIN), 8); /* lent */
    vx_run(vx, 2000000);
    assert_int_equal(offers_under_way(vx->nodes[1].offers), 2);
    vx_run(vx, 1500000); /* it thaws */
    assert_int_equal(manager_has(vx), 8);
    assert_int_equal(offers(vx)->taken, 8);
    assert_int_equal(offers(vx)->gone, 2 * VX_CHAIN); /* what waited was not held */
    finish(vx);
}

/* The block that waits is another sequence's by the time of its turn. */
static void test_blocks_of_another_life_are_not_offered(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    compute(vx, 1);
    for (uint64_t i = 1; i < 5; i++)
        (void)vx_compute(&vx->nodes[1], &(struct block_seed_parts){ .weights = 10 + i }, tokens, VX_CHAIN, false);
    assert_int_equal(vx_has(&vx->nodes[1], &parts, tokens, 1), 0);
    vx_run(vx, 10000);
    assert_int_equal(offers(vx)->gone, 1);
    assert_int_equal(vx->sent[FRAME_OFFER], 0);
    finish(vx);
}

static void test_an_offer_ends_by_time(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    vx->nodes[0].frozen_until = vx->now + 5000000; /* and its link lives on */
    compute(vx, 4);
    vx_run(vx, VX_LIFETIME_US - 1000);
    assert_int_equal(offers_under_way(vx->nodes[1].offers), 1);
    vx_run(vx, 2000);
    assert_int_equal(offers_under_way(vx->nodes[1].offers), 0);
    assert_int_equal(offers(vx)->expired, 1);
    vx_crowd_out(&vx->nodes[1]);
    vx_run(vx, 3000000); /* the manager thaws, and what it would take is something else by now, or too late */
    assert_int_equal(manager_has(vx), 0);
    assert_int_equal(acceptor(vx)->taken, 0);
    finish(vx);
}

static void test_a_manager_that_dies(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    compute(vx, VX_CHAIN);
    vx_kill(&vx->nodes[0]);
    vx_run(vx, VX_CLOSED_US + 1000);
    assert_int_equal(offers_under_way(vx->nodes[1].offers), 0);
    assert_int_equal(offers(vx)->lost, 2);
    assert_int_equal(vx_compute(&vx->nodes[1], &(struct block_seed_parts){ .weights = 9 }, tokens, 4, true), 4);
    assert_int_equal(offers(vx)->no_manager, 4);
    vx_restart(&vx->nodes[0]);
    vx_run(vx, 2000);
    assert_int_equal(vx_compute(&vx->nodes[1], &(struct block_seed_parts){ .weights = 8 }, tokens, 4, true), 4);
    vx_run(vx, 10000);
    assert_int_equal(offers(vx)->taken, 4);
    finish(vx);
}

static void test_a_worker_that_dies_while_its_blocks_are_taken(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ .by_tcp = true });
    compute(vx, 4);
    while (acceptor_under_way(vx->nodes[0].acceptor) == 0)
        vx_run(vx, 5);
    vx_kill(&vx->nodes[1]);
    vx_run(vx, VX_CLOSED_US + 1000);
    assert_int_equal(acceptor_under_way(vx->nodes[0].acceptor), 0);
    assert_int_equal(acceptor(vx)->failed, 4);
    assert_int_equal(manager_has(vx), 0);
    finish(vx);
}

/* Its link is lost before the take is over: the slots come back at once. */
static void test_a_worker_that_is_lost(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ .by_tcp = true });
    compute(vx, 4);
    while (acceptor_under_way(vx->nodes[0].acceptor) == 0)
        vx_run(vx, 1);
    vx_freeze(&vx->nodes[1], 500000);
    vx_run(vx, 10000);
    assert_int_equal(acceptor_under_way(vx->nodes[0].acceptor), 1);
    acceptor_on_peer_lost(vx->nodes[0].acceptor, &vx->nodes[0].peers[1]);
    vx_run(vx, 100);
    assert_int_equal(acceptor_under_way(vx->nodes[0].acceptor), 0);
    assert_int_equal(acceptor(vx)->lost, 1);
    assert_int_equal(acceptor(vx)->failed, 4);
    assert_int_equal(vx->sent[FRAME_OFFER_TAKEN], 0);
    finish(vx);
}

/* One flipped bit: that block and what is behind it are not kept. */
static void test_flipped_bits_are_not_kept(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    vx_freeze(&vx->nodes[0], 100000);
    compute(vx, 4);
    vx_damage(&vx->nodes[1], &parts, tokens, 2);
    vx_run(vx, 200000);
    assert_int_equal(manager_has(vx), 2);
    assert_int_equal(offers(vx)->damaged, 1);
    assert_int_equal(offers(vx)->taken, 2);
    assert_int_equal(offers(vx)->declined, 1);
    assert_int_equal(acceptor(vx)->damaged, 1);
    assert_int_equal(vx->nodes[0].aborted_damaged, 1);
    vx_damage(&vx->nodes[1], &parts, tokens, 2);
    finish(vx);
}

static void test_lost_messages_come_again(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ .twice = 1 });
    vx->drops[FRAME_OFFER] = vx->drops[FRAME_OFFER_TAKEN] = 2;
    compute(vx, 4);
    vx_run(vx, 3 * VX_REPEAT_US);
    assert_int_equal(manager_has(vx), 4);
    assert_int_equal(offers(vx)->taken + offers(vx)->present, 4);
    assert_int_equal(offers_under_way(vx->nodes[1].offers), 0);
    finish(vx);
}

static void test_a_full_manager_says_so(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    block_id blocks[VX_BLOCKS];
    assert_int_equal(block_pool_take(vx->nodes[0].pool, VX_BLOCKS, BLOCK_FILLING, blocks), ST_OK);
    compute(vx, 4);
    vx_run(vx, 10000);
    /* The first finds no room, and the others no parent. */
    assert_int_equal(offers(vx)->refused, 1);
    assert_int_equal(offers(vx)->declined, 3);
    for (uint32_t i = 0; i < VX_BLOCKS; i++)
        block_pool_release(vx->nodes[0].pool, blocks[i], BLOCK_OF_SEQUENCE);
    finish(vx);
}

static void test_chains_beyond_the_bound_are_not_offered(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    static uint32_t longer[(VX_CHAIN + 2) * VX_BLOCK_TOKENS];
    block_id blocks[4];
    const uint64_t checksums[4] = { 0 };
    assert_int_equal(block_pool_take(vx->nodes[1].pool, 4, BLOCK_FILLING, blocks), ST_OK);
    const struct offered_run run = { parts, longer, VX_CHAIN - 2, 4, blocks, checksums, NULL };
    assert_int_equal(offers_add(vx->nodes[1].offers, &run), 2);
    assert_int_equal(offers(vx)->queue_full, 2);
    for (uint32_t i = 0; i < 4; i++)
        block_pool_release(vx->nodes[1].pool, blocks[i], BLOCK_OF_SEQUENCE);
    vx_run(vx, 10000);
    assert_int_equal(offers(vx)->gone, 2); /* nobody owned them any more */
    finish(vx);
}

static void test_answers_that_make_no_sense(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    vx_freeze(&vx->nodes[0], 100000);
    compute(vx, 4);
    uint8_t payload[64];
    Baton__OfferOutcome outcomes[] = { BATON__OFFER_OUTCOME__OFFER_TAKEN, BATON__OFFER_OUTCOME__OFFER_TAKEN };
    Baton__OfferTaken body = BATON__OFFER_TAKEN__INIT;
    body.outcomes = outcomes;
    body.n_outcomes = 2;
    uint32_t len = (uint32_t)baton__offer_taken__pack(&body, payload);
    uint64_t me = vx->nodes[1].life;
    vx_inject(&vx->nodes[0], &vx->nodes[1], FRAME_OFFER_TAKEN, (struct request_key){ me, 77 }, 0, 0, FRAME_NO_DEADLINE,
              payload, len);
    vx_inject(&vx->nodes[2], &vx->nodes[1], FRAME_OFFER_TAKEN, (struct request_key){ me, 1 }, 0, 0, FRAME_NO_DEADLINE,
              payload, len);
    assert_int_equal(offers_under_way(vx->nodes[1].offers), 1);
    assert_int_equal(offers(vx)->late, 2);
    /* Too short: its loan ends all the same. */
    vx_inject(&vx->nodes[0], &vx->nodes[1], FRAME_OFFER_TAKEN, (struct request_key){ me, 1 }, 0, 0, FRAME_NO_DEADLINE,
              payload, len);
    assert_int_equal(offers_under_way(vx->nodes[1].offers), 0);
    assert_int_equal(offers(vx)->malformed, 1);
    finish(vx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_offered_is_taken),
        cmocka_unit_test(test_chunks_of_a_sequence_join),
        cmocka_unit_test(test_what_is_there_is_not_taken_again),
        cmocka_unit_test(test_a_frozen_manager),
        cmocka_unit_test(test_blocks_of_another_life_are_not_offered),
        cmocka_unit_test(test_an_offer_ends_by_time),
        cmocka_unit_test(test_a_manager_that_dies),
        cmocka_unit_test(test_a_worker_that_dies_while_its_blocks_are_taken),
        cmocka_unit_test(test_a_worker_that_is_lost),
        cmocka_unit_test(test_flipped_bits_are_not_kept),
        cmocka_unit_test(test_lost_messages_come_again),
        cmocka_unit_test(test_a_full_manager_says_so),
        cmocka_unit_test(test_chains_beyond_the_bound_are_not_offered),
        cmocka_unit_test(test_answers_that_make_no_sense),
    };
    return cmocka_run_group_tests_name("offers", tests, NULL, NULL);
}
