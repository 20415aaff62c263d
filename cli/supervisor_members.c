/* One process of the cluster: started, listened to, ended. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/log_file.h"
#include "cli/supervisor_internal.h"
#include "common/clock.h"
#include "common/log.h"

#define READY_LINE_MAX_BYTES 4096
#define DRAIN_LOOK_US        200000u

void member_log_path(const struct supervisor *s, const char *id, char buf[STATE_PATH_MAX_BYTES])
{
    char file[64];
    snprintf(file, sizeof file, "logs/%.40s.log", id);
    state_dir_path(s->options.dir, file, buf);
}

void member_forget_events(struct supervisor *s, struct member *m)
{
    timer_cancel(loop_timers(s->loop), &m->timer);
    if (m->ready_event)
        event_free(m->ready_event);
    if (m->ready_fd >= 0)
        close(m->ready_fd);
    m->ready_event = NULL;
    m->ready_fd = -1;
}

void member_kill(struct member *m)
{
    if (m->pid > 0)
        kill(m->pid, SIGKILL);
}

/* ---- the ready line --------------------------------------------------------- */

static void read_ports(struct member *m, const json_t *ports)
{
    const char *plane;
    json_t *port;
    m->n_ports = 0;
    json_object_foreach((json_t *)ports, plane, port)
    {
        json_int_t number = json_integer_value(port);
        if (m->n_ports == MEMBER_MAX_PORTS || number <= 0 || number > 65535)
            continue;
        struct member_port *p = &m->ports[m->n_ports++];
        snprintf(p->plane, sizeof p->plane, "%.15s", plane);
        p->port = (uint16_t)number;
    }
}

static bool read_ready_line(struct member *m)
{
    char text[READY_LINE_MAX_BYTES];
    ssize_t n = read(m->ready_fd, text, sizeof text);
    json_t *root = n > 0 ? json_loadb(text, (size_t)n, 0, NULL) : NULL;
    bool understood = json_is_object(json_object_get(root, "ports"));
    if (understood)
        read_ports(m, json_object_get(root, "ports"));
    json_decref(root);
    return understood;
}

/* A line below PIPE_BUF arrives whole. An end without a line is followed by the process's end. */
static void on_ready_line(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct member *m = arg;
    struct supervisor *s = m->owner;
    bool understood = read_ready_line(m);
    event_free(m->ready_event);
    m->ready_event = NULL;
    close(m->ready_fd);
    m->ready_fd = -1;
    if (!understood || m->state != MEMBER_STARTING)
        return;
    timer_cancel(loop_timers(s->loop), &m->timer);
    member_enter(m, MEMBER_READY);
    log_info("process is ready", "id=%s pid=%d after_ms=%llu", m->id, (int)m->pid,
             (unsigned long long)((clock_now_us() - m->started_us) / 1000));
    supervisor_save_soon(s);
    supervisor_member_ready(s);
}

/* ---- start --------------------------------------------------------------------- */

static void on_start_deadline(void *arg)
{
    struct member *m = arg;
    struct supervisor *s = m->owner;
    unsigned seconds = (unsigned)(s->options.start_timeout_us / 1000000);
    log_error("process did not get ready", "id=%s seconds=%u", m->id, seconds);
    if (s->phase < PHASE_STARTED)
        supervisor_fail(s, m, "%s did not get ready within %u s", m->id, seconds);
    else
        member_kill(m); /* and started again when it has ended */
}

static status listen_for_ready(struct supervisor *s, struct member *m, int fd, struct error *err)
{
    m->ready_event = event_new(loop_base(s->loop), fd, EV_READ, on_ready_line, m);
    if (!m->ready_event || event_add(m->ready_event, NULL) != 0)
        return error_set(err, ST_NO_MEMORY, "no memory for an event");
    m->ready_fd = fd;
    return ST_OK;
}

static status spawn(struct supervisor *s, struct member *m, struct error *err)
{
    static struct launch launch; /* large, and there is one thread */
    char log_path[STATE_PATH_MAX_BYTES];
    int fds[2];
    if (launch_arguments(&s->plan, m, &launch) != ST_OK)
        return error_set(err, ST_LIMIT, "the command line of %s is too long", m->id);
    if (pipe2(fds, O_CLOEXEC) != 0)
        return error_set(err, ST_IO, "cannot make a pipe: %s", strerror(errno));
    member_log_path(s, m->id, log_path);
    m->log_start = log_file_end(log_path);
    status st =
        child_spawn(&(struct child_options){ launch.argv, log_path, m->role == ROLE_ETCD ? -1 : fds[1] }, &m->pid, err);
    close(fds[1]);
    if (st == ST_OK && m->role != ROLE_ETCD)
        st = listen_for_ready(s, m, fds[0], err);
    if (m->ready_fd < 0)
        close(fds[0]);
    return st;
}

static void on_restart(void *arg)
{
    struct member *m = arg;
    member_launch(m->owner, m);
}

void member_launch(struct supervisor *s, struct member *m)
{
    struct error err;
    m->owner = s;
    m->started_us = clock_now_us();
    if (spawn(s, m, &err) != ST_OK && m->pid == 0) {
        log_error("process not started", "id=%s error=\"%s\"", m->id, err.text);
        timer_set(loop_timers(s->loop), &m->timer, clock_now_us() + restart_delay_us(++m->failures), on_restart, m);
        return;
    }
    m->start_ticks = process_start_ticks(m->pid);
    member_enter(m, MEMBER_STARTING);
    log_info("process started", "id=%s pid=%d restarts=%u", m->id, (int)m->pid, m->restarts);
    timer_set(loop_timers(s->loop), &m->timer, clock_now_us() + s->options.start_timeout_us, on_start_deadline, m);
    supervisor_save(s); /* at once: who cleans up after a killed supervisor must know this pid */
}

/* ---- end ---------------------------------------------------------------------------- */

/* A process that was just stopped may not have been so when it was told to end. */
static void look_at_draining(void *arg)
{
    struct member *m = arg;
    struct supervisor *s = m->owner;
    uint64_t now = clock_now_us();
    if (now < m->patience_us) {
        process_wake(m->pid);
    } else {
        log_warn("process does not end, killing it", "id=%s pid=%d", m->id, (int)m->pid);
        member_kill(m);
    }
    timer_set(loop_timers(s->loop), &m->timer, now + DRAIN_LOOK_US, look_at_draining, m);
}

void member_terminate(struct supervisor *s, struct member *m, uint64_t timeout_us)
{
    if (m->state == MEMBER_DRAINING || m->state == MEMBER_GONE)
        return; /* daemons take a second SIGTERM for "at once" */
    member_forget_events(s, m);
    if (m->pid == 0) {
        member_enter(m, MEMBER_GONE);
    } else {
        member_enter(m, MEMBER_DRAINING);
        process_terminate(m->pid);
        m->patience_us = clock_now_us() + timeout_us;
        timer_set(loop_timers(s->loop), &m->timer, clock_now_us() + DRAIN_LOOK_US, look_at_draining, m);
    }
    supervisor_save_soon(s);
}

static void restart_later(struct supervisor *s, struct member *m)
{
    bool sound = clock_now_us() - m->started_us >= RESTART_FORGIVEN_US;
    m->failures = sound ? 1 : m->failures + 1;
    m->restarts++;
    member_enter(m, MEMBER_PENDING);
    timer_set(loop_timers(s->loop), &m->timer, clock_now_us() + restart_delay_us(m->failures), on_restart, m);
}

static void member_ended(struct supervisor *s, struct member *m, int wait_status)
{
    char how[96];
    bool wanted = m->state == MEMBER_DRAINING;
    m->pid = 0;
    member_forget_events(s, m);
    /* Code 0 without being asked: somebody else sent it SIGTERM, and it left in good order. */
    enum log_level level = wanted ? LOG_INFO : wait_status == 0 ? LOG_WARN : LOG_ERROR;
    log_write(level, "process ended", "id=%s how=\"%s\"", m->id, describe_exit(wait_status, how, sizeof how));
    if (wanted || s->phase == PHASE_STOPPING)
        member_enter(m, MEMBER_GONE);
    else
        restart_later(s, m);
    supervisor_member_ended(s, m, wait_status);
    supervisor_save_soon(s);
}

void members_reap(struct supervisor *s)
{
    int wait_status;
    pid_t pid;
    while ((pid = waitpid(-1, &wait_status, WNOHANG)) > 0) {
        struct member *m = roster_of_pid(&s->roster, pid);
        if (m)
            member_ended(s, m, wait_status);
    }
}
