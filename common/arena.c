#include "common/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_FIRST_BYTES ((size_t)4096)  /* most arenas stay small, and chunks are cleared */
#define ARENA_CHUNK_BYTES ((size_t)16384) /* a larger piece gets a chunk of its own size */

struct chunk {
    struct chunk *next;
    size_t used, size; /* of bytes */
    alignas(max_align_t) char bytes[];
};

struct arena {
    struct chunk *chunks; /* the first one is being filled */
    size_t used, max_bytes;
};

struct arena *arena_create(size_t max_bytes)
{
    struct arena *arena = calloc(1, sizeof *arena);
    if (arena)
        arena->max_bytes = max_bytes;
    return arena;
}

void arena_destroy(struct arena **p)
{
    struct arena *arena = *p;
    if (!arena)
        return;
    *p = NULL;
    for (struct chunk *next, *c = arena->chunks; c; c = next) {
        next = c->next;
        free(c);
    }
    free(arena);
}

static struct chunk *add_chunk(struct arena *arena, size_t bytes)
{
    size_t least = arena->chunks ? ARENA_CHUNK_BYTES : ARENA_FIRST_BYTES, size = bytes > least ? bytes : least;
    struct chunk *c = calloc(1, sizeof *c + size);
    if (!c)
        return NULL;
    c->size = size;
    c->next = arena->chunks;
    arena->chunks = c;
    return c;
}

void *arena_take(struct arena *arena, size_t bytes)
{
    const size_t align = alignof(max_align_t);
    if (bytes > arena->max_bytes || (bytes + align - 1) / align * align > arena->max_bytes - arena->used)
        return NULL;
    bytes = (bytes + align - 1) / align * align;
    struct chunk *c = arena->chunks;
    if (!c || bytes > c->size - c->used)
        c = add_chunk(arena, bytes);
    if (!c)
        return NULL;
    void *piece = c->bytes + c->used;
    c->used += bytes;
    arena->used += bytes;
    return piece;
}

char *arena_copy(struct arena *arena, const char *text, size_t len)
{
    char *copy = len < SIZE_MAX ? arena_take(arena, len + 1) : NULL;
    if (copy)
        memcpy(copy, text, len);
    return copy;
}

size_t arena_used(const struct arena *arena)
{
    return arena->used;
}
