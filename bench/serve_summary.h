/* serve_summary.h - the figures of a run: times by kind, throughput, what met its objectives, and what makes the
 * figures doubtful. Pure. */
#ifndef BATON_BENCH_SERVE_SUMMARY_H
#define BATON_BENCH_SERVE_SUMMARY_H

#include "bench/latency_histogram.h"
#include "bench/serve_run.h"

/* From when a request was due counts also what it waited for this client, as no user would have waited less. */
#define SERVE_METRICS(X)                                                                                               \
    X(TTFT, "ttft", "first token, from due") /* the first event with text                 */                           \
    X(TTFT_SENT, "ttft_sent", "first token, from sent")                                                                \
    X(ITL, "itl", "between tokens")            /* between events with text, of all requests */                         \
    X(TPOT, "tpot", "a token after the first") /* (last event - first) / (tokens - 1)       */                         \
    X(E2E, "e2e", "whole answer, from due")                                                                            \
    X(E2E_SENT, "e2e_sent", "whole answer, from sent")                                                                 \
    X(LAG, "lag", "sent after due")

enum serve_metric {
#define X(name, key, text) SERVE_METRIC_##name,
    SERVE_METRICS(X)
#undef X
        SERVE_METRIC_COUNT
};

const char *serve_metric_key(enum serve_metric metric);
const char *serve_metric_about(enum serve_metric metric);

/* Objectives of one request; 0: none. A request that failed meets none. */
struct serve_slo {
    uint64_t ttft_us, e2e_us; /* from due */
    uint64_t tpot_us;
    uint64_t itl_us; /* of the longest gap */
};

bool serve_slo_any(const struct serve_slo *slo);
bool serve_slo_met(const struct serve_slo *slo, const struct serve_record *r);

#define SERVE_LATE_US     10000u /* lag of one request in a hundred that no user would call on time */
#define SERVE_MAX_DOUBTS  6u
#define SERVE_DOUBT_BYTES 256u
#define SERVE_OFF_SHARE   0.02 /* of tokens, that prompts or answers may be longer or shorter than wanted */

struct serve_summary {
    uint64_t n, n_done; /* requests behind the warm-up */
    uint64_t outcomes[SERVE_OUTCOME_COUNT];
    uint64_t prompt_tokens, cached_tokens, output_tokens; /* of those that are done, as the server counts */
    uint64_t wanted_input, wanted_output;                 /* of the same */
    bool has_usage;                                       /* of all of these */
    uint64_t n_good;                                      /* met the objectives, where there are any */
    double seconds;                                       /* from the first due to the last end */
    struct latency_histogram metrics[SERVE_METRIC_COUNT];
    char doubts[SERVE_MAX_DOUBTS][SERVE_DOUBT_BYTES]; /* sentences */
    uint32_t n_doubts;
};

/* The caller frees *out. */
MUST_CHECK status serve_summarise(const struct serve_run *run, uint64_t n_warmup, const struct serve_slo *slo,
                                  struct serve_summary **out);

#endif
