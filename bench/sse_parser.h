/* sse_parser.h - server-sent events out of a stream of bytes, as the HTML standard
 * defines them: only the data of an event is kept, in pieces of any size. Pure. */
#ifndef BATON_BENCH_SSE_PARSER_H
#define BATON_BENCH_SSE_PARSER_H

#include <stdbool.h>
#include <stddef.h>

#include "common/status.h"
#include "common/text_buffer.h"

#define SSE_MAX_EVENT (1u << 20) /* bytes of one line, and of one event's data */

struct sse_parser {
    struct text_buffer line; /* of the unfinished line */
    struct text_buffer data; /* of the unfinished event, its lines joined by \n */
    bool after_cr;           /* a \n that follows ends no further line */
    bool has_data;
    /* data is borrowed and NUL-terminated. */
    void (*on_event)(void *arg, const char *data, size_t len);
    void *arg;
};

void sse_parser_init(struct sse_parser *p, void (*on_event)(void *arg, const char *data, size_t len), void *arg);
void sse_parser_free(struct sse_parser *p);
/* Forgets an unfinished event, as the end of the stream does. */
void sse_parser_reset(struct sse_parser *p);
/* ST_LIMIT: a line or an event beyond SSE_MAX_EVENT. */
MUST_CHECK status sse_parser_feed(struct sse_parser *p, const char *bytes, size_t len);

#endif
