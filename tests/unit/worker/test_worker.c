/* What no well-behaved peer does, and what the transfer refuses: found by reading, kept from coming back. */
#include "tests/unit/worker/worker_rig.h"

#include "common/log.h"

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
    assert_int_equal(load.marks[0]->queued_tokens, 8);
    say(&w, &w.router, FRAME_CANCEL, 0, &cancel);
    say_generate(&w, BLOCKS * BLOCK_TOKENS, BATON__ROUTE__ROUTE_LOCAL, 1); /* refused, and seen */
    worker_load(w.worker, &load);
    assert_int_equal(load.marks[0]->dispatch, 2);
    assert_int_equal(load.queued_requests, 0);
    assert_int_equal(load.queued_tokens, 0);
    assert_int_equal(load.marks[0]->queued_tokens, 0);
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
