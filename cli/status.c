/* baton status - what runs, in which state, and how loaded it is. */
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/http_client.h"
#include "cli/metrics_text.h"
#include "cli/place.h"

#define SCRAPE_TIMEOUT_MS 500
#define SCRAPE_MAX_BYTES  ((size_t)4 << 20)

#define READYZ_MAX_BYTES 4096u

/* Key in --json, and the series in /metrics of a worker or of the KV block manager. */
static const struct figure {
    const char *key, *series;
    bool whole; /* a number without a fraction */
} figures[] = {
    { "requests", "baton_worker_requests", true },
    { "running", "baton_worker_running_sequences", true },
    { "queued_tokens", "baton_worker_queued_tokens", true },
    { "kv_used", "baton_worker_kv_used_ratio", false },
    { "kv_used", "baton_kvbm_host_used_ratio", false },
    { "resident_bytes", "process_resident_memory_bytes", true },
    { "cpu_seconds", "process_cpu_seconds_total", false },
};

/* The supervisor knows that a process runs; whether it can work is for the process to say. */
static void set_not_ready(json_t *object)
{
    if (!strcmp(json_text(object, "state"), "ready"))
        json_object_set_new(object, "state", json_string("not ready"));
}

static void read_figures(json_t *member, const char *page)
{
    double value;
    for (size_t i = 0; i < COUNT_OF(figures); i++)
        if (metrics_text_value(page, figures[i].series, &value))
            json_object_set_new(member, figures[i].key,
                                figures[i].whole ? json_integer((json_int_t)value) : json_real(value));
    if (metrics_text_value(page, "baton_ready", &value) && value == 0)
        set_not_ready(member);
}

/* Adds "answers" and the figures that its admin port gives. */
static void scrape(json_t *member)
{
    char url[64];
    long code = 0;
    struct text_buffer page;
    struct error err;
    long long port = json_number(json_object_get(member, "ports"), "admin");
    if (!port || !json_number(member, "pid"))
        return;
    text_buffer_init(&page, SCRAPE_MAX_BYTES);
    snprintf(url, sizeof url, "http://127.0.0.1:%lld/metrics", port);
    bool answers = http_fetch(url, NULL, SCRAPE_TIMEOUT_MS, &code, &page, &err) == ST_OK && code == 200;
    json_object_set_new(member, "answers", json_boolean(answers));
    if (answers)
        read_figures(member, text_buffer_text(&page));
    text_buffer_free(&page);
}

/* A cluster is ready when its router says so. Adds "reason" when it does not. */
static void ask_router(json_t *state)
{
    char url[96];
    long code = 0;
    struct text_buffer page;
    struct error err = { "" };
    if (strcmp(json_text(state, "state"), "ready") != 0)
        return;
    text_buffer_init(&page, READYZ_MAX_BYTES);
    snprintf(url, sizeof url, "%s/readyz", json_text(state, "url"));
    status st = http_fetch(url, NULL, SCRAPE_TIMEOUT_MS, &code, &page, &err);
    if (st != ST_OK || code != 200) {
        const char *why = st == ST_OK ? text_buffer_text(&page) : err.text;
        set_not_ready(state);
        json_object_set_new(state, "reason", json_stringn(why, strcspn(why, "\n")));
    }
    text_buffer_free(&page);
}

static void print_json(const json_t *state)
{
    json_dumpf(state, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
}

static void print_figure(const json_t *member, const char *key, double scale, const char *unit)
{
    const json_t *value = json_object_get(member, key);
    char text[32] = "-";
    if (value)
        snprintf(text, sizeof text, "%.0f%s", json_number_value(value) * scale, unit);
    printf(" %8s", text);
}

static void print_member(const json_t *member)
{
    bool mute = json_is_false(json_object_get(member, "answers"));
    printf("%-12s %8lld  %-10s %-24.24s %7llds %8lld", json_text(member, "id"), json_number(member, "pid"),
           mute ? "no answer" : json_text(member, "state"), json_text(member, "model"), json_number(member, "uptime_s"),
           json_number(member, "restarts"));
    print_figure(member, "running", 1, "");
    print_figure(member, "queued_tokens", 1, "");
    print_figure(member, "kv_used", 100, "%");
    print_figure(member, "resident_bytes", 1.0 / 1048576, " MiB");
    putchar('\n');
}

static void print_weights(const json_t *held)
{
    size_t i;
    json_t *user;
    printf("packed weights %s  %.1f MiB  %s pages  %s, used by", json_text(held, "key"),
           (double)json_number(held, "bytes") / 1048576, json_text(held, "pages"), json_text(held, "state"));
    json_array_foreach(json_object_get(held, "users"), i, user)
    {
        printf(" %s", json_string_value(user));
    }
    puts(json_array_size(json_object_get(held, "users")) ? "" : " nobody");
}

static void print_table(const json_t *state)
{
    size_t i;
    json_t *member;
    const char *reason = json_text(state, "reason");
    printf("%s  %s  (%s)\n", json_text(state, "state"), json_text(state, "url"), json_text(state, "state_dir"));
    if (reason[0])
        printf("the router says: %s\n", reason);
    printf("%-12s %8s  %-10s %-24s %8s %8s %8s %8s %8s %8s\n", "ID", "PID", "STATE", "MODEL", "UPTIME", "RESTARTS",
           "RUNNING", "QUEUED", "KV", "MEMORY");
    json_array_foreach(json_object_get(state, "workers"), i, member)
    {
        print_member(member);
    }
    if (json_object_get(state, "etcd"))
        print_member(json_object_get(state, "etcd"));
    json_array_foreach(json_object_get(state, "weights"), i, member)
    {
        print_weights(member);
    }
}

static int run(const struct command *self, int argc, char **argv)
{
    struct place place = { NULL, NULL };
    struct state_dir dir;
    struct error err;
    bool as_json = false;
    json_t *state, *member;
    size_t i;
    int code;
    const struct option_row rows[] = {
        PLACE_ROWS(&place),
        { "json", 0, OPTION_FLAG, &as_json, "", "One JSON object", 0, 0 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    if (place_find(&place, &dir, &err) != ST_OK)
        return command_misuse(self, "%s", err.text);
    status st = place_status(&dir, &state, &err);
    if (st == ST_NOT_FOUND && as_json)
        printf("{\"ok\":false,\"state\":\"down\",\"workers\":[]}\n");
    if (st != ST_OK)
        return command_failed(self, "%s", err.text);
    json_array_foreach(json_object_get(state, "workers"), i, member)
    {
        scrape(member);
    }
    ask_router(state);
    if (as_json)
        print_json(state);
    else
        print_table(state);
    json_decref(state);
    return EXIT_DONE;
}

const struct command command_status = { "status", "", "Say what runs and how loaded it is", run };
