#include "sim/report.h"

#include "common/json_writer.h"

#define MS 1000.0

static const double shares[] = { 0.5, 0.9, 0.95, 0.99 };
static const char *const share_names[] = { "p50", "p90", "p95", "p99" };
#define N_SHARES (sizeof shares / sizeof *shares)

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* ---- JSON ------------------------------------------------------------------------------------------------- */

static void write_spread(struct json_writer *w, const char *key, const struct spread *s)
{
    json_write_key(w, key);
    json_write_object(w);
    json_field_uint(w, "n", s->n);
    json_field_real(w, "mean", spread_mean(s) / MS);
    for (size_t i = 0; i < N_SHARES; i++)
        json_field_real(w, share_names[i], spread_at(s, shares[i]) / MS);
    json_field_real(w, "max", s->most / MS);
    json_write_end(w);
}

static void write_role(struct json_writer *w, const char *key, const struct sim_role *r)
{
    json_write_key(w, key);
    json_write_object(w);
    json_field_uint(w, "workers", r->workers);
    json_field_real(w, "worker_hours", r->up_s / 3600);
    json_field_real(w, "utilisation", ratio(r->busy_s, r->up_s));
    json_field_uint(w, "steps", r->steps);
    json_field_uint(w, "prompt_tokens", r->prompt_tokens);
    json_write_end(w);
}

static void write_cache(struct json_writer *w, const struct sim_result *r)
{
    json_write_key(w, "prompt_tokens");
    json_write_object(w);
    json_field_uint(w, "all", r->prompt_tokens);
    json_field_uint(w, "device", r->device_tokens);
    json_field_uint(w, "remote", r->pulled_tokens);
    json_field_uint(w, "computed", r->computed_tokens);
    json_field_uint(w, "recomputed", r->recomputed_tokens);
    json_write_end(w);
    json_field_real(w, "hit_rate", ratio((double)(r->device_tokens + r->pulled_tokens), (double)r->prompt_tokens));
}

static void write_counts(struct json_writer *w, const struct sim_result *r)
{
    json_write_key(w, "counts");
    json_write_object(w);
    json_field_uint(w, "decisions", r->decisions);
    json_field_uint(w, "local", r->local);
    json_field_uint(w, "remote", r->remote);
    json_field_uint(w, "refusals", r->refusals);
    json_field_uint(w, "preemptions", r->preemptions);
    json_field_uint(w, "replays", r->replays);
    json_field_uint(w, "legs_failed", r->legs);
    json_field_uint(w, "pulls", r->pulls);
    json_field_uint(w, "pulls_short", r->pulls_short);
    json_field_uint(w, "pulled_bytes", r->pulled_bytes);
    json_field_uint(w, "moved_bytes", r->moved_bytes);
    json_field_uint(w, "evicted_blocks", r->evicted_blocks);
    json_field_uint(w, "index_blocks", r->index_blocks);
    json_field_uint(w, "events", r->events);
    json_write_end(w);
}

void report_write_json(const struct sim_options *o, const struct sim_result *r, struct text_buffer *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_write_object(&w);
    json_field_string(&w, "profile", o->profile->name);
    json_field_string(&w, "policy", pick_policy_name(o->policy));
    json_field_uint(&w, "block_tokens", o->block_tokens);
    json_field_uint(&w, "requests", r->n_requests);
    json_field_uint(&w, "done", r->done);
    json_field_uint(&w, "refused", r->refused);
    json_field_uint(&w, "counted", r->counted);
    json_field_real(&w, "seconds", r->seconds);
    write_spread(&w, "ttft_ms", &r->ttft);
    write_spread(&w, "itl_ms", &r->itl);
    write_spread(&w, "tpot_ms", &r->tpot);
    write_spread(&w, "e2e_ms", &r->e2e);
    json_field_uint(&w, "good", r->good);
    json_field_real(&w, "attainment", ratio((double)r->good, (double)r->counted));
    json_field_real(&w, "goodput", ratio((double)r->good, r->seconds - (double)o->warmup_us / 1e6));
    json_field_real(&w, "tokens_per_s", ratio((double)r->output_tokens, r->seconds - (double)o->warmup_us / 1e6));
    write_cache(&w, r);
    write_role(&w, "prefill", &r->prefill);
    write_role(&w, "decode", &r->decode);
    write_counts(&w, r);
    json_write_end(&w);
}

/* ---- a page for people ---------------------------------------------------------------------------------------- */

static void table_spread(struct text_buffer *out, const char *name, const struct spread *s)
{
    text_buffer_printf(out, "%-24s %10.2f", name, spread_mean(s) / MS);
    for (size_t i = 0; i < N_SHARES; i++)
        text_buffer_printf(out, " %10.2f", spread_at(s, shares[i]) / MS);
    text_buffer_printf(out, " %10.2f\n", s->most / MS);
}

static void table_role(struct text_buffer *out, const char *name, const struct sim_role *r)
{
    if (r->workers)
        text_buffer_printf(out, "%-24s %10u %10.2f %9.1f%%\n", name, r->workers, r->up_s / 3600,
                           100 * ratio(r->busy_s, r->up_s));
}

static void table_cache(struct text_buffer *out, const struct sim_result *r)
{
    double all = (double)r->prompt_tokens;
    text_buffer_printf(out,
                       "prompt tokens %llu: %.1f%% found in the device, %.1f%% fetched from others, %.1f%% computed\n",
                       (unsigned long long)r->prompt_tokens, 100 * ratio((double)r->device_tokens, all),
                       100 * ratio((double)r->pulled_tokens, all), 100 * ratio((double)r->computed_tokens, all));
}

static void table_counts(struct text_buffer *out, const struct sim_result *r)
{
    text_buffer_printf(out, "decisions %llu: %llu prompts computed by decode workers, %llu by prefill workers\n",
                       (unsigned long long)r->decisions, (unsigned long long)r->local, (unsigned long long)r->remote);
    if (r->preemptions + r->replays + r->legs + r->refusals)
        text_buffer_printf(out, "preemptions %llu, replays %llu, prefills that failed %llu, refusals by workers %llu\n",
                           (unsigned long long)r->preemptions, (unsigned long long)r->replays,
                           (unsigned long long)r->legs, (unsigned long long)r->refusals);
}

void report_write_table(const struct sim_options *o, const struct sim_result *r, struct text_buffer *out)
{
    double seconds = r->seconds - (double)o->warmup_us / 1e6;
    text_buffer_printf(out, "%s, policy %s, blocks of %u tokens\n", o->profile->name, pick_policy_name(o->policy),
                       o->block_tokens);
    text_buffer_printf(out, "%llu requests in %.1f s: %llu done, %llu refused, %llu counted\n\n",
                       (unsigned long long)r->n_requests, r->seconds, (unsigned long long)r->done,
                       (unsigned long long)r->refused, (unsigned long long)r->counted);
    text_buffer_printf(out, "%-24s %10s %10s %10s %10s %10s %10s\n", "milliseconds", "mean", "p50", "p90", "p95", "p99",
                       "max");
    table_spread(out, "first token (TTFT)", &r->ttft);
    table_spread(out, "between tokens (ITL)", &r->itl);
    table_spread(out, "a token (TPOT)", &r->tpot);
    table_spread(out, "end to end", &r->e2e);
    text_buffer_printf(out,
                       "\ngood (TTFT at most %.0f ms, TPOT %.0f ms): %llu, %.1f%% of those counted, %.2f requests/s, "
                       "%.0f tokens/s of all\n",
                       (double)o->slo_ttft_us / MS, (double)o->slo_tpot_us / MS, (unsigned long long)r->good,
                       100 * ratio((double)r->good, (double)r->counted), ratio((double)r->good, seconds),
                       ratio((double)r->output_tokens, seconds));
    table_cache(out, r);
    table_counts(out, r);
    text_buffer_printf(out, "\n%-24s %10s %10s %10s\n", "", "workers", "hours", "busy");
    table_role(out, "prefill", &r->prefill);
    table_role(out, "decode", &r->decode);
}
