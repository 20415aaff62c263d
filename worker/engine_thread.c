#include "worker/engine_thread.h"

#include <pthread.h>
#include <stdlib.h>

struct engine_thread {
    struct engine_thread_options options;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct step *step; /* to run; under lock */
    bool stop;         /* under lock */
    atomic_bool busy;
    atomic_uint layers;       /* of the step under way */
    atomic_bool layer_posted; /* a post is on its way that will read layers */
};

static void deliver_layers(void *arg)
{
    struct engine_thread *t = arg;
    /* Cleared before reading: a layer that is done in between posts again. */
    atomic_store(&t->layer_posted, false);
    uint32_t layers = atomic_load(&t->layers);
    if (layers)
        t->options.on_layers(t->options.ctx, layers);
}

static void deliver_done(void *arg)
{
    struct engine_thread *t = arg;
    atomic_store(&t->layers, 0);
    atomic_store(&t->busy, false);
    t->options.on_done(t->options.ctx);
}

static void on_layer(void *ctx, uint32_t layer)
{
    struct engine_thread *t = ctx;
    atomic_store(&t->layers, layer + 1);
    if (!atomic_exchange(&t->layer_posted, true))
        loop_post(t->options.loop, deliver_layers, t);
}

static void *thread_main(void *arg)
{
    struct engine_thread *t = arg;
    engine_enter(t->options.engine);
    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (!t->step && !t->stop)
            pthread_cond_wait(&t->wake, &t->lock);
        if (t->stop)
            break;
        struct step *step = t->step;
        t->step = NULL;
        pthread_mutex_unlock(&t->lock);
        if (t->options.before)
            t->options.before(t->options.ctx, step);
        engine_run(t->options.engine, step);
        loop_post(t->options.loop, deliver_done, t);
        pthread_mutex_lock(&t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

status engine_thread_create(const struct engine_thread_options *options, struct engine_thread **out)
{
    struct engine_thread *t = calloc(1, sizeof *t);
    if (!t)
        return ST_NO_MEMORY;
    t->options = *options;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    if (pthread_create(&t->thread, NULL, thread_main, t) != 0) {
        free(t);
        return ST_NO_MEMORY;
    }
    *out = t;
    return ST_OK;
}

void engine_thread_destroy(struct engine_thread **thread)
{
    struct engine_thread *t = *thread;
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    free(t);
    *thread = NULL;
}

void engine_thread_run(struct engine_thread *t, struct step *step)
{
    ASSERT(!atomic_load(&t->busy));
    step->on_layer = on_layer;
    step->ctx = t;
    atomic_store(&t->busy, true);
    pthread_mutex_lock(&t->lock);
    t->step = step;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

bool engine_thread_busy(const struct engine_thread *t)
{
    return atomic_load(&t->busy);
}
