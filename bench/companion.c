#include "bench/companion.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"

#define READY_FD      3
#define LAST_LOG_LINE 300

/* In the child: only what is safe between fork and exec. */
static _Noreturn void become(char *const argv[], int log_fd, int ready_fd, int processor, pid_t parent)
{
    cpu_set_t set;
    sigset_t none;
    CPU_ZERO(&set);
    CPU_SET((size_t)processor, &set);
    sigemptyset(&none);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
    (void)setpgid(0, 0); /* a Ctrl-C is ours to pass on */
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)sched_setaffinity(0, sizeof set, &set);
    if (dup2(log_fd, STDOUT_FILENO) < 0 || dup2(log_fd, STDERR_FILENO) < 0)
        _exit(127);
    if (ready_fd == READY_FD)
        (void)fcntl(READY_FD, F_SETFD, 0);
    else if (ready_fd >= 0 && dup2(ready_fd, READY_FD) < 0)
        _exit(127);
    (void)execvp(argv[0], argv);
    _exit(127);
}

static status open_ends(const char *log, bool tells_ready, int *log_fd, int ends[2], struct error *err)
{
    *log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (*log_fd < 0)
        return error_set(err, ST_IO, "%s: %s", log, strerror(errno));
    if (tells_ready && pipe2(ends, O_CLOEXEC) != 0) {
        close(*log_fd);
        return error_set(err, ST_IO, "no pipe: %s", strerror(errno));
    }
    return ST_OK;
}

status companion_start(struct companion *companion, char *const argv[], const char *log, int processor,
                       bool tells_ready, struct error *err)
{
    int log_fd, ends[2] = { -1, -1 };
    pid_t parent = getpid();
    status st = open_ends(log, tells_ready, &log_fd, ends, err);
    if (st != ST_OK)
        return st;
    if (tells_ready)
        (void)setenv("BATON_READY_FD", "3", 1);
    pid_t pid = fork();
    if (pid == 0)
        become(argv, log_fd, ends[1], processor, parent);
    (void)unsetenv("BATON_READY_FD");
    close(log_fd);
    if (ends[1] >= 0)
        close(ends[1]);
    if (pid < 0) {
        if (ends[0] >= 0)
            close(ends[0]);
        return error_set(err, ST_IO, "cannot start %s: %s", companion->name, strerror(errno));
    }
    companion->pid = pid;
    companion->ready_fd = ends[0];
    (void)snprintf(companion->log, sizeof companion->log, "%s", log);
    return ST_OK;
}

static bool collect(struct companion *companion, int flags, struct rusage *usage)
{
    pid_t pid;
    do
        pid = wait4(companion->pid, &companion->wait_status, flags, usage);
    while (pid < 0 && errno == EINTR);
    if (pid == 0)
        return false;
    companion->pid = 0;
    return true;
}

bool companion_has_ended(struct companion *companion)
{
    struct rusage usage;
    return companion->pid == 0 || collect(companion, WNOHANG, &usage);
}

void companion_stop(struct companion *companion, uint64_t grace_us, struct rusage *usage)
{
    struct rusage unused, *out = usage ? usage : &unused;
    uint64_t until = clock_now_us() + grace_us;
    memset(out, 0, sizeof *out);
    if (companion->pid == 0)
        return;
    (void)kill(companion->pid, SIGTERM);
    while (clock_now_us() < until) {
        if (collect(companion, WNOHANG, out))
            return;
        (void)usleep(2000);
    }
    (void)kill(companion->pid, SIGKILL);
    (void)collect(companion, 0, out);
}

static void last_line(const char *path, char *out, size_t size)
{
    char line[1024];
    int most = (int)size - 1;
    FILE *file = fopen(path, "re");
    out[0] = '\0';
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0])
            (void)snprintf(out, size, "%.*s", most, line);
    }
    (void)fclose(file);
}

void companion_describe_end(const struct companion *companion, struct error *out)
{
    char line[LAST_LOG_LINE];
    bool by_signal = WIFSIGNALED(companion->wait_status);
    last_line(companion->log, line, sizeof line);
    if (!by_signal && WEXITSTATUS(companion->wait_status) == 127 && !line[0])
        (void)snprintf(line, sizeof line, "it cannot be run");
    (void)error_set(out, ST_CLOSED, "%s ended with %s %d%s%s", companion->name, by_signal ? "signal" : "code",
                    by_signal ? WTERMSIG(companion->wait_status) : WEXITSTATUS(companion->wait_status),
                    line[0] ? ": " : "", line);
}
