#include "sim/workload.h"

#include <math.h>
#include <stdlib.h>

#define STREAM 2u

static uint32_t draw_length(struct draws *d, const struct workload_lengths *lengths)
{
    double tokens = round(draws_lognormal(d, lengths->mean, lengths->cv));
    return tokens < 1 ? 1 : tokens < WORKLOAD_MAX_TOKENS ? (uint32_t)tokens : WORKLOAD_MAX_TOKENS;
}

status workload_make(const struct arrivals_options *arrivals, const struct workload_lengths *input,
                     const struct workload_lengths *output, size_t n_requests, uint64_t seed, struct workload *out)
{
    struct arrivals times;
    struct draws lengths = draws_begin(seed, STREAM);
    struct workload w = { .requests = calloc(n_requests, sizeof *w.requests), .n_requests = n_requests };
    if (!w.requests)
        return ST_NO_MEMORY;
    arrivals_begin(&times, arrivals, seed);
    for (size_t i = 0; i < n_requests; i++) {
        struct workload_request *r = &w.requests[i];
        r->arrival_us = (uint64_t)(1e6 * arrivals_next(&times));
        r->n_input = draw_length(&lengths, input);
        r->n_output = draw_length(&lengths, output);
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
