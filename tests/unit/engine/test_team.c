#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/team.h"

#define MAX_ITEMS 3000u

struct tally {
    _Atomic uint32_t times[MAX_ITEMS];
    _Atomic uint32_t inside[TEAM_MAX_THREADS]; /* items that a thread index is in */
    uint32_t n_threads;
    _Atomic uint32_t wrong;
};

static void count_item(void *ctx, uint32_t item, uint32_t thread)
{
    struct tally *t = ctx;
    if (thread >= t->n_threads || atomic_fetch_add(&t->inside[thread], 1) != 0)
        atomic_fetch_add(&t->wrong, 1);
    atomic_fetch_add(&t->times[item], 1);
    for (volatile uint32_t i = 0; i < item % 50; i++)
        ;
    atomic_fetch_sub(&t->inside[thread], 1);
}

static void check_jobs(uint32_t n_threads)
{
    struct team *team = NULL;
    struct error err;
    static struct tally tally;
    uint64_t items = 0;
    assert_int_equal(team_create(n_threads, NULL, &team, &err), ST_OK);
    assert_int_equal(team_threads(team), n_threads);
    for (uint32_t job = 0; job < 2000; job++) {
        uint32_t n = job % 7 == 0 ? job % MAX_ITEMS : job % 9;
        memset(&tally, 0, sizeof tally);
        tally.n_threads = n_threads;
        team_run(team, count_item, &tally, n);
        items += n;
        assert_int_equal(atomic_load(&tally.wrong), 0);
        for (uint32_t i = 0; i < n; i++)
            assert_int_equal(atomic_load(&tally.times[i]), 1);
        assert_int_equal(atomic_load(&tally.times[n]), 0);
        assert_int_equal(team_progress(team), items);
    }
    team_destroy(&team);
    assert_null(team);
    team_destroy(&team);
}

static void test_each_item_once(void **state)
{
    (void)state;
    check_jobs(1);
    check_jobs(2);
    check_jobs(3);
    check_jobs(8);
}

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

static void nothing(void *ctx, uint32_t item, uint32_t thread)
{
    (void)ctx;
    (void)item;
    (void)thread;
}

/* Jobs after a sleep, and a caller that waits for a slow member. */
static void slow_second(void *ctx, uint32_t item, uint32_t thread)
{
    (void)ctx;
    (void)thread;
    if (item == 1)
        sleep_ms(3);
}

static void test_idle_threads_sleep(void **state)
{
    (void)state;
    struct team *team = NULL;
    assert_int_equal(team_create(4, NULL, &team, NULL), ST_OK);
    team_run(team, nothing, NULL, 100);
    sleep_ms(20);
    double before = seconds(CLOCK_PROCESS_CPUTIME_ID);
    sleep_ms(200);
    double used = seconds(CLOCK_PROCESS_CPUTIME_ID) - before;
    assert_true(used < 0.02);
    before = seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < 50; i++)
        team_run(team, slow_second, NULL, 2);
    used = seconds(CLOCK_PROCESS_CPUTIME_ID) - before;
    assert_true(used < 0.1);
    team_destroy(&team);
}

static void test_bounds(void **state)
{
    (void)state;
    struct team *team = NULL;
    struct error err;
    assert_int_equal(team_create(0, NULL, &team, &err), ST_INVALID);
    assert_int_equal(team_create(TEAM_MAX_THREADS + 1, NULL, &team, &err), ST_INVALID);
    assert_null(team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_item_once),
        cmocka_unit_test(test_idle_threads_sleep),
        cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
