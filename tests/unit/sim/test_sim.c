#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/log.h"
#include "sim/sim.h"

#define LATENCY_US 100.0

/* A prompt of 100 tokens takes 2000 us, a step of n sequences 2000 + 500 n. */
static struct profile plain_profile(void)
{
    return (struct profile){ .name = "plain",
                             .prefill_base_us = 1000,
                             .prefill_token_us = 10,
                             .decode = { { UINT32_MAX, 2000, 0, 500 } },
                             .n_decode = 1,
                             .n_layers = 10,
                             .kv_token_bytes = 1000,
                             .kv_tokens = 16384,
                             .link_bytes_per_s = 1e9,
                             .link_latency_us = LATENCY_US };
}

static struct sim_result *simulate(const struct sim_options *o, const struct workload *w)
{
    struct sim_result *r = calloc(1, sizeof *r);
    struct error err = { "" };
    assert_non_null(r);
    status st = sim_run(o, w, r, &err);
    if (st != ST_OK)
        fail_msg("%s", err.text);
    return r;
}

static void done_with(struct sim_result *r)
{
    sim_result_free(r);
    free(r);
}

static void is_near(double a, double b)
{
    if (fabs(a - b) > 0.01)
        fail_msg("%.3f is not %.3f", a, b);
}

/* So many decode workers, and none for prefill. */
static struct sim_options at_decode(const struct profile *p, uint32_t n_decode)
{
    struct sim_options o = sim_defaults();
    o.profile = p;
    o.n_decode = n_decode;
    return o;
}

/* A's prompt runs alone, B's beside A's second token, then both decode. */
static void two_requests_at_one_worker_by_hand(void **state)
{
    struct workload_request requests[] = { { 0, 100, 3 }, { 500, 100, 2 } };
    const struct workload w = { .requests = requests, .n_requests = 2 };
    const struct profile p = plain_profile();
    struct sim_options o = at_decode(&p, 1);
    (void)state;
    struct sim_result *r = simulate(&o, &w);
    is_near(r->outcomes[0].ttft_us, LATENCY_US + 2000 + LATENCY_US);
    is_near(r->outcomes[1].ttft_us, LATENCY_US + 2000 + (2000 + 1000 + 500) + LATENCY_US - 500);
    is_near(r->outcomes[0].e2e_us, LATENCY_US + 2000 + 3500 + 3000 + LATENCY_US);
    is_near(r->outcomes[1].e2e_us, LATENCY_US + 2000 + 3500 + 3000 + LATENCY_US - 500);
    is_near(r->outcomes[0].tpot_us, (3500 + 3000) / 2.0);
    is_near(r->outcomes[1].tpot_us, 3000);
    is_near(r->itl.sum, 3500 + 3000 + 3000);
    is_near(r->decode.busy_s * 1e6, 2000 + 3500 + 3000);
    assert_int_equal(r->local, 2);
    done_with(r);
}

/* Steps of 2500 us run from 2100 on; B comes at 5000, between two ends of steps, and its prompt begins at the next. */
static void who_comes_amid_steps_by_hand(void **state)
{
    struct workload_request requests[] = { { 0, 100, 10 }, { 4900, 100, 1 } };
    const struct workload w = { .requests = requests, .n_requests = 2 };
    const struct profile p = plain_profile();
    struct sim_options o = at_decode(&p, 1);
    (void)state;
    struct sim_result *r = simulate(&o, &w);
    is_near(r->outcomes[1].ttft_us, 7100 + 3500 + LATENCY_US - 4900);
    is_near(r->outcomes[0].e2e_us, 2100 + 2 * 2500 + 3500 + 6 * 2500 + LATENCY_US);
    is_near(r->itl.sum, 8 * 2500 + 3500);
    assert_int_equal(r->itl.n, 9);
    assert_int_equal(r->decode.steps, 1 + 9);
    done_with(r);
}

/* Generate, Prefill, ask and grant; the prompt; its last layer on its way; a step. */
static void a_remote_prompt_by_hand(void **state)
{
    struct workload_request requests[] = { { 1000, 100, 2 } };
    const struct workload w = { .requests = requests, .n_requests = 1 };
    const struct profile p = plain_profile();
    struct sim_options o = sim_defaults();
    (void)state;
    o.profile = &p;
    o.n_prefill = o.n_decode = 1;
    o.policy = PICK_ROUND_ROBIN;
    struct sim_result *r = simulate(&o, &w);
    double all_us = 100 * 1000 / 1e9 * 1e6, last_layer = all_us / 10;
    double ttft = 4 * LATENCY_US + 2000 + last_layer + LATENCY_US + LATENCY_US;
    is_near(r->outcomes[0].ttft_us, ttft);
    is_near(r->outcomes[0].e2e_us, ttft + 2500);
    assert_int_equal(r->remote, 1);
    assert_int_equal(r->moved_bytes, 100000);
    done_with(r);
}

/* A long prompt is computed in chunks; what is found is not computed again. */
static void a_prompt_that_was_there_by_hand(void **state)
{
    struct workload_request requests[] = { { 0, 1040, 1 }, { 1000000, 1040, 1 } };
    uint32_t ids[] = { 0, 1, 2, 0, 1, 2 };
    size_t ends[] = { 3, 6 };
    const struct workload w = {
        .requests = requests, .n_requests = 2, .ids = ids, .ends = ends, .id_tokens = 512, .n_ids = 3
    };
    const struct profile p = plain_profile();
    struct sim_options o = at_decode(&p, 1);
    (void)state;
    struct sim_result *r = simulate(&o, &w);
    is_near(r->outcomes[0].ttft_us, 2 * LATENCY_US + 3 * 1000 + 1040 * 10);
    assert_int_equal(r->outcomes[1].cached, 1024); /* the last token is computed, with its block */
    is_near(r->outcomes[1].ttft_us, 2 * LATENCY_US + 1000 + 16 * 10);
    assert_int_equal(r->device_tokens, 1024);
    assert_int_equal(r->computed_tokens, 1040 + 16);
    assert_int_equal(r->index_blocks, 1040 / 16); /* 32 blocks an id */
    done_with(r);
}

/* Poisson arrivals at one server that takes as long for each: Wq = rho D / (2 (1 - rho)) (Pollaczek, Khinchine). */
static void a_queue_as_its_formula_says(void **state)
{
    const struct distribution input = { DIST_FIXED, 100, 0 }, output = { DIST_FIXED, 1, 0 };
    const struct profile p = plain_profile();
    struct arrivals_options a = arrivals_defaults();
    struct sim_options o = sim_defaults();
    struct workload w;
    double service = 2000, loads[] = { 0.3, 0.7 };
    (void)state;
    o.profile = &p;
    o.n_decode = 1;
    o.max_seqs = 1;
    for (int i = 0; i < 2; i++) {
        a.rate = 1e6 * loads[i] / service;
        assert_int_equal(workload_make(&a, &input, &output, 50000, 5, &w), ST_OK);
        struct sim_result *r = simulate(&o, &w);
        double wait = spread_mean(&r->ttft) - service - 2 * LATENCY_US;
        double formula = loads[i] * service / (2 * (1 - loads[i]));
        if (fabs(wait / formula - 1) > 0.05)
            fail_msg("waits %.1f us at load %.1f, by the formula %.1f us", wait, loads[i], formula);
        assert_int_equal(r->done, 50000);
        done_with(r);
        workload_free(&w);
    }
}

/* A busy cluster with shared beginnings, little room for KV, and deaths. */
struct busy {
    struct profile profile;
    struct sim_options options;
    struct sim_failure failures[4];
    struct workload workload;
};

#define BUSY_REQUESTS 3000u
#define BUSY_IDS      4u

static void make_busy(struct busy *b, enum pick_policy policy, bool with_deaths)
{
    const struct distribution input = { DIST_LOGNORMAL, 424, 0.83 }, output = { DIST_LOGNORMAL, 28, 0.83 };
    struct arrivals_options a = arrivals_defaults();
    b->profile = plain_profile();
    b->options = sim_defaults();
    b->options.profile = &b->profile;
    b->options.n_prefill = 2;
    b->options.n_decode = 3;
    b->options.policy = policy;
    b->options.max_seqs = 16;
    b->options.detect_us = 300000;
    b->options.worker_wait_us = 3600000000u; /* nobody gives up */
    a.process = ARRIVALS_MMPP;
    a.rate = 110;
    assert_int_equal(workload_make(&a, &input, &output, BUSY_REQUESTS, 3, &b->workload), ST_OK);
    for (uint32_t i = 0; i < BUSY_REQUESTS; i++) {
        struct workload_request *r = &b->workload.requests[i];
        r->n_input = r->n_input < 2000 ? r->n_input : 2000;
        r->n_output = r->n_output < 400 ? r->n_output : 400;
    }
    b->failures[0] = (struct sim_failure){ 2000000, 8000000, true, 1 };
    b->failures[1] = (struct sim_failure){ 3000000, 9000000, false, 0 };
    b->failures[2] = (struct sim_failure){ 12000000, UINT64_MAX, true, 0 };
    b->failures[3] = (struct sim_failure){ 15000000, 16000000, true, 1 };
    b->options.failures = b->failures;
    b->options.n_failures = with_deaths ? 4 : 0;
}

/* Of ten groups: the first blocks of a prompt are its group's. */
static void share_beginnings(struct workload *w)
{
    size_t n = 0;
    w->id_tokens = 64;
    w->n_ids = 10 * BUSY_IDS + BUSY_REQUESTS * 32;
    w->ids = calloc((size_t)BUSY_REQUESTS * 32, sizeof *w->ids);
    w->ends = calloc(BUSY_REQUESTS, sizeof *w->ends);
    assert_non_null(w->ids);
    assert_non_null(w->ends);
    for (uint32_t i = 0; i < BUSY_REQUESTS; i++) {
        uint32_t blocks = (w->requests[i].n_input + 63) / 64;
        for (uint32_t k = 0; k < blocks; k++)
            w->ids[n++] = k < BUSY_IDS ? i % 10 * BUSY_IDS + k : 10 * BUSY_IDS + i * 32 + k;
        w->ends[i] = n;
    }
}

static void check_all_ended(const struct sim_result *r)
{
    uint64_t done = 0;
    for (uint64_t i = 0; i < r->n_requests; i++) {
        const struct sim_outcome *o = &r->outcomes[i];
        assert_int_not_equal(o->end, SIM_NOT_ENDED);
        done += o->end == SIM_DONE;
        assert_true(o->end != SIM_DONE || (o->ttft_us > 0 && o->e2e_us >= o->ttft_us));
    }
    assert_int_equal(done, r->done);
    assert_int_equal(r->done + r->refused, r->n_requests);
    assert_int_equal(r->device_tokens + r->pulled_tokens + r->computed_tokens, r->prompt_tokens);
}

static void deaths_lose_nothing(void **state)
{
    (void)state;
    for (int policy = 0; policy < PICK_POLICY_COUNT; policy++) {
        struct busy b;
        make_busy(&b, (enum pick_policy)policy, true);
        share_beginnings(&b.workload);
        struct sim_result *r = simulate(&b.options, &b.workload);
        check_all_ended(r);
        assert_int_equal(r->done, BUSY_REQUESTS);
        assert_true(r->replays > 0);
        assert_true(r->legs > 0);
        done_with(r);
        workload_free(&b.workload);
    }
}

static void equal_runs_are_equal(void **state)
{
    struct busy b;
    (void)state;
    make_busy(&b, PICK_CACHE_AWARE, true);
    share_beginnings(&b.workload);
    struct sim_result *one = simulate(&b.options, &b.workload), *two = simulate(&b.options, &b.workload);
    assert_memory_equal(one->outcomes, two->outcomes, BUSY_REQUESTS * sizeof *one->outcomes);
    sim_result_free(one);
    sim_result_free(two);
    assert_memory_equal(one, two, sizeof *one);
    free(one);
    free(two);
    workload_free(&b.workload);
}

/* Where KV is short, sequences give it back and compute it again; all end. */
static void short_of_kv(void **state)
{
    struct busy b;
    (void)state;
    make_busy(&b, PICK_LEAST_LOADED, false);
    b.profile.kv_tokens = 2500;
    b.options.reserve_blocks = 0;
    struct sim_result *r = simulate(&b.options, &b.workload);
    check_all_ended(r);
    assert_true(r->preemptions > 0);
    assert_true(r->recomputed_tokens > 0);
    assert_int_equal(r->done, BUSY_REQUESTS);
    done_with(r);
    workload_free(&b.workload);
}

static void what_fits_nowhere_is_refused(void **state)
{
    struct workload_request requests[] = { { 0, 100, 2 }, { 10, 16384, 1 }, { 20, 100, 2 } };
    const struct workload w = { .requests = requests, .n_requests = 3 };
    const struct profile p = plain_profile();
    struct sim_options o = at_decode(&p, 1);
    (void)state;
    struct sim_result *r = simulate(&o, &w);
    assert_int_equal(r->outcomes[1].end, SIM_REFUSED);
    assert_int_equal(r->done, 2);
    done_with(r);
}

static void nobody_is_there(void **state)
{
    struct workload_request requests[] = { { 2000000, 100, 2 } };
    const struct workload w = { .requests = requests, .n_requests = 1 };
    const struct profile p = plain_profile();
    const struct sim_failure dies = { 1000, UINT64_MAX, true, 0 };
    struct sim_options o = at_decode(&p, 1);
    (void)state;
    o.failures = &dies;
    o.n_failures = 1;
    struct sim_result *r = simulate(&o, &w);
    assert_int_equal(r->outcomes[0].end, SIM_REFUSED);
    assert_true(fabs(r->seconds - 2 - (double)o.worker_wait_us / 1e6) < 0.001);
    done_with(r);
}

static void what_cannot_be_simulated_is_said(void **state)
{
    struct workload_request requests[] = { { 10, 100, 2 }, { 5, 100, 2 } };
    const struct workload w = { .requests = requests, .n_requests = 2 }, none = { 0 };
    const struct profile p = plain_profile();
    const struct sim_failure nobody = { 1000, UINT64_MAX, true, 7 };
    struct sim_options o = sim_defaults();
    struct sim_result *r = calloc(1, sizeof *r);
    struct error err;
    (void)state;
    assert_non_null(r);
    o.profile = &p;
    o.n_decode = 1;
    assert_int_equal(sim_run(&o, &w, r, &err), ST_INVALID);
    assert_int_equal(sim_run(&o, &none, r, &err), ST_LIMIT);
    requests[1].arrival_us = 20;
    o.failures = &nobody;
    o.n_failures = 1;
    assert_int_equal(sim_run(&o, &w, r, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "no decode worker 7"));
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(two_requests_at_one_worker_by_hand),
                                        cmocka_unit_test(who_comes_amid_steps_by_hand),
                                        cmocka_unit_test(a_remote_prompt_by_hand),
                                        cmocka_unit_test(a_prompt_that_was_there_by_hand),
                                        cmocka_unit_test(a_queue_as_its_formula_says),
                                        cmocka_unit_test(deaths_lose_nothing),
                                        cmocka_unit_test(equal_runs_are_equal),
                                        cmocka_unit_test(short_of_kv),
                                        cmocka_unit_test(what_fits_nowhere_is_refused),
                                        cmocka_unit_test(nobody_is_there),
                                        cmocka_unit_test(what_cannot_be_simulated_is_said) };
    log_init("test", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
