/* What a mock worker sends: tokens that follow from seed and position, and refusals. */
#include "bench/mock_worker_internal.h"
#include "common/clock.h"

#define MAX_TOKENS_A_REPEAT 256u /* of one sequence in one message */
#define MAX_BATCH           256u /* sequences in one message */

struct packed {
    Baton__SequenceTokens msg;
    Baton__Token token, *pointer;
};

static void emit(struct mock_worker *w, struct mock_request *r, uint32_t position, uint64_t now, Baton__Token *out)
{
    uint32_t index = position - r->prompt_len;
    baton__token__init(out);
    out->id = w->options.token_ids[mock_worker_token(r->seed, index, w->options.n_token_ids)];
    mock_blocks_token(&w->blocks, &r->chain, position, out->id);
    if (w->options.on_emit)
        w->options.on_emit(w->options.ctx, r->seed, index, now);
    w->stats.tokens++;
}

static void head_of_sequence(const struct mock_request *r, Baton__SequenceTokens *out)
{
    baton__sequence_tokens__init(out);
    out->router = r->node.key.router;
    out->seq = r->node.key.seq;
    out->attempt = r->attempt;
    out->position = r->sent;
}

static void send_to(struct mock_worker *w, struct link *router, const struct message_head *head, Baton__Tokens *body,
                    bool acked)
{
    status st = acked ? link_send_acked(router, head, &body->base) : link_send(router, head, &body->base);
    w->stats.send_failures += st != ST_OK;
}

static void fill_timing(const struct mock_worker *w, const struct mock_request *r, Baton__Timing *out)
{
    baton__timing__init(out);
    out->route = (char *)"local";
    out->transport = (char *)"";
    out->prefill_worker = out->decode_worker = (char *)w->options.id;
    out->computed_tokens = r->first;
}

void mock_send_upto(struct mock_worker *w, struct mock_request *r, uint32_t upto)
{
    Baton__Token tokens[MAX_TOKENS_A_REPEAT], *pointers[MAX_TOKENS_A_REPEAT];
    Baton__SequenceTokens seq, *only = &seq;
    Baton__Timing timing;
    Baton__Tokens body = BATON__TOKENS__INIT;
    uint64_t now = clock_now_us();
    head_of_sequence(r, &seq);
    while (r->sent + seq.n_tokens < upto && seq.n_tokens < MAX_TOKENS_A_REPEAT) {
        pointers[seq.n_tokens] = &tokens[seq.n_tokens];
        emit(w, r, r->sent + (uint32_t)seq.n_tokens, now, &tokens[seq.n_tokens]);
        seq.n_tokens++;
    }
    seq.tokens = pointers;
    w->running_tokens += seq.n_tokens;
    r->sent += (uint32_t)seq.n_tokens;
    bool last = r->sent == r->end;
    if (last || seq.position == r->first) {
        fill_timing(w, r, &timing);
        seq.timing = &timing;
    }
    if (last)
        seq.finish = BATON__FINISH__FINISH_LENGTH;
    struct message_head head = { FRAME_TOKENS, r->node.key, r->attempt, 0, FRAME_NO_DEADLINE, NULL };
    body.sequences = &only;
    body.n_sequences = 1;
    send_to(w, r->router, &head, &body, last);
}

static void finish(struct mock_worker *w, struct mock_request *r)
{
    mock_request_move(r, &w->finished);
    r->finished_us = clock_now_us();
    w->stats.finished++;
}

static void send_batch(struct mock_worker *w, struct link *router, struct mock_request **batch, uint32_t n)
{
    struct packed packed[MAX_BATCH];
    Baton__SequenceTokens *pointers[MAX_BATCH];
    Baton__Tokens body = BATON__TOKENS__INIT;
    struct message_head head = { FRAME_TOKENS, { 0, 0 }, 0, 0, FRAME_NO_DEADLINE, NULL };
    uint64_t now = clock_now_us();
    for (uint32_t i = 0; i < n; i++) {
        head_of_sequence(batch[i], &packed[i].msg);
        emit(w, batch[i], batch[i]->sent, now, &packed[i].token);
        packed[i].pointer = &packed[i].token;
        packed[i].msg.tokens = &packed[i].pointer;
        packed[i].msg.n_tokens = 1;
        pointers[i] = &packed[i].msg;
        batch[i]->sent++;
    }
    w->running_tokens += n;
    body.sequences = pointers;
    body.n_sequences = n;
    send_to(w, router, &head, &body, false);
}

void mock_send_step(struct mock_worker *w)
{
    struct mock_request *batch[MAX_BATCH], *r, *next;
    uint32_t n = 0;
    for (r = TAILQ_FIRST(&w->running); r; r = next) {
        next = TAILQ_NEXT(r, entry);
        if (r->sent + 1 == r->end) {
            mock_send_upto(w, r, r->end);
            finish(w, r);
            continue;
        }
        if (n && (n == MAX_BATCH || batch[0]->router != r->router)) {
            send_batch(w, batch[0]->router, batch, n);
            n = 0;
        }
        batch[n++] = r;
    }
    if (n)
        send_batch(w, batch[0]->router, batch, n);
}

void mock_send_first(struct mock_worker *w)
{
    struct mock_request *r;
    while ((r = TAILQ_FIRST(&w->fresh))) {
        if (TAILQ_EMPTY(&w->running))
            w->last_step_us = clock_now_us();
        mock_request_move(r, &w->running);
        mock_send_upto(w, r, r->sent + 1);
        if (r->sent == r->end)
            finish(w, r);
    }
}

void mock_refuse(struct mock_worker *w, struct link *router, const struct frame *frame, size_t position,
                 Baton__FailureCode code, const char *text)
{
    Baton__Failure failure = BATON__FAILURE__INIT;
    Baton__SequenceTokens seq = BATON__SEQUENCE_TOKENS__INIT, *only = &seq;
    Baton__Tokens body = BATON__TOKENS__INIT;
    struct message_head head = { FRAME_TOKENS, frame->key, frame->attempt, 0, FRAME_NO_DEADLINE, NULL };
    failure.code = code;
    failure.retry = code == BATON__FAILURE_CODE__FAILURE_BUSY;
    failure.text = (char *)text;
    seq.router = frame->key.router;
    seq.seq = frame->key.seq;
    seq.attempt = frame->attempt;
    seq.position = (uint32_t)position;
    seq.finish = BATON__FINISH__FINISH_FAILED;
    seq.failure = &failure;
    body.sequences = &only;
    body.n_sequences = 1;
    w->stats.refused++;
    send_to(w, router, &head, &body, true);
}
