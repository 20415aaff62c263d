#include "router/answer_choice.h"

#include <stdio.h>
#include <string.h>

#include "common/clock.h"

#define HASH_BYTES_MAX ((size_t)64 << 20)

static uint32_t count_chars(const char *text, size_t len)
{
    uint32_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

/* Its tokens have no text: special ones alone, such as the begin-of-text of an empty prompt. */
static bool is_silent(const struct request_prompt *prompt, const struct request *request)
{
    const struct tokenizer *tok = request->model->tokenizer;
    size_t n = 0, len;
    while (n < prompt->tokens.n) {
        uint32_t id = prompt->tokens.ids[n];
        (void)tokenizer_bytes(tok, id, &len);
        if (len > 0 && (request->keep_special || !tokenizer_is_special(tok, id)))
            break;
        n++;
    }
    return n == prompt->tokens.n;
}

status choice_init(struct choice *c, struct answer *answer, const struct request *request, uint32_t index)
{
    int32_t n = request->sampling.n_logprobs;
    *c = (struct choice){ .answer = answer, .request = request, .index = index };
    c->prompt = &request->prompts[index / request->n];
    detokenizer_init(&c->detokenizer, request->model->tokenizer, request->keep_special);
    if (is_silent(c->prompt, request))
        detokenizer_at_start(&c->detokenizer);
    token_queue_init(&c->held, n > 0 ? (uint32_t)n : 0);
    token_queue_init(&c->scored, n > 0 ? (uint32_t)n : 0);
    text_buffer_init(&c->text, (size_t)256 << 20);
    text_buffer_init(&c->hashes, HASH_BYTES_MAX);
    if (request->echo)
        c->chars = count_chars(c->prompt->text, c->prompt->text_len);
    return stop_match_init(&c->stops, &request->stops, request->arena);
}

void choice_free(struct choice *c)
{
    token_queue_free(&c->held);
    token_queue_free(&c->scored);
    text_buffer_free(&c->text);
    text_buffer_free(&c->hashes);
}

static void keep_hash(struct choice *c, const struct token_record *t)
{
    static const char digits[] = "0123456789abcdef";
    char text[2 * TOKEN_HASH_BYTES + 3];
    size_t n = 0;
    if (c->hashes.len)
        text[n++] = ',';
    text[n++] = '"';
    for (size_t i = 0; t->has_hash && i < TOKEN_HASH_BYTES; i++) {
        text[n++] = digits[t->hash[i] >> 4];
        text[n++] = digits[t->hash[i] & 15];
    }
    text[n++] = '"';
    text_buffer_append(&c->hashes, text, n);
}

static bool ends_answer(const struct request *r, uint32_t id)
{
    for (uint32_t i = 0; i < r->sampling.n_stop_ids && !r->sampling.ignore_eos; i++)
        if (r->sampling.stop_ids[i] == id)
            return true;
    return false;
}

static void give_out(struct choice *c, const char *text, size_t len, struct text_buffer *out)
{
    size_t before = out->len;
    c->detokenised += len;
    if (c->n_generated <= c->request->sampling.min_tokens)
        text_buffer_append(out, text, len); /* stop strings do not count yet */
    else if (stop_match_push(&c->stops, text, len, out))
        c->finish = CHOICE_STOP;
    c->shown += out->len - before;
}

status choice_take(struct choice *c, const struct token_view *token, struct text_buffer *out)
{
    const struct request *r = c->request;
    char text[DETOKENIZER_MAX_BYTES(TOKENIZER_MAX_TOKEN_BYTES)];
    status st = ST_OK;
    c->n_generated++;
    if (r->sampling.want_hash)
        keep_hash(c, &token->record);
    if (ends_answer(r, token->record.id))
        return ST_OK;
    size_t len = detokenizer_push(&c->detokenizer, token->record.id, text);
    if (r->sampling.n_logprobs >= 0) {
        struct token_view scored = *token;
        scored.record.offset = c->detokenised;
        scored.record.chars = c->chars;
        st = token_queue_push(&c->scored, &scored);
        c->chars += count_chars(text, len);
    }
    give_out(c, text, len, out);
    return st;
}

void choice_end(struct choice *c, enum choice_finish finish, struct text_buffer *out)
{
    size_t before = out->len;
    stop_match_finish(&c->stops, out);
    c->shown += out->len - before;
    c->finish = finish;
}

uint32_t choice_scored_ready(const struct choice *c)
{
    uint32_t n = 0;
    const struct token_logprob *tops;
    bool all = c->shown == c->detokenised; /* nothing is withheld or cut off */
    while (n < c->scored.n && (all || token_queue_at(&c->scored, n, &tops)->offset < c->shown))
        n++;
    return n;
}

static void copy_text(char *out, size_t size, const char *text)
{
    text_copy(out, size, text ? text : "");
}

void choice_keep_worker_timing(struct choice *c, const Baton__Timing *timing)
{
    struct choice_timing *t = &c->timing;
    if (!t->from_worker && !t->first_token_us)
        cached_tokens_read(timing, (uint32_t)c->prompt->tokens.n, &t->cached);
    t->from_worker = true;
    t->queue_us = timing->queue_us;
    t->prefill_us = timing->prefill_us;
    t->prefill_queue_us = timing->prefill_queue_us;
    t->handoff_us = timing->handoff_us;
    t->decode_us = timing->decode_us;
    t->moved_bytes = timing->moved_bytes;
    t->legs = timing->legs;
    t->computed_tokens = timing->computed_tokens;
    t->preempted = timing->preempted;
    copy_text(t->transport, sizeof t->transport, timing->transport);
    copy_text(t->route, sizeof t->route, timing->route);
    copy_text(t->prefill_worker, sizeof t->prefill_worker, timing->prefill_worker);
    copy_text(t->decode_worker, sizeof t->decode_worker, timing->decode_worker);
}

void choice_keep_timing(struct choice *c, const struct flow_timing *timing, bool cut)
{
    struct choice_timing *t = &c->timing;
    t->ended_us = t->submitted_us + timing->total_us;
    t->dispatched_us = t->submitted_us + timing->wait_us;
    t->first_token_us = timing->first_token_us ? t->submitted_us + timing->first_token_us : 0;
    t->attempts = timing->attempts;
    t->class_changed = timing->class_changed;
    copy_text(t->class, sizeof t->class, timing->class);
    if (cut || !t->from_worker)
        t->decode_us = timing->first_token_us ? timing->total_us - timing->first_token_us : 0;
}
