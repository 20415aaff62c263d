/* mock_worker.h - a decode worker without a model, for measuring what stands in front of it: it
 * registers in etcd, speaks the control plane as a worker does (acknowledged last words, resumed gaps,
 * ids kept until TokensAck, published load, KV events), and answers every Generate with tokens that follow from seed
 * and position: the first at once, as prompts cost no time, then one a step. Loop thread only. */
#ifndef BATON_BENCH_MOCK_WORKER_H
#define BATON_BENCH_MOCK_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/etcd.h"
#include "common/loop.h"
#include "common/status.h"

#define MOCK_MAX_REQUESTS 16384u    /* beyond it: FAILURE_BUSY */
#define MOCK_KEEP_US      10000000u /* finished ids that nobody acknowledges */

struct mock_worker;

struct mock_worker_options {
    struct loop *loop;
    struct etcd *etcd;                /* borrowed; outlives the worker */
    const char *id, *cluster, *model; /* copied */
    uint32_t max_model_len;
    const uint32_t *token_ids; /* [n_token_ids], borrowed; see mock_worker_token */
    uint32_t n_token_ids;
    uint64_t step_us; /* time between the tokens of one sequence */
    /* Told just before a token is sent (again). index counts from 0 after the prompt. May be NULL. */
    void (*on_emit)(void *ctx, uint64_t seed, uint32_t index, uint64_t now_us);
    /* False holds the next step back for a step's time. May be NULL. */
    bool (*may_step)(void *ctx);
    void *ctx;
    void (*on_router)(void *arg); /* a router has connected. May be NULL */
    void *on_router_arg;
};

MUST_CHECK status mock_worker_create(const struct mock_worker_options *options, struct mock_worker **out,
                                     struct error *err);
/* Takes its record out of etcd (best effort) and leaves; what it was asked is forgotten. */
void mock_worker_destroy(struct mock_worker **worker);
void mock_worker_set_step(struct mock_worker *worker, uint64_t step_us);

/* Which of token_ids the choice of this seed has at this index. */
static inline uint32_t mock_worker_token(uint64_t seed, uint32_t index, uint32_t n_token_ids)
{
    return (uint32_t)((seed + index) % n_token_ids);
}

struct mock_worker_stats {
    uint64_t generates, tokens, finished, cancelled, resumed, refused, expired, send_failures;
    uint32_t live; /* running, or finished and not acknowledged */
};
void mock_worker_stats(const struct mock_worker *worker, struct mock_worker_stats *out);

#endif
