#include "engine/jinja_heap.h"

#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_BYTES = 32 * 1024, FIRST_BUF_BYTES = 64 };

struct jinja_chunk {
    struct jinja_chunk *next;
    size_t used;
    size_t size;
    alignas(max_align_t) char bytes[];
};

void jinja_heap_init(struct jinja_heap *heap, size_t limit, uint64_t steps, struct error *err)
{
    memset(heap, 0, sizeof *heap);
    heap->limit = limit;
    heap->steps_left = steps;
    heap->err = err;
}

void jinja_heap_free(struct jinja_heap *heap)
{
    for (struct jinja_chunk *chunk = heap->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
    heap->chunks = NULL;
}

static struct jinja_chunk *chunk_take(struct jinja_heap *heap, size_t size)
{
    size_t bytes = size > CHUNK_BYTES / 4 ? size : CHUNK_BYTES;
    if (bytes > heap->limit - heap->taken)
        jinja_fail(heap, ST_LIMIT, "the template needs more than %zu bytes of memory", heap->limit);
    struct jinja_chunk *chunk = malloc(sizeof *chunk + bytes);
    if (!chunk)
        jinja_fail(heap, ST_NO_MEMORY, "out of memory");
    chunk->used = 0;
    chunk->size = bytes;
    heap->taken += bytes;
    /* A large block goes behind the chunk that still has room. */
    if (bytes == size && heap->chunks) {
        chunk->next = heap->chunks->next;
        heap->chunks->next = chunk;
    } else {
        chunk->next = heap->chunks;
        heap->chunks = chunk;
    }
    return chunk;
}

void *jinja_alloc(struct jinja_heap *heap, size_t size)
{
    if (size > heap->limit)
        jinja_fail(heap, ST_LIMIT, "the template needs more than %zu bytes of memory", heap->limit);
    size = (size + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
    struct jinja_chunk *chunk = heap->chunks;
    if (!chunk || chunk->size - chunk->used < size)
        chunk = chunk_take(heap, size);
    void *out = chunk->bytes + chunk->used;
    chunk->used += size;
    return out;
}

void *jinja_alloc_array(struct jinja_heap *heap, size_t n, size_t size)
{
    if (size && n > heap->limit / size)
        jinja_fail(heap, ST_LIMIT, "the template needs more than %zu bytes of memory", heap->limit);
    void *out = jinja_alloc(heap, n * size);
    memset(out, 0, n * size);
    return out;
}

void jinja_charge(struct jinja_heap *heap, uint64_t steps)
{
    if (steps >= heap->steps_left)
        jinja_fail(heap, ST_LIMIT, "the template takes too many steps");
    heap->steps_left -= steps;
}

_Noreturn void jinja_fail(struct jinja_heap *heap, status st, const char *fmt, ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    heap->failure = heap->line ? error_set(heap->err, st, "template line %u: %s", heap->line, text)
                               : error_set(heap->err, st, "%s", text);
    longjmp(heap->failed, 1);
}

_Noreturn void jinja_raise(struct jinja_heap *heap, const char *text, size_t len)
{
    size_t room = sizeof heap->err->text - 1;
    if (len > room)
        for (len = room; len > 0 && ((unsigned char)text[len] & 0xC0) == 0x80;)
            len--;
    heap->failure = error_set(heap->err, ST_INVALID, "%.*s", (int)len, text);
    longjmp(heap->failed, 1);
}

void jinja_buf_add(struct jinja_heap *heap, struct jinja_buf *buf, const char *bytes, size_t len)
{
    if (buf->limit && len > buf->limit - buf->len)
        jinja_fail(heap, ST_LIMIT, "the output is longer than %zu bytes", buf->limit);
    if (len > buf->cap - buf->len) {
        size_t cap = buf->cap ? buf->cap : FIRST_BUF_BYTES;
        while (cap - buf->len < len)
            cap *= 2;
        char *grown = jinja_alloc(heap, cap);
        if (buf->len)
            memcpy(grown, buf->bytes, buf->len);
        buf->bytes = grown;
        buf->cap = cap;
    }
    if (len)
        memcpy(buf->bytes + buf->len, bytes, len);
    buf->len += len;
}

void jinja_buf_char(struct jinja_heap *heap, struct jinja_buf *buf, char c)
{
    jinja_buf_add(heap, buf, &c, 1);
}

void jinja_buf_fill(struct jinja_heap *heap, struct jinja_buf *buf, char c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        jinja_buf_char(heap, buf, c);
}
