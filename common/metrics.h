/* metrics.h - counters, gauges and histograms in the Prometheus text format.
 * Rows stand in a table: METRIC(id, "baton_x_total", COUNTER|GAUGE|HISTOGRAM, "label,names", "help"),
 * from which docs/METRICS.md is generated. Declaring and defining one:
 *   enum router_metric {
 *   #define METRIC METRIC_ID
 *   #include "router/metrics.def"        // METRIC(ROUTER_REQUESTS, "baton_router_requests_total", ...)
 *   #undef METRIC
 *   };
 *   static const struct metric_row rows[] = {
 *   #define METRIC METRIC_ROW
 *   #include "router/metrics.def"
 *   #undef METRIC
 *   };
 *   const struct metric_table router_metrics = METRIC_TABLE(rows);
 * and using one:
 *   struct metric *m = metrics_series(metrics, &router_metrics, ROUTER_REQUESTS, (const char *[]){ model, "200" });
 *   metric_add(m, 1);
 * A series (struct metric) lives as long as its registry, so hot paths keep the pointer. */
#ifndef BATON_COMMON_METRICS_H
#define BATON_COMMON_METRICS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "common/text_buffer.h"

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metric_row {
    const char *name;
    enum metric_type type;
    const char *labels; /* "model,code"; "" for none */
    const char *help;
};

struct metric_table {
    const struct metric_row *rows;
    size_t n_rows;
};

/* clang-format off */
#define METRIC_ID(id, name, TYPE, labels, help) id,
#define METRIC_ROW(id, name, TYPE, labels, help) { name, METRIC_##TYPE, labels, help },
#define METRIC_TABLE(rows) { rows, sizeof(rows) / sizeof(rows)[0] }
/* clang-format on */

#define METRICS_MAX_TABLES      8
#define METRICS_MAX_LABELS      6
#define METRICS_MAX_SERIES      256 /* of one row; further label values share the series "other" */
#define METRICS_MAX_LABEL_BYTES 128 /* of one label value; longer ones are cut */
#define METRICS_MAX_COLLECTORS  32

/* Upper bounds of all histograms, in seconds; +Inf follows. */
/* clang-format off */
#define METRIC_BUCKETS(X) \
    X(0.0001) X(0.00025) X(0.0005) X(0.001) X(0.0025) X(0.005) X(0.01) X(0.025) X(0.05) X(0.1) \
    X(0.25) X(0.5) X(1) X(2.5) X(5) X(10) X(20) X(30) X(60)
/* clang-format on */

struct metrics;
struct metric;

/* process: cpu seconds, resident bytes, open descriptors and start time of this process, and
 * baton_build_info{version,role}, are always there. role is copied. */
MUST_CHECK status metrics_create(const char *role, struct metrics **out);
void metrics_destroy(struct metrics **metrics);
/* table is borrowed for the life of metrics; adding it again does nothing. */
void metrics_add_table(struct metrics *metrics, const struct metric_table *table);

/* The series of row id of a table (added when it is new) with these label values, one for each label
 * name; NULL values for a row without labels. Takes a lock; any thread. Never NULL. */
struct metric *metrics_series(struct metrics *metrics, const struct metric_table *table, size_t id,
                              const char *const values[]);

/* Any thread, without locks. */
void metric_add(struct metric *m, int64_t n);          /* counter (n >= 0) or gauge */
void metric_add_real(struct metric *m, double v);      /* counter of seconds and the like */
void metric_set(struct metric *m, double v);           /* gauge, or a counter whose total is kept elsewhere */
void metric_observe_us(struct metric *m, uint64_t us); /* histogram */
/* Counter or gauge: the value; histogram: the number of observations. */
double metric_value(const struct metric *m);

/* fn is called at the start of each rendering, on the rendering thread, to bring gauges up to date. */
void metrics_on_render(struct metrics *metrics, void (*fn)(void *arg), void *arg);
/* Prometheus text format 0.0.4. */
void metrics_render(struct metrics *metrics, struct text_buffer *out);
/* Reference page: one markdown table of these rows. */
void metrics_write_markdown(const struct metric_table *table, struct text_buffer *out);
/* The rows that every registry has. */
extern const struct metric_table metrics_process_table;

#endif
