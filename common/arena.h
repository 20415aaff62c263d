/* arena.h - memory of one request, taken in pieces and freed in one call.
 * One thread at a time. */
#ifndef BATON_COMMON_ARENA_H
#define BATON_COMMON_ARENA_H

#include <stddef.h>

struct arena;

/* max_bytes bounds the sum of all pieces. NULL when there is no memory. */
struct arena *arena_create(size_t max_bytes);
void arena_destroy(struct arena **arena);
/* Aligned for any type, zeroed; NULL when the bound or the memory is reached. */
void *arena_take(struct arena *arena, size_t bytes);
/* A NUL-terminated copy of len bytes; NULL likewise. */
char *arena_copy(struct arena *arena, const char *text, size_t len);
size_t arena_used(const struct arena *arena);

#endif
