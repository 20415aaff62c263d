/* sse.h - server-sent events out of a byte stream, wherever it is cut. */
#ifndef BATON_CLI_SSE_H
#define BATON_CLI_SSE_H

#include <stdbool.h>

#include "common/text_buffer.h"

#define SSE_MAX_EVENT_BYTES ((size_t)4 << 20) /* a longer event is dropped whole */

struct sse {
    struct text_buffer line, data;
    bool has_data, after_return;
    void (*on_event)(void *arg, const char *data); /* the data lines of one event, joined by newlines */
    void *arg;
};

void sse_init(struct sse *s, void (*on_event)(void *arg, const char *data), void *arg);
void sse_free(struct sse *s);
void sse_push(struct sse *s, const char *bytes, size_t len);

#endif
