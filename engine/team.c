#include "engine/team.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/futex.h"

#define UNBOUND UINT32_MAX

/* The cursor of the current job in one word, so that a thread which comes late
 * takes either a true item of it or nothing: the number of items, the next item. */
#define CURSOR_ITEM_BITS   24u
#define CURSOR_ITEM(word)  ((uint32_t)((word) & ((1u << CURSOR_ITEM_BITS) - 1)))
#define CURSOR_COUNT(word) ((uint32_t)((word) >> CURSOR_ITEM_BITS))

/* Each member overshoots a job's items by one at most. */
_Static_assert(TEAM_MAX_ITEMS + TEAM_MAX_THREADS < 1u << CURSOR_ITEM_BITS, "the item must not run into the count");

struct member {
    struct team *team;
    uint32_t index;
    pthread_t thread;
};

struct team {
    _Alignas(64) _Atomic uint64_t cursor;
    _Alignas(64) _Atomic uint64_t done; /* items since create */
    _Alignas(64) _Atomic uint32_t job;  /* raised for each job; futex of the members */
    _Atomic uint32_t sleepers;
    _Atomic uint32_t finished; /* raised when a waiting caller should look; futex of the caller */
    _Atomic bool caller_sleeps;
    _Atomic bool stop;
    team_fn fn;
    void *ctx;
    uint64_t target; /* value of done at which the current job is over */
    uint32_t n_threads, first_processor;
    struct member members[];
};

/* Works on whatever job is current until no item of it is left. */
static void take_items(struct team *team, uint32_t thread)
{
    for (;;) {
        uint64_t word = atomic_fetch_add_explicit(&team->cursor, 1, memory_order_acq_rel);
        if (CURSOR_ITEM(word) >= CURSOR_COUNT(word))
            return;
        /* The job cannot end before this item, so its description stands still. */
        uint64_t target = team->target;
        team->fn(team->ctx, CURSOR_ITEM(word), thread);
        if (atomic_fetch_add(&team->done, 1) + 1 == target && atomic_load(&team->caller_sleeps)) {
            atomic_fetch_add(&team->finished, 1);
            futex_wake(&team->finished, 1);
        }
    }
}

/* Returns the number of a job newer than seen. */
static uint32_t await_job(struct team *team, uint32_t seen)
{
    struct spin spin = { 0, 0 };
    do {
        uint32_t job = atomic_load_explicit(&team->job, memory_order_acquire);
        if (job != seen)
            return job;
    } while (spin_on(&spin));
    atomic_fetch_add(&team->sleepers, 1);
    while (atomic_load(&team->job) == seen)
        futex_wait(&team->job, seen, NULL);
    atomic_fetch_sub(&team->sleepers, 1);
    return atomic_load(&team->job);
}

static void *member_main(void *arg)
{
    struct member *self = arg;
    struct team *team = self->team;
    uint32_t seen = 0;
    for (;;) {
        seen = await_job(team, seen);
        if (atomic_load(&team->stop))
            return NULL;
        take_items(team, self->index);
    }
}

static void await_items(struct team *team)
{
    struct spin spin = { 0, 0 };
    do {
        if (atomic_load(&team->done) == team->target)
            return;
    } while (spin_on(&spin));
    atomic_store(&team->caller_sleeps, true);
    for (;;) {
        uint32_t seen = atomic_load(&team->finished);
        if (atomic_load(&team->done) == team->target)
            break;
        futex_wait(&team->finished, seen, NULL);
    }
    atomic_store(&team->caller_sleeps, false);
}

static void run_alone(struct team *team, team_fn fn, void *ctx, uint32_t n_items)
{
    for (uint32_t i = 0; i < n_items; i++) {
        fn(ctx, i, 0);
        atomic_fetch_add_explicit(&team->done, 1, memory_order_relaxed);
    }
}

void team_run(struct team *team, team_fn fn, void *ctx, uint32_t n_items)
{
    ASSERT(n_items <= TEAM_MAX_ITEMS);
    if (n_items <= 1 || team->n_threads == 1) {
        run_alone(team, fn, ctx, n_items);
        return;
    }
    team->fn = fn;
    team->ctx = ctx;
    team->target = atomic_load(&team->done) + n_items;
    atomic_store_explicit(&team->cursor, (uint64_t)n_items << CURSOR_ITEM_BITS, memory_order_release);
    atomic_fetch_add(&team->job, 1);
    if (atomic_load(&team->sleepers) > 0)
        futex_wake(&team->job, INT_MAX);
    take_items(team, 0);
    await_items(team);
}

/* Best effort: a thread that cannot be bound computes the same bits. */
static void bind_thread(pthread_t thread, uint32_t processor)
{
    cpu_set_t one;
    if (processor >= CPU_SETSIZE)
        return;
    CPU_ZERO(&one);
    CPU_SET((size_t)processor, &one);
    pthread_setaffinity_np(thread, sizeof one, &one);
}

void team_enter(const struct team *team)
{
    bind_thread(pthread_self(), team->first_processor);
}

status team_create(uint32_t n_threads, const uint32_t *processors, struct team **out, struct error *err)
{
    if (n_threads == 0 || n_threads > TEAM_MAX_THREADS)
        return error_set(err, ST_INVALID, "threads must be 1 to %u, not %u", TEAM_MAX_THREADS, n_threads);
    size_t bytes = sizeof(struct team) + n_threads * sizeof(struct member);
    struct team *team = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (team == NULL)
        return error_set(err, ST_NO_MEMORY, "out of memory for %u threads", n_threads);
    memset(team, 0, bytes);
    team->n_threads = 1;
    team->first_processor = processors ? processors[0] : UNBOUND;
    for (uint32_t i = 1; i < n_threads; i++) {
        struct member *m = &team->members[i];
        *m = (struct member){ .team = team, .index = i };
        int rc = pthread_create(&m->thread, NULL, member_main, m);
        if (rc != 0) {
            team_destroy(&team);
            return error_set(err, ST_NO_MEMORY, "thread %u cannot be started: %s", i, strerror(rc));
        }
        team->n_threads = i + 1;
        if (processors)
            bind_thread(m->thread, processors[i]);
    }
    *out = team;
    return ST_OK;
}

void team_destroy(struct team **teamp)
{
    struct team *team = *teamp;
    if (team == NULL)
        return;
    atomic_store(&team->stop, true);
    atomic_fetch_add(&team->job, 1);
    futex_wake(&team->job, INT_MAX);
    for (uint32_t i = 1; i < team->n_threads; i++)
        pthread_join(team->members[i].thread, NULL);
    free(team);
    *teamp = NULL;
}

uint32_t team_threads(const struct team *team)
{
    return team->n_threads;
}

void team_mark(struct team *team)
{
    atomic_fetch_add_explicit(&team->done, 1, memory_order_relaxed);
}

uint64_t team_progress(const struct team *team)
{
    return atomic_load_explicit(&team->done, memory_order_relaxed);
}
