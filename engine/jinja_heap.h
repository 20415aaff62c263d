/* jinja_heap.h - the memory, the step budget and the way out of one compile or
 * one render of a template. Everything is taken from the heap and given back
 * in one call, so nothing is held when a failure leaves by longjmp: that spares
 * the evaluator a status on each of its many value-returning functions.
 * One thread. */
#ifndef BATON_ENGINE_JINJA_HEAP_H
#define BATON_ENGINE_JINJA_HEAP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct jinja_chunk;

struct jinja_heap {
    struct jinja_chunk *chunks;
    size_t taken;        /* bytes */
    size_t limit;        /* bytes: ST_LIMIT beyond */
    uint64_t steps_left; /* ST_LIMIT at 0 */
    uint32_t line;       /* of the construct at work, for messages; 0: none yet */
    status failure;      /* set before failed is jumped to */
    struct error *err;   /* borrowed, may be NULL */
    jmp_buf failed;      /* set by the owner right after init */
};

void jinja_heap_init(struct jinja_heap *heap, size_t limit, uint64_t steps, struct error *err);
void jinja_heap_free(struct jinja_heap *heap);

/* Never NULL, aligned for any type, not cleared. */
void *jinja_alloc(struct jinja_heap *heap, size_t size);
/* n cleared elements of the given size. */
void *jinja_alloc_array(struct jinja_heap *heap, size_t n, size_t size);
/* Counts work that one construct spends in a loop of its own. */
void jinja_charge(struct jinja_heap *heap, uint64_t steps);

/* Ends the compile or the render; the text gets "template line N: " in
 * front where there is a line. */
_Noreturn void jinja_fail(struct jinja_heap *heap, status st, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* As the template worded it. */
_Noreturn void jinja_raise(struct jinja_heap *heap, const char *text, size_t len);

/* A string that grows. */
struct jinja_buf {
    char *bytes;
    size_t len;
    size_t cap;
    size_t limit; /* bytes; 0: the heap's */
};

void jinja_buf_add(struct jinja_heap *heap, struct jinja_buf *buf, const char *bytes, size_t len);
void jinja_buf_char(struct jinja_heap *heap, struct jinja_buf *buf, char c);
void jinja_buf_fill(struct jinja_heap *heap, struct jinja_buf *buf, char c, size_t n);

#endif
