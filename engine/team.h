/* team.h - persistent threads that divide the items of one job at a time.
 * The caller of team_run works too. Between jobs the others spin for some 30 us
 * at most (jobs of one step follow one another within microseconds), then
 * sleep on a futex. One thread at a time may call team_run. */
#ifndef BATON_ENGINE_TEAM_H
#define BATON_ENGINE_TEAM_H

#include <stdint.h>

#include "common/status.h"

#define TEAM_MAX_THREADS 256u
#define TEAM_MAX_ITEMS   0xfffe00u

struct team;

/* thread is below n_threads and stands for scratch that only one item uses at a time. */
typedef void (*team_fn)(void *ctx, uint32_t item, uint32_t thread);

/* n_threads counts the caller's. With processors [n_threads], thread i is bound to the i-th of them; NULL: the kernel
 * places them. Borrowed for the call. */
MUST_CHECK status team_create(uint32_t n_threads, const uint32_t *processors, struct team **out, struct error *err);
/* For the thread that will call team_run: binds it to the first processor, where there are any. */
void team_enter(const struct team *team);
void team_destroy(struct team **team);
uint32_t team_threads(const struct team *team);

/* Runs fn for items 0 .. n_items - 1 in any order and returns when all are done. */
void team_run(struct team *team, team_fn fn, void *ctx, uint32_t n_items);

/* For the caller of team_run while it waits, between two jobs, for something that is on its way: counts as an item. */
void team_mark(struct team *team);

/* Items done since create; any thread may read it. */
uint64_t team_progress(const struct team *team);

#endif
