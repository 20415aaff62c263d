#include "router/token_queue.h"

#include <stdlib.h>
#include <string.h>

void token_queue_init(struct token_queue *q, uint32_t stride)
{
    *q = (struct token_queue){ .stride = stride < SAMPLING_MAX_TOP_LOGPROBS ? stride : SAMPLING_MAX_TOP_LOGPROBS };
}

void token_queue_free(struct token_queue *q)
{
    free(q->records);
    free(q->tops);
    token_queue_init(q, q->stride);
}

/* What was dropped at the front makes room before memory is taken. */
static status make_room(struct token_queue *q)
{
    if (q->first > 0 && q->first >= q->n) {
        memmove(q->records, q->records + q->first, q->n * sizeof *q->records);
        if (q->stride)
            memmove(q->tops, q->tops + (size_t)q->first * q->stride, (size_t)q->n * q->stride * sizeof *q->tops);
        q->first = 0;
        return ST_OK;
    }
    uint32_t capacity = q->capacity ? 2 * q->capacity : 16;
    struct token_record *records = realloc(q->records, capacity * sizeof *records);
    if (!records)
        return ST_NO_MEMORY;
    q->records = records;
    if (q->stride) {
        struct token_logprob *tops = realloc(q->tops, (size_t)capacity * q->stride * sizeof *tops);
        if (!tops)
            return ST_NO_MEMORY;
        q->tops = tops;
    }
    q->capacity = capacity;
    return ST_OK;
}

status token_queue_push(struct token_queue *q, const struct token_view *token)
{
    if (q->first + q->n == q->capacity) {
        status st = make_room(q);
        if (st != ST_OK)
            return st;
    }
    uint32_t at = q->first + q->n++, n = token->record.n_top < q->stride ? token->record.n_top : q->stride;
    q->records[at] = token->record;
    q->records[at].n_top = n;
    if (n)
        memcpy(q->tops + (size_t)at * q->stride, token->top, n * sizeof *q->tops);
    return ST_OK;
}

const struct token_record *token_queue_at(const struct token_queue *q, uint32_t i, const struct token_logprob **tops)
{
    ASSERT(i < q->n);
    *tops = q->stride ? q->tops + (size_t)(q->first + i) * q->stride : NULL;
    return &q->records[q->first + i];
}

void token_queue_drop(struct token_queue *q, uint32_t n)
{
    ASSERT(n <= q->n);
    q->n -= n;
    q->first = q->n ? q->first + n : 0;
}

void token_queue_pop(struct token_queue *q, struct token_view *out)
{
    const struct token_logprob *tops;
    out->record = *token_queue_at(q, 0, &tops);
    if (out->record.n_top) {
        ASSERT(tops);
        memcpy(out->top, tops, out->record.n_top * sizeof *tops);
    }
    token_queue_drop(q, 1);
}

void token_view_read(const Baton__Token *token, struct token_view *out)
{
    size_t n = token->n_top_ids < token->n_top_logprobs ? token->n_top_ids : token->n_top_logprobs;
    if (n > SAMPLING_MAX_TOP_LOGPROBS)
        n = SAMPLING_MAX_TOP_LOGPROBS;
    out->record = (struct token_record){ .id = token->id, .logprob = token->logprob, .n_top = (uint32_t)n };
    for (size_t i = 0; i < n; i++)
        out->top[i] = (struct token_logprob){ token->top_ids[i], token->top_logprobs[i] };
    out->record.has_hash = token->hash.len == TOKEN_HASH_BYTES;
    if (out->record.has_hash)
        memcpy(out->record.hash, token->hash.data, TOKEN_HASH_BYTES);
}
