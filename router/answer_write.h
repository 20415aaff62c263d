/* answer_write.h - answers as JSON and as server-sent events: what OpenAI's clients read, byte
 * for byte. Everything is appended to a text_buffer; no sockets here. */
#ifndef BATON_ROUTER_ANSWER_WRITE_H
#define BATON_ROUTER_ANSWER_WRITE_H

#include "router/answer_choice.h"
#include "router/api_error.h"

struct answer_head {
    char id[48];
    int64_t created; /* seconds since 1970 */
    const struct request *request;
    struct text_buffer event; /* `data: {...,"choices":[{"index":`, made once */
};

struct answer_usage {
    uint64_t prompt_tokens, completion_tokens;
    struct cached_tokens cached; /* of prompt_tokens */
};

/* max_bytes of the event's beginning: ids and names are short. */
void answer_head_init(struct answer_head *head, const char *id, int64_t created, const struct request *request);
void answer_head_free(struct answer_head *head);

/* The first event of a choice: the role, or the echoed prompt; nothing when there is neither. */
void answer_write_opening(const struct answer_head *head, const struct choice *c, const struct answer_usage *usage,
                          struct text_buffer *out);
/* One event with text and the first n_scored log-probabilities, which stay in the queue. */
void answer_write_piece(const struct answer_head *head, const struct choice *c, const struct text_buffer *piece,
                        uint32_t n_scored, const struct answer_usage *usage, struct text_buffer *out);
/* The last event of a choice. */
void answer_write_closing(const struct answer_head *head, const struct choice *c, uint64_t started_us,
                          const struct answer_usage *usage, struct text_buffer *out);
/* The usage event where it was asked for, and [DONE]. */
void answer_write_end(const struct answer_head *head, const struct answer_usage *usage, struct text_buffer *out);
void answer_write_error_event(const struct api_error *err, struct text_buffer *out);

/* The whole body. choices: [n], all finished. */
void answer_write_body(const struct answer_head *head, const struct choice *choices, uint32_t n, uint64_t started_us,
                       const struct answer_usage *usage, struct text_buffer *out);

/* answer_logprobs.c: the value of "logprobs": the first n of the choice's scored tokens, in the
 * form of chat or of completions. */
void answer_write_logprobs(const struct choice *c, uint32_t n, struct text_buffer *out);
/* answer_baton.c: the value of "baton". started_us: when the request's head came. */
void answer_write_baton(const struct choice *c, uint64_t started_us, struct text_buffer *out);

#endif
