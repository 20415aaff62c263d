/* What no well-behaved peer does, and what the transfer refuses: found by reading, kept from coming back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/log.h"
#include "worker/worker.h"

#define LAYERS       2u
#define BLOCKS       16u
#define BLOCK_TOKENS 4u

struct world {
    uint64_t now;
    struct timers timers;
    struct worker *worker;
    struct worker_io io;
    struct worker_peer router, other;
    struct step *step;
    struct transfer_take *takes[8];
    uint32_t n_takes;
    bool refuse_takes;
    uint32_t sent[64];           /* by frame type */
    uint32_t leg;                /* of the last Prefill */
    char adapter[64];            /* of the same */
    uint64_t dispatch;           /* of the last Generate */
    uint64_t seq;                /* of what is said: the request's */
    int32_t priority;            /* of the next Generate or Prefill */
    uint64_t ended[8], asked[8]; /* requests whose last token was sent, and whose Grant was asked for, in order */
    uint32_t n_ended, n_asked, n_tokens;
    Baton__Finish finish; /* of the last that ended */
};

static uint64_t io_now(void *ctx)
{
    return ((struct world *)ctx)->now;
}

static void note_tokens(struct world *w, const Baton__Tokens *msg)
{
    for (size_t i = 0; i < msg->n_sequences; i++) {
        const Baton__SequenceTokens *s = msg->sequences[i];
        w->n_tokens += (uint32_t)s->n_tokens;
        if (s->finish != BATON__FINISH__FINISH_NONE && w->n_ended < 8) {
            w->ended[w->n_ended++] = s->seq;
            w->finish = s->finish;
        }
    }
}

static status io_send(void *ctx, struct worker_peer *to, const struct message_head *head, const ProtobufCMessage *body,
                      bool acked)
{
    struct world *w = ctx;
    (void)to, (void)acked;
    w->sent[head->type]++;
    if (head->type == FRAME_PREFILL) {
        w->leg = head->leg;
        snprintf(w->adapter, sizeof w->adapter, "%s", ((const Baton__Prefill *)(const void *)body)->sampling->adapter);
    }
    if (head->type == FRAME_GRANT_ASK && w->n_asked < 8)
        w->asked[w->n_asked++] = head->key.seq;
    if (head->type == FRAME_TOKENS)
        note_tokens(w, (const Baton__Tokens *)(const void *)body);
    return ST_OK;
}

static void io_forget(void *ctx, struct worker_peer *to, struct request_key key, uint32_t attempt)
{
    (void)ctx, (void)to, (void)key, (void)attempt;
}

static struct worker_peer *io_find_prefill(void *ctx, const char *id)
{
    struct world *w = ctx;
    return strcmp(id, "p") ? NULL : &w->other;
}

static void io_run(void *ctx, struct step *step, struct drafts *drafts)
{
    (void)drafts;
    ((struct world *)ctx)->step = step;
}

static status io_take(void *ctx, struct transfer_take *take)
{
    struct world *w = ctx;
    if (w->refuse_takes)
        return ST_LIMIT;
    assert_true(w->n_takes < 8);
    w->takes[w->n_takes++] = take;
    return ST_OK;
}

static void io_cancel_take(void *ctx, struct transfer_take *take)
{
    (void)ctx;
    atomic_store(&take->cancelled, true);
}

static void io_entered(void *ctx, const char *what, const char *state)
{
    (void)ctx, (void)what, (void)state;
}

static const struct adapters two_adapters = { .n = 2, .ids = { "red@00000000000000aa", "blue@00000000000000bb" } };

static void start_guessing(struct world *w, uint32_t guesses)
{
    memset(w, 0, sizeof *w);
    w->seq = 1;
    w->now = 1000;
    timers_init(&w->timers);
    w->io =
        (struct worker_io){ w,          io_now, io_send, io_forget, io_find_prefill, io_run, io_take, io_cancel_take,
                            io_entered, NULL,   NULL };
    struct worker_options o = { .io = &w->io,
                                .timers = &w->timers,
                                .id = "me",
                                .model = "m",
                                .kv_format = "f",
                                .adapters = &two_adapters,
                                .layout = { LAYERS, 1, 8, BLOCK_TOKENS, DTYPE_BF16 },
                                .n_blocks = BLOCKS,
                                .n_vocab = 50,
                                .max_model_len = 1000, /* more than the pool holds */
                                .max_requests = 4,
                                .limits = { .budget_rows = 16, .max_seqs = 4, .chunk_tokens = 16, .patience = 1000000 },
                                .speculation = guesses ? SPECULATION_LOOKUP : SPECULATION_OFF,
                                .draft_tokens = guesses,
                                .grant_window = 2,
                                .chunks_in_flight = 4,
                                .max_legs = 2,
                                .aside_us = 1000,
                                .keep_finished_us = 1000000,
                                .take_timeout_us = 1000 };
    assert_int_equal(worker_create(&o, &w->worker), ST_OK);
    w->other.transfer = (struct transfer_peer *)(void *)w; /* never followed */
    w->other.transport = "shm";
}

static void start(struct world *w)
{
    start_guessing(w, 0);
}

static void stop(struct world *w)
{
    worker_on_peer_lost(w->worker, &w->router);
    worker_on_peer_lost(w->worker, &w->other);
    for (uint32_t i = 0; i < w->n_takes; i++) {
        w->takes[i]->st = ST_CANCELLED;
        w->takes[i]->done(w->takes[i]);
    }
    if (w->step)
        worker_step_done(w->worker);
    assert_true(worker_is_idle(w->worker));
    assert_int_equal(block_pool_free(worker_pool(w->worker)), BLOCKS);
    worker_destroy(&w->worker);
    timers_free(&w->timers);
}

static void say(struct world *w, struct worker_peer *from, enum frame_type type, uint32_t leg, const void *body)
{
    static uint8_t payload[1024];
    struct frame frame = { .type = type, .key = { 1, w->seq }, .attempt = 1, .leg = leg, .payload = payload };
    frame.payload_len = (uint32_t)protobuf_c_message_pack(body, payload);
    worker_on_message(w->worker, from, &frame, FRAME_NO_DEADLINE);
}

static uint32_t prompt[BLOCKS * BLOCK_TOKENS];
static char *adapter = ""; /* that requests name */

static void fill_sampling(Baton__Sampling *s, uint32_t n, uint32_t max_tokens)
{
    baton__sampling__init(s);
    s->prompt_len = n;
    s->max_tokens = max_tokens;
    s->top_p = s->repetition_penalty = 1;
    s->n_logprobs = -1;
    s->adapter = adapter;
}

static void say_prefill(struct world *w, uint32_t n)
{
    Baton__Prefill msg = BATON__PREFILL__INIT;
    Baton__Sampling s;
    Baton__Grant grant = BATON__GRANT__INIT;
    fill_sampling(&s, n, 1);
    msg.model = "m";
    msg.kv_format = "f";
    msg.priority = w->priority;
    msg.tokens = prompt;
    msg.n_tokens = n;
    msg.sampling = &s;
    say(w, &w->other, FRAME_PREFILL, 1, &msg);
    say(w, &w->other, FRAME_GRANT, 1, &grant);
}

static void say_generate(struct world *w, uint32_t n, Baton__Route route, uint32_t max_tokens)
{
    Baton__Generate msg = BATON__GENERATE__INIT;
    Baton__Sampling s;
    Baton__Instance p = BATON__INSTANCE__INIT, *prefills[] = { &p };
    fill_sampling(&s, n, max_tokens);
    p.id = "p";
    msg.model = "m";
    msg.tokens = prompt;
    msg.n_tokens = n;
    msg.sampling = &s;
    msg.route = route;
    msg.prefills = prefills;
    msg.n_prefills = 1;
    msg.dispatch = ++w->dispatch;
    msg.priority = w->priority;
    say(w, &w->router, FRAME_GENERATE, 0, &msg);
}

/* A generation of 8 tokens that has its Grant. */
static void begin_receiving(struct world *w)
{
    Baton__GrantAsk ask = BATON__GRANT_ASK__INIT;
    start(w);
    say_generate(w, 8, BATON__ROUTE__ROUTE_REMOTE, 4);
    assert_int_equal(w->sent[FRAME_PREFILL], 1);
    say(w, &w->other, FRAME_GRANT_ASK, w->leg, &ask);
    assert_int_equal(w->sent[FRAME_GRANT], 1);
}

static void say_chunk(struct world *w, bool done, uint32_t index, uint32_t first, uint32_t n, bool last)
{
    static uint32_t blocks[4];
    static uint64_t generations[4], sums[4];
    uint64_t zeros[LAYERS] = { 0 };
    Baton__Chunk chunk = BATON__CHUNK__INIT;
    Baton__LayersReady ready = BATON__LAYERS_READY__INIT;
    Baton__ChunkDone finished = BATON__CHUNK_DONE__INIT;
    Baton__Token token = BATON__TOKEN__INIT;
    chunk.index = index;
    chunk.first = first;
    chunk.n = n;
    chunk.blocks = blocks;
    chunk.generations = generations;
    chunk.n_blocks = chunk.n_generations = (first + n - 1) / BLOCK_TOKENS - first / BLOCK_TOKENS + 1;
    for (size_t i = 0; i < 4; i++)
        sums[i] = transfer_block_checksum(zeros, LAYERS);
    ready.chunk = finished.chunk = &chunk;
    ready.layers = LAYERS;
    finished.checksums = sums;
    finished.n_checksums = chunk.n_blocks;
    finished.last = last;
    finished.token = &token;
    if (done)
        say(w, &w->other, FRAME_CHUNK_DONE, w->leg, &finished);
    else
        say(w, &w->other, FRAME_LAYERS_READY, w->leg, &ready);
}

static void end_take(struct world *w)
{
    struct transfer_take *take = w->takes[0];
    memmove(w->takes, w->takes + 1, --w->n_takes * sizeof w->takes[0]);
    memset(take->checksums, 0, (size_t)take->n_layers * take->n_spans * sizeof *take->checksums);
    take->st = ST_OK;
    take->done(take);
}

static void end_step(struct world *w)
{
    struct step *step = w->step;
    w->step = NULL;
    assert_non_null(step);
    for (uint32_t i = 0; i < step->n_seqs; i++)
        step->seqs[i].done = true;
    worker_step_done(w->worker);
}

/* No room for the checksum when the step is over: the job ends then and there. */
static void test_refused_checksum(void **state)
{
    (void)state;
    struct world w;
    start(&w);
    say_prefill(&w, 8);
    w.refuse_takes = true;
    end_step(&w);
    assert_int_equal(w.sent[FRAME_PREFILL_FAILED], 1);
    assert_true(worker_is_idle(w.worker));
    stop(&w);
}

static void test_chunk_beyond_the_last(void **state)
{
    (void)state;
    struct world w;
    begin_receiving(&w);
    say_chunk(&w, false, 1, 4, 4, false);
    say_chunk(&w, true, 0, 0, 4, true); /* "last", and four tokens short */
    assert_int_equal(worker_counters(w.worker)->legs_failed, 1);
    stop(&w);
    begin_receiving(&w);
    say_chunk(&w, false, 1, 7, 1, false);
    say_chunk(&w, true, 0, 0, 8, true); /* over the other */
    assert_int_equal(worker_counters(w.worker)->legs_failed, 1);
    stop(&w);
}

static void test_gap_between_chunks(void **state)
{
    (void)state;
    struct world w;
    begin_receiving(&w);
    say_chunk(&w, true, 0, 4, 4, true);
    assert_int_equal(w.n_takes, 1);
    end_take(&w);
    assert_int_equal(worker_counters(w.worker)->legs_failed, 1);
    assert_int_equal(worker_counters(w.worker)->chunks_taken, 0);
    stop(&w);
}

/* Without a way a take would sum up our own blocks. */
static void test_lost_way(void **state)
{
    (void)state;
    struct world w;
    begin_receiving(&w);
    w.other.transfer = NULL;
    say_chunk(&w, false, 0, 0, 8, true);
    assert_int_equal(w.n_takes, 0);
    assert_int_equal(worker_counters(w.worker)->legs_failed, 1);
    stop(&w);
}

static void test_resume_of_what_is_gone(void **state)
{
    (void)state;
    struct world w;
    Baton__Resume resume = BATON__RESUME__INIT;
    start(&w);
    say(&w, &w.router, FRAME_RESUME, 0, &resume);
    assert_int_equal(w.sent[FRAME_STALE], 1);
    stop(&w);
}

/* Another daemon's Cancel or TokensAck ends nothing. */
static void test_strangers_end_nothing(void **state)
{
    (void)state;
    struct world w;
    Baton__Cancel cancel = BATON__CANCEL__INIT;
    start(&w);
    say_generate(&w, 3, BATON__ROUTE__ROUTE_LOCAL, 1);
    say(&w, &w.other, FRAME_CANCEL, 0, &cancel);
    assert_int_equal(worker_counters(w.worker)->cancelled, 0);
    say(&w, &w.router, FRAME_CANCEL, 0, &cancel);
    assert_int_equal(worker_counters(w.worker)->cancelled, 1);
    stop(&w);
}

/* What a router has sent is in the load from then on: with its number, as a request, and until its KV is there as
 * tokens that wait. */
static void test_load_holds_what_was_seen(void **state)
{
    (void)state;
    struct world w;
    Baton__Load load;
    Baton__Cancel cancel = BATON__CANCEL__INIT;
    start(&w);
    worker_load(w.worker, &load);
    assert_int_equal(load.n_marks, 0);
    say_generate(&w, 8, BATON__ROUTE__ROUTE_REMOTE, 4);
    worker_load(w.worker, &load);
    assert_int_equal(load.n_marks, 1);
    assert_int_equal(load.marks[0]->router, 1);
    assert_int_equal(load.marks[0]->dispatch, 1);
    assert_int_equal(load.queued_requests, 1);
    assert_int_equal(load.queued_tokens, 8);
    say(&w, &w.router, FRAME_CANCEL, 0, &cancel);
    say_generate(&w, BLOCKS * BLOCK_TOKENS, BATON__ROUTE__ROUTE_LOCAL, 1); /* refused, and seen */
    worker_load(w.worker, &load);
    assert_int_equal(load.marks[0]->dispatch, 2);
    assert_int_equal(load.queued_requests, 0);
    assert_int_equal(load.queued_tokens, 0);
    stop(&w);
}

/* A sequence that the pool can never hold is refused or cut, and does not wait for ever. */
static void test_longer_than_the_pool(void **state)
{
    (void)state;
    struct world w;
    start(&w);
    say_generate(&w, BLOCKS * BLOCK_TOKENS, BATON__ROUTE__ROUTE_LOCAL, 1);
    assert_int_equal(worker_counters(w.worker)->refused, 1);
    say_generate(&w, BLOCKS * BLOCK_TOKENS - 2, BATON__ROUTE__ROUTE_LOCAL, 10);
    for (int i = 0; w.step && i < 100; i++)
        end_step(&w);
    assert_int_equal(worker_counters(w.worker)->finished, 1);
    assert_int_equal(worker_counters(w.worker)->tokens_generated, 1);
    stop(&w);
}

static void run_out(struct world *w)
{
    for (int i = 0; w->step && i < 200; i++)
        end_step(w);
}

/* Who has the lowest priority gives its blocks back though it came first, and gets blocks last. */
static void test_priorities(void **state)
{
    (void)state;
    static const int32_t priorities[] = { 7, 0, 3, -2 };
    struct world w;
    start(&w);
    for (w.seq = 1; w.seq <= 4; w.seq++) {
        w.priority = priorities[w.seq - 1];
        say_generate(&w, 27, BATON__ROUTE__ROUTE_LOCAL, 20); /* two fit, and neither's growth */
    }
    run_out(&w);
    assert_int_equal(worker_counters(w.worker)->finished, 4);
    assert_true(worker_counters(w.worker)->preemptions > 0);
    assert_int_equal(w.n_ended, 4);
    assert_int_equal(w.ended[0], 4);
    assert_int_equal(w.ended[1], 2);
    assert_int_equal(w.ended[2], 3);
    assert_int_equal(w.ended[3], 1);
    stop(&w);
}

/* Unless one has waited for longer than the patience. */
static void test_patience(void **state)
{
    (void)state;
    struct world w;
    start(&w);
    for (w.seq = 1; w.seq <= 2; w.seq++)
        say_generate(&w, 27, BATON__ROUTE__ROUTE_LOCAL, 1); /* both fit, and end after their first token */
    w.priority = 9;
    say_generate(&w, 27, BATON__ROUTE__ROUTE_LOCAL, 1);
    w.priority = -9;
    w.seq = 4;
    say_generate(&w, 27, BATON__ROUTE__ROUTE_LOCAL, 1);
    for (; w.step; end_step(&w))
        w.now += 1000001;
    assert_int_equal(w.n_ended, 4);
    assert_int_equal(w.ended[2], 3);
    assert_int_equal(w.ended[3], 4);
    stop(&w);
}

static void test_prefills_by_priority(void **state)
{
    (void)state;
    static const int32_t priorities[] = { 0, 0, 5, -1 };
    struct world w;
    start(&w);
    for (w.seq = 1; w.seq <= 4; w.seq++) { /* the window has two */
        w.priority = priorities[w.seq - 1];
        say_prefill(&w, 8);
    }
    run_out(&w);
    assert_int_equal(w.n_asked, 4);
    assert_int_equal(w.asked[2], 4);
    assert_int_equal(w.asked[3], 3);
    stop(&w);
}

/* The prompt and all that is sampled are zeros: every guess is right, and no token beyond the limit is made. */
static void test_right_guesses(void **state)
{
    (void)state;
    struct world w;
    start_guessing(&w, 4);
    say_generate(&w, 10, BATON__ROUTE__ROUTE_LOCAL, 12);
    run_out(&w);
    assert_int_equal(w.n_tokens, 12);
    assert_int_equal(w.finish, BATON__FINISH__FINISH_LENGTH);
    assert_int_equal(worker_counters(w.worker)->steps, 4); /* 1 token, 5, 5, 1 */
    assert_int_equal(worker_counters(w.worker)->drafts_accepted, 8);
    stop(&w);
}

static struct step_seq *running(const struct world *w)
{
    ASSERT(w->step);
    return &w->step->seqs[0];
}

/* What was guessed behind the end of the answer is no part of it. */
static void test_end_among_guesses(void **state)
{
    (void)state;
    struct world w;
    start_guessing(&w, 4);
    say_generate(&w, 10, BATON__ROUTE__ROUTE_LOCAL, 12);
    end_step(&w);
    assert_int_equal(running(&w)->n_rows, 5);
    running(&w)->sampled_each[1].is_stop = true;
    end_step(&w);
    assert_int_equal(w.n_tokens, 3);
    assert_int_equal(w.finish, BATON__FINISH__FINISH_STOP);
    assert_null(w.step);
    stop(&w);
}

/* Only rows up to the first wrong guess are the sequence's: the next step writes over the others. */
static void test_wrong_guesses(void **state)
{
    (void)state;
    struct world w;
    start_guessing(&w, 4);
    say_generate(&w, 10, BATON__ROUTE__ROUTE_LOCAL, 12);
    end_step(&w);
    assert_int_equal(running(&w)->first_pos, 10);
    running(&w)->sampled_each[2].id = 9;
    end_step(&w);
    assert_int_equal(w.n_tokens, 4);
    assert_int_equal(running(&w)->first_pos, 13);
    assert_int_equal(running(&w)->tokens[0], 9);
    assert_int_equal(running(&w)->n_history, 13 + running(&w)->n_rows);
    run_out(&w);
    assert_int_equal(w.n_tokens, 12);
    stop(&w);
}

/* The engine computes with the one that was asked for, and prefill is asked for the same. */
static void test_adapters(void **state)
{
    (void)state;
    struct world w;
    Baton__Cancel cancel = BATON__CANCEL__INIT;
    adapter = "blue@00000000000000bb";
    start(&w);
    say_generate(&w, 3, BATON__ROUTE__ROUTE_LOCAL, 1);
    assert_int_equal(w.step->seqs[0].adapter, 2);
    end_step(&w);
    stop(&w);
    begin_receiving(&w);
    assert_string_equal(w.adapter, adapter);
    stop(&w);
    adapter = "red@00000000000000aa";
    start(&w);
    say_prefill(&w, 8);
    assert_int_equal(w.step->seqs[0].adapter, 1);
    end_step(&w);
    say(&w, &w.other, FRAME_CANCEL, 1, &cancel);
    adapter = "red@00000000000000ab"; /* another of the same name */
    say_prefill(&w, 8);
    assert_int_equal(w.sent[FRAME_PREFILL_FAILED], 1);
    say_generate(&w, 3, BATON__ROUTE__ROUTE_LOCAL, 1);
    assert_int_equal(worker_counters(w.worker)->refused, 2);
    adapter = "";
    say_generate(&w, 3, BATON__ROUTE__ROUTE_LOCAL, 1);
    assert_int_equal(w.step->seqs[0].adapter, 0);
    end_step(&w);
    stop(&w);
}

int main(void)
{
    log_init("test", LOG_OFF);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused_checksum),
        cmocka_unit_test(test_chunk_beyond_the_last),
        cmocka_unit_test(test_gap_between_chunks),
        cmocka_unit_test(test_lost_way),
        cmocka_unit_test(test_resume_of_what_is_gone),
        cmocka_unit_test(test_strangers_end_nothing),
        cmocka_unit_test(test_load_holds_what_was_seen),
        cmocka_unit_test(test_longer_than_the_pool),
        cmocka_unit_test(test_priorities),
        cmocka_unit_test(test_patience),
        cmocka_unit_test(test_prefills_by_priority),
        cmocka_unit_test(test_right_guesses),
        cmocka_unit_test(test_end_among_guesses),
        cmocka_unit_test(test_wrong_guesses),
        cmocka_unit_test(test_adapters),
    };
    return cmocka_run_group_tests_name("worker", tests, NULL, NULL);
}
