/* A choice's life on virtual time, with workers that only note what they were sent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/log.h"
#include "fake_fleet.h"

#define WAIT_US     5000000u
#define DEADLINE_US 60000000u
#define MODEL       "m"

struct client {
    uint32_t ids[64], n, first_position;
    int finished, failed;
    Baton__Finish finish;
    enum flow_error error;
    char text[256];
    struct flow_timing timing;
    const Baton__Timing *worker_timing;
    uint32_t timed_at;              /* tokens that had come before */
    struct flow **cancel_in_tokens; /* cancelled from inside on_tokens */
};

static struct fake_fleet fake;
static struct timers timers;
static struct flows *flows;
static struct client client;
static struct fleet_worker *w0;
static Baton__Route route; /* of what is submitted */

static void on_timing(void *arg, const Baton__Timing *timing)
{
    struct client *c = arg;
    c->worker_timing = timing;
    c->timed_at = c->n;
}

static void on_tokens(void *arg, uint32_t position, const Baton__Token *const *tokens, size_t n)
{
    struct client *c = arg;
    if (c->n == 0)
        c->first_position = position;
    assert_int_equal(position, c->first_position + c->n);
    for (size_t i = 0; i < n; i++)
        c->ids[c->n++] = tokens[i]->id;
    if (c->cancel_in_tokens)
        flow_cancel(c->cancel_in_tokens, "stop_string");
}

static void on_finish(void *arg, Baton__Finish finish, const struct flow_timing *timing)
{
    struct client *c = arg;
    c->finished++;
    c->finish = finish;
    c->timing = *timing;
}

static void on_error(void *arg, enum flow_error error, const char *text)
{
    struct client *c = arg;
    c->failed++;
    c->error = error;
    snprintf(c->text, sizeof c->text, "%s", text);
}

static const struct flow_callbacks callbacks = { on_timing, on_tokens, on_finish, on_error };

static void pass(uint64_t us)
{
    for (uint64_t end = fake.now_us + us; fake.now_us < end;) {
        uint64_t next = timers_next(&timers);
        fake.now_us = next < end ? next : end;
        timers_set_now(&timers, fake.now_us);
        timers_run(&timers, fake.now_us);
    }
    timers_run(&timers, fake.now_us);
}

static struct flows_options flows_options(bool keep_class)
{
    return (struct flows_options){ .fleet = fake.fleet,
                                   .timers = &timers,
                                   .now = fake_now,
                                   .ctx = &fake,
                                   .incarnation = FAKE_ROUTER,
                                   .max_attempts = 4,
                                   .worker_wait_us = WAIT_US,
                                   .keep_class = keep_class };
}

static int open_all(void **state)
{
    (void)state;
    log_init("test", LOG_OFF);
    fake_fleet_open(&fake, fake_now);
    timers_init(&timers);
    timers_set_now(&timers, fake.now_us);
    const struct flows_options options = flows_options(false);
    client = (struct client){ 0 };
    route = BATON__ROUTE__ROUTE_AUTO;
    w0 = fake_worker(&fake, "w0", "decode", MODEL);
    return flows_create(&options, &flows) == ST_OK ? 0 : -1;
}

static int close_all(void **state)
{
    (void)state;
    flows_destroy(&flows);
    assert_int_equal(fleet_ours(fake.fleet), 0); /* load was given back on every path */
    fleet_destroy(&fake.fleet);
    assert_true(timers_next(&timers) == TIMERS_NEVER);
    timers_free(&timers);
    return 0;
}

static struct flow *submit_with(int32_t priority)
{
    static const uint32_t prompt[] = { 10, 11, 12 };
    struct flow *flow = NULL;
    size_t sent = fake.n_sent;
    const struct flow_request request = {
        .model = MODEL,
        .adapter = "",
        .prompt = prompt,
        .n_prompt = 3,
        .sampling = { .max_tokens = 20, .seed = 99, .choice = 2, .top_p = 1, .n_logprobs = -1 },
        .priority = priority,
        .route = route,
        .deadline_us = fake.now_us + DEADLINE_US,
        .callbacks = &callbacks,
        .arg = &client,
    };
    assert_int_equal(flow_submit(flows, &request, &flow), ST_OK);
    assert_int_equal(fake.n_sent, sent); /* never from inside the call */
    return flow;
}

static struct flow *submit(void)
{
    return submit_with(0);
}

static struct flow *submit_and_run(void)
{
    struct flow *flow = submit();
    pass(1);
    return flow;
}

static void lose(struct fleet_worker *worker)
{
    fleet_set_up(worker, false);
    flows_on_worker_lost(flows, worker, true);
}

static void test_straight(void **state)
{
    (void)state;
    Baton__Timing timing = BATON__TIMING__INIT;
    (void)submit_and_run();
    const struct fake_sent *g = fake_last(&fake, FRAME_GENERATE);
    assert_non_null(g);
    assert_ptr_equal(g->to, w0);
    assert_int_equal(g->n_tokens, 3);
    assert_int_equal(g->prompt_len, 3);
    assert_int_equal(g->seed, 99);
    assert_int_equal(g->choice, 2);
    assert_int_equal(g->key.router, FAKE_ROUTER);
    assert_int_equal(g->attempt, 1);
    assert_int_equal(g->dispatch, 1);
    assert_int_equal(flows_in_state(flows, FLOW_DISPATCHED), 1);
    assert_int_equal(fleet_ours(fake.fleet), 1);
    pass(1000);
    Baton__Timing first = BATON__TIMING__INIT;
    fake_tokens(flows, g, 3, (uint32_t[]){ 1 }, 1, 0, &first);
    assert_ptr_equal(client.worker_timing, &first);
    assert_int_equal(client.timed_at, 0); /* known when the first token is looked at */
    assert_int_equal(flows_in_state(flows, FLOW_STREAMING), 1);
    fake_tokens(flows, g, 4, (uint32_t[]){ 2, 3 }, 2, BATON__FINISH__FINISH_LENGTH, &timing);
    assert_int_equal(client.n, 3);
    assert_int_equal(client.finished, 1);
    assert_int_equal(client.finish, BATON__FINISH__FINISH_LENGTH);
    assert_int_equal(client.timing.attempts, 1);
    assert_true(client.timing.first_token_us >= 1000 && client.timing.total_us >= 1000);
    assert_ptr_equal(client.worker_timing, &timing);
    assert_int_equal(fake_last(&fake, FRAME_TOKENS_ACK)->position, 6);
    assert_int_equal(flows_counters(flows)->finished, 1);
}

static void test_repeats_and_gaps(void **state)
{
    (void)state;
    (void)submit_and_run();
    const struct fake_sent *g = fake_last(&fake, FRAME_GENERATE);
    fake_tokens(flows, g, 3, (uint32_t[]){ 1, 2 }, 2, 0, NULL);
    fake_tokens(flows, g, 3, (uint32_t[]){ 1, 2, 3 }, 3, 0, NULL); /* two of them again */
    assert_int_equal(client.n, 3);
    assert_int_equal(flows_counters(flows)->repeats_dropped, 2);
    fake_tokens(flows, g, 8, (uint32_t[]){ 6 }, 1, 0, NULL); /* 6 and 7 are missing */
    assert_int_equal(client.n, 3);
    assert_int_equal(fake_last(&fake, FRAME_RESUME)->position, 6);
    fake_tokens(flows, g, 9, (uint32_t[]){ 7 }, 1, 0, NULL);
    assert_int_equal(fake_count(&fake, FRAME_RESUME), 1); /* it was asked for already */
    fake_tokens(flows, g, 6, (uint32_t[]){ 4, 5, 6, 7 }, 4, BATON__FINISH__FINISH_STOP, NULL);
    assert_int_equal(client.n, 7);
    assert_int_equal(client.ids[6], 7);
    assert_int_equal(client.finish, BATON__FINISH__FINISH_STOP);
}

static void test_replay_after_loss(void **state)
{
    (void)state;
    (void)submit_and_run();
    struct fake_sent first = *fake_last(&fake, FRAME_GENERATE);
    fake_tokens(flows, &first, 3, (uint32_t[]){ 1, 2 }, 2, 0, NULL);
    struct fleet_worker *w1 = fake_worker(&fake, "w1", "decode", MODEL);
    lose(w0);
    const struct fake_sent *again = fake_last(&fake, FRAME_GENERATE);
    assert_ptr_equal(again->to, w1);
    assert_int_equal(again->attempt, 2);
    assert_int_equal(again->n_tokens, 5); /* prompt and what was generated */
    assert_int_equal(again->prompt_len, 3);
    assert_int_equal(again->last, 2);
    assert_int_equal(again->seed, 99);
    fake_tokens(flows, &first, 5, (uint32_t[]){ 77 }, 1, 0, NULL); /* of the old attempt */
    assert_int_equal(client.n, 2);
    assert_int_equal(flows_counters(flows)->stale, 1);
    fake_tokens(flows, again, 5, (uint32_t[]){ 3 }, 1, BATON__FINISH__FINISH_STOP, NULL);
    assert_int_equal(client.n, 3);
    assert_int_equal(client.ids[2], 3);
    assert_int_equal(client.timing.attempts, 2);
    assert_int_equal(flows_counters(flows)->replayed, 1);
}

/* Two of class amx and an idle one of class portable; two tokens came from the first. Returns the second. */
static struct fleet_worker *begin_in_class_amx(bool keep_class)
{
    const struct flows_options options = flows_options(keep_class);
    flows_destroy(&flows);
    assert_int_equal(flows_create(&options, &flows), ST_OK);
    strcpy(w0->instance.class, "amx-bf16");
    (void)submit_and_run();
    struct fleet_worker *w1 = fake_worker(&fake, "w1", "decode", MODEL);
    strcpy(w1->instance.class, "amx-bf16");
    w1->queued_tokens = 100000;
    fake_tokens(flows, fake_last(&fake, FRAME_GENERATE), 3, (uint32_t[]){ 1, 2 }, 2, 0, NULL);
    return w1;
}

static void test_stays_in_its_class(void **state)
{
    (void)state;
    struct fleet_worker *w1 = begin_in_class_amx(false);
    (void)fake_worker(&fake, "idle", "decode", MODEL);
    lose(w0);
    const struct fake_sent *again = fake_last(&fake, FRAME_GENERATE);
    assert_ptr_equal(again->to, w1);
    fake_tokens(flows, again, 5, (uint32_t[]){ 3 }, 1, BATON__FINISH__FINISH_STOP, NULL);
    assert_false(client.timing.class_changed);
    assert_string_equal(client.timing.class, "amx-bf16");
    assert_int_equal(flows_counters(flows)->class_changed, 0);
}

static void test_goes_on_in_another_class(void **state)
{
    (void)state;
    struct fleet_worker *w1 = begin_in_class_amx(false);
    struct fleet_worker *other = fake_worker(&fake, "other", "decode", MODEL);
    fleet_set_up(w1, false);
    lose(w0);
    const struct fake_sent *again = fake_last(&fake, FRAME_GENERATE);
    assert_ptr_equal(again->to, other);
    assert_int_equal(flows_counters(flows)->class_changed, 0); /* not before a token of it */
    fake_tokens(flows, again, 5, (uint32_t[]){ 3 }, 1, 0, NULL);
    fake_tokens(flows, again, 6, (uint32_t[]){ 4 }, 1, BATON__FINISH__FINISH_STOP, NULL);
    assert_true(client.timing.class_changed);
    assert_string_equal(client.timing.class, "portable-bf16");
    assert_int_equal(flows_counters(flows)->class_changed, 1);
}

static void test_waits_for_its_class_and_fails(void **state)
{
    (void)state;
    struct fleet_worker *w1 = begin_in_class_amx(true);
    (void)fake_worker(&fake, "other", "decode", MODEL);
    fleet_set_up(w1, false);
    lose(w0);
    assert_int_equal(fake_count(&fake, FRAME_GENERATE), 1);
    pass(WAIT_US + 1000000);
    assert_int_equal(client.failed, 1);
    assert_int_equal(client.error, FLOW_NO_WORKER);
    assert_string_equal(client.text, "no worker of the class amx-bf16, in which the answer began, is left");
    assert_int_equal(fake_count(&fake, FRAME_GENERATE), 1);
}

static void test_its_class_comes_back(void **state)
{
    (void)state;
    struct fleet_worker *w1 = begin_in_class_amx(true);
    (void)fake_worker(&fake, "other", "decode", MODEL);
    fleet_set_up(w1, false);
    lose(w0);
    pass(WAIT_US / 2);
    fleet_set_up(w1, true);
    flows_on_worker_ready(flows);
    const struct fake_sent *again = fake_last(&fake, FRAME_GENERATE);
    assert_ptr_equal(again->to, w1);
    fake_tokens(flows, again, 5, (uint32_t[]){ 3 }, 1, BATON__FINISH__FINISH_STOP, NULL);
    assert_false(client.timing.class_changed);
}

/* An answer that has not begun has no class to stay in. */
static void test_no_token_no_class(void **state)
{
    (void)state;
    strcpy(w0->instance.class, "amx-bf16");
    (void)submit_and_run();
    struct fleet_worker *other = fake_worker(&fake, "other", "decode", MODEL);
    lose(w0);
    const struct fake_sent *again = fake_last(&fake, FRAME_GENERATE);
    assert_ptr_equal(again->to, other);
    fake_tokens(flows, again, 3, (uint32_t[]){ 3 }, 1, BATON__FINISH__FINISH_STOP, NULL);
    assert_false(client.timing.class_changed);
}

static void test_waits_for_a_worker(void **state)
{
    (void)state;
    fleet_set_up(w0, false);
    (void)submit_and_run();
    assert_int_equal(fake.n_sent, 0);
    assert_int_equal(flows_in_state(flows, FLOW_WAITING), 1);
    pass(WAIT_US / 2);
    fleet_set_up(w0, true);
    flows_on_worker_ready(flows);
    assert_int_equal(fake_count(&fake, FRAME_GENERATE), 1);
}

/* Those that wait for a worker go by priority, then as they came. */
static void test_priorities(void **state)
{
    (void)state;
    static const int32_t priorities[] = { 0, 5, -1, 0, -1 };
    static const int32_t expected[] = { -1, -1, 0, 0, 5 };
    static const uint64_t seqs[] = { 3, 5, 1, 4, 2 };
    fleet_set_up(w0, false);
    for (size_t i = 0; i < 5; i++)
        (void)submit_with(priorities[i]);
    pass(1);
    fleet_set_up(w0, true);
    flows_on_worker_ready(flows);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(fake.sent[i].priority, expected[i]);
        assert_int_equal(fake.sent[i].key.seq, seqs[i]);
    }
}

static void test_no_worker_at_all(void **state)
{
    (void)state;
    fleet_set_up(w0, false);
    (void)submit_and_run();
    pass(WAIT_US - 100000);
    assert_int_equal(client.failed, 0);
    pass(1000000); /* tries come at growing distances */
    assert_int_equal(client.failed, 1);
    assert_int_equal(client.error, FLOW_NO_WORKER);
    assert_int_equal(client.finished, 0);
}

static void test_deadline(void **state)
{
    (void)state;
    (void)submit_and_run();
    pass(DEADLINE_US - 10);
    assert_int_equal(client.failed, 0);
    pass(20);
    assert_int_equal(client.error, FLOW_DEADLINE);
    assert_int_equal(fake_count(&fake, FRAME_CANCEL), 1);
}

static void test_cancel(void **state)
{
    (void)state;
    struct flow *flow = submit_and_run();
    flow_cancel(&flow, "client_gone");
    assert_null(flow);
    assert_string_equal(fake_last(&fake, FRAME_CANCEL)->reason, "client_gone");
    pass(DEADLINE_US + WAIT_US);
    assert_int_equal(client.failed + client.finished, 0);
    flow_cancel(&flow, "again"); /* of nothing */
    flow = submit();             /* before anything was sent: nothing to cancel */
    size_t sent = fake.n_sent;
    flow_cancel(&flow, "client_gone");
    pass(1000);
    assert_int_equal(fake.n_sent, sent);
}

static void test_cancel_from_inside(void **state)
{
    (void)state;
    struct flow *flow = submit_and_run();
    client.cancel_in_tokens = &flow;
    fake_tokens(flows, fake_last(&fake, FRAME_GENERATE), 3, (uint32_t[]){ 1 }, 1, BATON__FINISH__FINISH_STOP, NULL);
    assert_null(flow);
    assert_int_equal(client.n, 1);
    assert_int_equal(client.finished + client.failed, 0);
    assert_int_equal(fake_count(&fake, FRAME_CANCEL), 1);
}

static void test_refusals(void **state)
{
    (void)state;
    (void)submit_and_run();
    struct fleet_worker *w1 = fake_worker(&fake, "w1", "decode", MODEL);
    fake_failure(flows, fake_last(&fake, FRAME_GENERATE), BATON__FAILURE_CODE__FAILURE_BUSY, true, "queue full");
    const struct fake_sent *again = fake_last(&fake, FRAME_GENERATE);
    assert_ptr_equal(again->to, w1);
    fake_failure(flows, again, BATON__FAILURE_CODE__FAILURE_LIMIT, false, "9 tokens, at most 8 fit");
    assert_int_equal(client.error, FLOW_INVALID);
    assert_string_equal(client.text, "9 tokens, at most 8 fit");
}

static void test_busy_for_too_long(void **state)
{
    (void)state;
    (void)submit_and_run();
    for (int i = 0; i < 1000 && !client.failed; i++) {
        size_t sent = fake_count(&fake, FRAME_GENERATE);
        fake_failure(flows, fake_last(&fake, FRAME_GENERATE), BATON__FAILURE_CODE__FAILURE_BUSY, true, "queue full");
        while (!client.failed && fake_count(&fake, FRAME_GENERATE) == sent)
            pass(10000);
    }
    assert_int_equal(client.failed, 1);
    assert_int_equal(client.error, FLOW_BUSY);
}

static void test_three_deaths(void **state)
{
    (void)state;
    (void)submit_and_run();
    for (int i = 0; i < 3; i++) {
        char id[16];
        snprintf(id, sizeof id, "w%d", i + 1);
        struct fleet_worker *running = fake_last(&fake, FRAME_GENERATE)->to;
        (void)fake_worker(&fake, id, "decode", MODEL);
        assert_int_equal(client.failed, 0);
        lose(running);
    }
    assert_int_equal(client.failed, 1);
    assert_int_equal(client.error, FLOW_INTERNAL);
    assert_int_equal(fake_count(&fake, FRAME_GENERATE), 3);
}

static void test_stale_is_sent_again(void **state)
{
    (void)state;
    (void)submit_and_run();
    const struct fake_sent *g = fake_last(&fake, FRAME_GENERATE);
    struct frame frame = { .type = FRAME_STALE, .key = g->key, .attempt = g->attempt };
    flows_on_stale(flows, w0, &frame);
    assert_int_equal(fake_count(&fake, FRAME_GENERATE), 2);
    assert_int_equal(fake_last(&fake, FRAME_GENERATE)->attempt, 2);
}

static void test_back_on_its_link(void **state)
{
    (void)state;
    (void)submit_and_run();
    const struct fake_sent *g = fake_last(&fake, FRAME_GENERATE);
    Baton__Live held = BATON__LIVE__INIT, *list[] = { &held }, out[4];
    assert_int_equal(flows_live(flows, w0, out, 4), 1);
    assert_int_equal(out[0].seq, g->key.seq);
    held.router = g->key.router;
    held.seq = g->key.seq;
    held.attempt = g->attempt;
    flows_on_worker_again(flows, w0, list, 1);
    assert_int_equal(fake_count(&fake, FRAME_GENERATE), 1); /* it has it still */
    flows_on_worker_again(flows, w0, NULL, 0);
    assert_int_equal(fake_count(&fake, FRAME_GENERATE), 2);
}

/* What the worker's figures hold is not counted a second time. */
static void test_loads_cover_what_was_dispatched(void **state)
{
    (void)state;
    Baton__RouterMark mark = BATON__ROUTER_MARK__INIT, *marks[] = { &mark };
    Baton__Load load = BATON__LOAD__INIT;
    load.id = "w0";
    load.incarnation = w0->instance.incarnation;
    load.marks = marks;
    load.n_marks = 1;
    struct flow *flow = submit_and_run();
    const struct fake_sent *g = fake_last(&fake, FRAME_GENERATE);
    (void)submit_and_run();
    assert_int_equal(w0->later, 2);
    assert_int_equal(w0->later_tokens, 6);
    mark.router = FAKE_ROUTER + 1;
    mark.dispatch = 99;
    fleet_on_load(fake.fleet, &load);
    assert_int_equal(w0->later, 2); /* of another router */
    mark.router = FAKE_ROUTER;
    mark.dispatch = g->dispatch;
    fleet_on_load(fake.fleet, &load);
    assert_int_equal(w0->later, 1);
    assert_int_equal(w0->later_tokens, 3);
    flow_cancel(&flow, "client_gone");
    assert_int_equal(w0->later, 1);
    fake_tokens(flows, fake_last(&fake, FRAME_GENERATE), 3, (uint32_t[]){ 1 }, 1, BATON__FINISH__FINISH_STOP, NULL);
    assert_int_equal(w0->later, 0);
    assert_int_equal(w0->later_tokens, 0);
}

static uint64_t counted_at_prefill(void)
{
    return fleet_counted(fake.fleet, false).dispatches;
}

static const struct fake_sent *submit_remote(struct flow **flow)
{
    struct flow *submitted = submit_and_run();
    const struct fake_sent *g = fake_last(&fake, FRAME_GENERATE);
    assert_int_equal(g->n_prefills, 1);
    assert_int_equal(g->route, BATON__ROUTE__ROUTE_REMOTE);
    assert_int_equal(counted_at_prefill(), 1);
    if (flow)
        *flow = submitted;
    return g;
}

/* What is counted at a prefill worker ends with the first token, or with the choice, however that ends. */
static void test_the_helper_is_given_back(void **state)
{
    (void)state;
    struct flow *flow;
    route = BATON__ROUTE__ROUTE_REMOTE;
    (void)fake_worker(&fake, "p0", "prefill", MODEL);
    const struct fake_sent *g = submit_remote(NULL);
    fake_tokens(flows, g, 3, (uint32_t[]){ 1 }, 1, 0, NULL);
    assert_int_equal(counted_at_prefill(), 0);
    fake_tokens(flows, g, 4, (uint32_t[]){ 2 }, 1, BATON__FINISH__FINISH_STOP, NULL);
    (void)submit_remote(&flow);
    flow_cancel(&flow, "client_gone");
    assert_int_equal(counted_at_prefill(), 0);
    (void)submit_remote(NULL);
    pass(DEADLINE_US + 1);
    assert_int_equal(counted_at_prefill(), 0);
    fake_failure(flows, submit_remote(NULL), BATON__FAILURE_CODE__FAILURE_LIMIT, false, "too long");
    assert_int_equal(counted_at_prefill(), 0);
    (void)submit_remote(NULL);
    lose(w0); /* and it waits: counted nowhere */
    assert_int_equal(counted_at_prefill(), 0);
    fleet_set_up(w0, true);
    flows_on_worker_ready(flows);
    assert_int_equal(counted_at_prefill(), 1);
    fleet_member_gone(fake.fleet, "p0"); /* the other way round: the helper goes first */
    assert_int_equal(counted_at_prefill(), 0);
    assert_int_equal(fleet_ours(fake.fleet), 1);
}

/* The worker's timing teaches what its like can be expected to do. */
static void test_timing_is_learned(void **state)
{
    (void)state;
    Baton__Timing timing = BATON__TIMING__INIT;
    Baton__Load load = BATON__LOAD__INIT;
    (void)fake_worker(&fake, "p0", "prefill", MODEL);
    route = BATON__ROUTE__ROUTE_REMOTE;
    timing.route = "remote";
    timing.prefill_worker = "p0";
    timing.legs = 1;
    timing.computed_tokens = 3;
    timing.prefill_us = 600;
    timing.moved_bytes = 3072;
    timing.handoff_us = 30;
    const struct fake_sent *g = submit_remote(NULL);
    fake_tokens(flows, g, 3, (uint32_t[]){ 1 }, 1, BATON__FINISH__FINISH_STOP, &timing);
    load.id = "p0";
    load.incarnation = 7;
    fleet_on_load(fake.fleet, &load);
    load.id = "w0";
    fleet_on_load(fake.fleet, &load);
    g = submit_remote(NULL);
    const struct pick_input *in = fleet_last_input(fake.fleet);
    assert_true(in->prefills[0].rates.prefill_token == 200.0f);
    assert_true(in->decodes[0].rates.handoff[0].byte == 10.0f / 1024);
    assert_true(in->decodes[0].rates.prefill_token == 200.0f); /* it computed nothing, and is taken for its like */
    client.n = 0;                                              /* a client of its own */
    timing.legs = 2;
    timing.prefill_us = 60000;
    fake_tokens(flows, g, 3, (uint32_t[]){ 1 }, 1, BATON__FINISH__FINISH_STOP, &timing); /* no plain case */
    load.id = "p0";
    fleet_on_load(fake.fleet, &load);
    assert_true(in->prefills[0].rates.prefill_token == 200.0f);
}

static void test_other_models_workers_are_not_taken(void **state)
{
    (void)state;
    fleet_set_up(w0, false);
    (void)fake_worker(&fake, "other", "decode", "another");
    (void)fake_worker(&fake, "p", "prefill", MODEL);
    (void)submit_and_run();
    assert_int_equal(fake.n_sent, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_all, close_all)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_straight),
        TEST(test_repeats_and_gaps),
        TEST(test_replay_after_loss),
        TEST(test_stays_in_its_class),
        TEST(test_goes_on_in_another_class),
        TEST(test_waits_for_its_class_and_fails),
        TEST(test_its_class_comes_back),
        TEST(test_no_token_no_class),
        TEST(test_waits_for_a_worker),
        TEST(test_priorities),
        TEST(test_no_worker_at_all),
        TEST(test_deadline),
        TEST(test_cancel),
        TEST(test_cancel_from_inside),
        TEST(test_refusals),
        TEST(test_busy_for_too_long),
        TEST(test_three_deaths),
        TEST(test_stale_is_sent_again),
        TEST(test_back_on_its_link),
        TEST(test_loads_cover_what_was_dispatched),
        TEST(test_other_models_workers_are_not_taken),
        TEST(test_the_helper_is_given_back),
        TEST(test_timing_is_learned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
