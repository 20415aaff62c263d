#include "kvbm/disk_tier.h"

#include <errno.h>
#include <string.h>

#include <xxhash.h>

#include "common/failpoint.h"
#include "common/log.h"
#include "kvbm/disk_tier_internal.h"

static const char *const refusal_names[] = {
#define X(name, text) text,
    DISK_REFUSALS(X)
#undef X
};

const char *disk_refusal_name(enum disk_refusal refusal)
{
    return (unsigned)refusal < DISK_REFUSAL_COUNT ? refusal_names[refusal] : "?";
}

/* Records and the blocks they hold. */

void disk_block_of(const struct disk_record *r, struct disk_block *out)
{
    *out = (struct disk_block){ .hash = r->hash,
                                .parent = r->parent,
                                .format = r->format,
                                .salt = r->salt,
                                .checksum = r->checksum,
                                .payload_bytes = r->payload_bytes,
                                .is_first = r->is_first,
                                .stored_s = r->stored_s };
}

uint64_t disk_checksum(const struct disk_tier *tier, const struct disk_record *r, const void *payload)
{
    struct disk_block block;
    if (!tier->options.checksum)
        return XXH3_64bits(payload, r->payload_bytes);
    disk_block_of(r, &block);
    return tier->options.checksum(tier->options.ctx, &block, payload);
}

static bool same_hash(struct block_hash a, struct block_hash b)
{
    return a.low == b.low && a.high == b.high;
}

bool disk_record_intact(const struct disk_tier *tier, const struct disk_record *r, const uint8_t *buffer)
{
    struct disk_record_page page;
    if (disk_record_decode(buffer, tier->store, tier->options.max_payload_bytes, &page) != ST_OK)
        return false;
    if (page.sequence != tier->segments[r->segment].sequence || page.offset != r->offset ||
        page.payload_bytes != r->payload_bytes || page.checksum != r->checksum || page.format != r->format ||
        page.salt != r->salt || !same_hash(page.hash, r->hash) || !same_hash(page.parent, r->parent))
        return false;
    return disk_checksum(tier, r, buffer + DISK_PAGE) == r->checksum;
}

static void write_record(const struct disk_tier *tier, const struct disk_record *r, const struct disk_block *block,
                         const void *payload, uint8_t *buffer)
{
    struct disk_record_page page = {
        .sequence = tier->segments[r->segment].sequence,
        .offset = r->offset,
        .hash = r->hash,
        .parent = r->parent,
        .format = r->format,
        .salt = r->salt,
        .checksum = r->checksum,
        .stored_s = r->stored_s,
        .payload_bytes = r->payload_bytes,
        .n_tokens = block->n_tokens,
        .is_first = r->is_first,
    };
    if (block->n_tokens)
        memcpy(page.tokens, block->tokens, block->n_tokens * sizeof *page.tokens);
    memset(buffer, 0, DISK_PAGE);
    memcpy(buffer, &page, sizeof page);
    disk_page_seal(buffer, DISK_MAGIC_RECORD, tier->store);
    memcpy(buffer + DISK_PAGE, payload, r->payload_bytes);
    if (FAILPOINT("disk.write.flip") == FAILPOINT_FLIP)
        buffer[DISK_PAGE] ^= 1;
    memset(buffer + DISK_PAGE + r->payload_bytes, 0, r->extent_bytes - DISK_PAGE - r->payload_bytes);
}

/* Slots. */

static void finish(struct disk_slot *slot, status st, const struct disk_block *found)
{
    struct disk_call call = slot->call;
    slot->state = SLOT_ABANDONED;
    if (st == ST_TIMEOUT)
        slot->tier->count.timeouts++;
    if (call.done)
        call.done(call.ctx, st, found);
}

static void free_slot(struct disk_slot *slot)
{
    slot->state = SLOT_FREE;
    slot->generation++;
    slot->tier->n_used--;
    slot->tier->n_puts -= slot->is_put;
}

static void put_ended(struct disk_slot *slot, int64_t result)
{
    struct disk_tier *tier = slot->tier;
    const struct disk_record *r = disk_index_at(tier->index, slot->record);
    bool good = result == (int64_t)r->extent_bytes;
    if (result > 0)
        tier->count.wear_bytes += (uint64_t)result;
    if (good && r->state == DISK_RECORD_PENDING) {
        disk_index_written(tier->index, slot->record);
        tier->count.writes++;
        tier->count.write_bytes += r->payload_bytes;
    }
    if (!good) {
        disk_index_kill(tier->index, slot->record);
        if (result != -ECANCELED)
            disk_tier_write_failed(tier, result);
    }
    if (slot->state == SLOT_AWAITED)
        finish(slot, good ? ST_OK : ST_IO, NULL);
}

/* What was stored under this hash is for other tokens or has another parent: nobody may have it. */
static bool is_wanted(const struct disk_slot *slot, const struct disk_record_page *page)
{
    const struct disk_block *want = &slot->want;
    if (!same_hash(page->parent, want->parent) || page->salt != want->salt)
        return false;
    if (!slot->has_tokens)
        return true;
    return page->n_tokens == want->n_tokens &&
           memcmp(page->tokens, slot->tokens, want->n_tokens * sizeof *slot->tokens) == 0;
}

static status check_read(struct disk_slot *slot, int64_t result)
{
    struct disk_tier *tier = slot->tier;
    const struct disk_record *r = disk_index_at(tier->index, slot->record);
    struct disk_record_page page;
    if (r->state != DISK_RECORD_LIVE)
        return ST_NOT_FOUND;
    if (result == -ECANCELED)
        return ST_CANCELLED;
    if (result != (int64_t)r->extent_bytes) {
        disk_tier_read_failed(tier, result);
        disk_index_kill(tier->index, slot->record);
        return ST_IO;
    }
    if (FAILPOINT("disk.read.flip") == FAILPOINT_FLIP)
        slot->buffer[DISK_PAGE] ^= 1;
    if (!disk_record_intact(tier, r, slot->buffer)) {
        tier->count.errors[DISK_ERROR_CHECKSUM]++;
        log_warn("a block read from disk is damaged", "path=%s segment=%u offset=%llu", tier->path, r->segment,
                 (unsigned long long)r->offset);
        disk_index_kill(tier->index, slot->record);
        return ST_CORRUPT;
    }
    memcpy(&page, slot->buffer, sizeof page);
    if (is_wanted(slot, &page))
        return ST_OK;
    tier->count.errors[DISK_ERROR_FOREIGN]++;
    return ST_NOT_FOUND;
}

static void get_ended(struct disk_slot *slot, int64_t result)
{
    struct disk_tier *tier = slot->tier;
    struct disk_block found;
    if (slot->state != SLOT_AWAITED)
        return;
    status st = check_read(slot, result);
    if (st != ST_OK) {
        finish(slot, st, NULL);
        return;
    }
    struct disk_record *r = disk_index_at(tier->index, slot->record);
    r->hit = true;
    tier->count.reads++;
    tier->count.read_bytes += r->payload_bytes;
    memcpy(slot->payload, slot->buffer + DISK_PAGE, r->payload_bytes);
    disk_block_of(r, &found);
    finish(slot, ST_OK, &found);
}

static uint32_t *count_of(const struct disk_slot *slot, uint32_t segment)
{
    struct disk_segment *s = &slot->tier->segments[segment];
    return slot->is_put ? &s->writes : &s->reads;
}

static void on_slot_done(struct disk_io_op *op, int64_t result)
{
    struct disk_slot *slot = (struct disk_slot *)op;
    struct disk_tier *tier = slot->tier;
    uint32_t segment = disk_index_at(tier->index, slot->record)->segment;
    if (slot->is_put)
        put_ended(slot, result);
    else
        get_ended(slot, result);
    --*count_of(slot, segment);
    free_slot(slot);
}

static struct disk_slot *take_slot(struct disk_tier *tier, bool is_put)
{
    const uint32_t n = tier->options.slots;
    if (tier->n_used == n || (is_put && tier->n_puts >= (n * 3 + 3) / 4))
        return NULL;
    for (uint32_t i = 0; i < n; i++) {
        struct disk_slot *slot = &tier->slots[i];
        if (slot->state != SLOT_FREE)
            continue;
        slot->is_put = is_put;
        tier->n_used++;
        tier->n_puts += is_put;
        return slot;
    }
    return NULL;
}

static void submit_slot(struct disk_slot *slot, enum disk_io_kind kind, const struct disk_call *call, uint64_t *ticket)
{
    struct disk_tier *tier = slot->tier;
    const struct disk_record *r = disk_index_at(tier->index, slot->record);
    slot->state = SLOT_AWAITED;
    slot->call = *call;
    slot->op = (struct disk_io_op){ .kind = kind,
                                    .offset = segment_offset(tier, r->segment) + r->offset,
                                    .bytes = r->extent_bytes,
                                    .data = slot->buffer,
                                    .done = on_slot_done };
    ++*count_of(slot, r->segment);
    if (ticket)
        *ticket = (uint64_t)slot->generation << 32 | (uint32_t)(slot - tier->slots);
    status st = disk_io_submit(tier->io, &slot->op);
    ASSERT(st == ST_OK); /* the depth has a place for each slot */
}

/* Puts. */

static enum disk_refusal put_allowed(struct disk_tier *tier, const struct disk_block *block)
{
    const uint64_t extent = disk_extent(block->payload_bytes), quota = tier->options.salt_quota_bytes;
    if (!block->payload_bytes || block->payload_bytes > tier->options.max_payload_bytes ||
        block->n_tokens > DISK_MAX_TOKENS)
        return DISK_SIZE;
    if (disk_index_find(tier->index, block->hash, block->format) != DISK_NO_RECORD)
        return DISK_PRESENT;
    if (tier->health != DISK_IS_HEALTHY)
        return DISK_READ_ONLY;
    if (disk_wipe_covers(tier, block->salt))
        return DISK_WIPING;
    if (quota && disk_index_salt_bytes(tier->index, block->salt) + extent > quota)
        return DISK_QUOTA;
    if (!disk_wear_allows(&tier->wear, extent, 0, disk_now(tier)))
        return DISK_WEAR;
    return DISK_TAKEN;
}

static enum disk_refusal put(struct disk_tier *tier, const struct disk_block *block, const void *payload,
                             const struct disk_call *call, uint64_t *ticket)
{
    struct disk_record r = { .hash = block->hash,
                             .parent = block->parent,
                             .format = block->format,
                             .salt = block->salt,
                             .checksum = block->checksum,
                             .stored_s = disk_wall(tier),
                             .payload_bytes = block->payload_bytes,
                             .is_first = block->is_first,
                             .extent_bytes = (uint32_t)disk_extent(block->payload_bytes) };
    enum disk_refusal refusal = put_allowed(tier, block);
    if (refusal != DISK_TAKEN)
        return refusal;
    if (disk_checksum(tier, &r, payload) != block->checksum)
        return DISK_CHECKSUM;
    struct disk_slot *slot = take_slot(tier, true);
    if (!slot)
        return DISK_BUSY;
    refusal = disk_segments_append(tier, &r, &slot->record);
    if (refusal != DISK_TAKEN) {
        free_slot(slot);
        return refusal;
    }
    write_record(tier, &r, block, payload, slot->buffer);
    disk_wear_spend(&tier->wear, r.extent_bytes);
    submit_slot(slot, DISK_IO_WRITE, call, ticket);
    return DISK_TAKEN;
}

enum disk_refusal disk_tier_put(struct disk_tier *tier, const struct disk_block *block, const void *payload,
                                const struct disk_call *call, uint64_t *ticket)
{
    enum disk_refusal refusal = put(tier, block, payload, call, ticket);
    tier->count.refused[refusal]++;
    if (refusal == DISK_BUSY || refusal == DISK_INDEX || tier->ready == NO_SEGMENT)
        disk_segments_run(tier);
    return refusal;
}

status disk_tier_get(struct disk_tier *tier, const struct disk_block *want, void *payload, const struct disk_call *call,
                     uint64_t *ticket)
{
    if (tier->health == DISK_IS_LOST)
        return ST_IO;
    disk_record_id id = disk_index_find(tier->index, want->hash, want->format);
    if (id == DISK_NO_RECORD || disk_index_at(tier->index, id)->state != DISK_RECORD_LIVE)
        return ST_NOT_FOUND;
    if (disk_index_at(tier->index, id)->payload_bytes != want->payload_bytes || want->n_tokens > DISK_MAX_TOKENS) {
        tier->count.errors[DISK_ERROR_FOREIGN]++;
        return ST_NOT_FOUND;
    }
    struct disk_slot *slot = take_slot(tier, false);
    if (!slot)
        return ST_AGAIN;
    slot->record = id;
    slot->payload = payload;
    slot->want = *want;
    slot->has_tokens = want->tokens != NULL;
    if (want->tokens)
        memcpy(slot->tokens, want->tokens, want->n_tokens * sizeof *slot->tokens);
    submit_slot(slot, DISK_IO_READ, call, ticket);
    return ST_OK;
}

void disk_tier_cancel(struct disk_tier *tier, uint64_t ticket)
{
    uint32_t at = (uint32_t)ticket;
    ASSERT(at < tier->options.slots);
    struct disk_slot *slot = &tier->slots[at];
    if (slot->generation != (uint32_t)(ticket >> 32) || slot->state != SLOT_AWAITED)
        return;
    disk_io_cancel(tier->io, &slot->op);
    finish(slot, ST_CANCELLED, NULL);
}

bool disk_tier_find(struct disk_tier *tier, struct block_hash hash, uint64_t format, struct disk_block *out)
{
    disk_record_id id = disk_index_find(tier->index, hash, format);
    if (id == DISK_NO_RECORD || tier->health == DISK_IS_LOST)
        return false;
    const struct disk_record *r = disk_index_at(tier->index, id);
    if (r->state != DISK_RECORD_LIVE)
        return false;
    if (out)
        disk_block_of(r, out);
    return true;
}

void disk_tier_drop(struct disk_tier *tier, struct block_hash hash, uint64_t format)
{
    disk_record_id id = disk_index_find(tier->index, hash, format);
    if (id != DISK_NO_RECORD)
        disk_index_kill(tier->index, id);
}

static void on_changed(void *ctx, const struct disk_record *record, bool live)
{
    const struct disk_tier *tier = ctx;
    struct disk_block block;
    disk_block_of(record, &block);
    tier->changed(tier->changed_ctx, &block, live);
}

void disk_tier_watch(struct disk_tier *tier, void (*changed)(void *ctx, const struct disk_block *block, bool found),
                     void *ctx)
{
    tier->changed = changed;
    tier->changed_ctx = ctx;
    disk_index_watch(tier->index, changed ? on_changed : NULL, tier);
}

uint32_t disk_tier_places(const struct disk_tier *tier)
{
    return tier->health == DISK_IS_LOST ? 0 : disk_index_places(tier->index);
}

bool disk_tier_at(struct disk_tier *tier, uint32_t place, struct disk_block *out)
{
    if (place >= disk_tier_places(tier))
        return false;
    const struct disk_record *r = disk_index_at(tier->index, place);
    if (r->state != DISK_RECORD_LIVE)
        return false;
    disk_block_of(r, out);
    return true;
}

uint32_t disk_tier_place(const struct disk_tier *tier, struct block_hash hash, uint64_t format)
{
    const disk_record_id id =
        tier->health == DISK_IS_LOST ? DISK_NO_RECORD : disk_index_find(tier->index, hash, format);
    return id != DISK_NO_RECORD && disk_index_at(tier->index, id)->state == DISK_RECORD_LIVE ? id : DISK_NO_PLACE;
}

static void end_late(struct disk_tier *tier)
{
    const uint64_t now = disk_now(tier);
    for (uint32_t i = 0; i < tier->options.slots; i++) {
        struct disk_slot *slot = &tier->slots[i];
        if (slot->state != SLOT_AWAITED || slot->call.deadline_us > now)
            continue;
        disk_io_cancel(tier->io, &slot->op);
        finish(slot, ST_TIMEOUT, NULL);
    }
}

void disk_tier_run(struct disk_tier *tier)
{
    (void)disk_io_reap(tier->io);
    end_late(tier);
    disk_wipe_run(tier);
    disk_tier_probe(tier);
    disk_segments_run(tier);
}

uint64_t disk_tier_next_us(const struct disk_tier *tier)
{
    uint64_t next = tier->probe_at_us;
    for (uint32_t i = 0; i < tier->options.slots; i++) {
        const struct disk_slot *slot = &tier->slots[i];
        if (slot->state == SLOT_AWAITED && slot->call.deadline_us < next)
            next = slot->call.deadline_us;
    }
    return tier->wipe.requested && tier->wipe.call.deadline_us < next ? tier->wipe.call.deadline_us : next;
}

int disk_tier_event_fd(const struct disk_tier *tier)
{
    return tier->epoll_fd;
}

static uint64_t oldest_age(const struct disk_tier *tier)
{
    uint64_t oldest = UINT64_MAX, wall = disk_wall(tier);
    for (uint32_t i = 0; i < tier->n_segments; i++) {
        const struct disk_segment *s = &tier->segments[i];
        if (s->records.n && s->opened_s < oldest)
            oldest = s->opened_s;
    }
    return oldest > wall ? 0 : wall - oldest;
}

void disk_tier_metrics(struct disk_tier *tier, struct disk_metrics *out)
{
    *out = tier->count;
    out->health = tier->health;
    out->io = tier->io->methods->name;
    out->direct = tier->io->direct;
    out->bytes = disk_index_bytes(tier->index);
    out->blocks = disk_index_blocks(tier->index);
    out->segments = tier->n_segments;
    out->capacity_bytes = tier->n_segments * tier->options.segment_bytes;
    for (uint32_t i = 0; i < tier->n_segments; i++)
        out->segments_free += tier->segments[i].state == SEGMENT_FREE;
    (void)disk_wear_allows(&tier->wear, 0, 0, disk_now(tier));
    out->wear_left = tier->wear.bytes_per_day ? tier->wear.left : INT64_MAX;
    out->oldest_s = oldest_age(tier);
}
