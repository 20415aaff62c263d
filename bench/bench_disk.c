#include "bench/bench_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "common/clock.h"
#include "kvbm/disk_format.h"
#include "kvbm/disk_tier.h"

#define SLICES           8u /* of the blocks: plain and tier take turns */
#define SPARE_SEGMENTS   8u /* so that nothing is evicted */
#define SEGMENT_BYTES    (UINT64_C(64) << 20)
#define BLOCKS_A_SEGMENT 4u /* at least */
#define FOOTER_BYTES     (UINT64_C(64) << 10)
#define OPERATION_US     UINT64_C(60000000)
#define BLOCK_TOKENS     16u
#define FORMAT           UINT64_C(1)
#define EXTRAPOLATED     100e9

enum way { WAY_PUT, WAY_GET };

/* One operation on its way. */
struct flight {
    struct bench *bench;
    uint32_t buffer;
};

struct bench {
    const struct bench_disk_options *options;
    struct bench_disk_result *result;
    struct disk_tier_options tier_options;
    struct disk_tier *tier;
    char folder[PATH_MAX];
    int plain_fd;
    uint64_t checksum;
    uint8_t *payload, *extent; /* extent: what plain writes, as long as a block on disk */
    uint8_t *buffers;          /* [depth][block_bytes] of gets */
    bool *taken;               /* [depth] */
    struct flight flights[BENCH_DISK_MAX_DEPTH];
    uint32_t in_flight;
    uint64_t failed;
    status failure; /* of the first that failed */
};

/* ---- plain -------------------------------------------------------------------------------- */

static status plain_open(struct bench *b, struct error *err)
{
    char path[PATH_MAX + 16];
    (void)snprintf(path, sizeof path, "%s/plain", b->folder);
    b->plain_fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | (b->result->direct ? O_DIRECT : 0), 0600);
    int code = b->plain_fd < 0 ? errno : 0;
    (void)unlink(path);
    if (!code) /* the tier reserves its space, too */
        code = posix_fallocate(b->plain_fd, 0, (off_t)(b->result->blocks * b->result->extent_bytes));
    return code ? error_set(err, ST_IO, "%s: %s", path, strerror(code)) : ST_OK;
}

static status plain_move(struct bench *b, enum way way, uint64_t block, struct error *err)
{
    const uint64_t bytes = b->result->extent_bytes;
    const off_t at = (off_t)(block * bytes);
    ssize_t n = way == WAY_PUT ? pwrite(b->plain_fd, b->extent, bytes, at) : pread(b->plain_fd, b->extent, bytes, at);
    if (n == (ssize_t)bytes)
        return ST_OK;
    return error_set(err, ST_IO, "%s: a plain %s of %llu bytes: %s", b->folder, way == WAY_PUT ? "write" : "read",
                     (unsigned long long)bytes, n < 0 ? strerror(errno) : "cut short");
}

/* ---- tier --------------------------------------------------------------------------------- */

static void on_done(void *ctx, status st, const struct disk_block *found)
{
    struct flight *f = ctx;
    struct bench *b = f->bench;
    b->in_flight--;
    b->taken[f->buffer] = false;
    if (st == ST_OK && found && found->checksum != b->checksum)
        st = ST_CORRUPT;
    if (st != ST_OK && b->failed++ == 0)
        b->failure = st;
}

/* Blocks of one chain, whose tokens follow from their number. */
static void describe(const struct bench *b, uint64_t number, uint32_t tokens[BLOCK_TOKENS], struct disk_block *out)
{
    for (uint32_t i = 0; i < BLOCK_TOKENS; i++)
        tokens[i] = (uint32_t)(number * BLOCK_TOKENS + i);
    *out = (struct disk_block){ .hash = { number * UINT64_C(0x9e3779b97f4a7c15), number + 1 },
                                .parent = { (number - 1) * UINT64_C(0x9e3779b97f4a7c15), number },
                                .format = FORMAT,
                                .checksum = b->checksum,
                                .payload_bytes = b->options->block_bytes,
                                .n_tokens = BLOCK_TOKENS,
                                .tokens = tokens };
}

/* Sleeps until the tier has something to do. */
static void turn(struct bench *b)
{
    struct pollfd fd = { .fd = disk_tier_event_fd(b->tier), .events = POLLIN };
    uint64_t now = clock_now_us(), next = disk_tier_next_us(b->tier);
    uint64_t wait_us = next <= now ? 0 : next - now < OPERATION_US ? next - now : OPERATION_US;
    (void)poll(&fd, 1, (int)(wait_us / 1000 + (wait_us > 0)));
    disk_tier_run(b->tier);
}

static uint32_t free_buffer(const struct bench *b)
{
    uint32_t i = 0;
    while (b->taken[i])
        i++;
    return i;
}

/* ST_AGAIN: not now. */
static status start(struct bench *b, enum way way, uint64_t number, struct error *err)
{
    uint32_t tokens[BLOCK_TOKENS], i = free_buffer(b);
    struct disk_block block;
    const struct disk_call call = { clock_now_us() + OPERATION_US, on_done, &b->flights[i] };
    enum disk_refusal refusal = DISK_TAKEN;
    status st = ST_OK;
    describe(b, number, tokens, &block);
    b->flights[i] = (struct flight){ b, i };
    if (way == WAY_PUT)
        refusal = disk_tier_put(b->tier, &block, b->payload, &call, NULL);
    else
        st = disk_tier_get(b->tier, &block, b->buffers + (size_t)i * b->options->block_bytes, &call, NULL);
    if (refusal == DISK_BUSY || st == ST_AGAIN)
        return ST_AGAIN;
    if (refusal != DISK_TAKEN)
        return error_set(err, ST_IO, "block %llu was not taken: %s", (unsigned long long)number,
                         disk_refusal_name(refusal));
    if (st != ST_OK)
        return error_set(err, ST_IO, "block %llu is not there: %s", (unsigned long long)number, status_text(st));
    b->taken[i] = true;
    b->in_flight++;
    return ST_OK;
}

static status check(const struct bench *b, struct error *err)
{
    if (*b->options->stop)
        return error_set(err, ST_CANCELLED, "stopped");
    if (b->failed)
        return error_set(err, ST_IO, "%llu operations failed, the first one so: %s", (unsigned long long)b->failed,
                         status_text(b->failure));
    return ST_OK;
}

/* Until at most n are on their way. */
static status wait_for(struct bench *b, uint32_t n, struct error *err)
{
    status st = check(b, err);
    while (st == ST_OK && b->in_flight > n) {
        turn(b);
        st = check(b, err);
    }
    return st;
}

static status tier_move(struct bench *b, enum way way, uint64_t number, struct error *err)
{
    const uint64_t end_us = clock_now_us() + OPERATION_US;
    status st = wait_for(b, b->options->depth - 1, err);
    while (st == ST_OK && (st = start(b, way, number, err)) == ST_AGAIN) {
        turn(b);
        st = clock_now_us() < end_us
                 ? check(b, err)
                 : error_set(err, ST_TIMEOUT, "block %llu: the tier is busy without end", (unsigned long long)number);
    }
    return st;
}

/* ---- phases --------------------------------------------------------------------------------- */

static double rate(const struct bench *b, uint64_t us)
{
    return (double)b->result->blocks * b->options->block_bytes / ((double)(us ? us : 1) / 1e6);
}

/* All blocks by both, in slices. */
static status in_turns(struct bench *b, enum way way, double *plain, double *tier, struct error *err)
{
    uint64_t plain_us = 0, tier_us = 0, from = 0;
    status st = ST_OK;
    for (uint32_t slice = 1; slice <= SLICES && st == ST_OK; slice++) {
        const uint64_t to = b->result->blocks * slice / SLICES, start_us = clock_now_us();
        for (uint64_t i = from; i < to && st == ST_OK; i++)
            st = *b->options->stop ? check(b, err) : plain_move(b, way, i, err);
        const uint64_t middle_us = clock_now_us();
        for (uint64_t i = from; i < to && st == ST_OK; i++)
            st = tier_move(b, way, i, err);
        if (st == ST_OK)
            st = wait_for(b, 0, err);
        plain_us += middle_us - start_us;
        tier_us += clock_now_us() - middle_us;
        from = to;
    }
    *plain = rate(b, plain_us);
    *tier = rate(b, tier_us);
    return st;
}

static status at_random(struct bench *b, struct error *err)
{
    const uint64_t start_us = clock_now_us();
    uint64_t state = 1, n = 0, now_us = start_us;
    status st = ST_OK;
    while (st == ST_OK && (double)(now_us - start_us) < b->options->seconds * 1e6) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        st = tier_move(b, WAY_GET, (state >> 33) % b->result->blocks, err);
        n++;
        now_us = clock_now_us();
    }
    if (st == ST_OK)
        st = wait_for(b, 0, err);
    b->result->random_gets = (double)n / ((double)(clock_now_us() - start_us) / 1e6);
    return st;
}

static uint64_t free_segments(const struct bench *b)
{
    struct disk_metrics m;
    disk_tier_metrics(b->tier, &m);
    return m.segments_free;
}

/* Until another segment begins: a full one is known by its footer, one that is not has to be read. */
static status fill_segment(struct bench *b, struct error *err)
{
    const uint64_t before = free_segments(b), most = b->tier_options.segment_bytes / b->result->extent_bytes + 1;
    status st = ST_OK;
    for (uint64_t i = 0; i < most && st == ST_OK && free_segments(b) == before; i++) {
        st = tier_move(b, WAY_PUT, b->result->blocks++, err);
        if (st == ST_OK)
            st = wait_for(b, 0, err);
    }
    return st;
}

static status reopen(struct bench *b, struct error *err)
{
    struct disk_metrics m;
    status st = fill_segment(b, err);
    if (st != ST_OK)
        return st;
    disk_tier_destroy(&b->tier);
    b->tier_options.slots = 1; /* their memory is not what is measured */
    const uint64_t start_us = clock_now_us();
    st = disk_tier_create(&b->tier_options, &b->tier, err);
    if (st != ST_OK)
        return st;
    b->result->rebuild_s = (double)(clock_now_us() - start_us) / 1e6;
    b->result->rebuild_s_per_100_gb =
        b->result->rebuild_s * EXTRAPOLATED / ((double)b->result->blocks * b->options->block_bytes);
    disk_tier_metrics(b->tier, &m);
    if (m.blocks != b->result->blocks)
        return error_set(err, ST_IO, "of %llu blocks %llu are there when the tier is opened again",
                         (unsigned long long)b->result->blocks, (unsigned long long)m.blocks);
    return ST_OK;
}

/* ---- all of it -------------------------------------------------------------------------------- */

static void size_tier(struct bench *b)
{
    const struct bench_disk_options *o = b->options;
    struct disk_tier_options *t = &b->tier_options;
    const uint64_t all = b->result->blocks * b->result->extent_bytes;
    const uint64_t least = BLOCKS_A_SEGMENT * b->result->extent_bytes + FOOTER_BYTES;
    disk_tier_defaults(t);
    t->folder = b->folder;
    t->segment_bytes = all / SLICES < SEGMENT_BYTES ? disk_round_up(all / SLICES) : SEGMENT_BYTES;
    if (t->segment_bytes < least)
        t->segment_bytes = disk_round_up(least);
    /* What a segment cannot fill is less than a block, its first page and its footer. */
    const uint64_t filled = t->segment_bytes - b->result->extent_bytes - FOOTER_BYTES;
    t->capacity_bytes = (all / filled + 1 + SPARE_SEGMENTS) * t->segment_bytes;
    t->max_payload_bytes = o->block_bytes;
    t->max_blocks = (uint32_t)(b->result->blocks + b->result->blocks / 8 + 1024);
    t->slots = o->depth * 4 / 3 + 2; /* puts get three of four */
}

static status allocate(struct bench *b, struct error *err)
{
    const struct bench_disk_options *o = b->options;
    void *extent = NULL;
    b->payload = malloc(o->block_bytes);
    b->buffers = malloc((size_t)o->depth * o->block_bytes);
    b->taken = calloc(o->depth + 1, sizeof *b->taken); /* one that is free always */
    if (!b->payload || !b->buffers || !b->taken || posix_memalign(&extent, DISK_IO_ALIGN, b->result->extent_bytes) != 0)
        return error_set(err, ST_NO_MEMORY, "no memory for %u blocks of %u bytes", o->depth, o->block_bytes);
    b->extent = extent;
    uint64_t state = 7;
    for (uint32_t i = 0; i < o->block_bytes; i++) { /* nothing that a file system could compress */
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        b->payload[i] = (uint8_t)(state >> 56);
    }
    memset(b->extent, 0, b->result->extent_bytes);
    memcpy(b->extent, b->payload, o->block_bytes);
    b->checksum = XXH3_64bits(b->payload, o->block_bytes);
    return ST_OK;
}

static status measure(struct bench *b, struct error *err)
{
    struct disk_metrics m;
    struct bench_disk_result *r = b->result;
    size_tier(b);
    status st = allocate(b, err);
    if (st == ST_OK)
        st = disk_tier_create(&b->tier_options, &b->tier, err);
    if (st != ST_OK)
        return st;
    disk_tier_metrics(b->tier, &m);
    r->io = m.io;
    r->direct = m.direct;
    st = plain_open(b, err);
    if (st == ST_OK)
        st = in_turns(b, WAY_PUT, &r->plain_write, &r->put, err);
    if (st == ST_OK)
        st = in_turns(b, WAY_GET, &r->plain_read, &r->get, err);
    if (st == ST_OK)
        st = at_random(b, err);
    return st == ST_OK ? reopen(b, err) : st;
}

static void remove_folder(const struct bench *b)
{
    char path[PATH_MAX + 16];
    (void)snprintf(path, sizeof path, "%s/" DISK_TIER_FILE, b->folder);
    (void)unlink(path);
    (void)rmdir(b->folder);
}

status bench_disk(const struct bench_disk_options *options, struct bench_disk_result *out, struct error *err)
{
    struct bench b = { .options = options, .result = out, .plain_fd = -1 };
    *out = (struct bench_disk_result){ .blocks = options->total_bytes / options->block_bytes,
                                       .extent_bytes = disk_extent(options->block_bytes) };
    int n = snprintf(b.folder, sizeof b.folder, "%s/baton-bench-disk-XXXXXX", options->folder);
    if (n < 0 || n >= (int)sizeof b.folder || !mkdtemp(b.folder))
        return error_set(err, ST_IO, "%.200s: no folder can be made there: %s", options->folder, strerror(errno));
    status st = measure(&b, err);
    disk_tier_destroy(&b.tier);
    if (b.plain_fd >= 0)
        (void)close(b.plain_fd);
    free(b.payload);
    free(b.buffers);
    free(b.taken);
    free(b.extent);
    remove_folder(&b);
    return st;
}
