/* direct_worker.h - a worker without a model that serves HTTP itself: what a token's way costs where no router
 * lies between worker and client. It answers chat requests of the load client as a router streams
 * them, an event for each token, at the pace of mock workers. It runs on a thread of its own, on a processor of its
 * own; the calls here are for the thread that starts it. */
#ifndef BATON_BENCH_DIRECT_WORKER_H
#define BATON_BENCH_DIRECT_WORKER_H

#include <stdint.h>

#include "common/status.h"

#define DIRECT_MAX_STREAMS 16384u /* at one time; more are answered 503 */

struct direct_worker;

struct direct_worker_options {
    int processor;
    uint64_t step_us;
    uint32_t batch;      /* tokens of one step that are emitted at one moment, as those of one mock worker are */
    const char *letters; /* texts of the tokens, a byte each; see mock_worker_token */
    /* Told just before a token is sent, on the worker's thread. index counts from 0. */
    void (*on_emit)(void *ctx, uint64_t seed, uint32_t index, uint64_t now_us);
    void *ctx;
};

MUST_CHECK status direct_worker_start(const struct direct_worker_options *options, struct direct_worker **out,
                                      struct error *err);
uint16_t direct_worker_port(const struct direct_worker *worker); /* on 127.0.0.1 */
/* Ends the thread; streams under way break off. */
void direct_worker_stop(struct direct_worker **worker);

#endif
