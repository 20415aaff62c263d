/* Processes: output, exit, identity, and the death of their parent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/child.h"

static struct error err;

static char *const *shell(const char *script)
{
    static char *argv[4];
    argv[0] = (char *)"sh";
    argv[1] = (char *)"-c";
    argv[2] = (char *)script;
    return argv;
}

static void output_and_exit_code(void **state)
{
    (void)state;
    char output[16];
    int code;
    assert_int_equal(child_run(shell("echo out; echo err >&2; exit 7"), output, sizeof output, &code, &err), ST_OK);
    assert_string_equal(output, "out\nerr\n");
    assert_int_equal(code, 7);
    assert_int_equal(child_run(shell("kill -9 $$"), output, sizeof output, &code, &err), ST_OK);
    assert_int_equal(code, 137);
    /* Output beyond the buffer is read and dropped, so that nobody blocks on a full pipe. */
    assert_int_equal(child_run(shell("i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done"), output,
                               sizeof output, &code, &err),
                     ST_OK);
    assert_int_equal(code, 0);
    assert_int_equal(strlen(output), 15);
    char *const missing[] = { (char *)"/no/such/program", NULL };
    assert_int_equal(child_run(missing, output, sizeof output, &code, &err), ST_OK);
    assert_int_equal(code, 127);
}

static void a_log_is_appended_to(void **state)
{
    (void)state;
    char path[] = "/tmp/baton-child-XXXXXX", text[64] = "";
    int fd = mkstemp(path), wait_status;
    pid_t pid;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(
            child_spawn(&(struct child_options){ shell("echo $((1+1)); echo oh >&2"), path, -1 }, &pid, &err), ST_OK);
        assert_int_equal(waitpid(pid, &wait_status, 0), pid);
    }
    assert_int_equal(read(fd, text, sizeof text), 10);
    assert_string_equal(text, "2\noh\n2\noh\n");
    close(fd);
    unlink(path);
}

static void the_ready_descriptor_is_handed_on(void **state)
{
    (void)state;
    int fds[2], wait_status;
    char text[8] = "";
    pid_t pid;
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(
        child_spawn(&(struct child_options){ shell("eval \"echo yes >&$BATON_READY_FD\""), NULL, fds[1] }, &pid, &err),
        ST_OK);
    close(fds[1]);
    assert_int_equal(read(fds[0], text, sizeof text), 4);
    assert_string_equal(text, "yes\n");
    close(fds[0]);
    assert_int_equal(waitpid(pid, &wait_status, 0), pid);
}

static void a_process_is_known_by_its_start(void **state)
{
    (void)state;
    int wait_status;
    pid_t pid;
    char how[96];
    assert_int_equal(child_spawn(&(struct child_options){ shell("sleep 100"), NULL, -1 }, &pid, &err), ST_OK);
    uint64_t start = process_start_ticks(pid);
    assert_true(start > 0);
    assert_true(process_is_alive(pid, start));
    assert_false(process_is_alive(pid, start + 1)); /* another process with the same number */
    kill(pid, SIGKILL);
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    assert_false(process_is_alive(pid, start)); /* a zombie */
    assert_int_equal(waitpid(pid, &wait_status, 0), pid);
    assert_int_equal(process_start_ticks(pid), 0);
    assert_string_equal(describe_exit(wait_status, how, sizeof how), "was ended by signal 9 (Killed)");
    assert_string_equal(describe_exit(3 << 8, how, sizeof how), "exited with code 3");
}

/* A middle process starts a grandchild and is killed. */
/* What was forked has become the program. */
static bool runs_as(pid_t pid, const char *name)
{
    char path[64], comm[32] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return false;
    bool same = fgets(comm, sizeof comm, f) && !strncmp(comm, name, strlen(name)) && comm[strlen(name)] == '\n';
    fclose(f);
    return same;
}

static void children_end_with_their_parent(void **state)
{
    (void)state;
    int fds[2], wait_status;
    pid_t grandchild = 0;
    assert_int_equal(pipe(fds), 0);
    pid_t middle = fork();
    if (middle == 0) {
        pid_t pid = 0;
        if (child_spawn(&(struct child_options){ shell("trap 'exit 0' TERM; while :; do sleep 0.05; done"), NULL, -1 },
                        &pid, &err) != ST_OK ||
            write(fds[1], &pid, sizeof pid) != (ssize_t)sizeof pid)
            _exit(1);
        for (;;)
            pause();
    }
    assert_int_equal(read(fds[0], &grandchild, sizeof grandchild), sizeof grandchild);
    uint64_t start = process_start_ticks(grandchild);
    for (int i = 0; i < 200 && !runs_as(grandchild, "sh"); i++)
        usleep(20000);
    assert_true(runs_as(grandchild, "sh") && process_is_alive(grandchild, start));
    kill(middle, SIGKILL);
    assert_int_equal(waitpid(middle, &wait_status, 0), middle);
    for (int i = 0; i < 200 && process_is_alive(grandchild, start); i++)
        usleep(20000);
    assert_false(process_is_alive(grandchild, start));
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_and_exit_code),
        cmocka_unit_test(a_log_is_appended_to),
        cmocka_unit_test(the_ready_descriptor_is_handed_on),
        cmocka_unit_test(a_process_is_known_by_its_start),
        cmocka_unit_test(children_end_with_their_parent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
