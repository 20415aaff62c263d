/* serve_body.h - the JSON of a streamed request: what a conversation has said so far, and how the answer is wanted.
 * Pure. */
#ifndef BATON_BENCH_SERVE_BODY_H
#define BATON_BENCH_SERVE_BODY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/text_buffer.h"

#define SERVE_MAX_HISTORY (15u << 20) /* bytes of what a conversation has said; requests are larger by the rest */

struct serve_api {
    const char *model;
    bool chat;        /* /v1/chat/completions, else /v1/completions */
    bool ignore_eos;  /* answers are as long as they are wanted */
    const char *salt; /* "cache_salt"; NULL: none */
};

/* history is kept between the requests of a conversation, inside of the JSON that it will stand in. */
void serve_body_say(const struct serve_api *api, const char *role, const char *text, size_t len,
                    struct text_buffer *history);
void serve_body_write(const struct serve_api *api, const struct text_buffer *history, uint32_t max_tokens,
                      struct text_buffer *out);

#endif
