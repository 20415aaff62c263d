/* How the tier meets a disk that fails: it counts, goes read-only, looks again after a pause; and the jobs. */
#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "kvbm/disk_tier_internal.h"

static const char *const error_names[] = {
#define X(name, text) text,
    DISK_ERRORS(X)
#undef X
};

static const char *const health_names[] = {
#define X(name, next) #name,
    DISK_HEALTHS(X)
#undef X
};

static const unsigned legal_next[] = {
#define TO(name)      (1u << DISK_IS_##name)
#define X(name, next) (next),
    DISK_HEALTHS(X)
#undef X
#undef TO
};

const char *disk_error_name(enum disk_error error)
{
    return (unsigned)error < DISK_ERROR_COUNT ? error_names[error] : "?";
}

const char *disk_health_name(enum disk_health health)
{
    return (unsigned)health < DISK_HEALTH_COUNT ? health_names[health] : "?";
}

/* The only place that assigns the health. */
static void enter_health(struct disk_tier *tier, enum disk_health health)
{
    if (tier->health == health)
        return;
    ASSERT(legal_next[tier->health] & (1u << health));
    tier->health = health;
    if (health == DISK_IS_HEALTHY)
        log_info("disk tier works again", "path=%s", tier->path);
    else
        log_warn("disk tier is degraded", "path=%s health=%s", tier->path, disk_health_name(health));
}

static bool is_full(int64_t result)
{
    return result == -ENOSPC || result == -EDQUOT;
}

void disk_tier_write_failed(struct disk_tier *tier, int64_t result)
{
    enum disk_error error = result >= 0 ? DISK_ERROR_SHORT : is_full(result) ? DISK_ERROR_NO_SPACE : DISK_ERROR_WRITE;
    tier->count.errors[error]++;
    if (tier->health != DISK_IS_HEALTHY)
        return;
    log_error("a write to disk failed", "path=%s error=%s", tier->path, result < 0 ? strerror((int)-result) : "short");
    enter_health(tier, DISK_IS_READ_ONLY);
    tier->probe_at_us = disk_now(tier) + tier->options.probe_us;
}

void disk_tier_read_failed(struct disk_tier *tier, int64_t result)
{
    tier->count.errors[result < 0 ? DISK_ERROR_READ : DISK_ERROR_SHORT]++;
    log_warn("a block could not be read from disk", "path=%s error=%s", tier->path,
             result < 0 ? strerror((int)-result) : "short");
}

static void on_job_done(struct disk_io_op *op, int64_t result)
{
    struct disk_job *job = (struct disk_job *)op;
    job->waiting = false;
    if (op->kind == DISK_IO_WRITE && result > 0)
        job->tier->count.wear_bytes += (uint64_t)result;
    job->advance(job->tier, result);
}

void disk_job_init(struct disk_tier *tier, struct disk_job *job, void (*advance)(struct disk_tier *, int64_t))
{
    *job = (struct disk_job){ .tier = tier, .advance = advance, .segment = NO_SEGMENT };
}

bool disk_job_start(struct disk_job *job)
{
    if (job->active)
        return false;
    job->active = true;
    return true;
}

void disk_job_end(struct disk_job *job)
{
    job->active = false;
}

void disk_job_submit(struct disk_job *job, enum disk_io_kind kind, uint64_t offset, uint64_t bytes, void *data)
{
    ASSERT(job->active && !job->waiting);
    job->op.kind = kind;
    job->op.offset = offset;
    job->op.bytes = bytes;
    job->op.data = data;
    job->op.done = on_job_done;
    job->waiting = true;
    if (kind == DISK_IO_WRITE)
        disk_wear_spend(&job->tier->wear, bytes);
    status st = disk_io_submit(job->tier->io, &job->op);
    ASSERT(st == ST_OK); /* the depth has a place for each job */
}

/* Whoever took the folder away took the blocks: a new file is begun where the folder stands again. It is not made here,
 * as it may be the place of a file system that is not mounted now. */
static void make_anew(struct disk_tier *tier)
{
    struct error err;
    if (!tier->io->in_flight && !tier->wipe.requested && disk_tier_reopen(tier, &err) == ST_OK)
        enter_health(tier, DISK_IS_HEALTHY);
}

static void return_from_loss(struct disk_tier *tier)
{
    if (tier->io->methods->probe(tier->io) == 0)
        enter_health(tier, DISK_IS_HEALTHY); /* it was only out of sight */
    else
        make_anew(tier);
}

void disk_prober_advance(struct disk_tier *tier, int64_t result)
{
    struct disk_job *job = &tier->prober;
    disk_job_end(job);
    if (result != DISK_PAGE) {
        disk_tier_write_failed(tier, result);
        return;
    }
    tier->super_written++;
    if (tier->health == DISK_IS_READ_ONLY)
        enter_health(tier, DISK_IS_HEALTHY);
}

void disk_tier_probe(struct disk_tier *tier)
{
    if (disk_now(tier) < tier->probe_at_us)
        return;
    tier->probe_at_us = disk_now(tier) + tier->options.probe_us;
    if (tier->health == DISK_IS_LOST) {
        return_from_loss(tier);
        return;
    }
    if (tier->io->methods->probe(tier->io) < 0) {
        tier->count.errors[DISK_ERROR_LOST]++;
        enter_health(tier, DISK_IS_LOST);
        return;
    }
    if (tier->health != DISK_IS_READ_ONLY || tier->opener.active || !disk_job_start(&tier->prober))
        return;
    disk_super_of(tier, tier->prober_page);
    disk_job_submit(&tier->prober, DISK_IO_WRITE, disk_super_offset(tier), DISK_PAGE, tier->prober_page);
}
