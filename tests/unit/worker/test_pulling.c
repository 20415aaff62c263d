/* Which KV a worker fetches, offers and lends, and what becomes of a request when that goes wrong. */
#include "tests/unit/worker/worker_rig.h"

#include "common/log.h"
#include "worker/overlap.h"
#include "worker/pulling.h"
#include "worker/sharing.h"

/* What the worker sent last of each kind. */
static struct {
    struct message_head find, found, offer, pulled;
    uint32_t find_blocks, find_first, offered, offered_first, offered_shared, found_run, pulled_blocks, damaged;
    uint64_t prefill_us, pull_wait_us, timed_prefill_us;
    struct worker_peer *holder;
} sent;
static uint32_t tiers[KV_TIER_COUNT]; /* of the last ChunkDone */
static uint64_t handed[BLOCKS];       /* and its checksums */
static uint32_t n_handed;

static void on_send(struct world *w, struct worker_peer *to, const struct message_head *head, const void *body)
{
    (void)w;
    if (head->type == FRAME_FIND) {
        const Baton__Find *msg = body;
        sent.find = *head;
        sent.holder = to;
        sent.find_blocks = (uint32_t)msg->n_tokens / BLOCK_TOKENS - msg->first;
        sent.find_first = msg->first;
    } else if (head->type == FRAME_OFFER) {
        const Baton__Offer *msg = body;
        sent.offer = *head;
        sent.offered = (uint32_t)msg->n_blocks;
        sent.offered_first = msg->first;
        sent.offered_shared = 0;
        for (size_t i = 0; i < msg->n_shared; i++)
            sent.offered_shared += msg->shared[i] ? 1 : 0;
    } else if (head->type == FRAME_FOUND) {
        sent.found_run = ((const Baton__Found *)body)->run;
    } else if (head->type == FRAME_PULLED) {
        sent.pulled_blocks = ((const Baton__Pulled *)body)->blocks;
        sent.damaged = (uint32_t)((const Baton__Pulled *)body)->n_damaged;
    } else if (head->type == FRAME_CHUNK_DONE) {
        const Baton__ChunkDone *msg = body;
        for (size_t i = 0; i < msg->n_cached_tokens; i++)
            tiers[i] = msg->cached_tokens[i];
        n_handed = (uint32_t)msg->n_checksums;
        memcpy(handed, msg->checksums, msg->n_checksums * sizeof handed[0]);
        sent.prefill_us = msg->prefill_us;
        sent.pull_wait_us = msg->pull_wait_us;
    } else if (head->type == FRAME_TOKENS) {
        const Baton__SequenceTokens *s = ((const Baton__Tokens *)body)->sequences[0];
        sent.timed_prefill_us = s->timing ? s->timing->prefill_us : 0;
    }
}

static void start_sharing(struct world *w, bool with_manager)
{
    eviction = &eviction_s3fifo;
    adapter = "";
    salt = (ProtobufCBinaryData){ 0, NULL };
    no_cache = false;
    fetch = FETCH_AUTO;
    for (uint32_t i = 0; i < BLOCKS * BLOCK_TOKENS; i++)
        prompt[i] = i % 50;
    memset(&sent, 0, sizeof sent);
    memset(tiers, 0, sizeof tiers);
    start(w);
    w->on_send = on_send;
    w->other.same_host = true;
    w->other.incarnation = 77;
    snprintf(w->other.id, sizeof w->other.id, "holder");
    if (with_manager)
        worker_set_manager(w->worker, &w->other);
}

static void pass(struct world *w, uint64_t us)
{
    w->now += us;
    timers_run(&w->timers, w->now);
    end_sums(w);
}

/* The holder answers the last Find: it has so many blocks, all of them zeros; the one that is `wrong` has another
 * checksum. */
static void say_found(struct world *w, uint32_t n, uint32_t wrong)
{
    static uint8_t payload[1024];
    uint32_t blocks[BLOCKS], where[BLOCKS];
    uint64_t generations[BLOCKS], sums[BLOCKS], zeros[LAYERS] = { 0 };
    Baton__Found msg = BATON__FOUND__INIT;
    for (uint32_t i = 0; i < n; i++) {
        blocks[i] = i;
        where[i] = i == 0 ? KV_TIER_DISK : KV_TIER_HOST;
        generations[i] = 1;
        sums[i] = transfer_block_checksum(zeros, LAYERS) + (i == wrong);
    }
    msg.first = sent.find_first;
    msg.blocks = blocks;
    msg.tiers = where;
    msg.generations = generations;
    msg.checksums = sums;
    msg.n_blocks = msg.n_tiers = msg.n_generations = msg.n_checksums = msg.run = n;
    struct frame frame = { .type = FRAME_FOUND,
                           .key = sent.find.key,
                           .attempt = sent.find.attempt,
                           .leg = sent.find.leg,
                           .payload = payload };
    frame.payload_len = (uint32_t)protobuf_c_message_pack(&msg.base, payload);
    worker_on_message(w->worker, sent.holder, &frame, FRAME_NO_DEADLINE);
    end_sums(w);
}

static const struct pull_counters *pulls(const struct world *w)
{
    return worker_pull_counters(w->worker);
}

static uint32_t free_blocks(struct world *w)
{
    return block_pool_free(worker_pool(w->worker));
}

/* The router has an answer of one token: its request is over. */
static void acknowledge(struct world *w, uint32_t n)
{
    Baton__TokensAck ack = BATON__TOKENS_ACK__INIT;
    ack.position = n + 1;
    say(w, &w->router, FRAME_TOKENS_ACK, 0, &ack);
}

/* Of the one router. */
static void expect_queued(struct world *w, uint32_t tokens)
{
    Baton__Load load;
    worker_load(w->worker, &load);
    assert_int_equal(load.queued_tokens, tokens);
    assert_int_equal(load.n_marks, 1);
    assert_int_equal(load.marks[0]->queued_tokens, tokens);
}

/* Asked for while the Grant is on its way; what comes is not computed, and told by where it lay. Nor does it wait: only
 * what is computed does. */
static void test_prefill_fetches(void **state)
{
    (void)state;
    struct world w;
    start_sharing(&w, true);
    say_prefill(&w, 15); /* with its Grant */
    assert_int_equal(w.sent[FRAME_FIND], 1);
    assert_int_equal(sent.find_blocks, 3);
    assert_null(w.step);  /* it waits for the answer */
    expect_queued(&w, 3); /* all that was asked for may come */
    say_found(&w, 2, BLOCKS);
    assert_int_equal(w.n_takes, 1);
    assert_null(w.step);
    expect_queued(&w, 7);
    end_take(&w);
    expect_queued(&w, 7);
    assert_int_equal(sent.pulled_blocks, 2);
    assert_int_equal(w.step->seqs[0].first_pos, 8);
    assert_int_equal(w.step->seqs[0].n_rows, 7);
    end_step(&w);
    while (w.n_takes)
        end_take(&w);
    assert_int_equal(w.computed, 7);
    assert_int_equal(tiers[KV_TIER_DEVICE], 0);
    assert_int_equal(tiers[KV_TIER_DISK], 4);
    assert_int_equal(tiers[KV_TIER_HOST], 4);
    assert_int_equal(pulls(&w)->pulls[HOLDER_manager][PULL_partial], 1);
    assert_int_equal(pulls(&w)->blocks[HOLDER_manager], 2);
    stop(&w);
}

/* What came with checksums is handed over with them at once: the transfer thread does not read it again. What was
 * computed has none yet. */
static void test_checksums_go_on(void **state)
{
    (void)state;
    struct world w;
    const uint64_t zeros[LAYERS] = { 0 };
    start_sharing(&w, true);
    say_prefill(&w, 15);
    say_found(&w, 2, BLOCKS);
    assert_int_equal(w.n_takes, 1);
    n_handed = 0;
    end_take(&w);
    assert_int_equal(w.n_takes, 0);
    assert_int_equal(w.sent[FRAME_CHUNK_DONE], 1);
    assert_int_equal(n_handed, 2);
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(handed[i], transfer_block_checksum(zeros, LAYERS));
    end_step(&w);
    assert_true(w.n_takes > 0);
    while (w.n_takes)
        end_take(&w);
    assert_int_equal(w.sent[FRAME_CHUNK_DONE], 2);
    stop(&w);
}

/* What decode needs only from there on counts as little as what it has. */
static void test_what_decode_has_is_not_told(void **state)
{
    (void)state;
    struct world w;
    start_sharing(&w, true);
    say_prefill_from(&w, 15, 6);
    say_found(&w, 3, BLOCKS);
    end_take(&w);
    while (w.n_takes)
        end_take(&w);
    end_step(&w);
    while (w.n_takes)
        end_take(&w);
    assert_int_equal(w.computed, 3);
    assert_int_equal(tiers[KV_TIER_DISK], 0);
    assert_int_equal(tiers[KV_TIER_HOST], 6);
    assert_int_equal(w.done[0].first, 6);
    stop(&w);
}

static void test_decode_fetches(void **state)
{
    (void)state;
    struct world w;
    start_sharing(&w, true);
    say_generate(&w, 15, BATON__ROUTE__ROUTE_LOCAL, 2);
    assert_null(w.step);
    say_found(&w, 3, BLOCKS);
    end_take(&w);
    assert_int_equal(w.step->seqs[0].first_pos, 12);
    end_step(&w);
    assert_int_equal(w.timed_cached, 0);
    assert_int_equal(w.timed_computed, 3);
    assert_int_equal(pulls(&w)->pulls[HOLDER_manager][PULL_whole], 1);
    assert_int_equal(pulls(&w)->tokens[KV_TIER_HOST], 8);
    end_step(&w);
    w.seq++;
    say_generate(&w, 15, BATON__ROUTE__ROUTE_LOCAL, 1); /* found here now */
    assert_int_equal(w.sent[FRAME_FIND], 1);
    assert_int_equal(w.step->seqs[0].first_pos, 12);
    end_step(&w);
    assert_int_equal(w.timed_cached, 12);
    stop(&w);
}

/* The worker that a request names is asked for what it is said to have, and no more. */
static void test_who_is_named_is_asked(void **state)
{
    (void)state;
    struct world w;
    start_sharing(&w, false);
    w.other_holds = true;
    Baton__Prefill msg = BATON__PREFILL__INIT;
    Baton__Sampling s;
    Baton__Instance instance = BATON__INSTANCE__INIT;
    Baton__Holding holding = BATON__HOLDING__INIT, *have[] = { &holding };
    fill_sampling(&s, 15, 1);
    instance.id = "holder";
    holding.instance = &instance;
    holding.tokens = 11;
    holding.tier = KV_TIER_DEVICE;
    msg.model = "m";
    msg.kv_format = "f";
    msg.tokens = prompt;
    msg.n_tokens = 15;
    msg.sampling = &s;
    msg.have = have;
    msg.n_have = 1;
    say(&w, &w.other, FRAME_PREFILL, 1, &msg);
    assert_int_equal(sent.find_blocks, 2);
    say_found(&w, 2, BLOCKS);
    end_take(&w);
    assert_int_equal(pulls(&w)->blocks[HOLDER_worker], 2);
    assert_int_equal(pulls(&w)->tokens[KV_TIER_REMOTE], 8);
    stop(&w);
}

/* A holder that says nothing costs its time once, and is left alone for a while. */
static void test_silent_holder(void **state)
{
    (void)state;
    struct world w;
    start_sharing(&w, true);
    say_generate(&w, 15, BATON__ROUTE__ROUTE_LOCAL, 1);
    pass(&w, 999);
    assert_null(w.step);
    pass(&w, 1);
    assert_int_equal(w.step->seqs[0].first_pos, 0);
    assert_int_equal(pulls(&w)->pulls[HOLDER_manager][PULL_timeout], 1);
    end_step(&w);
    prompt[0] = 49;
    w.seq++;
    say_generate(&w, 15, BATON__ROUTE__ROUTE_LOCAL, 1);
    assert_int_equal(w.sent[FRAME_FIND], 1);
    assert_non_null(w.step);
    end_step(&w);
    pass(&w, 4000);
    prompt[0] = 48;
    w.seq++;
    say_generate(&w, 15, BATON__ROUTE__ROUTE_LOCAL, 1);
    assert_int_equal(w.sent[FRAME_FIND], 2);
    say_found(&w, 0, BLOCKS);
    end_step(&w);
    assert_int_equal(pulls(&w)->pulls[HOLDER_manager][PULL_empty], 1);
    stop(&w);
}

static void test_lost_holder(void **state)
{
    (void)state;
    struct world w;
    start_sharing(&w, true);
    say_generate(&w, 15, BATON__ROUTE__ROUTE_LOCAL, 1);
    say_found(&w, 3, BLOCKS);
    worker_on_peer_lost(w.worker, &w.other);
    assert_null(w.step); /* a take still writes */
    end_take(&w);
    assert_int_equal(w.step->seqs[0].first_pos, 0);
    assert_int_equal(pulls(&w)->pulls[HOLDER_manager][PULL_lost], 1);
    end_step(&w);
    stop(&w);
}

/* What lies before a damaged block is good; it and what is behind it are computed. */
static void test_damaged_block(void **state)
{
    (void)state;
    struct world w;
    start_sharing(&w, true);
    say_generate(&w, 15, BATON__ROUTE__ROUTE_LOCAL, 1);
    say_found(&w, 3, 1);
    end_take(&w);
    assert_int_equal(w.step->seqs[0].first_pos, 4);
    assert_int_equal(sent.pulled_blocks, 1);
    assert_int_equal(sent.damaged, 1);
    assert_int_equal(pulls(&w)->damaged, 1);
    assert_int_equal(pulls(&w)->pulls[HOLDER_manager][PULL_damaged], 1);
    end_step(&w);
    assert_int_equal(w.timed_computed, 11);
    stop(&w);
}

/* Blocks are not given back before the last take has ended; then at once. */
static void test_cancelled(void **state)
{
    (void)state;
    Baton__Cancel cancel = BATON__CANCEL__INIT;
    for (uint32_t is_prefill = 0; is_prefill < 2; is_prefill++)
        for (int is_answered = 0; is_answered < 2; is_answered++) {
            struct world w;
            start_sharing(&w, true);
            if (is_prefill)
                say_prefill(&w, 15);
            else
                say_generate(&w, 15, BATON__ROUTE__ROUTE_LOCAL, 1);
            if (is_answered)
                say_found(&w, 3, BLOCKS);
            say(&w, is_prefill ? &w.other : &w.router, FRAME_CANCEL, is_prefill, &cancel);
            assert_int_equal(w.sent[FRAME_PULLED], 1);
            assert_int_equal(free_blocks(&w) == BLOCKS, !is_answered);
            if (is_answered)
                end_take(&w);
            assert_int_equal(free_blocks(&w), BLOCKS);
            assert_true(worker_is_idle(w.worker));
            assert_int_equal(pulls(&w)->pulls[HOLDER_manager][PULL_cancelled], 1);
            assert_null(w.step);
            stop(&w);
        }
}

/* Has computed prompts of several lengths, a row in 100 us, before it met its manager. */
static void start_measured(struct world *w, enum worker_fetch how)
{
    start_sharing(w, false);
    stop(w);
    fetch = how;
    start(w);
    w->on_send = on_send;
    no_cache = true;
    for (uint32_t i = 0; i < 4; i++, w->seq++) {
        say_generate(w, 4 + 3 * i, BATON__ROUTE__ROUTE_LOCAL, 1);
        w->now += 100 * (4 + 3 * i);
        end_step(w);
        acknowledge(w, 4 + 3 * i);
    }
    no_cache = false;
    w->other.same_host = true;
    w->other.incarnation = 77;
    snprintf(w->other.id, sizeof w->other.id, "holder");
    worker_set_manager(w->worker, &w->other);
}

/* By the cost model: a block that is computed in less than the question takes is not asked for. */
static void test_short_beginnings_are_computed(void **state)
{
    (void)state;
    struct world w;
    start_measured(&w, FETCH_AUTO);
    say_generate(&w, 5, BATON__ROUTE__ROUTE_LOCAL, 1);
    assert_int_equal(w.sent[FRAME_FIND], 0);
    w.now += 500;
    end_step(&w);
    prompt[0] = 49;
    w.seq++;
    say_generate(&w, 16, BATON__ROUTE__ROUTE_LOCAL, 1);
    assert_int_equal(w.sent[FRAME_FIND], 1);
    say_found(&w, 0, BLOCKS);
    end_step(&w);
    stop(&w);
}

/* Whatever would be faster. */
static void test_fetching_as_configured(void **state)
{
    (void)state;
    struct world w;
    start_measured(&w, FETCH_ALWAYS);
    say_generate(&w, 5, BATON__ROUTE__ROUTE_LOCAL, 1);
    assert_int_equal(w.sent[FRAME_FIND], 1);
    say_found(&w, 0, BLOCKS);
    end_step(&w);
    stop(&w);
    start_measured(&w, FETCH_NEVER);
    say_generate(&w, 16, BATON__ROUTE__ROUTE_LOCAL, 1);
    assert_int_equal(w.sent[FRAME_FIND], 0);
    end_step(&w);
    stop(&w);
    fetch = FETCH_AUTO;
}

/* ---- computed behind the pull ------------------------------------------------------------------------------------ */

/* A prompt whose beginning of three blocks somebody has, the first of them on disk. Layers come one by one: after so
 * long so many that the step begins, or all but the last one. */
static void start_long_overlap(struct world *w, bool is_prefill, uint32_t n_tokens, uint32_t wrong, uint64_t us)
{
    pull_take_bytes = 1;
    start_measured(w, FETCH_AUTO);
    pull_take_bytes = 0;
    w->n_tokens = 0;
    if (is_prefill)
        say_prefill(w, n_tokens);
    else
        say_generate(w, n_tokens, BATON__ROUTE__ROUTE_LOCAL, 1);
    say_found(w, 3, wrong);
    w->now += us;
    while (!w->step && w->n_takes > 1)
        end_take(w);
}

static void start_overlap(struct world *w, bool is_prefill, uint32_t wrong, uint64_t us)
{
    start_long_overlap(w, is_prefill, 15, wrong, us);
}

static void end_void_step(struct world *w)
{
    struct step *step = w->step;
    w->step = NULL;
    step->seqs[0].gate_failed = true;
    worker_step_done(w->worker);
    end_sums(w);
}

static uint64_t registered(const struct world *w)
{
    return prefix_cache_counters(worker_prefix_cache(w->worker)).registered;
}

static void assert_overlaps(const struct world *w, uint64_t begun, uint64_t were_void)
{
    assert_int_equal(worker_counters(w->worker)->overlapped, begun);
    assert_int_equal(worker_counters(w->worker)->overlaps_void, were_void);
}

/* The step begins with the first layer, ends after the last, and only then there is a result. */
static void test_computed_behind_the_pull(void **state)
{
    (void)state;
    for (int is_prefill = 0; is_prefill < 2; is_prefill++) {
        struct world w;
        start_overlap(&w, is_prefill, BLOCKS, 100);
        assert_non_null(w.step);
        struct layer_gate *gate = w.step->seqs[0].gate;
        assert_int_equal(w.step->seqs[0].first_pos, 12);
        assert_int_equal(w.step->seqs[0].n_rows, 3);
        assert_true(layer_gate_is_open(gate, 0) && !layer_gate_is_open(gate, 1));
        double step_us = step_cost_predict(worker_step_cost(w.worker), 3, step_attended(12, 3));
        assert_true(gate->deadline_us > w.now && gate->deadline_us <= w.now + overlap_patience_us(step_us));
        worker_layers_done(w.worker, 1);
        assert_int_equal(w.sent[FRAME_LAYERS_READY], 0);
        end_take(&w);
        assert_true(layer_gate_is_open(gate, 1));
        assert_int_equal(sent.pulled_blocks, 3);
        while (w.n_takes)
            end_take(&w);
        if (is_prefill) /* handed over at once */
            assert_true(w.n_done == 1 && w.done[0].n == 12);
        assert_int_equal(w.n_tokens + registered(&w), 0);
        end_step(&w);
        assert_int_equal(registered(&w), 3);
        while (w.n_takes)
            end_take(&w);
        assert_int_equal(is_prefill ? w.computed : w.timed_computed, 3);
        if (is_prefill)
            assert_true(w.n_done == 2 && w.done[1].first == 12 && w.done[1].n == 3);
        else
            assert_int_equal(w.n_tokens, 1);
        assert_int_equal(pulls(&w)->tokens[KV_TIER_HOST], 8);
        assert_overlaps(&w, 1, 0);
        stop(&w);
    }
}

/* Of a rest of several steps the first is behind the gate, and comes to an end with the last layer as well. */
static void test_several_steps_behind_the_pull(void **state)
{
    (void)state;
    for (int is_prefill = 0; is_prefill < 2; is_prefill++)
        for (int is_wrong = 0; is_wrong < 2; is_wrong++) {
            struct world w;
            start_long_overlap(&w, is_prefill, 33, is_wrong ? 2 : BLOCKS, 100);
            assert_non_null(w.step->seqs[0].gate);
            assert_int_equal(w.step->seqs[0].first_pos, 12);
            assert_int_equal(w.step->seqs[0].n_rows, 16);
            assert_int_equal(w.step->seqs[0].logits, STEP_NO_LOGITS);
            end_take(&w);
            if (is_wrong)
                end_void_step(&w);
            else
                end_step(&w);
            for (uint32_t at = is_wrong ? 8 : 28; at < 33; at += 16) {
                assert_null(w.step->seqs[0].gate);
                assert_int_equal(w.step->seqs[0].first_pos, at);
                end_step(&w);
            }
            while (w.n_takes)
                end_take(&w);
            assert_int_equal(is_prefill ? w.computed : w.timed_computed, is_wrong ? 25 : 21);
            assert_overlaps(&w, 1, is_wrong ? 1 : 0);
            stop(&w);
        }
}

/* As soon as the first layer is here, however slow the others are; or never. */
static void test_overlapping_as_configured(void **state)
{
    (void)state;
    for (enum worker_overlap how = OVERLAP_ALWAYS; how <= OVERLAP_OFF; how++) {
        struct world w;
        overlap = how;
        start_overlap(&w, false, BLOCKS, how == OVERLAP_ALWAYS ? 900 : 1);
        overlap = OVERLAP_AUTO;
        assert_int_equal(w.step != NULL, how == OVERLAP_ALWAYS);
        while (w.n_takes)
            end_take(&w);
        assert_int_equal(w.step->seqs[0].gate != NULL, how == OVERLAP_ALWAYS);
        end_step(&w);
        assert_int_equal(w.n_tokens, 1);
        assert_overlaps(&w, how == OVERLAP_ALWAYS, 0);
        stop(&w);
    }
}

/* Waiting at gates is none of the time that computing took, which routers learn from; nor is a step in vain. */
static void test_waits_are_not_computing(void **state)
{
    (void)state;
    for (int is_prefill = 0; is_prefill < 2; is_prefill++)
        for (int is_void = 0; is_void < 2; is_void++) {
            struct world w;
            start_overlap(&w, is_prefill, is_void ? 2 : BLOCKS, 100);
            w.now += 700;
            w.step->gates_us = 500;
            end_take(&w);
            if (is_void) {
                end_void_step(&w);
                w.now += 300;
            }
            end_step(&w);
            while (w.n_takes)
                end_take(&w);
            assert_int_equal(is_prefill ? sent.prefill_us : sent.timed_prefill_us, is_void ? 300 : 200);
            if (is_prefill) /* all since the Grant */
                assert_int_equal(sent.pull_wait_us, is_void ? 800 : 600);
            stop(&w);
        }
}

static void test_a_slow_pull_is_waited_for(void **state)
{
    (void)state;
    struct world w;
    start_overlap(&w, false, BLOCKS, 900);
    assert_null(w.step);
    end_take(&w);
    assert_null(w.step->seqs[0].gate);
    assert_int_equal(w.step->seqs[0].first_pos, 12);
    end_step(&w);
    assert_overlaps(&w, 0, 0);
    stop(&w);
}

/* What was computed behind a damaged block is nothing; what lies before the block is good. */
static void test_damaged_behind_a_step(void **state)
{
    (void)state;
    for (int is_prefill = 0; is_prefill < 2; is_prefill++) {
        struct world w;
        start_overlap(&w, is_prefill, 1, 100);
        struct layer_gate *gate = w.step->seqs[0].gate;
        end_take(&w);
        assert_true(layer_gate_is_closed(gate));
        end_void_step(&w);
        assert_int_equal(w.n_tokens, 0);
        assert_null(w.step->seqs[0].gate);
        assert_int_equal(w.step->seqs[0].first_pos, 4);
        assert_int_equal(w.step->seqs[0].n_rows, 11);
        end_step(&w);
        while (w.n_takes)
            end_take(&w);
        assert_int_equal(is_prefill ? w.computed : w.timed_computed, 11);
        assert_overlaps(&w, 1, 1);
        stop(&w);
    }
}

/* The step gave up, and the pull did not: nothing is computed until it ends. A step that says it is done with a gate
 * that was not open is not believed. */
static void test_a_step_ends_before_the_pull(void **state)
{
    (void)state;
    for (int is_done = 0; is_done < 2; is_done++) {
        struct world w;
        start_overlap(&w, false, BLOCKS, 100);
        if (is_done)
            end_step(&w);
        else
            end_void_step(&w);
        assert_null(w.step);
        assert_int_equal(w.n_tokens, 0);
        end_take(&w);
        assert_null(w.step->seqs[0].gate);
        assert_int_equal(w.step->seqs[0].first_pos, 12);
        end_step(&w);
        assert_int_equal(w.n_tokens, 1);
        assert_overlaps(&w, 1, 1);
        stop(&w);
    }
}

/* A prompt that ends in the middle: its blocks go when both are over, whichever ends first. */
static void test_cancelled_behind_the_pull(void **state)
{
    (void)state;
    Baton__Cancel cancel = BATON__CANCEL__INIT;
    for (uint32_t is_prefill = 0; is_prefill < 2; is_prefill++)
        for (int pull_first = 0; pull_first < 2; pull_first++) {
            struct world w;
            start_overlap(&w, is_prefill, BLOCKS, 100);
            say(&w, is_prefill ? &w.other : &w.router, FRAME_CANCEL, is_prefill, &cancel);
            if (pull_first)
                end_take(&w);
            else
                end_void_step(&w);
            assert_true(free_blocks(&w) < BLOCKS);
            if (pull_first)
                end_void_step(&w);
            else
                end_take(&w);
            assert_int_equal(free_blocks(&w), BLOCKS);
            assert_true(worker_is_idle(w.worker));
            stop(&w);
        }
}

static double learned_after(uint64_t gates_us)
{
    struct world w;
    start_overlap(&w, false, BLOCKS, 100);
    end_take(&w);
    w.now += 300 + gates_us;
    w.step->gates_us = gates_us;
    end_step(&w);
    double us = step_cost_predict(worker_step_cost(w.worker), 3, step_attended(12, 3));
    stop(&w);
    return us;
}

static void test_waits_at_gates_are_not_learned(void **state)
{
    (void)state;
    assert_true(learned_after(0) == learned_after(90000));
}

/* ---- offers and loans -------------------------------------------------------------------------------------------- */

static void answer_offer(struct world *w)
{
    static uint8_t payload[256];
    Baton__OfferOutcome outcomes[BLOCKS] = { BATON__OFFER_OUTCOME__OFFER_TAKEN };
    Baton__OfferTaken msg = BATON__OFFER_TAKEN__INIT;
    msg.outcomes = outcomes;
    msg.n_outcomes = sent.offered;
    struct frame frame = { .type = FRAME_OFFER_TAKEN, .key = sent.offer.key, .payload = payload };
    frame.payload_len = (uint32_t)protobuf_c_message_pack(&msg.base, payload);
    worker_on_message(w->worker, &w->other, &frame, FRAME_NO_DEADLINE);
}

static void compute(struct world *w, uint32_t n)
{
    w->seq++;
    say_generate(w, n, BATON__ROUTE__ROUTE_LOCAL, 1);
    if (!w->step)
        say_found(w, 0, BLOCKS);
    end_step(w);
    acknowledge(w, n);
}

/* Once when computed, as shared when used again, and at each doubling of its uses. */
static void test_offers(void **state)
{
    (void)state;
    struct world w;
    start_sharing(&w, true);
    no_cache = true;
    compute(&w, 15);
    pass(&w, 10000);
    assert_int_equal(w.sent[FRAME_OFFER], 0);
    no_cache = false;
    for (uint32_t use = 1; use <= 8; use++) {
        uint32_t before = w.sent[FRAME_OFFER];
        compute(&w, 15);
        pass(&w, 10000);
        assert_int_equal(w.sent[FRAME_OFFER] - before, (use & (use - 1)) == 0);
        assert_int_equal(sent.offered, 3);
        assert_int_equal(sent.offered_first, 0);
        assert_int_equal(sent.offered_shared, use > 1 ? 3 : 0);
        if (w.sent[FRAME_OFFER] > before)
            answer_offer(&w);
        assert_int_equal(free_blocks(&w), BLOCKS);
    }
    stop(&w);
}

static uint32_t offered_now(struct world *w, uint32_t n)
{
    uint32_t before = w->sent[FRAME_OFFER];
    compute(w, n);
    pass(w, 10000);
    if (w->sent[FRAME_OFFER] == before)
        return 0;
    answer_offer(w);
    return sent.offered;
}

/* The end of a chain goes along with its beginning, whose turn comes sooner; and a new manager hears of all. */
static void test_offers_of_a_chain(void **state)
{
    (void)state;
    static const uint32_t want[][2] = { { 15, 3 }, { 9, 2 },  { 15, 1 }, { 9, 2 },
                                        { 15, 0 }, { 15, 1 }, { 15, 0 }, { 15, 3 } };
    struct world w;
    start_sharing(&w, true);
    no_cache = false;
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        assert_int_equal(offered_now(&w, want[i][0]), want[i][1]);
    assert_int_equal(offered_now(&w, 15), 0);
    worker_set_manager(w.worker, &w.other);
    assert_int_equal(offered_now(&w, 15), 3);
    stop(&w);
}

/* Whoever computed it on this host has offered it. */
static void test_handed_over_is_offered_when_used(void **state)
{
    (void)state;
    struct world w;
    start_sharing(&w, true);
    snprintf(w.other.id, sizeof w.other.id, "p");
    say_generate(&w, 8, BATON__ROUTE__ROUTE_REMOTE, 1);
    Baton__GrantAsk ask = BATON__GRANT_ASK__INIT;
    say(&w, &w.other, FRAME_GRANT_ASK, w.leg, &ask);
    say_chunk(&w, true, 0, 0, 8, true);
    end_take(&w);
    pass(&w, 10000);
    assert_int_equal(w.sent[FRAME_OFFER], 0);
    compute(&w, 9);
    pass(&w, 10000);
    assert_int_equal(w.sent[FRAME_OFFER], 1);
    assert_int_equal(sent.offered, 2);
    assert_int_equal(sent.offered_shared, 2);
    answer_offer(&w);
    stop(&w);
}

/* A block is lent as soon as its checksum is there. */
static void test_lends(void **state)
{
    (void)state;
    struct world w;
    Baton__Find msg = BATON__FIND__INIT;
    Baton__BlockSeed seed = BATON__BLOCK_SEED__INIT;
    start_sharing(&w, false);
    compute(&w, 15);
    seed.weights = 1;
    seed.tokenizer = 2;
    msg.kv_format = "f";
    msg.seed = &seed;
    msg.tokens = prompt;
    msg.n_tokens = 16;
    say(&w, &w.other, FRAME_FIND, 1, &msg);
    assert_int_equal(w.sent[FRAME_FOUND], 1);
    assert_int_equal(sent.found_run, 3);
    assert_int_equal(free_blocks(&w), BLOCKS - 3);
    assert_false(worker_is_idle(w.worker));
    Baton__Pulled pulled = BATON__PULLED__INIT;
    pulled.blocks = 3;
    say(&w, &w.other, FRAME_PULLED, 1, &pulled);
    assert_int_equal(free_blocks(&w), BLOCKS);
    seed.tokenizer = 3;
    w.seq++;
    say(&w, &w.other, FRAME_FIND, 2, &msg);
    assert_int_equal(sent.found_run, 0);
    stop(&w);
}

int main(void)
{
    log_init("test", LOG_OFF);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefill_fetches),
        cmocka_unit_test(test_checksums_go_on),
        cmocka_unit_test(test_what_decode_has_is_not_told),
        cmocka_unit_test(test_decode_fetches),
        cmocka_unit_test(test_who_is_named_is_asked),
        cmocka_unit_test(test_silent_holder),
        cmocka_unit_test(test_lost_holder),
        cmocka_unit_test(test_damaged_block),
        cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_short_beginnings_are_computed),
        cmocka_unit_test(test_fetching_as_configured),
        cmocka_unit_test(test_computed_behind_the_pull),
        cmocka_unit_test(test_several_steps_behind_the_pull),
        cmocka_unit_test(test_overlapping_as_configured),
        cmocka_unit_test(test_waits_are_not_computing),
        cmocka_unit_test(test_a_slow_pull_is_waited_for),
        cmocka_unit_test(test_damaged_behind_a_step),
        cmocka_unit_test(test_a_step_ends_before_the_pull),
        cmocka_unit_test(test_cancelled_behind_the_pull),
        cmocka_unit_test(test_waits_at_gates_are_not_learned),
        cmocka_unit_test(test_offers),
        cmocka_unit_test(test_offers_of_a_chain),
        cmocka_unit_test(test_handed_over_is_offered_when_used),
        cmocka_unit_test(test_lends),
    };
    return cmocka_run_group_tests_name("pulling", tests, NULL, NULL);
}
