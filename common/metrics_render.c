/* The registry as text: for scrapers, and as the reference page. */
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/metrics_internal.h"

static const char *type_text(enum metric_type type)
{
    static const char *const texts[] = { "counter", "gauge", "histogram" };
    return texts[type];
}

static void write_escaped(struct text_buffer *out, const char *text, bool in_quotes)
{
    for (; *text; text++) {
        if (*text == '\n')
            text_buffer_add(out, "\\n");
        else if (*text == '\\' || (in_quotes && *text == '"'))
            text_buffer_append(out, (char[]){ '\\', *text }, 2);
        else
            text_buffer_char(out, *text);
    }
}

/* Counters are exact as integers up to 2^53; everything else in its shortest form. */
static void write_number(struct text_buffer *out, double v)
{
    char text[40];
    if (isnan(v) || isinf(v)) {
        text_buffer_add(out, isnan(v) ? "NaN" : v > 0 ? "+Inf" : "-Inf");
        return;
    }
    for (int precision = 6; precision <= 17; precision++) {
        snprintf(text, sizeof text, "%.*g", precision, v);
        if (strtod(text, NULL) == v)
            break;
    }
    text_buffer_add(out, text);
}

/* {a="x",b="y",le="0.1"}; nothing when there is no label. le: NULL, or the last label's value. */
static void write_labels(struct text_buffer *out, const struct metric *m, const char *le)
{
    const char *name = m->row->labels;
    char separator = '{';
    for (size_t i = 0; i < METRICS_MAX_LABELS && *name; i++) {
        size_t len = strcspn(name, ",");
        text_buffer_printf(out, "%c%.*s=\"", separator, (int)len, name);
        write_escaped(out, m->values[i], true);
        text_buffer_char(out, '"');
        separator = ',';
        name += len + (name[len] == ',');
    }
    if (le)
        text_buffer_printf(out, "%cle=\"%s\"", separator, le);
    if (le || separator == ',')
        text_buffer_char(out, '}');
}

static void write_histogram(struct text_buffer *out, const struct metric *m)
{
    uint64_t sum = 0;
    char le[32];
    for (size_t i = 0; i <= METRIC_N_BUCKETS; i++) {
        sum += atomic_load_explicit(&m->buckets[i], memory_order_relaxed);
        if (i < METRIC_N_BUCKETS)
            snprintf(le, sizeof le, "%g", metric_bound(i));
        else
            snprintf(le, sizeof le, "+Inf");
        text_buffer_printf(out, "%s_bucket", m->row->name);
        write_labels(out, m, le);
        text_buffer_printf(out, " %" PRIu64 "\n", sum);
    }
    text_buffer_printf(out, "%s_sum", m->row->name);
    write_labels(out, m, NULL);
    text_buffer_char(out, ' ');
    write_number(out, (double)atomic_load_explicit(&m->whole, memory_order_relaxed) / 1e6);
    /* The count is the sum of the buckets that were just written, so that both agree. */
    text_buffer_printf(out, "\n%s_count", m->row->name);
    write_labels(out, m, NULL);
    text_buffer_printf(out, " %" PRIu64 "\n", sum);
}

static void write_series(struct text_buffer *out, const struct metric *m)
{
    if (m->row->type == METRIC_HISTOGRAM) {
        write_histogram(out, m);
        return;
    }
    text_buffer_add(out, m->row->name);
    write_labels(out, m, NULL);
    text_buffer_char(out, ' ');
    write_number(out, metric_value(m));
    text_buffer_char(out, '\n');
}

static void write_row(struct text_buffer *out, const struct metric_row *row, const struct metric_series_list *list)
{
    if (list->n == 0)
        return;
    text_buffer_printf(out, "# HELP %s ", row->name);
    write_escaped(out, row->help, false);
    text_buffer_printf(out, "\n# TYPE %s %s\n", row->name, type_text(row->type));
    for (size_t i = 0; i < list->n; i++)
        write_series(out, list->items[i]);
}

void metrics_render(struct metrics *metrics, struct text_buffer *out)
{
    /* Collectors take the lock themselves, by metrics_series. */
    for (size_t i = 0; i < metrics->n_collectors; i++)
        metrics->collectors[i].fn(metrics->collectors[i].arg);
    pthread_mutex_lock(&metrics->lock);
    for (size_t t = 0; t < metrics->n_tables; t++)
        for (size_t i = 0; i < metrics->tables[t].table->n_rows; i++)
            write_row(out, &metrics->tables[t].table->rows[i], &metrics->tables[t].rows[i]);
    pthread_mutex_unlock(&metrics->lock);
}

void metrics_write_markdown(const struct metric_table *table, struct text_buffer *out)
{
    text_buffer_add(out, "| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct metric_row *row = &table->rows[i];
        text_buffer_printf(out, "| `%s` | %s | %s | %s |\n", row->name, type_text(row->type), row->labels, row->help);
    }
}
