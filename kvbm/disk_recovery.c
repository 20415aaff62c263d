/* The index from what the file holds: finished segments by their footers, the others by looking at every page. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/log.h"
#include "kvbm/disk_tier_internal.h"

#define PIECE_BYTES (1u << 20) /* of a scan: what a read error costs */

/* A segment that is not free. */
struct found {
    uint32_t segment;
    bool finished, given_up;
    struct disk_head head;
    struct disk_footer footer;
};

struct recovery {
    struct disk_tier *tier;
    uint64_t file_bytes;
    uint8_t *buffer; /* [segment_bytes] */
    struct found *found;
    uint32_t n_found;
    bool overflow;    /* the index was made smaller than what there is */
    uint64_t written; /* bytes of records since the superblock */
    struct disk_super super;
};

/* Once an operation did not end in time, no other is tried. */
static int64_t run_now(struct disk_tier *tier, enum disk_io_kind kind, uint64_t offset, uint64_t bytes, void *data)
{
    struct disk_io_op *op = &tier->sync_op;
    if (op->done)
        return -ETIMEDOUT;
    *op = (struct disk_io_op){ .kind = kind, .offset = offset, .bytes = bytes, .data = data };
    return disk_io_run(tier->io, op, tier->options.wait_ms);
}

static int64_t run(struct recovery *v, enum disk_io_kind kind, uint64_t offset, uint64_t bytes, void *data)
{
    return run_now(v->tier, kind, offset, bytes, data);
}

static bool is_zero(const uint8_t *bytes, uint64_t n)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, n - 1) == 0;
}

/* ST_NOT_FOUND: no superblock. */
static status read_super(struct recovery *v)
{
    bool any = false, newer = false, unread = false;
    for (unsigned i = 0; i < DISK_SUPERBLOCKS && v->file_bytes; i++) {
        struct disk_super s;
        int64_t n = run(v, DISK_IO_READ, i * DISK_PAGE, DISK_PAGE, v->buffer);
        status st = n == DISK_PAGE ? disk_super_decode(v->buffer, &s) : ST_CORRUPT;
        newer |= st == ST_UNSUPPORTED;
        unread |= n < 0;
        if (st != ST_OK || (any && s.written < v->super.written))
            continue;
        v->super = s;
        any = true;
    }
    return newer ? ST_UNSUPPORTED : any ? ST_OK : unread ? ST_IO : ST_NOT_FOUND;
}

status disk_tier_save(struct disk_tier *tier)
{
    disk_super_of(tier, tier->prober_page);
    if (run_now(tier, DISK_IO_WRITE, disk_super_offset(tier), DISK_PAGE, tier->prober_page) != DISK_PAGE)
        return ST_IO;
    tier->super_written++;
    return run_now(tier, DISK_IO_SYNC, 0, 0, NULL) == 0 ? ST_OK : ST_IO;
}

/* A store that is new, or whose segments have another size: whatever the file holds is cleared before use. */
static status begin(struct disk_tier *tier, struct error *err)
{
    if (getrandom(&tier->store, sizeof tier->store, 0) != (ssize_t)sizeof tier->store)
        return error_set(err, ST_IO, "%s: no random bytes: %s", tier->path, strerror(errno));
    for (unsigned i = 0; i < DISK_SUPERBLOCKS; i++)
        if (disk_tier_save(tier) != ST_OK)
            return error_set(err, ST_IO, "%s: cannot be written", tier->path);
    return ST_OK;
}

static int by_sequence(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    return (x->head.sequence > y->head.sequence) - (x->head.sequence < y->head.sequence);
}

static bool read_page(struct recovery *v, uint64_t offset)
{
    int64_t n = run(v, DISK_IO_READ, offset, DISK_PAGE, v->buffer);
    v->tier->count.errors[DISK_ERROR_READ] += n < 0;
    return n == DISK_PAGE;
}

/* What is in a segment? A footer counts when the head is of the same life, or cannot be read. */
static void look(struct recovery *v, uint32_t segment)
{
    struct disk_tier *tier = v->tier;
    const uint64_t size = tier->options.segment_bytes, at = segment_offset(tier, segment);
    struct found f = { .segment = segment };
    bool there = at < v->file_bytes && read_page(v, at);
    if (at >= v->file_bytes || (there && is_zero(v->buffer, DISK_PAGE))) {
        tier->segments[segment].clean = true;
        return;
    }
    bool headed = there && disk_head_decode(v->buffer, tier->store, &f.head) == ST_OK && f.head.segment == segment;
    f.finished = read_page(v, at + size - DISK_PAGE) &&
                 disk_footer_decode(v->buffer, tier->store, size, &f.footer) == ST_OK && f.footer.segment == segment &&
                 (!headed || f.footer.sequence == f.head.sequence);
    if (f.finished)
        f.head = (struct disk_head){ f.footer.sequence, segment, f.footer.opened_s };
    if (headed || f.finished)
        v->found[v->n_found++] = f;
}

/* The newer of two blocks with one key is kept: found segments come in the order of their writing. */
static void add(struct recovery *v, uint32_t segment, struct disk_record *r)
{
    struct disk_tier *tier = v->tier;
    disk_record_id id;
    r->segment = segment;
    if (r->state == DISK_RECORD_LIVE) {
        disk_record_id old = disk_index_find(tier->index, r->hash, r->format);
        if (old != DISK_NO_RECORD)
            disk_index_kill(tier->index, old);
    }
    if (disk_index_add(tier->index, &tier->segments[segment].records, r, &id) != ST_OK)
        v->overflow = true;
}

static bool load_entries(struct recovery *v, const struct found *f)
{
    struct disk_tier *tier = v->tier;
    const uint64_t bytes = disk_round_up(f->footer.n_entries * sizeof(struct disk_entry));
    const uint64_t at = segment_offset(tier, f->segment) + f->footer.entries_offset;
    const struct disk_entry *e = (const struct disk_entry *)(const void *)v->buffer;
    if (bytes && run(v, DISK_IO_READ, at, bytes, v->buffer) != (int64_t)bytes)
        return false;
    if (disk_entries_check(e, &f->footer, tier->store, tier->options.max_payload_bytes) != ST_OK)
        return false;
    for (uint32_t i = 0; i < f->footer.n_entries; i++, e++) {
        struct disk_record r = { .hash = e->hash,
                                 .parent = e->parent,
                                 .format = e->format,
                                 .salt = e->salt,
                                 .checksum = e->checksum,
                                 .stored_s = e->stored_s,
                                 .offset = e->offset,
                                 .payload_bytes = e->payload_bytes,
                                 .extent_bytes = e->extent_bytes,
                                 .is_first = e->flags & DISK_ENTRY_FIRST,
                                 .state = e->flags & DISK_ENTRY_TORN   ? DISK_RECORD_TORN
                                          : e->flags & DISK_ENTRY_DEAD ? DISK_RECORD_DEAD
                                                                       : DISK_RECORD_LIVE };
        add(v, f->segment, &r);
    }
    tier->segments[f->segment].fill = f->footer.fill;
    return true;
}

/* A piece that cannot be read counts as torn. */
static void read_segment(struct recovery *v, uint32_t segment)
{
    const uint64_t size = v->tier->options.segment_bytes;
    for (uint64_t at = 0; at < size;) {
        uint64_t bytes = size - at < PIECE_BYTES ? size - at : PIECE_BYTES;
        int64_t n = run(v, DISK_IO_READ, segment_offset(v->tier, segment) + at, bytes, v->buffer + at);
        v->tier->count.errors[DISK_ERROR_READ] += n < 0;
        if (n < 0)
            memset(v->buffer + at, 0xff, bytes);
        else
            memset(v->buffer + at + n, 0, bytes - (uint64_t)n); /* the file ends here */
        at += bytes;
    }
}

static bool record_at(struct recovery *v, const struct found *f, uint64_t at, struct disk_record *out)
{
    const struct disk_tier *tier = v->tier;
    struct disk_record_page page;
    if (disk_record_decode(v->buffer + at, tier->store, tier->options.max_payload_bytes, &page) != ST_OK ||
        page.sequence != f->head.sequence || page.offset != at ||
        disk_extent(page.payload_bytes) > tier->options.segment_bytes - at)
        return false;
    *out = (struct disk_record){ .hash = page.hash,
                                 .parent = page.parent,
                                 .format = page.format,
                                 .salt = page.salt,
                                 .checksum = page.checksum,
                                 .stored_s = page.stored_s,
                                 .offset = at,
                                 .payload_bytes = page.payload_bytes,
                                 .extent_bytes = (uint32_t)disk_extent(page.payload_bytes),
                                 .segment = f->segment,
                                 .is_first = page.is_first,
                                 .state = DISK_RECORD_LIVE };
    if (disk_record_intact(tier, out, v->buffer + at))
        return true;
    v->tier->count.errors[DISK_ERROR_TORN]++;
    out->state = DISK_RECORD_DEAD;
    return true;
}

/* Bytes that belong to no record, from the first page with anything in it to the last. */
static void add_torn(struct recovery *v, const struct found *f, uint64_t from, uint64_t to)
{
    while (from < to && is_zero(v->buffer + from, DISK_PAGE))
        from += DISK_PAGE;
    while (to > from && is_zero(v->buffer + to - DISK_PAGE, DISK_PAGE))
        to -= DISK_PAGE;
    if (from == to)
        return;
    struct disk_record r = { .offset = from, .extent_bytes = (uint32_t)(to - from), .state = DISK_RECORD_TORN };
    v->tier->count.errors[DISK_ERROR_TORN]++;
    add(v, f->segment, &r);
    v->tier->segments[f->segment].fill = to;
}

static void scan(struct recovery *v, const struct found *f)
{
    struct disk_tier *tier = v->tier;
    struct disk_segment *s = &tier->segments[f->segment];
    struct disk_record r;
    uint64_t gap = DISK_PAGE, at = DISK_PAGE;
    s->fill = DISK_PAGE;
    read_segment(v, f->segment);
    /* Behind the last record there must stay room for the footer. */
    while (at + disk_footer_bytes(s->records.n + 1 + FOOTER_SPARE) < tier->options.segment_bytes) {
        if (!record_at(v, f, at, &r)) {
            at += DISK_PAGE;
            continue;
        }
        add_torn(v, f, gap, at);
        add(v, f->segment, &r);
        at += r.extent_bytes;
        gap = s->fill = at;
    }
    if (gap < at)
        add_torn(v, f, gap, at);
}

/* Of those that are newer than all finished ones and, without records, than all that have some: a record to come would
 * otherwise seem older than it is. */
static uint32_t newest_unfinished(const struct recovery *v, bool with_records)
{
    for (uint32_t i = v->n_found; i-- > 0 && !v->found[i].finished;) {
        const struct found *f = &v->found[i];
        const bool has_records = v->tier->segments[f->segment].records.n > 0;
        if (!f->given_up && has_records == with_records)
            return f->segment;
        if (has_records)
            break;
    }
    return NO_SEGMENT;
}

/* The newest unfinished segment takes further records, one without any is the next, the others get their footers. */
static void assign_states(struct recovery *v)
{
    struct disk_tier *tier = v->tier;
    tier->open = newest_unfinished(v, true);
    tier->ready = newest_unfinished(v, false);
    for (uint32_t i = 0; i < v->n_found; i++) {
        uint32_t at = v->found[i].segment;
        struct disk_segment *s = &tier->segments[at];
        if (v->found[i].given_up)
            continue;
        if (v->found[i].finished)
            disk_segment_enter(s, SEGMENT_SEALED);
        else if (at == tier->open)
            disk_segment_enter(s, SEGMENT_OPEN);
        else if (at == tier->ready)
            disk_segment_enter(s, SEGMENT_READY);
        else if (s->records.n)
            disk_segment_enter(s, SEGMENT_SEALING);
    }
}

static void count_written(struct recovery *v, const struct found *f)
{
    uint64_t fill = v->tier->segments[f->segment].fill;
    if (f->head.sequence == v->super.wear_sequence && fill > v->super.wear_fill)
        v->written += fill - v->super.wear_fill;
    else if (f->head.sequence > v->super.wear_sequence)
        v->written += fill - DISK_PAGE;
}

static void load(struct recovery *v, struct found *f)
{
    struct disk_tier *tier = v->tier;
    struct disk_segment *s = &tier->segments[f->segment];
    s->sequence = f->head.sequence;
    s->opened_s = f->head.opened_s;
    if (tier->sequence < s->sequence)
        tier->sequence = s->sequence;
    if (!f->finished || !load_entries(v, f)) {
        tier->count.errors[DISK_ERROR_FOOTER] += f->finished;
        f->finished = false;
        scan(v, f);
    }
    count_written(v, f);
    if (!v->overflow)
        return;
    /* Forgotten and cleared as a whole, so that nothing lies there of which the index does not know. */
    log_warn("the disk tier gives up a segment: its index is full", "path=%s segment=%u", tier->path, f->segment);
    disk_index_forget(tier->index, &s->records, NULL, NULL);
    v->overflow = false;
    f->given_up = true;
}

static void load_all(struct recovery *v)
{
    struct disk_tier *tier = v->tier;
    tier->store = v->super.store;
    tier->super_written = v->super.written;
    tier->sequence = v->super.sequence;
    for (uint32_t i = 0; i < tier->n_segments; i++)
        look(v, i);
    qsort(v->found, v->n_found, sizeof *v->found, by_sequence);
    for (uint32_t i = 0; i < v->n_found; i++)
        load(v, &v->found[i]);
    assign_states(v);
}

static void start_wear(struct recovery *v, bool known)
{
    struct disk_tier *tier = v->tier;
    const uint64_t wall = disk_wall(tier);
    int64_t left = known ? v->super.wear_left - (int64_t)v->written : INT64_MAX;
    uint64_t passed = known && wall > v->super.wall_s ? wall - v->super.wall_s : 0;
    disk_wear_init(&tier->wear, tier->options.wear_bytes_per_day, tier->options.segment_bytes, left, passed,
                   disk_now(tier));
}

/* What lies beyond a capacity that has been lowered. */
static void give_back_rest(struct recovery *v)
{
    const uint64_t end = segment_offset(v->tier, v->tier->n_segments);
    if (v->file_bytes > end && run(v, DISK_IO_PUNCH, end, v->file_bytes - end, NULL) < 0)
        log_warn("the disk tier could not give back space beyond its capacity", "path=%s", v->tier->path);
}

static status recover(struct recovery *v, struct error *err)
{
    struct disk_tier *tier = v->tier;
    status st = read_super(v);
    if (st == ST_UNSUPPORTED)
        return error_set(err, st, "%s: written by a newer version", tier->path);
    if (st == ST_IO)
        return error_set(err, st, "%s: its superblocks cannot be read", tier->path);
    start_wear(v, st == ST_OK);
    if (st == ST_OK && v->super.segment_bytes == tier->options.segment_bytes) {
        load_all(v);
        start_wear(v, true);
        give_back_rest(v);
        return ST_OK;
    }
    if (v->file_bytes)
        log_warn("the disk tier begins anew: its file has no superblock, or segments of another size", "path=%s",
                 tier->path);
    for (uint32_t i = 0; i < tier->n_segments; i++)
        tier->segments[i].clean = segment_offset(tier, i) >= v->file_bytes;
    return begin(tier, err);
}

status disk_tier_recover(struct disk_tier *tier, struct error *err)
{
    struct recovery v = { .tier = tier, .file_bytes = tier->io->file_bytes };
    void *buffer = NULL;
    status st = ST_NO_MEMORY;
    v.found = calloc(tier->n_segments, sizeof *v.found);
    if (v.found && posix_memalign(&buffer, DISK_IO_ALIGN, tier->options.segment_bytes) == 0) {
        v.buffer = buffer;
        st = recover(&v, err);
    } else {
        error_set(err, st, "%s: out of memory", tier->path);
    }
    free(v.found);
    if (tier->sync_op.done) /* it did not end, and has its memory still */
        return error_set(err, ST_TIMEOUT, "%s: the disk does not answer", tier->path);
    free(buffer);
    return st;
}
