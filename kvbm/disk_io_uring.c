/* Operations through io_uring: one system call to submit, none to be told of the end. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>

#include "kvbm/disk_io_file.h"

#define ENDS_PER_TURN (2 * DISK_IO_MAX_DEPTH)

struct disk_io_uring {
    struct disk_io_file file;
    struct io_uring ring;
};

/* Cancellations carry no operation: nobody waits for them. */
static void prepare(struct disk_io_uring *u, struct io_uring_sqe *sqe, struct disk_io_op *op)
{
    uint8_t *at = op->data ? (uint8_t *)op->data + op->moved : NULL;
    const unsigned left = (unsigned)(op->bytes - op->moved);
    switch (op->kind) {
    case DISK_IO_READ:
        io_uring_prep_read(sqe, u->file.fd, at, left, op->offset + op->moved);
        break;
    case DISK_IO_WRITE:
        io_uring_prep_write(sqe, u->file.fd, at, left, op->offset + op->moved);
        break;
    case DISK_IO_SYNC:
        io_uring_prep_fsync(sqe, u->file.fd, IORING_FSYNC_DATASYNC);
        break;
    case DISK_IO_ALLOCATE:
        io_uring_prep_fallocate(sqe, u->file.fd, 0, (off_t)op->offset, (off_t)op->bytes);
        break;
    case DISK_IO_PUNCH:
        io_uring_prep_fallocate(sqe, u->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)op->offset,
                                (off_t)op->bytes);
        break;
    }
    io_uring_sqe_set_data(sqe, op);
}

static status push(struct disk_io_uring *u, struct disk_io_op *op)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (!sqe)
        return ST_AGAIN;
    prepare(u, sqe, op);
    /* An entry that the kernel is too busy to take now stays in the ring and goes with the next. */
    (void)io_uring_submit(&u->ring);
    return ST_OK;
}

static status uring_submit(struct disk_io *io, struct disk_io_op *op)
{
    struct disk_io_uring *u = (struct disk_io_uring *)io;
    return io->in_flight < u->file.depth ? push(u, op) : ST_AGAIN;
}

static void uring_cancel(struct disk_io *io, struct disk_io_op *op)
{
    struct disk_io_uring *u = (struct disk_io_uring *)io;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (!sqe)
        return;
    io_uring_prep_cancel(sqe, op, 0);
    io_uring_sqe_set_data(sqe, NULL);
    (void)io_uring_submit(&u->ring);
}

/* Whether the operation is done; a part of it that is missing has been asked for again otherwise. */
static bool ended(struct disk_io_uring *u, struct disk_io_op *op, int result)
{
    const bool moves = op->kind == DISK_IO_READ || op->kind == DISK_IO_WRITE;
    if (moves && result > 0) {
        op->moved += (uint64_t)result;
        op->result = (int64_t)op->moved;
        return op->moved >= op->bytes || push(u, op) != ST_OK;
    }
    op->result = moves && result == 0 ? (int64_t)op->moved : result;
    return (result != -EINTR && result != -EAGAIN) || push(u, op) != ST_OK;
}

static unsigned uring_reap(struct disk_io *io)
{
    struct disk_io_uring *u = (struct disk_io_uring *)io;
    struct io_uring_cqe *cqe;
    unsigned n = 0;
    (void)io_uring_submit(&u->ring);
    for (unsigned i = 0; i < ENDS_PER_TURN && io_uring_peek_cqe(&u->ring, &cqe) == 0; i++) {
        struct disk_io_op *op = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&u->ring, cqe);
        if (!op || !ended(u, op, result))
            continue;
        disk_io_finish(io, op, op->result);
        n++;
    }
    return n;
}

static void uring_destroy(struct disk_io *io)
{
    struct disk_io_uring *u = (struct disk_io_uring *)io;
    io_uring_queue_exit(&u->ring);
    disk_io_file_close(&u->file);
    free(u);
}

static const struct disk_io_methods methods = {
    .name = "io_uring",
    .submit = uring_submit,
    .cancel = uring_cancel,
    .reap = uring_reap,
    .probe = disk_io_file_probe,
    .destroy = uring_destroy,
};

static bool knows_all(struct io_uring *ring)
{
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    bool all = probe && io_uring_opcode_supported(probe, IORING_OP_READ) &&
               io_uring_opcode_supported(probe, IORING_OP_FALLOCATE) &&
               io_uring_opcode_supported(probe, IORING_OP_ASYNC_CANCEL);
    io_uring_free_probe(probe);
    return all;
}

status disk_io_uring_create(const struct disk_io_file *file, struct disk_io **out)
{
    struct disk_io_uring *u = calloc(1, sizeof *u);
    if (!u)
        return ST_NO_MEMORY;
    /* Twice: cancellations need entries of their own. */
    if (io_uring_queue_init(2 * file->depth, &u->ring, 0) < 0) {
        free(u);
        return ST_UNSUPPORTED;
    }
    if (!knows_all(&u->ring) || io_uring_register_eventfd(&u->ring, file->base.event_fd) < 0) {
        io_uring_queue_exit(&u->ring);
        free(u);
        return ST_UNSUPPORTED;
    }
    u->file = *file;
    u->file.base.methods = &methods;
    *out = &u->file.base;
    return ST_OK;
}
