#include "bench/machine.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/text_buffer.h"

static void read_cpu(char *out, size_t size)
{
    char line[512];
    FILE *file = fopen("/proc/cpuinfo", "re");
    text_copy(out, size, "unknown");
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        line[strcspn(line, "\n")] = '\0';
        text_copy(out, size, colon[1] == ' ' ? colon + 2 : colon + 1);
        break;
    }
    if (file)
        (void)fclose(file);
}

void machine_read(struct machine *out)
{
    cpu_set_t set;
    struct utsname name;
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    *out = (struct machine){ .cores = 1 };
    read_cpu(out->cpu, sizeof out->cpu);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        out->cores = (uint32_t)CPU_COUNT(&set);
    if (pages > 0 && page > 0)
        out->memory_bytes = (uint64_t)pages * (uint64_t)page;
    if (uname(&name) == 0)
        (void)snprintf(out->kernel, sizeof out->kernel, "%.50s %.80s %.50s", name.sysname, name.release, name.machine);
}
