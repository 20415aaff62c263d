/* A tier is made, begun anew, and ended. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "kvbm/disk_tier_internal.h"

uint64_t disk_now(const struct disk_tier *tier)
{
    return tier->options.now_us ? tier->options.now_us(tier->options.ctx) : clock_now_us();
}

/* Ages and budgets outlive the process, and the machine's monotonic clock. */
uint64_t disk_wall(const struct disk_tier *tier)
{
    return tier->options.wall_s ? tier->options.wall_s(tier->options.ctx) : (uint64_t)time(NULL);
}

void disk_super_of(struct disk_tier *tier, void *page)
{
    const struct disk_segment *open = tier->open == NO_SEGMENT ? NULL : &tier->segments[tier->open];
    /* Fills the bucket up to now. */
    (void)disk_wear_allows(&tier->wear, 0, 0, disk_now(tier));
    const struct disk_super s = {
        .store = tier->store,
        .written = tier->super_written + 1,
        .segment_bytes = tier->options.segment_bytes,
        .n_segments = tier->n_segments,
        .sequence = tier->sequence,
        .wear_left = tier->wear.left,
        .wall_s = disk_wall(tier),
        .wear_sequence = open ? open->sequence : 0,
        .wear_fill = open ? open->fill : 0,
    };
    disk_super_encode(&s, page);
}

static void reset(struct disk_tier *tier)
{
    for (uint32_t i = 0; i < tier->n_segments; i++) {
        struct disk_segment *s = &tier->segments[i];
        ASSERT(!s->reads && !s->writes);
        disk_index_forget(tier->index, &s->records, NULL, NULL);
        *s = (struct disk_segment){ .state = SEGMENT_FREE, .records = s->records };
    }
    tier->open = tier->ready = NO_SEGMENT;
    tier->index_full = false;
    disk_segments_init_jobs(tier);
}

static status open_io(struct disk_tier *tier, struct disk_io **out, struct error *err)
{
    const unsigned depth = tier->options.slots + DISK_JOBS;
    if (tier->options.open_io)
        return tier->options.open_io(tier->options.ctx, depth, out, err);
    const struct disk_io_options o = {
        .path = tier->path, .depth = depth, .no_uring = tier->options.no_uring, .no_direct = tier->options.no_direct
    };
    return disk_io_open(&o, out, err);
}

static status watch(struct disk_tier *tier, struct error *err)
{
    struct epoll_event event = { .events = EPOLLIN };
    if (epoll_ctl(tier->epoll_fd, EPOLL_CTL_ADD, tier->io->event_fd, &event) == 0)
        return ST_OK;
    return error_set(err, ST_NO_MEMORY, "%s: cannot be watched: %s", tier->path, strerror(errno));
}

status disk_tier_reopen(struct disk_tier *tier, struct error *err)
{
    struct disk_io *io;
    status st = open_io(tier, &io, err);
    if (st != ST_OK)
        return st;
    reset(tier);
    bool quiet = disk_io_close(&tier->io, 0);
    ASSERT(quiet);
    tier->io = io;
    st = watch(tier, err);
    return st == ST_OK ? disk_tier_recover(tier, err) : st;
}

void disk_tier_defaults(struct disk_tier_options *options)
{
    *options = (struct disk_tier_options){
        .capacity_bytes = UINT64_C(16) << 30,
        .segment_bytes = UINT64_C(64) << 20,
        .max_payload_bytes = 8u << 20,
        .max_blocks = 1u << 20,
        .max_salts = 4096,
        .slots = 32,
        .probe_us = 30 * UINT64_C(1000000),
        .wait_ms = 10000,
    };
}

static status check_options(const struct disk_tier_options *o, struct error *err)
{
    const uint64_t least = DISK_PAGE + disk_extent(o->max_payload_bytes) + disk_footer_bytes(1 + FOOTER_SPARE);
    if (!o->max_payload_bytes || o->max_payload_bytes > DISK_TIER_MAX_BLOCK_BYTES)
        return error_set(err, ST_INVALID, "disk tier: payloads of %u bytes (1 to %u)", o->max_payload_bytes,
                         DISK_TIER_MAX_BLOCK_BYTES);
    if (o->segment_bytes % DISK_PAGE || o->segment_bytes < least || o->segment_bytes > UINT64_C(1) << 31)
        return error_set(err, ST_INVALID, "disk tier: segments of %llu bytes (a multiple of %u, %llu to %llu)",
                         (unsigned long long)o->segment_bytes, DISK_PAGE, (unsigned long long)least, 1ull << 31);
    if (o->capacity_bytes / o->segment_bytes < DISK_TIER_MIN_SEGMENTS ||
        o->capacity_bytes / o->segment_bytes > 1u << 24)
        return error_set(err, ST_INVALID, "disk tier: capacity of %llu bytes is not %u to %u segments of %llu",
                         (unsigned long long)o->capacity_bytes, DISK_TIER_MIN_SEGMENTS, 1u << 24,
                         (unsigned long long)o->segment_bytes);
    if (!o->slots || o->slots > DISK_TIER_MAX_SLOTS || !o->max_blocks || o->max_blocks > 1u << 30 || !o->max_salts)
        return error_set(err, ST_INVALID, "disk tier: %u operations (1 to %u), %u blocks, %u salts (at least 1)",
                         o->slots, DISK_TIER_MAX_SLOTS, o->max_blocks, o->max_salts);
    return ST_OK;
}

static uint8_t *aligned(uint64_t bytes)
{
    void *p = NULL;
    if (posix_memalign(&p, DISK_IO_ALIGN, bytes) != 0)
        return NULL;
    memset(p, 0, bytes);
    return p;
}

static bool allocate_slots(struct disk_tier *tier)
{
    tier->slots = calloc(tier->options.slots, sizeof *tier->slots);
    for (uint32_t i = 0; tier->slots && i < tier->options.slots; i++) {
        tier->slots[i].tier = tier;
        tier->slots[i].buffer = aligned(disk_extent(tier->options.max_payload_bytes));
        if (!tier->slots[i].buffer)
            return false;
    }
    return tier->slots != NULL;
}

static bool allocate(struct disk_tier *tier)
{
    const struct disk_tier_options *o = &tier->options;
    tier->segments = calloc(tier->n_segments, sizeof *tier->segments);
    tier->opener_page = aligned(DISK_PAGE);
    tier->prober_page = aligned(DISK_PAGE);
    tier->reclaimer_buffer = aligned(disk_extent(o->max_payload_bytes));
    tier->footer = aligned(disk_footer_bytes(o->segment_bytes / DISK_PAGE));
    tier->zeros = aligned(DISK_CHUNK_BYTES);
    tier->wipe.buffer = aligned(DISK_CHUNK_BYTES);
    for (uint32_t i = 0; tier->segments && i < tier->n_segments; i++)
        disk_record_list_init(&tier->segments[i].records);
    return tier->segments && tier->opener_page && tier->prober_page && tier->reclaimer_buffer && tier->footer &&
           tier->zeros && tier->wipe.buffer && disk_index_create(o->max_blocks, o->max_salts, &tier->index) == ST_OK &&
           allocate_slots(tier);
}

static void release(struct disk_tier *tier)
{
    for (uint32_t i = 0; tier->slots && i < tier->options.slots; i++)
        free(tier->slots[i].buffer);
    free(tier->slots);
    if (tier->index)
        disk_index_destroy(&tier->index);
    free(tier->segments);
    free(tier->opener_page);
    free(tier->prober_page);
    free(tier->reclaimer_buffer);
    free(tier->footer);
    free(tier->zeros);
    free(tier->wipe.buffer);
    if (tier->epoll_fd >= 0)
        close(tier->epoll_fd);
    free(tier->path);
    free(tier);
}

static status make_path(struct disk_tier *tier, struct error *err)
{
    const char *folder = tier->options.folder ? tier->options.folder : ".";
    size_t size = strlen(folder) + sizeof "/" DISK_TIER_FILE;
    tier->path = malloc(size);
    if (!tier->path)
        return error_set(err, ST_NO_MEMORY, "%s: out of memory", folder);
    (void)snprintf(tier->path, size, "%s/%s", folder, DISK_TIER_FILE);
    tier->options.folder = NULL; /* was borrowed */
    if (tier->options.open_io || mkdir(folder, 0700) == 0 || errno == EEXIST)
        return ST_OK;
    return error_set(err, ST_IO, "%s: %s", folder, strerror(errno));
}

status disk_tier_create(const struct disk_tier_options *options, struct disk_tier **out, struct error *err)
{
    status st = check_options(options, err);
    struct disk_tier *tier = st == ST_OK ? calloc(1, sizeof *tier) : NULL;
    if (!tier)
        return st == ST_OK ? error_set(err, ST_NO_MEMORY, "disk tier: out of memory") : st;
    tier->options = *options;
    tier->n_segments = (uint32_t)(options->capacity_bytes / options->segment_bytes);
    tier->open = tier->ready = NO_SEGMENT;
    tier->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    disk_segments_init_jobs(tier);
    disk_job_init(tier, &tier->prober, disk_prober_advance);
    disk_wipe_init_job(tier);
    st = make_path(tier, err);
    if (st == ST_OK && (tier->epoll_fd < 0 || !allocate(tier)))
        st = error_set(err, ST_NO_MEMORY, "%s: out of memory or descriptors", tier->path);
    if (st == ST_OK)
        st = open_io(tier, &tier->io, err);
    if (st == ST_OK)
        st = watch(tier, err);
    if (st == ST_OK)
        st = disk_tier_recover(tier, err);
    if (st != ST_OK) {
        if (disk_io_close(&tier->io, 0))
            release(tier);
        return st;
    }
    tier->probe_at_us = disk_now(tier) + tier->options.probe_us;
    disk_segments_run(tier);
    *out = tier;
    return ST_OK;
}

/* Nobody is told any more. */
static void silence(struct disk_tier *tier)
{
    for (uint32_t i = 0; i < tier->options.slots; i++)
        if (tier->slots[i].state == SLOT_AWAITED)
            tier->slots[i].state = SLOT_ABANDONED;
    tier->wipe.call.done = NULL;
}

static void wait_for_quiet(struct disk_tier *tier)
{
    const uint64_t until = clock_now_us() + tier->options.wait_ms * UINT64_C(1000);
    while (tier->io->in_flight) {
        uint64_t now = clock_now_us();
        if (now >= until)
            return;
        (void)disk_io_wait(tier->io, (unsigned)((until - now + 999) / 1000));
    }
}

void disk_tier_destroy(struct disk_tier **tier)
{
    if (!*tier)
        return;
    struct disk_tier *t = *tier;
    *tier = NULL;
    silence(t);
    wait_for_quiet(t);
    if (!t->io->in_flight && t->health == DISK_IS_HEALTHY && disk_tier_save(t) != ST_OK)
        log_warn("the wear budget of the disk could not be kept", "path=%s", t->path);
    /* What the device holds on to is not given back to the heap. */
    if (disk_io_close(&t->io, 0))
        release(t);
}
