/* child.h - starting a process and knowing it again. */
#ifndef BATON_CLI_CHILD_H
#define BATON_CLI_CHILD_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/process.h"
#include "common/status.h"

struct child_options {
    char *const *argv;    /* argv[0] is looked up in PATH when it has no slash */
    const char *log_path; /* appended to by standard output and error; NULL: inherited */
    int ready_fd;         /* given to the child as BATON_READY_FD; -1: none */
};

/* In a process group of its own, without the caller's signal mask, and told SIGTERM should the caller die. */
MUST_CHECK status child_spawn(const struct child_options *options, pid_t *pid, struct error *err);
/* Runs to the end; what it writes on both outputs is kept, cut to size. *code: exit code, or 128 + signal. */
MUST_CHECK status child_run(char *const argv[], char *output, size_t size, int *code, struct error *err);

/* SIGTERM, and SIGCONT to a process that is stopped: it would not hear it otherwise. Others get no SIGCONT: it would
 * undo the stop of a tracer that attaches at that moment, as a leak check at exit does. */
void process_terminate(pid_t pid);
/* SIGCONT to a process that is stopped. */
void process_wake(pid_t pid);
/* "exited with code 1", "was ended by signal 9 (Killed)". Returns buf. */
const char *describe_exit(int wait_status, char *buf, size_t size);

#endif
