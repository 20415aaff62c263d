#include "kvbm/disk_io.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "kvbm/disk_io_file.h"

/* A file system may take O_DIRECT at open and refuse it at the first read. */
static bool direct_works(int fd)
{
    void *page = NULL;
    if (posix_memalign(&page, DISK_IO_ALIGN, DISK_IO_ALIGN) != 0)
        return false;
    ssize_t n = pread(fd, page, DISK_IO_ALIGN, 0);
    free(page);
    return n >= 0 || errno != EINVAL;
}

static int open_file(const char *path, bool want_direct, bool *direct)
{
    const int flags = O_RDWR | O_CREAT | O_CLOEXEC;
    *direct = false;
    if (want_direct) {
        int fd = open(path, flags | O_DIRECT, 0600);
        if (fd >= 0 && direct_works(fd)) {
            *direct = true;
            return fd;
        }
        if (fd >= 0)
            close(fd);
        else if (errno != EINVAL && errno != EOPNOTSUPP)
            return -1;
        log_warn("no direct I/O here: reads and writes go through the page cache", "path=%s", path);
    }
    return open(path, flags, 0600);
}

static status lock_file(int fd, const char *path, struct error *err)
{
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return ST_OK;
    if (errno == EWOULDBLOCK)
        return error_set(err, ST_CLOSED, "%s: another process holds it", path);
    return error_set(err, ST_IO, "%s: cannot be locked: %s", path, strerror(errno));
}

static status create_over(const struct disk_io_options *o, const struct disk_io_file *file, struct disk_io **out,
                          struct error *err)
{
    if (!o->no_uring) {
        status st = disk_io_uring_create(file, out);
        if (st != ST_UNSUPPORTED)
            return st == ST_OK ? ST_OK : error_set(err, st, "%s: no ring: %s", o->path, status_text(st));
        log_warn("io_uring is not permitted here: threads read and write instead", "path=%s", o->path);
    }
    return disk_io_threads_create(file, out, err);
}

status disk_io_open(const struct disk_io_options *options, struct disk_io **out, struct error *err)
{
    struct disk_io_file file = { .fd = -1, .depth = options->depth, .base.event_fd = -1 };
    struct stat info;
    status st = ST_NO_MEMORY;
    ASSERT(options->depth >= 1 && options->depth <= DISK_IO_MAX_DEPTH);
    file.path = strdup(options->path);
    file.base.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!file.path || file.base.event_fd < 0) {
        error_set(err, st, "%s: out of memory or descriptors", options->path);
        goto failed;
    }
    file.fd = open_file(options->path, !options->no_direct, &file.base.direct);
    if (file.fd < 0 || fstat(file.fd, &info) < 0) {
        st = error_set(err, ST_IO, "%s: %s", options->path, strerror(errno));
        goto failed;
    }
    file.base.file_bytes = (uint64_t)info.st_size;
    st = lock_file(file.fd, options->path, err);
    if (st == ST_OK)
        st = create_over(options, &file, out, err);
    if (st == ST_OK)
        return ST_OK;
failed:
    disk_io_file_close(&file);
    return st;
}

void disk_io_file_close(struct disk_io_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    if (file->base.event_fd >= 0)
        close(file->base.event_fd);
    free(file->path);
}

int disk_io_file_probe(struct disk_io *io)
{
    const struct disk_io_file *file = (const struct disk_io_file *)io;
    struct stat here, there;
    if (fstat(file->fd, &here) < 0 || stat(file->path, &there) < 0)
        return -errno;
    return here.st_ino == there.st_ino && here.st_dev == there.st_dev ? 0 : -ESTALE;
}

static ssize_t move_once(int fd, struct disk_io_op *op)
{
    uint8_t *at = (uint8_t *)op->data + op->moved;
    uint64_t left = op->bytes - op->moved;
    off_t offset = (off_t)(op->offset + op->moved);
    return op->kind == DISK_IO_READ ? pread(fd, at, left, offset) : pwrite(fd, at, left, offset);
}

static int64_t move_all(int fd, struct disk_io_op *op)
{
    while (op->moved < op->bytes) {
        ssize_t n = move_once(fd, op);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        op->moved += (uint64_t)n;
    }
    return (int64_t)op->moved;
}

int64_t disk_io_file_work(int fd, struct disk_io_op *op)
{
    int rc = 0;
    switch (op->kind) {
    case DISK_IO_READ:
    case DISK_IO_WRITE:
        return move_all(fd, op);
    case DISK_IO_SYNC:
        rc = fdatasync(fd);
        break;
    case DISK_IO_ALLOCATE:
        rc = fallocate(fd, 0, (off_t)op->offset, (off_t)op->bytes);
        break;
    case DISK_IO_PUNCH:
        rc = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)op->offset, (off_t)op->bytes);
        break;
    }
    return rc < 0 ? -errno : 0;
}

void disk_io_finish(struct disk_io *io, struct disk_io_op *op, int64_t result)
{
    ASSERT(io->in_flight > 0);
    io->in_flight--;
    op->done(op, result);
}

status disk_io_submit(struct disk_io *io, struct disk_io_op *op)
{
    op->moved = 0;
    op->next = NULL;
    status st = io->methods->submit(io, op);
    io->in_flight += st == ST_OK;
    return st;
}

void disk_io_cancel(struct disk_io *io, struct disk_io_op *op)
{
    io->methods->cancel(io, op);
}

unsigned disk_io_reap(struct disk_io *io)
{
    uint64_t count;
    /* Before the ends are looked at, so that one that comes meanwhile raises it again. */
    while (read(io->event_fd, &count, sizeof count) < 0 && errno == EINTR) {
    }
    return io->methods->reap(io);
}

bool disk_io_wait(struct disk_io *io, unsigned wait_ms)
{
    struct pollfd p = { .fd = io->event_fd, .events = POLLIN };
    const uint64_t until = clock_now_us() + wait_ms * UINT64_C(1000);
    for (;;) {
        if (disk_io_reap(io))
            return true;
        uint64_t now = clock_now_us();
        if (now >= until)
            return false;
        (void)poll(&p, 1, (int)((until - now + 999) / 1000));
    }
}

static void on_awaited(struct disk_io_op *op, int64_t result)
{
    op->result = result;
    op->done = NULL; /* which is what disk_io_run waits for */
}

int64_t disk_io_run(struct disk_io *io, struct disk_io_op *op, unsigned wait_ms)
{
    const uint64_t until = clock_now_us() + wait_ms * UINT64_C(1000);
    op->done = on_awaited;
    if (disk_io_submit(io, op) != ST_OK)
        return -EAGAIN;
    while (op->done) {
        uint64_t now = clock_now_us();
        if (now >= until)
            return -ETIMEDOUT;
        (void)disk_io_wait(io, (unsigned)((until - now + 999) / 1000));
    }
    return op->result;
}

bool disk_io_close(struct disk_io **io, unsigned wait_ms)
{
    if (!*io)
        return true;
    const uint64_t until = clock_now_us() + wait_ms * UINT64_C(1000);
    uint64_t now;
    while ((*io)->in_flight && (now = clock_now_us()) < until)
        (void)disk_io_wait(*io, (unsigned)((until - now + 999) / 1000));
    bool quiet = !(*io)->in_flight;
    if (!quiet)
        log_error("disk operations do not end; they are left behind", "operations=%u", (*io)->in_flight);
    (*io)->methods->destroy(*io);
    *io = NULL;
    return quiet;
}
