/* What a generation has sampled, on its way to the router and kept until it is there. */
#include <stdlib.h>
#include <string.h>

#include "worker/generation.h"

#define MAX_SEQUENCES_A_MESSAGE 256

void kept_token_from_sampled(const struct generation *g, const struct sampled *sampled, struct kept_token *out)
{
    *out = (struct kept_token){ .id = sampled->id, .logprob = sampled->logprob };
    if (g->seq.sampling.want_hash)
        for (int i = 0; i < 8; i++) {
            out->hash[i] = (uint8_t)(sampled->hash[1] >> (56 - 8 * i));
            out->hash[8 + i] = (uint8_t)(sampled->hash[0] >> (56 - 8 * i));
        }
    if (g->seq.sampling.n_logprobs <= 0 || sampled->n_top == 0)
        return;
    out->top = malloc(sampled->n_top * sizeof *out->top);
    if (!out->top)
        return; /* the alternatives are left out, the token is not */
    memcpy(out->top, sampled->top, sampled->n_top * sizeof *out->top);
    out->n_top = sampled->n_top;
}

static void keep(struct generation *g, const struct kept_token *token)
{
    if (g->n_kept == g->kept_capacity) {
        uint32_t capacity = g->kept_capacity ? 2 * g->kept_capacity : 32;
        struct kept_token *grown = realloc(g->kept, capacity * sizeof *grown);
        ASSERT(grown);
        g->kept = grown;
        g->kept_capacity = capacity;
    }
    g->kept[g->n_kept++] = *token;
}

void generation_free_output(struct generation *g)
{
    for (uint32_t i = 0; i < g->n_kept; i++)
        free(g->kept[i].top);
    free(g->kept);
    g->kept = NULL;
    g->n_kept = g->kept_capacity = 0;
}

/* The router never said that it has all: it has gone, or asks elsewhere. */
static void on_kept(void *arg)
{
    struct generation *g = arg;
    struct worker *worker = g->worker;
    generation_end(g);
    worker_pump(worker);
}

static void finish(struct generation *g, Baton__Finish how)
{
    struct worker *worker = g->worker;
    g->finish = how;
    worker->counters.finished++;
    batch_remove(worker, &g->seq);
    sequence_release_blocks(&g->seq, worker->pool);
    generation_enter(g, GENERATION_FINISHED);
    timer_set(worker->timers, &g->timer, worker->io->now(worker->io->ctx) + worker->options.keep_finished_us, on_kept,
              g);
}

void generation_append(struct generation *g, const struct kept_token *token, bool stops)
{
    struct worker *worker = g->worker;
    sequence_append(&g->seq, token->id);
    keep(g, token);
    g->sheltered = false;
    worker->counters.tokens_generated++;
    if (!g->first_token_us)
        g->first_token_us = worker->io->now(worker->io->ctx);
    if (stops)
        finish(g, BATON__FINISH__FINISH_STOP);
    else if (sequence_generated(&g->seq) >= g->seq.sampling.max_tokens ||
             g->seq.n_tokens >= worker->options.max_model_len)
        finish(g, BATON__FINISH__FINISH_LENGTH);
    generation_wants_to_send(g);
}

void generation_wants_to_send(struct generation *g)
{
    if (!g->in_unsent)
        TAILQ_INSERT_TAIL(&g->worker->unsent, g, unsent);
    g->in_unsent = true;
}

/* ---- packing -------------------------------------------------------------------- */

struct packed_token {
    Baton__Token msg;
    uint32_t top_ids[SAMPLING_MAX_TOP_LOGPROBS];
    float top_logprobs[SAMPLING_MAX_TOP_LOGPROBS];
};

/* One sequence's part of a Tokens message; the arrays are malloc'ed. */
struct packed_sequence {
    Baton__SequenceTokens msg;
    Baton__Timing timing;
    struct packed_token *tokens;
    Baton__Token **pointers;
};

static void pack_token(const struct generation *g, const struct kept_token *kept, struct packed_token *out)
{
    baton__token__init(&out->msg);
    out->msg.id = kept->id;
    out->msg.logprob = kept->logprob;
    if (g->seq.sampling.want_hash) {
        out->msg.hash.data = (uint8_t *)kept->hash;
        out->msg.hash.len = sizeof kept->hash;
    }
    for (uint32_t i = 0; i < kept->n_top; i++) {
        out->top_ids[i] = kept->top[i].id;
        out->top_logprobs[i] = kept->top[i].logprob;
    }
    out->msg.top_ids = out->top_ids;
    out->msg.top_logprobs = out->top_logprobs;
    out->msg.n_top_ids = out->msg.n_top_logprobs = kept->n_top;
}

static void pack_timing(const struct generation *g, Baton__Timing *out)
{
    uint64_t now = g->worker->io->now(g->worker->io->ctx);
    baton__timing__init(out);
    out->queue_us = g->started_us ? g->started_us - g->born_us : 0;
    out->prefill_us = g->prefill_us;
    out->prefill_queue_us = g->prefill_queue_us;
    out->handoff_us = g->handoff_us;
    out->pull_us = g->prefill_pull_us + g->pulling.us;
    out->decode_us = now - g->first_token_us;
    out->moved_bytes = g->moved_bytes;
    out->transport = (char *)(g->was_remote ? g->transport : "");
    out->route = (char *)(g->was_remote ? "remote" : "local");
    out->prefill_worker = (char *)(g->was_remote ? g->prefill_worker : g->worker->options.id);
    out->decode_worker = g->worker->options.id;
    out->legs = g->leg;
    out->computed_tokens = g->computed_tokens;
    out->preempted = g->n_preempted;
    out->cached_tokens = (uint32_t *)g->cached;
    out->n_cached_tokens = KV_TIER_COUNT;
}

static bool pack_sequence(struct generation *g, struct packed_sequence *out)
{
    uint32_t from = g->sent - g->kept_first, n = g->n_kept - from;
    out->tokens = calloc(n ? n : 1, sizeof *out->tokens);
    out->pointers = calloc(n ? n : 1, sizeof(Baton__Token *));
    if (!out->tokens || !out->pointers)
        return false;
    baton__sequence_tokens__init(&out->msg);
    for (uint32_t i = 0; i < n; i++) {
        pack_token(g, &g->kept[from + i], &out->tokens[i]);
        out->pointers[i] = &out->tokens[i].msg;
    }
    out->msg.router = g->node.key.router;
    out->msg.seq = g->node.key.seq;
    out->msg.attempt = g->attempt;
    out->msg.position = g->sent;
    out->msg.tokens = out->pointers;
    out->msg.n_tokens = n;
    out->msg.finish = g->finish;
    if (g->finish || g->sent == g->kept_first) {
        pack_timing(g, &out->timing);
        out->msg.timing = &out->timing;
    }
    return true;
}

static void free_packed(struct packed_sequence *packed, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(packed[i].tokens);
        free(packed[i].pointers);
    }
}

/* The last words of a sequence are repeated until the router has handled them. */
static void send_last(struct worker *worker, struct generation *g)
{
    struct packed_sequence packed = { .tokens = NULL };
    bool is_packed = pack_sequence(g, &packed);
    if (is_packed) {
        Baton__SequenceTokens *only = &packed.msg;
        Baton__Tokens body = BATON__TOKENS__INIT;
        struct message_head head = { FRAME_TOKENS, g->node.key, g->attempt, 0, FRAME_NO_DEADLINE, &g->trace };
        body.sequences = &only;
        body.n_sequences = 1;
        (void)worker->io->send(worker->io->ctx, g->router, &head, &body.base, true);
        g->sent = g->seq.n_tokens;
    }
    free_packed(&packed, 1);
    if (!is_packed)
        generation_fail(g, BATON__FAILURE_CODE__FAILURE_INTERNAL, true, "no memory for the end of the answer");
}

/* All of one step for one router in one message. */
static void send_batch(struct worker *worker, struct generation **batch, size_t n)
{
    struct packed_sequence packed[MAX_SEQUENCES_A_MESSAGE];
    Baton__SequenceTokens *pointers[MAX_SEQUENCES_A_MESSAGE];
    Baton__Tokens body = BATON__TOKENS__INIT;
    struct message_head head = { FRAME_TOKENS, { 0, 0 }, 0, 0, FRAME_NO_DEADLINE, NULL };
    memset(packed, 0, n * sizeof *packed);
    for (size_t i = 0; i < n; i++)
        if (pack_sequence(batch[i], &packed[i])) {
            pointers[body.n_sequences++] = &packed[i].msg;
            batch[i]->sent = batch[i]->seq.n_tokens;
        }
    body.sequences = pointers;
    /* A lost message is noticed by the gap in positions and asked for again. */
    if (body.n_sequences)
        (void)worker->io->send(worker->io->ctx, batch[0]->router, &head, &body.base, false);
    free_packed(packed, n);
}

void generations_send_tokens(struct worker *worker)
{
    struct generation *batch[MAX_SEQUENCES_A_MESSAGE], *g, *next;
    while ((g = TAILQ_FIRST(&worker->unsent))) {
        struct worker_peer *router = g->router;
        size_t n = 0;
        for (; g && n < MAX_SEQUENCES_A_MESSAGE; g = next) {
            next = TAILQ_NEXT(g, unsent);
            if (g->router != router)
                continue;
            TAILQ_REMOVE(&worker->unsent, g, unsent);
            g->in_unsent = false;
            if (g->finish)
                send_last(worker, g);
            else if (g->sent < g->seq.n_tokens)
                batch[n++] = g;
        }
        if (n)
            send_batch(worker, batch, n);
    }
}

void output_send_failure(struct worker *worker, struct worker_peer *router, const struct message_head *head,
                         uint32_t position, Baton__FailureCode code, bool retry, const char *text)
{
    Baton__Failure failure = BATON__FAILURE__INIT;
    Baton__SequenceTokens seq = BATON__SEQUENCE_TOKENS__INIT, *only = &seq;
    Baton__Tokens body = BATON__TOKENS__INIT;
    failure.code = code;
    failure.retry = retry;
    failure.text = (char *)text;
    seq.router = head->key.router;
    seq.seq = head->key.seq;
    seq.attempt = head->attempt;
    seq.position = position;
    seq.finish = BATON__FINISH__FINISH_FAILED;
    seq.failure = &failure;
    body.sequences = &only;
    body.n_sequences = 1;
    (void)worker->io->send(worker->io->ctx, router, head, &body.base, true);
}
