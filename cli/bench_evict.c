/* baton bench evict - hit rates of eviction policies on request traces. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_evict.h"
#include "cli/command.h"
#include "common/json_writer.h"

#define CLAIRVOYANT    "clairvoyant"
#define MAX_TOKENS     UINT64_C(1000000000000)
#define ROW_MAX_BYTES  65536u
#define DEFAULT_TOKENS "3000000"

static const char *const default_policies[] = { "lru", "fifo", "s3fifo-plain", "s3fifo", CLAIRVOYANT };
static const char *const default_traces[] = { "../shared/traces/conversation_trace.jsonl",
                                              "../shared/traces/synthetic_trace.jsonl" };

/* What is measured, and how it is told. */
struct form {
    const struct option_list *capacities, *policies;
    bool as_json, per_request;
};

static void print_row(const char *trace, uint64_t tokens, const char *policy, const struct bench_evict_result *r,
                      bool as_json)
{
    double rate = (double)r->hits / (double)r->blocks;
    struct text_buffer page;
    struct json_writer w;
    if (!as_json) {
        printf("%-28.28s %14llu %-14s %8.4f\n", trace, (unsigned long long)tokens, policy, rate);
        return;
    }
    text_buffer_init(&page, ROW_MAX_BYTES);
    json_writer_init(&w, &page);
    json_write_object(&w);
    json_field_string(&w, "trace", trace);
    json_field_uint(&w, "capacity_tokens", tokens);
    json_field_string(&w, "policy", policy);
    json_field_real(&w, "hit_rate", rate);
    json_field_uint(&w, "hit_blocks", r->hits);
    json_field_uint(&w, "blocks", r->blocks);
    json_write_end(&w);
    puts(text_buffer_text(&page));
    text_buffer_free(&page);
}

static void print_requests(const struct trace *trace, uint64_t tokens, const char *policy, const uint32_t hits[])
{
    for (size_t r = 0, first = 0; r < trace->n_requests; first = trace->ends[r++])
        printf("{\"capacity_tokens\":%llu,\"policy\":\"%s\",\"request\":%zu,\"hit_blocks\":%u,\"blocks\":%zu}\n",
               (unsigned long long)tokens, policy, r, hits[r], trace->ends[r] - first);
}

/* What a pool uses keeps chains whole; the others are as their papers have them. */
static status measure(const struct trace *trace, uint64_t tokens, const char *policy, uint32_t hits[],
                      struct bench_evict_result *out)
{
    uint64_t blocks = tokens / TRACE_BLOCK_TOKENS;
    uint32_t capacity = blocks < trace->n_ids ? (uint32_t)blocks : trace->n_ids; /* more would stay empty */
    if (!strcmp(policy, CLAIRVOYANT))
        return bench_evict_clairvoyant(trace, capacity, out);
    const struct eviction_options options = { .policy = eviction_policy_find(policy),
                                              .capacity = capacity,
                                              .leaf_first = !strcmp(policy, "s3fifo") };
    return bench_evict(trace, &options, hits, out);
}

static bool parse_tokens(const char *text, uint64_t *tokens)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    *tokens = value;
    return *text >= '0' && *text <= '9' && *end == '\0' && value >= TRACE_BLOCK_TOKENS && value <= MAX_TOKENS;
}

static void use_defaults(struct option_list *list, const char *const items[], size_t n)
{
    if (list->n > 0)
        return;
    for (; list->n < n; list->n++)
        list->items[list->n] = items[list->n];
}

static status measure_one(const struct trace *trace, const char *path, uint64_t tokens, const char *policy,
                          const struct form *form)
{
    struct bench_evict_result result;
    const char *slash = strrchr(path, '/');
    uint32_t *hits = form->per_request ? malloc((trace->n_requests + 1) * sizeof *hits) : NULL;
    if (form->per_request && !hits)
        return ST_NO_MEMORY;
    status st = measure(trace, tokens, policy, hits, &result);
    if (st == ST_OK && form->per_request)
        print_requests(trace, tokens, policy, hits);
    else if (st == ST_OK)
        print_row(slash ? slash + 1 : path, tokens, policy, &result, form->as_json);
    free(hits);
    return st;
}

static int measure_all(const struct command *self, const char *path, const struct form *form)
{
    struct trace trace;
    struct error err;
    status st = trace_load(path, TRACE_NEEDS_BLOCKS, &trace, &err);
    if (st != ST_OK)
        return command_failed(self, "%s", err.text);
    for (size_t c = 0; c < form->capacities->n && st == ST_OK; c++)
        for (size_t p = 0; p < form->policies->n && st == ST_OK; p++) {
            uint64_t tokens;
            (void)parse_tokens(form->capacities->items[c], &tokens);
            st = measure_one(&trace, path, tokens, form->policies->items[p], form);
        }
    trace_free(&trace);
    return st == ST_OK ? EXIT_DONE : command_failed(self, "%s: %s", path, status_text(st));
}

static int run(const struct command *self, int argc, char **argv)
{
    struct option_list traces = { .n = 0 }, capacities = { .n = 0 }, policies = { .n = 0 };
    struct form form = { .capacities = &capacities, .policies = &policies };
    int code = EXIT_DONE;
    const struct option_row rows[] = {
        { "trace", 0, OPTION_LIST, &traces, "PATH", "Trace in Mooncake's form (those of ../shared/traces)", 0, 0 },
        { "capacity", 0, OPTION_LIST, &capacities, "TOKENS", "Size of the cache (" DEFAULT_TOKENS ")", 0, 0 },
        { "policy", 0, OPTION_LIST, &policies, "NAME", "lru, fifo, s3fifo-plain, s3fifo or " CLAIRVOYANT " (all)", 0,
          0 },
        { "json", 0, OPTION_FLAG, &form.as_json, "", "One JSON object a row", 0, 0 },
        { "per-request", 0, OPTION_FLAG, &form.per_request, "",
          "One JSON object a request instead; not of " CLAIRVOYANT, 0, 0 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    for (size_t i = 0; i < capacities.n; i++) {
        uint64_t tokens;
        if (!parse_tokens(capacities.items[i], &tokens))
            return command_misuse(self, "--capacity %.40s is no number of tokens from %u to %llu", capacities.items[i],
                                  TRACE_BLOCK_TOKENS, (unsigned long long)MAX_TOKENS);
    }
    for (size_t i = 0; i < policies.n; i++)
        if (strcmp(policies.items[i], CLAIRVOYANT) != 0 && !eviction_policy_find(policies.items[i]))
            return command_misuse(self, "--policy %.40s is none of lru, fifo, s3fifo-plain, s3fifo, " CLAIRVOYANT,
                                  policies.items[i]);
    for (size_t i = 0; i < policies.n && form.per_request; i++)
        if (!strcmp(policies.items[i], CLAIRVOYANT))
            return command_misuse(self, "--per-request tells nothing of " CLAIRVOYANT);
    static const char *const default_capacity[] = { DEFAULT_TOKENS };
    use_defaults(&traces, default_traces, COUNT_OF(default_traces));
    use_defaults(&capacities, default_capacity, 1);
    use_defaults(&policies, default_policies, COUNT_OF(default_policies) - form.per_request);
    if (!form.as_json && !form.per_request)
        printf("%-28s %14s %-14s %8s\n", "trace", "tokens", "policy", "hit rate");
    for (size_t i = 0; i < traces.n && code == EXIT_DONE; i++)
        code = measure_all(self, traces.items[i], &form);
    return code;
}

const struct command command_bench_evict = { "bench evict", "", "Hit rates of eviction policies on request traces",
                                             run };
