#include "router/answer_write.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/json_writer.h"

#define HEAD_MAX_BYTES 4096

static bool is_chat(const struct request *r)
{
    return r->kind == REQUEST_CHAT;
}

static void add_string(struct text_buffer *out, const char *text, size_t len)
{
    text_buffer_char(out, '"');
    json_escape(out, text, len);
    text_buffer_char(out, '"');
}

static void add_number(struct text_buffer *out, uint64_t v)
{
    char digits[20];
    size_t n = sizeof digits;
    do
        digits[--n] = (char)('0' + v % 10);
    while (v /= 10);
    text_buffer_append(out, digits + n, sizeof digits - n);
}

/* {"id":...,"object":...,"created":...,"model":... */
static void add_head(const struct answer_head *h, const char *object, struct text_buffer *out)
{
    text_buffer_add(out, "{\"id\":\"");
    text_buffer_add(out, h->id);
    text_buffer_add(out, "\",\"object\":\"");
    text_buffer_add(out, object);
    text_buffer_add(out, "\",\"created\":");
    add_number(out, (uint64_t)h->created);
    text_buffer_add(out, ",\"model\":");
    add_string(out, h->request->name, strlen(h->request->name));
}

void answer_head_init(struct answer_head *head, const char *id, int64_t created, const struct request *request)
{
    *head = (struct answer_head){ .created = created, .request = request };
    text_copy(head->id, sizeof head->id, id);
    text_buffer_init(&head->event, HEAD_MAX_BYTES);
    if (!request->stream)
        return;
    text_buffer_add(&head->event, "data: ");
    add_head(head, is_chat(request) ? "chat.completion.chunk" : "text_completion", &head->event);
    text_buffer_add(&head->event, ",\"choices\":[");
}

void answer_head_free(struct answer_head *head)
{
    text_buffer_free(&head->event);
}

static void add_usage(const struct answer_usage *u, struct text_buffer *out)
{
    text_buffer_add(out, "{\"prompt_tokens\":");
    add_number(out, u->prompt_tokens);
    text_buffer_add(out, ",\"completion_tokens\":");
    add_number(out, u->completion_tokens);
    text_buffer_add(out, ",\"total_tokens\":");
    add_number(out, u->prompt_tokens + u->completion_tokens);
    text_buffer_add(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    add_number(out, cached_tokens_total(&u->cached));
    text_buffer_add(out, "}}");
}

static const char *finish_text(enum choice_finish finish)
{
    return finish == CHOICE_STOP ? "\"stop\"" : finish == CHOICE_LENGTH ? "\"length\"" : "null";
}

/* The last members of a choice that has ended, and its end. */
static void add_ending(const struct choice *c, uint64_t started_us, struct text_buffer *out)
{
    text_buffer_add(out, ",\"finish_reason\":");
    text_buffer_add(out, finish_text(c->finish));
    if (c->timing.class_changed)
        text_buffer_add(out, ",\"class_changed\":true");
    if (c->request->want_baton) {
        text_buffer_add(out, ",\"baton\":");
        answer_write_baton(c, started_us, out);
    }
    text_buffer_char(out, '}');
}

/* ---- events ----------------------------------------------------------------------- */

static void begin_event(const struct answer_head *head, const struct choice *c, struct text_buffer *out)
{
    text_buffer_append(out, head->event.data, head->event.len);
    text_buffer_add(out, "{\"index\":");
    add_number(out, c->index);
}

static void end_choices(const struct answer_head *head, const struct answer_usage *usage, struct text_buffer *out)
{
    const struct request *r = head->request;
    if (!r->include_usage) {
        text_buffer_add(out, "]}\n\n");
        return;
    }
    text_buffer_add(out, "],\"usage\":");
    if (r->continuous_usage)
        add_usage(usage, out);
    else
        text_buffer_add(out, "null");
    text_buffer_add(out, "}\n\n");
}

void answer_write_opening(const struct answer_head *head, const struct choice *c, const struct answer_usage *usage,
                          struct text_buffer *out)
{
    if (!is_chat(head->request) && !head->request->echo)
        return;
    begin_event(head, c, out);
    if (is_chat(head->request)) {
        text_buffer_add(out, ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
    } else {
        text_buffer_add(out, ",\"text\":");
        add_string(out, c->prompt->text, c->prompt->text_len);
    }
    text_buffer_add(out, ",\"logprobs\":null,\"finish_reason\":null}");
    end_choices(head, usage, out);
}

void answer_write_piece(const struct answer_head *head, const struct choice *c, const struct text_buffer *piece,
                        uint32_t n_scored, const struct answer_usage *usage, struct text_buffer *out)
{
    begin_event(head, c, out);
    text_buffer_add(out, is_chat(head->request) ? ",\"delta\":{\"content\":" : ",\"text\":");
    add_string(out, piece->data, piece->len);
    if (is_chat(head->request))
        text_buffer_char(out, '}');
    text_buffer_add(out, ",\"logprobs\":");
    if (n_scored)
        answer_write_logprobs(c, n_scored, out);
    else
        text_buffer_add(out, "null");
    text_buffer_add(out, ",\"finish_reason\":null}");
    end_choices(head, usage, out);
}

void answer_write_closing(const struct answer_head *head, const struct choice *c, uint64_t started_us,
                          const struct answer_usage *usage, struct text_buffer *out)
{
    begin_event(head, c, out);
    text_buffer_add(out, is_chat(head->request) ? ",\"delta\":{}" : ",\"text\":\"\"");
    text_buffer_add(out, ",\"logprobs\":null");
    add_ending(c, started_us, out);
    end_choices(head, usage, out);
}

void answer_write_end(const struct answer_head *head, const struct answer_usage *usage, struct text_buffer *out)
{
    if (head->request->include_usage) {
        text_buffer_append(out, head->event.data, head->event.len);
        text_buffer_add(out, "],\"usage\":");
        add_usage(usage, out);
        text_buffer_add(out, "}\n\n");
    }
    text_buffer_add(out, "data: [DONE]\n\n");
}

void answer_write_error_event(const struct api_error *err, struct text_buffer *out)
{
    text_buffer_add(out, "data: ");
    api_error_write(err, out);
    text_buffer_add(out, "\n\n");
}

/* ---- one body ------------------------------------------------------------------------- */

static void add_choice(const struct answer_head *head, const struct choice *c, uint64_t started_us,
                       struct text_buffer *out)
{
    text_buffer_add(out, "{\"index\":");
    add_number(out, c->index);
    text_buffer_add(out,
                    is_chat(head->request) ? ",\"message\":{\"role\":\"assistant\",\"content\":\"" : ",\"text\":\"");
    if (head->request->echo)
        json_escape(out, c->prompt->text, c->prompt->text_len);
    json_escape(out, c->text.data, c->text.len);
    text_buffer_add(out, is_chat(head->request) ? "\",\"refusal\":null}" : "\"");
    text_buffer_add(out, ",\"logprobs\":");
    if (head->request->sampling.n_logprobs >= 0)
        answer_write_logprobs(c, choice_scored_ready(c), out);
    else
        text_buffer_add(out, "null");
    add_ending(c, started_us, out);
}

void answer_write_body(const struct answer_head *head, const struct choice *choices, uint32_t n, uint64_t started_us,
                       const struct answer_usage *usage, struct text_buffer *out)
{
    add_head(head, is_chat(head->request) ? "chat.completion" : "text_completion", out);
    text_buffer_add(out, ",\"choices\":[");
    for (uint32_t i = 0; i < n; i++) {
        if (i)
            text_buffer_char(out, ',');
        add_choice(head, &choices[i], started_us, out);
    }
    text_buffer_add(out, "],\"usage\":");
    add_usage(usage, out);
    text_buffer_char(out, '}');
}
