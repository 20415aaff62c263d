/* baton bench index - the router's index of KV blocks, beside a plain hash map. */
#include <stdio.h>

#include "bench/bench_index.h"
#include "cli/command.h"
#include "common/json_writer.h"

#define OUTPUT_MAX_BYTES 65536u
#define GOAL_OPS_PER_S   25e6
#define GOAL_BYTES       24.0
#define TRACE            "../shared/traces/conversation_trace.jsonl"

static void print_json(const struct bench_index_options *o, const struct bench_index_result *r)
{
    struct text_buffer page;
    struct json_writer w;
    text_buffer_init(&page, OUTPUT_MAX_BYTES);
    json_writer_init(&w, &page);
    json_write_object(&w);
    json_field_real(&w, "ops_per_s", r->ops_per_s);
    json_field_real(&w, "bytes_per_block", r->bytes_per_block);
    json_field_string(&w, "operation", "a block stored, removed, or decided about by a lookup, looked at or skipped");
    json_field_real(&w, "touched_ops_per_s", r->touched_per_s);
    json_field_real(&w, "plain_ops_per_s", r->plain_ops_per_s);
    json_field_real(&w, "plain_bytes_per_block", r->plain_bytes_per_block);
    json_field_real(&w, "ratio", r->ops_per_s / r->plain_ops_per_s);
    json_field_uint(&w, "workers", o->trace.n_workers);
    json_field_uint(&w, "worker_tokens", o->trace.worker_tokens);
    json_field_uint(&w, "requests", r->requests);
    json_field_uint(&w, "stored", r->blocks[INDEX_STORE]);
    json_field_uint(&w, "removed", r->blocks[INDEX_REMOVE]);
    json_field_uint(&w, "lookup_covered", r->covered);
    json_field_uint(&w, "lookup_touched", r->touched);
    json_field_uint(&w, "most_blocks", r->most_blocks);
    json_field_uint(&w, "moved", r->moved);
    json_field_uint(&w, "evicted", r->evicted);
    json_field_uint(&w, "not_kept", r->not_kept);
    json_write_end(&w);
    puts(text_buffer_text(&page));
    text_buffer_free(&page);
}

static void print_page(const struct bench_index_options *o, const struct bench_index_result *r)
{
    printf(
        "%llu requests over %u workers of %u tokens: blocks stored %llu, removed %llu, decided about by lookups %llu\n",
        (unsigned long long)r->requests, o->trace.n_workers, o->trace.worker_tokens,
        (unsigned long long)r->blocks[INDEX_STORE], (unsigned long long)r->blocks[INDEX_REMOVE],
        (unsigned long long)r->covered);
    printf("  (an operation is one of these blocks; lookups looked at %llu and skipped the rest)\n",
           (unsigned long long)r->touched);
    printf("%-44s %8.1f M operations/s   goal %.0f\n", "prefix index", r->ops_per_s / 1e6, GOAL_OPS_PER_S / 1e6);
    printf("%-44s %8.1f\n", "  only blocks that were looked at", r->touched_per_s / 1e6);
    printf("%-44s %8.1f                  index %.1f times that\n", "plain hash map", r->plain_ops_per_s / 1e6,
           r->ops_per_s / r->plain_ops_per_s);
    printf("%-44s %8.1f of at most %.0f; %llu different blocks at most\n", "bytes a block, all included",
           r->bytes_per_block, GOAL_BYTES, (unsigned long long)r->most_blocks);
    printf("%-44s %8.1f without the allocator's own\n", "  plain hash map", r->plain_bytes_per_block);
    printf("blocks moved %llu, evicted %llu, owners not kept %llu, in all runs\n", (unsigned long long)r->moved,
           (unsigned long long)r->evicted, (unsigned long long)r->not_kept);
}

static int run(const struct command *self, int argc, char **argv)
{
    const char *trace = TRACE;
    int64_t workers = 16, worker_tokens = 3000000, repeats = 5;
    bool as_json = false;
    struct bench_index_result result;
    struct error err;
    int code;
    const struct option_row rows[] = {
        { "trace", 0, OPTION_TEXT, &trace, "FILE", "A trace with blocks, Mooncake's or Baton's form (" TRACE ")", 0,
          0 },
        { "workers", 0, OPTION_INT, &workers, "N", "Workers (16)", 1, INDEX_TRACE_MAX_WORKERS },
        { "worker-tokens", 0, OPTION_INT, &worker_tokens, "N", "Tokens that a worker holds (3000000)", 512, INT32_MAX },
        { "repeats", 0, OPTION_INT, &repeats, "N", "Measured passes, of which the median is given (5)", 1,
          BENCH_INDEX_MAX_REPEATS },
        { "json", 0, OPTION_FLAG, &as_json, "", "One JSON object", 0, 0 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    struct bench_index_options o = {
        .trace = { .path = trace, .n_workers = (uint32_t)workers, .worker_tokens = (uint32_t)worker_tokens },
        .repeats = (uint32_t)repeats
    };
    if (bench_index(&o, &result, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    if (as_json)
        print_json(&o, &result);
    else
        print_page(&o, &result);
    return EXIT_DONE;
}

const struct command command_bench_index = { "bench index", "", "The router's index of KV blocks, operations/s", run };
