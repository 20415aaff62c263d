#include "common/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PLACE_BYTES 96 /* "BOOT/NAMESPACE/" */

static ssize_t read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    return n;
}

/* State and start time stand behind the name, which may hold anything, in parentheses. */
static bool read_stat(pid_t pid, char *state, uint64_t *start)
{
    char path[32], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (read_text(path, text, sizeof text) <= 0)
        return false;
    char *p = strrchr(text, ')');
    if (!p || p[1] != ' ' || !p[2])
        return false;
    *state = p[2];
    p += 2;
    for (int field = 3; field < 22 && p; field++) {
        p = strchr(p, ' ');
        p = p ? p + 1 : NULL;
    }
    if (!p)
        return false;
    *start = strtoull(p, NULL, 10);
    return true;
}

uint64_t process_start_ticks(pid_t pid)
{
    char state;
    uint64_t start = 0;
    return pid > 0 && read_stat(pid, &state, &start) ? start : 0;
}

bool process_is_alive(pid_t pid, uint64_t start_ticks)
{
    char state;
    uint64_t start;
    return pid > 0 && read_stat(pid, &state, &start) && start == start_ticks && state != 'Z' && state != 'X';
}

bool process_is_stopped(pid_t pid)
{
    char state;
    uint64_t start;
    return read_stat(pid, &state, &start) && state == 'T';
}

/* Where this process's pids count; false where /proc does not say. */
static bool read_place(char place[PLACE_BYTES])
{
    char boot[48], space[40];
    ssize_t n = readlink("/proc/self/ns/pid", space, sizeof space - 1);
    if (n <= 0 || read_text("/proc/sys/kernel/random/boot_id", boot, sizeof boot) <= 0)
        return false;
    space[n] = '\0';
    boot[strcspn(boot, "\n")] = '\0';
    snprintf(place, PLACE_BYTES, "%s/%s/", boot, space);
    return true;
}

const char *process_name(char buf[PROCESS_NAME_BYTES])
{
    char place[PLACE_BYTES];
    uint64_t start = process_start_ticks(getpid());
    buf[0] = '\0';
    if (start && read_place(place))
        snprintf(buf, PROCESS_NAME_BYTES, "%.90s%d/%" PRIu64, place, (int)getpid(), start);
    return buf;
}

enum process_life process_life(const char *name)
{
    char place[PLACE_BYTES], more;
    int pid;
    uint64_t start;
    if (!read_place(place) || strncmp(name, place, strlen(place)) != 0 ||
        sscanf(name + strlen(place), "%d/%" SCNu64 "%c", &pid, &start, &more) != 2 || pid <= 0)
        return PROCESS_ELSEWHERE;
    if (process_is_alive(pid, start))
        return PROCESS_LIVES;
    /* /proc may hide what other users run. */
    bool hidden = process_start_ticks(pid) == 0 && (kill(pid, 0) == 0 || errno == EPERM);
    return hidden ? PROCESS_LIVES : PROCESS_ENDED;
}
