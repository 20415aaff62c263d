#include "common/daemon.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/daemon_internal.h"
#include "common/failpoint.h"
#include "common/log.h"
#include "common/stray_variable.h"

#define DRAIN_POLL_US MS(20)

struct loop *daemon_loop(struct daemon *d)
{
    return d->loop;
}

const void *daemon_config(const struct daemon *d)
{
    return d->shared; /* the head of the whole struct */
}

const struct daemon_config *daemon_shared_config(const struct daemon *d)
{
    return d->shared;
}

struct metrics *daemon_metrics(struct daemon *d)
{
    return d->metrics;
}

const char *daemon_role(const struct daemon *d)
{
    return d->spec->role;
}

const char *daemon_id(const struct daemon *d)
{
    return d->id;
}

const char *daemon_host(const struct daemon *d)
{
    return d->host;
}

uint16_t daemon_admin_port(const struct daemon *d)
{
    return http_server_port(d->admin);
}

uint64_t daemon_incarnation(const struct daemon *d)
{
    return d->incarnation;
}

bool daemon_draining(const struct daemon *d)
{
    return d->draining;
}

static size_t slot_of(const struct daemon *d, const struct part *part)
{
    size_t i = 0;
    while (i < d->n_parts && d->spec->parts[i] != part)
        i++;
    ASSERT(i < d->n_parts);
    return i;
}

void daemon_set_state(struct daemon *d, const struct part *part, void *state)
{
    d->states[slot_of(d, part)] = state;
}

void *daemon_state(const struct daemon *d, const struct part *part)
{
    return d->states[slot_of(d, part)];
}

void daemon_report_port(struct daemon *d, const char *plane, uint16_t port)
{
    ASSERT(d->n_ports < DAEMON_MAX_PORTS);
    d->ports[d->n_ports++] = (struct daemon_port){ plane, port };
}

static bool all_drained(struct daemon *d)
{
    for (size_t i = 0; i < d->n_started; i++)
        if (d->spec->parts[i]->drained && !d->spec->parts[i]->drained(d))
            return false;
    return true;
}

static void poll_drain(void *arg)
{
    struct daemon *d = arg;
    uint64_t now = timers_now(loop_timers(d->loop));
    if (all_drained(d)) {
        loop_stop(d->loop);
    } else if (now >= d->drain_until_us) {
        log_warn("drain timed out, ending with work still running", "");
        loop_stop(d->loop);
    } else {
        timer_set(loop_timers(d->loop), &d->drain_poll, now + DRAIN_POLL_US, poll_drain, d);
    }
}

/* The last part goes first: it is the one that lets work in. */
static void begin_drain(void *arg)
{
    struct daemon *d = arg;
    if (d->draining)
        return;
    log_info("draining", "");
    d->draining = true;
    d->drain_until_us = timers_now(loop_timers(d->loop)) + d->shared->drain_timeout;
    for (size_t i = d->n_started; i-- > 0;)
        if (d->spec->parts[i]->drain)
            d->spec->parts[i]->drain(d);
    poll_drain(d);
}

void daemon_drain(struct daemon *d)
{
    loop_post(d->loop, begin_drain, d);
}

void daemon_end(struct daemon *d, int exit_code)
{
    atomic_store(&d->exit_code, exit_code);
    loop_stop(d->loop);
}

/* Names become parts of etcd keys and of log lines. */
static status check_name(const char *key, const char *value, struct error *err)
{
    if (strlen(value) >= DAEMON_NAME_BYTES)
        return error_set(err, ST_INVALID, "--%s: \"%.80s...\" is too long; it takes at most %d letters", key, value,
                         DAEMON_NAME_BYTES - 1);
    for (const char *p = value; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
            return error_set(err, ST_INVALID, "--%s: \"%.80s\" is not allowed; it takes letters, digits and . _ -", key,
                             value);
    return ST_OK;
}

static status name_process(struct daemon *d, struct error *err)
{
    status st = check_name("cluster", d->shared->cluster, err);
    if (st == ST_OK)
        st = check_name("id", d->shared->id, err);
    if (st == ST_OK)
        st = check_name("host", d->shared->host, err);
    if (st != ST_OK)
        return st;
    snprintf(d->host, sizeof d->host, "%.63s", d->shared->host);
    if (!d->host[0] && (gethostname(d->host, sizeof d->host - 1) < 0 || !d->host[0]))
        snprintf(d->host, sizeof d->host, "localhost");
    snprintf(d->id, sizeof d->id, "%.63s", d->shared->id);
    if (!d->id[0])
        snprintf(d->id, sizeof d->id, "%.15s-%.30s-%ld", d->spec->role, d->host, (long)getpid());
    return ST_OK;
}

static status check_failpoints(struct error *err)
{
#ifdef BATON_FAILPOINTS
    return failpoint_arm_from_environment(err);
#else
    if (getenv("BATON_FAILPOINTS"))
        return error_set(err, ST_UNSUPPORTED, "BATON_FAILPOINTS is set, but this build has no failpoints");
    return ST_OK;
#endif
}

static status load_config(struct daemon *d, int argc, char **argv, struct error *err)
{
    status st = config_load(d->config, argc, argv, daemon_actions, err);
    if (st == ST_OK)
        st = name_process(d, err);
    return st == ST_OK ? check_failpoints(err) : st;
}

static int wrong_usage(const struct daemon *d, const struct error *err)
{
    fprintf(stderr, "baton-%s: %s (see baton-%s --help)\n", d->spec->role, err->text, d->spec->role);
    return 2;
}

static status start_base(struct daemon *d, struct error *err)
{
    if (getrandom(&d->incarnation, sizeof d->incarnation, 0) != (ssize_t)sizeof d->incarnation)
        return error_set(err, ST_IO, "cannot draw random bytes");
    d->incarnation += d->incarnation == 0;
    if (loop_create(&d->loop) != ST_OK || metrics_create(d->spec->role, &d->metrics) != ST_OK)
        return error_set(err, ST_NO_MEMORY, "cannot make the event loop");
    if (d->spec->metrics)
        metrics_add_table(d->metrics, d->spec->metrics);
    status st = daemon_signals_start(d, err);
    return st == ST_OK ? daemon_admin_start(d, err) : st;
}

static status start_parts(struct daemon *d, struct error *err)
{
    for (; d->n_started < d->n_parts && !daemon_signal_came(); d->n_started++) {
        const struct part *part = d->spec->parts[d->n_started];
        status st = part->start(d, err);
        if (st != ST_OK) {
            log_error("a part did not start", "part=%s", part->name);
            return st;
        }
    }
    return ST_OK;
}

static void stop_all(struct daemon *d)
{
    while (d->n_started > 0) {
        const struct part *part = d->spec->parts[--d->n_started];
        if (part->stop)
            part->stop(d);
    }
    http_server_destroy(&d->admin);
    if (d->loop) {
        timer_cancel(loop_timers(d->loop), &d->drain_poll);
        daemon_signals_stop(d);
    }
    metrics_destroy(&d->metrics);
    loop_destroy(&d->loop);
}

static int run(struct daemon *d)
{
    struct error err = { "" };
    status st = start_base(d, &err);
    if (st == ST_OK)
        st = start_parts(d, &err);
    if (st == ST_OK && d->n_started == d->n_parts) {
        d->started = true;
        log_info("started", "version=%s pid=%ld", BATON_VERSION, (long)getpid());
        daemon_ready_fd_tell(d);
        loop_run(d->loop);
    }
    if (st != ST_OK) {
        char quoted[sizeof err.text * 2];
        log_error("cannot start", "error=%s",
                  log_quote(quoted, sizeof quoted, err.text[0] ? err.text : status_text(st)));
        atomic_store(&d->exit_code, 1);
    }
    stop_all(d);
    log_info("ended", "exit=%d", atomic_load(&d->exit_code));
    return atomic_load(&d->exit_code);
}

static int configure_and_run(struct daemon *d, int argc, char **argv)
{
    struct error err = { "" };
    int code = daemon_print_action(argc, argv, d->spec, d->config);
    if (code >= 0)
        return code;
    if (load_config(d, argc, argv, &err) != ST_OK)
        return wrong_usage(d, &err);
    config_scale_times(d->config, d->shared->time_scale);
    code = daemon_print_config(d->config, argc, argv);
    if (code >= 0)
        return code;
    if (d->spec->check && d->spec->check(config_values(d->config), &err) != ST_OK)
        return wrong_usage(d, &err);
    log_init(d->id, (enum log_level)d->shared->log_level);
    stray_variables_warn();
    daemon_ready_fd_prepare();
    return run(d);
}

int daemon_run(int argc, char **argv, const struct daemon_spec *spec)
{
    struct error err = { "" };
    struct daemon *d = calloc(1, sizeof *d);
    const struct config_table *tables[2] = { &daemon_config_table, spec->config };
    if (!d || config_create(spec->role, tables, spec->config ? 2 : 1, &d->config, &err) != ST_OK) {
        fprintf(stderr, "baton-%s: %s\n", spec->role, err.text);
        free(d);
        return 1;
    }
    d->spec = spec;
    d->shared = config_values(d->config);
    while (spec->parts && spec->parts[d->n_parts])
        d->n_parts++;
    ASSERT(d->n_parts <= DAEMON_MAX_PARTS);
    int code = configure_and_run(d, argc, argv);
    config_destroy(&d->config);
    free(d);
    return code;
}
