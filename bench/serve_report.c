#include "bench/serve_report.h"

#include <stdio.h>

const struct serve_quantile serve_quantiles[SERVE_QUANTILES] = {
    { "p50", 0.5 }, { "p90", 0.9 }, { "p95", 0.95 }, { "p99", 0.99 }, { "p999", 0.999 },
};

static const char *const outcome_names[] = {
#define X(name, text) text,
    SERVE_OUTCOMES(X)
#undef X
};

static double per_second(double n, double seconds)
{
    return seconds > 0 ? n / seconds : 0;
}

uint32_t serve_report_rates(const struct serve_report *r, struct serve_rate out[SERVE_MAX_RATES])
{
    const struct serve_summary *s = r->summary;
    uint32_t n = 0;
    out[n++] = (struct serve_rate){ "requests_per_s", "answers a second", per_second((double)s->n_done, s->seconds) };
    out[n++] = (struct serve_rate){ "output_tokens_per_s", "tokens of answers a second",
                                    per_second((double)s->output_tokens, s->seconds) };
    out[n++] = (struct serve_rate){ "prompt_tokens_per_s", "tokens of prompts a second",
                                    per_second((double)s->prompt_tokens, s->seconds) };
    out[n++] = (struct serve_rate){ "cached_share", "cached, of prompts' tokens",
                                    s->prompt_tokens ? (double)s->cached_tokens / (double)s->prompt_tokens : 0 };
    if (!serve_slo_any(&r->slo))
        return n;
    out[n++] = (struct serve_rate){ "goodput_per_s", "answers within objectives a second",
                                    per_second((double)s->n_good, s->seconds) };
    out[n++] = (struct serve_rate){ "attained", "within objectives, of all requests",
                                    s->n ? (double)s->n_good / (double)s->n : 0 };
    return n;
}

/* ---- table -------------------------------------------------------------------------------- */

static void table_errors(const struct serve_report *r, struct text_buffer *out)
{
    for (int i = SERVE_DONE + 1; i < SERVE_OUTCOME_COUNT; i++)
        if (r->summary->outcomes[i])
            text_buffer_printf(out, "  %-16s %8llu   first: %s\n", outcome_names[i],
                               (unsigned long long)r->summary->outcomes[i],
                               r->run->errors[i][0] ? r->run->errors[i] : "");
    for (uint32_t i = 0; i < SERVE_MAX_HTTP_STATUS; i++)
        if (r->run->statuses[i])
            text_buffer_printf(out, "  HTTP status %-4u %8u\n", i, r->run->statuses[i]);
}

static void table_times(const struct serve_report *r, struct text_buffer *out)
{
    text_buffer_printf(out, "%-26s %9s %9s", "milliseconds", "mean", "least");
    for (uint32_t q = 0; q < SERVE_QUANTILES; q++)
        text_buffer_printf(out, " %9s", serve_quantiles[q].key);
    text_buffer_printf(out, " %9s\n", "most");
    for (int i = 0; i < SERVE_METRIC_COUNT; i++) {
        const struct latency_histogram *h = &r->summary->metrics[i];
        if (h->n == 0)
            continue;
        text_buffer_printf(out, "%-26s %9.2f %9.2f", serve_metric_about((enum serve_metric)i), latency_mean(h) / 1e3,
                           (double)h->min / 1e3);
        for (uint32_t q = 0; q < SERVE_QUANTILES; q++)
            text_buffer_printf(out, " %9.2f", latency_quantile(h, serve_quantiles[q].q) / 1e3);
        text_buffer_printf(out, " %9.2f\n", (double)h->max / 1e3);
    }
}

static double baseline_ms(const struct serve_report *r, enum serve_metric metric, const char *key)
{
    const json_t *times = json_object_get(r->baseline, "latency_ms");
    return json_number_value(json_object_get(json_object_get(times, serve_metric_key(metric)), key));
}

static void compare_line(const char *what, double now, double then, struct text_buffer *out)
{
    text_buffer_printf(out, "%-38s %12.3f %12.3f", what, now, then);
    if (then > 0)
        text_buffer_printf(out, " %8.3f", now / then);
    text_buffer_char(out, '\n');
}

static void table_baseline(const struct serve_report *r, struct text_buffer *out)
{
    struct serve_rate rates[SERVE_MAX_RATES];
    uint32_t n = serve_report_rates(r, rates);
    char what[64];
    const json_t *throughput = json_object_get(r->baseline, "throughput");
    text_buffer_printf(out, "\n%-38s %12s %12.12s %8s\n", "", "this run", r->baseline_name, "ratio");
    for (int i = 0; i < SERVE_METRIC_COUNT; i++)
        for (uint32_t q = 0; q < SERVE_QUANTILES - 1 && r->summary->metrics[i].n > 0; q++) {
            (void)snprintf(what, sizeof what, "%s, %s, ms", serve_metric_about((enum serve_metric)i),
                           serve_quantiles[q].key);
            compare_line(what, latency_quantile(&r->summary->metrics[i], serve_quantiles[q].q) / 1e3,
                         baseline_ms(r, (enum serve_metric)i, serve_quantiles[q].key), out);
        }
    for (uint32_t i = 0; i < n; i++)
        compare_line(rates[i].about, rates[i].value, json_number_value(json_object_get(throughput, rates[i].key)), out);
}

void serve_report_table(const struct serve_report *r, struct text_buffer *out)
{
    const struct serve_summary *s = r->summary;
    struct serve_rate rates[SERVE_MAX_RATES];
    uint32_t n = serve_report_rates(r, rates);
    text_buffer_printf(out, "%s\n%s\n\n", r->identity->facts[SERVE_FACT_MODEL], r->identity->facts[SERVE_FACT_TRAFFIC]);
    text_buffer_printf(out, "%llu requests in %.1f s, %llu done, %llu failed%s\n", (unsigned long long)s->n, s->seconds,
                       (unsigned long long)s->n_done, (unsigned long long)(s->n - s->n_done),
                       r->run->interrupted ? "; interrupted" : "");
    table_errors(r, out);
    text_buffer_char(out, '\n');
    table_times(r, out);
    text_buffer_char(out, '\n');
    for (uint32_t i = 0; i < n; i++)
        text_buffer_printf(out, "%-38s %12.3f\n", rates[i].about, rates[i].value);
    text_buffer_printf(out, "%-38s %12.3f\n", "client's busy share", r->run->load.busy);
    if (r->baseline)
        table_baseline(r, out);
    for (uint32_t i = 0; i < s->n_doubts; i++)
        text_buffer_printf(out, "%snote: %s\n", i ? "" : "\n", s->doubts[i]);
}

/* ---- JSON ----------------------------------------------------------------------------------- */

static void json_times(const struct serve_report *r, struct json_writer *w)
{
    json_write_object(w);
    for (int i = 0; i < SERVE_METRIC_COUNT; i++) {
        const struct latency_histogram *h = &r->summary->metrics[i];
        json_write_key(w, serve_metric_key((enum serve_metric)i));
        json_write_object(w);
        json_field_uint(w, "n", h->n);
        json_field_real(w, "mean", latency_mean(h) / 1e3);
        json_field_real(w, "min", (double)h->min / 1e3);
        for (uint32_t q = 0; q < SERVE_QUANTILES; q++)
            json_field_real(w, serve_quantiles[q].key, latency_quantile(h, serve_quantiles[q].q) / 1e3);
        json_field_real(w, "max", (double)h->max / 1e3);
        json_write_end(w);
    }
    json_write_end(w);
}

static void json_errors(const struct serve_report *r, struct json_writer *w)
{
    char code[16];
    json_write_object(w);
    for (int i = SERVE_DONE + 1; i < SERVE_OUTCOME_COUNT; i++) {
        if (!r->summary->outcomes[i])
            continue;
        json_write_key(w, outcome_names[i]);
        json_write_object(w);
        json_field_uint(w, "n", r->summary->outcomes[i]);
        json_field_string(w, "first", r->run->errors[i]);
        json_write_end(w);
    }
    json_write_end(w);
    json_write_key(w, "http_statuses");
    json_write_object(w);
    for (uint32_t i = 0; i < SERVE_MAX_HTTP_STATUS; i++) {
        (void)snprintf(code, sizeof code, "%u", i);
        if (r->run->statuses[i])
            json_field_uint(w, code, r->run->statuses[i]);
    }
    json_write_end(w);
}

static void json_requests(const struct serve_summary *s, struct json_writer *w)
{
    json_write_object(w);
    json_field_uint(w, "n", s->n);
    json_field_uint(w, "done", s->n_done);
    json_field_uint(w, "failed", s->n - s->n_done);
    json_field_real(w, "seconds", s->seconds);
    json_field_uint(w, "prompt_tokens", s->prompt_tokens);
    json_field_uint(w, "cached_tokens", s->cached_tokens);
    json_field_uint(w, "output_tokens", s->output_tokens);
    json_field_uint(w, "wanted_input_tokens", s->wanted_input);
    json_field_uint(w, "wanted_output_tokens", s->wanted_output);
    json_field_bool(w, "tokens_counted_by_server", s->has_usage);
    json_write_end(w);
}

static void json_environment(const struct serve_report *r, struct json_writer *w)
{
    json_write_object(w);
    json_field_string(w, "started", r->started);
    json_field_string(w, "command", r->command);
    json_field_string(w, "url", r->url);
    json_field_string(w, "version", "baton " BATON_VERSION);
    json_field_string(w, "cpu", r->machine->cpu);
    json_field_uint(w, "cores", r->machine->cores);
    json_field_uint(w, "memory_bytes", r->machine->memory_bytes);
    json_field_string(w, "kernel", r->machine->kernel);
    json_write_end(w);
}

static void json_client(const struct serve_report *r, struct json_writer *w)
{
    const struct load_stats *l = &r->run->load;
    json_write_object(w);
    json_field_real(w, "busy_share", l->busy);
    json_field_bool(w, "bottleneck", load_is_bottleneck(l));
    json_field_uint(w, "waited_for_connection", r->run->n_waited);
    json_field_uint(w, "connects", l->connects);
    json_field_uint(w, "events", l->events);
    json_field_real(w, "events_per_s", per_second((double)l->events, (double)l->elapsed_us / 1e6));
    json_field_uint(w, "bytes_in", l->bytes_in);
    json_field_uint(w, "bytes_out", l->bytes_out);
    json_write_end(w);
}

static void json_slo(const struct serve_report *r, struct json_writer *w)
{
    const struct serve_slo *slo = &r->slo;
    json_write_object(w);
    if (slo->ttft_us)
        json_field_real(w, "ttft_ms", (double)slo->ttft_us / 1e3);
    if (slo->itl_us)
        json_field_real(w, "itl_ms", (double)slo->itl_us / 1e3);
    if (slo->tpot_us)
        json_field_real(w, "tpot_ms", (double)slo->tpot_us / 1e3);
    if (slo->e2e_us)
        json_field_real(w, "e2e_ms", (double)slo->e2e_us / 1e3);
    json_write_end(w);
}

void serve_report_json(const struct serve_report *r, struct text_buffer *out)
{
    struct json_writer w;
    struct serve_rate rates[SERVE_MAX_RATES];
    uint32_t n = serve_report_rates(r, rates);
    json_writer_init(&w, out);
    json_write_object(&w);
    json_field_string(&w, "schema", SERVE_SCHEMA);
    json_write_key(&w, "identity");
    serve_identity_write(r->identity, &w);
    json_write_key(&w, "environment");
    json_environment(r, &w);
    json_field_bool(&w, "interrupted", r->run->interrupted);
    json_field_uint(&w, "warmup", r->n_warmup);
    json_write_key(&w, "requests");
    json_requests(r->summary, &w);
    json_write_key(&w, "errors");
    json_errors(r, &w);
    json_write_key(&w, "latency_ms");
    json_times(r, &w);
    json_write_key(&w, "throughput");
    json_write_object(&w);
    for (uint32_t i = 0; i < n; i++)
        json_field_real(&w, rates[i].key, rates[i].value);
    json_write_end(&w);
    json_write_key(&w, "objectives");
    json_slo(r, &w);
    json_write_key(&w, "client");
    json_client(r, &w);
    json_write_key(&w, "notes");
    json_write_array(&w);
    for (uint32_t i = 0; i < r->summary->n_doubts; i++)
        json_write_string(&w, r->summary->doubts[i]);
    json_write_end(&w);
    json_write_end(&w);
    text_buffer_char(out, '\n');
}

void serve_report_records(const struct serve_run *run, struct text_buffer *out)
{
    for (size_t i = 0; i < run->n; i++) {
        const struct serve_record *r = &run->records[i];
        struct json_writer w;
        json_writer_init(&w, out);
        json_write_object(&w);
        json_field_uint(&w, "conversation", r->conversation);
        json_field_uint(&w, "turn", r->turn);
        json_field_string(&w, "outcome", outcome_names[r->outcome]);
        json_field_uint(&w, "http", r->http);
        json_field_real(&w, "due_ms", (double)r->due_us / 1e3);
        json_field_real(&w, "sent_ms", (double)r->sent_us / 1e3);
        json_field_real(&w, "first_ms", (double)r->first_us / 1e3);
        json_field_real(&w, "last_ms", (double)r->last_us / 1e3);
        json_field_real(&w, "done_ms", (double)r->done_us / 1e3);
        json_field_real(&w, "longest_gap_ms", (double)r->max_gap_us / 1e3);
        json_field_uint(&w, "events", r->n_events);
        json_field_uint(&w, "wanted_input", r->wanted_input);
        json_field_uint(&w, "wanted_output", r->wanted_output);
        json_field_uint(&w, "prompt_tokens", r->prompt_tokens);
        json_field_uint(&w, "cached_tokens", r->cached_tokens);
        json_field_uint(&w, "output_tokens", r->output_tokens);
        json_write_end(&w);
        text_buffer_char(out, '\n');
    }
}
