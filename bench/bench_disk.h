/* bench_disk.h - the disk tier of KV (kvbm/disk_tier.h) beside plain sequential pwrite and pread of the same sizes,
 * past the page cache where the tier is, in the same folder and in turns. Blocking; one thread. */
#ifndef BATON_BENCH_BENCH_DISK_H
#define BATON_BENCH_BENCH_DISK_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

#define BENCH_DISK_MIN_BLOCK 4096u
#define BENCH_DISK_MAX_BLOCK (16u << 20)
#define BENCH_DISK_MAX_TOTAL (UINT64_C(1) << 40)
#define BENCH_DISK_MAX_DEPTH 128u

struct bench_disk_options {
    const char *folder;                /* a folder of its own is made in it, and is gone afterwards */
    uint32_t block_bytes;              /* payload of a block */
    uint64_t total_bytes;              /* of all payloads */
    double seconds;                    /* of reading at random */
    uint32_t depth;                    /* operations on their way */
    const volatile sig_atomic_t *stop; /* once set: ST_CANCELLED */
};

struct bench_disk_result {
    const char *io; /* how the tier reads and writes */
    bool direct;
    uint64_t blocks, extent_bytes;  /* what a block takes on disk; the plain reads and writes are of so many, too */
    double plain_write, plain_read; /* bytes of payload a second */
    double put, get;                /* likewise, in order */
    double random_gets;             /* a second */
    double rebuild_s;               /* of the index, when the tier is opened again */
    double rebuild_s_per_100_gb;    /* of payload, by that */
};

/* ST_IO also when a block came back wrong or not at all. */
MUST_CHECK status bench_disk(const struct bench_disk_options *options, struct bench_disk_result *out,
                             struct error *err);

#endif
