/* Work on the pool's threads, told on the loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "router/tokenize_pool.h"

#define JOBS 500

struct counted_job {
    struct tokenize_job job;
    int ran, told;
    bool on_loop_thread;
};

static struct loop *loop;
static struct counted_job jobs[JOBS];
static atomic_int n_ran;
static int n_told;
static pthread_t loop_thread;

static void run(struct tokenize_job *arg)
{
    struct counted_job *job = (struct counted_job *)arg;
    job->ran++;
    job->on_loop_thread = pthread_equal(pthread_self(), loop_thread);
    atomic_fetch_add(&n_ran, 1);
}

static void done(struct tokenize_job *arg)
{
    struct counted_job *job = (struct counted_job *)arg;
    job->told++;
    assert_true(pthread_equal(pthread_self(), loop_thread));
    if (++n_told == JOBS)
        loop_stop(loop);
}

static int reset(void **state)
{
    (void)state;
    n_told = 0;
    n_ran = 0;
    loop_thread = pthread_self();
    for (int i = 0; i < JOBS; i++)
        jobs[i] = (struct counted_job){ .job = { .run = run, .done = done } };
    return loop_create(&loop) == ST_OK ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    loop_destroy(&loop);
    return 0;
}

static void test_all_run_and_are_told_once(void **state)
{
    (void)state;
    struct tokenize_pool *pool;
    assert_int_equal(tokenize_pool_create(loop, 4, &pool), ST_OK);
    for (int i = 0; i < JOBS; i++)
        assert_int_equal(tokenize_pool_submit(pool, &jobs[i].job), ST_OK);
    assert_int_equal(tokenize_pool_pending(pool), JOBS);
    loop_run(loop);
    for (int i = 0; i < JOBS; i++) {
        assert_int_equal(jobs[i].ran, 1);
        assert_int_equal(jobs[i].told, 1);
        assert_false(jobs[i].on_loop_thread);
    }
    assert_int_equal(tokenize_pool_pending(pool), 0);
    tokenize_pool_destroy(&pool);
    assert_null(pool);
}

static void test_destroy_tells_what_is_left(void **state)
{
    (void)state;
    struct tokenize_pool *pool;
    assert_int_equal(tokenize_pool_create(loop, 2, &pool), ST_OK);
    for (int i = 0; i < JOBS; i++)
        assert_int_equal(tokenize_pool_submit(pool, &jobs[i].job), ST_OK);
    tokenize_pool_destroy(&pool);
    assert_int_equal(n_told, JOBS);
    for (int i = 0; i < JOBS; i++)
        assert_true(jobs[i].told == 1 && jobs[i].ran <= 1);
}

static void test_full(void **state)
{
    (void)state;
    static struct counted_job many[TOKENIZE_POOL_MAX_QUEUED + 1];
    struct tokenize_pool *pool;
    assert_int_equal(tokenize_pool_create(loop, 0, &pool), ST_OK);
    for (int i = 0; i <= TOKENIZE_POOL_MAX_QUEUED; i++) {
        many[i] = (struct counted_job){ .job = { .run = run, .done = done } };
        assert_int_equal(tokenize_pool_submit(pool, &many[i].job), i < TOKENIZE_POOL_MAX_QUEUED ? ST_OK : ST_AGAIN);
    }
    tokenize_pool_destroy(&pool);
    assert_int_equal(n_told, TOKENIZE_POOL_MAX_QUEUED);
    assert_int_equal(n_ran, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, reset, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_all_run_and_are_told_once),
        TEST(test_destroy_tells_what_is_left),
        TEST(test_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
