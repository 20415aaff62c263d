/* trace.h - request traces: when each request came, how long its prompt and its answer were, and which blocks its
 * prompt is made of. Three forms, told apart by the first line:
 *
 *   Mooncake (FAST'25), a JSON object a line
 *       {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48]}
 *       milliseconds, tokens, and an id for each 512 tokens of the prompt
 *   Azure (Splitwise, ISCA'24; also the traces of 2024), CSV
 *       TIMESTAMP,ContextTokens,GeneratedTokens
 *       2023-11-16 18:17:03.9799600,4808,10
 *   Baton's own, CSV whose first line names the columns, in any order; blocks may be left out, or empty in a line
 *       arrival_s,input_tokens,output_tokens,blocks
 *       0.25,1030,12,7 8 9
 *
 * Equal ids are equal blocks behind equal prefixes; the last one of a prompt may stand for less than a whole block.
 * Requests stand in the order in which they came: a line that came before the one above it is an error. Empty lines are
 * skipped; fields of CSV are not quoted. */
#ifndef BATON_BENCH_TRACE_H
#define BATON_BENCH_TRACE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/status.h"

#define TRACE_BLOCK_TOKENS 512u
#define TRACE_MAX_BLOCKS   (1u << 28) /* ids are below, and so is the number of all requests' blocks */
#define TRACE_MAX_REQUESTS (1u << 26)
#define TRACE_MAX_TOKENS   (1u << 24) /* of a prompt, and of an answer */
#define TRACE_MAX_SECONDS  1e9        /* from the first request to the last */

/* What a reader needs of each request; what it does not need may be missing. */
enum trace_need { TRACE_NEEDS_ARRIVALS = 1, TRACE_NEEDS_BLOCKS = 2 };

struct trace_request {
    uint64_t arrival_us;                  /* since the first request */
    uint32_t input_tokens, output_tokens; /* 1 at least; 0: the trace does not say, nor does it say when */
};

struct trace {
    struct trace_request *requests; /* [n_requests] */
    uint32_t *blocks;               /* of all requests, one behind the other */
    size_t *ends;                   /* [n_requests]: where each ends */
    size_t n_blocks, n_requests;
    uint32_t n_ids; /* all ids are below */
    size_t room_blocks, room_requests, room_ends;
};

/* needs: TRACE_NEEDS_... together. Without TRACE_NEEDS_ARRIVALS a line of JSON may hold nothing but hash_ids; without
 * TRACE_NEEDS_BLOCKS any request may lack blocks. ST_INVALID names the line. */
MUST_CHECK status trace_load(const char *path, unsigned needs, struct trace *out, struct error *err);
/* From where the file stands; name is for errors. The caller closes the file. */
MUST_CHECK status trace_read(FILE *file, const char *name, unsigned needs, struct trace *out, struct error *err);
void trace_free(struct trace *trace);

/* Blocks of request i; *n: how many. */
static inline const uint32_t *trace_blocks(const struct trace *t, size_t i, size_t *n)
{
    size_t first = i ? t->ends[i - 1] : 0;
    *n = t->ends[i] - first;
    return t->blocks + first;
}

#endif
