/* Pulling a run of blocks from one holder: what comes, what it costs when the holder is slow, dead or wrong, and that
 * nothing is left afterwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "virtual_exchange.h"

#define N 8u

static const struct block_seed_parts parts = { 1, 2, 0, { 5, 6 } };
static uint32_t tokens[VX_CHAIN * VX_BLOCK_TOKENS];

static struct vx *begin(struct vx_options options)
{
    for (uint32_t i = 0; i < VX_CHAIN * VX_BLOCK_TOKENS; i++)
        tokens[i] = 100 + i;
    options.random = 1;
    struct vx *vx = vx_create(&options);
    assert_int_equal(vx_compute(&vx->nodes[0], &parts, tokens, N, false), N);
    return vx;
}

static void finish(struct vx *vx)
{
    vx_run(vx, 20000000);
    vx_assert_at_rest(vx);
    vx_destroy(vx);
}

static struct vx_pull *pull(struct vx *vx, uint32_t first, uint32_t n)
{
    struct vx_pull *p = vx_pull(&vx->nodes[1], &vx->nodes[0], &parts, tokens, first, n, 2000000);
    assert_non_null(p);
    return p;
}

static void assert_ended(const struct vx *vx, status st, uint32_t n_blocks)
{
    assert_int_equal(vx->ended.times, 1);
    assert_int_equal(vx->ended.result.st, st);
    assert_int_equal(vx->ended.result.n_blocks, n_blocks);
}

static void test_a_whole_run(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    struct vx_pull *p = pull(vx, 0, N);
    vx_run(vx, 10000);
    assert_ended(vx, ST_OK, N);
    assert_int_equal(p->told_run, N);
    assert_int_equal(vx->ended.result.by_tier[KV_TIER_DEVICE], N);
    assert_true(vx->ended.result.answer_us > 0 && vx->ended.result.take_us > 0);
    assert_int_equal(vx->ended.result.bytes, N * VX_LAYERS * 2 * VX_BLOCK_TOKENS * 16);
    assert_int_equal(vx_has(&vx->nodes[1], &parts, tokens, VX_CHAIN), N);
    const struct lender_counters *lender = lender_counters(vx->nodes[0].lender);
    assert_int_equal(lender->pulled_blocks, N);
    assert_int_equal(lender->ended_by_time + lender->ended_by_loss, 0);
    assert_int_equal(borrower_counters(vx->nodes[1].borrower)->whole, 1);
    finish(vx);
}

/* The holder has less than is wanted, and the borrower the beginning. */
static void test_the_middle_of_a_chain(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    assert_int_equal(vx_compute(&vx->nodes[1], &parts, tokens, 3, false), 3);
    struct vx_pull *p = pull(vx, 3, VX_CHAIN - 3);
    vx_run(vx, 10000);
    assert_ended(vx, ST_OK, N - 3);
    assert_int_equal(p->told_run, N - 3);
    assert_int_equal(vx_has(&vx->nodes[1], &parts, tokens, VX_CHAIN), N);
    assert_int_equal(borrower_counters(vx->nodes[1].borrower)->partial, 1);
    finish(vx);
}

static void test_nothing_is_said_at_once(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    const struct block_seed_parts other = { 1, 2, 0, { 5, 7 } }; /* the same tokens under another salt */
    assert_non_null(vx_pull(&vx->nodes[1], &vx->nodes[0], &other, tokens, 0, N, 2000000));
    vx_run(vx, 1000);
    assert_ended(vx, ST_OK, 0);
    assert_int_equal(lender_counters(vx->nodes[0].lender)->nothing_found, 1);
    assert_int_equal(lender_open_loans(vx->nodes[0].lender), 0);
    finish(vx);
}

/* From disk, say: each block is told of when it is ready. */
static void test_blocks_follow(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ .slow = 1, .late = .5, .twice = .5 });
    struct vx_pull *p = pull(vx, 0, N);
    vx_run(vx, 1999000);
    assert_ended(vx, ST_OK, N);
    assert_int_equal(p->tells, 1);
    assert_true(vx->sent[FRAME_FOUND] > 2);
    finish(vx);
}

static void test_a_promised_block_that_cannot_be_read_ends_the_run(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ .slow = 1, .fail = 1 });
    struct vx_pull *p = pull(vx, 0, N);
    vx_run(vx, 1000000);
    assert_int_equal(vx->ended.result.st, ST_OK);
    assert_int_equal(vx->ended.result.announced, N);
    assert_true(vx->ended.result.n_blocks < N);
    assert_int_equal(p->tells, 2);
    assert_int_equal(lender_counters(vx->nodes[0].lender)->lost_blocks, N - vx->ended.result.n_blocks);
    finish(vx);
}

static void test_lost_messages_come_again(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    vx->drops[FRAME_FIND] = vx->drops[FRAME_FOUND] = vx->drops[FRAME_PULLED] = 1;
    (void)pull(vx, 0, N);
    vx_run(vx, 3 * VX_REPEAT_US);
    assert_ended(vx, ST_OK, N);
    vx_run(vx, VX_REPEAT_US);
    assert_int_equal(lender_open_loans(vx->nodes[0].lender), 0);
    finish(vx);
}

/* Two flips in the second batch of four: the first of them ends the run, both are counted, and the holder hears of
 * both. */
static void test_flipped_bits_shorten_the_run(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    vx_damage(&vx->nodes[0], &parts, tokens, 5);
    vx_damage(&vx->nodes[0], &parts, tokens, 7);
    (void)pull(vx, 0, N);
    vx_run(vx, 10000);
    assert_ended(vx, ST_CORRUPT, 5);
    assert_int_equal(vx->ended.result.damaged, 2);
    assert_int_equal(borrower_counters(vx->nodes[1].borrower)->damaged, 2);
    assert_int_equal(lender_counters(vx->nodes[0].lender)->damaged, 2);
    assert_int_equal(vx->nodes[0].suspects, 2);
    assert_int_equal(vx_has(&vx->nodes[1], &parts, tokens, N), 5);
    vx_damage(&vx->nodes[0], &parts, tokens, 5); /* the same bits again */
    vx_damage(&vx->nodes[0], &parts, tokens, 7);
    finish(vx);
}

static void test_a_bit_flipped_on_the_way(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    vx->flips_left = 1;
    (void)pull(vx, 0, N);
    vx_run(vx, 10000);
    assert_ended(vx, ST_CORRUPT, 0);
    assert_int_equal(vx->ended.result.damaged, 1);
    assert_int_equal(vx->flipped, 1);
    finish(vx);
}

/* ---- by layer -------------------------------------------------------------------------------------------------- */

/* Blocks come in batches of four, and takes of one layer of four blocks. Of the last n_by_layer of the run no block is
 * whole before the first layer of all is here, and those before them are verified by then. */
static void test_layers_come_before_blocks(void **state)
{
    (void)state;
    static const struct {
        uint32_t wanted, n_by_layer, before;
    } cases[] = { { N, N, 0 }, { N, VX_CHAIN, 0 }, { N, 2, 6 }, { N, 3, 5 }, { N, 5, 3 }, { VX_CHAIN, 4, 4 } };
    for (int slow = 0; slow < 2; slow++)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            struct vx *vx = begin((struct vx_options){ .slow = slow });
            vx->n_by_layer = cases[i].n_by_layer;
            struct vx_pull *p = pull(vx, 0, cases[i].wanted);
            vx_run(vx, 1999000);
            assert_ended(vx, ST_OK, N);
            assert_int_equal(vx->ended.result.bytes, N * VX_LAYERS * 2 * VX_BLOCK_TOKENS * 16);
            if (!slow) { /* all are known of at once */
                assert_int_equal(p->blocks_before_layers, cases[i].before);
                assert_int_equal(p->told_layers, VX_LAYERS - 1);
            }
            finish(vx);
        }
}

static void test_nothing_is_told_of_layers_unless_asked(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    struct vx_pull *p = pull(vx, 0, N);
    vx_run(vx, 10000);
    assert_ended(vx, ST_OK, N);
    assert_int_equal(p->told_layers, 0);
    finish(vx);
}

/* A block that is reused meanwhile costs those that come by layer, all of them. */
static void test_what_comes_by_layer_is_lost_together(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    vx->n_by_layer = 6;
    struct vx_pull *p = pull(vx, 0, N);
    while (p->told_layers == 0)
        vx_run(vx, 10);
    assert_int_equal(vx->ended.times, 0);
    vx->nodes[1].frozen_until = vx->now + 1000000;
    lender_on_peer_lost(vx->nodes[0].lender, &vx->nodes[0].peers[1]);
    vx_crowd_out(&vx->nodes[0]);
    vx_run(vx, 1900000);
    assert_ended(vx, ST_STALE, 2);
    finish(vx);
}

static void test_flipped_bits_by_layer(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    vx->n_by_layer = N;
    vx_damage(&vx->nodes[0], &parts, tokens, 5);
    struct vx_pull *p = pull(vx, 0, N);
    vx_run(vx, 10000);
    assert_ended(vx, ST_CORRUPT, 5);
    assert_int_equal(p->told_layers, VX_LAYERS - 1);
    assert_int_equal(vx->nodes[0].suspects, 1);
    vx_damage(&vx->nodes[0], &parts, tokens, 5); /* the same bit again */
    finish(vx);
}

/* Of six takes, as many are under way at one time as may be. */
static void test_takes_are_bounded(void **state)
{
    (void)state;
    for (uint32_t by_layer = 0; by_layer <= N; by_layer += N) {
        struct vx *vx = begin((struct vx_options){ 0 });
        vx->n_by_layer = by_layer;
        (void)pull(vx, 0, N);
        vx_run(vx, 10000);
        assert_ended(vx, ST_OK, N);
        assert_int_equal(vx->most_takes, 4);
        finish(vx);
    }
}

/* The loan is gone before the copy is over: the borrower was frozen for longer than its lifetime. */
static void test_a_block_reused_meanwhile(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    struct vx_pull *p = pull(vx, 0, N);
    while (p->told_blocks == 0)
        vx_run(vx, 10);
    assert_int_equal(vx->ended.times, 0);
    vx->nodes[1].frozen_until = vx->now + 1000000;
    lender_on_peer_lost(vx->nodes[0].lender, &vx->nodes[0].peers[1]);
    vx_crowd_out(&vx->nodes[0]);
    vx_run(vx, 1900000);
    assert_ended(vx, ST_STALE, 4); /* the first batch was verified before */
    assert_int_equal(borrower_counters(vx->nodes[1].borrower)->stale, 1);
    assert_int_equal(lender_counters(vx->nodes[0].lender)->ended_by_loss, 1);
    finish(vx);
}

static void test_a_frozen_holder_costs_the_time_for_an_answer(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    vx_freeze(&vx->nodes[0], 10000000);
    (void)pull(vx, 0, N);
    vx_run(vx, 1100000);
    assert_ended(vx, ST_TIMEOUT, 0);
    assert_true(vx->ended.took_us >= 1000000 && vx->ended.took_us <= 1000100);
    vx_run(vx, 10000000); /* the Find reaches it when it thaws, and Pulled behind it */
    finish(vx);
}

/* Its answer came, but not its bytes. */
static void test_a_holder_that_freezes_costs_the_deadline(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ .by_tcp = true });
    (void)pull(vx, 0, N);
    while (vx->sent[FRAME_FOUND] == 0)
        vx_run(vx, 10);
    vx_freeze(&vx->nodes[0], 2500000);
    vx_run(vx, 2100000);
    assert_ended(vx, ST_TIMEOUT, 0);
    assert_true(vx->ended.took_us >= 2000000 && vx->ended.took_us <= 2000100);
    finish(vx);
}

static void test_a_dead_holder_ends_it(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ .slow = 1 });
    (void)pull(vx, 0, N);
    while (vx->sent[FRAME_FOUND] == 0)
        vx_run(vx, 10);
    vx_kill(&vx->nodes[0]);
    vx_run(vx, VX_CLOSED_US + 100);
    assert_int_equal(vx->ended.times, 1);
    assert_int_equal(vx->ended.result.st, ST_CLOSED);
    assert_int_equal(borrower_counters(vx->nodes[1].borrower)->lost, 1);
    assert_null(vx_pull(&vx->nodes[1], &vx->nodes[0], &parts, tokens, 0, N, 1000000));
    assert_int_equal(vx_pull_refusal(), ST_CLOSED);
    finish(vx);
}

static void test_cancelled_when_some_layers_are_here(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    struct vx_pull *p = pull(vx, 0, N);
    p->cancel_at = VX_LAYERS; /* the first batch is verified, the second on its way */
    vx_run(vx, 10000);
    assert_ended(vx, ST_CANCELLED, 4);
    assert_int_equal(borrower_counters(vx->nodes[1].borrower)->cancelled, 1);
    finish(vx);
}

static void test_cancelled_in_the_middle_of_a_batch(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    vx->n_by_layer = N;
    struct vx_pull *p = pull(vx, 0, N);
    p->cancel_at = 1;
    vx_run(vx, 10000);
    assert_ended(vx, ST_CANCELLED, 0);
    finish(vx);
}

/* The holder is frozen in the middle of a take. */
static void test_cancelling_does_not_wait_for_the_holder(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ .by_tcp = true });
    struct vx_pull *p = pull(vx, 0, N);
    while (p->tells == 0)
        vx_run(vx, 10);
    vx_freeze(&vx->nodes[0], 2500000);
    vx_run(vx, 10000);
    assert_int_equal(vx->ended.times, 0);
    borrower_cancel(p->pull);
    vx_run(vx, 100);
    assert_ended(vx, ST_CANCELLED, 0);
    finish(vx);
}

static void test_cancelled_before_an_answer(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    struct vx_pull *p = pull(vx, 0, N);
    borrower_cancel(p->pull);
    assert_ended(vx, ST_CANCELLED, 0);
    vx_run(vx, 10000);
    assert_int_equal(borrower_counters(vx->nodes[1].borrower)->late, 1);
    finish(vx);
}

static void test_bounds(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    for (int i = 0; i < 4; i++)
        (void)pull(vx, 0, 1);
    assert_null(vx_pull(&vx->nodes[1], &vx->nodes[0], &parts, tokens, 0, 1, 1000));
    assert_int_equal(vx_pull_refusal(), ST_LIMIT);
    vx_run(vx, 10000);
    assert_int_equal(vx->ended.times, 4);
    assert_null(vx_pull(&vx->nodes[1], &vx->nodes[0], &parts, tokens, 0, 1, 0));
    assert_int_equal(vx_pull_refusal(), ST_TIMEOUT);
    finish(vx);
}

/* ---- answers that make no sense ------------------------------------------------------------------------------ */

struct answer {
    uint32_t first, blocks[N], tiers[N], run;
    uint64_t generations[N], checksums[N];
    size_t n_blocks, n_generations, n_checksums, n_tiers;
};

static void say_found(struct vx *vx, const struct answer *a)
{
    uint8_t payload[512];
    Baton__Found body = BATON__FOUND__INIT;
    struct answer copy = *a;
    body.first = a->first;
    body.run = a->run;
    body.blocks = copy.blocks;
    body.n_blocks = a->n_blocks;
    body.generations = copy.generations;
    body.n_generations = a->n_generations;
    body.checksums = copy.checksums;
    body.n_checksums = a->n_checksums;
    body.tiers = copy.tiers;
    body.n_tiers = a->n_tiers;
    uint32_t len = (uint32_t)baton__found__pack(&body, payload);
    vx_inject(&vx->nodes[0], &vx->nodes[1], FRAME_FOUND, (struct request_key){ 7, vx->next_key }, 1, 1,
              FRAME_NO_DEADLINE, payload, len);
}

static void refuse_answer(struct answer a)
{
    struct vx *vx = begin((struct vx_options){ 0 });
    (void)pull(vx, 2, 4);
    say_found(vx, &a);
    assert_int_equal(borrower_counters(vx->nodes[1].borrower)->malformed, 1);
    assert_ended(vx, ST_CORRUPT, 0);
    finish(vx);
}

static void test_answers_that_make_no_sense(void **state)
{
    (void)state;
    const struct answer good = {
        .first = 2, .run = 4, .n_blocks = 2, .n_generations = 2, .n_checksums = 2, .n_tiers = 2
    };
    struct answer a = good;
    a.first = 1; /* before what was asked for */
    refuse_answer(a);
    a = good;
    a.first = 7; /* behind it */
    refuse_answer(a);
    a = good;
    a.first = UINT32_MAX;
    refuse_answer(a);
    a = good;
    a.run = 5;
    refuse_answer(a);
    a = good;
    a.run = 1; /* shorter than what it lends */
    refuse_answer(a);
    a = good;
    a.first = 4; /* beyond the run */
    a.run = 3;
    refuse_answer(a);
    a = good;
    a.n_generations = 1;
    refuse_answer(a);
    a = good;
    a.n_checksums = 0;
    refuse_answer(a);
    a = good;
    a.n_tiers = 1;
    refuse_answer(a);
    a = good;
    a.tiers[1] = KV_TIER_COUNT;
    refuse_answer(a);
}

/* What holder 0 would say of n blocks of the sequence. */
static struct answer true_answer(struct vx *vx, uint32_t first, uint32_t n, uint32_t run)
{
    struct vx_node *node = &vx->nodes[0];
    struct block_hash hashes[N], hash = block_seed(&parts);
    block_id blocks[N];
    for (uint32_t i = 0; i < N; i++)
        hashes[i] = hash = block_hash_next(hash, tokens + i * VX_BLOCK_TOKENS, VX_BLOCK_TOKENS);
    const struct registry_query query = { block_seed(&parts), hashes, tokens, N };
    assert_int_equal(block_registry_match(node->registry, &query, blocks), N);
    struct answer a = { .first = first, .run = run, .n_blocks = n };
    a.n_generations = a.n_checksums = a.n_tiers = n;
    for (uint32_t i = 0; i < n; i++) {
        a.blocks[i] = blocks[first + i];
        a.generations[i] = block_pool_generation(node->pool, blocks[first + i]);
        assert_true(whole_checksums_get(node->checksums, blocks[first + i], &a.checksums[i]));
    }
    for (uint32_t i = 0; i < N; i++)
        block_pool_release(node->pool, blocks[i], BLOCK_OF_SEQUENCE);
    return a;
}

/* What was said of a block once is not said otherwise later. */
static void test_a_block_is_told_of_once(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    vx->drops[FRAME_FIND] = 1;
    (void)pull(vx, 0, 2);
    struct answer a = true_answer(vx, 0, 2, 2);
    say_found(vx, &a);
    a.blocks[1] = 30;
    a.checksums[0] = 1;
    a.checksums[1] = 2;
    say_found(vx, &a);
    vx_run(vx, 10000);
    assert_ended(vx, ST_OK, 2);
    finish(vx);
}

/* An earlier answer that comes late does not lengthen the run again, and what is known of is not given up. */
static void test_answers_in_another_order(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    vx->drops[FRAME_FIND] = 1;
    struct vx_pull *p = pull(vx, 0, 5);
    struct answer a = true_answer(vx, 2, 0, 2); /* the end, said first */
    say_found(vx, &a);
    a = true_answer(vx, 1, 1, 5);
    say_found(vx, &a);
    vx_run(vx, 10000);
    assert_int_equal(vx->ended.times, 0); /* the first block is not known of */
    a = true_answer(vx, 0, 1, 5);
    say_found(vx, &a);
    vx_run(vx, 10000);
    assert_ended(vx, ST_OK, 2);
    assert_int_equal(p->tells, 1);
    finish(vx);
}

static void test_a_run_is_not_cut_below_what_is_lent(void **state)
{
    (void)state;
    struct vx *vx = begin((struct vx_options){ 0 });
    vx->drops[FRAME_FIND] = 1;
    (void)pull(vx, 0, N);
    struct answer a = true_answer(vx, 0, N, N);
    say_found(vx, &a);
    a = true_answer(vx, 2, 0, 2);
    say_found(vx, &a);
    vx_run(vx, 10000);
    assert_ended(vx, ST_OK, N);
    finish(vx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_whole_run),
        cmocka_unit_test(test_the_middle_of_a_chain),
        cmocka_unit_test(test_nothing_is_said_at_once),
        cmocka_unit_test(test_blocks_follow),
        cmocka_unit_test(test_a_promised_block_that_cannot_be_read_ends_the_run),
        cmocka_unit_test(test_lost_messages_come_again),
        cmocka_unit_test(test_flipped_bits_shorten_the_run),
        cmocka_unit_test(test_a_bit_flipped_on_the_way),
        cmocka_unit_test(test_layers_come_before_blocks),
        cmocka_unit_test(test_nothing_is_told_of_layers_unless_asked),
        cmocka_unit_test(test_what_comes_by_layer_is_lost_together),
        cmocka_unit_test(test_flipped_bits_by_layer),
        cmocka_unit_test(test_takes_are_bounded),
        cmocka_unit_test(test_a_block_reused_meanwhile),
        cmocka_unit_test(test_a_frozen_holder_costs_the_time_for_an_answer),
        cmocka_unit_test(test_a_holder_that_freezes_costs_the_deadline),
        cmocka_unit_test(test_a_dead_holder_ends_it),
        cmocka_unit_test(test_cancelled_when_some_layers_are_here),
        cmocka_unit_test(test_cancelled_in_the_middle_of_a_batch),
        cmocka_unit_test(test_cancelling_does_not_wait_for_the_holder),
        cmocka_unit_test(test_cancelled_before_an_answer),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_answers_that_make_no_sense),
        cmocka_unit_test(test_a_block_is_told_of_once),
        cmocka_unit_test(test_answers_in_another_order),
        cmocka_unit_test(test_a_run_is_not_cut_below_what_is_lent),
    };
    return cmocka_run_group_tests_name("borrower", tests, NULL, NULL);
}
