#include "bench/serve_body.h"

#include <string.h>

#include "common/json_writer.h"

void serve_body_say(const struct serve_api *api, const char *role, const char *text, size_t len,
                    struct text_buffer *history)
{
    if (api->chat)
        text_buffer_printf(history, "%s{\"role\":\"%s\",\"content\":\"", history->len ? "," : "", role);
    json_escape(history, text, len);
    if (api->chat)
        text_buffer_add(history, "\"}");
}

void serve_body_write(const struct serve_api *api, const struct text_buffer *history, uint32_t max_tokens,
                      struct text_buffer *out)
{
    text_buffer_add(out, "{\"model\":\"");
    json_escape(out, api->model, strlen(api->model));
    text_buffer_add(out, api->chat ? "\",\"messages\":[" : "\",\"prompt\":\"");
    text_buffer_append(out, text_buffer_text(history), history->len);
    text_buffer_printf(out,
                       "%s,\"max_tokens\":%u,\"temperature\":0,\"stream\":true,\"stream_options\":"
                       "{\"include_usage\":true}",
                       api->chat ? "]" : "\"", max_tokens);
    if (api->ignore_eos)
        text_buffer_add(out, ",\"ignore_eos\":true");
    if (api->salt) {
        text_buffer_add(out, ",\"cache_salt\":\"");
        json_escape(out, api->salt, strlen(api->salt));
        text_buffer_char(out, '"');
    }
    text_buffer_char(out, '}');
}
