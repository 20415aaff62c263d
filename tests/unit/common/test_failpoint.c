/* What each action does, in threads and in children of this process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/failpoint.h"

#ifdef BATON_FAILPOINTS

static struct error err;

static int reset(void **state)
{
    (void)state;
    failpoint_reset();
    return 0;
}

static void test_nothing_is_armed_at_first(void **state)
{
    (void)state;
    assert_int_equal(FAILPOINT("a"), FAILPOINT_NONE);
    struct text_buffer out;
    text_buffer_init(&out, 1000);
    failpoint_write_json(&out);
    assert_string_equal(text_buffer_text(&out), "[]");
    text_buffer_free(&out);
}

static void test_drop_and_flip_are_for_the_caller(void **state)
{
    (void)state;
    assert_int_equal(failpoint_arm("a=drop;b.c=flip", &err), ST_OK);
    assert_int_equal(FAILPOINT("a"), FAILPOINT_DROP);
    assert_int_equal(FAILPOINT("b.c"), FAILPOINT_FLIP);
    assert_int_equal(FAILPOINT("d"), FAILPOINT_NONE);
    assert_int_equal(failpoint_arm("a=off", &err), ST_OK);
    assert_int_equal(FAILPOINT("a"), FAILPOINT_NONE);
    assert_int_equal(FAILPOINT("b.c"), FAILPOINT_FLIP);
}

static void test_after_and_times(void **state)
{
    (void)state;
    assert_int_equal(failpoint_arm("a=drop,after=3,times=2", &err), ST_OK);
    const enum failpoint_action expected[] = { FAILPOINT_NONE, FAILPOINT_NONE, FAILPOINT_DROP,
                                               FAILPOINT_DROP, FAILPOINT_NONE, FAILPOINT_NONE };
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        assert_int_equal(FAILPOINT("a"), expected[i]);
    /* Armed again, it counts from there. */
    assert_int_equal(failpoint_arm("a=drop,times=1", &err), ST_OK);
    assert_int_equal(FAILPOINT("a"), FAILPOINT_DROP);
    assert_int_equal(FAILPOINT("a"), FAILPOINT_NONE);
}

static void test_the_table_as_json(void **state)
{
    (void)state;
    assert_int_equal(failpoint_arm("a=pause(100),after=5,times=2; b=observe;", &err), ST_OK);
    FAILPOINT("a");
    FAILPOINT("b");
    FAILPOINT("b");
    FAILPOINT("c");
    struct text_buffer out;
    text_buffer_init(&out, 1000);
    failpoint_write_json(&out);
    assert_string_equal(text_buffer_text(&out),
                        "[{\"name\":\"a\",\"hits\":1,\"acted\":0,\"armed\":\"pause(100),after=5,times=2\"},"
                        "{\"name\":\"b\",\"hits\":2,\"acted\":2,\"armed\":\"observe\"},"
                        "{\"name\":\"c\",\"hits\":1,\"acted\":0,\"armed\":null}]");
    text_buffer_free(&out);
}

static void test_wrong_texts_change_nothing(void **state)
{
    (void)state;
    static const char *const texts[] = { "a",
                                         "a=",
                                         "=drop",
                                         "a=fall",
                                         "a=pause",
                                         "a=pause()",
                                         "a=pause(1",
                                         "a=pause(-1)",
                                         "a=drop(1)",
                                         "a=drop,after=0",
                                         "a=drop,x=1",
                                         "a=drop,after",
                                         "a=sleep(9999999999)",
                                         "b=drop;a=fall",
                                         "a=drop b" };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (failpoint_arm(texts[i], &err) != ST_INVALID)
            fail_msg("\"%s\" is accepted", texts[i]);
    assert_int_equal(FAILPOINT("b"), FAILPOINT_NONE);
    assert_int_equal(failpoint_arm("", &err), ST_OK);
    assert_false(atomic_load(&failpoint_any));
}

static void test_sleep(void **state)
{
    (void)state;
    assert_int_equal(failpoint_arm("a=sleep(30)", &err), ST_OK);
    uint64_t before = clock_now_us();
    FAILPOINT("a");
    assert_true(clock_now_us() - before >= 30000);
}

static void *hit(void *arg)
{
    FAILPOINT(arg);
    return NULL;
}

static bool is_hit(const char *name)
{
    struct text_buffer page;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "\"name\":\"%s\",\"hits\":1,", name);
    text_buffer_init(&page, 4096);
    failpoint_write_json(&page);
    bool hit = strstr(text_buffer_text(&page), wanted) != NULL;
    text_buffer_free(&page);
    return hit;
}

/* Only the thread that hits it stops, and it goes on when the failpoint is set off. */
static void test_pause_ends_when_it_is_set_off(void **state)
{
    (void)state;
    pthread_t thread;
    char name[] = "a";
    assert_int_equal(failpoint_arm("a=pause(600000)", &err), ST_OK);
    assert_int_equal(pthread_create(&thread, NULL, hit, name), 0);
    for (int i = 0; i < 3000 && !is_hit("a"); i++)
        usleep(1000);
    assert_true(is_hit("a"));
    assert_int_equal(failpoint_arm("b=drop", &err), ST_OK); /* no matter to a */
    usleep(20000);                                          /* in which it could go on */
    assert_int_equal(pthread_tryjoin_np(thread, NULL), EBUSY);
    assert_int_equal(failpoint_arm("a=off", &err), ST_OK);
    pthread_join(thread, NULL);
}

static void test_pause_ends_by_itself(void **state)
{
    (void)state;
    assert_int_equal(failpoint_arm("a=pause(20)", &err), ST_OK);
    uint64_t before = clock_now_us();
    FAILPOINT("a");
    assert_true(clock_now_us() - before >= 19000);
}

static pid_t child_that_hits(const char *text)
{
    pid_t pid = fork();
    if (pid == 0) {
        setenv("BATON_FAILPOINTS", text, 1);
        if (failpoint_arm_from_environment(&err) != ST_OK)
            _exit(3);
        FAILPOINT("a");
        _exit(0);
    }
    return pid;
}

static void test_kill(void **state)
{
    (void)state;
    int how;
    pid_t pid = child_that_hits("a=kill");
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
}

static void test_freeze(void **state)
{
    (void)state;
    int how;
    pid_t pid = child_that_hits("a=freeze");
    assert_int_equal(waitpid(pid, &how, WUNTRACED), pid);
    assert_true(WIFSTOPPED(how));
    kill(pid, SIGCONT);
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
}

static void test_the_table_is_bounded(void **state)
{
    (void)state;
    char text[64];
    for (int i = 0; i < FAILPOINT_MAX; i++) {
        snprintf(text, sizeof text, "name-%d=observe", i);
        assert_int_equal(failpoint_arm(text, &err), ST_OK);
    }
    assert_int_equal(failpoint_arm("one-more=drop", &err), ST_LIMIT);
    assert_int_equal(FAILPOINT("one-more"), FAILPOINT_NONE);
    assert_int_equal(failpoint_arm("name-7=drop", &err), ST_OK);
    assert_int_equal(FAILPOINT("name-7"), FAILPOINT_DROP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_nothing_is_armed_at_first, reset),
        cmocka_unit_test_setup(test_drop_and_flip_are_for_the_caller, reset),
        cmocka_unit_test_setup(test_after_and_times, reset),
        cmocka_unit_test_setup(test_the_table_as_json, reset),
        cmocka_unit_test_setup(test_wrong_texts_change_nothing, reset),
        cmocka_unit_test_setup(test_sleep, reset),
        cmocka_unit_test_setup(test_pause_ends_when_it_is_set_off, reset),
        cmocka_unit_test_setup(test_pause_ends_by_itself, reset),
        cmocka_unit_test_setup(test_kill, reset),
        cmocka_unit_test_setup(test_freeze, reset),
        cmocka_unit_test_setup(test_the_table_is_bounded, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

static void test_a_failpoint_does_nothing_in_this_build(void **state)
{
    (void)state;
    assert_int_equal(FAILPOINT("a"), FAILPOINT_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_a_failpoint_does_nothing_in_this_build) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
