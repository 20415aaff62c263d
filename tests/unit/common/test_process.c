/* Names of processes, and whether those live. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/process.h"

/* A child that waits to be killed, and its name. */
static pid_t start_child(char name[PROCESS_NAME_BYTES])
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        process_name(name);
        if (write(fds[1], name, PROCESS_NAME_BYTES) != PROCESS_NAME_BYTES)
            _exit(1);
        for (;;)
            pause();
    }
    assert_int_equal(read(fds[0], name, PROCESS_NAME_BYTES), PROCESS_NAME_BYTES);
    close(fds[0]);
    close(fds[1]);
    return pid;
}

static void a_name_tells_whether_its_process_lives(void **state)
{
    (void)state;
    char self[PROCESS_NAME_BYTES], child[PROCESS_NAME_BYTES];
    assert_int_equal(process_life(process_name(self)), PROCESS_LIVES);
    pid_t pid = start_child(child);
    assert_string_not_equal(self, child);
    assert_int_equal(process_life(child), PROCESS_LIVES);
    kill(pid, SIGSTOP);
    assert_int_equal(waitpid(pid, NULL, WUNTRACED), pid);
    assert_true(process_is_stopped(pid));
    assert_int_equal(process_life(child), PROCESS_LIVES);
    kill(pid, SIGKILL);
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(process_life(child), PROCESS_ENDED); /* a zombie */
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(process_life(child), PROCESS_ENDED);
}

static void another_with_its_number_is_another(void **state)
{
    (void)state;
    char name[PROCESS_NAME_BYTES];
    process_name(name);
    strcat(name, "0"); /* it started later */
    assert_int_equal(process_life(name), PROCESS_ENDED);
}

static void elsewhere_nothing_can_be_told(void **state)
{
    (void)state;
    static const char *const none[] = { "", "x", "/", "some-boot/pid:[4026531836]/1/2" };
    char name[PROCESS_NAME_BYTES];
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        assert_int_equal(process_life(none[i]), PROCESS_ELSEWHERE);
    process_name(name);
    name[0] = name[0] == 'f' ? '0' : 'f'; /* another boot */
    assert_int_equal(process_life(name), PROCESS_ELSEWHERE);
    process_name(name);
    strcat(name, "x");
    assert_int_equal(process_life(name), PROCESS_ELSEWHERE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_tells_whether_its_process_lives),
        cmocka_unit_test(another_with_its_number_is_another),
        cmocka_unit_test(elsewhere_nothing_can_be_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
