/* The engine's thread, around an engine of our own: engine_run is defined here. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "worker/engine_thread.h"

#define LAYERS 12u
#define STEPS  300u

static pthread_t entered;  /* by the last engine_enter */
static uint32_t strangers; /* steps that another thread ran */

void engine_enter(struct engine *engine)
{
    (void)engine;
    entered = pthread_self();
}

static uint32_t runs, unprepared; /* touched by the engine's thread during a step, by ours between steps */

static bool is_prepared;

void engine_run(struct engine *engine, struct step *step)
{
    (void)engine;
    runs++;
    strangers += !pthread_equal(entered, pthread_self());
    unprepared += !is_prepared;
    is_prepared = false;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        step->seqs[0].n_rows += layer;
        if (runs % 7 == 0)
            usleep(20);
        step->on_layer(step->ctx, layer);
    }
    step->seqs[0].done = true;
}

static void before(void *ctx, struct step *step)
{
    (void)ctx, (void)step;
    is_prepared = true;
}

struct watcher {
    struct loop *loop;
    struct engine_thread *thread;
    struct step step;
    struct step_seq seq;
    uint32_t steps, layers, calls, wrong;
};

static void begin(struct watcher *w)
{
    w->layers = 0;
    w->seq = (struct step_seq){ .n_rows = 1 };
    w->step = (struct step){ .seqs = &w->seq, .n_seqs = 1 };
    engine_thread_run(w->thread, &w->step);
}

/* Calls may be merged, but they never go back, and none comes from another step. */
static void on_layers(void *ctx, uint32_t layers)
{
    struct watcher *w = ctx;
    w->wrong += layers < w->layers || layers == 0 || layers > LAYERS || !engine_thread_busy(w->thread);
    w->layers = layers;
    w->calls++;
}

static void on_done(void *ctx)
{
    struct watcher *w = ctx;
    w->wrong += engine_thread_busy(w->thread) || w->layers != LAYERS || !w->seq.done ||
                w->seq.n_rows != 1 + LAYERS * (LAYERS - 1) / 2;
    if (++w->steps == STEPS)
        loop_stop(w->loop);
    else
        begin(w);
}

static void make(struct watcher *w)
{
    *w = (struct watcher){ .steps = 0 };
    runs = unprepared = 0;
    assert_int_equal(loop_create(&w->loop), ST_OK);
    struct engine_thread_options options = { w->loop, NULL, before, on_layers, on_done, w };
    assert_int_equal(engine_thread_create(&options, &w->thread), ST_OK);
    assert_false(engine_thread_busy(w->thread));
}

static void test_steps_one_after_another(void **state)
{
    (void)state;
    struct watcher w;
    make(&w);
    begin(&w);
    assert_true(engine_thread_busy(w.thread));
    loop_run(w.loop);
    engine_thread_destroy(&w.thread);
    assert_null(w.thread);
    loop_destroy(&w.loop);
    assert_int_equal(w.steps, STEPS);
    assert_int_equal(runs, STEPS);
    assert_int_equal(unprepared, 0);
    assert_int_equal(w.wrong, 0);
    assert_int_equal(strangers, 0);
    assert_true(w.calls >= STEPS && w.calls <= STEPS * LAYERS);
}

/* The step under way is waited for; what it posted is dropped with the loop. */
static void test_destroy_during_a_step(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++) {
        struct watcher w;
        make(&w);
        runs = 6; /* a slow one */
        begin(&w);
        if (i % 2)
            usleep(100);
        engine_thread_destroy(&w.thread);
        loop_destroy(&w.loop);
        assert_true(runs == 6 || w.seq.done);
        assert_int_equal(w.steps, 0);
    }
    struct engine_thread *none = NULL;
    engine_thread_destroy(&none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps_one_after_another),
        cmocka_unit_test(test_destroy_during_a_step),
    };
    return cmocka_run_group_tests_name("engine thread", tests, NULL, NULL);
}
