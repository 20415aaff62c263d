#include <string.h>

#include "common/clock.h"
#include "common/failpoint.h"
#include "transfer/mover.h"

void copier_layer_done(struct mover *m, struct job *job, uint32_t span, uint32_t layer)
{
    const struct transfer_take *take = job->take;
    const struct transfer_span *s = &take->spans[span];
    if (!take->checksums)
        return;
    size_t at = (size_t)(layer - take->first_layer) * take->n_spans + span;
    take->checksums[at] =
        transfer_layer_checksum(&m->geometry, pool_block(&m->pool, s->local_block), layer, s->first, s->n);
}

void copier_scatter(struct mover *m, struct job *job, struct run_cursor *cursor, uint32_t first_span,
                    const uint8_t *bytes, size_t len)
{
    struct run run;
    job->bytes += len;
    while (len) {
        if (!cursor->layer && !cursor->segment && !cursor->within)
            (void)FAILPOINT("transfer.take.copying");
        ASSERT(run_cursor_next(cursor, len, &run));
        uint32_t span = first_span + run.span;
        uint8_t *to = pool_block(&m->pool, job->take->spans[span].local_block) + run.offset;
        memcpy(to, bytes, run.bytes);
        if (FAILPOINT("transfer.take.flip") == FAILPOINT_FLIP)
            to[0] ^= 1;
        if (run.ends_layer)
            copier_layer_done(m, job, span, run.layer);
        bytes += run.bytes;
        len -= run.bytes;
    }
}

static const _Atomic uint64_t *mapped_generation(const struct transfer_peer *peer, uint32_t block)
{
    const void *all = peer->mapped + pool_generations_offset();
    return (const _Atomic uint64_t *)all + block;
}

static bool still_as_lent(const struct transfer_peer *peer, const struct transfer_span *s)
{
    return pool_generation_after(mapped_generation(peer, s->remote_block)) == s->remote_generation;
}

static void copy_run(struct mover *m, const struct job *job, const struct run *run)
{
    const struct pool_identity *lender = &job->peer->lender.pool;
    const struct transfer_span *s = &job->take->spans[run->span];
    const uint8_t *blocks = job->peer->mapped + pool_blocks_offset(lender);
    const uint8_t *from = blocks + s->remote_block * transfer_block_bytes(&lender->geometry) + run->offset;
    uint8_t *to = pool_block(&m->pool, s->local_block) + run->offset;
    if (job->take->checksums) /* reads it again at once */
        pool_read(to, from, run->bytes);
    else
        pool_read_streaming(to, from, run->bytes);
    if (FAILPOINT("transfer.take.flip") == FAILPOINT_FLIP)
        to[0] ^= 1;
}

/* One piece through the mapping. The generation is looked at before a block, which
 * saves the copy of a stale one, and after it, which is what counts. */
static status copy_piece(struct mover *m, struct job *job, const struct run *run, bool begins)
{
    const struct transfer_peer *peer = job->peer;
    const struct transfer_span *s = &job->take->spans[run->span];
    if (begins) {
        (void)FAILPOINT("transfer.take.copying");
        if (!still_as_lent(peer, s))
            return ST_STALE;
    }
    copy_run(m, job, run);
    if (!run->ends_span)
        return ST_OK;
    (void)FAILPOINT("transfer.take.before_generation");
    return still_as_lent(peer, s) ? ST_OK : ST_STALE;
}

/* At most so many bytes of one take; *ended when it has no more. */
static status work_on(struct mover *m, struct job *job, size_t most, size_t *worked, bool *ended)
{
    struct run run;
    while (*worked < most) {
        if (atomic_load_explicit(&job->take->cancelled, memory_order_relaxed))
            return ST_CANCELLED;
        bool begins = !job->cursor.layer && !job->cursor.segment;
        if (!run_cursor_next(&job->cursor, SIZE_MAX, &run)) {
            *ended = true;
            return ST_OK;
        }
        status st = job->peer ? copy_piece(m, job, &run, begins) : ST_OK;
        if (st)
            return st;
        if (run.ends_layer)
            copier_layer_done(m, job, run.span, run.layer);
        *worked += run.bytes;
        if (job->peer)
            job->bytes += run.bytes;
    }
    return ST_OK;
}

bool copier_work(struct mover *m, struct jobs *jobs)
{
    size_t worked = 0;
    struct job *job;
    while (worked < MOVER_QUANTUM && (job = TAILQ_FIRST(jobs)) != NULL) {
        uint64_t before = clock_now_us();
        bool ended = false;
        status st = work_on(m, job, MOVER_QUANTUM, &worked, &ended);
        job->busy_us += clock_now_us() - before;
        if (st || ended) {
            takes_end(m, job, st);
            handoff_wake(&m->events); /* who computes behind takes is not to wait for those that follow in this turn */
        }
    }
    return !TAILQ_EMPTY(jobs);
}
