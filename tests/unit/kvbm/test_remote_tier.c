/* Tier 4: a worker asks its manager, which has less than another host's manager. On the virtual network, with the
 * manager's real store; the other manager lends from a registry. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kvbm/store_source.h"
#include "virtual_exchange.h"

#define N         8u
#define TIMEOUT   1000000u
#define FORMAT_ID store_format_id("BF16-test")

static const struct block_seed_parts parts = { 1, 2, 0, { 5, 6 } }, other_parts = { 1, 2, 0, { 7, 8 } };
static const struct transfer_geometry geometry = { VX_LAYERS, 2, VX_BLOCK_TOKENS, 16 };
static uint32_t tokens[VX_CHAIN * VX_BLOCK_TOKENS];

/* Three of the nodes. */
static struct world {
    struct vx *vx;
    struct vx_node *far, *near, *worker, *worker2;
    struct store *store; /* of near, as are: */
    struct store_source source;
    struct remote_tier *tier;
    struct timer timer;
    status (*send)(void *ctx, void *peer, const struct message_head *head, const ProtobufCMessage *body);
    uint32_t number; /* of far */
    struct block_hash hashes[VX_CHAIN];
} w;

/* ---- the manager ------------------------------------------------------------------------------------------------ */

static void run_store(void *arg)
{
    (void)arg;
    store_run(w.store);
    uint64_t next = store_next_us(w.store);
    if (next == UINT64_MAX)
        timer_cancel(&w.near->timers, &w.timer);
    else
        timer_set(&w.near->timers, &w.timer, next > w.vx->now ? next : w.vx->now, run_store, NULL);
}

static void soon(void *ctx)
{
    (void)ctx;
    timer_set(&w.near->timers, &w.timer, w.vx->now, run_store, NULL);
}

static status send_and_run(void *ctx, void *peer, const struct message_head *head, const ProtobufCMessage *body)
{
    soon(NULL);
    return w.send(ctx, peer, head, body);
}

static uint64_t now(void *ctx)
{
    (void)ctx;
    return w.vx->now;
}

static uint64_t sum(void *ctx, uint64_t format, const void *payload)
{
    (void)ctx;
    (void)format;
    return whole_checksum_of_bytes(&geometry, payload);
}

static void make_manager(uint32_t max_fetches)
{
    struct store_options store;
    struct error err;
    store_defaults(&store);
    store.memory = w.near->memory;
    store.generations = w.near->generations;
    store.slot_bytes = transfer_block_bytes(&geometry);
    store.n_slots = VX_BLOCKS;
    store.block_tokens = VX_BLOCK_TOKENS;
    store.checksum = sum;
    store.verify_host = true;
    store.now_us = now;
    store.wall_s = now;
    assert_int_equal(store_create(&store, &w.store, &err), ST_OK);
    const struct remote_tier_options tier = { .io = &w.near->io,
                                              .store = w.store,
                                              .borrower = w.near->borrower,
                                              .format = FORMAT_ID,
                                              .block_tokens = VX_BLOCK_TOKENS,
                                              .block_bytes = store.slot_bytes,
                                              .incarnation = w.near->life,
                                              .index_blocks = 64,
                                              .max_fetches = max_fetches,
                                              .max_blocks = VX_CHAIN,
                                              .timeout_us = TIMEOUT,
                                              .changed = soon };
    assert_int_equal(remote_tier_create(&tier, &w.tier), ST_OK);
    store_source_init(&w.source, w.store, "BF16-test");
    w.source.lender = w.near->lender;
    w.source.remote = w.tier;
    w.near->source = w.source.source;
    w.send = w.near->io.send;
    w.near->io.send = send_and_run;
    assert_int_equal(remote_tier_join(w.tier, &w.near->peers[w.far->index], w.far->life, &w.number), ST_OK);
}

/* As far's events would tell. */
static void tell(const struct block_seed_parts *of, uint32_t n)
{
    struct block_hasher hasher;
    block_hasher_init(&hasher, block_seed(of), VX_BLOCK_TOKENS);
    (void)block_hasher_grow(&hasher, tokens, (size_t)n * VX_BLOCK_TOKENS, w.hashes, n);
    for (uint32_t i = 0; i < n; i++)
        peer_index_add(remote_tier_index(w.tier), w.number, false, w.hashes[i]);
}

static void begin(struct vx_options options, uint32_t max_fetches)
{
    for (uint32_t i = 0; i < VX_CHAIN * VX_BLOCK_TOKENS; i++)
        tokens[i] = 100 + i;
    options.random = 3;
    memset(&w, 0, sizeof w);
    w.vx = vx_create(&options);
    w.worker2 = &w.vx->nodes[0];
    w.far = &w.vx->nodes[1];
    w.near = &w.vx->nodes[2];
    w.worker = &w.vx->nodes[3];
    make_manager(max_fetches);
    assert_int_equal(vx_compute(w.far, &parts, tokens, N, false), N);
    tell(&parts, N);
}

static struct store_stats stats(void)
{
    struct store_stats s;
    store_stats(w.store, &s);
    return s;
}

static uint32_t here(const struct block_seed_parts *of, uint32_t n)
{
    struct block_hash hashes[VX_CHAIN];
    struct block_hasher hasher;
    const struct store_chain chain = { .format = FORMAT_ID,
                                       .salt = store_salt_id(of->salt),
                                       .seed = block_seed(of),
                                       .hashes = hashes,
                                       .tokens = tokens,
                                       .n_blocks = n };
    block_hasher_init(&hasher, chain.seed, VX_BLOCK_TOKENS);
    (void)block_hasher_grow(&hasher, tokens, (size_t)n * VX_BLOCK_TOKENS, hashes, n);
    return store_find(w.store, &chain).host;
}

static void finish(void)
{
    vx_run(w.vx, 20000000);
    vx_assert_at_rest(w.vx);
    const struct store_stats s = stats();
    assert_int_equal(s.slots_reserved + s.slots_held + s.open_tickets, 0);
    assert_int_equal(s.slots_free + s.tiers[STORE_HOST].blocks, VX_BLOCKS);
    assert_int_equal(remote_tier_fetches(w.tier), 0);
    remote_tier_destroy(&w.tier);
    assert_null(w.tier);
    store_destroy(&w.store);
    vx_destroy(w.vx);
}

static struct vx_pull *ask(struct vx_node *node, const struct block_seed_parts *of, uint32_t first, uint32_t n)
{
    struct vx_pull *p = vx_pull(node, w.near, of, tokens, first, n, 5000000);
    assert_non_null(p);
    return p;
}

static void assert_got(uint32_t from_host, uint32_t from_remote)
{
    const struct pull_result *r = &w.vx->ended.result;
    assert_int_equal(r->by_tier[KV_TIER_HOST], from_host);
    assert_int_equal(r->by_tier[KV_TIER_REMOTE], from_remote);
    assert_int_equal(r->n_blocks, from_host + from_remote);
}

static uint64_t fetches(enum remote_outcome outcome)
{
    return remote_counters(w.tier)->fetches[outcome];
}

static uint64_t not_asked(enum remote_reason reason)
{
    return remote_counters(w.tier)->not_asked[reason];
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void what_another_has_comes_and_stays(void **state)
{
    (void)state;
    begin((struct vx_options){ 0 }, 4);
    (void)ask(w.worker, &parts, 0, N);
    vx_run(w.vx, 100000);
    assert_int_equal(w.vx->ended.result.st, ST_OK);
    assert_got(0, N);
    assert_int_equal(here(&parts, N), N);
    assert_int_equal(fetches(REMOTE_whole), 1);
    assert_int_equal(remote_counters(w.tier)->blocks, N);
    assert_int_equal(remote_counters(w.tier)->bytes, N * transfer_block_bytes(&geometry));
    assert_int_equal(w.source.remote_blocks, N);
    (void)ask(w.worker2, &parts, 0, N);
    vx_run(w.vx, 100000);
    assert_got(N, 0);
    assert_int_equal(lender_counters(w.far->lender)->finds, 1);
    assert_int_equal(lender_counters(w.far->lender)->pulled_blocks, N);
    finish();
}

static void only_what_is_missing_is_fetched(void **state)
{
    (void)state;
    begin((struct vx_options){ 0 }, 4);
    (void)ask(w.worker, &parts, 0, 3);
    vx_run(w.vx, 100000);
    assert_got(0, 3);
    (void)ask(w.worker2, &parts, 0, VX_CHAIN - 2); /* more than anybody has */
    vx_run(w.vx, 100000);
    assert_got(3, N - 3);
    assert_int_equal(remote_counters(w.tier)->blocks, N);
    assert_int_equal(not_asked(REMOTE_absent), 0);
    finish();
}

/* The borrower has the beginning, which the manager has to fetch, too, to keep what is behind it. */
static void a_part_of_a_chain_brings_its_beginning(void **state)
{
    (void)state;
    begin((struct vx_options){ 0 }, 4);
    (void)ask(w.worker, &parts, 5, 3);
    vx_run(w.vx, 100000);
    assert_got(0, 3);
    assert_int_equal(here(&parts, N), N);
    finish();
}

static void what_is_computed_faster_is_not_fetched(void **state)
{
    (void)state;
    begin((struct vx_options){ 0 }, 4);
    w.vx->tokens_per_s = 1e9;
    (void)ask(w.worker, &parts, 0, N);
    vx_run(w.vx, 100000);
    assert_got(0, 0);
    assert_int_equal(not_asked(REMOTE_slower), 1);
    assert_int_equal(lender_counters(w.far->lender)->finds, 0);
    w.vx->tokens_per_s = 100; /* 80 ms a block */
    (void)ask(w.worker, &parts, 0, N);
    vx_run(w.vx, 100000);
    assert_got(0, N);
    finish();
}

/* A Find that ends before the blocks could be here. */
static void what_would_come_too_late_is_not_fetched(void **state)
{
    (void)state;
    begin((struct vx_options){ 0 }, 4);
    assert_non_null(
        vx_pull(w.worker, w.near, &parts, tokens, 0, N, 2000)); /* an answer alone is assumed to take that */
    vx_run(w.vx, 100000);
    assert_int_equal(w.vx->ended.times, 1);
    assert_int_equal(not_asked(REMOTE_slower), 1);
    finish();
}

static void nothing_is_passed_on_for_managers(void **state)
{
    (void)state;
    begin((struct vx_options){ 0 }, 4);
    w.vx->local_only = true;
    (void)ask(w.worker, &parts, 0, N);
    vx_run(w.vx, 100000);
    assert_got(0, 0);
    assert_int_equal(lender_counters(w.far->lender)->finds, 0);
    w.vx->local_only = false;
    (void)ask(w.worker, &parts, 0, 3);
    vx_run(w.vx, 100000);
    w.vx->local_only = true;
    (void)ask(w.worker2, &parts, 0, N);
    vx_run(w.vx, 100000);
    assert_got(3, 0);
    finish();
}

static void what_nobody_has_is_said_at_once(void **state)
{
    (void)state;
    begin((struct vx_options){ 0 }, 4);
    (void)ask(w.worker, &other_parts, 0, N);
    vx_run(w.vx, 10000);
    assert_int_equal(w.vx->ended.times, 1);
    assert_got(0, 0);
    assert_int_equal(not_asked(REMOTE_absent), 1);
    finish();
}

/* Events that came too late, or got lost: it had less than was thought. */
static void a_wrong_index_makes_the_run_shorter(void **state)
{
    (void)state;
    begin((struct vx_options){ 0 }, 4);
    tell(&parts, VX_CHAIN - 1);
    (void)ask(w.worker, &parts, 0, VX_CHAIN - 2);
    vx_run(w.vx, 100000);
    assert_got(0, N);
    assert_int_equal(fetches(REMOTE_partial), 1);
    tell(&other_parts, N);
    (void)ask(w.worker, &other_parts, 0, N);
    vx_run(w.vx, 100000);
    assert_got(0, 0);
    assert_int_equal(fetches(REMOTE_empty), 1);
    finish();
}

static void two_share_a_fetch(void **state)
{
    (void)state;
    begin((struct vx_options){ 0 }, 4);
    (void)ask(w.worker, &parts, 0, N);
    (void)ask(w.worker2, &parts, 2, N - 2);
    vx_run(w.vx, 100000);
    assert_int_equal(w.vx->ended.times, 2);
    assert_int_equal(w.source.remote_blocks, N + N - 2);
    assert_int_equal(lender_counters(w.far->lender)->finds, 1);
    assert_int_equal(lender_counters(w.near->lender)->pulled_blocks, N + N - 2);
    finish();
}

static void fetches_are_bounded(void **state)
{
    (void)state;
    begin((struct vx_options){ 0 }, 1);
    assert_int_equal(vx_compute(w.far, &other_parts, tokens, N, false), N);
    tell(&other_parts, N);
    (void)ask(w.worker, &parts, 0, N);
    (void)ask(w.worker2, &other_parts, 0, N);
    vx_run(w.vx, 100000);
    assert_int_equal(not_asked(REMOTE_busy), 1);
    assert_int_equal(w.source.remote_blocks, N);
    (void)ask(w.worker2, &other_parts, 0, N);
    vx_run(w.vx, 100000);
    assert_got(0, N);
    finish();
}

static void damage_ends_the_run_before_it(void **state)
{
    (void)state;
    begin((struct vx_options){ 0 }, 4);
    vx_damage(w.far, &parts, tokens, 5);
    (void)ask(w.worker, &parts, 0, N);
    vx_run(w.vx, 100000);
    assert_got(0, 5);
    assert_int_equal(here(&parts, N), 5);
    assert_int_equal(fetches(REMOTE_damaged), 1);
    assert_int_equal(stats().damaged_offers, 1);
    assert_int_equal(w.far->suspects, 1);
    vx_damage(w.far, &parts, tokens, 5); /* the same bit again */
    (void)ask(w.worker, &parts, 0, N);
    vx_run(w.vx, 100000);
    assert_got(5, N - 5);
    w.vx->flips_left = 1; /* now on the way */
    assert_int_equal(vx_compute(w.far, &other_parts, tokens, N, false), N);
    tell(&other_parts, N);
    (void)ask(w.worker, &other_parts, 0, N);
    vx_run(w.vx, 100000);
    assert_got(0, 0);
    assert_int_equal(fetches(REMOTE_damaged), 2);
    finish();
}

static void a_frozen_manager_costs_its_deadline(void **state)
{
    (void)state;
    begin((struct vx_options){ 0 }, 4);
    (void)ask(w.worker, &parts, 0, 3);
    vx_run(w.vx, 100000);
    vx_freeze(w.far, 2900000);
    (void)ask(w.worker2, &parts, 0, N);
    vx_run(w.vx, TIMEOUT + 100000);
    assert_int_equal(w.vx->ended.times, 2);
    assert_got(3, 0);
    assert_true(w.vx->ended.took_us >= TIMEOUT && w.vx->ended.took_us < TIMEOUT + 100000);
    assert_int_equal(fetches(REMOTE_timeout), 1);
    (void)ask(w.worker2, &parts, 0, N); /* it is not asked again for a while */
    vx_run(w.vx, 10000);
    assert_int_equal(w.vx->ended.times, 3);
    assert_got(3, 0);
    vx_run(w.vx, 4 * TIMEOUT);
    (void)ask(w.worker2, &parts, 0, N);
    vx_run(w.vx, 100000);
    assert_got(3, N - 3);
    finish();
}

static void what_came_before_a_death_stays(void **state)
{
    (void)state;
    begin((struct vx_options){ 0 }, 4);
    (void)ask(w.worker, &parts, 0, N);
    while (here(&parts, N) < 4)
        vx_run(w.vx, 10);
    vx_kill(w.far);
    vx_run(w.vx, VX_CLOSED_US + 100000);
    assert_int_equal(w.vx->ended.times, 1);
    assert_true(w.vx->ended.result.n_blocks >= 4);
    assert_int_equal(here(&parts, N), w.vx->ended.result.n_blocks);
    remote_tier_leave(w.tier, w.number);
    assert_int_equal(peer_index_blocks(remote_tier_index(w.tier)), 0);
    finish();
}

/* The one that began it may be cancelled, or come to its deadline: it is not special. */
static void a_fetch_outlives_who_began_it(void **state)
{
    (void)state;
    for (int is_late = 0; is_late < 2; is_late++) {
        begin((struct vx_options){ .slow = 1 }, 4);
        struct vx_pull *p = vx_pull(w.worker, w.near, &parts, tokens, 0, N, is_late ? 20000 : 5000000);
        assert_non_null(p);
        p->cancel_at = is_late ? 0 : 1;
        (void)ask(w.worker2, &parts, 2, N - 2);
        while (w.vx->ended.times == 0)
            vx_run(w.vx, 10);
        assert_int_equal(w.vx->ended.result.st, is_late ? ST_TIMEOUT : ST_CANCELLED);
        assert_true(here(&parts, N) < N);
        assert_int_equal(remote_tier_fetches(w.tier), 1);
        while (w.vx->ended.times == 1)
            vx_run(w.vx, 10);
        assert_int_equal(w.vx->ended.result.st, ST_OK);
        assert_got(0, N - 2);
        assert_int_equal(here(&parts, N), N);
        assert_int_equal(fetches(REMOTE_whole), 1);
        assert_int_equal(lender_counters(w.far->lender)->finds, 1);
        finish();
    }
}

/* A second one that waits until its own deadline keeps a fetch no longer than the fetch's own. */
static void a_fetch_has_a_deadline_of_its_own(void **state)
{
    (void)state;
    begin((struct vx_options){ 0 }, 4);
    vx_freeze(w.far, 2900000);
    assert_non_null(vx_pull(w.worker, w.near, &parts, tokens, 0, N, 100000));
    (void)ask(w.worker2, &parts, 0, N);
    vx_run(w.vx, 200000);
    assert_int_equal(w.vx->ended.times, 1);
    assert_int_equal(remote_tier_fetches(w.tier), 1);
    vx_run(w.vx, TIMEOUT);
    assert_int_equal(w.vx->ended.times, 2);
    assert_int_equal(fetches(REMOTE_timeout), 1);
    assert_int_equal(remote_tier_fetches(w.tier), 0);
    finish();
}

static void a_fetch_ends_with_the_last_that_waits(void **state)
{
    (void)state;
    begin((struct vx_options){ .slow = 1 }, 4); /* what is left would take long */
    ask(w.worker, &parts, 0, N)->cancel_at = 1;
    ask(w.worker2, &parts, 0, N)->cancel_at = 1;
    while (w.vx->ended.times < 2)
        vx_run(w.vx, 10);
    assert_int_equal(w.vx->ended.result.st, ST_CANCELLED);
    vx_run(w.vx, 1000);
    assert_int_equal(fetches(REMOTE_cancelled), 1);
    assert_int_equal(remote_tier_fetches(w.tier), 0);
    assert_int_equal(stats().slots_reserved, 0);
    assert_int_equal(lender_open_loans(w.far->lender), 0);
    finish();
}

static void on_wiped(void *ctx, status st, const struct store_wiped *wiped)
{
    (void)wiped;
    *(status *)ctx = st;
}

static void a_wipe_ends_it(void **state)
{
    (void)state;
    status wiped = ST_COUNT;
    begin((struct vx_options){ 0 }, 4);
    (void)ask(w.worker, &parts, 0, N);
    while (stats().slots_reserved == 0)
        vx_run(w.vx, 10);
    const struct store_wipe_call call = { .deadline_us = w.vx->now + 5000000, .done = on_wiped, .ctx = &wiped };
    assert_int_equal(store_wipe(w.store, &call), ST_OK);
    soon(NULL);
    vx_run(w.vx, 6000000);
    assert_int_equal(w.vx->ended.times, 1);
    assert_int_equal(here(&parts, N), 0);
    assert_int_equal(wiped, ST_OK);
    assert_int_equal(fetches(REMOTE_cancelled), 1);
    finish();
}

/* Whatever gets lost on the way: never a wrong block (the network looks), and an end. */
static void losses_and_flips(void **state)
{
    (void)state;
    uint64_t remote = 0;
    for (uint64_t round = 0; round < 40; round++) {
        begin((struct vx_options){ .lose = 0.2, .twice = 0.2, .late = 0.1, .flip = 0.01, .slow = 0.3, .fail = 0.1 }, 2);
        w.vx->random += round;
        for (uint32_t i = 0; i < 3; i++) {
            (void)ask(i % 2 ? w.worker2 : w.worker, &parts, i, N - i);
            vx_run(w.vx, 300000 * (round % 4));
            if (round % 5 == 4)
                vx_freeze(w.far, 100000 * vx_draw(w.vx, 20));
        }
        vx_run(w.vx, 8000000);
        assert_int_equal(w.vx->ended.times, 3);
        remote += w.source.remote_blocks;
        finish();
    }
    assert_true(remote > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_another_has_comes_and_stays),
        cmocka_unit_test(only_what_is_missing_is_fetched),
        cmocka_unit_test(a_part_of_a_chain_brings_its_beginning),
        cmocka_unit_test(what_is_computed_faster_is_not_fetched),
        cmocka_unit_test(what_would_come_too_late_is_not_fetched),
        cmocka_unit_test(nothing_is_passed_on_for_managers),
        cmocka_unit_test(what_nobody_has_is_said_at_once),
        cmocka_unit_test(a_wrong_index_makes_the_run_shorter),
        cmocka_unit_test(two_share_a_fetch),
        cmocka_unit_test(fetches_are_bounded),
        cmocka_unit_test(damage_ends_the_run_before_it),
        cmocka_unit_test(a_frozen_manager_costs_its_deadline),
        cmocka_unit_test(what_came_before_a_death_stays),
        cmocka_unit_test(a_fetch_outlives_who_began_it),
        cmocka_unit_test(a_fetch_has_a_deadline_of_its_own),
        cmocka_unit_test(a_fetch_ends_with_the_last_that_waits),
        cmocka_unit_test(a_wipe_ends_it),
        cmocka_unit_test(losses_and_flips),
    };
    return cmocka_run_group_tests_name("remote_tier", tests, NULL, NULL);
}
