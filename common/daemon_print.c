/* What a daemon prints instead of running, and the line that says it runs. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/daemon_internal.h"
#include "common/json_writer.h"
#include "common/log.h"

#define MAX_PAGE_BYTES ((size_t)1 << 20)

enum action { ACTION_HELP, ACTION_VERSION, ACTION_CONFIG_DOC, ACTION_METRICS_DOC, ACTION_PRINT_CONFIG };
const char *const daemon_actions[] = {
    [ACTION_HELP] = "help",
    [ACTION_VERSION] = "version",
    [ACTION_CONFIG_DOC] = "write-config-doc",
    [ACTION_METRICS_DOC] = "write-metrics-doc",
    [ACTION_PRINT_CONFIG] = "print-config",
    NULL,
};

static void write_help(const struct daemon_spec *spec, const struct config *config, struct text_buffer *out)
{
    text_buffer_printf(out,
                       "baton-%s: %s\n\nusage: baton-%s [--KEY VALUE]...\n\n"
                       "  --help, --version\n"
                       "  --print-config\n        Print all values and where each comes from\n"
                       "  --write-config-doc, --write-metrics-doc\n        Print the reference pages\n",
                       spec->role, spec->about, spec->role);
    config_write_help(config, out);
    text_buffer_printf(out, "\nLowest to highest: default, file, BATON_KEY, BATON_%s_KEY (in capitals), flag.\n",
                       spec->role);
}

static void write_metrics(const struct daemon_spec *spec, struct text_buffer *out)
{
    text_buffer_printf(out, "## baton-%s\n\n", spec->role);
    if (spec->metrics)
        metrics_write_markdown(spec->metrics, out);
    text_buffer_add(out, "\nAs every daemon:\n\n");
    metrics_write_markdown(&daemon_metric_table, out);
    text_buffer_char(out, '\n');
    metrics_write_markdown(&metrics_process_table, out);
}

static int print(struct text_buffer *out)
{
    bool ok = out->state == ST_OK && fwrite(out->data, 1, out->len, stdout) == out->len && fflush(stdout) == 0;
    text_buffer_free(out);
    return ok ? 0 : 1;
}

int daemon_print_action(int argc, char **argv, const struct daemon_spec *spec, struct config *config)
{
    struct text_buffer out;
    text_buffer_init(&out, MAX_PAGE_BYTES);
    switch (config_find_action(argc, argv, daemon_actions)) {
    case ACTION_HELP:
        write_help(spec, config, &out);
        return print(&out);
    case ACTION_VERSION:
        text_buffer_printf(&out, "baton-%s %s\n", spec->role, BATON_VERSION);
        return print(&out);
    case ACTION_CONFIG_DOC:
        text_buffer_printf(&out, "## baton-%s\n\n%s.\n\n", spec->role, spec->about);
        config_write_markdown(config, &out);
        return print(&out);
    case ACTION_METRICS_DOC:
        write_metrics(spec, &out);
        return print(&out);
    default:
        return -1;
    }
}

int daemon_print_config(const struct config *config, int argc, char **argv)
{
    struct text_buffer out;
    if (config_find_action(argc, argv, daemon_actions) != ACTION_PRINT_CONFIG)
        return -1;
    text_buffer_init(&out, MAX_PAGE_BYTES);
    config_write(config, &out);
    return print(&out);
}

static int ready_fd = -1;

/* Children must not hold the supervisor's pipe open. */
void daemon_ready_fd_prepare(void)
{
    const char *text = getenv("BATON_READY_FD");
    char *end;
    if (!text)
        return;
    long fd = strtol(text, &end, 10);
    if (end != text && !*end && fd > 2 && fd < 1 << 20 && fcntl((int)fd, F_SETFD, FD_CLOEXEC) == 0)
        ready_fd = (int)fd;
    else
        log_warn("BATON_READY_FD names no open descriptor", "value=%.20s", text);
    unsetenv("BATON_READY_FD");
}

static void write_ready_line(const struct daemon *d, struct text_buffer *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_write_object(&w);
    json_field_string(&w, "role", d->spec->role);
    json_field_string(&w, "id", d->id);
    json_field_int(&w, "pid", getpid());
    json_write_key(&w, "ports");
    json_write_object(&w);
    for (size_t i = 0; i < d->n_ports; i++)
        json_field_uint(&w, d->ports[i].plane, d->ports[i].port);
    json_write_end(&w);
    json_write_end(&w);
    text_buffer_char(out, '\n');
}

void daemon_ready_fd_tell(struct daemon *d)
{
    struct text_buffer line;
    if (ready_fd < 0)
        return;
    text_buffer_init(&line, 4096);
    write_ready_line(d, &line);
    if (line.state != ST_OK || write(ready_fd, line.data, line.len) != (ssize_t)line.len)
        log_warn("cannot tell the supervisor that this process is ready", "error=\"%s\"", strerror(errno));
    text_buffer_free(&line);
    close(ready_fd);
    ready_fd = -1;
}
