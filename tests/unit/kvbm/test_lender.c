/* Lending: who is answered how, and when a loan ends. Frames are said to a lender directly; what it answers is counted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "virtual_exchange.h"

#define N 6u

static const struct block_seed_parts parts = { 1, 2, 3, { 0, 0 } };
static uint32_t tokens[(VX_CHAIN + 1) * VX_BLOCK_TOKENS];

/* What a Find says; zeroed: what it should. */
struct saying {
    const char *format;
    uint32_t n_tokens, first;
    bool no_seed;
    size_t salt_bytes;
};

static struct vx *begin(void)
{
    for (uint32_t i = 0; i < (VX_CHAIN + 1) * VX_BLOCK_TOKENS; i++)
        tokens[i] = 100 + i;
    struct vx *vx = vx_create(&(struct vx_options){ .random = 3 });
    assert_int_equal(vx_compute(&vx->nodes[0], &parts, tokens, N, false), N);
    return vx;
}

static void finish(struct vx *vx)
{
    vx_run(vx, 20000000);
    vx_assert_at_rest(vx);
    vx_destroy(vx);
}

static const struct lender_counters *counters(const struct vx *vx)
{
    return lender_counters(vx->nodes[0].lender);
}

static uint32_t loans(const struct vx *vx)
{
    return lender_open_loans(vx->nodes[0].lender);
}

static void say_find(struct vx *vx, uint32_t from, uint64_t seq, uint32_t attempt, uint32_t leg, struct saying what)
{
    uint8_t salt[64] = { 0 }, payload[2048];
    Baton__BlockSeed seed;
    Baton__Find body = BATON__FIND__INIT;
    exchange_write_seed(&parts, salt, &seed);
    if (what.salt_bytes)
        seed.salt.len = what.salt_bytes;
    body.seed = what.no_seed ? NULL : &seed;
    body.kv_format = (char *)(uintptr_t)(what.format ? what.format : "BF16-test");
    body.tokens = tokens;
    body.n_tokens = what.n_tokens ? what.n_tokens : N * VX_BLOCK_TOKENS;
    body.first = what.first;
    uint32_t len = (uint32_t)baton__find__pack(&body, payload);
    vx_inject(&vx->nodes[from], &vx->nodes[0], FRAME_FIND, (struct request_key){ 9, seq }, attempt, leg,
              vx->now + 10000000, payload, len);
}

static void say_pulled(struct vx *vx, uint32_t from, uint64_t seq, uint32_t attempt, uint32_t leg, uint32_t damaged)
{
    uint8_t payload[64];
    Baton__Pulled body = BATON__PULLED__INIT;
    body.blocks = N;
    body.damaged = &damaged;
    body.n_damaged = damaged != UINT32_MAX;
    uint32_t len = (uint32_t)baton__pulled__pack(&body, payload);
    vx_inject(&vx->nodes[from], &vx->nodes[0], FRAME_PULLED, (struct request_key){ 9, seq }, attempt, leg,
              FRAME_NO_DEADLINE, payload, len);
}

static void test_a_find_that_comes_again_is_answered_again(void **state)
{
    (void)state;
    struct vx *vx = begin();
    for (int i = 0; i < 3; i++)
        say_find(vx, 1, 1, 1, 1, (struct saying){ 0 });
    assert_int_equal(loans(vx), 1);
    assert_int_equal(vx->sent[FRAME_FOUND], 3);
    assert_int_equal(counters(vx)->repeated, 2);
    assert_int_equal(counters(vx)->found_blocks, N);
    say_pulled(vx, 1, 1, 1, 1, UINT32_MAX);
    assert_int_equal(loans(vx), 0);
    say_find(vx, 1, 1, 1, 1, (struct saying){ 0 }); /* once more, late */
    assert_int_equal(loans(vx), 0);
    assert_int_equal(counters(vx)->stale, 1);
    finish(vx);
}

/* Of one borrower and request the newest one counts; another borrower's is its own. */
static void test_what_is_newer_replaces(void **state)
{
    (void)state;
    struct vx *vx = begin();
    say_find(vx, 1, 1, 1, 1, (struct saying){ 0 });
    say_find(vx, 2, 1, 1, 1, (struct saying){ 0 });
    assert_int_equal(loans(vx), 2);
    say_find(vx, 1, 1, 1, 2, (struct saying){ 0 });
    assert_int_equal(loans(vx), 2);
    assert_int_equal(counters(vx)->ended_by_time, 1);
    say_find(vx, 1, 1, 1, 1, (struct saying){ 0 });
    assert_int_equal(counters(vx)->stale, 1);
    say_find(vx, 1, 1, 2, 1, (struct saying){ 0 });
    assert_int_equal(loans(vx), 2);
    lender_on_peer_lost(vx->nodes[0].lender, &vx->nodes[0].peers[1]);
    assert_int_equal(loans(vx), 1);
    assert_int_equal(counters(vx)->ended_by_loss, 1);
    finish(vx);
}

static void test_pulled_before_its_find(void **state)
{
    (void)state;
    struct vx *vx = begin();
    say_pulled(vx, 1, 1, 1, 1, UINT32_MAX);
    say_find(vx, 1, 1, 1, 1, (struct saying){ 0 });
    assert_int_equal(loans(vx), 0);
    assert_int_equal(counters(vx)->stale, 1);
    finish(vx);
}

static void test_too_many_loans(void **state)
{
    (void)state;
    struct vx *vx = begin();
    for (uint64_t i = 1; i <= 4; i++)
        say_find(vx, 1, i, 1, 1, (struct saying){ 0 });
    assert_int_equal(loans(vx), 3);
    assert_int_equal(counters(vx)->busy, 1);
    assert_int_equal(vx->sent[FRAME_FOUND], 4);
    finish(vx);
}

/* A lent block is not evicted, and is when the deadline has come. */
static void test_lent_blocks_stay_until_the_deadline(void **state)
{
    (void)state;
    struct vx *vx = begin();
    say_find(vx, 1, 1, 1, 1, (struct saying){ .first = 2 });
    assert_int_equal(block_pool_free(vx->nodes[0].pool), VX_BLOCKS - N);
    vx_crowd_out(&vx->nodes[0]);
    assert_int_equal(vx_has(&vx->nodes[0], &parts, tokens, N), N);
    vx_run(vx, 9000000); /* pings are answered */
    assert_int_equal(loans(vx), 1);
    vx_run(vx, 1100000);
    assert_int_equal(loans(vx), 0);
    assert_int_equal(counters(vx)->ended_by_time, 1);
    vx_crowd_out(&vx->nodes[0]);
    assert_int_equal(vx_has(&vx->nodes[0], &parts, tokens, N), 0);
    finish(vx);
}

static void test_a_borrower_that_answers_no_ping(void **state)
{
    (void)state;
    struct vx *vx = begin();
    say_find(vx, 1, 1, 1, 1, (struct saying){ 0 });
    vx->nodes[0].peers[1].up = false;
    vx_run(vx, VX_LIFETIME_US - 1000000);
    assert_int_equal(loans(vx), 1);
    vx_run(vx, 2000000);
    assert_int_equal(loans(vx), 0);
    vx->nodes[0].peers[1].up = true;
    finish(vx);
}

static void test_a_run_longer_than_a_loan_is_cut(void **state)
{
    (void)state;
    struct vx *vx = begin();
    assert_int_equal(vx_compute(&vx->nodes[0], &parts, tokens, VX_CHAIN, false), VX_CHAIN);
    say_find(vx, 1, 1, 1, 1, (struct saying){ .n_tokens = VX_CHAIN * VX_BLOCK_TOKENS });
    assert_int_equal(counters(vx)->cut, 1);
    assert_int_equal(counters(vx)->found_blocks, VX_CHAIN - 2);
    finish(vx);
}

static void test_draining(void **state)
{
    (void)state;
    struct vx *vx = begin();
    say_find(vx, 1, 1, 1, 1, (struct saying){ 0 });
    lender_drain(vx->nodes[0].lender);
    say_find(vx, 1, 2, 1, 1, (struct saying){ 0 });
    assert_int_equal(loans(vx), 1);
    assert_int_equal(vx->sent[FRAME_FOUND], 2);
    finish(vx);
}

static void test_finds_that_make_no_sense(void **state)
{
    (void)state;
    struct vx *vx = begin();
    const struct saying wrong[] = {
        { .n_tokens = 5 },                                /* not full blocks */
        { .first = N },                                   /* nothing behind it */
        { .first = UINT32_MAX },                          /* nor there */
        { .no_seed = true },                              /* of no model */
        { .salt_bytes = 15 },                             /* a salt cut off */
        { .salt_bytes = 17 },                             /* or with something behind it */
        { .n_tokens = (VX_CHAIN + 1) * VX_BLOCK_TOKENS }, /* longer than chains may be */
    };
    for (uint32_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        say_find(vx, 1, i + 1, 1, 1, wrong[i]);
    assert_int_equal(counters(vx)->malformed, sizeof wrong / sizeof *wrong);
    const uint8_t noise[] = { 0xff, 0xff, 0xff, 0x07 };
    vx_inject(&vx->nodes[1], &vx->nodes[0], FRAME_FIND, (struct request_key){ 9, 9 }, 1, 1, FRAME_NO_DEADLINE, noise,
              sizeof noise);
    vx_inject(&vx->nodes[1], &vx->nodes[0], FRAME_PULLED, (struct request_key){ 9, 9 }, 1, 1, FRAME_NO_DEADLINE, noise,
              sizeof noise);
    assert_int_equal(counters(vx)->malformed, sizeof wrong / sizeof *wrong + 2);
    say_find(vx, 1, 20, 1, 1, (struct saying){ .format = "F16-test" });
    assert_int_equal(counters(vx)->other_format, 1);
    assert_int_equal(loans(vx), 0);
    finish(vx);
}

static void test_a_borrower_that_blames_blocks_that_it_was_not_lent(void **state)
{
    (void)state;
    struct vx *vx = begin();
    say_find(vx, 1, 1, 1, 1, (struct saying){ .first = 2 });
    say_pulled(vx, 1, 1, 1, 1, 1); /* the block before those */
    assert_int_equal(vx->nodes[0].suspects, 0);
    say_find(vx, 1, 2, 1, 1, (struct saying){ .first = 2 });
    say_pulled(vx, 1, 2, 1, 1, N);
    assert_int_equal(vx->nodes[0].suspects, 0);
    say_find(vx, 1, 3, 1, 1, (struct saying){ .first = 2 });
    say_pulled(vx, 1, 3, 1, 1, 2);
    assert_int_equal(vx->nodes[0].suspects, 1);
    finish(vx);
}

/* Registered, but its checksum is not made yet: nobody could verify it. */
static void test_a_block_without_a_checksum_ends_the_run(void **state)
{
    (void)state;
    struct vx *vx = begin();
    struct vx_node *node = &vx->nodes[0];
    block_id last;
    struct block_hash hash = block_seed(&parts);
    block_id blocks[N];
    struct block_hash hashes[N + 1];
    for (uint32_t i = 0; i <= N; i++)
        hashes[i] = hash = block_hash_next(hash, tokens + i * VX_BLOCK_TOKENS, VX_BLOCK_TOKENS);
    const struct registry_query query = { block_seed(&parts), hashes, tokens, N };
    assert_int_equal(block_registry_match(node->registry, &query, blocks), N);
    assert_int_equal(block_pool_take(node->pool, 1, BLOCK_FILLING, &last), ST_OK);
    block_pool_filled(node->pool, last, VX_BLOCK_TOKENS);
    const struct registry_block what = { block_seed(&parts), hashes[N], tokens + N * VX_BLOCK_TOKENS, blocks[N - 1] };
    assert_int_equal(block_registry_register(node->registry, &what, &last), REGISTRY_STORED);
    say_find(vx, 1, 1, 1, 1, (struct saying){ .n_tokens = (N + 1) * VX_BLOCK_TOKENS });
    assert_int_equal(counters(vx)->found_blocks, N);
    block_pool_release(node->pool, last, BLOCK_OF_SEQUENCE);
    for (uint32_t i = 0; i < N; i++)
        block_pool_release(node->pool, blocks[i], BLOCK_OF_SEQUENCE);
    vx_run(vx, 11000000);
    vx_crowd_out(node); /* what was never filled is not looked at */
    finish(vx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_find_that_comes_again_is_answered_again),
        cmocka_unit_test(test_what_is_newer_replaces),
        cmocka_unit_test(test_pulled_before_its_find),
        cmocka_unit_test(test_too_many_loans),
        cmocka_unit_test(test_lent_blocks_stay_until_the_deadline),
        cmocka_unit_test(test_a_borrower_that_answers_no_ping),
        cmocka_unit_test(test_a_run_longer_than_a_loan_is_cut),
        cmocka_unit_test(test_draining),
        cmocka_unit_test(test_finds_that_make_no_sense),
        cmocka_unit_test(test_a_borrower_that_blames_blocks_that_it_was_not_lent),
        cmocka_unit_test(test_a_block_without_a_checksum_ends_the_run),
    };
    return cmocka_run_group_tests_name("lender", tests, NULL, NULL);
}
