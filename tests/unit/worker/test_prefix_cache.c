/* What a worker finds of earlier requests, and what it must not find. */
#include "tests/unit/worker/worker_rig.h"

#include "common/log.h"

static uint8_t salts[2][16] = { { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 }, { 255 } };

static void start_caching(struct world *w)
{
    eviction = &eviction_s3fifo;
    adapter = "";
    salt = (ProtobufCBinaryData){ 0, NULL };
    no_cache = false;
    for (uint32_t i = 0; i < BLOCKS * BLOCK_TOKENS; i++)
        prompt[i] = i % 50;
    start(w);
}

static void run_out(struct world *w)
{
    for (int i = 0; w->step && i < 200; i++)
        end_step(w);
}

/* Where the engine begins with a prompt of n tokens: what was found lies before. The answer is computed to its end. */
static uint32_t begins_at(struct world *w, uint32_t n)
{
    w->seq++;
    say_generate(w, n, BATON__ROUTE__ROUTE_LOCAL, 1);
    assert_non_null(w->step);
    uint32_t first = w->step->seqs[0].first_pos;
    assert_int_equal(w->step->seqs[0].tokens[0], prompt[first]);
    run_out(w);
    assert_int_equal(w->timed_cached, first);
    assert_int_equal(w->timed_computed, n - first);
    Baton__TokensAck ack = BATON__TOKENS_ACK__INIT;
    ack.position = n + 1;
    say(w, &w->router, FRAME_TOKENS_ACK, 0, &ack);
    return first;
}

static struct prefix_cache_counters counters(const struct world *w)
{
    return prefix_cache_counters(worker_prefix_cache(w->worker));
}

static void test_full_blocks_but_the_last_token(void **state)
{
    (void)state;
    struct world w;
    start_caching(&w);
    assert_int_equal(begins_at(&w, 13), 0);
    for (uint32_t n = 1; n <= 20; n++) {
        /* The row of the last token before is computed, but not in a block that was full. */
        assert_int_equal(begins_at(&w, n), (n - 1) / BLOCK_TOKENS * BLOCK_TOKENS);
    }
    prompt[5] = 49;
    assert_int_equal(begins_at(&w, 13), 4);
    prompt[0] = 49;
    assert_int_equal(begins_at(&w, 13), 0);
    stop(&w);
}

/* Four tokens of prompt and what was generated, but for the last token, are there for the next turn. */
static void test_answers_are_kept(void **state)
{
    (void)state;
    struct world w;
    start_caching(&w);
    memset(prompt, 0, sizeof prompt); /* the engine answers with zeros, too */
    say_generate(&w, 5, BATON__ROUTE__ROUTE_LOCAL, 8);
    run_out(&w);
    assert_int_equal(begins_at(&w, 20), 12);
    stop(&w);
}

static void test_salts_are_apart(void **state)
{
    (void)state;
    struct world w;
    start_caching(&w);
    assert_int_equal(begins_at(&w, 9), 0);
    salt = (ProtobufCBinaryData){ 16, salts[0] };
    assert_int_equal(begins_at(&w, 9), 0);
    salt.data = salts[1];
    assert_int_equal(begins_at(&w, 9), 0);
    assert_int_equal(counters(&w).hit, 0);
    assert_int_equal(counters(&w).registered, 6);
    salt.data = salts[0];
    assert_int_equal(begins_at(&w, 9), 8);
    salt.len = 0;
    assert_int_equal(begins_at(&w, 9), 8);
    assert_int_equal(counters(&w).hit_tokens, 16);
    stop(&w);
}

static void test_salt_travels_on(void **state)
{
    (void)state;
    struct world w;
    start_caching(&w);
    salt = (ProtobufCBinaryData){ 16, salts[0] };
    w.seq++;
    say_generate(&w, 9, BATON__ROUTE__ROUTE_REMOTE, 1);
    assert_int_equal(w.salt_len, 16);
    assert_memory_equal(w.salt, salts[0], 16);
    salt.len = 0;
    w.seq++;
    say_generate(&w, 9, BATON__ROUTE__ROUTE_REMOTE, 1);
    assert_int_equal(w.salt_len, 0);
    salt = (ProtobufCBinaryData){ 15, salts[0] };
    w.seq++;
    say_generate(&w, 9, BATON__ROUTE__ROUTE_REMOTE, 1);
    say_prefill(&w, 9);
    assert_int_equal(worker_counters(w.worker)->refused, 2);
    assert_int_equal(w.sent[FRAME_PREFILL_FAILED], 1);
    stop(&w);
}

static void test_adapters_are_apart(void **state)
{
    (void)state;
    struct world w;
    start_caching(&w);
    assert_int_equal(begins_at(&w, 9), 0);
    adapter = "blue@00000000000000bb";
    assert_int_equal(begins_at(&w, 9), 0);
    adapter = "red@00000000000000aa";
    assert_int_equal(begins_at(&w, 9), 0);
    adapter = "blue@00000000000000bb";
    assert_int_equal(begins_at(&w, 9), 8);
    stop(&w);
}

/* It neither finds nor leaves anything, nor does a worker that keeps nothing. */
static void test_no_cache(void **state)
{
    (void)state;
    struct world w;
    start_caching(&w);
    no_cache = true;
    assert_int_equal(begins_at(&w, 9), 0);
    no_cache = false;
    assert_int_equal(begins_at(&w, 9), 0);
    no_cache = true;
    assert_int_equal(begins_at(&w, 9), 0);
    assert_int_equal(counters(&w).registered, 2);
    assert_int_equal(counters(&w).hit, 0);
    stop(&w);
    eviction = NULL;
    no_cache = false;
    start(&w);
    assert_int_equal(begins_at(&w, 9), 0);
    assert_int_equal(begins_at(&w, 9), 0);
    stop(&w);
}

/* What is kept is room for others, in the load that is published as well. */
static void test_kept_is_free(void **state)
{
    (void)state;
    struct world w;
    Baton__Load load;
    start_caching(&w);
    assert_int_equal(begins_at(&w, 33), 0);
    assert_int_equal(block_pool_in_state(worker_pool(w.worker), BLOCK_REGISTERED), 8);
    worker_load(w.worker, &load);
    assert_int_equal(load.kv_free, BLOCKS);
    prompt[0] = 49;
    assert_int_equal(begins_at(&w, 57), 0);
    assert_true(counters(&w).evicted > 0);
    stop(&w);
}

/* What was found lately stays longer than what was only computed lately. */
static void test_a_hit_counts(void **state)
{
    (void)state;
    struct world w;
    start_caching(&w);
    stop(&w);
    eviction = &eviction_lru;
    start(&w);
    assert_int_equal(begins_at(&w, 13), 0);
    prompt[0] = 1;
    assert_int_equal(begins_at(&w, 13), 0);
    prompt[0] = 0;
    assert_int_equal(begins_at(&w, 13), 12);
    prompt[0] = 2;
    assert_int_equal(begins_at(&w, 50), 0); /* 13 blocks, where 10 are free */
    assert_int_equal(counters(&w).evicted, 3);
    prompt[0] = 0;
    assert_int_equal(begins_at(&w, 13), 12);
    prompt[0] = 1;
    assert_int_equal(begins_at(&w, 13), 0);
    stop(&w);
}

/* All or none, found blocks included; what must stay free stays free. */
static void test_all_or_none(void **state)
{
    (void)state;
    struct world w;
    struct sequence seq;
    Baton__Sampling s;
    struct error err;
    uint32_t held = 77;
    start_caching(&w);
    assert_int_equal(begins_at(&w, 9), 0);
    struct block_pool *pool = worker_pool(w.worker);
    struct prefix_cache *cache = worker_prefix_cache(w.worker);
    const struct sequence_ops none = { NULL, NULL, NULL };
    fill_sampling(&s, 40, 1);
    assert_int_equal(sequence_init(&seq, &none, prompt, 40, &s, 50, 1000, &err), ST_OK);
    prefix_cache_join(cache, &seq);
    assert_int_equal(prefix_cache_peek(cache, &seq), 8);
    assert_int_equal(prefix_cache_take(cache, &seq, 40, 7, BLOCK_RESERVED, &held), ST_AGAIN);
    assert_int_equal(seq.n_blocks, 0);
    assert_int_equal(block_pool_free(pool), BLOCKS);
    assert_int_equal(held, 77);
    assert_int_equal(counters(&w).hit, 0);
    assert_int_equal(prefix_cache_take(cache, &seq, 40, 6, BLOCK_RESERVED, &held), ST_OK);
    assert_int_equal(held, 8);
    assert_int_equal(seq.n_blocks, 10);
    assert_int_equal(block_pool_state(pool, seq.blocks[1]), BLOCK_REGISTERED);
    assert_int_equal(block_pool_state(pool, seq.blocks[2]), BLOCK_RESERVED);
    assert_int_equal(block_pool_free(pool), 6);
    sequence_release_blocks(&seq, pool);
    sequence_free(&seq);
    stop(&w);
}

/* A sequence whose blocks were taken back goes on from what is left of them. */
static void test_preempted_finds_its_own(void **state)
{
    (void)state;
    struct world w;
    uint32_t resumed_at = 0;
    uint64_t preemptions = 0;
    start_caching(&w);
    for (w.seq = 1; w.seq <= 2; w.seq++) {
        prompt[0] = (uint32_t)w.seq;
        say_generate(&w, 27, BATON__ROUTE__ROUTE_LOCAL, 20);
    }
    for (int i = 0; w.step && i < 200; i++) {
        preemptions = worker_counters(w.worker)->preemptions;
        end_step(&w);
        for (uint32_t s = 0; preemptions && w.step && s < w.step->n_seqs; s++)
            if (w.step->seqs[s].n_rows > 1)
                resumed_at = w.step->seqs[s].first_pos;
    }
    assert_true(preemptions > 0 && resumed_at > 0);
    assert_int_equal(w.n_ended, 2);
    assert_int_equal(w.timed_cached, 0); /* it was its own */
    stop(&w);
}

static void end_takes(struct world *w)
{
    while (w->n_takes)
        end_take(w);
}

static void say_taken(struct world *w, uint32_t index)
{
    Baton__ChunkTaken taken = BATON__CHUNK_TAKEN__INIT;
    taken.index = index;
    say(w, &w->other, FRAME_CHUNK_TAKEN, 1, &taken);
}

/* A prefill that is over: what it computed stays behind. */
static void prefill_whole(struct world *w, uint32_t n)
{
    w->seq++;
    say_prefill(w, n);
    for (uint32_t taken = 0; !worker_is_idle(w->worker); say_taken(w, taken++)) {
        run_out(w);
        end_takes(w);
        assert_true(taken < w->n_done);
    }
    w->n_done = 0;
}

/* Chunks of what was found come first, then what is computed, from the token that decode names. */
static void test_prefill_lends_what_it_found(void **state)
{
    (void)state;
    for (uint32_t from = 0; from <= 23; from++) {
        struct world w;
        start_caching(&w);
        prefill_whole(&w, 19);
        w.seq++;
        say_prefill_from(&w, 23, from);
        assert_int_equal(w.step->seqs[0].first_pos, 16);
        run_out(&w);
        end_takes(&w);
        uint32_t next = from, lent = 0;
        for (uint32_t i = 0; i < w.n_done; i++) {
            const struct noted_chunk *c = &w.done[i];
            assert_int_equal(c->index, i);
            assert_int_equal(c->first, next);
            for (uint32_t k = 0; k < c->n_blocks; k++) {
                assert_int_equal(c->generations[k], block_pool_generation(worker_pool(w.worker), c->blocks[k]));
                lent += block_pool_owners(worker_pool(w.worker), c->blocks[k], BLOCK_OF_TRANSFER) > 0;
            }
            next += c->n;
        }
        assert_int_equal(next, 23);
        assert_true(lent > 0 || from == 23);
        assert_int_equal(w.cached, from < 16 ? 16 - from : 0);
        assert_int_equal(w.computed, 7);
        stop(&w);
    }
}

/* What was found is handed over through the same window as what is computed, and first. */
static void test_found_goes_through_the_window(void **state)
{
    (void)state;
    struct world w;
    window = 2;
    start_caching(&w);
    window = WINDOW;
    prefill_whole(&w, 60);
    w.seq++;
    say_prefill(&w, 60); /* 56 tokens are found, in four chunks */
    assert_null(w.step);
    end_takes(&w);
    assert_int_equal(w.n_done, 2);
    say_taken(&w, 0);
    end_takes(&w);
    assert_int_equal(w.n_done, 3);
    assert_null(w.step);
    say_taken(&w, 1);
    assert_null(w.step); /* all are begun, and the window is full */
    say_taken(&w, 2);
    assert_non_null(w.step);
    stop(&w);
}

/* Nobody gets the blocks of a loan, however urgently: only after the last of it was taken. */
static void test_lent_blocks_stay(void **state)
{
    (void)state;
    struct world w;
    start_caching(&w);
    prefill_whole(&w, 33);
    w.seq++;
    say_prefill(&w, 33); /* finds 8 blocks, computes a row in a ninth */
    run_out(&w);
    end_takes(&w);
    assert_true(w.n_done >= 2);
    prompt[0] = 49;
    w.seq++;
    say_prefill(&w, 40); /* 10 blocks: 7 are left */
    assert_null(w.step);
    assert_int_equal(counters(&w).evicted, 0);
    w.seq--;
    for (uint32_t i = 0; i < w.n_done; i++) {
        assert_null(w.step);
        say_taken(&w, i);
    }
    assert_int_equal(w.n_asked, 3);
    assert_true(counters(&w).evicted > 0);
    stop(&w);
}

/* Two compute the same at once: one copy stays, and what was lent of the other is lent until it is taken. */
static void test_computed_twice(void **state)
{
    (void)state;
    struct world w;
    start_caching(&w);
    for (int i = 0; i < 2; i++) {
        w.seq++;
        say_prefill(&w, 8);
    }
    while (w.step) {
        worker_layers_done(w.worker, LAYERS);
        end_step(&w);
    }
    end_takes(&w);
    assert_int_equal(counters(&w).shared, 2);
    assert_int_equal(w.n_done, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(w.done[i].n_blocks, 2);
        assert_int_equal(block_pool_owners(worker_pool(w.worker), w.done[i].blocks[0], BLOCK_OF_TRANSFER), 1);
        assert_int_equal(block_pool_generation(worker_pool(w.worker), w.done[i].blocks[0]), w.done[i].generations[0]);
    }
    assert_int_not_equal(w.done[0].blocks[0], w.done[1].blocks[0]);
    say_taken(&w, 0);
    assert_int_equal(block_pool_in_state(worker_pool(w.worker), BLOCK_FREE), BLOCKS - 2);
    w.seq--;
    say_taken(&w, 0);
    assert_int_equal(block_pool_in_state(worker_pool(w.worker), BLOCK_REGISTERED), 2);
    assert_true(worker_is_idle(w.worker));
    stop(&w);
}

/* Decode asks only for what it does not hold, and lets nobody write into what it found. */
static void test_decode_holds_the_beginning(void **state)
{
    (void)state;
    struct world w;
    Baton__GrantAsk ask = BATON__GRANT_ASK__INIT;
    start_caching(&w);
    assert_int_equal(begins_at(&w, 9), 0);
    w.seq++;
    say_generate(&w, 15, BATON__ROUTE__ROUTE_REMOTE, 1);
    assert_int_equal(w.held, 8);
    say(&w, &w.other, FRAME_GRANT_ASK, w.leg, &ask);
    assert_int_equal(w.from_token, 8);
    say_chunk(&w, false, 0, 7, 8, true);
    assert_int_equal(worker_counters(w.worker)->legs_failed, 1);
    assert_int_equal(w.n_takes, 0);
    say(&w, &w.other, FRAME_GRANT_ASK, w.leg, &ask);
    assert_int_equal(w.from_token, 8);
    say_chunk(&w, true, 0, 8, 7, true);
    end_takes(&w);
    assert_int_equal(w.timed_cached, 8);
    assert_int_equal(w.n_ended, 2);
    assert_int_equal(begins_at(&w, 15), 12); /* what came from there is kept as well */
    stop(&w);
}

int main(void)
{
    log_init("test", LOG_OFF);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_blocks_but_the_last_token),
        cmocka_unit_test(test_answers_are_kept),
        cmocka_unit_test(test_salts_are_apart),
        cmocka_unit_test(test_salt_travels_on),
        cmocka_unit_test(test_adapters_are_apart),
        cmocka_unit_test(test_no_cache),
        cmocka_unit_test(test_kept_is_free),
        cmocka_unit_test(test_a_hit_counts),
        cmocka_unit_test(test_all_or_none),
        cmocka_unit_test(test_preempted_finds_its_own),
        cmocka_unit_test(test_prefill_lends_what_it_found),
        cmocka_unit_test(test_found_goes_through_the_window),
        cmocka_unit_test(test_lent_blocks_stay),
        cmocka_unit_test(test_computed_twice),
        cmocka_unit_test(test_decode_holds_the_beginning),
    };
    return cmocka_run_group_tests_name("prefix cache of a worker", tests, NULL, NULL);
}
