/* sim.h - a cluster in virtual time: a router, prefill and decode workers and their links, on the functions by which
 * the daemons decide, with steps that take as long as a profile says. docs/SIMULATOR.md tells what is modelled and what
 * is not. Equal options and workloads give equal results, to the last bit. One thread; no clock, no sockets. */
#ifndef BATON_SIM_SIM_H
#define BATON_SIM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvbm/eviction.h"
#include "router/decision.h"
#include "router/pick.h"
#include "sim/profile.h"
#include "sim/spread.h"
#include "sim/workload.h"

#define SIM_MAX_WORKERS  4096u /* of both roles together; as many as a router follows */
#define SIM_MAX_REQUESTS (1u << 26)

/* A worker dies, and is back, empty, after a while. */
struct sim_failure {
    uint64_t at_us;
    uint64_t back_us; /* UINT64_MAX: never */
    bool is_decode;
    uint32_t worker; /* of its role */
};

struct sim_options {
    const struct profile *profile; /* borrowed */
    uint32_t n_prefill, n_decode;  /* 0 prefill workers: decode workers compute prompts, too */
    /* The router's. */
    enum pick_policy policy;
    uint64_t itl_target_us;
    uint64_t worker_wait_us;
    /* The workers', as the rows of docs/CONFIG.md say. */
    uint32_t block_tokens, max_seqs, max_requests, step_tokens, chunk_tokens, local_tokens, grant_window,
        reserve_blocks;
    uint64_t worker_itl_target_us, patience_us, claim_aside_us, load_interval_us;
    const struct eviction_policy *eviction;
    bool prefix_cache, fetch;
    /* The world's. */
    const struct sim_failure *failures; /* borrowed, in order of at_us */
    uint32_t n_failures;
    uint64_t detect_us; /* from a death to the router's and the others' knowing of it */
    /* What is counted, and told. */
    uint64_t warmup_us; /* what arrives earlier is simulated and not counted */
    uint64_t slo_ttft_us, slo_tpot_us;
    void (*decided)(void *ctx, const struct decision *decision); /* NULL: nobody wants to know */
    void *decided_ctx;
};

/* As the daemons have it by default. */
struct sim_options sim_defaults(void);

struct sim_role {
    uint32_t workers;
    double up_s, busy_s; /* of all together */
    uint64_t steps;
    uint64_t prompt_tokens; /* computed */
};

enum sim_end { SIM_NOT_ENDED, SIM_DONE, SIM_REFUSED }; /* refused: nobody took it in worker_wait_us */

struct sim_outcome {
    enum sim_end end;
    uint32_t cached, pulled; /* tokens of its prompt, when it first was computed */
    double ttft_us, tpot_us, e2e_us;
};

struct sim_result {
    struct sim_outcome *outcomes; /* [n_requests of the workload]; owned */
    uint64_t n_requests;
    double seconds; /* from the start to the last end */
    uint64_t done, refused;
    uint64_t counted, good; /* ended well behind the warm-up; of these inside both SLOs */
    uint64_t output_tokens; /* of those counted */
    struct spread ttft, tpot, e2e, itl;
    uint64_t prompt_tokens, device_tokens, pulled_tokens, computed_tokens; /* of prompts, when first computed */
    uint64_t recomputed_tokens;                                            /* after a preemption or a death */
    uint64_t moved_bytes, pulled_bytes;
    uint64_t decisions, local, remote, retried, preemptions, replays, legs, pulls, pulls_short, refusals;
    uint64_t evicted_blocks, index_blocks, events; /* index_blocks: that the router knew of at the end */
    struct sim_role prefill, decode;
};

/* ST_INVALID, ST_LIMIT name the option. */
MUST_CHECK status sim_run(const struct sim_options *options, const struct workload *workload, struct sim_result *out,
                          struct error *err);
void sim_result_free(struct sim_result *result);

#endif
