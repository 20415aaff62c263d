/* trace.h - the prompts of a request trace as Mooncake publishes them (FAST'25): one JSON object a line, with the
 * ids of the prompt's blocks of 512 tokens under "hash_ids". Equal ids are equal blocks behind equal prefixes; the last
 * one of a prompt may stand for less than a whole block. */
#ifndef BATON_BENCH_TRACE_H
#define BATON_BENCH_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define TRACE_BLOCK_TOKENS 512u
#define TRACE_MAX_BLOCKS   (1u << 28)

struct trace {
    uint32_t *blocks; /* of all requests, one behind the other */
    size_t *ends;     /* [n_requests]: where each ends */
    size_t n_blocks, n_requests;
    uint32_t n_ids; /* all ids are below */
    size_t room_blocks, room_requests;
};

/* ST_INVALID names the line. */
MUST_CHECK status trace_load(const char *path, struct trace *out, struct error *err);
void trace_free(struct trace *trace);

#endif
