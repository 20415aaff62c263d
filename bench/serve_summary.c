#include "bench/serve_summary.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define FEW_FOR_TAILS 1000u

const char *serve_metric_key(enum serve_metric metric)
{
    static const char *const keys[] = {
#define X(name, key, text) key,
        SERVE_METRICS(X)
#undef X
    };
    return keys[metric];
}

const char *serve_metric_about(enum serve_metric metric)
{
    static const char *const texts[] = {
#define X(name, key, text) text,
        SERVE_METRICS(X)
#undef X
    };
    return texts[metric];
}

bool serve_slo_any(const struct serve_slo *slo)
{
    return slo->ttft_us || slo->e2e_us || slo->tpot_us || slo->itl_us;
}

bool serve_slo_met(const struct serve_slo *slo, const struct serve_record *r)
{
    return r->outcome == SERVE_DONE && (!slo->ttft_us || r->first_us - r->due_us <= slo->ttft_us) &&
           (!slo->e2e_us || r->done_us - r->due_us <= slo->e2e_us) &&
           (!slo->tpot_us || serve_record_tpot_us(r) <= (double)slo->tpot_us) &&
           (!slo->itl_us || r->max_gap_us <= slo->itl_us);
}

static void add_done(struct serve_summary *s, const struct serve_record *r)
{
    struct latency_histogram *m = s->metrics;
    s->n_done++;
    latency_add(&m[SERVE_METRIC_TTFT], r->first_us - r->due_us);
    latency_add(&m[SERVE_METRIC_TTFT_SENT], r->first_us - r->sent_us);
    if (serve_record_tokens(r) > 1)
        latency_add(&m[SERVE_METRIC_TPOT], (uint64_t)llround(serve_record_tpot_us(r)));
    latency_add(&m[SERVE_METRIC_E2E], r->done_us - r->due_us);
    latency_add(&m[SERVE_METRIC_E2E_SENT], r->done_us - r->sent_us);
    s->has_usage = s->has_usage && r->output_tokens > 0;
    s->prompt_tokens += r->prompt_tokens;
    s->cached_tokens += r->cached_tokens;
    s->output_tokens += serve_record_tokens(r);
    s->wanted_input += r->wanted_input;
    s->wanted_output += r->wanted_output;
}

static void add(struct serve_summary *s, const struct serve_record *r, const struct serve_slo *slo)
{
    s->n++;
    s->outcomes[r->outcome]++;
    s->n_good += serve_slo_met(slo, r);
    if (r->outcome != SERVE_NOT_SENT)
        latency_add(&s->metrics[SERVE_METRIC_LAG], r->sent_us - r->due_us);
    if (r->outcome == SERVE_DONE)
        add_done(s, r);
}

/* ---- doubts ----------------------------------------------------------------------------- */

static void doubt(struct serve_summary *s, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void doubt(struct serve_summary *s, const char *fmt, ...)
{
    va_list args;
    if (s->n_doubts == SERVE_MAX_DOUBTS)
        return;
    va_start(args, fmt);
    (void)vsnprintf(s->doubts[s->n_doubts++], SERVE_DOUBT_BYTES, fmt, args);
    va_end(args);
}

static void doubt_client(struct serve_summary *s, const struct serve_run *run)
{
    double late_us = latency_quantile(&s->metrics[SERVE_METRIC_LAG], 0.99);
    if (load_is_bottleneck(&run->load))
        doubt(
            s,
            "the client was the bottleneck: its thread ran, or waited for a processor, %.0f %% of the time; the times "
            "are the client's and not the server's",
            100 * run->load.busy);
    if (run->n_waited > 0)
        doubt(s, "%llu requests found no connection free and waited for one: --connections is too low for this load",
              (unsigned long long)run->n_waited);
    else if (late_us > SERVE_LATE_US)
        doubt(s, "the client sent 1 %% of the requests %.0f ms late or more, though connections were free",
              late_us / 1e3);
}

static void doubt_figures(struct serve_summary *s)
{
    double output = s->wanted_output ? (double)s->output_tokens / (double)s->wanted_output : 1;
    if (s->n_done > 0 && !s->has_usage)
        doubt(s, "the server does not count tokens: an event with text counts as one");
    if (s->n_done > 0 && fabs(output - 1) > SERVE_OFF_SHARE)
        doubt(s, "answers have %.0f %% of the tokens that were wanted", 100 * output);
    if (s->n_done < FEW_FOR_TAILS)
        doubt(s, "%llu answers are few for a 99th percentile: one in a hundred is above it",
              (unsigned long long)s->n_done);
}

status serve_summarise(const struct serve_run *run, uint64_t n_warmup, const struct serve_slo *slo,
                       struct serve_summary **out)
{
    uint64_t first = UINT64_MAX, last = 0;
    struct serve_summary *s = calloc(1, sizeof *s);
    if (!s)
        return ST_NO_MEMORY;
    s->has_usage = true;
    s->metrics[SERVE_METRIC_ITL] = run->gaps;
    for (size_t i = n_warmup; i < run->n; i++) {
        const struct serve_record *r = &run->records[i];
        first = r->due_us < first ? r->due_us : first;
        last = r->done_us > last ? r->done_us : last;
        add(s, r, slo);
    }
    s->seconds = last > first ? (double)(last - first) / 1e6 : 0;
    doubt_client(s, run);
    doubt_figures(s);
    *out = s;
    return ST_OK;
}
