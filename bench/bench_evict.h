/* bench_evict.h - what part of a trace's blocks a cache of a given size would have had, by policy.
 * Counted are hits of the leading run: the blocks of a prompt up to the first that is missing. The policies are
 * those of kvbm/eviction.h, called as a pool calls them: a request's blocks are pinned until it ends. */
#ifndef BATON_BENCH_BENCH_EVICT_H
#define BATON_BENCH_BENCH_EVICT_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/trace.h"
#include "kvbm/eviction.h"

struct bench_evict_result {
    uint64_t hits, blocks;
};

/* hits: [n_requests], of each request; may be NULL. */
MUST_CHECK status bench_evict(const struct trace *trace, const struct eviction_options *options, uint32_t hits[],
                              struct bench_evict_result *out);

/* The one who knows the future (Belady 1966): out goes what comes back last, deepest in its prompt first. Its own
 * request's blocks may go, too. */
MUST_CHECK status bench_evict_clairvoyant(const struct trace *trace, uint32_t capacity, struct bench_evict_result *out);

#endif
