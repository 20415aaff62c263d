/* baton bench sim - how many simulated requests a minute. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cli/command.h"
#include "cli/sim_input.h"
#include "common/json_writer.h"
#include "common/log.h"

#define GOAL           1e6 /* requests a minute, on one core */
#define TRACE          "../shared/traces/conversation_trace.jsonl"
#define PROFILE        "../shared/traces/splitwise_perf_model.csv"
#define MODEL          "llama2-70b"
#define HARDWARE       "h100-80gb"
#define DEGREE         8
#define SPEED          45.0 /* of the trace: some 70 % of what 500 + 500 such workers can do */
#define MAX_SEQS       64
#define STEP_TOKENS    2048
#define SECONDS_MINUTE 60.0

struct form {
    const char *trace, *profile, *workers, *policy;
    double speed;
    int64_t repeats, block_tokens;
    bool as_json;
};

/* The processor's time, as somebody else may use this core, too. */
static double cpu_s(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void print(const struct form *form, const struct sim_options *o, const struct sim_result *r, double seconds)
{
    uint64_t blocks = o->profile->kv_tokens / o->block_tokens;
    double capacity = (double)blocks * (o->n_prefill + o->n_decode);
    double per_minute = SECONDS_MINUTE * (double)r->n_requests / seconds;
    struct text_buffer page;
    struct json_writer w;
    if (!form->as_json) {
        printf("%u + %u workers, blocks of %u tokens, policy %s, index %.0f%% full\n", o->n_prefill, o->n_decode,
               o->block_tokens, pick_policy_name(o->policy), 100 * (double)r->index_blocks / capacity);
        printf("%llu requests, %llu events in %.2f s of one core: %.0f requests/min (goal %.0f at blocks of 512)\n",
               (unsigned long long)r->n_requests, (unsigned long long)r->events, seconds, per_minute, GOAL);
        return;
    }
    text_buffer_init(&page, 4096);
    json_writer_init(&w, &page);
    json_write_object(&w);
    json_field_real(&w, "requests_per_min", per_minute);
    json_field_uint(&w, "requests", r->n_requests);
    json_field_uint(&w, "events", r->events);
    json_field_real(&w, "cpu_s", seconds);
    json_field_uint(&w, "workers", o->n_prefill + o->n_decode);
    json_field_uint(&w, "block_tokens", o->block_tokens);
    json_field_string(&w, "policy", pick_policy_name(o->policy));
    json_field_uint(&w, "index_blocks", r->index_blocks);
    json_field_real(&w, "index_full", (double)r->index_blocks / capacity);
    json_write_end(&w);
    text_buffer_char(&page, '\n');
    (void)command_print(&page);
}

static status measure(const struct form *form, struct sim_options *o, struct error *err)
{
    const struct sim_trace trace = { form->trace, form->speed, 0, (uint32_t)form->repeats };
    struct workload workload;
    struct sim_result *result = calloc(1, sizeof *result);
    if (!result)
        return error_set(err, ST_NO_MEMORY, "out of memory");
    status st = sim_read_trace(&trace, &workload, err);
    if (st == ST_OK) {
        if (!form->as_json)
            fprintf(stderr, "simulating %zu requests on %u + %u workers\n", workload.n_requests, o->n_prefill,
                    o->n_decode);
        double begun = cpu_s();
        st = sim_run(o, &workload, result, err);
        if (st == ST_OK)
            print(form, o, result, cpu_s() - begun);
        workload_free(&workload);
        sim_result_free(result);
    }
    free(result);
    return st;
}

static int run(const struct command *self, int argc, char **argv)
{
    struct form f = { .trace = TRACE,
                      .profile = PROFILE,
                      .workers = "500P:500D",
                      .policy = "cache-aware",
                      .speed = SPEED,
                      .repeats = 10,
                      .block_tokens = 512 };
    const struct option_row rows[] = {
        { "trace", 0, OPTION_TEXT, &f.trace, "FILE", "Requests (" TRACE ")", 0, 0 },
        { "repeats", 0, OPTION_INT, &f.repeats, "N", "So many times, each with prompts of its own (10)", 1, 1000 },
        { "speed", 0, OPTION_REAL, &f.speed, "X", "So many times faster than they came (45)", 1e-3, 1e6 },
        { "profile", 0, OPTION_TEXT, &f.profile, "FILE", "Splitwise's measurements (" PROFILE ")", 0, 0 },
        { "workers", 0, OPTION_TEXT, &f.workers, "P:D", "As of baton sim (500P:500D)", 0, 0 },
        { "policy", 0, OPTION_WORD, &f.policy, "cache-aware|kv-overlap|least-loaded|round-robin|random|power-of-two",
          "How the router chooses (cache-aware)", 0, 0 },
        { "block-tokens", 0, OPTION_INT, &f.block_tokens, "N", "Tokens of a KV block; divides 512 (512)", 1, 512 },
        { "json", 0, OPTION_FLAG, &f.as_json, "", "One JSON object", 0, 0 },
    };
    const struct profile_choice choice = { MODEL, HARDWARE, DEGREE };
    struct sim_options o = sim_defaults();
    struct profile profile;
    struct error err;
    int code = EXIT_DONE;
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    if (sim_read_workers(f.workers, &o, &err) != ST_OK)
        return command_misuse(self, "%s", err.text);
    if (profile_load(f.profile, &choice, &profile, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    (void)pick_policy_find(f.policy, &o.policy);
    o.profile = &profile;
    o.block_tokens = (uint32_t)f.block_tokens;
    o.max_seqs = MAX_SEQS;
    o.step_tokens = o.chunk_tokens = STEP_TOKENS;
    log_init("bench", LOG_WARN);
    return measure(&f, &o, &err) == ST_OK ? EXIT_DONE : command_failed(self, "%s", err.text);
}

const struct command command_bench_sim = { "bench sim", "", "Simulated requests a minute, with a thousand workers",
                                           run };
