/* tokenize_pool.h - a few threads for work that would hold up the loop: parsing, rendering
 * and tokenising large bodies. Bounded: a full queue refuses. */
#ifndef BATON_ROUTER_TOKENIZE_POOL_H
#define BATON_ROUTER_TOKENIZE_POOL_H

#include <stdint.h>
#include <sys/queue.h>

#include "common/loop.h"
#include "common/status.h"

#define TOKENIZE_POOL_MAX_QUEUED 1024

struct tokenize_pool;

/* Part of the caller's own struct, which lives until done was called. */
struct tokenize_job {
    void (*run)(struct tokenize_job *job);  /* on a thread of the pool */
    void (*done)(struct tokenize_job *job); /* on the loop thread, after run; frees */
    STAILQ_ENTRY(tokenize_job) next;
    struct tokenize_pool *pool;
};

MUST_CHECK status tokenize_pool_create(struct loop *loop, uint32_t n_threads, struct tokenize_pool **out);
/* Loop thread. Ends the threads after their current job; done is called for every job before it returns,
 * also for those that were never run. */
void tokenize_pool_destroy(struct tokenize_pool **pool);
/* Loop thread. ST_AGAIN: the queue is full. */
MUST_CHECK status tokenize_pool_submit(struct tokenize_pool *pool, struct tokenize_job *job);
/* Jobs whose done was not called yet. Loop thread. */
uint32_t tokenize_pool_pending(const struct tokenize_pool *pool);

#endif
