/* router_rig.h - what a router is measured with: an etcd of its own and mock workers that share one processor
 * with the load client, and the router alone on another. One thread, one loop. Everything lies in a
 * temporary folder and is gone after router_rig_destroy, also when a signal or a failure ended the run. */
#ifndef BATON_BENCH_ROUTER_RIG_H
#define BATON_BENCH_ROUTER_RIG_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#include "bench/companion.h"
#include "bench/mock_worker.h"
#include "common/etcd.h"
#include "common/loop.h"
#include "common/status.h"

#define RIG_MAX_WORKERS 64u
#define RIG_MODEL       "bench"

struct router_rig_options {
    const char *router;    /* the program */
    const char *busy_poll; /* of the router, which has its processor for itself */
    const char *model;     /* folder whose tokenizer and template the router uses */
    uint32_t n_workers;
    struct mock_worker_options worker; /* token_ids, step and callbacks; the rest is the rig's */
};

struct router_rig {
    struct router_rig_options options;
    struct loop *loop;
    struct etcd *etcd;
    struct companion etcd_child, router_child;
    struct mock_worker *workers[RIG_MAX_WORKERS];
    uint32_t n_connected; /* workers that the router has reached */
    cpu_set_t allowed;    /* processors of this process before and after the run; empty: not changed */
    int router_processor, client_processor;
    uint16_t port; /* of the router's API; 0: not known yet */
    char dir[256];
    struct event *signals[4], *ready;
    char ready_line[1024];
    size_t ready_len;
    struct timer limit;
    status ended; /* why the loop stopped */
    bool stopping;
};

/* Returns when the router has reached all workers. Errors as of router_rig_run. */
MUST_CHECK status router_rig_create(const struct router_rig_options *options, struct router_rig **out,
                                    struct error *err);
/* Runs the loop until router_rig_done (ST_OK), a signal (ST_CANCELLED), the end of a child (ST_CLOSED)
 * or the limit (ST_TIMEOUT). */
MUST_CHECK status router_rig_run(struct router_rig *rig, uint64_t limit_us, struct error *err);
void router_rig_done(struct router_rig *rig); /* from a callback */
void router_rig_set_step(struct router_rig *rig, uint64_t step_us);
/* usage of the router, all of its life; may be NULL. */
void router_rig_destroy(struct router_rig **rig, struct rusage *usage);

#endif
