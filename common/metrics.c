#include "common/metrics.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/metrics_internal.h"

static const double bounds[] = {
#define X(v) v,
    METRIC_BUCKETS(X)
#undef X
};
_Static_assert(sizeof bounds / sizeof bounds[0] == METRIC_N_BUCKETS, "bounds of histograms");

double metric_bound(size_t i)
{
    return bounds[i];
}

status metrics_create(const char *role, struct metrics **out)
{
    struct metrics *metrics = calloc(1, sizeof *metrics);
    if (!metrics)
        return ST_NO_MEMORY;
    pthread_mutex_init(&metrics->lock, NULL);
    metrics_add_table(metrics, &metrics_process_table);
    metrics_process_start(metrics, role);
    *out = metrics;
    return ST_OK;
}

static void free_row(struct metric_series_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        for (size_t j = 0; j < METRICS_MAX_LABELS; j++)
            free(list->items[i]->values[j]);
        free(list->items[i]->buckets);
        free(list->items[i]);
    }
    free(list->items);
}

void metrics_destroy(struct metrics **p)
{
    struct metrics *metrics = *p;
    if (!metrics)
        return;
    *p = NULL;
    for (size_t t = 0; t < metrics->n_tables; t++) {
        for (size_t i = 0; i < metrics->tables[t].table->n_rows; i++)
            free_row(&metrics->tables[t].rows[i]);
        free(metrics->tables[t].rows);
    }
    pthread_mutex_destroy(&metrics->lock);
    free(metrics);
}

static struct metric_series_list *rows_of(struct metrics *metrics, const struct metric_table *table)
{
    for (size_t t = 0; t < metrics->n_tables; t++)
        if (metrics->tables[t].table == table)
            return metrics->tables[t].rows;
    return NULL;
}

size_t metric_label_count(const struct metric_row *row)
{
    size_t n = row->labels[0] ? 1 : 0;
    for (const char *p = row->labels; *p; p++)
        n += *p == ',';
    return n;
}

static void *must_alloc(size_t n, size_t size)
{
    void *p = calloc(n, size);
    ASSERT(p != NULL);
    return p;
}

/* Under the lock. values: n label values, already cut. */
static struct metric *add_series(struct metric_series_list *list, const struct metric_row *row,
                                 const char *const values[], size_t n)
{
    struct metric *m = must_alloc(1, sizeof *m);
    m->row = row;
    for (size_t i = 0; i < n; i++) {
        m->values[i] = strndup(values[i], METRICS_MAX_LABEL_BYTES);
        ASSERT(m->values[i] != NULL);
    }
    if (row->type == METRIC_HISTOGRAM)
        m->buckets = must_alloc(METRIC_N_BUCKETS + 1, sizeof *m->buckets);
    if (list->n == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 1;
        list->items = realloc(list->items, list->capacity * sizeof(struct metric *));
        ASSERT(list->items != NULL);
    }
    list->items[list->n++] = m;
    return m;
}

static bool same_values(const struct metric *m, const char *const values[], size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strncmp(m->values[i], values[i], METRICS_MAX_LABEL_BYTES) != 0)
            return false;
    return true;
}

static struct metric *find_series(const struct metric_series_list *list, const char *const values[], size_t n)
{
    for (size_t i = 0; i < list->n; i++)
        if (same_values(list->items[i], values, n))
            return list->items[i];
    return NULL;
}

void metrics_add_table(struct metrics *metrics, const struct metric_table *table)
{
    pthread_mutex_lock(&metrics->lock);
    if (!rows_of(metrics, table)) {
        ASSERT(metrics->n_tables < METRICS_MAX_TABLES);
        struct metric_table_series *t = &metrics->tables[metrics->n_tables++];
        t->table = table;
        t->rows = must_alloc(table->n_rows, sizeof *t->rows);
        for (size_t i = 0; i < table->n_rows; i++) {
            ASSERT(metric_label_count(&table->rows[i]) <= METRICS_MAX_LABELS);
            /* A row without labels is there from the start, as zero. */
            if (!table->rows[i].labels[0])
                add_series(&t->rows[i], &table->rows[i], NULL, 0);
        }
    }
    pthread_mutex_unlock(&metrics->lock);
}

struct metric *metrics_series(struct metrics *metrics, const struct metric_table *table, size_t id,
                              const char *const values[])
{
    static const char *const others[METRICS_MAX_LABELS] = { "other", "other", "other", "other", "other", "other" };
    pthread_mutex_lock(&metrics->lock);
    struct metric_series_list *list = rows_of(metrics, table);
    ASSERT(list != NULL && id < table->n_rows);
    const struct metric_row *row = &table->rows[id];
    size_t n = metric_label_count(row);
    struct metric *m = find_series(&list[id], values, n);
    if (!m && list[id].n >= METRICS_MAX_SERIES - 1) {
        values = others;
        m = find_series(&list[id], values, n);
    }
    if (!m)
        m = add_series(&list[id], row, values, n);
    pthread_mutex_unlock(&metrics->lock);
    return m;
}

void metric_add(struct metric *m, int64_t n)
{
    ASSERT(m->row->type != METRIC_HISTOGRAM);
    atomic_fetch_add_explicit(&m->whole, n, memory_order_relaxed);
}

void metric_add_real(struct metric *m, double v)
{
    ASSERT(m->row->type != METRIC_HISTOGRAM);
    double before = atomic_load_explicit(&m->real, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&m->real, &before, before + v, memory_order_relaxed,
                                                  memory_order_relaxed)) {
    }
}

void metric_set(struct metric *m, double v)
{
    ASSERT(m->row->type != METRIC_HISTOGRAM);
    atomic_store_explicit(&m->whole, 0, memory_order_relaxed);
    atomic_store_explicit(&m->real, v, memory_order_relaxed);
}

static size_t bucket_of(uint64_t us)
{
    size_t low = 0, high = METRIC_N_BUCKETS;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if ((double)us <= bounds[middle] * 1e6)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

void metric_observe_us(struct metric *m, uint64_t us)
{
    ASSERT(m->row->type == METRIC_HISTOGRAM);
    atomic_fetch_add_explicit(&m->buckets[bucket_of(us)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->whole, (int64_t)us, memory_order_relaxed);
}

double metric_value(const struct metric *m)
{
    double sum = 0;
    if (m->row->type != METRIC_HISTOGRAM)
        return (double)atomic_load_explicit(&m->whole, memory_order_relaxed) +
               atomic_load_explicit(&m->real, memory_order_relaxed);
    for (size_t i = 0; i <= METRIC_N_BUCKETS; i++)
        sum += (double)atomic_load_explicit(&m->buckets[i], memory_order_relaxed);
    return sum;
}

void metrics_on_render(struct metrics *metrics, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&metrics->lock);
    ASSERT(metrics->n_collectors < METRICS_MAX_COLLECTORS);
    metrics->collectors[metrics->n_collectors++] = (struct metric_collector){ fn, arg };
    pthread_mutex_unlock(&metrics->lock);
}
