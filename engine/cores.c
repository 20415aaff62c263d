#include "engine/cores.h"

#include <hwloc.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Only what is asked below: caches and devices would cost most of the time. */
static bool load(hwloc_topology_t *out)
{
    if (hwloc_topology_init(out) != 0)
        return false;
    hwloc_topology_set_all_types_filter(*out, HWLOC_TYPE_FILTER_KEEP_NONE);
    hwloc_topology_set_type_filter(*out, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
    if (hwloc_topology_load(*out) == 0)
        return true;
    hwloc_topology_destroy(*out);
    return false;
}

/* The core's usable processor number nth, from 0; -1 when it has fewer. */
static int nth_processor(hwloc_obj_t core, const cpu_set_t *usable, uint32_t nth)
{
    for (int cpu = hwloc_bitmap_first(core->cpuset); cpu >= 0; cpu = hwloc_bitmap_next(core->cpuset, cpu))
        if (cpu < CPU_SETSIZE && CPU_ISSET((size_t)cpu, usable) && nth-- == 0)
            return cpu;
    return -1;
}

uint32_t cores_list(uint32_t out[])
{
    cpu_set_t usable;
    hwloc_topology_t topology;
    uint32_t n = 0, before;
    if (sched_getaffinity(0, sizeof usable, &usable) != 0 || !load(&topology))
        return 0;
    int n_cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
    uint32_t nth = 0;
    do {
        before = n;
        for (int i = 0; i < n_cores && n < CORES_MAX; i++) {
            int cpu = nth_processor(hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE, (unsigned)i), &usable, nth);
            if (cpu >= 0)
                out[n++] = (uint32_t)cpu;
        }
        nth++;
    } while (n > before && n < CORES_MAX);
    hwloc_topology_destroy(topology);
    return n;
}

/* -1: somebody else has it. */
static int claim(uint32_t processor)
{
    struct sockaddr_un name = { .sun_family = AF_UNIX };
    int len = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "baton-core-%u", processor);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&name, bytes) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static bool enough_usable(uint32_t n)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 && (uint32_t)CPU_COUNT(&set) >= n;
}

bool cores_claim(uint32_t n, struct cores *out)
{
    *out = (struct cores){ 0, NULL, NULL };
    if (n == 0 || !enough_usable(n))
        return false;
    uint32_t all[CORES_MAX], n_all = cores_list(all);
    struct cores cores = { 0, calloc(n, sizeof *cores.processors), calloc(n, sizeof *cores.claims) };
    for (uint32_t i = 0; i < n_all && cores.n < n && cores.processors && cores.claims; i++) {
        int fd = claim(all[i]);
        if (fd < 0)
            continue;
        cores.processors[cores.n] = all[i];
        cores.claims[cores.n++] = fd;
    }
    *out = cores;
    if (cores.n == n)
        return true;
    cores_release(out);
    return false;
}

void cores_release(struct cores *cores)
{
    for (uint32_t i = 0; i < cores->n; i++)
        close(cores->claims[i]);
    free(cores->processors);
    free(cores->claims);
    *cores = (struct cores){ 0, NULL, NULL };
}
