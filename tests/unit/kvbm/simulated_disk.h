/* simulated_disk.h - a disk in memory behind the interface disk_io: it reorders, fails, truncates, spoils, hangs, and
 * crashes. After a crash it holds what such a disk could: every write that was not made durable may be missing, or
 * there in part, sector by sector. */
#ifndef BATON_TESTS_SIMULATED_DISK_H
#define BATON_TESTS_SIMULATED_DISK_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "kvbm/disk_io.h"

#define SIMULATED_SECTOR 512u
#define SIMULATED_QUEUE  256u
#define SIMULATED_KINDS  5

struct simulated_write {
    struct simulated_write *next;
    uint64_t offset, bytes;
    uint8_t data[];
};

struct simulated_disk {
    uint8_t *seen, *durable; /* what reads see, and what a loss of power leaves at least */
    uint64_t size, room;     /* of the file; beyond room the disk is full */
    struct simulated_write *loose, **loose_tail;
    struct simulated_io *io; /* open, or NULL */
    uint64_t random;
    unsigned syncs;
    bool hung, gone, no_punch;
    /* The next so many operations of a kind fail with an error, or (SHORT) move half. */
    unsigned fail[SIMULATED_KINDS];
    int error;
    unsigned fail_one_in; /* of all operations, at random; 0: none */
    unsigned spoil;       /* bits flipped in the next so many reads */
    uint64_t stuck;       /* the next operation at this offset does not end; 0: none is stuck */
    const struct disk_io_op *stuck_op;
};

#define SIMULATED_SHORT 1 /* as an error: half is moved */

struct simulated_io {
    struct disk_io base;
    struct simulated_disk *disk;
    struct disk_io_op *queue[SIMULATED_QUEUE];
    unsigned n, depth;
    bool dead; /* of a crashed process: takes nothing more */
};

static inline uint32_t simulated_draw(struct simulated_disk *disk, uint32_t below)
{
    disk->random = disk->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(disk->random >> 33) % below;
}

static inline void simulated_init(struct simulated_disk *disk, uint64_t room)
{
    *disk = (struct simulated_disk){ .room = room, .random = 1, .error = EIO };
    disk->seen = calloc(1, room);
    disk->durable = calloc(1, room);
    ASSERT(disk->seen && disk->durable);
    disk->loose_tail = &disk->loose;
}

static inline void simulated_forget_loose(struct simulated_disk *disk)
{
    for (struct simulated_write *w = disk->loose, *next; w; w = next) {
        next = w->next;
        free(w);
    }
    disk->loose = NULL;
    disk->loose_tail = &disk->loose;
}

static inline void simulated_free(struct simulated_disk *disk)
{
    simulated_forget_loose(disk);
    free(disk->seen);
    free(disk->durable);
}

/* data NULL: zeros. */
static inline void simulated_write(struct simulated_disk *disk, uint64_t offset, const void *data, uint64_t bytes)
{
    struct simulated_write *w = calloc(1, sizeof *w + bytes);
    ASSERT(w && offset + bytes <= disk->room);
    w->offset = offset;
    w->bytes = bytes;
    if (data)
        memcpy(w->data, data, bytes);
    memcpy(disk->seen + offset, w->data, bytes);
    *disk->loose_tail = w;
    disk->loose_tail = &w->next;
    if (data && offset + bytes > disk->size)
        disk->size = offset + bytes;
}

/* What a crash leaves of a write: none, all, some sectors, or the first ones. image NULL: as writes that were done, not
 * yet durable. */
static inline void simulated_write_part(struct simulated_disk *disk, uint8_t *image, uint64_t offset,
                                        const uint8_t *data, uint64_t bytes)
{
    const uint32_t way = simulated_draw(disk, 4);
    if (way == 3)
        bytes = simulated_draw(disk, (uint32_t)(bytes / SIMULATED_SECTOR) + 1) * SIMULATED_SECTOR;
    for (uint64_t at = 0; at < bytes && way; at += SIMULATED_SECTOR) {
        uint64_t n = bytes - at < SIMULATED_SECTOR ? bytes - at : SIMULATED_SECTOR;
        if (way == 2 && simulated_draw(disk, 2))
            continue;
        if (image)
            memcpy(image + offset + at, data + at, n);
        else
            simulated_write(disk, offset + at, data + at, n);
    }
}

static inline void simulated_sync(struct simulated_disk *disk)
{
    for (const struct simulated_write *w = disk->loose; w; w = w->next)
        memcpy(disk->durable + w->offset, w->data, w->bytes);
    simulated_forget_loose(disk);
    disk->syncs++;
}

/* Ends the open file as a crash of the process (power: of the machine) would; its operations are never done. */
static inline void simulated_crash(struct simulated_disk *disk, bool power)
{
    uint8_t *image = power ? disk->durable : NULL;
    for (const struct simulated_write *w = disk->loose; w && power; w = w->next)
        simulated_write_part(disk, image, w->offset, w->data, w->bytes);
    for (unsigned i = 0; disk->io && i < disk->io->n; i++) {
        const struct disk_io_op *op = disk->io->queue[i];
        if (op->kind == DISK_IO_WRITE)
            simulated_write_part(disk, image, op->offset, op->data, op->bytes);
    }
    if (disk->io) {
        disk->io->dead = true;
        disk->io->n = 0;
        disk->io->base.in_flight = 0;
    }
    if (power) {
        simulated_forget_loose(disk);
        memcpy(disk->seen, disk->durable, disk->room);
    }
}

static inline int64_t simulated_read(struct simulated_disk *disk, struct disk_io_op *op, uint64_t bytes)
{
    if (op->offset >= disk->size)
        return 0;
    if (bytes > disk->size - op->offset)
        bytes = disk->size - op->offset;
    memcpy(op->data, disk->seen + op->offset, bytes);
    if (disk->spoil) {
        disk->spoil--;
        ((uint8_t *)op->data)[simulated_draw(disk, (uint32_t)bytes)] ^= (uint8_t)(1u << simulated_draw(disk, 8));
    }
    return (int64_t)bytes;
}

static inline int64_t simulated_work(struct simulated_disk *disk, struct disk_io_op *op)
{
    uint64_t bytes = op->bytes;
    bool fails = disk->fail[op->kind] || (disk->fail_one_in && simulated_draw(disk, disk->fail_one_in) == 0);
    if (fails) {
        disk->fail[op->kind] -= disk->fail[op->kind] > 0;
        if (disk->error != SIMULATED_SHORT)
            return -disk->error;
        bytes = bytes / 2 / SIMULATED_SECTOR * SIMULATED_SECTOR;
    }
    switch (op->kind) {
    case DISK_IO_READ:
        return simulated_read(disk, op, bytes);
    case DISK_IO_WRITE:
        simulated_write(disk, op->offset, op->data, bytes);
        return (int64_t)bytes;
    case DISK_IO_SYNC:
        simulated_sync(disk);
        return 0;
    case DISK_IO_ALLOCATE:
        if (op->offset + op->bytes > disk->room)
            return -ENOSPC;
        if (op->offset + op->bytes > disk->size)
            disk->size = op->offset + op->bytes;
        return 0;
    case DISK_IO_PUNCH:
        if (disk->no_punch)
            return -EOPNOTSUPP;
        simulated_write(disk, op->offset, NULL, op->bytes);
        return 0;
    }
    return -EINVAL;
}

static inline void simulated_tell(struct simulated_io *io)
{
    const uint64_t one = 1;
    ssize_t n = write(io->base.event_fd, &one, sizeof one);
    (void)n;
}

static inline status simulated_submit(struct disk_io *base, struct disk_io_op *op)
{
    struct simulated_io *io = (struct simulated_io *)base;
    if (io->n == io->depth || io->dead)
        return ST_AGAIN;
    io->queue[io->n++] = op;
    if (io->disk->stuck && op->offset == io->disk->stuck && !io->disk->stuck_op)
        io->disk->stuck_op = op;
    simulated_tell(io);
    return ST_OK;
}

static inline void simulated_cancel(struct disk_io *base, struct disk_io_op *op)
{
    (void)base;
    (void)op; /* the hand that does the work is quicker */
}

/* Whether it was not stuck, and is done. */
static inline bool simulated_end_one(struct simulated_io *io, unsigned at)
{
    struct disk_io_op *op = io->queue[at];
    if (io->disk->stuck && op == io->disk->stuck_op)
        return false;
    memmove(&io->queue[at], &io->queue[at + 1], (--io->n - at) * sizeof io->queue[0]);
    io->base.in_flight--;
    op->done(op, simulated_work(io->disk, op));
    return true;
}

/* Some of them, in any order. */
static inline unsigned simulated_reap(struct disk_io *base)
{
    struct simulated_io *io = (struct simulated_io *)base;
    struct simulated_disk *disk = io->disk;
    unsigned n = io->n && !disk->hung ? 1 + simulated_draw(disk, io->n) : 0, done = 0;
    for (unsigned i = 0; i < n && io->n; i++)
        done += simulated_end_one(io, simulated_draw(disk, io->n));
    if (io->n && !disk->hung)
        simulated_tell(io);
    return done;
}

static inline int simulated_probe(struct disk_io *base)
{
    return ((struct simulated_io *)base)->disk->gone ? -ENOENT : 0;
}

static inline void simulated_destroy(struct disk_io *base)
{
    struct simulated_io *io = (struct simulated_io *)base;
    if (io->disk->io == io)
        io->disk->io = NULL;
    close(io->base.event_fd);
    free(io);
}

static const struct disk_io_methods simulated_methods = {
    .name = "simulated",
    .submit = simulated_submit,
    .cancel = simulated_cancel,
    .reap = simulated_reap,
    .probe = simulated_probe,
    .destroy = simulated_destroy,
};

static inline status simulated_open(struct simulated_disk *disk, unsigned depth, struct disk_io **out,
                                    struct error *err)
{
    if (disk->gone)
        return error_set(err, ST_IO, "the folder is gone");
    struct simulated_io *io = calloc(1, sizeof *io);
    ASSERT(io && depth <= SIMULATED_QUEUE);
    io->base = (struct disk_io){ .methods = &simulated_methods,
                                 .event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
                                 .file_bytes = disk->size,
                                 .direct = true };
    io->disk = disk;
    io->depth = depth;
    disk->io = io;
    *out = &io->base;
    return ST_OK;
}

#endif
