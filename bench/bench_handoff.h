/* bench_handoff.h - how much of a KV handoff shows: a real local cluster computes
 * prompts remotely, and its own timing says what decode waited after prefill had ended. */
#ifndef BATON_BENCH_BENCH_HANDOFF_H
#define BATON_BENCH_BENCH_HANDOFF_H

#include "common/status.h"

struct bench_handoff_result {
    double prefill_ms, handoff_ms; /* medians */
    double exposed_ratio;          /* median of handoff / prefill */
    double moved_mb;
    char transport[8];
};

/* Starts and stops a cluster of one prefill and one decode worker (`baton up` of this program, in a state
 * folder of its own); transfer is auto, shm or tcp. Takes seconds. */
MUST_CHECK status bench_handoff(const char *model, const char *transfer, unsigned tokens,
                                struct bench_handoff_result *out, struct error *err);

#endif
