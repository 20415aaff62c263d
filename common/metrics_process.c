/* What the system says of this process. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "common/metrics_internal.h"

enum process_metric {
#define METRIC METRIC_ID
#include "common/metrics_process.def"
#undef METRIC
};

static const struct metric_row rows[] = {
#define METRIC METRIC_ROW
#include "common/metrics_process.def"
#undef METRIC
};

const struct metric_table metrics_process_table = METRIC_TABLE(rows);

static double cpu_seconds(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)r.ru_utime.tv_sec + (double)r.ru_stime.tv_sec +
           (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static double resident_bytes(void)
{
    unsigned long total, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return 0;
    if (fscanf(f, "%lu %lu", &total, &resident) != 2)
        resident = 0;
    fclose(f);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static double open_fds(void)
{
    double n = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return 0;
    for (struct dirent *e; (e = readdir(dir));)
        n += e->d_name[0] != '.';
    closedir(dir);
    return n - 1; /* without the one of this look */
}

static struct metric *series(struct metrics *metrics, enum process_metric id)
{
    return metrics_series(metrics, &metrics_process_table, id, NULL);
}

static void collect(void *arg)
{
    struct metrics *metrics = arg;
    metric_set(series(metrics, PROCESS_CPU), cpu_seconds());
    metric_set(series(metrics, PROCESS_RESIDENT), resident_bytes());
    metric_set(series(metrics, PROCESS_FDS), open_fds());
}

/* The wall clock less the time since the start, which /proc gives in ticks since the boot. */
static double start_seconds(void)
{
    char text[1024];
    unsigned long long ticks = 0;
    struct timespec boot, wall;
    FILE *f = fopen("/proc/self/stat", "re");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
        fclose(f);
    text[n] = '\0';
    /* The second field is a name in brackets, which may hold spaces and brackets. */
    char *p = strrchr(text, ')');
    if (!p ||
        sscanf(p + 1, " %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", &ticks) != 1)
        return 0;
    clock_gettime(CLOCK_BOOTTIME, &boot);
    clock_gettime(CLOCK_REALTIME, &wall);
    double age = (double)boot.tv_sec + (double)boot.tv_nsec / 1e9 - (double)ticks / (double)sysconf(_SC_CLK_TCK);
    return (double)wall.tv_sec + (double)wall.tv_nsec / 1e9 - age;
}

void metrics_process_start(struct metrics *metrics, const char *role)
{
    const char *const labels[] = { BATON_VERSION, role };
    metric_set(metrics_series(metrics, &metrics_process_table, BUILD_INFO, labels), 1);
    metric_set(series(metrics, PROCESS_START), start_seconds());
    metrics_on_render(metrics, collect, metrics);
}
