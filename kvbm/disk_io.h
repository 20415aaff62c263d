/* disk_io.h - asynchronous reads and writes of one file, told of by a descriptor that an event loop watches.
 * Two ways lie behind it: io_uring, and where the kernel does not permit that, a few threads with pread and
 * pwrite. A test puts a third one in their place. Used by one thread: done callbacks run inside disk_io_reap(). */
#ifndef BATON_KVBM_DISK_IO_H
#define BATON_KVBM_DISK_IO_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

#define DISK_IO_ALIGN     4096u /* of offsets, lengths and memory, as direct I/O wants them */
#define DISK_IO_MAX_DEPTH 256u

/* ALLOCATE reserves the range, PUNCH gives it back (it reads as zeros then), SYNC makes what was written durable. */
enum disk_io_kind { DISK_IO_READ, DISK_IO_WRITE, DISK_IO_SYNC, DISK_IO_ALLOCATE, DISK_IO_PUNCH };

struct disk_io_op {
    enum disk_io_kind kind;
    uint64_t offset, bytes;
    void *data; /* READ and WRITE; belongs to the operation until done */
    /* result: bytes moved, fewer than asked only at the end of the file; 0 for the other kinds; or a negative errno. */
    void (*done)(struct disk_io_op *op, int64_t result);
    /* What follows belongs to the implementation. */
    struct disk_io_op *next;
    uint64_t moved;
    int64_t result;
};

struct disk_io;

struct disk_io_methods {
    const char *name;
    /* ST_AGAIN: as many as the depth allows are on their way. */
    status (*submit)(struct disk_io *io, struct disk_io_op *op);
    /* Asks for an early end (-ECANCELED); the operation is done later in any case. */
    void (*cancel)(struct disk_io *io, struct disk_io_op *op);
    /* Calls done for what has ended; returns how many. */
    unsigned (*reap)(struct disk_io *io);
    /* Whether the file still stands under its name: 0 or a negative errno. */
    int (*probe)(struct disk_io *io);
    /* Frees it when nothing is on its way; what a stuck device still holds is left to it and leaks. */
    void (*destroy)(struct disk_io *io);
};

/* First member of an implementation. */
struct disk_io {
    const struct disk_io_methods *methods;
    int event_fd;        /* readable: call disk_io_reap() */
    unsigned in_flight;  /* operations submitted and not done */
    uint64_t file_bytes; /* as found at open */
    bool direct;         /* past the page cache */
};

struct disk_io_options {
    const char *path; /* made when missing, but not its folder; locked against other processes */
    unsigned depth;   /* operations at most on their way, 1 to DISK_IO_MAX_DEPTH */
    bool no_uring;    /* threads even where io_uring is permitted */
    bool no_direct;
};

/* ST_CLOSED: another process holds the file. */
MUST_CHECK status disk_io_open(const struct disk_io_options *options, struct disk_io **out, struct error *err);
/* NULL-safe; nulls the pointer. Waits at most wait_ms for what is on its way, calling done of what ends. False:
 * something stuck is left behind, and the memory it works on must be, too; its done is never called. */
MUST_CHECK bool disk_io_close(struct disk_io **io, unsigned wait_ms);

MUST_CHECK status disk_io_submit(struct disk_io *io, struct disk_io_op *op);
void disk_io_cancel(struct disk_io *io, struct disk_io_op *op);
unsigned disk_io_reap(struct disk_io *io);
/* Waits at most wait_ms for an end, and reaps; whether anything was done. */
bool disk_io_wait(struct disk_io *io, unsigned wait_ms);
/* Submits, and waits for it; others may end meanwhile. -ETIMEDOUT: it is still on its way, with its memory. */
int64_t disk_io_run(struct disk_io *io, struct disk_io_op *op, unsigned wait_ms);

#endif
