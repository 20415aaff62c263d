#include "common/clock.h"
#include "transfer/mover.h"

static struct jobs *queue_of(struct mover *m, struct job *job)
{
    return job->peer ? &job->peer->jobs : &m->own_jobs;
}

static void on_deadline(void *arg)
{
    struct job *job = arg;
    takes_end(job->mover, job, ST_TIMEOUT);
}

/* Block numbers of the peer's come from outside. */
static bool remote_blocks_exist(const struct job *job)
{
    const struct transfer_take *take = job->take;
    for (uint32_t i = 0; job->peer && i < take->n_spans; i++)
        if (take->spans[i].remote_block >= job->peer->lender.pool.n_blocks)
            return false;
    return true;
}

void takes_begin(struct mover *m, struct job *job)
{
    const struct transfer_take *take = job->take;
    job->active = true;
    job->mover = m;
    job->asked_spans = job->open_requests = 0;
    job->started_us = job->bytes = job->busy_us = 0;
    run_cursor_init(&job->cursor, &m->geometry, take->spans, take->n_spans, take->first_layer, take->n_layers);
    TAILQ_INSERT_TAIL(queue_of(m, job), job, queue);
    if (job->peer && job->peer->state == PEER_LOST)
        takes_end(m, job, ST_CLOSED);
    else if (!remote_blocks_exist(job))
        takes_end(m, job, ST_CORRUPT);
    else if (!take->n_spans)
        takes_end(m, job, ST_OK);
    else
        timer_set(&m->timers, &job->deadline, take->deadline_us, on_deadline, job);
}

void takes_cancel(struct mover *m, struct job *job)
{
    if (job->active)
        takes_end(m, job, ST_CANCELLED);
}

static void count(struct mover *m, const struct job *job, status st)
{
    struct mover_stats *s = &m->stats;
    enum transfer_transport way = job->peer ? job->peer->ready_transport : TRANSPORT_NONE;
    mover_count(&s->takes[way], 1);
    mover_count(&s->bytes_taken[way], job->bytes);
    mover_count(&s->busy_us[way], job->busy_us);
    mover_count(&s->stale, st == ST_STALE);
    mover_count(&s->timeouts, st == ST_TIMEOUT);
}

void takes_end(struct mover *m, struct job *job, status st)
{
    struct transfer_take *take = job->take;
    ASSERT(job->active);
    timer_cancel(&m->timers, &job->deadline);
    TAILQ_REMOVE(queue_of(m, job), job, queue);
    if (job->started_us) {
        uint64_t now = clock_now_us();
        uint64_t since = job->started_us > job->peer->last_end_us ? job->started_us : job->peer->last_end_us;
        job->busy_us = now - since;
        job->peer->last_end_us = now;
        if (job->peer->ready_transport == TRANSPORT_RDMA)
            rdma_forget(job->peer, job);
        else
            fetch_forget(job->peer, job);
    }
    job->active = false;
    count(m, job, st);
    take->st = st;
    take->bytes = job->bytes;
    take->busy_us = job->busy_us;
    handoff_add(&m->events, EVENT_DONE, job);
}

void takes_end_all(struct mover *m, struct jobs *jobs, status st)
{
    struct job *job;
    while ((job = TAILQ_FIRST(jobs)) != NULL)
        takes_end(m, job, st);
}
