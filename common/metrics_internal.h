/* metrics_internal.h - what metrics.c, metrics_render.c and metrics_process.c share. */
#ifndef BATON_COMMON_METRICS_INTERNAL_H
#define BATON_COMMON_METRICS_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "common/metrics.h"

#define METRIC_N_BUCKETS 19

/* One series. The value of a counter or gauge is whole + real; a histogram's sum in microseconds is whole. */
struct metric {
    const struct metric_row *row;
    char *values[METRICS_MAX_LABELS];
    _Atomic int64_t whole;
    _Atomic double real;
    _Atomic uint64_t *buckets; /* METRIC_N_BUCKETS + 1, not cumulative; histograms only */
};

/* The array moves when it grows, the series do not. */
struct metric_series_list {
    struct metric **items;
    size_t n, capacity;
};

struct metric_table_series {
    const struct metric_table *table;
    struct metric_series_list *rows; /* one list for each row */
};

struct metric_collector {
    void (*fn)(void *arg);
    void *arg;
};

struct metrics {
    pthread_mutex_t lock; /* guards the lists; values are atomic */
    size_t n_tables, n_collectors;
    struct metric_table_series tables[METRICS_MAX_TABLES];
    struct metric_collector collectors[METRICS_MAX_COLLECTORS];
};

double metric_bound(size_t i);
size_t metric_label_count(const struct metric_row *row);
void metrics_process_start(struct metrics *metrics, const char *role);

#endif
