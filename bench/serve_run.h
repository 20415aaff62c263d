/* serve_run.h - a load on a server that speaks OpenAI's API: sends what serve_traffic says when it says so, and keeps
 * what came of each request. An open loop does not wait for answers: what finds no connection free waits for one, and
 * its time counts from when it should have been sent. Blocking; one thread. */
#ifndef BATON_BENCH_SERVE_RUN_H
#define BATON_BENCH_SERVE_RUN_H

#include "bench/latency_histogram.h"
#include "bench/load.h"
#include "bench/serve_body.h"
#include "bench/serve_event.h"
#include "bench/serve_record.h"
#include "bench/serve_traffic.h"

#define SERVE_MAX_REQUESTS    (1u << 22)
#define SERVE_MAX_LIVE        (1u << 18) /* conversations at one time; more are not sent */
#define SERVE_BINS            240u
#define SERVE_BIN_US          UINT64_C(250000) /* of a bin at first; a run that is longer has twice as long ones, and so on */
#define SERVE_ERROR_PAUSE_US  UINT64_C(100000) /* at least, before a user of a closed loop tries again */
#define SERVE_MAX_HTTP_STATUS 600u

struct serve_options {
    const char *host; /* numeric */
    uint16_t port;
    const char *path; /* of the requests */
    struct serve_api api;
    const struct serve_traffic *traffic;
    const struct prompt_words *words;
    uint32_t connections;
    uint64_t n_requests;  /* at most; 1 to SERVE_MAX_REQUESTS */
    uint64_t duration_us; /* after which nothing new is asked; 0: no limit */
    uint64_t timeout_us;  /* of each request, and for what still waits for a connection after duration_us */
    uint64_t n_warmup;    /* requests at the beginning whose gaps between tokens do not count */
    /* About once a second. May be NULL. */
    void (*on_progress)(void *ctx, uint64_t elapsed_us, uint64_t sent, uint64_t ended, uint64_t failed);
    void *ctx;
};

struct serve_run {
    struct serve_record *records; /* in the order in which they were sent, or given up */
    size_t n;
    struct latency_histogram gaps; /* between events with text, of all requests but the first n_warmup */
    uint64_t event_bins[SERVE_BINS];
    uint64_t bin_us;
    uint32_t statuses[SERVE_MAX_HTTP_STATUS];            /* of answers that are no 200 */
    char errors[SERVE_OUTCOME_COUNT][SERVE_ERROR_BYTES]; /* the first of each kind */
    uint64_t n_waited;                                   /* found no connection free */
    struct load_stats load;
    bool interrupted; /* by SIGINT or SIGTERM; what was under way was waited for */
};

/* ST_OK also when requests failed. The caller frees *out. */
MUST_CHECK status serve_run(const struct serve_options *options, struct serve_run **out, struct error *err);
void serve_run_free(struct serve_run **run);

#endif
