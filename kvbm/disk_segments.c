#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "kvbm/disk_tier_internal.h"

static const unsigned legal_next[] = {
#define TO(name)      (1u << SEGMENT_##name)
#define X(name, next) (next),
    SEGMENT_STATES(X)
#undef X
#undef TO
};

/* The only place that assigns a segment's state. */
void disk_segment_enter(struct disk_segment *segment, enum segment_state state)
{
    ASSERT(legal_next[segment->state] & (1u << state));
    segment->state = state;
}

bool disk_segment_has_room(const struct disk_tier *tier, const struct disk_segment *s, uint64_t extent)
{
    return s->fill + extent + disk_footer_bytes(s->records.n + 1 + FOOTER_SPARE) <= tier->options.segment_bytes;
}

static bool take_ready(struct disk_tier *tier)
{
    if (tier->ready == NO_SEGMENT)
        return false;
    if (tier->open != NO_SEGMENT)
        disk_segment_enter(&tier->segments[tier->open], SEGMENT_SEALING);
    tier->open = tier->ready;
    tier->ready = NO_SEGMENT;
    disk_segment_enter(&tier->segments[tier->open], SEGMENT_OPEN);
    return true;
}

enum disk_refusal disk_segments_append(struct disk_tier *tier, struct disk_record *record, disk_record_id *out)
{
    bool fits =
        tier->open != NO_SEGMENT && disk_segment_has_room(tier, &tier->segments[tier->open], record->extent_bytes);
    if (!fits && !take_ready(tier))
        return DISK_BUSY;
    struct disk_segment *s = &tier->segments[tier->open];
    record->segment = tier->open;
    record->offset = s->fill;
    record->state = DISK_RECORD_PENDING;
    if (disk_index_add(tier->index, &s->records, record, out) != ST_OK) {
        tier->index_full = true;
        return DISK_INDEX;
    }
    s->fill += record->extent_bytes;
    return DISK_TAKEN;
}

static uint32_t find_free(const struct disk_tier *tier, bool clean)
{
    for (uint32_t i = 0; i < tier->n_segments; i++)
        if (tier->segments[i].state == SEGMENT_FREE && tier->segments[i].clean == clean)
            return i;
    return NO_SEGMENT;
}

/* The one written longest ago. */
static uint32_t find_oldest(const struct disk_tier *tier, bool sealed_too)
{
    uint32_t oldest = NO_SEGMENT;
    for (uint32_t i = 0; i < tier->n_segments; i++) {
        const struct disk_segment *s = &tier->segments[i];
        bool fits = s->state == SEGMENT_SEALING || (sealed_too && s->state == SEGMENT_SEALED);
        if (fits && (oldest == NO_SEGMENT || s->sequence < tier->segments[oldest].sequence))
            oldest = i;
    }
    return oldest;
}

/* Opening: reserve its space, write head and superblock, and make them durable before the first record: so a
 * segment whose head is zero has nothing in it. */
enum opener_step { OPENER_ALLOCATE, OPENER_HEAD, OPENER_SUPER, OPENER_SYNC };

static void opener_failed(struct disk_tier *tier, int64_t result)
{
    struct disk_segment *s = &tier->segments[tier->opener.segment];
    disk_segment_enter(s, SEGMENT_FREE);
    s->clean = false;
    disk_job_end(&tier->opener);
    disk_tier_write_failed(tier, result);
}

static void opener_done(struct disk_tier *tier)
{
    disk_segment_enter(&tier->segments[tier->opener.segment], SEGMENT_READY);
    tier->ready = tier->opener.segment;
    disk_job_end(&tier->opener);
}

static void write_head(struct disk_tier *tier)
{
    struct disk_job *job = &tier->opener;
    const struct disk_segment *s = &tier->segments[job->segment];
    const struct disk_head head = { .sequence = s->sequence, .segment = job->segment, .opened_s = s->opened_s };
    disk_head_encode(&head, tier->store, tier->opener_page);
    job->step = OPENER_HEAD;
    disk_job_submit(job, DISK_IO_WRITE, segment_offset(tier, job->segment), DISK_PAGE, tier->opener_page);
}

static void opener_advance(struct disk_tier *tier, int64_t result)
{
    struct disk_job *job = &tier->opener;
    switch ((enum opener_step)job->step) {
    case OPENER_ALLOCATE:
        if (result < 0 && result != -EOPNOTSUPP)
            opener_failed(tier, result);
        else
            write_head(tier);
        return;
    case OPENER_HEAD:
        if (result != DISK_PAGE) {
            opener_failed(tier, result);
            return;
        }
        disk_super_of(tier, tier->opener_page);
        job->step = OPENER_SUPER;
        disk_job_submit(job, DISK_IO_WRITE, disk_super_offset(tier), DISK_PAGE, tier->opener_page);
        return;
    case OPENER_SUPER:
        if (result != DISK_PAGE) {
            opener_failed(tier, result);
            return;
        }
        tier->super_written++;
        job->step = OPENER_SYNC;
        disk_job_submit(job, DISK_IO_SYNC, 0, 0, NULL);
        return;
    case OPENER_SYNC:
        if (result < 0)
            opener_failed(tier, result);
        else
            opener_done(tier);
        return;
    }
}

static void opener_start(struct disk_tier *tier, uint32_t segment)
{
    struct disk_job *job = &tier->opener;
    struct disk_segment *s = &tier->segments[segment];
    if (!disk_job_start(job))
        return;
    disk_segment_enter(s, SEGMENT_OPENING);
    s->sequence = ++tier->sequence;
    s->fill = DISK_PAGE;
    s->opened_s = disk_wall(tier);
    job->segment = segment;
    job->step = OPENER_ALLOCATE;
    disk_job_submit(job, DISK_IO_ALLOCATE, segment_offset(tier, segment), tier->options.segment_bytes, NULL);
}

/* Finishing: what the footer tells of is durable before the footer is written. */
enum sealer_step { SEALER_IDLE, SEALER_SYNC, SEALER_FOOTER };

static uint32_t entry_flags(const struct disk_record *r)
{
    const uint32_t first = r->is_first ? DISK_ENTRY_FIRST : 0;
    return first | (r->state == DISK_RECORD_TORN   ? DISK_ENTRY_TORN
                    : r->state == DISK_RECORD_DEAD ? DISK_ENTRY_DEAD
                                                   : 0);
}

uint64_t disk_segment_footer(struct disk_tier *tier, uint32_t segment, uint64_t *offset)
{
    const struct disk_segment *s = &tier->segments[segment];
    struct disk_entry *e = (struct disk_entry *)(void *)tier->footer;
    for (disk_record_id id = s->records.first; id != DISK_NO_RECORD; e++) {
        const struct disk_record *r = disk_index_at(tier->index, id);
        *e = (struct disk_entry){ .hash = r->hash,
                                  .parent = r->parent,
                                  .format = r->format,
                                  .salt = r->salt,
                                  .checksum = r->checksum,
                                  .stored_s = r->stored_s,
                                  .offset = r->offset,
                                  .payload_bytes = r->payload_bytes,
                                  .extent_bytes = r->extent_bytes,
                                  .flags = entry_flags(r) };
        id = r->next;
    }
    const uint64_t bytes = disk_footer_bytes(s->records.n);
    const struct disk_footer f = { .sequence = s->sequence,
                                   .segment = segment,
                                   .fill = s->fill,
                                   .entries_offset = tier->options.segment_bytes - bytes,
                                   .opened_s = s->opened_s,
                                   .n_entries = s->records.n };
    disk_footer_encode(&f, tier->store, tier->footer);
    *offset = segment_offset(tier, segment) + f.entries_offset;
    return bytes;
}

static void sealer_advance(struct disk_tier *tier, int64_t result)
{
    struct disk_job *job = &tier->sealer;
    uint64_t offset, bytes;
    switch ((enum sealer_step)job->step) {
    case SEALER_IDLE: /* what is being written in it must end first */
        if (tier->segments[job->segment].writes)
            return;
        job->step = SEALER_SYNC;
        disk_job_submit(job, DISK_IO_SYNC, 0, 0, NULL);
        return;
    case SEALER_SYNC:
        if (result < 0)
            break;
        bytes = disk_segment_footer(tier, job->segment, &offset);
        job->at = bytes;
        job->step = SEALER_FOOTER;
        disk_job_submit(job, DISK_IO_WRITE, offset, bytes, tier->footer);
        return;
    case SEALER_FOOTER:
        if (result != (int64_t)job->at)
            break;
        disk_segment_enter(&tier->segments[job->segment], SEGMENT_SEALED);
        disk_job_end(job);
        return;
    }
    disk_job_end(job); /* stays in SEALING, and is tried again when the disk has recovered */
    disk_tier_write_failed(tier, result);
}

static void sealer_start(struct disk_tier *tier, uint32_t segment)
{
    if (segment == NO_SEGMENT || !disk_job_start(&tier->sealer))
        return;
    tier->sealer.segment = segment;
    tier->sealer.step = SEALER_IDLE;
}

/* Reclaiming the oldest: what was hit is read and appended again, one by one; then the rest is forgotten. */
enum reclaimer_step { RECLAIMER_NEXT, RECLAIMER_READ, RECLAIMER_WRITE, RECLAIMER_FORGET };

static disk_record_id next_hit(struct disk_tier *tier, disk_record_id id)
{
    while (id != DISK_NO_RECORD) {
        const struct disk_record *r = disk_index_at(tier->index, id);
        if (r->state == DISK_RECORD_LIVE && r->hit)
            break;
        id = r->next;
    }
    return id;
}

/* False: nothing more moves on. */
static bool readmit_next(struct disk_tier *tier)
{
    struct disk_job *job = &tier->reclaimer;
    const struct disk_record *r;
    tier->readmitted = next_hit(tier, tier->readmitted);
    if (tier->readmitted == DISK_NO_RECORD || tier->health != DISK_IS_HEALTHY || tier->index_full)
        return false;
    r = disk_index_at(tier->index, tier->readmitted);
    if (tier->readmitted_bytes + r->extent_bytes > tier->options.segment_bytes / 4 ||
        !disk_wear_allows(&tier->wear, r->extent_bytes, 0, disk_now(tier)))
        return false;
    job->step = RECLAIMER_READ;
    disk_job_submit(job, DISK_IO_READ, segment_offset(tier, job->segment) + r->offset, r->extent_bytes,
                    tier->reclaimer_buffer);
    return true;
}

static void seal_record(struct disk_tier *tier, const struct disk_record *r, uint8_t *buffer)
{
    struct disk_record_page *page = (struct disk_record_page *)(void *)buffer;
    page->sequence = tier->segments[r->segment].sequence;
    page->offset = r->offset;
    disk_page_seal(buffer, DISK_MAGIC_RECORD, tier->store);
}

/* The record was read: its copy takes its place in the index. False: there is no room. */
static bool readmit_write(struct disk_tier *tier)
{
    struct disk_record *old = disk_index_at(tier->index, tier->readmitted);
    struct disk_record copy = *old;
    disk_record_id id;
    copy.hit = false;
    if (old->state != DISK_RECORD_LIVE) /* dropped meanwhile */
        return readmit_next(tier);
    disk_index_kill(tier->index, tier->readmitted);
    if (disk_segments_append(tier, &copy, &id) != DISK_TAKEN)
        return false;
    seal_record(tier, &copy, tier->reclaimer_buffer);
    tier->segments[copy.segment].writes++;
    tier->readmitted_bytes += copy.extent_bytes;
    tier->reclaimer.at = id;
    tier->reclaimer.step = RECLAIMER_WRITE;
    disk_job_submit(&tier->reclaimer, DISK_IO_WRITE, segment_offset(tier, copy.segment) + copy.offset,
                    copy.extent_bytes, tier->reclaimer_buffer);
    return true;
}

static void readmit_written(struct disk_tier *tier, int64_t result)
{
    disk_record_id id = (disk_record_id)tier->reclaimer.at;
    struct disk_record *r = disk_index_at(tier->index, id);
    tier->segments[r->segment].writes--;
    if (result != (int64_t)r->extent_bytes) {
        disk_index_kill(tier->index, id);
        disk_tier_write_failed(tier, result);
        return;
    }
    if (r->state == DISK_RECORD_PENDING)
        disk_index_written(tier->index, id);
    tier->count.readmitted++;
}

static bool readmit_read(struct disk_tier *tier, int64_t result)
{
    const struct disk_record *r = disk_index_at(tier->index, tier->readmitted);
    if (result == (int64_t)r->extent_bytes && disk_record_intact(tier, r, tier->reclaimer_buffer))
        return readmit_write(tier);
    if (result == (int64_t)r->extent_bytes)
        tier->count.errors[DISK_ERROR_CHECKSUM]++;
    else
        disk_tier_read_failed(tier, result);
    disk_index_kill(tier->index, tier->readmitted);
    return readmit_next(tier);
}

static void kill_all(struct disk_tier *tier, const struct disk_record_list *list)
{
    for (disk_record_id id = list->first; id != DISK_NO_RECORD;) {
        const struct disk_record *r = disk_index_at(tier->index, id);
        tier->count.evicted += r->state == DISK_RECORD_LIVE;
        disk_index_kill(tier->index, id);
        id = r->next;
    }
}

static void reclaim_forget(struct disk_tier *tier)
{
    struct disk_segment *s = &tier->segments[tier->reclaimer.segment];
    if (s->reads || s->writes) /* somebody reads there still */
        return;
    disk_index_forget(tier->index, &s->records, NULL, NULL);
    disk_segment_enter(s, SEGMENT_FREE);
    s->clean = false;
    tier->index_full = false;
    disk_job_end(&tier->reclaimer);
}

static void reclaimer_advance(struct disk_tier *tier, int64_t result)
{
    struct disk_job *job = &tier->reclaimer;
    bool goes_on = false;
    switch ((enum reclaimer_step)job->step) {
    case RECLAIMER_NEXT:
        goes_on = readmit_next(tier);
        break;
    case RECLAIMER_READ:
        goes_on = readmit_read(tier, result);
        break;
    case RECLAIMER_WRITE:
        readmit_written(tier, result);
        goes_on = readmit_next(tier);
        break;
    case RECLAIMER_FORGET:
        reclaim_forget(tier);
        return;
    }
    if (goes_on)
        return;
    job->step = RECLAIMER_FORGET;
    kill_all(tier, &tier->segments[job->segment].records);
    reclaim_forget(tier);
}

static void reclaimer_start(struct disk_tier *tier, uint32_t segment)
{
    if (segment == NO_SEGMENT || !disk_job_start(&tier->reclaimer))
        return;
    disk_segment_enter(&tier->segments[segment], SEGMENT_RECLAIMING);
    tier->reclaimer.segment = segment;
    tier->reclaimer.step = RECLAIMER_NEXT;
    tier->readmitted = tier->segments[segment].records.first;
    tier->readmitted_bytes = 0;
}

/* Clearing a free segment gives its space back to the file system, which tells the device (TRIM). Where no hole can be
 * punched zeros are written. A head of zeros says that all is clear: so the head is cleared last, when the rest is
 * durable. */
enum cleaner_step { CLEANER_BODY, CLEANER_SYNC, CLEANER_HEAD };

static void cleaner_zero(struct disk_tier *tier)
{
    struct disk_job *job = &tier->cleaner;
    const uint64_t left = job->at - DISK_PAGE, bytes = left < DISK_CHUNK_BYTES ? left : DISK_CHUNK_BYTES;
    job->at -= bytes;
    disk_job_submit(job, DISK_IO_WRITE, segment_offset(tier, job->segment) + job->at, bytes, tier->zeros);
}

static bool cleaner_failed(struct disk_tier *tier, int64_t result)
{
    struct disk_job *job = &tier->cleaner;
    if (result >= 0 && (job->op.kind != DISK_IO_WRITE || result == (int64_t)job->op.bytes))
        return false;
    disk_job_end(job);
    disk_tier_write_failed(tier, result);
    return true;
}

static bool cannot_punch(struct disk_tier *tier, int64_t result)
{
    if (tier->cleaner.op.kind != DISK_IO_PUNCH || result != -EOPNOTSUPP)
        return false;
    if (!tier->no_punch)
        log_warn("no holes can be punched here: free segments are overwritten", "path=%s", tier->path);
    tier->no_punch = true;
    return true;
}

static void clear_head(struct disk_tier *tier)
{
    struct disk_job *job = &tier->cleaner;
    job->step = CLEANER_HEAD;
    disk_job_submit(job, tier->no_punch ? DISK_IO_WRITE : DISK_IO_PUNCH, segment_offset(tier, job->segment), DISK_PAGE,
                    tier->zeros);
}

static void cleaner_advance(struct disk_tier *tier, int64_t result)
{
    struct disk_job *job = &tier->cleaner;
    if (job->step == CLEANER_BODY && cannot_punch(tier, result)) {
        cleaner_zero(tier);
        return;
    }
    if (cleaner_failed(tier, result))
        return;
    switch ((enum cleaner_step)job->step) {
    case CLEANER_BODY:
        if (job->op.kind == DISK_IO_WRITE && job->at > DISK_PAGE) {
            cleaner_zero(tier);
            return;
        }
        job->step = CLEANER_SYNC;
        disk_job_submit(job, DISK_IO_SYNC, 0, 0, NULL);
        return;
    case CLEANER_SYNC:
        clear_head(tier);
        return;
    case CLEANER_HEAD:
        tier->segments[job->segment].clean = true;
        disk_job_end(job);
        return;
    }
}

static void cleaner_start(struct disk_tier *tier, uint32_t segment)
{
    struct disk_job *job = &tier->cleaner;
    if (segment == NO_SEGMENT || !disk_job_start(job))
        return;
    job->segment = segment;
    job->step = CLEANER_BODY;
    job->at = tier->options.segment_bytes;
    if (tier->no_punch)
        cleaner_zero(tier);
    else
        disk_job_submit(job, DISK_IO_PUNCH, segment_offset(tier, segment) + DISK_PAGE,
                        tier->options.segment_bytes - DISK_PAGE, NULL);
}

void disk_segments_init_jobs(struct disk_tier *tier)
{
    disk_job_init(tier, &tier->opener, opener_advance);
    disk_job_init(tier, &tier->sealer, sealer_advance);
    disk_job_init(tier, &tier->reclaimer, reclaimer_advance);
    disk_job_init(tier, &tier->cleaner, cleaner_advance);
}

bool disk_segments_idle(const struct disk_tier *tier)
{
    return !tier->opener.active && !tier->sealer.active && !tier->reclaimer.active && !tier->cleaner.active;
}

/* One segment is opened, and the next is made ready while it fills. */
static void make_room(struct disk_tier *tier)
{
    uint32_t clean = find_free(tier, true);
    if (tier->ready == NO_SEGMENT && clean != NO_SEGMENT)
        opener_start(tier, clean);
    bool none_coming = tier->ready == NO_SEGMENT && !tier->opener.active && find_free(tier, false) == NO_SEGMENT;
    uint32_t oldest = find_oldest(tier, true);
    bool in_hand = tier->sealer.active && tier->sealer.segment == oldest;
    if ((none_coming || tier->index_full) && !in_hand)
        reclaimer_start(tier, oldest);
}

void disk_segments_run(struct disk_tier *tier)
{
    struct disk_job *waiters[] = { &tier->sealer, &tier->reclaimer };
    for (unsigned i = 0; i < 2; i++)
        if (waiters[i]->active && !waiters[i]->waiting)
            waiters[i]->advance(tier, 0);
    if (tier->health != DISK_IS_HEALTHY)
        return;
    cleaner_start(tier, find_free(tier, false));
    if (tier->wipe.requested)
        return;
    if (!tier->sealer.active)
        sealer_start(tier, find_oldest(tier, false));
    make_room(tier);
}
