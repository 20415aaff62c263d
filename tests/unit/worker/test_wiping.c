/* What a wipe finds, waits for and leaves: of a pool, and of a worker. */
#include "tests/unit/worker/worker_rig.h"

#include "common/log.h"
#include "worker/wiping.h"

#define POOL_BLOCKS 8u
#define BLOCK_BYTES 64u

static const struct block_hash red = { 1, 1 }, blue = { 2, 1 }, green = { 1, 2 };

struct end {
    int calls;
    status st;
    struct wiped wiped;
};

static void on_done(void *ctx, status st, const struct wiped *wiped)
{
    struct end *end = ctx;
    end->calls++;
    end->st = st;
    end->wiped = *wiped;
}

/* ---- a pool ---------------------------------------------------------------------------------------------------- */

struct rig {
    struct timers timers;
    uint64_t now;
    struct block_pool *pool;
    struct wiping *wiping;
    uint8_t *memory;
    size_t block_bytes;
    struct end end;
    int asked;     /* what lies beside the pool, */
    status beside; /* and what comes of it */
};

static status erase(void *ctx, bool begins)
{
    struct rig *rig = ctx;
    assert_int_equal(begins, rig->asked == 0);
    rig->asked++;
    return rig->beside;
}

static void entered(void *ctx, block_id block, enum block_state state)
{
    struct rig *rig = ctx;
    if (rig->wiping)
        wiping_entered(rig->wiping, block, state);
}

static void open_rig(struct rig *rig, size_t block_bytes)
{
    *rig = (struct rig){ .now = 1000, .block_bytes = block_bytes };
    const struct block_pool_options pool = {
        .n_blocks = POOL_BLOCKS, .block_tokens = BLOCK_TOKENS, .entered = entered, .ctx = rig
    };
    timers_init(&rig->timers);
    timers_set_now(&rig->timers, rig->now);
    rig->memory = calloc(POOL_BLOCKS, block_bytes);
    assert_non_null(rig->memory);
    assert_int_equal(block_pool_create(&pool, &rig->pool), ST_OK);
    const struct wiping_options wiping = { rig->pool, &rig->timers, rig->memory, block_bytes, erase, rig };
    assert_int_equal(wiping_create(&wiping, &rig->wiping), ST_OK);
}

static void close_rig(struct rig *rig)
{
    wiping_destroy(&rig->wiping);
    block_pool_destroy(&rig->pool);
    timers_free(&rig->timers);
    free(rig->memory);
}

static void pass(struct rig *rig, uint64_t us)
{
    rig->now += us;
    timers_run(&rig->timers, rig->now);
}

static void take(struct rig *rig, uint32_t n, struct block_hash of, block_id out[])
{
    assert_int_equal(block_pool_take(rig->pool, n, BLOCK_FILLING, out), ST_OK);
    wiping_taken(rig->wiping, out, n, of);
}

/* Slots [0, valid) hold `byte` now. */
static void fill(struct rig *rig, block_id block, uint32_t valid, uint8_t byte)
{
    memset(rig->memory + block * rig->block_bytes, byte, rig->block_bytes * valid / BLOCK_TOKENS);
    block_pool_filled(rig->pool, block, valid);
}

static void release(struct rig *rig, block_id block)
{
    block_pool_release(rig->pool, block, BLOCK_OF_SEQUENCE);
}

/* Sequences of the salt had the whole pool, and it is free again. */
static void leave(struct rig *rig, struct block_hash whose, uint32_t valid, uint8_t byte, block_id of[POOL_BLOCKS])
{
    take(rig, POOL_BLOCKS, whose, of);
    for (uint32_t i = 0; i < POOL_BLOCKS; i++) {
        fill(rig, of[i], valid, byte);
        release(rig, of[i]);
    }
}

static uint32_t bytes_of(const struct rig *rig, uint8_t byte)
{
    uint32_t n = 0;
    for (size_t i = 0; i < POOL_BLOCKS * rig->block_bytes; i++)
        n += rig->memory[i] == byte;
    return n;
}

static void begin(struct rig *rig, const struct block_hash *of)
{
    rig->end = (struct end){ 0 };
    rig->asked = 0;
    const struct wipe_call call = { of, rig->now + 100000, on_done, &rig->end };
    assert_int_equal(wiping_begin(rig->wiping, &call), ST_OK);
    assert_int_equal(rig->end.calls, 0);
}

static void ended(const struct rig *rig, status st, uint32_t zeroed, uint32_t left)
{
    assert_int_equal(rig->end.calls, 1);
    assert_int_equal(rig->end.st, st);
    assert_int_equal(rig->end.wiped.blocks_zeroed, zeroed);
    assert_int_equal(rig->end.wiped.bytes_zeroed, zeroed * rig->block_bytes);
    assert_int_equal(rig->end.wiped.blocks_left, left);
    assert_int_equal(rig->end.wiped.blocks_bad, 0);
}

static void test_what_lies_in_free_blocks(void **state)
{
    (void)state;
    struct rig rig;
    block_id of[4];
    open_rig(&rig, BLOCK_BYTES);
    take(&rig, 2, red, of);
    take(&rig, 2, blue, of + 2);
    for (uint32_t i = 0; i < 4; i++) {
        fill(&rig, of[i], i % 2 ? 1 : BLOCK_TOKENS, i < 2 ? 'r' : 'b');
        release(&rig, of[i]);
    }
    const uint64_t generation = block_pool_generation(rig.pool, of[0]), other = block_pool_generation(rig.pool, of[2]);
    begin(&rig, &red);
    const struct wipe_call again = { NULL, rig.now, on_done, &rig.end };
    assert_int_equal(wiping_begin(rig.wiping, &again), ST_AGAIN);
    pass(&rig, WIPING_PAUSE_US);
    ended(&rig, ST_OK, 2, 0);
    assert_int_equal(bytes_of(&rig, 'r'), 0);
    assert_int_equal(bytes_of(&rig, 'b'), BLOCK_BYTES + BLOCK_BYTES / BLOCK_TOKENS);
    assert_int_equal(block_pool_generation(rig.pool, of[0]), generation + 1);
    assert_int_equal(block_pool_generation(rig.pool, of[2]), other);
    begin(&rig, &green);
    pass(&rig, WIPING_PAUSE_US);
    ended(&rig, ST_OK, 0, 0);
    begin(&rig, NULL); /* clean blocks are not zeroed again */
    pass(&rig, WIPING_PAUSE_US);
    ended(&rig, ST_OK, 2, 0);
    assert_int_equal(bytes_of(&rig, 0), POOL_BLOCKS * BLOCK_BYTES);
    close_rig(&rig);
}

static void test_what_is_in_use_is_waited_for(void **state)
{
    (void)state;
    struct rig rig;
    block_id of[3];
    open_rig(&rig, BLOCK_BYTES);
    take(&rig, 3, red, of);
    for (uint32_t i = 0; i < 3; i++)
        fill(&rig, of[i], i ? 1 : BLOCK_TOKENS, 'r');
    block_pool_hold(rig.pool, of[2], BLOCK_OF_TRANSFER);
    begin(&rig, &red);
    assert_true(wiping_awaits(rig.wiping, of[0]));
    pass(&rig, 10 * WIPING_PAUSE_US);
    assert_int_equal(rig.end.calls, 0);
    fill(&rig, of[1], BLOCK_TOKENS, 'r'); /* goes on as if nothing were */
    release(&rig, of[0]);
    release(&rig, of[1]);
    release(&rig, of[2]);
    pass(&rig, WIPING_PAUSE_US);
    assert_int_equal(rig.end.calls, 0);
    assert_int_equal(bytes_of(&rig, 'r'), BLOCK_BYTES / BLOCK_TOKENS);
    pass(&rig, 100000);
    ended(&rig, ST_TIMEOUT, 2, 1);
    assert_int_equal(wiping_counters(rig.wiping)->late, 1);
    block_pool_release(rig.pool, of[2], BLOCK_OF_TRANSFER); /* too late for the answer */
    pass(&rig, WIPING_PAUSE_US);
    assert_int_equal(rig.end.calls, 1);
    assert_int_equal(bytes_of(&rig, 0), POOL_BLOCKS * BLOCK_BYTES);
    assert_int_equal(wiping_counters(rig.wiping)->zeroed, 3);
    begin(&rig, &red);
    pass(&rig, WIPING_PAUSE_US);
    ended(&rig, ST_OK, 0, 0);
    close_rig(&rig);
}

/* A block of the salt was taken again: its bytes are there until they are written over, or it is free. */
static void test_what_lies_under_anothers(void **state)
{
    (void)state;
    struct rig rig;
    block_id of[POOL_BLOCKS];
    open_rig(&rig, BLOCK_BYTES);
    leave(&rig, red, BLOCK_TOKENS, 'r', of);
    take(&rig, 3, blue, of);
    fill(&rig, of[0], 1, 'b');
    fill(&rig, of[1], 1, 'b');
    fill(&rig, of[2], BLOCK_TOKENS, 'b');
    begin(&rig, &red);
    assert_false(wiping_awaits(rig.wiping, of[0])); /* it is not of the salt */
    pass(&rig, WIPING_PAUSE_US);
    assert_int_equal(rig.end.calls, 0);
    assert_int_equal(bytes_of(&rig, 'r'), 2 * BLOCK_BYTES * (BLOCK_TOKENS - 1) / BLOCK_TOKENS);
    release(&rig, of[1]);
    pass(&rig, WIPING_PAUSE_US);
    assert_int_equal(rig.end.calls, 0);
    fill(&rig, of[0], BLOCK_TOKENS, 'b');
    pass(&rig, WIPING_PAUSE_US);
    ended(&rig, ST_OK, POOL_BLOCKS - 2, 0);
    assert_int_equal(bytes_of(&rig, 'r'), 0);
    assert_int_equal(bytes_of(&rig, 'b'), 2 * BLOCK_BYTES);
    close_rig(&rig);
}

/* Taken again before its turn to be zeroed, and of several salts. */
static void test_what_is_taken_before_its_turn(void **state)
{
    (void)state;
    struct rig rig;
    block_id of[POOL_BLOCKS];
    open_rig(&rig, BLOCK_BYTES);
    leave(&rig, red, BLOCK_TOKENS, 'r', of);
    leave(&rig, blue, 2, 'b', of);
    begin(&rig, &red);
    take(&rig, 1, green, of);
    fill(&rig, of[0], 1, 'g');
    pass(&rig, WIPING_PAUSE_US);
    assert_int_equal(rig.end.calls, 0);
    assert_int_equal(bytes_of(&rig, 'r'), BLOCK_BYTES / 2);
    assert_int_equal(bytes_of(&rig, 'g'), BLOCK_BYTES / BLOCK_TOKENS);
    release(&rig, of[0]);
    pass(&rig, WIPING_PAUSE_US);
    ended(&rig, ST_OK, POOL_BLOCKS, 0);
    assert_int_equal(bytes_of(&rig, 0), POOL_BLOCKS * BLOCK_BYTES);
    close_rig(&rig);
}

static void test_a_turn_is_bounded(void **state)
{
    (void)state;
    struct rig rig;
    block_id of[POOL_BLOCKS];
    open_rig(&rig, WIPING_TURN_BYTES / 2);
    take(&rig, POOL_BLOCKS, red, of);
    for (uint32_t i = 0; i < POOL_BLOCKS; i++)
        release(&rig, of[i]);
    begin(&rig, NULL);
    for (uint32_t turn = 1; turn <= POOL_BLOCKS / 2; turn++) {
        assert_int_equal(rig.end.calls, 0);
        pass(&rig, WIPING_PAUSE_US);
        assert_int_equal(wiping_counters(rig.wiping)->zeroed, 2 * turn);
    }
    ended(&rig, ST_OK, POOL_BLOCKS, 0);
    close_rig(&rig);
    open_rig(&rig, WIPING_TURN_BYTES + 8); /* a block is never cut */
    take(&rig, 1, red, of);
    release(&rig, of[0]);
    begin(&rig, NULL);
    pass(&rig, WIPING_PAUSE_US);
    ended(&rig, ST_OK, 1, 0);
    close_rig(&rig);
}

static void test_what_lies_beside_the_pool(void **state)
{
    (void)state;
    struct rig rig;
    open_rig(&rig, BLOCK_BYTES);
    rig.beside = ST_AGAIN;
    begin(&rig, &red);
    for (int turn = 1; turn <= 3; turn++) {
        pass(&rig, WIPING_PAUSE_US);
        assert_int_equal(rig.asked, turn);
        assert_int_equal(rig.end.calls, 0);
    }
    rig.beside = ST_OK;
    pass(&rig, WIPING_PAUSE_US);
    ended(&rig, ST_OK, 0, 0);
    rig.beside = ST_AGAIN;
    begin(&rig, &red);
    pass(&rig, 100000);
    ended(&rig, ST_TIMEOUT, 0, 0);
    rig.beside = ST_CORRUPT;
    begin(&rig, &red);
    pass(&rig, WIPING_PAUSE_US);
    ended(&rig, ST_CORRUPT, 0, 0);
    close_rig(&rig);
}

/* ---- a worker ---------------------------------------------------------------------------------------------------- */

static uint8_t memory[BLOCKS * 4096];
static uint8_t salts[2][16] = { { [7] = 9, [15] = 1 }, { [7] = 9, [15] = 2 } }; /* high half first */
static const struct block_hash first_salt = { .high = 9, .low = 1 };
static uint32_t n_removed;

static void count_removed(void *ctx, const struct block_hash *hashes, uint32_t n)
{
    (void)ctx, (void)hashes;
    n_removed += n;
}

static void start_caching(struct world *w)
{
    eviction = &eviction_s3fifo;
    pool_memory = memory;
    memset(memory, 0xab, sizeof memory);
    for (uint32_t i = 0; i < BLOCKS * BLOCK_TOKENS; i++)
        prompt[i] = i % 50;
    n_removed = 0;
    start(w);
    w->io.blocks_removed = count_removed;
}

static void run_out(struct world *w)
{
    for (int i = 0; w->step && i < 200; i++)
        end_step(w);
}

static uint32_t begins_at(struct world *w, uint32_t n, uint8_t *of)
{
    salt = (ProtobufCBinaryData){ 16, of };
    w->seq++;
    say_generate(w, n, BATON__ROUTE__ROUTE_LOCAL, 1);
    assert_non_null(w->step);
    const uint32_t first = w->step->seqs[0].first_pos;
    run_out(w);
    Baton__TokensAck ack = BATON__TOKENS_ACK__INIT;
    ack.position = n + 1;
    say(w, &w->router, FRAME_TOKENS_ACK, 0, &ack);
    return first;
}

static uint32_t wipe(struct world *w, const struct block_hash *of, struct end *end)
{
    uint32_t forgotten = 77;
    *end = (struct end){ 0 };
    const struct wipe_call call = { of, w->now + 100000, on_done, end };
    assert_int_equal(worker_wipe(w->worker, &call, &forgotten), ST_OK);
    assert_int_equal(worker_wipe(w->worker, &call, &forgotten), ST_AGAIN);
    return forgotten;
}

static void pass_world(struct world *w)
{
    w->now += WIPING_PAUSE_US;
    timers_run(&w->timers, w->now);
}

static void test_a_worker_forgets_one_salt(void **state)
{
    (void)state;
    struct world w;
    struct end end;
    start_caching(&w);
    assert_int_equal(begins_at(&w, 9, salts[0]), 0);
    assert_int_equal(begins_at(&w, 13, salts[1]), 0);
    assert_int_equal(begins_at(&w, 9, salts[0]), 8);
    assert_int_equal(wipe(&w, &first_salt, &end), 2);
    assert_int_equal(n_removed, 2);
    pass_world(&w);
    assert_int_equal(end.calls, 1);
    assert_int_equal(end.st, ST_OK);
    /* Two blocks, and two that held the ninth token. */
    assert_in_range(end.wiped.blocks_zeroed, 3, 4);
    assert_int_equal(prefix_cache_counters(worker_prefix_cache(w.worker)).forgotten, 2);
    assert_int_equal(prefix_cache_counters(worker_prefix_cache(w.worker)).evicted, 0);
    assert_int_equal(begins_at(&w, 9, salts[0]), 0);
    assert_int_equal(begins_at(&w, 13, salts[1]), 12);
    assert_int_equal(wipe(&w, NULL, &end), 5);
    pass_world(&w);
    assert_int_equal(end.st, ST_OK);
    assert_int_equal(begins_at(&w, 13, salts[1]), 0);
    stop(&w);
}

/* What a running sequence has is not found any more, nor what it computes behind it, and is zeroed when it ends. */
static void test_a_worker_waits_for_who_runs(void **state)
{
    (void)state;
    struct world w;
    struct end end;
    start_caching(&w);
    memset(prompt, 0, sizeof prompt); /* the engine answers with zeros, too */
    salt = (ProtobufCBinaryData){ 16, salts[0] };
    say_generate(&w, 9, BATON__ROUTE__ROUTE_LOCAL, 12);
    end_step(&w);
    assert_int_equal(wipe(&w, &first_salt, &end), 2);
    assert_int_equal(n_removed, 2);
    for (int i = 0; i < 5; i++) { /* another block is full */
        end_step(&w);
        pass_world(&w);
    }
    assert_int_equal(end.calls, 0);
    assert_int_equal(prefix_cache_counters(worker_prefix_cache(w.worker)).registered, 2);
    run_out(&w);
    pass_world(&w);
    assert_int_equal(end.calls, 1);
    assert_int_equal(end.st, ST_OK);
    assert_int_equal(w.n_tokens, 12);
    assert_int_equal(begins_at(&w, 13, salts[0]), 0);
    assert_int_equal(begins_at(&w, 13, salts[0]), 12); /* what came after it is kept again */
    stop(&w);
}

/* Its first block was not full when the wipe began. */
static void test_a_worker_keeps_nothing_of_before(void **state)
{
    (void)state;
    struct world w;
    struct end end;
    start_caching(&w);
    salt = (ProtobufCBinaryData){ 16, salts[0] };
    say_generate(&w, 9, BATON__ROUTE__ROUTE_LOCAL, 1);
    assert_int_equal(wipe(&w, &first_salt, &end), 0);
    run_out(&w);
    assert_int_equal(prefix_cache_counters(worker_prefix_cache(w.worker)).registered, 0);
    pass_world(&w);
    assert_int_equal(end.st, ST_OK);
    assert_int_equal(end.wiped.blocks_zeroed, 3);
    stop(&w);
}

static void test_a_worker_without_memory_refuses(void **state)
{
    (void)state;
    struct world w;
    struct end end;
    uint32_t forgotten;
    const struct wipe_call call = { NULL, 1, on_done, &end };
    pool_memory = NULL;
    start(&w);
    assert_int_equal(worker_wipe(w.worker, &call, &forgotten), ST_UNSUPPORTED);
    stop(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_lies_in_free_blocks),         cmocka_unit_test(test_what_is_in_use_is_waited_for),
        cmocka_unit_test(test_what_lies_under_anothers),         cmocka_unit_test(test_what_is_taken_before_its_turn),
        cmocka_unit_test(test_what_lies_beside_the_pool),        cmocka_unit_test(test_a_turn_is_bounded),
        cmocka_unit_test(test_a_worker_forgets_one_salt),        cmocka_unit_test(test_a_worker_waits_for_who_runs),
        cmocka_unit_test(test_a_worker_keeps_nothing_of_before), cmocka_unit_test(test_a_worker_without_memory_refuses),
    };
    log_init("test", LOG_OFF);
    return cmocka_run_group_tests_name("wiping", tests, NULL, NULL);
}
