/* serve_event.h - one event of a streamed answer, of chat or of completions. Pure. */
#ifndef BATON_BENCH_SERVE_EVENT_H
#define BATON_BENCH_SERVE_EVENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/text_buffer.h"

#define SERVE_ERROR_BYTES 160u

struct serve_event {
    bool is_done;  /* [DONE] */
    bool has_text; /* that is not empty */
    bool has_usage;
    uint32_t prompt_tokens, cached_tokens, output_tokens;
    char error[SERVE_ERROR_BYTES]; /* what the server says, or that the event is none; "": no error */
};

/* text: what is appended to it is the event's text; may be NULL. */
void serve_event_read(const char *data, size_t len, struct serve_event *out, struct text_buffer *text);

#endif
