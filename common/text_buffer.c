#include "common/text_buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 256

void text_buffer_init(struct text_buffer *b, size_t max_bytes)
{
    *b = (struct text_buffer){ .max_bytes = max_bytes };
}

void text_buffer_free(struct text_buffer *b)
{
    free(b->data);
    text_buffer_init(b, b->max_bytes);
}

void text_buffer_clear(struct text_buffer *b)
{
    b->len = 0;
    b->state = ST_OK;
    if (b->data)
        b->data[0] = '\0';
}

const char *text_buffer_text(const struct text_buffer *b)
{
    return b->data ? b->data : "";
}

/* Doubles, so that appending is linear; the last step goes to the bound exactly. */
static status grow(struct text_buffer *b, size_t need)
{
    size_t capacity = b->capacity ? b->capacity : FIRST_CAPACITY;
    while (capacity < need)
        capacity *= 2;
    if (capacity > b->max_bytes + 1)
        capacity = b->max_bytes + 1;
    char *data = realloc(b->data, capacity);
    if (!data)
        return ST_NO_MEMORY;
    b->data = data;
    b->capacity = capacity;
    return ST_OK;
}

char *text_buffer_reserve(struct text_buffer *b, size_t len)
{
    if (b->state == ST_OK && len > b->max_bytes - b->len)
        b->state = ST_LIMIT;
    if (b->state == ST_OK && (!b->data || b->len + len + 1 > b->capacity))
        b->state = grow(b, b->len + len + 1);
    return b->state == ST_OK ? b->data + b->len : NULL;
}

void text_buffer_advance(struct text_buffer *b, size_t len)
{
    ASSERT(b->data && len < b->capacity - b->len);
    b->len += len;
    b->data[b->len] = '\0';
}

void text_buffer_append(struct text_buffer *b, const void *data, size_t len)
{
    char *to = text_buffer_reserve(b, len);
    if (!to)
        return;
    if (len)
        memcpy(to, data, len);
    text_buffer_advance(b, len);
}

void text_buffer_add(struct text_buffer *b, const char *text)
{
    text_buffer_append(b, text, strlen(text));
}

void text_buffer_char(struct text_buffer *b, char c)
{
    text_buffer_append(b, &c, 1);
}

void text_buffer_printf(struct text_buffer *b, const char *fmt, ...)
{
    va_list args;
    size_t room = b->data ? b->capacity - b->len : 0;
    if (b->state != ST_OK)
        return;
    va_start(args, fmt);
    int len = vsnprintf(b->data ? b->data + b->len : NULL, room, fmt, args);
    va_end(args);
    ASSERT(len >= 0);
    if ((size_t)len >= room) {
        if (b->data)
            b->data[b->len] = '\0'; /* the part that fitted is not kept */
        if (!text_buffer_reserve(b, (size_t)len))
            return;
        va_start(args, fmt);
        vsnprintf(b->data + b->len, (size_t)len + 1, fmt, args);
        va_end(args);
    }
    text_buffer_advance(b, (size_t)len);
}

void text_copy(char *out, size_t size, const char *text)
{
    size_t len = strnlen(text, size - 1);
    memcpy(out, text, len);
    out[len] = '\0';
}
