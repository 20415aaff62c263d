/* What a flow learns from how its prompt fared, and what it finds of it in the index. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/log.h"
#include "fake_fleet.h"
#include "router/kv_view.h"

#define MODEL    "m"
#define N_PROMPT 1000
#define BLOCK    16
#define HELD     800

static struct fake_fleet fake;
static struct timers timers;
static struct flows *flows;
static struct kv_view *view;
static struct fleet_worker *p0;
static uint32_t prompt[N_PROMPT];
static struct metrics *metrics;
static struct metric *pull_error;
static uint32_t holder; /* p1's number in the view */

static void on_timing(void *arg, const Baton__Timing *timing)
{
    (void)arg;
    (void)timing;
}

static void on_tokens(void *arg, uint32_t position, const Baton__Token *const *tokens, size_t n)
{
    (void)arg;
    (void)position;
    (void)tokens;
    (void)n;
}

static void on_finish(void *arg, Baton__Finish finish, const struct flow_timing *timing)
{
    (void)arg;
    (void)finish;
    (void)timing;
}

static void on_error(void *arg, enum flow_error error, const char *text)
{
    (void)arg;
    (void)error;
    fail_msg("%s", text);
}

static const struct flow_callbacks callbacks = { on_timing, on_tokens, on_finish, on_error };

/* p1 holds the beginning of the prompt, for those without a salt. */
static void hold(void)
{
    const struct kv_holder p1 = { .id = "p1",
                                  .role = "prefill",
                                  .host = "",
                                  .address = "tcp://p1",
                                  .format = "format",
                                  .model = MODEL,
                                  .weights = FAKE_WEIGHTS,
                                  .tokenizer = 2,
                                  .block_tokens = BLOCK };
    const struct block_seed_parts seed = { .weights = FAKE_WEIGHTS, .tokenizer = 2 };
    struct block_hash chain[HELD / BLOCK];
    struct block_hasher hasher;
    struct error err;
    block_hasher_init(&hasher, block_seed(&seed), BLOCK);
    assert_int_equal(block_hasher_grow(&hasher, prompt, HELD, chain, HELD / BLOCK), HELD / BLOCK);
    assert_int_equal(kv_view_add(view, &p1, &holder, &err), ST_OK);
    kv_view_store(view, holder, KV_TIER_DEVICE, chain, HELD / BLOCK);
}

static int open_all(void **state)
{
    (void)state;
    log_init("test", LOG_OFF);
    fake_fleet_open(&fake, fake_now);
    timers_init(&timers);
    timers_set_now(&timers, fake.now_us);
    for (uint32_t i = 0; i < N_PROMPT; i++)
        prompt[i] = 7 * i % 501;
    if (kv_view_create(&(struct kv_view_options){ .max_bytes = 4 << 20, .max_holders = 64 }, &view) != ST_OK)
        return -1;
    (void)fake_worker(&fake, "d", "decode", MODEL);
    p0 = fake_worker(&fake, "p0", "prefill", MODEL);
    static const struct metric_row row = { "pull_error", METRIC_HISTOGRAM, "", "How far pulls were mispredicted" };
    static const struct metric_table table = { &row, 1 };
    if (metrics_create("test", &metrics) != ST_OK)
        return -1;
    metrics_add_table(metrics, &table);
    pull_error = metrics_series(metrics, &table, 0, NULL);
    const struct flows_options options = { .fleet = fake.fleet,
                                           .timers = &timers,
                                           .now = fake_now,
                                           .ctx = &fake,
                                           .incarnation = FAKE_ROUTER,
                                           .max_attempts = 4,
                                           .kv_view = view,
                                           .prediction_error = { [DECISION_PULL] = pull_error } };
    return flows_create(&options, &flows) == ST_OK ? 0 : -1;
}

static int close_all(void **state)
{
    (void)state;
    flows_destroy(&flows);
    assert_int_equal(fleet_ours(fake.fleet), 0);
    fleet_destroy(&fake.fleet);
    timers_free(&timers);
    kv_view_destroy(&view);
    metrics_destroy(&metrics);
    return 0;
}

static struct flow_request remote_request(void)
{
    return (struct flow_request){ .model = MODEL,
                                  .adapter = "",
                                  .prompt = prompt,
                                  .n_prompt = N_PROMPT,
                                  .sampling = { .max_tokens = 20, .top_p = 1, .n_logprobs = -1 },
                                  .route = BATON__ROUTE__ROUTE_REMOTE,
                                  .deadline_us = fake.now_us + 100000000,
                                  .callbacks = &callbacks };
}

/* What is predicted for the request once its worker has told of itself again. */
static const struct pick_parts *dispatch(const struct flow_request *request)
{
    Baton__Load load = BATON__LOAD__INIT;
    struct flow *flow;
    load.id = "p0";
    load.incarnation = 7;
    fleet_on_load(fake.fleet, &load);
    assert_int_equal(flow_submit(flows, request, &flow), ST_OK);
    timers_run(&timers, fake.now_us);
    return &fleet_last_choice(fake.fleet)->predicted;
}

/* It comes to its end at p0. */
static void finish(uint32_t computed, uint32_t from_host, uint64_t prefill_us, uint64_t pull_us)
{
    Baton__Timing timing = BATON__TIMING__INIT;
    uint32_t cached[KV_TIER_COUNT] = { 0, from_host, 0, 0 };
    timing.route = "remote";
    timing.prefill_worker = "p0";
    timing.legs = 1;
    timing.computed_tokens = computed;
    timing.prefill_us = prefill_us;
    timing.pull_us = pull_us;
    timing.cached_tokens = cached;
    timing.n_cached_tokens = KV_TIER_COUNT;
    fake_tokens(flows, fake_last(&fake, FRAME_GENERATE), N_PROMPT, (uint32_t[]){ 1 }, 1, BATON__FINISH__FINISH_STOP,
                &timing);
}

/* 100 us a token to compute. */
static void measure_computing(void)
{
    for (int i = 0; i < 40; i++)
        for (uint32_t n = 8; n <= 2048; n *= 4)
            fleet_learn_prefill(p0, n, n, 100 * n);
}

static void test_the_index_is_asked(void **state)
{
    (void)state;
    measure_computing();
    fleet_learn_pull(p0, KV_TIER_REMOTE, fleet_kv_bytes(p0, HELD), 10000);
    hold();
    struct flow_request request = remote_request();
    assert_int_equal(dispatch(&request)->pulled, HELD);
    assert_int_equal(fleet_last_input(fake.fleet)->request.elsewhere, HELD);
    request.salt = (struct block_hash){ 1, 2 }; /* another's KV is not its own */
    assert_int_equal(dispatch(&request)->pulled, 0);
    request = remote_request();
    request.no_cache = true;
    assert_int_equal(dispatch(&request)->pulled, 0);
    assert_int_equal(fleet_last_input(fake.fleet)->request.elsewhere, 0);
    (void)fake_worker(&fake, "p1", "prefill", MODEL);
    request = remote_request();
    assert_int_equal(dispatch(&request)->cached, HELD); /* and who has it gets it */
}

/* A worker that goes on computing what it should fetch teaches that fetching costs as much; for a moment it may be that
 * it only has no link yet, and one fetch shows that it has. */
static void test_what_is_not_fetched_is_learned(void **state)
{
    (void)state;
    measure_computing();
    fleet_learn_pull(p0, KV_TIER_REMOTE, fleet_kv_bytes(p0, HELD), 10000);
    hold();
    const struct flow_request request = remote_request();
    for (int i = 0; i < 100; i++) {
        assert_int_equal(dispatch(&request)->pulled, HELD);
        finish(N_PROMPT, 0, 100 * N_PROMPT, 0);
    }
    fake.now_us += 900000;
    (void)dispatch(&request);
    finish(N_PROMPT - HELD, HELD, 100 * (N_PROMPT - HELD), 10000);
    fake.now_us += 900000;
    assert_int_equal(dispatch(&request)->pulled, HELD);
    finish(N_PROMPT, 0, 100 * N_PROMPT, 0);
    fake.now_us += 1000000;
    int tries = 0;
    while (dispatch(&request)->pulled > 0) {
        assert_true(++tries < 40);
        finish(N_PROMPT, 0, 100 * N_PROMPT, 0);
    }
    assert_true(tries > 0);
    finish(N_PROMPT, 0, 100 * N_PROMPT, 0);
}

static double pull_us_of(enum kv_tier tier)
{
    const struct pick_line *line = &fleet_last_input(fake.fleet)->prefills[0].rates.pull[tier];
    return (double)line->base + (double)line->byte * (double)fleet_kv_bytes(p0, HELD);
}

/* The worker says what it fetched, from where and in what time; computing is apart, and learned from the same prompt.
 */
static void test_fetching_is_learned(void **state)
{
    (void)state;
    measure_computing();
    hold();
    const struct flow_request request = remote_request();
    (void)dispatch(&request);
    double before = pull_us_of(KV_TIER_DISK);
    const struct step_cost computing = p0->rates.prefill;
    finish(N_PROMPT - HELD, HELD, 70 * (N_PROMPT - HELD), 5000);
    assert_memory_not_equal(&p0->rates.prefill, &computing, sizeof computing);
    (void)dispatch(&request);
    assert_true(pull_us_of(KV_TIER_HOST) > 4000 && pull_us_of(KV_TIER_HOST) < 6000);
    assert_true(pull_us_of(KV_TIER_DISK) == before);
    finish(N_PROMPT, 0, 100 * N_PROMPT, 0);
}

/* Decode had what prefill fetched, so that it is told as found in decode's device. */
static void test_fetching_what_decode_has_is_learned(void **state)
{
    (void)state;
    Baton__Timing timing = BATON__TIMING__INIT;
    uint32_t cached[KV_TIER_COUNT] = { HELD, 0, 0, 0 };
    measure_computing();
    fleet_learn_pull(p0, KV_TIER_REMOTE, fleet_kv_bytes(p0, HELD), 10000);
    hold();
    const struct flow_request request = remote_request();
    assert_int_equal(dispatch(&request)->pulled, HELD);
    timing.route = "remote";
    timing.prefill_worker = "p0";
    timing.legs = 1;
    timing.computed_tokens = N_PROMPT - HELD;
    timing.prefill_us = 100 * (N_PROMPT - HELD);
    timing.pull_us = 40000;
    timing.cached_tokens = cached;
    timing.n_cached_tokens = KV_TIER_COUNT;
    double before = pull_us_of(KV_TIER_REMOTE);
    fake_tokens(flows, fake_last(&fake, FRAME_GENERATE), N_PROMPT, (uint32_t[]){ 1 }, 1, BATON__FINISH__FINISH_STOP,
                &timing);
    (void)dispatch(&request);
    assert_true(pull_us_of(KV_TIER_REMOTE) > before + 1000);
    finish(N_PROMPT, 0, 100 * N_PROMPT, 0);
}

static void assert_errors(int n, double sum)
{
    struct text_buffer page;
    text_buffer_init(&page, 1 << 20);
    metrics_render(metrics, &page);
    assert_int_equal(page.state, ST_OK);
    const char *at = strstr(page.data, "pull_error_sum ");
    assert_non_null(at);
    assert_true(fabs(strtod(at + strlen("pull_error_sum "), NULL) - sum) < 1e-4);
    text_buffer_free(&page);
    assert_int_equal((int)metric_value(pull_error), n);
}

/* A pull is compared with its time alone; asking in vain is none. */
static void test_pulls_are_compared(void **state)
{
    (void)state;
    measure_computing();
    const struct flow_request request = remote_request();
    assert_int_equal(dispatch(&request)->pulled, 0);
    finish(N_PROMPT, 0, 100 * N_PROMPT, 2000); /* asked, and nothing came */
    assert_errors(0, 0);
    fleet_learn_pull(p0, KV_TIER_REMOTE, fleet_kv_bytes(p0, HELD), 10000);
    hold();
    const struct pick_parts *predicted = dispatch(&request);
    assert_int_equal(predicted->pulled, HELD);
    double error = decision_error(predicted->pull_us, 200000);
    finish(N_PROMPT - HELD, HELD, 100 * (N_PROMPT - HELD), 200000);
    assert_errors(1, error);
}

/* Who can be asked for KV is named to the worker, and nobody for a prompt that is to be computed. */
static void test_holders_are_named(void **state)
{
    (void)state;
    hold();
    struct flow_request request = remote_request();
    (void)dispatch(&request);
    const struct fake_sent *sent = fake_last(&fake, FRAME_GENERATE);
    assert_int_equal(sent->n_have, 1);
    assert_string_equal(sent->have, "p1");
    assert_string_equal(sent->have_address, "tcp://p1");
    assert_int_equal(sent->have_tokens, HELD);
    assert_int_equal(sent->have_tier, KV_TIER_DEVICE);
    request.no_cache = true;
    (void)dispatch(&request);
    assert_int_equal(fake_last(&fake, FRAME_GENERATE)->n_have, 0);
    (void)fake_worker(&fake, "p1", "prefill", MODEL); /* who has it need not be told */
    request.no_cache = false;
    assert_int_equal(dispatch(&request)->cached, HELD);
    assert_int_equal(fake_last(&fake, FRAME_GENERATE)->n_have, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_all, close_all)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_index_is_asked),  TEST(test_what_is_not_fetched_is_learned),
        TEST(test_fetching_is_learned), TEST(test_fetching_what_decode_has_is_learned),
        TEST(test_pulls_are_compared),  TEST(test_holders_are_named),
    };
    return cmocka_run_group_tests_name("flow_learn", tests, NULL, NULL);
}
