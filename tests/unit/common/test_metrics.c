/* The registry: what is rendered, bounds on series, and counting from several threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/metrics.h"

enum sample_metric {
#define METRIC METRIC_ID
#include "metrics_sample.def"
#undef METRIC
};

static const struct metric_row sample_rows[] = {
#define METRIC METRIC_ROW
#include "metrics_sample.def"
#undef METRIC
};
static const struct metric_table sample = METRIC_TABLE(sample_rows);

static struct metrics *metrics;
static struct text_buffer page;

static int begin(void **state)
{
    (void)state;
    assert_int_equal(metrics_create("mill", &metrics), ST_OK);
    metrics_add_table(metrics, &sample);
    metrics_add_table(metrics, &sample);
    text_buffer_init(&page, 1 << 22);
    return 0;
}

static int end(void **state)
{
    (void)state;
    metrics_destroy(&metrics);
    text_buffer_free(&page);
    return metrics != NULL;
}

static struct metric *get(enum sample_metric id, const char *a, const char *b)
{
    return metrics_series(metrics, &sample, id, (const char *const[]){ a, b });
}

static const char *render(void)
{
    text_buffer_clear(&page);
    metrics_render(metrics, &page);
    assert_int_equal(page.state, ST_OK);
    return text_buffer_text(&page);
}

static void assert_line(const char *line)
{
    char wanted[512];
    snprintf(wanted, sizeof wanted, "\n%s\n", line);
    if (!strstr(render(), wanted))
        fail_msg("no line \"%s\" in\n%s", line, text_buffer_text(&page));
}

static void test_counters_and_gauges(void **state)
{
    (void)state;
    struct metric *ok = get(ANSWERS, "m", "200");
    metric_add(ok, 2);
    metric_add(get(ANSWERS, "m", "200"), 1);
    metric_add_real(get(ANSWERS, "m", "500"), 0.25);
    metric_set(get(QUEUE, NULL, NULL), 17);
    metric_add(get(QUEUE, NULL, NULL), -3);
    assert_ptr_equal(ok, get(ANSWERS, "m", "200"));
    assert_true(metric_value(ok) == 3);
    assert_line("# TYPE baton_answers_total counter");
    assert_line("# HELP baton_answers_total Answers by code");
    assert_line("baton_answers_total{model=\"m\",code=\"200\"} 3");
    assert_line("baton_answers_total{model=\"m\",code=\"500\"} 0.25");
    assert_line("# TYPE baton_queue_length gauge");
    assert_line("baton_queue_length 14");
    metric_add(ok, 1234567890123456);
    assert_line("baton_answers_total{model=\"m\",code=\"200\"} 1234567890123459");
}

static void test_rows_without_labels_are_there_as_zero(void **state)
{
    (void)state;
    assert_line("baton_queue_length 0");
    assert_line("baton_wait_seconds_count 0");
    assert_null(strstr(render(), "baton_answers_total"));
}

static void test_escaping(void **state)
{
    (void)state;
    metric_add(get(ANSWERS, "a\"b\\c\nd", "x"), 1);
    assert_line("baton_answers_total{model=\"a\\\"b\\\\c\\nd\",code=\"x\"} 1");
    assert_line("# HELP baton_wait_seconds Time\\nin \\\\ the queue");
}

static void test_histograms(void **state)
{
    (void)state;
    struct metric *m = get(STEP, "prefill", NULL);
    metric_observe_us(m, 0);
    metric_observe_us(m, 100); /* the bound belongs to its bucket */
    metric_observe_us(m, 101);
    metric_observe_us(m, 60000000);
    metric_observe_us(m, 60000001);
    assert_true(metric_value(m) == 5);
    assert_line("# TYPE baton_step_seconds histogram");
    assert_line("baton_step_seconds_bucket{kind=\"prefill\",le=\"0.0001\"} 2");
    assert_line("baton_step_seconds_bucket{kind=\"prefill\",le=\"0.00025\"} 3");
    assert_line("baton_step_seconds_bucket{kind=\"prefill\",le=\"30\"} 3");
    assert_line("baton_step_seconds_bucket{kind=\"prefill\",le=\"60\"} 4");
    assert_line("baton_step_seconds_bucket{kind=\"prefill\",le=\"+Inf\"} 5");
    assert_line("baton_step_seconds_sum{kind=\"prefill\"} 120.000202");
    assert_line("baton_step_seconds_count{kind=\"prefill\"} 5");
    metric_observe_us(get(WAIT, NULL, NULL), 2000);
    assert_line("baton_wait_seconds_bucket{le=\"0.0025\"} 1");
    assert_line("baton_wait_seconds_sum 0.002");
}

/* Label values come from clients: a flood of them ends in one series. */
static void test_series_are_bounded(void **state)
{
    (void)state;
    char model[32];
    for (int i = 0; i < METRICS_MAX_SERIES + 50; i++) {
        snprintf(model, sizeof model, "model-%d", i);
        metric_add(get(ANSWERS, model, "200"), 1);
    }
    assert_ptr_equal(get(ANSWERS, "yet another", "404"), get(ANSWERS, "other", "other"));
    assert_ptr_not_equal(get(ANSWERS, "model-0", "200"), get(ANSWERS, "other", "other"));
    assert_line("baton_answers_total{model=\"other\",code=\"other\"} 51");
    size_t lines = 0;
    for (const char *p = render(); (p = strstr(p, "\nbaton_answers_total{")); p++)
        lines++;
    assert_int_equal(lines, METRICS_MAX_SERIES);
}

static void test_long_label_values_are_cut(void **state)
{
    (void)state;
    char value[1000];
    memset(value, 'v', sizeof value);
    value[sizeof value - 1] = '\0';
    struct metric *m = get(ANSWERS, value, "200");
    value[500] = '\0';
    assert_ptr_equal(m, get(ANSWERS, value, "200"));
    value[METRICS_MAX_LABEL_BYTES - 1] = '\0';
    assert_ptr_not_equal(m, get(ANSWERS, value, "200"));
}

static void set_queue(void *arg)
{
    metric_set(arg, 5);
}

static void test_collectors_run_before_each_rendering(void **state)
{
    (void)state;
    metrics_on_render(metrics, set_queue, get(QUEUE, NULL, NULL));
    assert_line("baton_queue_length 5");
}

static double rendered_value(const char *name)
{
    char key[128];
    snprintf(key, sizeof key, "\n%s ", name);
    const char *line = strstr(render(), key);
    assert_non_null(line);
    return strtod(line + strlen(key), NULL);
}

static void test_process_rows(void **state)
{
    (void)state;
    assert_line("baton_build_info{version=\"" BATON_VERSION "\",role=\"mill\"} 1");
    assert_true(rendered_value("process_resident_memory_bytes") > 100000);
    double fds = rendered_value("process_open_fds");
    assert_true(fds >= 3 && fds < 1000);
    double age = (double)time(NULL) - rendered_value("process_start_time_seconds");
    assert_true(age > -2 && age < 600);
    double before = rendered_value("process_cpu_seconds_total");
    for (volatile uint64_t i = 0; i < 200000000; i++) {
    }
    assert_true(rendered_value("process_cpu_seconds_total") > before);
}

#define THREADS 4
#define ROUNDS  50000

static void *count(void *arg)
{
    (void)arg;
    struct metric *total = get(QUEUE, NULL, NULL), *waits = get(WAIT, NULL, NULL);
    for (int i = 0; i < ROUNDS; i++) {
        metric_add(total, 1);
        metric_add_real(total, 0.5);
        metric_observe_us(waits, 10);
        if (i % 1000 == 0)
            metric_add(get(ANSWERS, i % 2000 ? "odd" : "even", "200"), 1);
    }
    return NULL;
}

static void test_threads_lose_nothing(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count, NULL), 0);
    for (int i = 0; i < 20; i++)
        render();
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_true(metric_value(get(QUEUE, NULL, NULL)) == THREADS * ROUNDS * 1.5);
    assert_true(metric_value(get(WAIT, NULL, NULL)) == THREADS * ROUNDS);
    assert_true(metric_value(get(ANSWERS, "odd", "200")) == THREADS * ROUNDS / 2000);
}

static void test_reference_page(void **state)
{
    (void)state;
    metrics_write_markdown(&sample, &page);
    assert_non_null(
        strstr(text_buffer_text(&page), "| `baton_answers_total` | counter | model,code | Answers by code |\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_counters_and_gauges, begin, end),
        cmocka_unit_test_setup_teardown(test_rows_without_labels_are_there_as_zero, begin, end),
        cmocka_unit_test_setup_teardown(test_escaping, begin, end),
        cmocka_unit_test_setup_teardown(test_histograms, begin, end),
        cmocka_unit_test_setup_teardown(test_series_are_bounded, begin, end),
        cmocka_unit_test_setup_teardown(test_long_label_values_are_cut, begin, end),
        cmocka_unit_test_setup_teardown(test_collectors_run_before_each_rendering, begin, end),
        cmocka_unit_test_setup_teardown(test_process_rows, begin, end),
        cmocka_unit_test_setup_teardown(test_threads_lose_nothing, begin, end),
        cmocka_unit_test_setup_teardown(test_reference_page, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
