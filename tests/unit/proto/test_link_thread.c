/* ZeroMQ's thread is found, and preempts nobody while the loop polls. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <unistd.h>
#include <zmq.h>

#include "proto/link_thread.h"

static void test_without_a_thread(void **state)
{
    struct link_thread thread = { 0 };
    (void)state;
    link_thread_on_poll(&thread, true);
    assert_int_equal(thread.id, 0);
    assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
}

static void test_it_is_a_batch_thread_while_the_loop_polls(void **state)
{
    struct link_thread thread = { 0 };
    (void)state;
    void *zmq = zmq_ctx_new(), *socket = zmq_socket(zmq, ZMQ_DEALER); /* with the first socket its threads start */
    assert_non_null(socket);
    /* A thread names itself, a little later. */
    for (int i = 0; i < 2000 && !thread.id; i++) {
        thread.searched = false;
        link_thread_on_poll(&thread, true);
        usleep(1000);
    }
    assert_true(thread.id > 0 && thread.id != getpid());
    assert_int_equal(sched_getscheduler(thread.id), SCHED_BATCH);
    link_thread_on_poll(&thread, false);
    assert_int_equal(sched_getscheduler(thread.id), SCHED_OTHER);
    assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
    zmq_close(socket);
    zmq_ctx_term(zmq);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_a_thread),
        cmocka_unit_test(test_it_is_a_batch_thread_while_the_loop_polls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
