#include "bench/sse_parser.h"

#include <string.h>

void sse_parser_init(struct sse_parser *p, void (*on_event)(void *arg, const char *data, size_t len), void *arg)
{
    *p = (struct sse_parser){ .on_event = on_event, .arg = arg };
    text_buffer_init(&p->line, SSE_MAX_EVENT);
    text_buffer_init(&p->data, SSE_MAX_EVENT);
}

void sse_parser_free(struct sse_parser *p)
{
    text_buffer_free(&p->line);
    text_buffer_free(&p->data);
}

void sse_parser_reset(struct sse_parser *p)
{
    text_buffer_clear(&p->line);
    text_buffer_clear(&p->data);
    p->after_cr = p->has_data = false;
}

static void end_event(struct sse_parser *p)
{
    if (p->has_data)
        p->on_event(p->arg, text_buffer_text(&p->data), p->data.len);
    p->has_data = false;
    text_buffer_clear(&p->data);
}

/* A line without its end. Fields other than data do not matter to a client that reads tokens. */
static void take_line(struct sse_parser *p, const char *line, size_t len)
{
    if (len == 0) {
        end_event(p);
        return;
    }
    const char *colon = memchr(line, ':', len);
    size_t name = colon ? (size_t)(colon - line) : len;
    if (name != 4 || memcmp(line, "data", 4) != 0)
        return;
    size_t skip = colon ? (len > 5 && line[5] == ' ' ? 6 : 5) : 4;
    if (p->has_data)
        text_buffer_char(&p->data, '\n');
    text_buffer_append(&p->data, line + skip, len - skip);
    p->has_data = true;
}

/* Whole lines are taken where they lie; only what a read cut in two is copied. */
static void take_piece(struct sse_parser *p, const char *bytes, size_t len, bool ends)
{
    if (ends && p->line.len == 0) {
        take_line(p, bytes, len);
        return;
    }
    text_buffer_append(&p->line, bytes, len);
    if (!ends || p->line.state != ST_OK)
        return;
    take_line(p, text_buffer_text(&p->line), p->line.len);
    text_buffer_clear(&p->line);
}

static size_t line_length(const char *bytes, size_t len)
{
    size_t n = 0;
    while (n < len && bytes[n] != '\n' && bytes[n] != '\r')
        n++;
    return n;
}

status sse_parser_feed(struct sse_parser *p, const char *bytes, size_t len)
{
    while (len > 0) {
        if (p->after_cr && *bytes == '\n') {
            p->after_cr = false;
            bytes++;
            len--;
            continue;
        }
        size_t n = line_length(bytes, len);
        bool ends = n < len;
        p->after_cr = ends && bytes[n] == '\r';
        take_piece(p, bytes, n, ends);
        if (p->line.state != ST_OK || p->data.state != ST_OK)
            return ST_LIMIT;
        bytes += n + ends;
        len -= n + ends;
    }
    return ST_OK;
}
