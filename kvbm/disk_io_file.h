/* disk_io_file.h - the file behind a disk_io, and the two implementations that work on one. */
#ifndef BATON_KVBM_DISK_IO_FILE_H
#define BATON_KVBM_DISK_IO_FILE_H

#include "kvbm/disk_io.h"

struct disk_io_file {
    struct disk_io base;
    int fd;
    unsigned depth;
    char *path;
};

/* Take over the file on success. ST_UNSUPPORTED: the kernel does not permit io_uring. */
MUST_CHECK status disk_io_uring_create(const struct disk_io_file *file, struct disk_io **out);
MUST_CHECK status disk_io_threads_create(const struct disk_io_file *file, struct disk_io **out, struct error *err);

int disk_io_file_probe(struct disk_io *io);
void disk_io_file_close(struct disk_io_file *file);
/* Does an operation now, on this thread. */
int64_t disk_io_file_work(int fd, struct disk_io_op *op);
/* Counts it as ended and calls its done. */
void disk_io_finish(struct disk_io *io, struct disk_io_op *op, int64_t result);

#endif
