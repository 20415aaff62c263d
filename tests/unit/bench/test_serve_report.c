/* Figures of made-up runs, what makes them doubtful, and the pages that tell them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/serve_report.h"

#define N 2000u

static struct serve_record records[N];
static struct serve_run run;

/* One each 10 ms, sent 2 ms late; the first token 5 ms later, then 9 more, 3 ms apart each. */
static void make_run(void)
{
    run = (struct serve_run){ .records = records, .n = N, .bin_us = SERVE_BIN_US, .load = { .elapsed_us = 20000000 } };
    for (uint32_t i = 0; i < N; i++) {
        uint64_t due = 10000 * (uint64_t)i;
        records[i] = (struct serve_record){ .due_us = due,
                                            .sent_us = due + 2000,
                                            .first_us = due + 7000,
                                            .last_us = due + 34000,
                                            .done_us = due + 35000,
                                            .conversation = i,
                                            .wanted_input = 20,
                                            .wanted_output = 10,
                                            .prompt_tokens = 32,
                                            .cached_tokens = 16,
                                            .output_tokens = 10,
                                            .n_events = 10,
                                            .max_gap_us = 3000,
                                            .http = 200 };
        for (int k = 0; k < 9; k++)
            latency_add(&run.gaps, 3000);
    }
}

static struct serve_summary *summary_of(uint64_t warmup, struct serve_slo slo)
{
    struct serve_summary *s;
    assert_int_equal(serve_summarise(&run, warmup, &slo, &s), ST_OK);
    return s;
}

static bool is_near(double a, double b)
{
    return fabs(a - b) <= b * LATENCY_ERROR;
}

static void test_times_from_due_and_from_sent(void **state)
{
    (void)state;
    make_run();
    struct serve_summary *s = summary_of(0, (struct serve_slo){ .ttft_us = 0 });
    assert_int_equal(s->n_done, N);
    assert_true(is_near(latency_quantile(&s->metrics[SERVE_METRIC_TTFT], 0.5), 7000));
    assert_true(is_near(latency_quantile(&s->metrics[SERVE_METRIC_TTFT_SENT], 0.5), 5000));
    assert_true(is_near(latency_quantile(&s->metrics[SERVE_METRIC_E2E], 0.99), 35000));
    assert_true(is_near(latency_quantile(&s->metrics[SERVE_METRIC_E2E_SENT], 0.99), 33000));
    assert_true(is_near(latency_quantile(&s->metrics[SERVE_METRIC_TPOT], 0.5), 3000));
    assert_true(is_near(latency_quantile(&s->metrics[SERVE_METRIC_LAG], 0.5), 2000));
    assert_true(fabs(s->seconds - 20.025) < 1e-9);
    assert_int_equal(s->n_doubts, 0);
    free(s);
}

/* A stall that holds requests back in the client shows from when they were due, and hides from when they were sent. */
static void test_coordinated_omission(void **state)
{
    (void)state;
    make_run();
    for (uint32_t i = 500; i < 600; i++) {
        uint64_t shift = 1000000 - 10000 * (i - 500);
        records[i].sent_us += shift;
        records[i].first_us += shift;
        records[i].done_us += shift;
    }
    struct serve_summary *s = summary_of(0, (struct serve_slo){ .ttft_us = 10000 });
    assert_true(is_near(latency_quantile(&s->metrics[SERVE_METRIC_TTFT_SENT], 0.99), 5000));
    assert_true(latency_quantile(&s->metrics[SERVE_METRIC_TTFT], 0.99) > 700000);
    assert_int_equal(s->n_good, N - 100);
    assert_int_equal(s->n_doubts, 1);
    assert_non_null(strstr(s->doubts[0], "late"));
    free(s);
}

static void test_goodput(void **state)
{
    (void)state;
    make_run();
    records[0].outcome = SERVE_CLOSED; /* what fails meets nothing */
    records[1].max_gap_us = 50000;
    records[2].first_us = records[2].due_us + 100000;
    records[2].last_us = records[2].done_us = records[2].due_us + 127000;
    records[3].done_us = records[3].due_us + 900000;
    records[4].last_us = records[4].first_us + 9 * 8000;
    static const struct {
        struct serve_slo slo;
        uint64_t misses;
    } cases[] = {
        { { .itl_us = 10000 }, 2 },
        { { .ttft_us = 20000 }, 2 },
        { { .e2e_us = 500000 }, 2 },
        { { .tpot_us = 5000 }, 2 },
        { { .itl_us = 10000, .ttft_us = 20000, .e2e_us = 500000, .tpot_us = 5000 }, 5 },
        { { .itl_us = 50000, .ttft_us = 100000, .e2e_us = 900000, .tpot_us = 8000 }, 1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct serve_summary *s = summary_of(0, cases[i].slo);
        assert_int_equal(s->n_good, N - cases[i].misses);
        assert_int_equal(s->outcomes[SERVE_CLOSED], 1);
        free(s);
    }
}

static void test_warmup_does_not_count(void **state)
{
    (void)state;
    make_run();
    for (uint32_t i = 0; i < 10; i++)
        records[i].first_us += 20000;
    struct serve_summary *s = summary_of(10, (struct serve_slo){ .ttft_us = 0 });
    assert_int_equal(s->n, N - 10);
    assert_int_equal(s->metrics[SERVE_METRIC_TTFT].max, 7000);
    free(s);
}

static void expect_doubt(const char *word)
{
    struct serve_summary *s = summary_of(0, (struct serve_slo){ .ttft_us = 0 });
    assert_int_equal(s->n_doubts, 1);
    assert_non_null(strstr(s->doubts[0], word));
    free(s);
    make_run();
}

static void test_doubts(void **state)
{
    (void)state;
    make_run();
    run.load.busy = 0.95;
    expect_doubt("bottleneck");
    run.n_waited = 3;
    expect_doubt("--connections");
    run.n = 200;
    expect_doubt("few");
    for (uint32_t i = 0; i < N; i++)
        records[i].output_tokens = 5;
    expect_doubt("50 %");
    records[7].output_tokens = 0;
    expect_doubt("does not count");
}

/* ---- pages ---------------------------------------------------------------------------------- */

static const struct serve_identity identity = { .facts = { [SERVE_FACT_MODEL] = "<m> & \"n\"" } };
static const struct machine machine = { .cpu = "a processor", .cores = 2, .memory_bytes = 1 << 30, .kernel = "Linux" };

static struct serve_report report_of(const struct serve_summary *s, const json_t *baseline)
{
    return (struct serve_report){ .run = &run,
                                  .summary = s,
                                  .identity = &identity,
                                  .machine = &machine,
                                  .slo = { .ttft_us = 10000 },
                                  .url = "http://127.0.0.1:1",
                                  .command = "baton bench serve",
                                  .started = "2026-01-01T00:00:00Z",
                                  .baseline = baseline,
                                  .baseline_name = "before" };
}

static void test_json_is_a_baseline(void **state)
{
    struct text_buffer json, table;
    (void)state;
    make_run();
    records[5].outcome = SERVE_REFUSED;
    run.statuses[429] = 1;
    text_copy(run.errors[SERVE_REFUSED], SERVE_ERROR_BYTES, "429: full");
    struct serve_summary *s = summary_of(0, (struct serve_slo){ .ttft_us = 10000 });
    struct serve_report r = report_of(s, NULL);
    text_buffer_init(&json, 1 << 20);
    text_buffer_init(&table, 1 << 20);
    serve_report_json(&r, &json);
    json_t *root = json_loads(text_buffer_text(&json), 0, NULL);
    assert_string_equal(json_string_value(json_object_get(root, "schema")), SERVE_SCHEMA);
    const json_t *refused = json_object_get(json_object_get(root, "errors"), "refused");
    assert_int_equal(json_integer_value(json_object_get(refused, "n")), 1);
    assert_string_equal(json_string_value(json_object_get(refused, "first")), "429: full");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "http_statuses"), "429")), 1);
    const json_t *ttft = json_object_get(json_object_get(root, "latency_ms"), "ttft");
    assert_true(is_near(json_number_value(json_object_get(ttft, "p95")), 7));
    r.baseline = root;
    serve_report_table(&r, &table);
    assert_non_null(strstr(text_buffer_text(&table), "first token, from due, p95, ms"));
    assert_non_null(strstr(text_buffer_text(&table), "1.000"));
    assert_null(strstr(text_buffer_text(&table), "nan"));
    json_decref(root);
    text_buffer_free(&json);
    text_buffer_free(&table);
    free(s);
}

static void check_page(void)
{
    struct text_buffer page;
    struct serve_summary *s = summary_of(0, (struct serve_slo){ .ttft_us = 10000 });
    struct serve_report r = report_of(s, NULL);
    text_buffer_init(&page, 1 << 22);
    serve_report_html(&r, &page);
    const char *text = text_buffer_text(&page);
    assert_int_equal(page.state, ST_OK);
    assert_non_null(strstr(text, "<svg"));
    assert_non_null(strstr(text, "</html>"));
    assert_non_null(strstr(text, "&lt;m&gt; &amp; &quot;n&quot;"));
    assert_null(strstr(text, "<m>"));
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf\""));
    assert_null(strstr(text, "src="));
    assert_null(strstr(text, "href="));
    assert_null(strstr(text, "<script"));
    text_buffer_free(&page);
    free(s);
}

/* Also of runs that have nothing to plot. */
static void test_page_needs_nothing_else(void **state)
{
    (void)state;
    make_run();
    check_page();
    run.n = 0;
    run.gaps = (struct latency_histogram){ .n = 0 };
    check_page();
    make_run();
    for (uint32_t i = 0; i < N; i++)
        records[i] = (struct serve_record){ .outcome = SERVE_NOT_SENT, .due_us = 5 };
    check_page();
}

static void test_records(void **state)
{
    struct text_buffer lines;
    (void)state;
    make_run();
    run.n = 2;
    text_buffer_init(&lines, 1 << 16);
    serve_report_records(&run, &lines);
    char *second = strchr(lines.data, '\n') + 1;
    json_t *root = json_loads(second, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(root, "conversation")), 1);
    assert_true(json_number_value(json_object_get(root, "due_ms")) == 10);
    json_decref(root);
    text_buffer_free(&lines);
}

/* ---- what may be compared ---------------------------------------------------------------------- */

static struct serve_identity known(void)
{
    struct serve_identity id;
    for (int i = 0; i < SERVE_FACT_COUNT; i++)
        text_copy(id.facts[i], SERVE_FACT_BYTES, serve_fact_name((enum serve_fact)i));
    return id;
}

static json_t *written(const struct serve_identity *id)
{
    struct text_buffer text;
    struct json_writer w;
    text_buffer_init(&text, 1 << 16);
    json_writer_init(&w, &text);
    serve_identity_write(id, &w);
    json_t *root = json_loads(text_buffer_text(&text), 0, NULL);
    text_buffer_free(&text);
    return root;
}

static void check_differences(const struct serve_identity *now, const json_t *then, uint32_t n, const char *words)
{
    struct text_buffer out;
    text_buffer_init(&out, 1 << 16);
    assert_int_equal(serve_identity_compare(now, then, &out), n);
    assert_non_null(strstr(text_buffer_text(&out), words));
    text_buffer_free(&out);
}

static void test_each_fact_is_compared(void **state)
{
    struct serve_identity id = known();
    char words[128];
    (void)state;
    json_t *then = written(&id);
    check_differences(&id, then, 0, "");
    for (int i = 0; i < SERVE_FACT_COUNT; i++) {
        const char *name = serve_fact_name((enum serve_fact)i);
        id = known();
        text_copy(id.facts[i], SERVE_FACT_BYTES, "other");
        (void)snprintf(words, sizeof words, "%s: this run has \"other\", the baseline \"%s\"\n", name, name);
        check_differences(&id, then, 1, words);
        id.facts[i][0] = '\0';
        (void)snprintf(words, sizeof words, "%s: of this run it is not known; of the other it is \"%s\"\n", name, name);
        check_differences(&id, then, 1, words);
        assert_int_equal(serve_fact_find(name, strlen(name)), i);
    }
    id = known();
    check_differences(&id, NULL, SERVE_FACT_COUNT, "model: of the baseline it is not known");
    id.facts[SERVE_FACT_CACHE][0] = '\0';
    json_object_set_new(then, "cache", json_string(""));
    check_differences(&id, then, 1, "cache: of either run it is not known\n");
    assert_int_equal(serve_fact_find("mode", 4), SERVE_FACT_COUNT);
    json_decref(then);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times_from_due_and_from_sent),
        cmocka_unit_test(test_coordinated_omission),
        cmocka_unit_test(test_goodput),
        cmocka_unit_test(test_warmup_does_not_count),
        cmocka_unit_test(test_doubts),
        cmocka_unit_test(test_json_is_a_baseline),
        cmocka_unit_test(test_page_needs_nothing_else),
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_each_fact_is_compared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
