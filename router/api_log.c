/* The line of a request that is over: what its client knows of it (the x-request-id) beside what workers
 * log of it (the request key). */
#include <string.h>

#include "common/log.h"
#include "router/api_call.h"

#define MAX_FIELDS_BYTES ((size_t)1536) /* a line of the log has 2048 */
#define QUOTED_BYTES     (2 * CALL_REQUEST_ID_BYTES + 8)
#define CLIENT_GONE      499

static void add_quoted(struct text_buffer *out, const char *key, const char *text)
{
    char quoted[QUOTED_BYTES];
    if (text[0])
        text_buffer_printf(out, " %s=%s", key, log_quote(quoted, sizeof quoted, text));
}

static void add_ms(struct text_buffer *out, const char *key, uint64_t us)
{
    text_buffer_printf(out, " %s=%llu.%03u", key, (unsigned long long)(us / 1000), (unsigned)(us % 1000));
}

static void add_trace(struct text_buffer *out, const struct trace_context *trace)
{
    static const struct trace_context none;
    if (!memcmp(trace->trace_id, none.trace_id, sizeof none.trace_id))
        return;
    text_buffer_add(out, " trace=");
    for (size_t i = 0; i < sizeof trace->trace_id; i++)
        text_buffer_printf(out, "%02x", trace->trace_id[i]);
}

static const char *finish_of(const struct call *call, int code)
{
    return code == CLIENT_GONE ? "cancelled" : code >= 400 ? "error" : call->record.finish;
}

static void add_generation(struct text_buffer *out, const struct call_record *r)
{
    if (r->has_key)
        text_buffer_printf(out, " request=%llx.%llx", (unsigned long long)r->key.router,
                           (unsigned long long)r->key.seq);
    add_quoted(out, "model", r->model);
    if (r->choices)
        text_buffer_printf(out, " choices=%u prompt_tokens=%llu completion_tokens=%llu", r->choices,
                           (unsigned long long)r->prompt_tokens, (unsigned long long)r->completion_tokens);
}

void call_log(const struct call *call, int code, uint64_t took_us)
{
    const struct call_record *r = &call->record;
    struct text_buffer out;
    char id[QUOTED_BYTES];
    if (!log_enabled(LOG_INFO))
        return;
    text_buffer_init(&out, MAX_FIELDS_BYTES);
    text_buffer_printf(&out, "id=%s endpoint=%s status=%d", log_quote(id, sizeof id, call->request_id),
                       call->endpoint->name, code);
    add_generation(&out, r);
    if (finish_of(call, code))
        text_buffer_printf(&out, " finish=%s", finish_of(call, code));
    if (r->first_token_us)
        add_ms(&out, "first_token_ms", r->first_token_us - call->started_us);
    add_ms(&out, "total_ms", took_us);
    add_quoted(&out, "worker", r->worker);
    add_trace(&out, &call->trace);
    log_info("answered", "%s", text_buffer_text(&out));
    text_buffer_free(&out);
}
