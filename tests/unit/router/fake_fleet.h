/* A fleet of decode workers that are only notes of what was sent to them. */
#ifndef BATON_TESTS_FAKE_FLEET_H
#define BATON_TESTS_FAKE_FLEET_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "router/fleet.h"
#include "router/flow.h"

#define FAKE_MAX_SENT 4096
#define FAKE_ROUTER   0xabcu /* incarnation */
#define FAKE_WEIGHTS  1u     /* fingerprint */

struct fake_sent {
    struct fleet_worker *to;
    enum frame_type type;
    struct request_key key;
    uint32_t attempt;
    struct trace_context trace;
    /* of Generate */
    uint32_t n_tokens, first, last, max_tokens, choice, prompt_len, n_stop_ids, n_bias;
    uint64_t seed, dispatch;
    int32_t n_logprobs, route, priority;
    bool no_cache, want_hash;
    char adapter[INSTANCE_ADAPTER_BYTES];
    uint8_t salt[16];
    size_t n_salt;
    uint32_t n_prefills;
    uint32_t n_have, have_tokens, have_tier; /* of the first holder */
    char have[64], have_address[64];
    /* of Resume and TokensAck, and of Cancel */
    uint32_t position;
    char reason[32];
};

struct fake_fleet {
    struct fleet *fleet;
    struct fake_sent sent[FAKE_MAX_SENT];
    size_t n_sent;
    status refuse; /* what send returns when it is not ST_OK */
    uint64_t now_us;
};

static inline uint64_t fake_now(void *ctx)
{
    return ((struct fake_fleet *)ctx)->now_us;
}

static inline void fake_note_generate(struct fake_sent *s, const Baton__Generate *g)
{
    s->n_tokens = (uint32_t)g->n_tokens;
    s->first = g->tokens[0];
    s->last = g->tokens[g->n_tokens - 1];
    s->max_tokens = g->sampling->max_tokens;
    s->choice = g->sampling->choice;
    s->prompt_len = g->sampling->prompt_len;
    s->n_stop_ids = (uint32_t)g->sampling->n_stop_ids;
    s->n_bias = g->sampling->bias ? (uint32_t)g->sampling->bias->n_ids : 0;
    s->seed = g->sampling->seed;
    s->dispatch = g->dispatch;
    s->n_logprobs = g->sampling->n_logprobs;
    s->want_hash = g->sampling->want_hash;
    s->route = (int32_t)g->route;
    s->no_cache = g->no_cache;
    s->priority = g->priority;
    s->n_prefills = (uint32_t)g->n_prefills;
    s->n_have = (uint32_t)g->n_have;
    if (g->n_have) {
        s->have_tokens = g->have[0]->tokens;
        s->have_tier = g->have[0]->tier;
        snprintf(s->have, sizeof s->have, "%s", g->have[0]->instance->id);
        snprintf(s->have_address, sizeof s->have_address, "%s", g->have[0]->instance->address);
    }
    snprintf(s->adapter, sizeof s->adapter, "%s", g->sampling->adapter);
    s->n_salt = g->salt.len;
    if (g->salt.len == sizeof s->salt)
        memcpy(s->salt, g->salt.data, sizeof s->salt);
}

static inline status fake_send(void *ctx, struct fleet_worker *worker, const struct message_head *head,
                               const ProtobufCMessage *body, bool acked)
{
    struct fake_fleet *f = ctx;
    (void)acked;
    if (f->refuse != ST_OK)
        return f->refuse;
    ASSERT(f->n_sent < FAKE_MAX_SENT);
    struct fake_sent *s = &f->sent[f->n_sent++];
    *s = (struct fake_sent){ .to = worker, .type = head->type, .key = head->key, .attempt = head->attempt };
    if (head->trace)
        s->trace = *head->trace;
    if (head->type == FRAME_GENERATE)
        fake_note_generate(s, (const Baton__Generate *)(const void *)body);
    else if (head->type == FRAME_RESUME)
        s->position = ((const Baton__Resume *)(const void *)body)->position;
    else if (head->type == FRAME_TOKENS_ACK)
        s->position = ((const Baton__TokensAck *)(const void *)body)->position;
    else if (head->type == FRAME_CANCEL)
        snprintf(s->reason, sizeof s->reason, "%s", ((const Baton__Cancel *)(const void *)body)->reason);
    return ST_OK;
}

static inline void fake_forget(void *ctx, struct fleet_worker *worker, struct request_key key, uint32_t attempt)
{
    (void)ctx;
    (void)worker;
    (void)key;
    (void)attempt;
}

static inline void fake_fleet_open_as(struct fake_fleet *f, uint64_t (*now)(void *ctx), uint64_t incarnation)
{
    *f = (struct fake_fleet){ .now_us = 1000000 };
    const struct fleet_options options = { .incarnation = incarnation,
                                           .now = now,
                                           .now_ctx = f,
                                           .silent_us = 2000000,
                                           .send = fake_send,
                                           .forget = fake_forget,
                                           .io_ctx = f };
    ASSERT(fleet_create(&options, &f->fleet) == ST_OK);
}

static inline void fake_fleet_open(struct fake_fleet *f, uint64_t (*now)(void *ctx))
{
    fake_fleet_open_as(f, now, FAKE_ROUTER);
}

/* A worker that is up. adapters: as in struct instance. */
static inline struct fleet_worker *fake_worker_on(struct fake_fleet *f, const char *id, const char *role,
                                                  const char *model, const char *adapters, const char *host)
{
    struct instance in = { .incarnation = 7, .max_model_len = 4096, .weights = FAKE_WEIGHTS };
    struct fleet_worker *w;
    snprintf(in.host, sizeof in.host, "%s", host);
    snprintf(in.id, sizeof in.id, "%s", id);
    snprintf(in.role, sizeof in.role, "%s", role);
    snprintf(in.model, sizeof in.model, "%s", model);
    snprintf(in.kv_format, sizeof in.kv_format, "format");
    snprintf(in.class, sizeof in.class, "portable-bf16");
    snprintf(in.control, sizeof in.control, "tcp://%s", id);
    snprintf(in.adapters, sizeof in.adapters, "%s", adapters);
    fleet_member(f->fleet, &in);
    TAILQ_FOREACH(w, fleet_workers(f->fleet), entry)
    if (!strcmp(w->instance.id, id))
        break;
    ASSERT(w != NULL);
    fleet_set_up(w, w->is_decode);
    return w;
}

static inline struct fleet_worker *fake_worker_with(struct fake_fleet *f, const char *id, const char *role,
                                                    const char *model, const char *adapters)
{
    return fake_worker_on(f, id, role, model, adapters, "");
}

static inline struct fleet_worker *fake_worker(struct fake_fleet *f, const char *id, const char *role,
                                               const char *model)
{
    return fake_worker_with(f, id, role, model, "");
}

/* The last message of a type; NULL: there is none. */
static inline struct fake_sent *fake_last(struct fake_fleet *f, enum frame_type type)
{
    for (size_t i = f->n_sent; i > 0; i--)
        if (f->sent[i - 1].type == type)
            return &f->sent[i - 1];
    return NULL;
}

static inline size_t fake_count(const struct fake_fleet *f, enum frame_type type)
{
    size_t n = 0;
    for (size_t i = 0; i < f->n_sent; i++)
        n += f->sent[i].type == type;
    return n;
}

/* Tokens of the sequence that `to` started, as its worker would send them. Each has
 * log-probability -0.5, alternatives itself and 5, and a hash of its id. */
static inline void fake_tokens(struct flows *flows, const struct fake_sent *to, uint32_t position, const uint32_t *ids,
                               size_t n, Baton__Finish finish, const Baton__Timing *timing)
{
    Baton__SequenceTokens seq = BATON__SEQUENCE_TOKENS__INIT, *seqs[] = { &seq };
    Baton__Tokens msg = BATON__TOKENS__INIT;
    Baton__Token *tokens = calloc(n + 1, sizeof *tokens), **pointers = calloc(n + 1, sizeof *pointers);
    uint32_t(*tops)[2] = calloc(n + 1, sizeof *tops);
    uint8_t(*hashes)[16] = calloc(n + 1, sizeof *hashes);
    float top_logprobs[2] = { -0.5f, -1.5f };
    struct frame frame = { .type = FRAME_TOKENS };
    for (size_t i = 0; i < n; i++) {
        baton__token__init(&tokens[i]);
        tokens[i].id = ids[i];
        tokens[i].logprob = -0.5f;
        tops[i][0] = ids[i];
        tops[i][1] = 5;
        if (to->n_logprobs > 0) {
            tokens[i].top_ids = tops[i];
            tokens[i].top_logprobs = top_logprobs;
            tokens[i].n_top_ids = tokens[i].n_top_logprobs = to->n_logprobs > 1 ? 2 : 1;
        }
        memset(hashes[i], (int)ids[i], 16);
        if (to->want_hash)
            tokens[i].hash = (ProtobufCBinaryData){ 16, hashes[i] };
        pointers[i] = &tokens[i];
    }
    seq.router = to->key.router;
    seq.seq = to->key.seq;
    seq.attempt = to->attempt;
    seq.position = position;
    seq.tokens = pointers;
    seq.n_tokens = n;
    seq.finish = finish;
    seq.timing = (Baton__Timing *)(uintptr_t)timing;
    msg.sequences = seqs;
    msg.n_sequences = 1;
    flows_on_tokens(flows, to->to, &frame, &msg);
    free(tokens);
    free(pointers);
    free(tops);
    free(hashes);
}

static inline void fake_failure(struct flows *flows, const struct fake_sent *to, Baton__FailureCode code, bool retry,
                                const char *text)
{
    Baton__SequenceTokens seq = BATON__SEQUENCE_TOKENS__INIT, *seqs[] = { &seq };
    Baton__Failure failure = BATON__FAILURE__INIT;
    Baton__Tokens msg = BATON__TOKENS__INIT;
    struct frame frame = { .type = FRAME_TOKENS };
    failure.code = code;
    failure.retry = retry;
    failure.text = (char *)(uintptr_t)text;
    seq.router = to->key.router;
    seq.seq = to->key.seq;
    seq.attempt = to->attempt;
    seq.finish = BATON__FINISH__FINISH_FAILED;
    seq.failure = &failure;
    msg.sequences = seqs;
    msg.n_sequences = 1;
    flows_on_tokens(flows, to->to, &frame, &msg);
}

#endif
