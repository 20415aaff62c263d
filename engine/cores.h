/* cores.h - processors for the threads of one team, that no other team of this machine has.
 * A claim is an abstract Unix socket named after the processor: the kernel drops it with the process, however that
 * ends, and it holds between clusters and between workers that systemd starts (within one network namespace). */
#ifndef BATON_ENGINE_CORES_H
#define BATON_ENGINE_CORES_H

#include <stdbool.h>
#include <stdint.h>

#define CORES_MAX 1024u /* processors that are looked at */

struct cores {
    uint32_t n;           /* 0: none are claimed */
    uint32_t *processors; /* the system's numbers */
    int *claims;
};

/* n processors among those that affinity and cgroup cpusets allow: one thread of each physical core in the machine's
 * order, then the second threads. False, with none, when there are not so many that are free: then threads are better
 * left to the kernel. Takes milliseconds (hwloc). */
bool cores_claim(uint32_t n, struct cores *out);
void cores_release(struct cores *cores);

/* The order alone. Room for CORES_MAX; returns how many, 0 when the machine cannot be read. */
uint32_t cores_list(uint32_t out[]);

#endif
