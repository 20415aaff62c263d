/* baton scale, baton drain - more or fewer processes of a running cluster. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cluster_options.h"
#include "cli/command.h"
#include "cli/control.h"
#include "cli/place.h"
#include "cli/progress.h"
#include "cli/supervisor.h"
#include "common/clock.h"

#define POLL_MS  100
#define MARGIN_S 10

/* Those that still change, of one role or of one id. */
static unsigned still_changing(const json_t *state, const char *role, const char *id, char *out, size_t size)
{
    size_t i;
    unsigned count = 0;
    json_t *member;
    int n = snprintf(out, size, "waiting for");
    json_array_foreach(json_object_get(state, "workers"), i, member)
    {
        bool is_meant = id ? !strcmp(json_text(member, "id"), id) : !strcmp(json_text(member, "role"), role);
        if (!is_meant || (!id && !strcmp(json_text(member, "state"), "ready")))
            continue;
        count++;
        if (n > 0 && (size_t)n < size)
            n += snprintf(out + n, size - (size_t)n, " %s (%s)", json_text(member, "id"), json_text(member, "state"));
    }
    return count;
}

static int wait_until_settled(const struct command *self, const struct state_dir *dir, const char *role, const char *id,
                              int64_t timeout_s)
{
    uint64_t until = clock_now_us() + (uint64_t)(timeout_s + MARGIN_S) * 1000000;
    struct progress progress = { 0 };
    struct error err;
    char step[256];
    for (;;) {
        json_t *state;
        if (place_status(dir, &state, &err) != ST_OK)
            return command_failed(self, "%s", err.text);
        unsigned n = still_changing(state, role, id, step, sizeof step);
        json_decref(state);
        if (n == 0)
            return EXIT_DONE;
        if (clock_now_us() > until)
            return command_failed(self, "%s for more than %d s", step, (int)timeout_s);
        progress_step(&progress, step);
        sleep_ms(POLL_MS);
        progress_tick(&progress);
    }
}

struct target {
    char role[16];
    long n;
    unsigned before; /* processes of the role, of all models, when scale began */
};

static unsigned count_role(const json_t *state, const char *role)
{
    size_t i;
    unsigned count = 0;
    json_t *member;
    json_array_foreach(json_object_get(state, "workers"), i, member) count += !strcmp(json_text(member, "role"), role);
    return count;
}

static bool read_target(const char *role, int role_len, const char *number, struct target *out)
{
    char *end;
    uint32_t least;
    snprintf(out->role, sizeof out->role, "%.*s", role_len, role);
    errno = 0;
    out->n = strtol(number, &end, 10);
    return *number && !*end && !errno && out->n >= 0 && role_len < (int)sizeof out->role &&
           role_most(role_parse(out->role), &least) > 0;
}

/* ROLE=N of each role at most once, or one ROLE N. How many; 0 when it is none of that. */
static size_t read_targets(const struct arguments *a, struct target targets[ROLE_COUNT])
{
    if (a->n == 2 && !strchr(a->items[0], '='))
        return read_target(a->items[0], (int)strlen(a->items[0]), a->items[1], &targets[0]);
    for (size_t i = 0; i < a->n; i++) {
        const char *equals = strchr(a->items[i], '=');
        if (!equals || i == ROLE_COUNT ||
            !read_target(a->items[i], (int)(equals - a->items[i]), equals + 1, &targets[i]))
            return 0;
        for (size_t k = 0; k < i; k++)
            if (!strcmp(targets[k].role, targets[i].role))
                return 0;
    }
    return a->n;
}

static status ask_for(const struct state_dir *dir, const struct target *target, int64_t timeout_s, struct error *err)
{
    char request[160];
    snprintf(request, sizeof request, "{\"op\":\"scale\",\"role\":\"%.15s\",\"n\":%ld,\"timeout_s\":%d}", target->role,
             target->n, (int)timeout_s);
    return control_call(dir, request, NULL, err);
}

static status count_before(const struct state_dir *dir, struct target *targets, size_t n, struct error *err)
{
    json_t *state;
    status st = place_status(dir, &state, err);
    if (st != ST_OK)
        return st;
    for (size_t i = 0; i < n; i++)
        targets[i].before = count_role(state, targets[i].role);
    json_decref(state);
    return ST_OK;
}

static int say_counts(const struct command *self, const struct state_dir *dir, const struct target *targets, size_t n)
{
    struct error err;
    json_t *state;
    if (place_status(dir, &state, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    for (size_t i = 0; i < n; i++)
        printf("%s: %u running (before: %u)\n", targets[i].role, count_role(state, targets[i].role), targets[i].before);
    json_decref(state);
    return EXIT_DONE;
}

static int run_scale(const struct command *self, int argc, char **argv)
{
    struct place place = { NULL, NULL };
    struct state_dir dir;
    struct arguments arguments;
    struct error err;
    int64_t timeout = DRAIN_TIMEOUT_S;
    struct target targets[ROLE_COUNT];
    int code;
    const struct option_row rows[] = {
        PLACE_ROWS(&place),
        { "timeout", 0, OPTION_INT, &timeout, "SECONDS", "After this long what still drains is killed (90)", 0, 86400 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), &arguments, &code))
        return code;
    size_t n_targets = read_targets(&arguments, targets);
    if (n_targets == 0)
        return command_misuse(self, "it takes ROLE=N, each role once: router or kvbm, and how many; prefill or decode, "
                                    "and how many of each model");
    if (place_find(&place, &dir, &err) != ST_OK)
        return command_misuse(self, "%s", err.text);
    if (count_before(&dir, targets, n_targets, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    for (size_t i = 0; i < n_targets; i++)
        if (ask_for(&dir, &targets[i], timeout, &err) != ST_OK)
            return command_failed(self, "%s=%ld: %s", targets[i].role, targets[i].n, err.text);
    for (size_t i = 0; i < n_targets; i++)
        if ((code = wait_until_settled(self, &dir, targets[i].role, NULL, timeout)) != EXIT_DONE)
            return code;
    return say_counts(self, &dir, targets, n_targets);
}

static bool is_id(const char *text)
{
    size_t len = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-");
    return len > 0 && len < 40 && !text[len];
}

static int run_drain(const struct command *self, int argc, char **argv)
{
    struct place place = { NULL, NULL };
    struct state_dir dir;
    struct arguments arguments;
    struct error err;
    int64_t timeout = DRAIN_TIMEOUT_S;
    char request[160];
    int code;
    const struct option_row rows[] = {
        PLACE_ROWS(&place),
        { "timeout", 0, OPTION_INT, &timeout, "SECONDS", "After this long it is killed (90)", 0, 86400 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), &arguments, &code))
        return code;
    if (arguments.n != 1 || !is_id(arguments.items[0]))
        return command_misuse(self, "it takes the id of one process, as in decode-0");
    if (place_find(&place, &dir, &err) != ST_OK)
        return command_misuse(self, "%s", err.text);
    snprintf(request, sizeof request, "{\"op\":\"drain\",\"id\":\"%s\",\"timeout_s\":%d}", arguments.items[0],
             (int)timeout);
    if (control_call(&dir, request, NULL, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    code = wait_until_settled(self, &dir, NULL, arguments.items[0], timeout);
    if (code == EXIT_DONE)
        printf("%s has ended\n", arguments.items[0]);
    return code;
}

const struct command command_scale = { "scale", "ROLE=N...", "Run N processes of a role (of each model)", run_scale };
const struct command command_drain = { "drain", "ID", "Let one process finish its work and leave", run_drain };
