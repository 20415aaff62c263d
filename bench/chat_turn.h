/* chat_turn.h - one turn of a conversation with a cluster: how its prompt is rendered, what is answered, and how
 * long that took. Blocking; one thread. */
#ifndef BATON_BENCH_CHAT_TURN_H
#define BATON_BENCH_CHAT_TURN_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "bench/http_call.h"
#include "common/text_buffer.h"
#include "proto/kv_events.h"

struct chat_place {
    struct http_caller *caller; /* borrowed, as the others */
    const char *url;            /* of the router, without a slash at its end */
    const char *model;
    uint64_t timeout_us; /* of each request */
};

/* A prompt as the model sees it. */
struct chat_prompt {
    json_t *ids;   /* integers */
    json_t *texts; /* strings, as vocabularies list tokens */
};

struct chat_answer {
    struct text_buffer text;
    json_t *texts; /* of its tokens, as in chat_prompt; not of the one that ends an answer */
    uint32_t prompt_tokens, completion_tokens, cached_tokens;
    bool has_tiers; /* the router told them */
    uint32_t by_tier[KV_TIER_COUNT];
    uint64_t first_token_us; /* from when the request was sent */
};

struct chat_question {
    const json_t *messages;
    const char *salt; /* "cache_salt" */
    uint32_t max_tokens;
    bool debug;    /* the router has --debug-extensions: tiers are asked for */
    bool no_cache; /* only with debug */
};

/* Asks /tokenize. */
MUST_CHECK status chat_prompt_render(const struct chat_place *place, const json_t *messages, struct chat_prompt *out,
                                     struct error *err);
void chat_prompt_free(struct chat_prompt *prompt);

/* Greedy, and streamed. An answer without a token is an error. */
MUST_CHECK status chat_ask(const struct chat_place *place, const struct chat_question *question,
                           struct chat_answer *out, struct error *err);
void chat_answer_free(struct chat_answer *answer);

/* How many tokens at the beginning of `next` are those whose KV was computed for an earlier turn: its prompt, and its
 * answer but for the last token that was sampled. */
uint32_t chat_computed_prefix(const struct chat_prompt *next, const struct chat_prompt *prompt,
                              const struct chat_answer *answer);

#endif
