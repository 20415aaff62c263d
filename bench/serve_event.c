#include "bench/serve_event.h"

#include <jansson.h>
#include <string.h>

static uint32_t number(const json_t *object, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(object, key));
    return n > 0 && n <= UINT32_MAX ? (uint32_t)n : 0;
}

static void take_usage(const json_t *usage, struct serve_event *e)
{
    if (!json_is_object(usage))
        return;
    e->has_usage = true;
    e->prompt_tokens = number(usage, "prompt_tokens");
    e->output_tokens = number(usage, "completion_tokens");
    e->cached_tokens = number(json_object_get(usage, "prompt_tokens_details"), "cached_tokens");
}

static const char *text_of(const json_t *choice)
{
    const json_t *delta = json_object_get(choice, "delta");
    const char *text = json_string_value(json_object_get(delta ? delta : choice, delta ? "content" : "text"));
    return text ? text : json_string_value(json_object_get(delta, "reasoning_content"));
}

static void take_error(const json_t *error, struct serve_event *e)
{
    const char *message = json_string_value(json_object_get(error, "message"));
    if (error && !json_is_null(error))
        text_copy(e->error, sizeof e->error, message ? message : "an error without a message");
}

void serve_event_read(const char *data, size_t len, struct serve_event *out, struct text_buffer *text)
{
    *out = (struct serve_event){ .is_done = len == 6 && !memcmp(data, "[DONE]", 6) };
    if (out->is_done)
        return;
    json_t *root = json_loadb(data, len, 0, NULL);
    const char *piece = text_of(json_array_get(json_object_get(root, "choices"), 0));
    if (!json_is_object(root))
        text_copy(out->error, sizeof out->error, "an event is no JSON object");
    out->has_text = piece && piece[0];
    if (out->has_text && text)
        text_buffer_add(text, piece);
    take_usage(json_object_get(root, "usage"), out);
    take_error(json_object_get(root, "error"), out);
    json_decref(root);
}
