#include "common/http_buffer.h"

#include <stdlib.h>
#include <string.h>

#include "common/status.h"

#define HTTP_BUFFER_LEAST 1024 /* bytes of the first allocation */

static bool make_room(struct http_buffer *b, size_t len)
{
    if (b->start + b->len + len <= b->capacity)
        return true;
    /* Moving is only worth it when at least half is free, else it is done again and again. */
    if (b->start >= b->len && b->len + len <= b->capacity) {
        memmove(b->data, b->data + b->start, b->len);
        b->start = 0;
        return true;
    }
    size_t capacity = HTTP_BUFFER_LEAST;
    while (capacity < b->len + len)
        capacity *= 2;
    char *data = malloc(capacity);
    if (!data)
        return false;
    if (b->len)
        memcpy(data, b->data + b->start, b->len);
    free(b->data);
    *b = (struct http_buffer){ .data = data, .len = b->len, .capacity = capacity };
    return true;
}

bool http_buffer_append(struct http_buffer *b, const void *data, size_t len)
{
    if (len == 0)
        return true;
    if (!make_room(b, len))
        return false;
    memcpy(b->data + b->start + b->len, data, len);
    b->len += len;
    return true;
}

void http_buffer_consume(struct http_buffer *b, size_t len)
{
    ASSERT(len <= b->len);
    b->start += len;
    b->len -= len;
    if (b->len == 0)
        http_buffer_free(b);
}

void http_buffer_free(struct http_buffer *b)
{
    free(b->data);
    *b = (struct http_buffer){ 0 };
}
