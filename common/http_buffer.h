/* http_buffer.h - bytes that wait: input not parsed yet, output not sent yet.
 * Memory is taken when bytes come and given back when none are left, so an
 * idle connection holds none. The owner bounds the length. One thread. */
#ifndef BATON_COMMON_HTTP_BUFFER_H
#define BATON_COMMON_HTTP_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

struct http_buffer {
    char *data; /* the first waiting byte is data[start] */
    size_t start, len, capacity;
};

static inline const char *http_buffer_bytes(const struct http_buffer *b)
{
    return b->data + b->start;
}

/* false: no memory, nothing was taken. */
bool http_buffer_append(struct http_buffer *b, const void *data, size_t len);
void http_buffer_consume(struct http_buffer *b, size_t len);
void http_buffer_free(struct http_buffer *b);

#endif
