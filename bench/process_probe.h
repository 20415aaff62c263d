/* process_probe.h - what the kernel knows of a process's use of the processor: the
 * figures that tell a slow program from a slow machine. Any thread. */
#ifndef BATON_BENCH_PROCESS_PROBE_H
#define BATON_BENCH_PROCESS_PROBE_H

#include <stdint.h>
#include <sys/types.h>

#include "common/status.h"

/* Totals since the process (or thread) began, all its living threads together. */
struct process_probe {
    uint64_t cpu_ns;      /* user and system time, exact (not in ticks) */
    uint64_t runqueue_ns; /* ready to run, and waiting for a processor; 0 where the kernel does not say */
    uint64_t wakeups;     /* times that it got a processor */
    uint64_t rss_bytes;   /* resident now */
};

/* ST_NOT_FOUND: there is no such process (any more). */
MUST_CHECK status process_probe_read(pid_t pid, struct process_probe *out, struct error *err);
/* The calling thread; rss_bytes stays 0. */
void process_probe_thread(struct process_probe *out);
/* Time that the hypervisor gave to others while this processor wanted to run; UINT64_MAX where /proc/stat
 * does not say. In ticks of 10 ms. */
uint64_t process_probe_steal_us(int processor);

#endif
