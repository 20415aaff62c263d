/* engine_thread.h - the thread that runs the engine's steps.
 * One step at a time: engine_thread_run is called on the loop thread, and its
 * callbacks come on the loop thread. */
#ifndef BATON_WORKER_ENGINE_THREAD_H
#define BATON_WORKER_ENGINE_THREAD_H

#include "common/loop.h"
#include "engine/engine.h"

struct engine_thread;

struct engine_thread_options {
    struct loop *loop;
    struct engine *engine;                         /* borrowed */
    void (*before)(void *ctx, struct step *step);  /* on the engine thread, before each step; NULL: nothing */
    void (*on_layers)(void *ctx, uint32_t layers); /* layers [0, layers) of all rows; calls may be merged */
    void (*on_done)(void *ctx);
    void *ctx;
};

MUST_CHECK status engine_thread_create(const struct engine_thread_options *options, struct engine_thread **out);
/* Waits for the step under way. The loop must not run any more: posts may be left in it. */
void engine_thread_destroy(struct engine_thread **thread);
/* No step may be under way. */
void engine_thread_run(struct engine_thread *thread, struct step *step);
bool engine_thread_busy(const struct engine_thread *thread); /* any thread */

#endif
