/* index_trace.h - a trace of requests turned into what a router's index sees of it: lookups, stores and removals.
 * A trace has an id for each 512 tokens of a prompt, the same id for the same beginning; it becomes 32 blocks of 16
 * tokens. A request goes to the worker that holds most of its beginning, if that is half of it at least, and otherwise
 * to the next one in turn, and stores there what is missing; a worker that is full has removed what was used longest
 * ago, ends of chains first. */
#ifndef BATON_BENCH_INDEX_TRACE_H
#define BATON_BENCH_INDEX_TRACE_H

#include "common/status.h"
#include "kvbm/block_hash.h"

#define INDEX_TRACE_ID_BLOCKS   32u /* of the TRACE_BLOCK_TOKENS tokens of an id */
#define INDEX_TRACE_MAX_WORKERS 256u
#define INDEX_TRACE_MAX_IDS     (1u << 22) /* of all prompts together */

enum index_operation_kind { INDEX_LOOKUP, INDEX_STORE, INDEX_REMOVE };

struct index_operation {
    enum index_operation_kind kind;
    uint32_t worker;
    uint32_t first, n; /* blocks, in hashes */
};

struct index_trace {
    struct block_hash *hashes; /* of all prompts, one behind the other */
    struct index_operation *operations;
    size_t n_hashes, n_operations;
    uint64_t n_requests;
    uint64_t blocks[3];   /* of operations of each kind */
    uint64_t most_blocks; /* different ones at any worker, at any time */
};

struct index_trace_options {
    const char *path; /* of bench/trace.h; each request has blocks */
    uint32_t n_workers;
    uint32_t worker_tokens; /* that a worker holds */
};

MUST_CHECK status index_trace_load(const struct index_trace_options *options, struct index_trace *out,
                                   struct error *err);
void index_trace_free(struct index_trace *trace);

#endif
