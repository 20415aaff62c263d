#include "router/tokenize_pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

STAILQ_HEAD(job_list, tokenize_job);

/* Finished jobs are told by an event of the pool's own rather than by loop_post:
 * nothing of it is left in the loop when the pool is destroyed. */
struct tokenize_pool {
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct job_list waiting, finished; /* under lock */
    bool stop;                         /* under lock */
    uint32_t n_threads;
    pthread_t *threads;
    int wake_fd;
    struct event *wake;
    uint32_t n_pending; /* loop thread's */
};

static void finish_jobs(struct tokenize_pool *pool)
{
    struct job_list done;
    struct tokenize_job *job;
    STAILQ_INIT(&done);
    pthread_mutex_lock(&pool->lock);
    STAILQ_CONCAT(&done, &pool->finished);
    pthread_mutex_unlock(&pool->lock);
    while ((job = STAILQ_FIRST(&done))) {
        STAILQ_REMOVE_HEAD(&done, next);
        pool->n_pending--;
        job->done(job);
    }
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    uint64_t count;
    (void)what;
    if (read((int)fd, &count, sizeof count) == (ssize_t)sizeof count)
        finish_jobs(arg);
}

static void wake_loop(struct tokenize_pool *pool)
{
    const uint64_t one = 1;
    ASSERT(write(pool->wake_fd, &one, sizeof one) == (ssize_t)sizeof one);
}

static void *work(void *arg)
{
    struct tokenize_pool *pool = arg;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->stop && STAILQ_EMPTY(&pool->waiting))
            pthread_cond_wait(&pool->work, &pool->lock);
        if (pool->stop)
            break;
        struct tokenize_job *job = STAILQ_FIRST(&pool->waiting);
        STAILQ_REMOVE_HEAD(&pool->waiting, next);
        pthread_mutex_unlock(&pool->lock);
        job->run(job);
        pthread_mutex_lock(&pool->lock);
        STAILQ_INSERT_TAIL(&pool->finished, job, next);
        wake_loop(pool);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static void join_threads(struct tokenize_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->n_threads; i++)
        pthread_join(pool->threads[i], NULL);
}

static void pool_free(struct tokenize_pool *pool)
{
    if (pool->wake)
        event_free(pool->wake);
    if (pool->wake_fd >= 0)
        close(pool->wake_fd);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    free(pool->threads);
    free(pool);
}

static bool start(struct tokenize_pool *pool, struct loop *loop, uint32_t n_threads)
{
    pool->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (pool->wake_fd < 0 || !pool->threads)
        return false;
    pool->wake = event_new(loop_base(loop), pool->wake_fd, EV_READ | EV_PERSIST, on_wake, pool);
    if (!pool->wake || event_add(pool->wake, NULL) < 0)
        return false;
    while (pool->n_threads < n_threads) {
        if (pthread_create(&pool->threads[pool->n_threads], NULL, work, pool) != 0)
            return false;
        pool->n_threads++;
    }
    return true;
}

status tokenize_pool_create(struct loop *loop, uint32_t n_threads, struct tokenize_pool **out)
{
    struct tokenize_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return ST_NO_MEMORY;
    pool->threads = calloc(n_threads ? n_threads : 1, sizeof *pool->threads);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    STAILQ_INIT(&pool->waiting);
    STAILQ_INIT(&pool->finished);
    if (!start(pool, loop, n_threads)) {
        join_threads(pool);
        pool_free(pool);
        return ST_IO;
    }
    *out = pool;
    return ST_OK;
}

void tokenize_pool_destroy(struct tokenize_pool **handle)
{
    struct tokenize_pool *pool = *handle;
    if (!pool)
        return;
    *handle = NULL;
    join_threads(pool);
    STAILQ_CONCAT(&pool->finished, &pool->waiting);
    finish_jobs(pool);
    ASSERT(pool->n_pending == 0);
    pool_free(pool);
}

status tokenize_pool_submit(struct tokenize_pool *pool, struct tokenize_job *job)
{
    if (pool->n_pending >= TOKENIZE_POOL_MAX_QUEUED)
        return ST_AGAIN;
    pool->n_pending++;
    job->pool = pool;
    pthread_mutex_lock(&pool->lock);
    STAILQ_INSERT_TAIL(&pool->waiting, job, next);
    pthread_cond_signal(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    return ST_OK;
}

uint32_t tokenize_pool_pending(const struct tokenize_pool *pool)
{
    return pool->n_pending;
}
