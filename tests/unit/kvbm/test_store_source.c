/* A manager's store behind lender and acceptor: what lies in memory is in the first answer, what lies on disk follows,
 * and slots are held for as long as they are lent. */
#include "store_rig.h"

#include "kvbm/store_source.h"
#include "kvbm/whole_checksum.h"

#define N        6u
#define LIFETIME 1000u

static const struct transfer_geometry geometry = { 1, 1, CHAIN_TOKENS, STORE_BYTES / CHAIN_TOKENS };

struct world {
    struct store_rig rig; /* first */
    struct timers timers;
    struct exchange_io io;
    struct store_source source;
    struct lender *lender;
    struct acceptor *acceptor;
    struct rig_chain chain;
    bool alive;
    /* What was answered. */
    uint32_t answers, lent, run, tiers[KV_TIER_COUNT], outcomes[9];
    Baton__FoundReason reason;
    /* The take under way, and whose blocks it copies. */
    struct transfer_take *take;
};

static uint64_t io_now(void *ctx)
{
    return ((struct world *)ctx)->rig.disk.now_us;
}

static status io_send(void *ctx, void *peer, const struct message_head *head, const ProtobufCMessage *body)
{
    struct world *w = ctx;
    assert_ptr_equal(peer, w);
    if (head->type == FRAME_OFFER_TAKEN) {
        const Baton__OfferTaken *taken = (const Baton__OfferTaken *)(const void *)body;
        for (size_t i = 0; i < taken->n_outcomes; i++)
            w->outcomes[taken->outcomes[i]]++;
        return ST_OK;
    }
    const Baton__Found *found = (const Baton__Found *)(const void *)body;
    w->answers++;
    w->run = found->run;
    w->reason = found->reason;
    for (size_t i = 0; i < found->n_blocks; i++) {
        uint8_t want[STORE_BYTES];
        uint32_t at = found->first + (uint32_t)i;
        chain_payload(&w->chain, at, want);
        assert_memory_equal(store_memory(w->rig.store, found->blocks[i]), want, STORE_BYTES);
        assert_true(found->checksums[i] == w->chain.checksums[at]);
        assert_true(found->generations[i] == atomic_load(&w->rig.generations[found->blocks[i]]));
        w->tiers[found->tiers[i]]++;
        w->lent++;
    }
    return ST_OK;
}

static bool io_is_alive(void *ctx, void *peer)
{
    (void)peer;
    return ((struct world *)ctx)->alive;
}

static struct transfer_peer *io_way(void *ctx, void *peer)
{
    (void)ctx;
    return peer;
}

static status io_take(void *ctx, struct transfer_take *take)
{
    ((struct world *)ctx)->take = take;
    return ST_OK;
}

static void io_cancel_take(void *ctx, struct transfer_take *take)
{
    (void)ctx;
    atomic_store(&take->cancelled, true);
}

static const char *io_name(void *ctx, void *peer)
{
    (void)ctx, (void)peer;
    return "peer";
}

static uint64_t sum(void *ctx, uint64_t format, const void *payload)
{
    (void)ctx, (void)format;
    return whole_checksum_of_bytes(&geometry, payload);
}

static uint64_t sum_on_disk(void *ctx, const struct disk_block *block, const void *payload)
{
    return sum(ctx, block->format, payload);
}

static void create_cores(struct world *w)
{
    store_source_init(&w->source, w->rig.store, "BF16-test");
    w->source.format = STORE_FORMAT;
    const struct lender_options lender = { .io = &w->io,
                                           .source = &w->source.source,
                                           .timers = &w->timers,
                                           .kv_format = "BF16-test",
                                           .block_tokens = CHAIN_TOKENS,
                                           .max_loans = 4,
                                           .max_blocks = 16,
                                           .max_chain = CHAIN_MAX,
                                           .lifetime_us = LIFETIME };
    const struct acceptor_options acceptor = { .io = &w->io,
                                               .store = &w->source.sink,
                                               .kv_format = "BF16-test",
                                               .format = STORE_FORMAT,
                                               .geometry = geometry,
                                               .max_offers = 2,
                                               .max_blocks = 16,
                                               .max_chain = CHAIN_MAX,
                                               .take_us = 1000 };
    assert_int_equal(lender_create(&lender, &w->lender), ST_OK);
    assert_int_equal(acceptor_create(&acceptor, &w->acceptor), ST_OK);
    w->source.lender = w->lender;
}

static void begin(struct world *w)
{
    memset(w, 0, sizeof *w);
    store_rig_init(&w->rig, 16, 0);
    w->rig.options.ticket_us = LIFETIME;
    w->rig.options.checksum = sum;
    w->rig.disk.options.checksum = sum_on_disk;
    store_rig_open(&w->rig, true);
    timers_init(&w->timers);
    timers_set_now(&w->timers, w->rig.disk.now_us);
    w->alive = true;
    w->io = (struct exchange_io){ w, io_now, io_send, io_is_alive, io_way, io_take, io_cancel_take, io_name };
    create_cores(w);
    chain_run(&w->chain, 0x31, 1, N);
    for (uint32_t i = 0; i < N; i++) {
        uint8_t payload[STORE_BYTES];
        chain_payload(&w->chain, i, payload);
        w->chain.checksums[i] = whole_checksum_of_bytes(&geometry, payload);
    }
}

static void finish(struct world *w)
{
    assert_int_equal(lender_open_loans(w->lender), 0);
    store_rig_settle(&w->rig);
    store_rig_check_quiet(&w->rig);
    lender_destroy(&w->lender);
    acceptor_destroy(&w->acceptor);
    store_rig_free(&w->rig);
    timers_free(&w->timers);
}

static void pass(struct world *w, uint64_t us)
{
    w->rig.disk.now_us += us;
    timers_run(&w->timers, w->rig.disk.now_us);
    store_run(w->rig.store);
}

static void write_seed(const struct world *w, uint8_t salt[BLOCK_HASH_BYTES], Baton__BlockSeed *out)
{
    exchange_write_seed(&(struct block_seed_parts){ .weights = 1, .tokenizer = 2, .salt = { w->chain.chain.salt, 3 } },
                        salt, out);
}

static void say(struct world *w, enum frame_type type, uint64_t seq, const void *body, uint64_t deadline)
{
    uint8_t payload[2048];
    const struct frame frame = { .type = type,
                                 .key = { 1, seq },
                                 .attempt = 1,
                                 .leg = 1,
                                 .incarnation = 5,
                                 .payload = payload,
                                 .payload_len = (uint32_t)protobuf_c_message_pack(body, payload) };
    assert_true(lender_on_message(w->lender, w, &frame, deadline) ||
                acceptor_on_message(w->acceptor, w, &frame, deadline));
}

static void say_find(struct world *w, uint64_t seq, uint32_t first, uint64_t deadline_us)
{
    uint8_t salt[BLOCK_HASH_BYTES];
    Baton__BlockSeed seed;
    Baton__Find body = BATON__FIND__INIT;
    write_seed(w, salt, &seed);
    body.kv_format = "BF16-test";
    body.seed = &seed;
    body.tokens = w->chain.tokens;
    body.n_tokens = N * CHAIN_TOKENS;
    body.first = first;
    say(w, FRAME_FIND, seq, &body, w->rig.disk.now_us + deadline_us);
}

static void say_pulled(struct world *w, uint64_t seq)
{
    Baton__Pulled body = BATON__PULLED__INIT;
    say(w, FRAME_PULLED, seq, &body, FRAME_NO_DEADLINE);
}

static void test_memory_is_in_the_first_answer(void **state)
{
    (void)state;
    struct world w;
    begin(&w);
    assert_int_equal(store_rig_put(&w.rig, &w.chain), N);
    say_find(&w, 1, 2, 500);
    assert_int_equal(w.answers, 1);
    assert_int_equal(w.tiers[KV_TIER_HOST], N - 2);
    assert_int_equal(w.reason, BATON__FOUND_REASON__FOUND_ALL);
    assert_true(store_rig_stats(&w.rig).slots_held >= N - 2);
    say_pulled(&w, 1);
    assert_int_equal(store_rig_stats(&w.rig).open_tickets, 0);
    finish(&w);
}

static void say_damaged(struct world *w, uint64_t seq, uint32_t block)
{
    Baton__Pulled body = BATON__PULLED__INIT;
    body.damaged = &block;
    body.n_damaged = 1;
    say(w, FRAME_PULLED, seq, &body, FRAME_NO_DEADLINE);
}

/* What was spoiled on the way stays, what is wrong here goes with all behind it. */
static void test_a_suspected_block_is_looked_at(void **state)
{
    (void)state;
    struct world w;
    struct rig_reader r;
    begin(&w);
    assert_int_equal(store_rig_put(&w.rig, &w.chain), N);
    say_find(&w, 1, 0, 500);
    say_damaged(&w, 1, 2);
    store_run(w.rig.store);
    assert_int_equal(store_find(w.rig.store, &w.chain.chain).host, N);
    assert_int_equal(store_rig_stats(&w.rig).damaged_host, 0);
    say_find(&w, 2, 0, 500);
    assert_int_equal(store_rig_get(&w.rig, &w.chain, 2, &r), N - 2);
    store_memory(w.rig.store, r.lent[0].slot.slot)[9] ^= 16;
    w.rig.disk.now_us += STORE_SUSPECT_PAUSE_US;
    say_damaged(&w, 2, 2);
    store_run(w.rig.store);
    const struct store_stats stats = store_rig_stats(&w.rig);
    assert_int_equal(stats.damaged_host, 1);
    assert_int_equal(stats.removed[STORE_REMOVED_DAMAGED], 1);
    assert_int_equal(store_find(w.rig.store, &w.chain.chain).host, 2);
    assert_int_equal(store_find(w.rig.store, &w.chain.chain).disk, N - 2);
    finish(&w);
}

static void test_disk_follows(void **state)
{
    (void)state;
    struct world w;
    begin(&w);
    assert_int_equal(store_rig_put(&w.rig, &w.chain), N);
    lender_destroy(&w.lender); /* the manager ends and begins again */
    acceptor_destroy(&w.acceptor);
    store_rig_restart(&w.rig);
    create_cores(&w);
    say_find(&w, 1, 0, 500);
    assert_int_equal(w.answers, 1);
    assert_int_equal(w.run, N); /* promised at once */
    store_rig_settle(&w.rig);
    assert_true(w.answers > 1);
    assert_int_equal(w.tiers[KV_TIER_DISK], N);
    say_pulled(&w, 1);
    finish(&w);
}

static void test_nothing_is_said_at_once(void **state)
{
    (void)state;
    struct world w;
    begin(&w);
    say_find(&w, 1, 0, 500);
    assert_int_equal(w.answers, 1);
    assert_int_equal(w.run, 0);
    assert_int_equal(w.reason, BATON__FOUND_REASON__FOUND_ABSENT);
    finish(&w);
}

/* The store's own time is renewed while the borrower lives, and ends the loan when it is over. */
static void test_loans_live_as_long_as_their_borrowers(void **state)
{
    (void)state;
    struct world w;
    begin(&w);
    assert_int_equal(store_rig_put(&w.rig, &w.chain), N);
    say_find(&w, 1, 0, 10000);
    for (int i = 0; i < 40; i++)
        pass(&w, LIFETIME / 8);
    assert_int_equal(lender_open_loans(w.lender), 1);
    assert_int_equal(store_rig_stats(&w.rig).slots_held, N);
    w.alive = false;
    for (int i = 0; i < 12; i++)
        pass(&w, LIFETIME / 8);
    assert_int_equal(lender_open_loans(w.lender), 0);
    assert_int_equal(lender_counters(w.lender)->ended_by_time, 1);
    finish(&w);
}

/* It was not renewed in time, as this process stood still. */
static void test_the_store_ends_a_loan(void **state)
{
    (void)state;
    struct world w;
    begin(&w);
    assert_int_equal(store_rig_put(&w.rig, &w.chain), N);
    say_find(&w, 1, 0, 10000);
    w.rig.disk.now_us += LIFETIME + 1;
    store_run(w.rig.store);
    assert_int_equal(lender_open_loans(w.lender), 0);
    assert_int_equal(lender_counters(w.lender)->ended_by_time, 1);
    finish(&w);
}

/* ---- offers ------------------------------------------------------------------------------------------------- */

static void say_offer(struct world *w, uint64_t number)
{
    uint8_t salt[BLOCK_HASH_BYTES];
    Baton__BlockSeed seed;
    Baton__Offer body = BATON__OFFER__INIT;
    uint32_t blocks[N] = { 0 };
    uint64_t generations[N] = { 0 };
    write_seed(w, salt, &seed);
    body.kv_format = "BF16-test";
    body.seed = &seed;
    body.tokens = w->chain.tokens;
    body.n_tokens = N * CHAIN_TOKENS;
    body.blocks = blocks;
    body.generations = generations;
    body.checksums = w->chain.checksums;
    body.n_blocks = body.n_generations = body.n_checksums = N;
    say(w, FRAME_OFFER, number, &body, w->rig.disk.now_us + 1000);
}

static void end_take(struct world *w, uint32_t damaged)
{
    struct transfer_take *take = w->take;
    w->take = NULL;
    for (uint32_t i = 0; i < take->n_spans; i++) {
        uint8_t *to = store_memory(w->rig.store, take->spans[i].local_block);
        chain_payload(&w->chain, i, to);
        to[7] ^= (uint8_t)(i == damaged);
        take->checksums[i] = transfer_layer_checksum(&geometry, to, 0, 0, CHAIN_TOKENS);
    }
    take->st = ST_OK;
    take->done(take);
}

static void test_what_is_offered_is_found(void **state)
{
    (void)state;
    struct world w;
    begin(&w);
    say_offer(&w, 1);
    assert_int_equal(w.take->n_spans, N);
    assert_int_equal(store_rig_stats(&w.rig).slots_reserved, N);
    end_take(&w, 3);
    assert_int_equal(w.outcomes[BATON__OFFER_OUTCOME__OFFER_TAKEN], 3);
    assert_int_equal(w.outcomes[BATON__OFFER_OUTCOME__OFFER_DAMAGED], 1);
    assert_int_equal(w.outcomes[BATON__OFFER_OUTCOME__OFFER_DECLINED], 2);
    assert_int_equal(store_rig_stats(&w.rig).damaged_offers, 1);
    const struct store_found found = store_find(w.rig.store, &w.chain.chain);
    assert_int_equal(found.host, 3);
    say_offer(&w, 2); /* the same run once more: what is there is not taken again */
    assert_int_equal(w.outcomes[BATON__OFFER_OUTCOME__OFFER_PRESENT], 0);
    assert_int_equal(w.take->n_spans, N - 3);
    w.take->st = ST_STALE;
    w.take->done(w.take);
    assert_int_equal(w.outcomes[BATON__OFFER_OUTCOME__OFFER_PRESENT], 3);
    assert_int_equal(w.outcomes[BATON__OFFER_OUTCOME__OFFER_STALE], 3);
    finish(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_is_in_the_first_answer),
        cmocka_unit_test(test_a_suspected_block_is_looked_at),
        cmocka_unit_test(test_disk_follows),
        cmocka_unit_test(test_nothing_is_said_at_once),
        cmocka_unit_test(test_loans_live_as_long_as_their_borrowers),
        cmocka_unit_test(test_the_store_ends_a_loan),
        cmocka_unit_test(test_what_is_offered_is_found),
    };
    return cmocka_run_group_tests_name("store_source", tests, NULL, NULL);
}
