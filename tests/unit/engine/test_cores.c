/* Processors are claimed by one team at a time, and threads run where they are bound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "engine/cores.h"
#include "engine/team.h"

static cpu_set_t usable_set(void)
{
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    return set;
}

static void lists_each_usable_processor_once(void **state)
{
    (void)state;
    uint32_t list[CORES_MAX];
    cpu_set_t left = usable_set();
    uint32_t n = cores_list(list);
    assert_int_equal(n, CPU_COUNT(&left));
    for (uint32_t i = 0; i < n; i++) {
        assert_true(CPU_ISSET(list[i], &left));
        CPU_CLR(list[i], &left);
    }
}

static void follows_the_affinity(void **state)
{
    (void)state;
    uint32_t list[CORES_MAX];
    cpu_set_t all = usable_set(), one;
    uint32_t last = cores_list(list) - 1, wanted = list[last];
    CPU_ZERO(&one);
    CPU_SET(wanted, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(cores_list(list), 1);
    assert_int_equal(list[0], wanted);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

/* Other processes of this machine may hold claims meanwhile: those of one process at a time are looked at. */
static void claims_exclude_each_other(void **state)
{
    (void)state;
    cpu_set_t set = usable_set();
    struct cores a, b;
    assert_false(cores_claim(0, &a));
    assert_false(cores_claim((uint32_t)CPU_COUNT(&set) + 1, &a));
    assert_int_equal(a.n, 0);
    if (!cores_claim(1, &a))
        skip();
    if (cores_claim(1, &b)) {
        assert_int_not_equal(a.processors[0], b.processors[0]);
        cores_release(&b);
    }
    assert_false(cores_claim((uint32_t)CPU_COUNT(&set), &b)); /* one is taken */
    assert_null(b.processors);
    cores_release(&a);
    cores_release(&a);
}

struct places {
    _Atomic uint32_t wrong;
    const uint32_t *processors;
};

static void look(void *ctx, uint32_t item, uint32_t thread)
{
    struct places *p = ctx;
    cpu_set_t set;
    (void)item;
    sched_getaffinity(0, sizeof set, &set);
    if (CPU_COUNT(&set) != 1 || !CPU_ISSET(p->processors[thread], &set))
        p->wrong++;
    usleep(100);
}

static void threads_run_where_they_are_bound(void **state)
{
    (void)state;
    uint32_t list[CORES_MAX];
    uint32_t n = cores_list(list) > 1 ? 2 : 1;
    struct places places = { 0, list };
    struct team *team = NULL;
    struct error err;
    cpu_set_t all = usable_set();
    assert_int_equal(team_create(n, list, &team, &err), ST_OK);
    team_enter(team);
    team_run(team, look, &places, 100);
    assert_int_equal(places.wrong, 0);
    team_destroy(&team);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_each_usable_processor_once),
        cmocka_unit_test(follows_the_affinity),
        cmocka_unit_test(claims_exclude_each_other),
        cmocka_unit_test(threads_run_where_they_are_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
