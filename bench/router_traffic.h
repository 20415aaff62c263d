/* router_traffic.h - chat requests through a router to mock workers and back: a phase of one kind of
 * traffic at a time. Every answer is checked token by token, and the time of each token is
 * taken at both ends, on one clock, in one process. */
#ifndef BATON_BENCH_ROUTER_TRAFFIC_H
#define BATON_BENCH_ROUTER_TRAFFIC_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/load.h"
#include "bench/process_probe.h"
#include "bench/router_rig.h"

#define TRAFFIC_MAX_TOKENS   512u
#define TRAFFIC_MAX_REQUESTS 8192u    /* under way at one time */
#define TRAFFIC_MAX_SAMPLES  2000000u /* latencies kept of a phase; later ones are counted only */

/* The texts of the mock workers' tokens, one byte each, in the order of their token_ids. */
#define TRAFFIC_LETTERS "abcdefghijklmnopqrstuvwxyz"

/* What a phase sends. */
struct traffic_phase {
    uint32_t n_connections;
    uint32_t stream_tokens; /* of a streamed answer */
    uint32_t stream_every;  /* one request in so many is streamed, the others ask for one token; 0: none */
    uint64_t n_requests;    /* 0: as many as fit into duration_us */
    uint64_t duration_us;
    uint64_t step_us; /* of the mock workers */
    uint32_t window;  /* tokens that may be under way before workers hold back; 0: any number */
    bool direct;      /* from a worker on the router's processor straight to the client; all requests are streamed */
};

struct traffic_result {
    struct load_stats load;
    uint64_t requests, tokens; /* all tokens; of them streamed: */
    uint64_t streamed;
    double router_cpu_us;              /* processor time of the router */
    double router_wait_us;             /* its run-queue wait, a wakeup; */
    double client_wait_us;             /* the client's */
    double steal;                      /* share of the router's processor that the hypervisor took; -1: not known */
    double token_p50_us, token_p99_us; /* of streamed tokens, emission to receipt; 0 without samples */
    double ttft_p50_us;
    uint64_t rss_bytes; /* of the router, at the end */
};

struct traffic;

MUST_CHECK status traffic_create(struct traffic **out, struct error *err);
void traffic_destroy(struct traffic **traffic);
/* Emission times and the window, for the workers of the rig. */
void traffic_attach(struct traffic *traffic, struct mock_worker_options *worker);
/* Errors: as of router_rig_run; ST_CORRUPT: answers that are wrong or missing, with the first. */
MUST_CHECK status traffic_run(struct traffic *traffic, struct router_rig *rig, const struct traffic_phase *phase,
                              struct traffic_result *out, struct error *err);

#endif
