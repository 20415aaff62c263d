/* The report as one page. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/serve_report.h"
#include "bench/svg_plot.h"

#define MAX_POINTS 3000u /* of one series; of more, every so manyth is drawn */
#define CDF_POINTS 240u
#define LEAST_MS   0.01

static void row(struct text_buffer *out, const char *name, const char *value)
{
    text_buffer_printf(out, "<tr><th>%s</th><td>", name);
    html_escape(out, value);
    text_buffer_add(out, "</td></tr>\n");
}

static void tell_facts(const struct serve_report *r, struct text_buffer *out)
{
    char text[256];
    text_buffer_add(out, "<h2>What was measured</h2>\n<table>\n");
    for (int i = 0; i < SERVE_FACT_COUNT; i++)
        row(out, serve_fact_name((enum serve_fact)i), r->identity->facts[i][0] ? r->identity->facts[i] : "not known");
    row(out, "started", r->started);
    row(out, "server", r->url);
    row(out, "command", r->command);
    (void)snprintf(text, sizeof text, "%.120s, %u cores, %.1f GiB, %.100s", r->machine->cpu, r->machine->cores,
                   (double)r->machine->memory_bytes / (double)(1u << 30), r->machine->kernel);
    row(out, "load from", text);
    text_buffer_add(out, "</table>\n");
}

static void tell_table(const struct serve_report *r, struct text_buffer *out)
{
    struct text_buffer table;
    text_buffer_init(&table, 1u << 20);
    serve_report_table(r, &table);
    text_buffer_add(out, "<pre>");
    html_escape(out, text_buffer_text(&table));
    text_buffer_add(out, "</pre>\n");
    text_buffer_free(&table);
}

/* ---- plots ------------------------------------------------------------------------------------- */

/* Milliseconds to the next power of ten. */
static double round_up(double ms)
{
    return pow(10, ceil(log10(ms > 2 * LEAST_MS ? ms : 2 * LEAST_MS)));
}

static double round_down(double ms)
{
    return pow(10, floor(log10(ms > LEAST_MS ? ms : LEAST_MS)));
}

static void plot_shares(const struct serve_report *r, struct text_buffer *out)
{
    static const enum serve_metric shown[] = { SERVE_METRIC_TTFT, SERVE_METRIC_ITL, SERVE_METRIC_TPOT,
                                               SERVE_METRIC_E2E };
    struct svg_plot plot = { .title = "Share of all within so many milliseconds",
                             .x_label = "milliseconds",
                             .y_label = "share",
                             .x_log = true,
                             .y_max = 1,
                             .out = out };
    double most = 0, least = INFINITY, x[CDF_POINTS], y[CDF_POINTS];
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        const struct latency_histogram *h = &r->summary->metrics[shown[i]];
        most = h->n && (double)h->max > most ? (double)h->max : most;
        least = h->n && (double)h->min < least ? (double)h->min : least;
    }
    plot.x_min = round_down(least < INFINITY ? least / 1e3 : 1);
    plot.x_max = round_up(most / 1e3);
    if (plot.x_max <= plot.x_min)
        plot.x_max = 10 * plot.x_min;
    svg_plot_begin(&plot);
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        for (uint32_t k = 0; k < CDF_POINTS; k++) {
            x[k] = plot.x_min * pow(plot.x_max / plot.x_min, (double)k / (CDF_POINTS - 1));
            y[k] = latency_share_within(&r->summary->metrics[shown[i]], (uint64_t)(x[k] * 1e3));
        }
        svg_plot_line(&plot, serve_metric_key(shown[i]), x, y, CDF_POINTS);
    }
    svg_plot_end(&plot);
}

static double last_second(const struct serve_run *run)
{
    uint64_t last = 0;
    for (size_t i = 0; i < run->n; i++) {
        last = run->records[i].due_us > last ? run->records[i].due_us : last;
        last = run->records[i].done_us > last ? run->records[i].done_us : last;
    }
    return last ? (double)last / 1e6 : 1;
}

/* By when they were due: those that are done by their time, the others at the bottom. */
static void plot_first_tokens(const struct serve_report *r, double seconds, double x[], double y[],
                              struct text_buffer *out)
{
    const struct serve_run *run = r->run;
    const struct latency_histogram *h = &r->summary->metrics[SERVE_METRIC_TTFT];
    size_t every = run->n / MAX_POINTS + 1;
    struct svg_plot plot = { .title = "Time to the first token, by when the request was due",
                             .x_label = "seconds",
                             .y_label = "milliseconds",
                             .x_max = seconds,
                             .y_log = true,
                             .y_min = round_down((double)h->min / 1e3),
                             .y_max = round_up((double)h->max / 1e3),
                             .out = out };
    if (plot.y_max <= plot.y_min)
        plot.y_max = 10 * plot.y_min;
    svg_plot_begin(&plot);
    for (int failed = 0; failed < 2; failed++) {
        size_t n = 0;
        for (size_t i = 0; i < run->n; i += failed ? 1 : every) {
            const struct serve_record *record = &run->records[i];
            if ((record->outcome != SERVE_DONE) != failed || n == MAX_POINTS)
                continue;
            x[n] = (double)record->due_us / 1e6;
            y[n++] = failed ? plot.y_min : (double)(record->first_us - record->due_us) / 1e3;
        }
        svg_plot_points(&plot, failed ? "failed" : "ttft", x, y, n);
    }
    svg_plot_end(&plot);
}

static void plot_events(const struct serve_report *r, double seconds, double x[], double y[], struct text_buffer *out)
{
    const struct serve_run *run = r->run;
    double width = (double)run->bin_us / 1e6, most = 0;
    size_t n = 0;
    for (; n < SERVE_BINS && (double)n * width < seconds; n++) {
        x[n] = ((double)n + 0.5) * width;
        y[n] = (double)run->event_bins[n] / width;
        most = y[n] > most ? y[n] : most;
    }
    struct svg_plot plot = { .title = "Events with text a second",
                             .x_label = "seconds",
                             .y_label = "events/s",
                             .x_max = seconds,
                             .y_max = most > 0 ? 1.05 * most : 1,
                             .out = out };
    svg_plot_begin(&plot);
    svg_plot_line(&plot, "events", x, y, n);
    svg_plot_end(&plot);
}

/* Adds one to each step that begins within [from, to). */
static void count_steps(double counts[], uint64_t from_us, uint64_t to_us, double step_s)
{
    double from = ceil((double)from_us / 1e6 / step_s), to = ceil((double)to_us / 1e6 / step_s);
    for (double k = from; k < to && k < SERVE_BINS; k++)
        counts[(uint32_t)k]++;
}

/* Requests that were sent and not yet answered, and those that were due and not yet sent. */
static void plot_under_way(const struct serve_report *r, double seconds, double x[], struct text_buffer *out)
{
    const struct serve_run *run = r->run;
    double step = seconds / SERVE_BINS, most = 1, sent[SERVE_BINS] = { 0 }, waiting[SERVE_BINS] = { 0 };
    for (size_t i = 0; i < run->n; i++) {
        const struct serve_record *record = &run->records[i];
        if (record->outcome == SERVE_NOT_SENT)
            continue;
        count_steps(sent, record->sent_us, record->done_us, step);
        count_steps(waiting, record->due_us, record->sent_us, step);
    }
    for (uint32_t k = 0; k < SERVE_BINS; k++) {
        x[k] = (double)k * step;
        most = fmax(most, fmax(sent[k], waiting[k]));
    }
    struct svg_plot plot = { .title = "Requests under way",
                             .x_label = "seconds",
                             .y_label = "requests",
                             .x_max = seconds,
                             .y_max = 1.05 * most,
                             .out = out };
    svg_plot_begin(&plot);
    svg_plot_line(&plot, "sent", x, sent, SERVE_BINS);
    svg_plot_line(&plot, "due, not sent", x, waiting, SERVE_BINS);
    svg_plot_end(&plot);
}

static void tell_plots(const struct serve_report *r, struct text_buffer *out)
{
    double *x = calloc(2 * MAX_POINTS, sizeof *x), seconds = last_second(r->run);
    if (!x) {
        out->state = ST_NO_MEMORY;
        return;
    }
    plot_shares(r, out);
    plot_first_tokens(r, seconds, x, x + MAX_POINTS, out);
    plot_events(r, seconds, x, x + MAX_POINTS, out);
    plot_under_way(r, seconds, x, out);
    free(x);
}

void serve_report_html(const struct serve_report *r, struct text_buffer *out)
{
    text_buffer_add(out, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>baton bench serve"
                         "</title>\n<style>body{font:14px sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;"
                         "color-scheme:light dark}pre{overflow-x:auto}th{text-align:left;vertical-align:top;"
                         "padding-right:1em}td{overflow-wrap:anywhere}figure{margin:1.5em 0}figcaption{font-weight:"
                         "bold}");
    text_buffer_add(out, svg_plot_style);
    text_buffer_add(out, "</style></head><body>\n<h1>baton bench serve</h1>\n");
    tell_table(r, out);
    tell_plots(r, out);
    tell_facts(r, out);
    text_buffer_add(out, "</body></html>\n");
}
