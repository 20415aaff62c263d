#include "cli/sse.h"

#include <string.h>

void sse_init(struct sse *s, void (*on_event)(void *arg, const char *data), void *arg)
{
    *s = (struct sse){ .on_event = on_event, .arg = arg };
    text_buffer_init(&s->line, SSE_MAX_EVENT_BYTES);
    text_buffer_init(&s->data, SSE_MAX_EVENT_BYTES);
}

void sse_free(struct sse *s)
{
    text_buffer_free(&s->line);
    text_buffer_free(&s->data);
}

static void end_event(struct sse *s)
{
    if (s->has_data && s->data.state == ST_OK)
        s->on_event(s->arg, text_buffer_text(&s->data));
    text_buffer_clear(&s->data);
    s->has_data = false;
}

static void end_line(struct sse *s)
{
    const char *line = text_buffer_text(&s->line);
    if (s->line.state != ST_OK) {
        s->data.state = ST_LIMIT; /* spoils the event */
    } else if (!line[0]) {
        end_event(s);
    } else if (!strncmp(line, "data:", 5)) {
        if (s->has_data)
            text_buffer_char(&s->data, '\n');
        text_buffer_add(&s->data, line + 5 + (line[5] == ' '));
        s->has_data = true;
    }
    text_buffer_clear(&s->line);
}

void sse_push(struct sse *s, const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        bool second_half = s->after_return && bytes[i] == '\n';
        s->after_return = bytes[i] == '\r';
        if (second_half)
            continue;
        if (bytes[i] == '\n' || bytes[i] == '\r')
            end_line(s);
        else
            text_buffer_char(&s->line, bytes[i]);
    }
}
