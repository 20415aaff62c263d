/* Which rows a step computes: bounds hold for random inputs, decodes go first, the target holds, nobody starves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/scheduler.h"
#include "tests/unit/effort.h"

#define MOST 48u

static const struct step_cost unknown;

static uint32_t draw(uint32_t below)
{
    return (uint32_t)random() % below;
}

/* Plain limits, without target and priorities. */
static struct scheduler_limits plain(uint32_t budget, uint32_t seqs, uint32_t chunk)
{
    return (
        struct scheduler_limits){ .budget_rows = budget, .max_seqs = seqs, .chunk_tokens = chunk, .patience = 1000000 };
}

static uint32_t form(const struct scheduler_limits *limits, const struct step_cost *cost,
                     const struct scheduler_want *wants, uint32_t n, uint32_t *rows)
{
    uint32_t order[MOST];
    return scheduler_form(limits, cost, wants, n, order, rows);
}

/* A machine that takes 1 ms a step, 20 us a row and 10 ns a position. */
static uint64_t true_cost(uint32_t rows, uint64_t attended)
{
    return 1000 + 20 * rows + attended / 100;
}

static void learn(struct step_cost *cost)
{
    for (uint32_t i = 0; i < 300; i++) {
        uint32_t rows = 1 + draw(draw(2) ? 8 : 512);
        uint64_t attended = step_attended(draw(4000), rows);
        step_cost_observe(cost, rows, attended, true_cost(rows, attended));
    }
}

static void draw_want(struct scheduler_want *want)
{
    *want = (struct scheduler_want){ .rows = draw(3) ? 1 : 1 + draw(200),
                                     .first_pos = draw(3000),
                                     .priority = (int32_t)draw(3) - 1,
                                     .waited = draw(20) };
    want->drafts = want->rows == 1 ? draw(5) : 0;
}

static void test_bounds(void **state)
{
    (void)state;
    struct step_cost cost = unknown;
    learn(&cost);
    for (int round = 0; round < 20000; round++) {
        struct scheduler_want wants[MOST];
        uint32_t rows[MOST], n = draw(MOST), sum = 0, seqs = 0;
        struct scheduler_limits limits = plain(1 + draw(100), 1 + draw(20), 1 + draw(50));
        limits.patience = draw(20);
        limits.target_us = draw(2) * draw(4000);
        limits.beside_rows = draw(2) * draw(20);
        for (uint32_t i = 0; i < n; i++)
            draw_want(&wants[i]);
        uint32_t told = form(&limits, &cost, wants, n, rows);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(rows[i] <= wants[i].rows + wants[i].drafts);
            assert_true(wants[i].rows == 1 || rows[i] <= limits.chunk_tokens);
            sum += rows[i];
            seqs += rows[i] > 0;
        }
        assert_int_equal(sum, told);
        assert_true(sum <= limits.budget_rows && seqs <= limits.max_seqs);
        assert_true(n == 0 || sum > 0);
    }
}

static void test_decodes_first_then_prefills_by_arrival(void **state)
{
    (void)state;
    struct scheduler_limits limits = plain(10, 8, 6);
    struct scheduler_want wants[] = { { .rows = 100 }, { .rows = 1 }, { .rows = 50 }, { .rows = 1 } };
    uint32_t rows[4];
    assert_int_equal(form(&limits, &unknown, wants, 4, rows), 10);
    assert_int_equal(rows[1], 1);
    assert_int_equal(rows[3], 1);
    assert_int_equal(rows[0], 6);
    assert_int_equal(rows[2], 2);
}

static void test_priorities(void **state)
{
    (void)state;
    struct scheduler_limits limits = plain(9, 8, 6);
    struct scheduler_want wants[] = { { .rows = 100 }, { .rows = 1, .priority = 9 }, { .rows = 50, .priority = -1 } };
    uint32_t rows[3];
    form(&limits, &unknown, wants, 3, rows);
    assert_int_equal(rows[0], 2);
    assert_int_equal(rows[1], 1);
    assert_int_equal(rows[2], 6);
    wants[0].waited = limits.patience + 1;
    form(&limits, &unknown, wants, 3, rows);
    assert_int_equal(rows[0], 6);
    assert_int_equal(rows[2], 2);
}

/* When there is not a row for each, they take turns. */
static void test_decodes_take_turns(void **state)
{
    (void)state;
    struct scheduler_limits limits = plain(3, 64, 16);
    struct scheduler_want wants[7] = { { 0 } };
    uint32_t rows[7];
    for (uint32_t i = 0; i < 7; i++)
        wants[i].rows = 1;
    for (uint32_t step = 0; step < 100; step++) {
        assert_int_equal(form(&limits, &unknown, wants, 7, rows), 3);
        for (uint32_t i = 0; i < 7; i++) {
            wants[i].waited = rows[i] ? 0 : wants[i].waited + 1;
            assert_true(wants[i].waited < 3); /* 7 of them, 3 a step */
        }
    }
}

static void test_drafts_leave_half_to_prompts(void **state)
{
    (void)state;
    struct scheduler_limits limits = plain(22, 8, 64);
    struct scheduler_want wants[] = { { .rows = 1, .drafts = 8 }, { .rows = 1, .drafts = 8 }, { .rows = 90 } };
    uint32_t rows[3];
    form(&limits, &unknown, wants, 3, rows);
    assert_int_equal(rows[0], 9);
    assert_int_equal(rows[1], 3);
    assert_int_equal(rows[2], 10);
    form(&limits, &unknown, wants, 2, rows);
    assert_int_equal(rows[1], 9);
}

static void test_beside_rows_bind_only_beside_decodes(void **state)
{
    (void)state;
    struct scheduler_limits limits = plain(100, 8, 100);
    struct scheduler_want wants[] = { { .rows = 60 }, { .rows = 60 }, { .rows = 1 } };
    uint32_t rows[3];
    limits.beside_rows = 20;
    assert_int_equal(form(&limits, &unknown, wants, 3, rows), 21);
    assert_int_equal(form(&limits, &unknown, wants, 2, rows), 100);
}

static void test_target_holds(void **state)
{
    (void)state;
    struct step_cost cost = unknown;
    learn(&cost);
    for (int round = 0; round < 2000; round++) {
        struct scheduler_limits limits = plain(512, 64, 512);
        struct scheduler_want wants[12];
        uint32_t rows[12], sum = 0, decoding = 0;
        uint64_t attended = 0, plain_attended = 0;
        limits.target_us = 2500 + draw(8000);
        for (uint32_t i = 0; i < 12; i++)
            wants[i] = (struct scheduler_want){ .rows = i < 8 ? 1 : 600, .first_pos = draw(3000) };
        form(&limits, &cost, wants, 12, rows);
        for (uint32_t i = 0; i < 12; i++) {
            sum += rows[i];
            attended += step_attended(wants[i].first_pos, rows[i]);
            decoding += i < 8 ? rows[i] : 0;
            plain_attended += i < 8 ? step_attended(wants[i].first_pos, 1) : 0;
        }
        assert_int_equal(decoding, 8);
        uint64_t at_least = true_cost(8 + SCHEDULER_LEAST_CHUNK, plain_attended + SCHEDULER_LEAST_CHUNK * 3020ull);
        uint64_t allowed = limits.target_us > at_least ? limits.target_us : at_least;
        assert_true(sum >= 8 + SCHEDULER_LEAST_CHUNK);
        assert_true(true_cost(sum, attended) <= allowed + allowed / 20);
        /* And it is used: another tenth of the target would not have fitted. */
        assert_true(sum == 512 || true_cost(sum, attended) >= limits.target_us - limits.target_us / 10);
    }
}

static void test_cost_is_learned_and_kept(void **state)
{
    (void)state;
    struct step_cost cost = unknown;
    assert_true(step_cost_predict(&cost, 100, 100) == 0.0);
    learn(&cost);
    for (uint32_t i = 0; i < 5000; i++)
        step_cost_observe(&cost, 4, 4 * 500, true_cost(4, 4 * 500));
    for (uint32_t rows = 1; rows <= 512; rows *= 2) {
        uint64_t attended = step_attended(1000, rows);
        double real = (double)true_cost(rows, attended), told = step_cost_predict(&cost, rows, attended);
        assert_true(told > 0.9 * real && told < 1.1 * real);
    }
    /* All became slower by half: it follows within some steps. */
    for (uint32_t i = 0; i < 20; i++)
        step_cost_observe(&cost, 4, 4 * 500, true_cost(4, 4 * 500) * 3 / 2);
    assert_true(step_cost_predict(&cost, 256, 256000) > 1.3 * (double)true_cost(256, 256000));
    /* One step that was interrupted for a second moves it little. */
    double before = step_cost_predict(&cost, 4, 2000);
    step_cost_observe(&cost, 4, 2000, 1000000);
    assert_true(step_cost_predict(&cost, 4, 2000) < 3 * before);
}

static void test_claims(void **state)
{
    (void)state;
    struct scheduler_limits limits = plain(1, 1, 1);
    const struct scheduler_claim in_order[] = {
        { .priority = 9, .arrival = 6, .waited = limits.patience + 1 },
        { .priority = -1, .arrival = 7 },
        { .preempted = true, .arrival = 5, .waited = 3 },
        { .arrival = 2 },
        { .arrival = 3, .waited = 9 },
        { .priority = 1, .preempted = true, .arrival = 1 },
    };
    const struct scheduler_claim yielding[] = {
        { .priority = 2, .arrival = 1 },  { .priority = 1, .arrival = 4 },      { .arrival = 6 }, { .arrival = 3 },
        { .priority = -4, .arrival = 9 }, { .priority = 7, .sheltered = true },
    };
    for (uint32_t i = 0; i < 6; i++)
        for (uint32_t j = 0; j < 6; j++) {
            assert_int_equal(scheduler_goes_before(&limits, &in_order[i], &in_order[j]), i < j);
            assert_int_equal(scheduler_yields_before(&yielding[i], &yielding[j]), i < j);
        }
}

/* ---- nobody starves ------------------------------------------------------------------ */

/* Requests arrive at random with random priorities, compete for few blocks, are preempted, grow and end. */
struct request {
    enum { FREE, CLAIMING, RUNNING } at;
    struct scheduler_claim claim;
    uint32_t tokens, computed, answer; /* answer: tokens still to be sampled */
    uint64_t since;                    /* it waits for rows or blocks */
};

struct world {
    struct scheduler_limits limits;
    struct request requests[MOST];
    uint64_t step, arrivals, tokens_of_blocks, longest_for_rows, longest_for_blocks;
    uint32_t preempted, came_back, finished;
};

static uint64_t used(const struct world *w)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < MOST; i++)
        sum += w->requests[i].at == RUNNING ? w->requests[i].tokens + 1 : 0;
    return sum;
}

static void arrive(struct world *w)
{
    for (uint32_t i = 0; i < MOST; i++)
        if (w->requests[i].at == FREE) {
            w->requests[i] = (struct request){ .at = CLAIMING,
                                               .claim = { .priority = (int32_t)draw(5) - 2, .arrival = ++w->arrivals },
                                               .tokens = 1 + draw(100),
                                               .answer = 1 + draw(60),
                                               .since = w->step };
            return;
        }
}

static void admit(struct world *w)
{
    for (;;) {
        struct request *first = NULL;
        for (uint32_t i = 0; i < MOST; i++) {
            struct request *r = &w->requests[i];
            if (r->at != CLAIMING)
                continue;
            r->claim.waited = w->step - r->since;
            if (!first || scheduler_goes_before(&w->limits, &r->claim, &first->claim))
                first = r;
        }
        if (!first || used(w) + first->tokens + 1 > w->tokens_of_blocks)
            return;
        if (first->claim.waited > w->longest_for_blocks)
            w->longest_for_blocks = first->claim.waited;
        first->claim.sheltered = first->claim.preempted && first->claim.waited > w->limits.patience;
        w->came_back += first->claim.preempted;
        first->claim.preempted = false;
        first->claim.waited = 0;
        first->at = RUNNING;
        first->computed = 0;
        first->since = w->step;
    }
}

static void preempt(struct world *w)
{
    struct request *last = NULL;
    for (uint32_t i = 0; i < MOST; i++)
        if (w->requests[i].at == RUNNING && (!last || scheduler_yields_before(&w->requests[i].claim, &last->claim)))
            last = &w->requests[i];
    assert_non_null(last);
    last->at = CLAIMING;
    last->claim.preempted = true;
    last->claim.sheltered = false;
    last->since = w->step;
    w->preempted++;
}

static void advance(struct world *w, struct request *r, uint32_t rows)
{
    uint64_t waited = w->step - r->since;
    w->longest_for_rows = waited > w->longest_for_rows ? waited : w->longest_for_rows;
    r->since = w->step;
    r->computed += rows;
    if (r->computed < r->tokens)
        return;
    r->tokens++;
    r->claim.sheltered = false;
    if (--r->answer == 0) {
        r->at = FREE;
        w->finished++;
    }
}

static uint32_t run_step(struct world *w)
{
    struct scheduler_want wants[MOST];
    struct request *who[MOST];
    uint32_t rows[MOST], n = 0;
    for (uint32_t i = 0; i < MOST; i++) {
        struct request *r = &w->requests[i];
        if (r->at != RUNNING)
            continue;
        who[n] = r;
        wants[n++] = (struct scheduler_want){ .rows = r->tokens - r->computed,
                                              .first_pos = r->computed,
                                              .priority = r->claim.priority,
                                              .waited = w->step - r->since };
    }
    form(&w->limits, &unknown, wants, n, rows);
    for (uint32_t i = 0; i < n; i++)
        if (rows[i])
            advance(w, who[i], rows[i]);
    while (used(w) > w->tokens_of_blocks)
        preempt(w);
    return n;
}

/* Returns how many were preempted. */
static uint32_t starve(uint32_t seed)
{
    struct world w = { .tokens_of_blocks = 200 + draw(400) };
    uint32_t most_running = 0;
    srandom(seed);
    w.limits = plain(1 + draw(40), 1 + draw(12), 1 + draw(30));
    w.limits.patience = 20 + draw(50);
    for (w.step = 0; w.step < 4000; w.step++) {
        if (draw(3) == 0)
            arrive(&w);
        admit(&w);
        uint32_t running = run_step(&w);
        most_running = running > most_running ? running : most_running;
    }
    /* The bound of scheduler.h. */
    assert_true(w.longest_for_rows <= w.limits.patience + most_running);
    /* Blocks: everybody before it in the list has at most 60 tokens to go, each within the bound above, and what they
     * free goes to the first. */
    assert_true(w.longest_for_blocks <= w.limits.patience + (uint64_t)MOST * 60 * (w.limits.patience + most_running));
    for (; w.finished < w.arrivals; w.step++) { /* nobody new: all come back, and all end */
        admit(&w);
        run_step(&w);
        assert_true(w.step < 400000);
    }
    assert_int_equal(w.came_back, w.preempted);
    assert_true(w.finished > 5);
    return w.preempted;
}

static void test_nobody_starves(void **state)
{
    (void)state;
    uint32_t preempted = 0;
    const uint32_t seeds = is_long() ? 400 : 40;
    for (uint32_t seed = 1; seed <= seeds; seed++)
        preempted += starve(seed);
    assert_true(preempted > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_decodes_first_then_prefills_by_arrival),
        cmocka_unit_test(test_priorities),
        cmocka_unit_test(test_decodes_take_turns),
        cmocka_unit_test(test_drafts_leave_half_to_prompts),
        cmocka_unit_test(test_beside_rows_bind_only_beside_decodes),
        cmocka_unit_test(test_target_holds),
        cmocka_unit_test(test_cost_is_learned_and_kept),
        cmocka_unit_test(test_claims),
        cmocka_unit_test(test_nobody_starves),
    };
    return cmocka_run_group_tests_name("scheduler", tests, NULL, NULL);
}
