#include "sim/workload.h"

#include <stdlib.h>

enum { STREAM_INPUT = 2, STREAM_OUTPUT }; /* 1 is sim/arrivals.c's */

status workload_make(const struct arrivals_options *arrivals, const struct distribution *input,
                     const struct distribution *output, size_t n_requests, uint64_t seed, struct workload *out)
{
    struct arrivals times;
    struct workload w = { .requests = calloc(n_requests, sizeof *w.requests), .n_requests = n_requests };
    if (!w.requests)
        return ST_NO_MEMORY;
    arrivals_begin(&times, arrivals, seed);
    for (size_t i = 0; i < n_requests; i++) {
        struct workload_request *r = &w.requests[i];
        r->arrival_us = (uint64_t)(1e6 * arrivals_next(&times));
        r->n_input = (uint32_t)distribution_draw(input, seed, STREAM_INPUT, i, 1, WORKLOAD_MAX_TOKENS);
        r->n_output = (uint32_t)distribution_draw(output, seed, STREAM_OUTPUT, i, 1, WORKLOAD_MAX_TOKENS);
    }
    *out = w;
    return ST_OK;
}

void workload_free(struct workload *w)
{
    free(w->requests);
    free(w->ids);
    free(w->ends);
    *w = (struct workload){ 0 };
}

const uint32_t *workload_ids(const struct workload *w, size_t i, size_t *n)
{
    *n = 0;
    if (!w->ids)
        return NULL;
    size_t first = i ? w->ends[i - 1] : 0;
    *n = w->ends[i] - first;
    return w->ids + first;
}
