/* The stream of an answer, as a load reads it, from any bytes in any pieces: the events are the same in one piece and
 * in many, and each is read. */
#include <string.h>

#include "bench/serve_event.h"
#include "bench/sse_parser.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    size_t n, bytes, texts;
    struct text_buffer text;
};

static void on_event(void *arg, const char *data, size_t len)
{
    struct seen *seen = arg;
    struct serve_event event;
    serve_event_read(data, len, &event, &seen->text);
    ASSERT(data[len] == '\0' && strlen(event.error) < sizeof event.error);
    ASSERT(!event.is_done || (!event.has_text && !event.has_usage));
    seen->n++;
    seen->bytes += len;
    seen->texts += event.has_text;
}

static void feed(const uint8_t *data, size_t size, size_t piece, struct seen *seen)
{
    struct sse_parser parser;
    *seen = (struct seen){ .n = 0 };
    text_buffer_init(&seen->text, 1u << 20);
    sse_parser_init(&parser, on_event, seen);
    for (size_t at = 0; at < size; at += piece)
        if (sse_parser_feed(&parser, (const char *)data + at, size - at < piece ? size - at : piece) != ST_OK)
            break;
    sse_parser_free(&parser);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seen whole, pieces;
    feed(data, size, size ? size : 1, &whole);
    feed(data, size, 3, &pieces);
    ASSERT(whole.n == pieces.n && whole.bytes == pieces.bytes && whole.texts == pieces.texts);
    ASSERT(!strcmp(text_buffer_text(&whole.text), text_buffer_text(&pieces.text)));
    text_buffer_free(&whole.text);
    text_buffer_free(&pieces.text);
    return 0;
}
