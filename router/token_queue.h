/* token_queue.h - generated tokens with what came along with them, in order: those that a slow client
 * has not taken, and those whose log-probabilities are not written yet. */
#ifndef BATON_ROUTER_TOKEN_QUEUE_H
#define BATON_ROUTER_TOKEN_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "engine/sampling.h"
#include "proto/baton.pb-c.h"

#define TOKEN_HASH_BYTES 16

struct token_record {
    uint32_t id;
    float logprob;
    uint32_t n_top;
    uint32_t chars; /* code points of the answer before this token */
    size_t offset;  /* bytes of the answer before it */
    bool has_hash;
    uint8_t hash[TOKEN_HASH_BYTES];
};

/* One token by itself. */
struct token_view {
    struct token_record record;
    struct token_logprob top[SAMPLING_MAX_TOP_LOGPROBS];
};

struct token_queue { /* zero is empty */
    struct token_record *records;
    struct token_logprob *tops; /* [capacity, stride] */
    uint32_t first, n, capacity, stride;
};

/* stride: alternatives kept of each token, at most SAMPLING_MAX_TOP_LOGPROBS. */
void token_queue_init(struct token_queue *q, uint32_t stride);
void token_queue_free(struct token_queue *q);
MUST_CHECK status token_queue_push(struct token_queue *q, const struct token_view *token);
/* The i-th from the front, and its alternatives. Valid until the next push. */
const struct token_record *token_queue_at(const struct token_queue *q, uint32_t i, const struct token_logprob **tops);
void token_queue_drop(struct token_queue *q, uint32_t n);
/* The front, taken out; the queue is not empty. */
void token_queue_pop(struct token_queue *q, struct token_view *out);

void token_view_read(const Baton__Token *token, struct token_view *out);

#endif
