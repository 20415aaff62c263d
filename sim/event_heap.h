/* event_heap.h - what happens next in virtual time.
 * Sources are numbers below n_sources, each with at most one event ahead of it: setting it again moves it, clearing it
 * takes it back. So the memory is taken at create, and nothing that was overtaken is ever popped. Of events at one time
 * the one that was set first comes first: what happens hangs on nothing but what was set. A value for one thread. */
#ifndef BATON_SIM_EVENT_HEAP_H
#define BATON_SIM_EVENT_HEAP_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

#define EVENT_NEVER UINT64_MAX

struct event_heap;

MUST_CHECK status event_heap_create(uint32_t n_sources, struct event_heap **out);
void event_heap_destroy(struct event_heap **heap);

void event_heap_set(struct event_heap *heap, uint32_t source, uint64_t at);
void event_heap_clear(struct event_heap *heap, uint32_t source);
/* When the source's event is; EVENT_NEVER: it has none. */
uint64_t event_heap_at(const struct event_heap *heap, uint32_t source);
/* Takes out the earliest; false: there is none. */
bool event_heap_next(struct event_heap *heap, uint32_t *source, uint64_t *at);

#endif
