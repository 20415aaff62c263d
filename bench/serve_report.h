/* serve_report.h - a run for people and for programs. The JSON of a run is what a baseline is. Pure. */
#ifndef BATON_BENCH_SERVE_REPORT_H
#define BATON_BENCH_SERVE_REPORT_H

#include "bench/machine.h"
#include "bench/serve_identity.h"
#include "bench/serve_summary.h"

struct serve_report {
    const struct serve_run *run;
    const struct serve_summary *summary;
    const struct serve_identity *identity;
    const struct machine *machine;
    struct serve_slo slo;
    uint64_t n_warmup;
    const char *url, *command; /* as it was called */
    const char *started;       /* 2026-11-30T08:34:57Z */
    const json_t *baseline;    /* what it is compared with; NULL: nothing */
    const char *baseline_name;
};

#define SERVE_SCHEMA "baton bench serve 1"

/* Rates of a run, by their keys in the JSON. */
struct serve_rate {
    const char *key, *about;
    double value;
};
#define SERVE_MAX_RATES 6u
uint32_t serve_report_rates(const struct serve_report *r, struct serve_rate out[SERVE_MAX_RATES]);
/* Milliseconds of quantile i of serve_quantiles. */
#define SERVE_QUANTILES 5u
extern const struct serve_quantile {
    const char *key;
    double q;
} serve_quantiles[SERVE_QUANTILES];

void serve_report_table(const struct serve_report *r, struct text_buffer *out);
void serve_report_json(const struct serve_report *r, struct text_buffer *out);
/* One line of JSON for each request. */
void serve_report_records(const struct serve_run *run, struct text_buffer *out);
/* A page that needs nothing else: tables and plots. */
void serve_report_html(const struct serve_report *r, struct text_buffer *out);

#endif
