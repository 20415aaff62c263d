#include "cli/leftover.h"

#include <jansson.h>
#include <signal.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/place.h"
#include "cli/progress.h"
#include "cli/roster.h"

#define POLL_MS       50u
#define KILL_GRACE_MS 2000u

struct leftover {
    pid_t pid;
    uint64_t start_ticks;
};

struct leftovers {
    struct leftover items[ROSTER_MAX + 1];
    size_t n;
};

static void note(struct leftovers *l, const json_t *member)
{
    struct leftover one = { (pid_t)json_number(member, "pid"), (uint64_t)json_number(member, "start_ticks") };
    if (l->n < sizeof l->items / sizeof l->items[0] && process_is_alive(one.pid, one.start_ticks))
        l->items[l->n++] = one;
}

static void read_state(const char *path, struct leftovers *l)
{
    size_t i;
    json_t *member, *root = json_load_file(path, 0, NULL);
    json_array_foreach(json_object_get(root, "workers"), i, member)
    {
        note(l, member);
    }
    note(l, json_object_get(root, "etcd"));
    json_decref(root);
}

static bool any_alive(const struct leftovers *l)
{
    for (size_t i = 0; i < l->n; i++)
        if (process_is_alive(l->items[i].pid, l->items[i].start_ticks))
            return true;
    return false;
}

static void kill_all(const struct leftovers *l)
{
    for (size_t i = 0; i < l->n; i++)
        if (process_is_alive(l->items[i].pid, l->items[i].start_ticks))
            kill(l->items[i].pid, SIGKILL);
}

static void wait_for(const struct leftovers *l, unsigned timeout_ms)
{
    struct progress progress = { 0 };
    progress_step(&progress, "waiting for processes of an earlier run to end");
    for (unsigned waited = 0; waited < timeout_ms && any_alive(l); waited += POLL_MS) {
        for (size_t i = 0; i < l->n; i++)
            process_wake(l->items[i].pid); /* a stopped process has not seen its SIGTERM */
        sleep_ms(POLL_MS);
        progress_tick(&progress);
    }
}

unsigned leftovers_end(const struct state_dir *dir, unsigned timeout_ms)
{
    char path[STATE_PATH_MAX_BYTES];
    struct leftovers l = { .n = 0 };
    read_state(state_dir_path(dir, "state.json", path), &l);
    wait_for(&l, timeout_ms);
    kill_all(&l);
    wait_for(&l, KILL_GRACE_MS);
    unlink(path);
    return (unsigned)l.n;
}
