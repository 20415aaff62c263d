/* companion.h - a program that a benchmark starts beside itself, bound to one processor. It dies with its
 * parent, also when that is killed. The starting thread must be the process's first. */
#ifndef BATON_BENCH_COMPANION_H
#define BATON_BENCH_COMPANION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "common/status.h"

struct companion {
    const char *name; /* for messages; borrowed */
    pid_t pid;        /* 0: not running */
    int ready_fd;     /* where it writes its ready line (common/daemon.h), -1 without; ours to close */
    int wait_status;  /* once it has ended */
    char log[256];    /* path of the file that takes its output */
};

/* argv[0] is looked for in PATH; a program that cannot be run shows as one that ends with code 127. */
MUST_CHECK status companion_start(struct companion *companion, char *const argv[], const char *log, int processor,
                                  bool tells_ready, struct error *err);
/* True once it has ended: collects it. */
bool companion_has_ended(struct companion *companion);
/* SIGTERM, then after grace_us SIGKILL; waits for the end. usage (may be NULL) is what it used; zero when it had
 * ended before. Nothing happens to a child that is not running. */
void companion_stop(struct companion *companion, uint64_t grace_us, struct rusage *usage);
/* "baton-router ended with code 1: last line of its output". */
void companion_describe_end(const struct companion *companion, struct error *out);

#endif
