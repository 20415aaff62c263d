#include "cli/child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CANNOT_EXEC 127

static _Noreturn void die(const char *what, const char *name)
{
    dprintf(STDERR_FILENO, "%s %s: %s\n", what, name, strerror(errno));
    _exit(CANNOT_EXEC);
}

static void redirect(const char *log_path)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0)
        die("cannot open", "/dev/null");
    if (!log_path)
        return;
    /* Appending keeps the file whole when it is cut from outside, see log_file.h. */
    int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0 || dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0)
        die("cannot open", log_path);
}

static void reset_signals(void)
{
    sigset_t none;
    struct sigaction plain = { .sa_handler = SIG_DFL };
    for (int i = 1; i < SIGRTMIN; i++)
        sigaction(i, &plain, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void become(const struct child_options *o, pid_t parent)
{
    setpgid(0, 0); /* a terminal's Ctrl-C is for the supervisor alone */
    reset_signals();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(CANNOT_EXEC); /* it died before prctl */
    redirect(o->log_path);
    /* Libraries open descriptors without asking; none of them is the child's business. */
    close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    if (o->ready_fd >= 0) {
        char number[16];
        snprintf(number, sizeof number, "%d", o->ready_fd);
        fcntl(o->ready_fd, F_SETFD, 0);
        setenv("BATON_READY_FD", number, 1);
    } else {
        unsetenv("BATON_READY_FD");
    }
    execvp(o->argv[0], o->argv);
    die("cannot start", o->argv[0]);
}

status child_spawn(const struct child_options *options, pid_t *pid, struct error *err)
{
    pid_t parent = getpid(), child = fork();
    if (child < 0)
        return error_set(err, ST_IO, "cannot start %s: %s", options->argv[0], strerror(errno));
    if (child == 0)
        become(options, parent);
    *pid = child;
    return ST_OK;
}

static size_t read_output(int fd, char *output, size_t size)
{
    size_t n = 0;
    char spill[512];
    for (;;) {
        bool full = n + 1 >= size;
        ssize_t got = full ? read(fd, spill, sizeof spill) : read(fd, output + n, size - 1 - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        n += full ? 0 : (size_t)got;
    }
    output[n] = '\0';
    return n;
}

status child_run(char *const argv[], char *output, size_t size, int *code, struct error *err)
{
    int fds[2], wait_status;
    if (pipe2(fds, O_CLOEXEC) != 0)
        return error_set(err, ST_IO, "cannot make a pipe: %s", strerror(errno));
    pid_t parent = getpid(), child = fork();
    if (child == 0) {
        dup2(fds[1], STDOUT_FILENO);
        dup2(fds[1], STDERR_FILENO);
        become(&(struct child_options){ .argv = argv, .ready_fd = -1 }, parent);
    }
    close(fds[1]);
    if (child < 0) {
        close(fds[0]);
        return error_set(err, ST_IO, "cannot start %s: %s", argv[0], strerror(errno));
    }
    read_output(fds[0], output, size);
    close(fds[0]);
    while (waitpid(child, &wait_status, 0) < 0 && errno == EINTR) {
    }
    *code = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
    return ST_OK;
}

void process_wake(pid_t pid)
{
    if (process_is_stopped(pid))
        kill(pid, SIGCONT);
}

void process_terminate(pid_t pid)
{
    kill(pid, SIGTERM);
    process_wake(pid);
}

const char *describe_exit(int wait_status, char *buf, size_t size)
{
    if (WIFSIGNALED(wait_status))
        snprintf(buf, size, "was ended by signal %d (%s)", WTERMSIG(wait_status), strsignal(WTERMSIG(wait_status)));
    else
        snprintf(buf, size, "exited with code %d", WEXITSTATUS(wait_status));
    return buf;
}
