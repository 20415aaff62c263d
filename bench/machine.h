/* machine.h - what a figure was measured on. Any thread. */
#ifndef BATON_BENCH_MACHINE_H
#define BATON_BENCH_MACHINE_H

#include <stdint.h>

struct machine {
    char cpu[128];  /* "unknown" where the kernel does not say */
    uint32_t cores; /* that this process may use */
    uint64_t memory_bytes;
    char kernel[192]; /* "Linux 6.1.0-18-amd64 x86_64" */
};

void machine_read(struct machine *out);

#endif
