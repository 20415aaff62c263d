/* Who is in the cluster: ids, states, who leaves first, back-off. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/roster.h"

static struct roster *roster;

static int fresh(void **state)
{
    (void)state;
    roster = calloc(1, sizeof *roster);
    return roster ? 0 : -1;
}

static int gone(void **state)
{
    (void)state;
    free(roster);
    return 0;
}

static struct member *add(enum role role, uint32_t model)
{
    struct member *m = NULL;
    assert_int_equal(roster_add(roster, role, model, &m), ST_OK);
    return m;
}

static struct member *add_ready(enum role role, uint32_t model)
{
    struct member *m = add(role, model);
    member_enter(m, MEMBER_STARTING);
    member_enter(m, MEMBER_READY);
    m->pid = 1000 + (pid_t)m->number;
    return m;
}

static void leave(struct member *m)
{
    member_enter(m, MEMBER_DRAINING);
    m->pid = 0;
    member_enter(m, MEMBER_GONE);
}

static void ids_count_per_role_and_are_reused(void **state)
{
    (void)state;
    assert_string_equal(add(ROLE_ETCD, 0)->id, "etcd");
    assert_string_equal(add_ready(ROLE_DECODE, 0)->id, "decode-0");
    struct member *second = add_ready(ROLE_DECODE, 1);
    assert_string_equal(second->id, "decode-1");
    assert_string_equal(add_ready(ROLE_DECODE, 0)->id, "decode-2");
    assert_string_equal(add_ready(ROLE_PREFILL, 0)->id, "prefill-0");
    member_enter(second, MEMBER_DRAINING);
    assert_string_equal(add_ready(ROLE_DECODE, 0)->id, "decode-3"); /* the draining one still has its name */
    second->pid = 0;
    member_enter(second, MEMBER_GONE);
    assert_null(roster_find(roster, "decode-1"));
    struct member *again = add_ready(ROLE_DECODE, 0);
    assert_string_equal(again->id, "decode-1");
    assert_ptr_equal(again, second); /* and its slot */
}

static void a_full_roster_refuses(void **state)
{
    (void)state;
    struct member *m;
    for (int i = 0; i < ROSTER_MAX; i++)
        add(ROLE_DECODE, 0);
    assert_int_equal(roster_add(roster, ROLE_DECODE, 0, &m), ST_LIMIT);
}

static void who_is_not_ready_leaves_first(void **state)
{
    (void)state;
    add_ready(ROLE_DECODE, 0);
    add_ready(ROLE_DECODE, 0);
    struct member *starting = add(ROLE_DECODE, 0), *last = add_ready(ROLE_DECODE, 0);
    add_ready(ROLE_DECODE, 1);
    assert_int_equal(roster_count_active(roster, ROLE_DECODE, 0), 4);
    assert_ptr_equal(roster_dispensable(roster, ROLE_DECODE, 0), starting);
    member_enter(starting, MEMBER_GONE);
    assert_ptr_equal(roster_dispensable(roster, ROLE_DECODE, 0), last);
    leave(last);
    assert_string_equal(roster_dispensable(roster, ROLE_DECODE, 0)->id, "decode-1");
    assert_int_equal(roster_count_active(roster, ROLE_DECODE, 0), 2);
    assert_null(roster_dispensable(roster, ROLE_PREFILL, 0));
}

static void empty_means_no_process(void **state)
{
    (void)state;
    assert_true(roster_is_empty_of(roster, ROLE_DECODE));
    struct member *m = add_ready(ROLE_DECODE, 0);
    assert_false(roster_is_empty_of(roster, ROLE_DECODE));
    assert_ptr_equal(roster_of_pid(roster, m->pid), m);
    assert_true(roster_is_empty_of(roster, ROLE_PREFILL));
    leave(m);
    assert_true(roster_is_empty_of(roster, ROLE_DECODE));
}

static void illegal_moves_abort(void **state)
{
    (void)state;
    struct member *m = add(ROLE_DECODE, 0);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL); /* cmocka catches it otherwise */
        if (!freopen("/dev/null", "w", stderr))
            _exit(3);
        member_enter(m, MEMBER_READY); /* without having been started */
        _exit(0);
    }
    int wait_status;
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    assert_true(WIFSIGNALED(wait_status));
}

static void back_off_doubles_up_to_a_bound(void **state)
{
    (void)state;
    assert_int_equal(restart_delay_us(1), RESTART_DELAY_MIN_US);
    assert_int_equal(restart_delay_us(2), 2 * RESTART_DELAY_MIN_US);
    assert_int_equal(restart_delay_us(4), 8 * RESTART_DELAY_MIN_US);
    assert_int_equal(restart_delay_us(30), RESTART_DELAY_MAX_US);
    assert_int_equal(restart_delay_us(UINT32_MAX), RESTART_DELAY_MAX_US);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ids_count_per_role_and_are_reused, fresh, gone),
        cmocka_unit_test_setup_teardown(a_full_roster_refuses, fresh, gone),
        cmocka_unit_test_setup_teardown(who_is_not_ready_leaves_first, fresh, gone),
        cmocka_unit_test_setup_teardown(empty_means_no_process, fresh, gone),
        cmocka_unit_test_setup_teardown(illegal_moves_abort, fresh, gone),
        cmocka_unit_test(back_off_doubles_up_to_a_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
