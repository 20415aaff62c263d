/* baton sim - a cluster in virtual time. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/sim_input.h"
#include "common/log.h"
#include "sim/report.h"

#define MAX_TOKENS (1 << 24)
#define US         1e6
#define MS_US      1e3
#define GB         1e9

/* As the command line has it. */
struct form {
    const char *trace, *arrivals, *input, *output, *profile, *model, *hardware, *workers, *policy, *eviction,
        *decisions;
    struct option_list failures;
    double speed, rate, cv, burst_ratio, burst_share, burst_s, swing, period_s, link_gbps, ttft_ms, tpot_ms, itl_ms,
        warmup_s, detect_s;
    int64_t requests, repeats, seed, parallel, kv_tokens, block_tokens, max_seqs, step_tokens, chunk_tokens, grants;
    bool no_cache, no_fetch, as_json, show_profile;
};

static const char *const processes = "poisson|gamma|mmpp|diurnal";

static struct form defaults(void)
{
    struct arrivals_options a = arrivals_defaults();
    struct sim_options o = sim_defaults();
    return (struct form){ .arrivals = "poisson",
                          .input = "1000",
                          .output = "100",
                          .workers = "1P:1D",
                          .policy = pick_policy_name(o.policy),
                          .eviction = "s3fifo",
                          .speed = 1,
                          .rate = 1,
                          .cv = a.cv,
                          .burst_ratio = a.burst_ratio,
                          .burst_share = a.burst_share,
                          .burst_s = a.burst_s,
                          .swing = a.swing,
                          .period_s = a.period_s,
                          .ttft_ms = (double)o.slo_ttft_us / MS_US,
                          .tpot_ms = (double)o.slo_tpot_us / MS_US,
                          .itl_ms = (double)o.itl_target_us / MS_US,
                          .detect_s = (double)o.detect_us / US,
                          .repeats = 1,
                          .seed = 1,
                          .block_tokens = o.block_tokens,
                          .max_seqs = o.max_seqs,
                          .step_tokens = o.step_tokens,
                          .chunk_tokens = o.chunk_tokens,
                          .grants = o.grant_window };
}

/* ---- what is simulated ------------------------------------------------------------------------------------- */

static status read_profile(const struct form *form, struct profile *out, struct error *err)
{
    const struct profile_choice choice = { form->model, form->hardware, (uint32_t)form->parallel };
    if (!form->profile)
        return error_set(err, ST_INVALID, "--profile FILE says how fast workers are, and is needed");
    status st = profile_load(form->profile, &choice, out, err);
    if (st != ST_OK)
        return st;
    if (form->kv_tokens)
        out->kv_tokens = (uint64_t)form->kv_tokens;
    if (form->link_gbps > 0)
        out->link_bytes_per_s = GB * form->link_gbps;
    return profile_check(out, err);
}

static enum arrival_process process_of(const char *name)
{
    enum arrival_process p = ARRIVALS_POISSON;
    while (strcmp(name, arrival_process_name(p)) != 0)
        p++;
    return p;
}

static status make_workload(const struct form *form, struct workload *out, struct error *err)
{
    struct distribution input, output;
    const struct arrivals_options arrivals = { .process = process_of(form->arrivals),
                                               .rate = form->rate,
                                               .cv = form->cv,
                                               .burst_ratio = form->burst_ratio,
                                               .burst_share = form->burst_share,
                                               .burst_s = form->burst_s,
                                               .swing = form->swing,
                                               .period_s = form->period_s };
    size_t n = form->requests ? (size_t)form->requests : 10000;
    status st = option_distribution("input", form->input, &input, err);
    if (st == ST_OK)
        st = option_distribution("output", form->output, &output, err);
    if (st == ST_OK && workload_make(&arrivals, &input, &output, n, (uint64_t)form->seed, out) != ST_OK)
        st = error_set(err, ST_NO_MEMORY, "no memory for %zu requests", n);
    return st;
}

static status read_workload(const struct form *form, struct workload *out, struct error *err)
{
    const struct sim_trace trace = { form->trace, form->speed, (uint64_t)form->requests, (uint32_t)form->repeats };
    return form->trace ? sim_read_trace(&trace, out, err) : make_workload(form, out, err);
}

static status read_options(const struct form *form, struct sim_options *o, struct sim_failure failures[],
                           struct error *err)
{
    status st = sim_read_workers(form->workers, o, err);
    for (size_t i = 0; st == ST_OK && i < form->failures.n; i++)
        st = sim_read_failure(form->failures.items[i], &failures[i], err);
    (void)pick_policy_find(form->policy, &o->policy);
    o->failures = failures;
    o->n_failures = (uint32_t)form->failures.n;
    o->eviction = eviction_policy_find(form->eviction);
    o->prefix_cache = !form->no_cache;
    o->fetch = !form->no_fetch;
    o->block_tokens = (uint32_t)form->block_tokens;
    o->max_seqs = (uint32_t)form->max_seqs;
    o->step_tokens = (uint32_t)form->step_tokens;
    o->chunk_tokens = (uint32_t)form->chunk_tokens;
    o->grant_window = (uint32_t)form->grants;
    o->itl_target_us = (uint64_t)(MS_US * form->itl_ms);
    o->slo_ttft_us = (uint64_t)(MS_US * form->ttft_ms);
    o->slo_tpot_us = (uint64_t)(MS_US * form->tpot_ms);
    o->warmup_us = (uint64_t)(US * form->warmup_s);
    o->detect_us = (uint64_t)(US * form->detect_s);
    return st;
}

/* ---- decisions ------------------------------------------------------------------------------------------------ */

struct decisions {
    FILE *file;
    struct text_buffer line;
    bool failed;
};

static void write_decision(void *ctx, const struct decision *decision)
{
    struct decisions *d = ctx;
    text_buffer_clear(&d->line);
    decision_write(decision, &d->line);
    if (d->line.state == ST_OK && fprintf(d->file, "%s\n", text_buffer_text(&d->line)) < 0)
        d->failed = true;
}

static status open_decisions(const char *path, struct decisions *d, struct sim_options *o, struct error *err)
{
    text_buffer_init(&d->line, DECISION_LINE_BYTES);
    if (!path)
        return ST_OK;
    d->file = fopen(path, "w");
    if (!d->file)
        return error_set(err, ST_IO, "--decision-log %s: %s", path, strerror(errno));
    o->decided = write_decision;
    o->decided_ctx = d;
    return ST_OK;
}

static status close_decisions(const char *path, struct decisions *d, struct error *err)
{
    bool failed = d->failed;
    text_buffer_free(&d->line);
    if (d->file && fclose(d->file) != 0)
        failed = true;
    return failed ? error_set(err, ST_IO, "--decision-log %s: not all was written", path) : ST_OK;
}

/* ---- running ------------------------------------------------------------------------------------------------------
 */

static void print_result(const struct form *form, const struct sim_options *o, const struct sim_result *result)
{
    struct text_buffer page;
    text_buffer_init(&page, REPORT_MAX_BYTES);
    (form->as_json ? report_write_json : report_write_table)(o, result, &page);
    if (form->as_json)
        text_buffer_char(&page, '\n');
    (void)command_print(&page);
}

static status simulate(const struct form *form, const struct sim_options *base, const struct workload *workload,
                       struct error *err)
{
    struct sim_options o = *base;
    struct decisions decisions = { .file = NULL };
    struct sim_result *result = calloc(1, sizeof *result);
    status st =
        result ? open_decisions(form->decisions, &decisions, &o, err) : error_set(err, ST_NO_MEMORY, "out of memory");
    if (st == ST_OK)
        st = sim_run(&o, workload, result, err);
    status closed = close_decisions(form->decisions, &decisions, err);
    st = st == ST_OK ? closed : st;
    if (st == ST_OK)
        print_result(form, &o, result);
    if (result)
        sim_result_free(result);
    free(result);
    return st;
}

static int print_profile(const struct profile *profile)
{
    struct text_buffer page;
    text_buffer_init(&page, REPORT_MAX_BYTES);
    profile_write(profile, &page);
    text_buffer_char(&page, '\n');
    return command_print(&page);
}

static int run_form(const struct command *self, const struct form *form)
{
    struct sim_options o = sim_defaults();
    struct sim_failure failures[SIM_MAX_FAILURES];
    struct profile profile;
    struct workload workload;
    struct error err;
    status st = read_options(form, &o, failures, &err);
    if (st == ST_OK)
        st = read_profile(form, &profile, &err);
    if (st != ST_OK)
        return st == ST_IO ? command_failed(self, "%s", err.text) : command_misuse(self, "%s", err.text);
    if (form->show_profile)
        return print_profile(&profile);
    o.profile = &profile;
    st = read_workload(form, &workload, &err);
    if (st != ST_OK)
        return command_failed(self, "%s", err.text);
    log_init("sim", LOG_WARN);
    st = simulate(form, &o, &workload, &err);
    workload_free(&workload);
    return st == ST_OK ? EXIT_DONE : command_failed(self, "%s", err.text);
}

static int run(const struct command *self, int argc, char **argv)
{
    struct form f = defaults();
    int code = EXIT_DONE;
    const struct option_row rows[] = {
        { "profile", 0, OPTION_TEXT, &f.profile, "FILE", "How fast a worker is: docs/SIMULATOR.md has the forms", 0,
          0 },
        { "model", 0, OPTION_TEXT, &f.model, "NAME", "Which model of the profile's file", 0, 0 },
        { "hardware", 0, OPTION_TEXT, &f.hardware, "NAME", "Which hardware of the profile's file", 0, 0 },
        { "parallel", 0, OPTION_INT, &f.parallel, "N", "Which degree of tensor parallelism of the profile's file", 0,
          1024 },
        { "kv-tokens", 0, OPTION_INT, &f.kv_tokens, "N",
          "Tokens of KV that a worker has room for (as the profile says)", 0, UINT32_MAX },
        { "link", 0, OPTION_REAL, &f.link_gbps, "GB/s", "Bandwidth of a worker's link each way (as the profile says)",
          0, 1e6 },
        { "show-profile", 0, OPTION_FLAG, &f.show_profile, "",
          "Print the profile in Baton's form, and simulate nothing", 0, 0 },
        { "workers", 0, OPTION_TEXT, &f.workers, "4P:8D", "Prefill and decode workers, or 8 that do both (1P:1D)", 0,
          0 },
        { "trace", 0, OPTION_TEXT, &f.trace, "FILE", "Requests of a trace: Mooncake's, Azure's or Baton's form", 0, 0 },
        { "speed", 0, OPTION_REAL, &f.speed, "X", "The trace's time runs so many times faster (1)", 1e-6, 1e6 },
        { "repeats", 0, OPTION_INT, &f.repeats, "N", "The trace so many times, each with prompts of its own (1)", 1,
          1e6 },
        { "requests", 0, OPTION_INT, &f.requests, "N",
          "The trace's first ones (all), or so many synthetic ones (10000)", 0, SIM_MAX_REQUESTS },
        { "arrivals", 0, OPTION_WORD, &f.arrivals, processes, "Without a trace: how synthetic requests come (poisson)",
          0, 0 },
        { "rate", 0, OPTION_REAL, &f.rate, "N", "Their mean number a second (1)", 1e-6, 1e9 },
        { "cv", 0, OPTION_REAL, &f.cv, "X", "gamma: coefficient of variation of the gaps (2)", 0.01, 100 },
        { "burst-ratio", 0, OPTION_REAL, &f.burst_ratio, "X", "mmpp: rate of a burst over that of calm (5)", 1, 1e6 },
        { "burst-share", 0, OPTION_REAL, &f.burst_share, "X", "mmpp: bursts' share of the time (0.2)", 0.001, 0.999 },
        { "burst-length", 0, OPTION_REAL, &f.burst_s, "S", "mmpp: mean seconds of a burst (10)", 1e-3, 1e6 },
        { "swing", 0, OPTION_REAL, &f.swing, "X", "diurnal: how far the rate goes from its mean, as a share (1)", 0,
          1 },
        { "period", 0, OPTION_REAL, &f.period_s, "S", "diurnal: seconds of a swing (86400)", 1, 1e9 },
        { "input", 0, OPTION_TEXT, &f.input, "TOKENS", "Of their prompts: " DISTRIBUTION_FORMS " (1000)", 0, 0 },
        { "output", 0, OPTION_TEXT, &f.output, "TOKENS", "Of their answers, likewise (100)", 0, 0 },
        { "seed", 0, OPTION_INT, &f.seed, "N", "Of synthetic requests (1)", 0, INT32_MAX },
        { "policy", 0, OPTION_WORD, &f.policy, "cache-aware|kv-overlap|least-loaded|round-robin|random|power-of-two",
          "How the router chooses (cache-aware)", 0, 0 },
        { "itl-target", 0, OPTION_REAL, &f.itl_ms, "MS", "As the router's option: steps beside a prompt (50)", 0,
          60000 },
        { "block-tokens", 0, OPTION_INT, &f.block_tokens, "N", "Tokens of a KV block; divides 512 (16)", 1, 512 },
        { "max-seqs", 0, OPTION_INT, &f.max_seqs, "N", "Sequences of a step (32)", 1, 4096 },
        { "step-tokens", 0, OPTION_INT, &f.step_tokens, "N", "Rows of a step (512)", 1, MAX_TOKENS },
        { "chunk-tokens", 0, OPTION_INT, &f.chunk_tokens, "N", "Rows of one prompt in a step (512)", 1, MAX_TOKENS },
        { "grant-window", 0, OPTION_INT, &f.grants, "N", "Prompts that hold blocks of a prefill worker at once (4)", 1,
          1024 },
        { "eviction", 0, OPTION_WORD, &f.eviction, "s3fifo|lru|fifo", "Which kept blocks go first (s3fifo)", 0, 0 },
        { "no-cache", 0, OPTION_FLAG, &f.no_cache, "", "Nothing is kept behind a request", 0, 0 },
        { "no-fetch", 0, OPTION_FLAG, &f.no_fetch, "", "Workers fetch no KV from one another", 0, 0 },
        { "fail", 0, OPTION_LIST, &f.failures, "ROLE-N@S[+S]", "A worker dies, and is back so much later; repeatable",
          0, 0 },
        { "detect", 0, OPTION_REAL, &f.detect_s, "S", "From a death until it is noticed (1)", 0, 3600 },
        { "ttft", 0, OPTION_REAL, &f.ttft_ms, "MS", "Latest first token of a good request (500)", 0, 1e9 },
        { "tpot", 0, OPTION_REAL, &f.tpot_ms, "MS", "Longest mean time of its further tokens (50)", 0, 1e9 },
        { "warmup", 0, OPTION_REAL, &f.warmup_s, "S", "What arrives earlier is not counted (0)", 0, 1e9 },
        { "decision-log", 0, OPTION_TEXT, &f.decisions, "FILE", "Every decision, for baton replay-decisions", 0, 0 },
        { "json", 0, OPTION_FLAG, &f.as_json, "", "One JSON object", 0, 0 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    return run_form(self, &f);
}

const struct command command_sim = { "sim", "", "A cluster in virtual time, by a profile and a trace", run };
