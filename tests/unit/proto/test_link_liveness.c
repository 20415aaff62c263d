#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "proto/link_liveness.h"

/* All on a virtual clock, in milliseconds as far as one can read. */
#define MS 1000u

static const struct liveness_rules rules = { 300 * MS, 3000 * MS, 500 * MS };

/* A peer as one judges it: steps are taken when they are due, and its answers come at once. */
struct life {
    struct liveness lv;
    uint64_t now;
    bool answers; /* every ping, at once */
    bool busy;
    uint64_t progress;
    int n_pings;
    uint64_t last_ping_us, frozen_us, closed_us; /* when; 0: never */
};

static struct life begin(bool initiator)
{
    struct life life = { .now = 1000 * MS, .answers = true };
    liveness_start(&life.lv, &rules, initiator, life.now);
    return life;
}

static void step(struct life *life)
{
    struct liveness_advice advice = liveness_step(&life->lv, &rules, life->now);
    assert_true(life->lv.due_us > life->now);
    if (advice.verdict == LIVENESS_FROZEN && !life->frozen_us)
        life->frozen_us = life->now;
    if (advice.verdict == LIVENESS_CLOSED && !life->closed_us)
        life->closed_us = life->now;
    if (!advice.ping)
        return;
    life->n_pings++;
    life->last_ping_us = life->now;
    if (life->answers) {
        liveness_heard(&life->lv, life->now);
        liveness_engine(&life->lv, life->progress, life->busy, life->now);
    }
}

static void run(struct life *life, uint64_t until)
{
    while (life->lv.due_us <= until) {
        life->now = life->lv.due_us;
        step(life);
    }
    life->now = until;
}

static void the_initiator_pings_each_interval(void **state)
{
    (void)state;
    struct life life = begin(true);
    run(&life, 61000 * MS);
    assert_int_equal(life.n_pings, 200);
    assert_int_equal(life.frozen_us, 0);
}

static void the_other_side_is_silent_while_it_hears(void **state)
{
    (void)state;
    struct life life = begin(false);
    for (int i = 0; i < 100; i++) {
        run(&life, life.now + 300 * MS);
        liveness_heard(&life.lv, life.now);
    }
    assert_int_equal(life.n_pings, 0);
    assert_int_equal(life.frozen_us, 0);
}

static void silence_is_probed_and_then_frozen(void **state)
{
    (void)state;
    for (int initiator = 0; initiator < 2; initiator++) {
        struct life life = begin(initiator);
        life.answers = false;
        uint64_t heard = life.now;
        run(&life, heard + 1499 * MS);
        int regular = initiator ? 4 : 0;
        assert_int_equal(life.n_pings, regular);
        run(&life, heard + 1501 * MS);
        assert_int_equal(life.n_pings, regular + 1);
        run(&life, heard + 2999 * MS);
        assert_int_equal(life.frozen_us, 0);
        run(&life, heard + 3000 * MS);
        assert_int_equal(life.frozen_us, heard + 3000 * MS);
    }
}

static void an_answer_to_the_probe_saves(void **state)
{
    (void)state;
    struct life life = begin(false);
    run(&life, 100000 * MS); /* nobody speaks, but each probe is answered */
    assert_int_equal(life.frozen_us, 0);
    assert_in_range(life.n_pings, 60, 70);
}

static void both_sides_ping_what_is_frozen(void **state)
{
    (void)state;
    for (int initiator = 0; initiator < 2; initiator++) {
        struct life life = begin(initiator);
        life.answers = false;
        run(&life, life.now + 3000 * MS);
        assert_true(life.frozen_us != 0);
        int before = life.n_pings;
        run(&life, life.now + 3000 * MS);
        assert_in_range(life.n_pings - before, 9, 11);
        assert_true(liveness_is_frozen(&life.lv, &rules, life.now));
        liveness_heard(&life.lv, life.now);
        assert_false(liveness_is_frozen(&life.lv, &rules, life.now));
    }
}

static void a_busy_engine_must_move(void **state)
{
    (void)state;
    struct life life = begin(true);
    run(&life, life.now + 10000 * MS); /* idle: the counter may stand */
    assert_int_equal(life.frozen_us, 0);
    life.busy = true;
    uint64_t began = life.now;
    run(&life, began + 10000 * MS);
    assert_in_range(life.frozen_us, began + 3000 * MS, began + 3300 * MS);
    /* Only progress ends it. */
    assert_true(liveness_is_frozen(&life.lv, &rules, life.now));
    life.progress++;
    run(&life, life.now + 300 * MS);
    assert_false(liveness_is_frozen(&life.lv, &rules, life.now));
}

static void a_long_step_is_not_a_stall(void **state)
{
    (void)state;
    struct life life = begin(true);
    life.busy = true;
    for (int i = 0; i < 100; i++) {
        run(&life, life.now + 2500 * MS);
        life.progress++;
    }
    assert_int_equal(life.frozen_us, 0);
    /* A pause between two steps excuses as well. */
    for (int i = 0; i < 100; i++) {
        life.busy = i % 8 != 0;
        run(&life, life.now + 300 * MS);
    }
    assert_int_equal(life.frozen_us, 0);
}

static void a_closed_connection_is_lost_unless_it_comes_back(void **state)
{
    (void)state;
    struct life life = begin(true);
    life.answers = false;
    run(&life, life.now + 100 * MS);
    uint64_t closed = life.now;
    liveness_closed(&life.lv, &rules, closed);
    run(&life, closed + 200 * MS);
    liveness_closed(&life.lv, &rules, life.now); /* heard of twice */
    run(&life, closed + 499 * MS);
    assert_int_equal(life.closed_us, 0);
    liveness_heard(&life.lv, life.now);
    run(&life, closed + 700 * MS);
    assert_int_equal(life.closed_us, 0);
    closed = life.now;
    liveness_closed(&life.lv, &rules, closed);
    run(&life, closed + 600 * MS);
    assert_int_equal(life.closed_us, closed + 500 * MS);
}

/* This process stood still for half a minute: its peers did not. */
static void our_own_pause_counts_against_nobody(void **state)
{
    (void)state;
    for (int initiator = 0; initiator < 2; initiator++) {
        struct life life = begin(initiator);
        life.busy = true;
        run(&life, life.now + 1000 * MS);
        life.answers = false;
        life.now += 30000 * MS;
        step(&life); /* the timer comes before what waits in the sockets */
        assert_int_equal(life.frozen_us, 0);
        uint64_t woke = life.now;
        run(&life, woke + 1400 * MS);
        assert_int_equal(life.frozen_us, 0);
        /* A peer that is really frozen is found all the same. */
        run(&life, woke + 3000 * MS);
        assert_in_range(life.frozen_us, woke + 1 * MS, woke + 3000 * MS);
    }
}

static void a_pause_does_not_close(void **state)
{
    (void)state;
    struct life life = begin(true);
    life.answers = false;
    liveness_closed(&life.lv, &rules, life.now);
    run(&life, life.now + 300 * MS);
    life.now += 10000 * MS;
    step(&life);
    assert_int_equal(life.closed_us, 0);
    uint64_t woke = life.now;
    run(&life, woke + 600 * MS);
    assert_in_range(life.closed_us, woke, woke + 500 * MS);
}

/* Whatever happens, and however late the steps come: nobody is called frozen who was heard of, and
 * moving, within frozen_us; and no verdict comes without a ping sent at least half of that time before. */
static void random_lives(void **state)
{
    (void)state;
    unsigned seed = 12345;
    for (int round = 0; round < 300; round++) {
        struct life life = begin(rand_r(&seed) % 2);
        uint64_t heard = life.now, moved = life.now, probe = 0;
        for (int i = 0; i < 200; i++) {
            uint64_t late = rand_r(&seed) % 10 == 0 ? (uint64_t)(rand_r(&seed) % 8000) * MS : 0;
            life.now = life.lv.due_us + late;
            int pings = life.n_pings;
            life.answers = rand_r(&seed) % 4 == 0;
            life.busy = rand_r(&seed) % 2;
            life.progress += (unsigned)rand_r(&seed) % 2;
            uint64_t progress_before = life.lv.progress;
            bool busy_before = life.lv.busy;
            uint64_t frozen_before = life.frozen_us;
            step(&life);
            if (life.frozen_us && !frozen_before) {
                assert_true(life.now >= (heard < moved ? heard : moved) + rules.frozen_us);
                assert_true(probe && probe < life.now);
                break;
            }
            if (life.n_pings == pings)
                continue;
            probe = life.now;
            if (life.answers) {
                heard = life.now;
                if (!life.busy || !busy_before || life.progress != progress_before)
                    moved = life.now;
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_initiator_pings_each_interval),
        cmocka_unit_test(the_other_side_is_silent_while_it_hears),
        cmocka_unit_test(silence_is_probed_and_then_frozen),
        cmocka_unit_test(an_answer_to_the_probe_saves),
        cmocka_unit_test(both_sides_ping_what_is_frozen),
        cmocka_unit_test(a_busy_engine_must_move),
        cmocka_unit_test(a_long_step_is_not_a_stall),
        cmocka_unit_test(a_closed_connection_is_lost_unless_it_comes_back),
        cmocka_unit_test(our_own_pause_counts_against_nobody),
        cmocka_unit_test(a_pause_does_not_close),
        cmocka_unit_test(random_lives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
