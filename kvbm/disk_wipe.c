/* Wiping a salt: its extents are overwritten with zeros, made durable, and read back; then the footers that told of
 * them are written anew. It waits until no segment's work and no operation of that salt is on its way, and holds up the
 * work on segments until it is over; puts of other salts go on as long as there is room. */
#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "kvbm/disk_tier_internal.h"

enum wipe_step { WIPE_QUIET, WIPE_ZERO, WIPE_SYNC, WIPE_READ, WIPE_FOOTERS, WIPE_SYNC_FOOTERS };

bool disk_wipe_covers(const struct disk_tier *tier, uint64_t salt)
{
    return tier->wipe.requested && (tier->wipe.all || tier->wipe.salt == salt);
}

/* Torn extents may be anyone's. */
static bool matches(const struct disk_record *r, const void *arg)
{
    const struct wipe *w = arg;
    return w->all || r->salt == w->salt || r->state == DISK_RECORD_TORN;
}

static void wipe_end(struct disk_tier *tier, status st)
{
    struct wipe *w = &tier->wipe;
    struct disk_wipe_call call = w->call;
    disk_job_end(&w->job);
    w->requested = false;
    if (st != ST_OK)
        log_error("a wipe of the disk tier failed", "path=%s status=%s", tier->path, status_text(st));
    if (call.done)
        call.done(call.ctx, st, w->bytes);
}

/* Moves on to the next extent that matches; false: there is none. */
static bool next_extent(struct disk_tier *tier)
{
    struct wipe *w = &tier->wipe;
    for (;;) {
        while (w->record != DISK_NO_RECORD) {
            if (matches(disk_index_at(tier->index, w->record), w))
                return true;
            w->record = disk_index_at(tier->index, w->record)->next;
        }
        if (++w->segment >= tier->n_segments)
            return false;
        w->record = tier->segments[w->segment].records.first;
    }
}

static void first_extent(struct wipe *w)
{
    w->segment = UINT32_MAX; /* next_extent steps to 0 */
    w->record = DISK_NO_RECORD;
    w->job.at = 0;
}

/* The next piece of the next extent; false: all are through. */
static bool submit_piece(struct disk_tier *tier, enum disk_io_kind kind, void *data)
{
    struct wipe *w = &tier->wipe;
    if (!next_extent(tier))
        return false;
    const struct disk_record *r = disk_index_at(tier->index, w->record);
    uint64_t left = r->extent_bytes - w->job.at;
    disk_job_submit(&w->job, kind, segment_offset(tier, w->segment) + r->offset + w->job.at,
                    left < DISK_CHUNK_BYTES ? left : DISK_CHUNK_BYTES, data);
    return true;
}

static void piece_ended(struct disk_tier *tier)
{
    struct wipe *w = &tier->wipe;
    const struct disk_record *r = disk_index_at(tier->index, w->record);
    w->job.at += w->job.op.bytes;
    if (w->job.at < r->extent_bytes)
        return;
    w->job.at = 0;
    w->record = r->next;
}

static void submit_sync(struct disk_tier *tier, enum wipe_step step)
{
    tier->wipe.job.step = (int)step;
    disk_job_submit(&tier->wipe.job, DISK_IO_SYNC, 0, 0, NULL);
}

static void zero_next(struct disk_tier *tier)
{
    tier->wipe.job.step = WIPE_ZERO;
    if (!submit_piece(tier, DISK_IO_WRITE, tier->zeros))
        submit_sync(tier, WIPE_SYNC);
}

static bool forget_in(struct disk_tier *tier, uint32_t segment)
{
    struct disk_segment *s = &tier->segments[segment];
    uint32_t before = s->records.n;
    disk_index_forget(tier->index, &s->records, matches, &tier->wipe);
    return s->records.n < before;
}

static void footer_next(struct disk_tier *tier)
{
    struct wipe *w = &tier->wipe;
    uint64_t offset, bytes;
    w->job.step = WIPE_FOOTERS;
    while (w->segment < tier->n_segments) {
        uint32_t at = w->segment++;
        if (!forget_in(tier, at) || tier->segments[at].state != SEGMENT_SEALED)
            continue;
        bytes = disk_segment_footer(tier, at, &offset);
        disk_job_submit(&w->job, DISK_IO_WRITE, offset, bytes, tier->footer);
        return;
    }
    submit_sync(tier, WIPE_SYNC_FOOTERS);
}

static void read_next(struct disk_tier *tier)
{
    struct wipe *w = &tier->wipe;
    w->job.step = WIPE_READ;
    memset(w->buffer, 0xff, DISK_CHUNK_BYTES);
    if (submit_piece(tier, DISK_IO_READ, w->buffer))
        return;
    w->segment = 0;
    footer_next(tier);
}

static bool is_zero(const uint8_t *bytes, uint64_t n)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, n - 1) == 0;
}

static bool piece_failed(struct disk_tier *tier, int64_t result)
{
    struct wipe *w = &tier->wipe;
    const bool moves = w->job.op.kind == DISK_IO_READ || w->job.op.kind == DISK_IO_WRITE;
    if (result == (moves ? (int64_t)w->job.op.bytes : 0))
        return false;
    if (w->job.op.kind == DISK_IO_READ)
        disk_tier_read_failed(tier, result);
    else
        disk_tier_write_failed(tier, result);
    wipe_end(tier, ST_IO);
    return true;
}

static void wipe_advance(struct disk_tier *tier, int64_t result)
{
    struct wipe *w = &tier->wipe;
    if (piece_failed(tier, result))
        return;
    if (!w->call.done || disk_now(tier) >= w->call.deadline_us) {
        wipe_end(tier, ST_TIMEOUT);
        return;
    }
    switch ((enum wipe_step)w->job.step) {
    case WIPE_QUIET:
        return;
    case WIPE_ZERO:
        piece_ended(tier);
        zero_next(tier);
        return;
    case WIPE_SYNC:
        first_extent(w);
        read_next(tier);
        return;
    case WIPE_READ:
        if (!is_zero(w->buffer, w->job.op.bytes)) {
            wipe_end(tier, ST_CORRUPT);
            return;
        }
        w->bytes += w->job.op.bytes;
        piece_ended(tier);
        read_next(tier);
        return;
    case WIPE_FOOTERS:
        footer_next(tier);
        return;
    case WIPE_SYNC_FOOTERS:
        wipe_end(tier, ST_OK);
        return;
    }
}

void disk_wipe_init_job(struct disk_tier *tier)
{
    disk_job_init(tier, &tier->wipe.job, wipe_advance);
}

static bool free_ones_clean(const struct disk_tier *tier)
{
    for (uint32_t i = 0; i < tier->n_segments; i++)
        if (tier->segments[i].state == SEGMENT_FREE && !tier->segments[i].clean)
            return false;
    return true;
}

static bool slots_quiet(const struct disk_tier *tier)
{
    for (uint32_t i = 0; i < tier->options.slots; i++) {
        const struct disk_slot *slot = &tier->slots[i];
        if (slot->state != SLOT_FREE && matches(disk_index_at(tier->index, slot->record), &tier->wipe))
            return false;
    }
    return true;
}

/* What lies in buffers from reads and writes that have ended. */
static void forget_copies(struct disk_tier *tier)
{
    const uint64_t extent = disk_extent(tier->options.max_payload_bytes);
    for (uint32_t i = 0; i < tier->options.slots; i++) {
        struct disk_slot *slot = &tier->slots[i];
        if (slot->state != SLOT_FREE)
            continue;
        explicit_bzero(slot->buffer, extent);
        explicit_bzero(slot->tokens, sizeof slot->tokens);
    }
    explicit_bzero(tier->reclaimer_buffer, extent);
}

static void forget_blocks(struct disk_tier *tier)
{
    for (uint32_t i = 0; i < tier->n_segments; i++)
        for (disk_record_id id = tier->segments[i].records.first; id != DISK_NO_RECORD;) {
            const struct disk_record *r = disk_index_at(tier->index, id);
            if (matches(r, &tier->wipe))
                disk_index_kill(tier->index, id);
            id = r->next;
        }
}

status disk_tier_wipe(struct disk_tier *tier, const struct disk_wipe_call *call)
{
    struct wipe *w = &tier->wipe;
    if (w->requested || w->job.active)
        return ST_AGAIN;
    if (tier->health == DISK_IS_LOST)
        return ST_IO;
    w->call = *call;
    w->all = !call->salt;
    w->salt = call->salt ? *call->salt : 0;
    w->requested = true;
    w->bytes = 0;
    forget_blocks(tier);
    return ST_OK;
}

/* A piece on its way at the deadline is waited for with the job; its end is not. */
static void wipe_late(struct disk_tier *tier)
{
    struct wipe *w = &tier->wipe;
    struct disk_wipe_call call = w->call;
    if (!w->job.waiting) {
        wipe_end(tier, ST_TIMEOUT);
        return;
    }
    w->call.done = NULL;
    w->call.deadline_us = UINT64_MAX;
    if (call.done)
        call.done(call.ctx, ST_TIMEOUT, w->bytes);
}

void disk_wipe_run(struct disk_tier *tier)
{
    struct wipe *w = &tier->wipe;
    if (!w->requested)
        return;
    if (disk_now(tier) >= w->call.deadline_us) {
        wipe_late(tier);
        return;
    }
    if (w->job.active || !disk_segments_idle(tier) || !slots_quiet(tier) || !free_ones_clean(tier) ||
        !disk_job_start(&w->job))
        return;
    forget_copies(tier);
    first_extent(w);
    zero_next(tier);
}
