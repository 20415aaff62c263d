/* baton down - stops a local cluster; nothing of it is left running. */
#include <stdio.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/control.h"
#include "cli/leftover.h"
#include "cli/place.h"
#include "cli/progress.h"
#include "cli/supervisor.h"
#include "common/clock.h"

#define POLL_MS     50
#define MARGIN_S    20 /* beyond the supervisor's own patience */
#define LEFTOVER_MS 10000u

/* "stopping: decode-0 prefill-1" */
static void describe(const json_t *state, char *out, size_t size)
{
    size_t i;
    json_t *member;
    int n = snprintf(out, size, "stopping:");
    json_array_foreach(json_object_get(state, "workers"), i, member)
    {
        if (json_number(member, "pid") && n > 0 && (size_t)n < size)
            n += snprintf(out + n, size - (size_t)n, " %s", json_text(member, "id"));
    }
}

static int wait_until_stopped(const struct command *self, const struct state_dir *dir, int64_t timeout_s)
{
    uint64_t until = clock_now_us() + (uint64_t)(timeout_s + MARGIN_S) * 1000000;
    struct progress progress = { 0 };
    char step[256] = "stopping";
    int lock_fd;
    struct error err;
    for (;;) {
        progress_step(&progress, step);
        status st = state_dir_lock(dir, &lock_fd, &err);
        if (st == ST_OK) {
            close(lock_fd);
            return EXIT_DONE;
        }
        if (st != ST_AGAIN)
            return command_failed(self, "%s", err.text);
        if (clock_now_us() > until)
            return command_failed(self, "the supervisor of %s does not end", dir->path);
        json_t *state;
        if (place_status(dir, &state, &err) == ST_OK) {
            describe(state, step, sizeof step);
            json_decref(state);
        }
        sleep_ms(POLL_MS);
        progress_tick(&progress);
    }
}

/* No supervisor: there may be traces of one that was killed. */
static int clean_dead(const struct command *self, const struct state_dir *dir)
{
    struct error err;
    int lock_fd;
    status st = state_dir_lock(dir, &lock_fd, &err);
    if (st == ST_AGAIN)
        return command_failed(self, "a supervisor holds %s but does not listen; try again", dir->path);
    unsigned n = 0;
    if (st == ST_OK) {
        n = leftovers_end(dir, LEFTOVER_MS);
        close(lock_fd);
    }
    if (n > 0)
        fprintf(stderr, "the supervisor was dead; %u left-over processes have ended\n", n);
    else
        fprintf(stderr, "no cluster runs in %s\n", dir->path);
    return EXIT_DONE;
}

static int run(const struct command *self, int argc, char **argv)
{
    struct place place = { NULL, NULL };
    struct state_dir dir;
    struct error err;
    int64_t timeout = STOP_TIMEOUT_S;
    char request[64];
    int code;
    const struct option_row rows[] = {
        PLACE_ROWS(&place),
        { "timeout", 0, OPTION_INT, &timeout, "SECONDS", "After this long what still runs is killed (30)", 0, 86400 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    if (place_find(&place, &dir, &err) != ST_OK)
        return command_misuse(self, "%s", err.text);
    snprintf(request, sizeof request, "{\"op\":\"down\",\"timeout_s\":%d}", (int)timeout);
    status st = control_call(&dir, request, NULL, &err);
    if (st == ST_NOT_FOUND)
        return clean_dead(self, &dir);
    /* An answer that was cut off by the supervisor's end is as good as one. */
    if (st != ST_OK && st != ST_TIMEOUT)
        return command_failed(self, "%s", err.text);
    code = wait_until_stopped(self, &dir, timeout);
    if (code == EXIT_DONE)
        fprintf(stderr, "stopped\n");
    return code;
}

const struct command command_down = { "down", "", "Stop a local cluster", run };
