/* text_buffer.h - a growing byte buffer with an upper bound.
 * Appending never fails half-way: what does not fit is dropped whole, the
 * first failure is kept in `state` and all later appends do nothing, so a
 * writer checks once at the end. One thread at a time. */
#ifndef BATON_COMMON_TEXT_BUFFER_H
#define BATON_COMMON_TEXT_BUFFER_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct text_buffer {
    char *data; /* NUL-terminated once anything was appended; NULL before */
    size_t len; /* without the NUL */
    size_t capacity;
    size_t max_bytes;
    status state; /* ST_OK, ST_LIMIT (max_bytes reached) or ST_NO_MEMORY */
};

void text_buffer_init(struct text_buffer *b, size_t max_bytes);
void text_buffer_free(struct text_buffer *b); /* usable again after another init */
/* Forgets content and failure, keeps the memory. */
void text_buffer_clear(struct text_buffer *b);
/* Content as a C string, "" when empty; valid until the next append. */
const char *text_buffer_text(const struct text_buffer *b);

void text_buffer_append(struct text_buffer *b, const void *data, size_t len);
void text_buffer_add(struct text_buffer *b, const char *text); /* NUL-terminated */
void text_buffer_char(struct text_buffer *b, char c);
void text_buffer_printf(struct text_buffer *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Room for len more bytes to be written by the caller, who then calls text_buffer_advance; NULL when there is none. */
char *text_buffer_reserve(struct text_buffer *b, size_t len);
void text_buffer_advance(struct text_buffer *b, size_t len);

/* Cut to size - 1 bytes where it is longer, and always terminated. */
void text_copy(char *out, size_t size, const char *text);

#endif
