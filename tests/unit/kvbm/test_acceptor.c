/* What a manager makes of offers that are wrong, too many or repeated; what goes well is in test_offers.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "virtual_exchange.h"

static const struct block_seed_parts parts = { 1, 2, 0, { 0, 0 } };
static uint32_t tokens[VX_CHAIN * VX_BLOCK_TOKENS];
static uint32_t blocks[VX_CHAIN + 1];
static uint64_t generations[VX_CHAIN + 1], checksums[VX_CHAIN + 1];
static protobuf_c_boolean shared[VX_CHAIN + 1];

static Baton__BlockSeed seed;
static uint8_t salt[BLOCK_HASH_BYTES];

static struct vx *begin(void)
{
    for (uint32_t i = 0; i < VX_CHAIN * VX_BLOCK_TOKENS; i++)
        tokens[i] = 100 + i;
    for (uint32_t i = 0; i <= VX_CHAIN; i++)
        blocks[i] = i;
    return vx_create(&(struct vx_options){ .random = 5 });
}

static void finish(struct vx *vx)
{
    vx_run(vx, 20000000);
    vx_assert_at_rest(vx);
    vx_destroy(vx);
}

static const struct acceptor_counters *counters(const struct vx *vx)
{
    return acceptor_counters(vx->nodes[0].acceptor);
}

/* A sound offer of blocks 0, 1, 2 of a chain. */
static Baton__Offer offer(void)
{
    Baton__Offer body = BATON__OFFER__INIT;
    exchange_write_seed(&parts, salt, &seed);
    body.kv_format = "BF16-test";
    body.seed = &seed;
    body.tokens = tokens;
    body.n_tokens = 3 * VX_BLOCK_TOKENS;
    body.blocks = blocks;
    body.generations = generations;
    body.checksums = checksums;
    body.shared = shared;
    body.n_blocks = body.n_generations = body.n_checksums = 3;
    return body;
}

static void say(struct vx *vx, uint64_t number, const Baton__Offer *body)
{
    uint8_t payload[2048];
    uint32_t len = (uint32_t)baton__offer__pack(body, payload);
    vx_inject(&vx->nodes[1], &vx->nodes[0], FRAME_OFFER, (struct request_key){ vx->nodes[1].life, number }, 0, 0,
              vx->now + 1000000, payload, len);
}

static void test_offers_that_make_no_sense(void **state)
{
    (void)state;
    struct vx *vx = begin();
    Baton__Offer wrong[8];
    uint32_t n = 0;
    for (uint32_t i = 0; i < 8; i++)
        wrong[i] = offer();
    wrong[n++].seed = NULL;
    wrong[n++].n_blocks = 2;
    wrong[n++].n_generations = 2;
    wrong[n++].n_checksums = 4;
    wrong[n++].n_shared = 1;
    wrong[n++].n_tokens = 3 * VX_BLOCK_TOKENS - 1;
    wrong[n++].first = UINT32_MAX;
    wrong[n].n_blocks = wrong[n].n_generations = wrong[n].n_checksums = 0;
    wrong[n++].n_tokens = 0;
    for (uint32_t i = 0; i < n; i++)
        say(vx, i + 1, &wrong[i]);
    assert_int_equal(counters(vx)->malformed, n);
    const uint8_t noise[] = { 0xff, 0xff, 0x07 };
    vx_inject(&vx->nodes[1], &vx->nodes[0], FRAME_OFFER, (struct request_key){ 1, 1 }, 0, 0, FRAME_NO_DEADLINE, noise,
              sizeof noise);
    assert_int_equal(counters(vx)->malformed, n + 1);
    assert_int_equal(acceptor_under_way(vx->nodes[0].acceptor), 0);
    assert_int_equal(vx->sent[FRAME_OFFER_TAKEN], 0);
    finish(vx);
}

static void test_another_format(void **state)
{
    (void)state;
    struct vx *vx = begin();
    Baton__Offer body = offer();
    body.kv_format = "F16-test";
    say(vx, 1, &body);
    assert_int_equal(counters(vx)->other_format, 3);
    assert_int_equal(vx->sent[FRAME_OFFER_TAKEN], 1);
    finish(vx);
}

/* Three at a time; the same one again is none. */
static void test_too_many_offers(void **state)
{
    (void)state;
    struct vx *vx = begin();
    Baton__Offer body = offer();
    body.n_shared = 3;
    for (uint64_t i = 1; i <= 4; i++) {
        tokens[0] = (uint32_t)i; /* of sequences of their own */
        say(vx, i, &body);
        say(vx, i, &body);
    }
    assert_int_equal(acceptor_under_way(vx->nodes[0].acceptor), 3);
    assert_int_equal(counters(vx)->repeated, 3);
    assert_int_equal(counters(vx)->busy, 2 * 3);
    vx_run(vx, 100000);
    /* Generations were right, and checksums were not. */
    assert_int_equal(counters(vx)->damaged, 9);
    assert_int_equal(vx->nodes[0].aborted_damaged, 9);
    assert_int_equal(counters(vx)->taken, 0);
    finish(vx);
}

static void test_blocks_of_another_life(void **state)
{
    (void)state;
    struct vx *vx = begin();
    Baton__Offer body = offer();
    generations[1] = 99;
    say(vx, 1, &body);
    vx_run(vx, 100000);
    assert_int_equal(counters(vx)->stale, 3);
    generations[1] = 0;
    finish(vx);
}

static void test_no_way_to_the_worker(void **state)
{
    (void)state;
    struct vx *vx = begin();
    Baton__Offer body = offer();
    vx->nodes[0].peers[1].up = false;
    say(vx, 1, &body);
    assert_int_equal(counters(vx)->busy, 3);
    vx->nodes[0].peers[1].up = true;
    finish(vx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_offers_that_make_no_sense), cmocka_unit_test(test_another_format),
        cmocka_unit_test(test_too_many_offers),           cmocka_unit_test(test_blocks_of_another_life),
        cmocka_unit_test(test_no_way_to_the_worker),
    };
    return cmocka_run_group_tests_name("acceptor", tests, NULL, NULL);
}
