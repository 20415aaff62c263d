#include "bench/process_probe.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t nanoseconds(clockid_t clock)
{
    struct timespec t;
    if (clock_gettime(clock, &t) != 0)
        return 0;
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Adds a schedstat file: nanoseconds run, nanoseconds waited, turns. */
static void add_schedstat(const char *path, struct process_probe *out)
{
    uint64_t run, waited, turns;
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    if (fscanf(file, "%" SCNu64 " %" SCNu64 " %" SCNu64, &run, &waited, &turns) == 3) {
        out->runqueue_ns += waited;
        out->wakeups += turns;
    }
    (void)fclose(file);
}

static void add_threads(pid_t pid, struct process_probe *out)
{
    char path[320];
    (void)snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        return;
    for (const struct dirent *entry; (entry = readdir(tasks));) {
        if (entry->d_name[0] == '.')
            continue;
        (void)snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", (int)pid, entry->d_name);
        add_schedstat(path, out);
    }
    (void)closedir(tasks);
}

static uint64_t resident(pid_t pid)
{
    char path[64];
    uint64_t total, pages = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%" SCNu64 " %" SCNu64, &total, &pages) != 2)
        pages = 0;
    (void)fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

status process_probe_read(pid_t pid, struct process_probe *out, struct error *err)
{
    struct process_probe probe = { 0 };
    clockid_t clock;
    if (clock_getcpuclockid(pid, &clock) != 0 || (probe.cpu_ns = nanoseconds(clock)) == 0)
        return error_set(err, ST_NOT_FOUND, "process %d is gone", (int)pid);
    add_threads(pid, &probe);
    probe.rss_bytes = resident(pid);
    *out = probe;
    return ST_OK;
}

void process_probe_thread(struct process_probe *out)
{
    *out = (struct process_probe){ .cpu_ns = nanoseconds(CLOCK_THREAD_CPUTIME_ID) };
    add_schedstat("/proc/thread-self/schedstat", out);
}

uint64_t process_probe_steal_us(int processor)
{
    char line[512], name[32];
    uint64_t field[8], found = UINT64_MAX;
    FILE *file = fopen("/proc/stat", "re");
    if (!file)
        return UINT64_MAX;
    (void)snprintf(name, sizeof name, "cpu%d ", processor);
    while (found == UINT64_MAX && fgets(line, sizeof line, file)) {
        if (strncmp(line, name, strlen(name)) != 0)
            continue;
        char *at = line + strlen(name);
        for (size_t i = 0; i < 8; i++)
            field[i] = strtoull(at, &at, 10);
        found = field[7] * (1000000u / (uint64_t)sysconf(_SC_CLK_TCK));
    }
    (void)fclose(file);
    return found;
}
