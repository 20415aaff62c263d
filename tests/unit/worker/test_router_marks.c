/* How far each router was seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "worker/router_marks.h"

static Baton__RouterMark find(struct router_marks *marks, uint64_t router)
{
    Baton__Load load = BATON__LOAD__INIT;
    router_marks_fill(marks, &load);
    for (size_t i = 0; i < load.n_marks; i++)
        if (load.marks[i]->router == router)
            return *load.marks[i];
    return (Baton__RouterMark)BATON__ROUTER_MARK__INIT;
}

static uint64_t mark_of(struct router_marks *marks, uint64_t router)
{
    return find(marks, router).dispatch;
}

static void test_marks_only_rise(void **state)
{
    (void)state;
    struct router_marks marks = { .n = 0 };
    router_marks_note(&marks, 7, 0); /* a router that does not number */
    assert_int_equal(marks.n, 0);
    router_marks_note(&marks, 7, 5);
    router_marks_note(&marks, 8, 2);
    router_marks_note(&marks, 7, 3); /* a repeat */
    assert_int_equal(mark_of(&marks, 7), 5);
    assert_int_equal(mark_of(&marks, 8), 2);
    assert_int_equal(marks.n, 2);
}

static void test_the_silent_one_makes_room(void **state)
{
    (void)state;
    struct router_marks marks = { .n = 0 };
    for (uint64_t router = 1; router <= ROUTER_MARKS; router++)
        router_marks_note(&marks, router, 100);
    router_marks_note(&marks, 1, 101);
    router_marks_note(&marks, 1000, 1);
    assert_int_equal(marks.n, ROUTER_MARKS);
    assert_int_equal(mark_of(&marks, 1000), 1); /* not what its predecessor had */
    assert_int_equal(mark_of(&marks, 2), 0);
    assert_int_equal(mark_of(&marks, 1), 101);
}

/* Shares are those of one load; who numbers nothing has one all the same. */
static void test_shares_are_counted_anew(void **state)
{
    (void)state;
    struct router_marks marks = { .n = 0 };
    router_marks_note(&marks, 7, 5);
    router_marks_add_queued(&marks, 7, 100);
    router_marks_add_queued(&marks, 8, 30);
    router_marks_add_queued(&marks, 7, 1);
    router_marks_add_queued(&marks, 9, 0);
    assert_int_equal(marks.n, 2);
    assert_int_equal(find(&marks, 7).queued_tokens, 101);
    assert_int_equal(find(&marks, 8).queued_tokens, 30);
    assert_int_equal(mark_of(&marks, 8), 0);
    router_marks_clear_queued(&marks);
    router_marks_add_queued(&marks, 8, 2);
    assert_int_equal(find(&marks, 7).queued_tokens, 0);
    assert_int_equal(find(&marks, 8).queued_tokens, 2);
    assert_int_equal(mark_of(&marks, 7), 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_marks_only_rise),
        cmocka_unit_test(test_the_silent_one_makes_room),
        cmocka_unit_test(test_shares_are_counted_anew),
    };
    return cmocka_run_group_tests_name("router marks", tests, NULL, NULL);
}
