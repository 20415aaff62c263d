#include "proto/link_thread.h"

#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_named(const char *task, const char *name)
{
    char path[64], comm[32] = "";
    (void)snprintf(path, sizeof path, "/proc/self/task/%.20s/comm", task);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool read = fgets(comm, sizeof comm, file) != NULL;
    (void)fclose(file);
    comm[strcspn(comm, "\n")] = '\0';
    return read && strcmp(comm, name) == 0;
}

/* ZeroMQ has a setting for the policy at birth, but does not tell the thread's id. */
static pid_t find(void)
{
    const struct dirent *task;
    pid_t found = 0;
    DIR *tasks = opendir("/proc/self/task");
    if (!tasks)
        return 0;
    while (!found && (task = readdir(tasks)))
        if (is_named(task->d_name, "ZMQbg/IO/0"))
            found = (pid_t)strtol(task->d_name, NULL, 10);
    (void)closedir(tasks);
    return found;
}

void link_thread_on_poll(void *arg, bool pays)
{
    struct link_thread *thread = arg;
    if (!thread->searched)
        thread->id = find();
    thread->searched = true;
    if (thread->id)
        (void)sched_setscheduler(thread->id, pays ? SCHED_BATCH : SCHED_OTHER, &(struct sched_param){ 0 });
}
