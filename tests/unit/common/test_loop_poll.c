/* When a loop polls: while it pays, for a bounded share of the time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/loop_poll.h"

#define WINDOW_US 100u

/* What comes gap_us after the last, n times: each is looked for a microsecond at a time as long as p polls. */
struct run {
    uint64_t now, polls, found;
};

static void come(struct loop_poll *p, struct run *r, uint64_t gap_us, uint64_t n)
{
    while (n-- > 0) {
        uint64_t due = r->now + gap_us;
        bool polls = loop_poll_turn(p, r->now, r->now);
        r->polls += polls;
        while (polls && r->now < due) {
            r->now++;
            polls = loop_poll_turn(p, r->now == due ? due : 0, r->now);
            r->found += r->now == due;
        }
        r->now = due;
    }
}

static struct loop_poll poll_of(struct run *r, uint64_t window_us)
{
    struct loop_poll p;
    *r = (struct run){ .now = 1000000 };
    loop_poll_init(&p, window_us, r->now - 100 * WINDOW_US * LOOP_POLL_SHARE);
    return p;
}

static void test_without_a_window_it_never_polls(void **state)
{
    struct run r;
    struct loop_poll p = poll_of(&r, 0);
    (void)state;
    come(&p, &r, 10, 1000);
    assert_int_equal(r.polls, 0);
    assert_int_equal(p.polled_us, 0);
}

static void test_a_poll_ends_with_its_window(void **state)
{
    struct run r;
    struct loop_poll p = poll_of(&r, WINDOW_US);
    (void)state;
    assert_false(loop_poll_turn(&p, 0, 1000)); /* nothing has come */
    assert_true(loop_poll_turn(&p, 2000, 2000));
    assert_true(loop_poll_turn(&p, 0, 2000 + WINDOW_US - 1));
    assert_false(loop_poll_turn(&p, 0, 2000 + WINDOW_US));
    assert_int_equal(p.polled_us, WINDOW_US);
}

/* Only what was waited for counts as found, from when it came. */
static void test_what_comes_ends_a_poll_and_begins_the_next(void **state)
{
    struct run r;
    struct loop_poll p = poll_of(&r, WINDOW_US);
    (void)state;
    assert_true(loop_poll_turn(&p, r.now, r.now));
    assert_true(loop_poll_turn(&p, r.now + 30, r.now + 50));
    assert_int_equal(p.polled_us, 30);
    assert_int_equal(p.score, 1);
    assert_true(loop_poll_turn(&p, 0, r.now + 50 + WINDOW_US - 1));
    assert_false(loop_poll_turn(&p, 0, r.now + 50 + WINDOW_US));
    assert_int_equal(p.polled_us, 30 + WINDOW_US);
    assert_int_equal(p.score, 0);
}

static void test_it_gives_up_where_nothing_comes_in_time(void **state)
{
    struct run r;
    struct loop_poll p = poll_of(&r, WINDOW_US);
    (void)state;
    come(&p, &r, 20, 200);
    uint64_t before = r.polls;
    come(&p, &r, 10000, LOOP_POLL_PROBED * 10);
    assert_true(r.polls - before <= 10 + LOOP_POLL_SURE / LOOP_POLL_MISS);
    assert_true(r.polls - before >= 10); /* it looks now and then whether it pays again */
    uint64_t found = r.found;
    come(&p, &r, 20, 200);
    assert_true(r.found - found > 50);
}

/* Who else needs the processor gets it: no polls for a while, then one to see. */
static void test_it_rests_when_others_need_the_processor(void **state)
{
    struct run r;
    struct loop_poll p = poll_of(&r, WINDOW_US);
    (void)state;
    assert_true(loop_poll_turn(&p, r.now, r.now));
    assert_true(loop_poll_yielded(&p, WINDOW_US - 1, r.now + WINDOW_US - 1));
    assert_false(loop_poll_yielded(&p, WINDOW_US, r.now + WINDOW_US));
    r.now += WINDOW_US;
    uint64_t until = r.now + LOOP_POLL_REST_US;
    assert_false(loop_poll_turn(&p, r.now, r.now));
    come(&p, &r, 50, (until - r.now) / 50 - 1);
    assert_int_equal(r.polls, 0);
    come(&p, &r, 50, 2 * LOOP_POLL_PROBED);
    assert_true(r.polls > 0);
}

static void test_share_of_the_time(void **state)
{
    static const uint64_t gaps[] = { 1, 20, 60, 99, 100, 101, 150, 250, 400 };
    (void)state;
    for (size_t i = 0; i < sizeof gaps / sizeof gaps[0]; i++) {
        struct run r;
        struct loop_poll p = poll_of(&r, WINDOW_US);
        uint64_t began = r.now;
        come(&p, &r, gaps[i], 20000);
        uint64_t most = (r.now - began) / LOOP_POLL_SHARE + (LOOP_POLL_SAVED + 1) * WINDOW_US;
        assert_true(p.polled_us <= most);
        if (gaps[i] < WINDOW_US) /* and the share is made use of */
            assert_true(p.polled_us >= (r.now - began) / LOOP_POLL_SHARE - WINDOW_US * LOOP_POLL_SAVED);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_a_window_it_never_polls),
        cmocka_unit_test(test_a_poll_ends_with_its_window),
        cmocka_unit_test(test_what_comes_ends_a_poll_and_begins_the_next),
        cmocka_unit_test(test_it_gives_up_where_nothing_comes_in_time),
        cmocka_unit_test(test_it_rests_when_others_need_the_processor),
        cmocka_unit_test(test_share_of_the_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
