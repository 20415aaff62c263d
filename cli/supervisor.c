#include "cli/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/log_file.h"
#include "cli/supervisor_internal.h"
#include "common/clock.h"
#include "common/log.h"
#include "proto/weights_message.h"

#define ETCD_ATTEMPTS    3 /* its ports may be taken between the choice and its start */
#define FAILURE_LINES    12
#define SUPERVISOR_LOG   "supervisor"
#define CLUSTER_KEY      "cluster.key"
#define SALT_KEY         "salt.key"
#define ENDED_TIMEOUT_US 2000000u /* for a killed process to be reaped */
#define KILL_ROUNDS      5

/* ---- reports to who started us ----------------------------------------------- */

static void report(struct supervisor *s, enum supervisor_report kind, const char *text)
{
    char record[REPORT_MAX_BYTES];
    if (s->options.report_fd < 0)
        return;
    int n = snprintf(record, sizeof record, "%c%s", (char)kind, text);
    size_t len = n < (int)sizeof record ? (size_t)n + 1 : sizeof record; /* the NUL included */
    if (send(s->options.report_fd, record, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        log_warn("nobody hears the start's progress", "error=\"%s\"", strerror(errno));
}

void supervisor_report_progress(struct supervisor *s, const char *text)
{
    report(s, REPORT_PROGRESS, text);
}

static void close_report(struct supervisor *s)
{
    if (s->report_event)
        event_free(s->report_event);
    s->report_event = NULL;
    if (s->options.report_fd >= 0)
        close(s->options.report_fd);
    s->options.report_fd = -1;
}

static void report_waiting(struct supervisor *s)
{
    char text[512] = "waiting for";
    size_t n = strlen(text);
    for (uint32_t i = 0; i < s->roster.n && n < sizeof text - 32; i++)
        if (s->roster.members[i].state == MEMBER_STARTING)
            n += (size_t)snprintf(text + n, sizeof text - n, " %s", s->roster.members[i].id);
    report(s, REPORT_PROGRESS, text);
}

static void on_report_socket(evutil_socket_t fd, short what, void *arg)
{
    struct supervisor *s = arg;
    char byte;
    (void)what;
    ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    close_report(s);
    if (s->phase == PHASE_STOPPING)
        return;
    if (n == 1 && s->phase == PHASE_STARTED) {
        s->phase = PHASE_READY;
        supervisor_save_soon(s);
        log_info("cluster is ready", "");
        return;
    }
    log_warn("who started the cluster went away before it was ready", "");
    s->exit_code = 1;
    supervisor_stop(s, (uint64_t)STOP_TIMEOUT_S * 1000000);
}

static void add_log_tail(const struct supervisor *s, const struct member *m, struct text_buffer *out)
{
    char path[STATE_PATH_MAX_BYTES];
    struct text_buffer tail;
    member_log_path(s, m->id, path);
    text_buffer_init(&tail, 2 * LOG_TAIL_MAX_BYTES);
    if (log_file_tail_since(path, m->log_start, FAILURE_LINES, &tail) == ST_OK && tail.len > 0) {
        size_t skip = tail.len > REPORT_MAX_BYTES / 2 ? tail.len - REPORT_MAX_BYTES / 2 : 0;
        text_buffer_printf(out, "\nThe last lines of %s:\n%s", path, text_buffer_text(&tail) + skip);
    }
    text_buffer_free(&tail);
}

void supervisor_fail(struct supervisor *s, const struct member *m, const char *fmt, ...)
{
    char reason[1024];
    va_list args;
    struct text_buffer text;
    if (s->phase == PHASE_STOPPING)
        return;
    va_start(args, fmt);
    vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);
    log_error("the cluster does not start", "reason=\"%s\"", reason);
    text_buffer_init(&text, REPORT_MAX_BYTES);
    text_buffer_add(&text, reason);
    if (m)
        add_log_tail(s, m, &text);
    report(s, REPORT_FAILED, text_buffer_text(&text));
    text_buffer_free(&text);
    s->exit_code = 1;
    supervisor_stop(s, (uint64_t)STOP_TIMEOUT_S * 1000000);
}

/* ---- start, in phases ------------------------------------------------------------- */

const char *supervisor_url(struct supervisor *s, char buf[64])
{
    struct member *router = NULL;
    for (uint32_t i = 0; i < s->roster.n; i++) {
        struct member *m = &s->roster.members[i];
        if (m->role == ROLE_ROUTER && m->state != MEMBER_GONE && (!router || m->number < router->number))
            router = m;
    }
    uint16_t port = router ? member_port(router, "http") : 0;
    buf[0] = '\0';
    if (port)
        snprintf(buf, 64, "http://127.0.0.1:%u", port);
    return buf;
}

void supervisor_etcd_ready(struct supervisor *s)
{
    struct member *etcd = roster_find(&s->roster, "etcd");
    if (etcd && etcd->state == MEMBER_STARTING) {
        timer_cancel(loop_timers(s->loop), &etcd->timer);
        member_enter(etcd, MEMBER_READY);
        supervisor_save_soon(s);
    }
    if (s->phase != PHASE_ETCD)
        return;
    timer_cancel(loop_timers(s->loop), &s->stop_timer);
    s->phase = PHASE_ROLES;
    for (uint32_t i = 0; i < s->roster.n; i++)
        if (s->roster.members[i].role != ROLE_ETCD && s->roster.members[i].state == MEMBER_PENDING)
            member_launch(s, &s->roster.members[i]);
    report_waiting(s);
}

void supervisor_member_ready(struct supervisor *s)
{
    char url[64];
    if (s->phase != PHASE_ROLES)
        return;
    for (uint32_t i = 0; i < s->roster.n; i++) {
        if (s->roster.members[i].state != MEMBER_READY) {
            report_waiting(s);
            return;
        }
    }
    if (!supervisor_url(s, url)[0]) {
        supervisor_fail(s, roster_find(&s->roster, "router-0"), "router-0 does not say at which port it answers");
        return;
    }
    s->phase = PHASE_STARTED;
    report(s, REPORT_STARTED, url);
}

static void on_etcd_deadline(void *arg)
{
    struct supervisor *s = arg;
    supervisor_fail(s, roster_find(&s->roster, "etcd"), "etcd at %s does not answer", s->etcd_url);
}

static void try_etcd_again(struct supervisor *s, struct member *m, int wait_status)
{
    struct error err;
    char how[96];
    if (s->etcd_attempts >= ETCD_ATTEMPTS)
        supervisor_fail(s, m, "etcd %s", describe_exit(wait_status, how, sizeof how));
    else if (supervisor_etcd_start(s, &err) != ST_OK)
        supervisor_fail(s, NULL, "%s", err.text);
}

/* ---- stop, in stages: who uses others ends before them ---------------------------------- */

static const enum role stop_order[] = { ROLE_DECODE, ROLE_PREFILL, ROLE_ROUTER, ROLE_KVBM, ROLE_ETCD, ROLE_COUNT };

static void terminate_role(struct supervisor *s, enum role role, uint64_t timeout_us)
{
    for (uint32_t i = 0; i < s->roster.n; i++)
        if (s->roster.members[i].role == role)
            member_terminate(s, &s->roster.members[i], timeout_us);
}

static void stop_further(struct supervisor *s)
{
    while (stop_order[s->stop_stage] != ROLE_COUNT && roster_is_empty_of(&s->roster, stop_order[s->stop_stage])) {
        s->stop_stage++;
        if (stop_order[s->stop_stage] == ROLE_COUNT) {
            loop_stop(s->loop);
            return;
        }
        uint64_t now = clock_now_us(), due = s->stop_timer.due_us;
        terminate_role(s, stop_order[s->stop_stage], due > now ? due - now : 1);
    }
}

static void on_stop_deadline(void *arg)
{
    struct supervisor *s = arg;
    if (s->kill_rounds++ == KILL_ROUNDS) {
        log_error("processes are left that cannot be killed", "");
        loop_stop(s->loop);
        return;
    }
    for (uint32_t i = 0; i < s->roster.n; i++)
        member_kill(&s->roster.members[i]);
    timer_set(loop_timers(s->loop), &s->stop_timer, clock_now_us() + ENDED_TIMEOUT_US, on_stop_deadline, s);
}

void supervisor_stop(struct supervisor *s, uint64_t timeout_us)
{
    if (s->phase == PHASE_STOPPING)
        return;
    log_info("stopping the cluster", "seconds=%llu", (unsigned long long)(timeout_us / 1000000));
    s->phase = PHASE_STOPPING;
    supervisor_etcd_stop_client(s);
    timer_set(loop_timers(s->loop), &s->stop_timer, clock_now_us() + timeout_us, on_stop_deadline, s);
    s->stop_stage = 0;
    terminate_role(s, stop_order[0], timeout_us);
    /* What waits for a restart in a later stage must not be restarted meanwhile. */
    for (uint32_t i = 0; i < s->roster.n; i++)
        if (s->roster.members[i].state == MEMBER_PENDING)
            member_terminate(s, &s->roster.members[i], 0);
    supervisor_save_soon(s);
    stop_further(s);
}

void supervisor_member_ended(struct supervisor *s, struct member *m, int wait_status)
{
    char how[96];
    if (s->phase == PHASE_STOPPING)
        stop_further(s);
    else if (s->phase == PHASE_ETCD && m->role == ROLE_ETCD)
        try_etcd_again(s, m, wait_status);
    else if (s->phase < PHASE_STARTED)
        supervisor_fail(s, m, "%s %s before it was ready", m->id, describe_exit(wait_status, how, sizeof how));
}

/* ---- set-up ---------------------------------------------------------------------------------- */

static void on_signal(evutil_socket_t fd, short what, void *arg)
{
    struct supervisor *s = arg;
    struct signalfd_siginfo info;
    (void)what;
    while (read(fd, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
            supervisor_stop(s, (uint64_t)STOP_TIMEOUT_S * 1000000);
    members_reap(s);
}

static status start_signals(struct supervisor *s, struct error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    s->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (s->signal_fd < 0)
        return error_set(err, ST_IO, "cannot make a signal descriptor: %s", strerror(errno));
    s->signal_event = event_new(loop_base(s->loop), s->signal_fd, EV_READ | EV_PERSIST, on_signal, s);
    s->report_event = event_new(loop_base(s->loop), s->options.report_fd, EV_READ | EV_PERSIST, on_report_socket, s);
    if (!s->signal_event || !s->report_event || event_add(s->signal_event, NULL) != 0 ||
        event_add(s->report_event, NULL) != 0)
        return error_set(err, ST_NO_MEMORY, "no memory for events");
    return ST_OK;
}

static void bound_logs(void *arg)
{
    struct supervisor *s = arg;
    char path[STATE_PATH_MAX_BYTES];
    for (uint32_t i = 0; i < s->roster.n; i++) {
        member_log_path(s, s->roster.members[i].id, path);
        log_file_bound(path, LOG_FILE_MAX_BYTES);
    }
    member_log_path(s, SUPERVISOR_LOG, path);
    log_file_bound(path, LOG_FILE_MAX_BYTES);
    timer_set(loop_timers(s->loop), &s->log_timer, clock_now_us() + LOG_FILE_CHECK_US, bound_logs, s);
}

status supervisor_add(struct supervisor *s, enum role role, uint32_t model, struct member **out)
{
    struct member *m;
    if (roster_add(&s->roster, role, model, &m) != ST_OK)
        return ST_LIMIT;
    m->owner = s;
    *out = m;
    return ST_OK;
}

static status add_members(struct supervisor *s, struct error *err)
{
    const struct cluster_options *o = &s->cluster;
    struct member *m;
    for (unsigned role = ROLE_ETCD; role < ROLE_COUNT; role++) {
        for (uint32_t model = 0; model < (role_is_worker((enum role)role) ? o->n_models : 1); model++)
            for (uint32_t i = 0; i < o->replicas[role]; i++)
                if (supervisor_add(s, (enum role)role, model, &m) != ST_OK)
                    return error_set(err, ST_LIMIT, "a cluster has %d processes at most", ROSTER_MAX);
    }
    return ST_OK;
}

/* Many connections and mappings: what the system allows at most. */
static void raise_limits(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
}

static const char *name_user(void *ctx, pid_t pid)
{
    struct supervisor *s = ctx;
    const struct member *m = roster_of_pid(&s->roster, pid);
    return m ? m->id : NULL;
}

static status draw_key(struct supervisor *s, const char *file, struct error *err)
{
    uint8_t key[32];
    if (getrandom(key, sizeof key, 0) != sizeof key)
        return error_set(err, ST_IO, "the kernel gives no random numbers");
    return state_dir_write(s->options.dir, file, key, sizeof key, err);
}

/* The cluster's is a new one each time: nobody who runs has the old one, and what reads it reads it at its own start.
 * Under the salts' key there may be blocks on disk. */
static status draw_keys(struct supervisor *s, struct error *err)
{
    status st = draw_key(s, CLUSTER_KEY, err);
    return st == ST_OK && access(s->salt_key, F_OK) != 0 ? draw_key(s, SALT_KEY, err) : st;
}

static status start(struct supervisor *s, struct error *err)
{
    status st;
    raise_limits();
    if (loop_create(&s->loop) != ST_OK)
        return error_set(err, ST_NO_MEMORY, "cannot make the event loop");
    if ((st = start_signals(s, err)) != ST_OK || (st = add_members(s, err)) != ST_OK ||
        (st = draw_keys(s, err)) != ST_OK ||
        (st = weights_holder_create(s->loop, s->options.dir, name_user, s, &s->weights, err)) != ST_OK ||
        (st = control_server_create(s->loop, s->options.dir, supervisor_answer, s, &s->control, err)) != ST_OK)
        return st;
    bound_logs(s);
    report(s, REPORT_PROGRESS, "waiting for etcd");
    timer_set(loop_timers(s->loop), &s->stop_timer, clock_now_us() + s->options.start_timeout_us, on_etcd_deadline, s);
    return supervisor_etcd_start(s, err);
}

static void clean_up(struct supervisor *s)
{
    char path[STATE_PATH_MAX_BYTES];
    supervisor_etcd_stop_client(s);
    control_server_destroy(&s->control);
    weights_holder_destroy(&s->weights);
    close_report(s);
    for (uint32_t i = 0; s->loop && i < s->roster.n; i++)
        member_forget_events(s, &s->roster.members[i]);
    if (s->loop) {
        timer_cancel(loop_timers(s->loop), &s->log_timer);
        timer_cancel(loop_timers(s->loop), &s->save_timer);
        timer_cancel(loop_timers(s->loop), &s->stop_timer);
    }
    if (s->signal_event)
        event_free(s->signal_event);
    if (s->signal_fd >= 0)
        close(s->signal_fd);
    loop_destroy(&s->loop);
    unlink(state_dir_path(s->options.dir, "state.json", path));
    unlink(s->cluster_key);
}

int supervisor_run(const struct supervisor_options *options)
{
    struct error err = { "" };
    struct supervisor *s = calloc(1, sizeof *s);
    if (!s)
        return 1;
    log_init(SUPERVISOR_LOG, LOG_INFO);
    s->options = *options;
    s->cluster = *options->cluster;
    s->cluster.replicas[ROLE_ETCD] = !s->cluster.etcd[0];
    s->signal_fd = -1;
    s->started_us = clock_now_us();
    state_dir_path(options->dir, "etcd", s->etcd_data);
    state_dir_path(options->dir, WEIGHTS_SOCKET, s->weights_socket);
    state_dir_path(options->dir, CLUSTER_KEY, s->cluster_key);
    state_dir_path(options->dir, SALT_KEY, s->salt_key);
    s->plan = (struct launch_plan){ .options = &s->cluster,
                                    .bin_dir = options->bin_dir,
                                    .cluster = options->dir->cluster,
                                    .etcd_url = s->etcd_url,
                                    .etcd_data = s->etcd_data,
                                    .weights_socket = s->weights_socket,
                                    .cluster_key = s->cluster_key,
                                    .salt_key = s->salt_key };
    status st = start(s, &err);
    if (st != ST_OK && s->loop)
        supervisor_fail(s, NULL, "%s", err.text);
    if (s->loop)
        loop_run(s->loop);
    int code = st == ST_OK ? s->exit_code : 1;
    log_info("ended", "exit=%d", code);
    clean_up(s);
    free(s);
    return code;
}
