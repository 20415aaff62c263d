#include "worker/generation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

static const char *const state_names[] = {
#define X(name, next) #name,
    GENERATION_STATES(X)
#undef X
};

static const unsigned legal_next[] = {
#define TO(name)      (1u << GENERATION_##name)
#define X(name, next) (next) | (1u << GENERATION_ENDED),
    GENERATION_STATES(X)
#undef X
#undef TO
};

void generation_enter(struct generation *g, enum generation_state state)
{
    ASSERT(legal_next[g->state] & (1u << state));
    g->state = state;
    log_debug("generation state", "request=%llx.%llx attempt=%u leg=%u state=%s",
              (unsigned long long)g->node.key.router, (unsigned long long)g->node.key.seq, g->attempt, g->leg,
              state_names[state]);
    g->worker->io->entered(g->worker->io->ctx, "generation", state_names[state]);
}

static uint64_t now_of(const struct generation *g)
{
    return g->worker->io->now(g->worker->io->ctx);
}

static struct generation *generation_find(struct worker *worker, struct request_key key)
{
    return (struct generation *)request_table_find(&worker->generations, key);
}

/* ---- ending ---------------------------------------------------------------- */

static void generation_free(struct generation *g)
{
    sequence_release_blocks(&g->seq, g->worker->pool);
    generation_free_output(g);
    sequence_free(&g->seq);
    free(g);
}

void generation_settle(struct generation *g)
{
    if (g->state != GENERATION_ENDED || g->seq.in_step || g->takes_out || g->pulling.pull)
        return;
    TAILQ_REMOVE(&g->worker->dying, g, dying);
    generation_free(g);
}

static void send_cancel(struct generation *g, struct worker_peer *to, const char *why)
{
    struct worker *worker = g->worker;
    struct message_head head = { FRAME_CANCEL, g->node.key, g->attempt, g->leg, FRAME_NO_DEADLINE, &g->trace };
    Baton__Cancel body = BATON__CANCEL__INIT;
    body.reason = (char *)why;
    worker->io->forget(worker->io->ctx, to, g->node.key, g->attempt);
    (void)worker->io->send(worker->io->ctx, to, &head, &body.base, true);
}

void generation_drop_leg(struct generation *g, const char *why)
{
    if (g->prefill)
        send_cancel(g, g->prefill, why);
    g->prefill = NULL;
    incoming_drop_all(g);
}

void generation_end(struct generation *g)
{
    struct worker *worker = g->worker;
    generation_drop_leg(g, "ended");
    claim_remove(g);
    batch_remove(worker, &g->seq);
    atomic_store(&g->seq.cancelled, true);
    timer_cancel(worker->timers, &g->timer);
    if (g->in_unsent)
        TAILQ_REMOVE(&worker->unsent, g, unsent);
    g->in_unsent = false;
    request_table_remove(&worker->generations, &g->node);
    TAILQ_REMOVE(&worker->generation_order, g, order);
    TAILQ_INSERT_TAIL(&worker->dying, g, dying);
    generation_enter(g, GENERATION_ENDED);
    if (g->pulling.pull)
        pulling_cancel(&g->pulling); /* settles when it has ended */
    else
        generation_settle(g);
}

void generation_fail(struct generation *g, Baton__FailureCode code, bool retry, const char *text)
{
    struct message_head head = { FRAME_TOKENS, g->node.key, g->attempt, 0, FRAME_NO_DEADLINE, &g->trace };
    g->worker->counters.failed++;
    log_warn("generation failed", "request=%llx.%llx attempt=%u code=%d reason=\"%s\"",
             (unsigned long long)g->node.key.router, (unsigned long long)g->node.key.seq, g->attempt, (int)code, text);
    output_send_failure(g->worker, g->router, &head, g->seq.n_tokens, code, retry, text);
    generation_end(g);
}

static void on_timer(void *arg)
{
    struct generation *g = arg;
    struct worker *worker = g->worker;
    generation_fail(g, BATON__FAILURE_CODE__FAILURE_DEADLINE, false, "the deadline of the request has passed");
    worker_pump(worker);
}

/* ---- the engine's side --------------------------------------------------------- */

static void on_rows(struct sequence *seq, uint32_t first, uint32_t n, const struct sampled *sampled, uint32_t n_sampled)
{
    struct generation *g = (struct generation *)((char *)seq - offsetof(struct generation, seq));
    (void)first;
    if (g->state == GENERATION_COMPUTING)
        g->computed_tokens += n;
    if (n_sampled && g->state == GENERATION_COMPUTING) {
        g->prefill_us += sequence_computing_us(seq, g->prefill_started_us, now_of(g));
        generation_enter(g, GENERATION_DECODING);
    }
    for (uint32_t i = 0; i < n_sampled && g->state == GENERATION_DECODING; i++) {
        struct kept_token token;
        kept_token_from_sampled(g, &sampled[i], &token);
        generation_append(g, &token, sampled[i].is_stop);
    }
}

static void on_stopped(struct sequence *seq)
{
    generation_settle((struct generation *)((char *)seq - offsetof(struct generation, seq)));
}

static const struct sequence_ops generation_ops = { .on_rows = on_rows, .on_stopped = on_stopped };

struct scheduler_claim generation_claim(const struct generation *g, uint64_t now)
{
    return (struct scheduler_claim){
        .priority = g->seq.priority,
        .preempted = g->preempted,
        .sheltered = g->sheltered,
        .arrival = g->arrival,
        .waited = g->in_claims ? now - g->claim_since_us : 0,
    };
}

static struct generation *choose_victim(const struct worker *worker)
{
    struct generation *victim = NULL, *g;
    struct scheduler_claim of_victim, claim;
    TAILQ_FOREACH(g, &worker->generation_order, order)
    {
        if ((g->state != GENERATION_DECODING && g->state != GENERATION_COMPUTING) || g->seq.in_step)
            continue;
        claim = generation_claim(g, 0); /* it waits for nothing */
        if (victim && !scheduler_yields_before(&claim, &of_victim))
            continue;
        victim = g;
        of_victim = claim;
    }
    return victim;
}

bool generations_preempt(struct worker *worker)
{
    struct generation *victim = choose_victim(worker);
    if (!victim)
        return false;
    worker->counters.preemptions++;
    batch_remove(worker, &victim->seq);
    sequence_release_blocks(&victim->seq, worker->pool);
    victim->committed = 0;
    victim->preempted = true;
    victim->sheltered = false;
    victim->n_preempted++;
    generation_enter(victim, GENERATION_WAITING);
    claim_add(victim);
    return true;
}

/* ---- where the prompt is computed ------------------------------------------------- */

struct packed_holdings {
    Baton__Holding holdings[MAX_HOLDINGS], *pointers[MAX_HOLDINGS];
    Baton__Instance instances[MAX_HOLDINGS];
};

/* As the request brought them. */
static void pack_holdings(struct generation *g, struct packed_holdings *out)
{
    for (uint32_t i = 0; i < g->pulling.n_holdings; i++) {
        struct holding *h = &g->pulling.holdings[i];
        out->pointers[i] = &out->holdings[i];
        baton__holding__init(&out->holdings[i]);
        baton__instance__init(&out->instances[i]);
        out->instances[i].id = h->id;
        out->holdings[i].instance = &out->instances[i];
        out->holdings[i].tokens = h->tokens;
        out->holdings[i].tier = h->tier;
    }
}

static bool send_prefill(struct generation *g, struct worker_peer *to)
{
    struct worker *worker = g->worker;
    uint8_t salt[BLOCK_HASH_BYTES];
    struct wire_sampling *sampling = malloc(sizeof *sampling);
    if (!sampling)
        return false;
    sequence_pack_sampling(&g->seq, sampling);
    struct message_head head = { FRAME_PREFILL, g->node.key, g->attempt, g->leg, g->deadline_us, &g->trace };
    Baton__Prefill body = BATON__PREFILL__INIT;
    body.model = worker->options.model;
    body.kv_format = worker->options.kv_format;
    body.tokens = g->seq.tokens;
    body.n_tokens = g->seq.n_tokens;
    body.sampling = &sampling->msg;
    body.held = g->seq.n_blocks ? g->committed : prefix_cache_peek(worker->cache, &g->seq);
    body.no_cache = g->no_cache;
    body.salt = sequence_pack_salt(&g->seq, salt);
    body.priority = g->seq.priority;
    struct packed_holdings have;
    pack_holdings(g, &have);
    body.have = have.pointers;
    body.n_have = g->pulling.n_holdings;
    status st = worker->io->send(worker->io->ctx, to, &head, &body.base, true);
    free(sampling);
    return st == ST_OK;
}

static bool ask_next_prefill(struct generation *g)
{
    struct worker *worker = g->worker;
    /* Candidates are tried round and round, as one that was busy may be free again; legs are bounded. */
    for (uint32_t tried = 0; tried < g->n_prefills && g->leg < worker->options.max_legs; tried++) {
        const char *id = g->prefills[g->next_prefill++ % g->n_prefills];
        struct worker_peer *peer = worker->io->find_prefill(worker->io->ctx, id);
        if (!peer)
            continue;
        g->leg++;
        if (!send_prefill(g, peer))
            continue;
        g->prefill = peer;
        snprintf(g->prefill_worker, sizeof g->prefill_worker, "%s", peer->id);
        g->was_remote = true;
        return true;
    }
    return false;
}

void generation_prefill_somewhere(struct generation *g)
{
    g->next_chunk = 0;
    if (ask_next_prefill(g)) {
        generation_enter(g, GENERATION_ASKED);
        return;
    }
    g->was_remote = false;
    generation_enter(g, GENERATION_WAITING);
    claim_add(g);
}

/* What the receiving side did commit is kept: local work goes on from there. */
void generation_leg_failed(struct generation *g, const char *why)
{
    g->worker->counters.legs_failed++;
    log_warn("prefill leg failed", "request=%llx.%llx attempt=%u leg=%u worker=%s committed=%u reason=\"%s\"",
             (unsigned long long)g->node.key.router, (unsigned long long)g->node.key.seq, g->attempt, g->leg,
             g->prefill ? g->prefill->id : "-", g->committed, why);
    claim_remove(g);
    generation_drop_leg(g, why);
    generation_prefill_somewhere(g);
}

static bool is_in_leg(const struct generation *g)
{
    return g->state == GENERATION_ASKED || g->state == GENERATION_CLAIMING || g->state == GENERATION_RECEIVING;
}

/* ---- messages ------------------------------------------------------------------------ */

/* Prefill is worth its handoff where more than a few tokens are to be computed. */
static bool is_remote(struct generation *g, Baton__Route route)
{
    uint32_t local = g->worker->options.local_tokens, n = g->seq.n_tokens;
    if (route != BATON__ROUTE__ROUTE_AUTO)
        return route == BATON__ROUTE__ROUTE_REMOTE;
    return n > local && n - prefix_cache_peek(g->worker->cache, &g->seq) > local;
}

static void read_route(struct generation *g, const Baton__Generate *msg)
{
    if (!is_remote(g, msg->route))
        return;
    for (size_t i = 0; i < msg->n_prefills && g->n_prefills < MAX_PREFILLS; i++)
        snprintf(g->prefills[g->n_prefills++], sizeof g->prefills[0], "%s", msg->prefills[i]->id);
}

struct refusal {
    Baton__FailureCode code;
    bool retry;
};

/* Whether the request can be served at all. */
static struct refusal check_generate(struct worker *worker, const Baton__Generate *msg, struct error *err)
{
    const struct worker_options *o = &worker->options;
    uint64_t slots = (uint64_t)o->n_blocks * o->layout.block_tokens;
    if (worker->draining) {
        (void)error_set(err, ST_CLOSED, "the worker is draining");
        return (struct refusal){ BATON__FAILURE_CODE__FAILURE_DRAINING, true };
    }
    if (worker->generations.n >= o->max_requests) {
        (void)error_set(err, ST_LIMIT, "the worker holds %u requests, its maximum", o->max_requests);
        return (struct refusal){ BATON__FAILURE_CODE__FAILURE_BUSY, true };
    }
    if (strcmp(msg->model, o->model) != 0) {
        (void)error_set(err, ST_INVALID, "the worker serves model %s", o->model);
        return (struct refusal){ BATON__FAILURE_CODE__FAILURE_INVALID, true };
    }
    if (!worker_has_adapter(worker, msg->sampling)) {
        (void)error_set(err, ST_INVALID, "the worker has no adapter %.60s", msg->sampling->adapter);
        return (struct refusal){ BATON__FAILURE_CODE__FAILURE_INVALID, true };
    }
    if (msg->n_tokens + 1 > slots) {
        (void)error_set(err, ST_LIMIT, "%zu prompt tokens, the worker's KV holds %llu", msg->n_tokens,
                        (unsigned long long)slots - 1);
        return (struct refusal){ BATON__FAILURE_CODE__FAILURE_LIMIT, false };
    }
    return (struct refusal){ BATON__FAILURE_CODE__FAILURE_NONE, false };
}

static void refuse(struct worker *worker, struct worker_peer *router, const struct frame *frame, struct refusal why,
                   uint32_t position, const char *text)
{
    struct message_head head = { FRAME_TOKENS, frame->key, frame->attempt, 0, FRAME_NO_DEADLINE, &frame->trace };
    worker->counters.refused++;
    log_info("generate refused", "request=%llx.%llx attempt=%u code=%d reason=\"%s\"",
             (unsigned long long)frame->key.router, (unsigned long long)frame->key.seq, frame->attempt, (int)why.code,
             text);
    output_send_failure(worker, router, &head, position, why.code, why.retry, text);
}

static void accept_generate(struct worker *worker, struct generation *g, struct worker_peer *router,
                            const struct frame *frame, uint64_t deadline_us, const Baton__Generate *msg)
{
    g->worker = worker;
    g->node.key = frame->key;
    g->attempt = frame->attempt;
    g->deadline_us = deadline_us;
    g->trace = frame->trace;
    g->router = router;
    g->no_cache = msg->no_cache;
    g->seq.may_draft = true;
    g->seq.id = g->arrival = ++worker->arrivals;
    g->born_us = now_of(g);
    g->kept_first = g->sent = g->seq.n_tokens;
    g->transport = "";
    TAILQ_INIT(&g->chunks);
    request_table_add(&worker->generations, &g->node);
    TAILQ_INSERT_TAIL(&worker->generation_order, g, order);
    worker->counters.generations++;
    if (deadline_us != FRAME_NO_DEADLINE)
        timer_set(worker->timers, &g->timer, deadline_us, on_timer, g);
    pulling_hold(&g->pulling, msg->have, msg->n_have);
    read_route(g, msg);
    generation_prefill_somewhere(g);
}

static struct refusal refusal_of(status st)
{
    if (st == ST_NO_MEMORY)
        return (struct refusal){ BATON__FAILURE_CODE__FAILURE_BUSY, true };
    return (struct refusal){ st == ST_LIMIT ? BATON__FAILURE_CODE__FAILURE_LIMIT : BATON__FAILURE_CODE__FAILURE_INVALID,
                             false };
}

void generation_on_generate(struct worker *worker, struct worker_peer *router, const struct frame *frame,
                            uint64_t deadline_us, const Baton__Generate *msg)
{
    struct generation *old = generation_find(worker, frame->key);
    router_marks_note(&worker->marks, frame->key.router, msg->dispatch);
    if (old && old->attempt > frame->attempt) {
        worker_answer_stale(worker, router, frame, old->attempt, 0);
        return;
    }
    if (old && old->attempt == frame->attempt) {
        old->sent = old->kept_first; /* a repeat asks how it stands */
        generation_wants_to_send(old);
        return;
    }
    if (old) {
        worker->counters.cancelled++;
        generation_end(old);
    }
    struct error err = { "" };
    struct refusal no = check_generate(worker, msg, &err);
    struct generation *g = no.code ? NULL : calloc(1, sizeof *g);
    const struct sequence_request request = { msg->tokens, msg->n_tokens, msg->sampling,
                                              msg->salt,   msg->priority, msg->no_cache };
    status st = g ? worker_begin_sequence(worker, &request, &generation_ops, &g->seq, &err) : ST_NO_MEMORY;
    if (!no.code && st != ST_OK) {
        no = refusal_of(st);
        free(g);
    }
    if (no.code)
        refuse(worker, router, frame, no, (uint32_t)msg->n_tokens, err.text);
    else
        accept_generate(worker, g, router, frame, deadline_us, msg);
}

bool generation_on_cancel(struct worker *worker, struct worker_peer *from, const struct frame *frame)
{
    struct generation *g = generation_find(worker, frame->key);
    if (!g || g->router != from)
        return false;
    if (frame->attempt >= g->attempt) {
        worker->counters.cancelled++;
        generation_end(g);
    }
    return true;
}

void generation_on_tokens_ack(struct worker *worker, struct worker_peer *from, const struct frame *frame,
                              uint32_t position)
{
    struct generation *g = generation_find(worker, frame->key);
    if (g && g->router == from && g->attempt == frame->attempt && g->state == GENERATION_FINISHED &&
        position >= g->seq.n_tokens)
        generation_end(g);
}

void generation_on_resume(struct worker *worker, struct worker_peer *from, const struct frame *frame, uint32_t position)
{
    struct generation *g = generation_find(worker, frame->key);
    if (!g || g->router != from || g->attempt != frame->attempt) {
        /* What the router misses is gone: it must not wait for it. */
        worker_answer_stale(worker, from, frame, g ? g->attempt : 0, 0);
        return;
    }
    if (position < g->kept_first || position > g->seq.n_tokens)
        return;
    g->sent = position;
    generation_wants_to_send(g);
}

/* The generation whose current leg with this prefill worker a message belongs to, or NULL. */
static struct generation *current_leg(struct worker *worker, struct worker_peer *from, const struct frame *frame)
{
    struct generation *g = generation_find(worker, frame->key);
    if (g && g->attempt == frame->attempt && g->leg == frame->leg && g->prefill == from && is_in_leg(g))
        return g;
    worker_answer_stale(worker, from, frame, g ? g->attempt : 0, g ? g->leg : 0);
    return NULL;
}

void generation_on_grant_ask(struct worker *worker, struct worker_peer *from, const struct frame *frame)
{
    struct generation *g = current_leg(worker, from, frame);
    if (!g || g->state != GENERATION_ASKED)
        return; /* a repeat: the Grant is repeated by itself */
    generation_enter(g, GENERATION_CLAIMING);
    claim_add(g);
}

void generation_on_layers(struct worker *worker, struct worker_peer *from, const struct frame *frame,
                          const Baton__LayersReady *msg)
{
    struct generation *g = current_leg(worker, from, frame);
    if (g && g->state == GENERATION_RECEIVING)
        incoming_layers(g, msg->chunk, msg->layers);
}

void generation_on_chunk_done(struct worker *worker, struct worker_peer *from, const struct frame *frame,
                              const Baton__ChunkDone *msg)
{
    struct generation *g = generation_find(worker, frame->key);
    if (g && g->attempt == frame->attempt && g->leg == frame->leg && !is_in_leg(g))
        return; /* a repeat of the last chunk: committed already */
    g = current_leg(worker, from, frame);
    if (g && g->state == GENERATION_RECEIVING)
        incoming_done(g, msg);
}

void generation_on_prefill_failed(struct worker *worker, struct worker_peer *from, const struct frame *frame,
                                  const Baton__PrefillFailed *msg)
{
    struct generation *g = generation_find(worker, frame->key);
    if (!g || g->prefill != from || g->attempt != frame->attempt || g->leg != frame->leg || !is_in_leg(g))
        return;
    g->prefill = NULL; /* it holds nothing of ours any more */
    generation_leg_failed(g, msg->failure ? msg->failure->text : "prefill failed");
}

/* The peer holds a newer attempt or leg than we spoke of, or nothing at all. */
void generation_on_stale(struct worker *worker, struct worker_peer *from, const struct frame *frame)
{
    struct generation *g = generation_find(worker, frame->key);
    if (!g || g->attempt != frame->attempt)
        return;
    if (from == g->router)
        generation_end(g);
    else if (g->prefill == from && g->leg == frame->leg && is_in_leg(g))
        generation_leg_failed(g, "the prefill worker does not know the request");
}

/* ---- peers ------------------------------------------------------------------------------ */

void generations_on_peer_lost(struct worker *worker, struct worker_peer *peer)
{
    struct generation *g, *next;
    for (g = TAILQ_FIRST(&worker->generation_order); g; g = next) {
        next = TAILQ_NEXT(g, order);
        if (g->router == peer) {
            worker->counters.cancelled++;
            generation_end(g);
        } else if (g->prefill == peer) {
            g->prefill = NULL;
            generation_leg_failed(g, "the prefill worker is lost");
        }
    }
}

void generations_on_peer_again(struct worker *worker, struct worker_peer *peer, Baton__Live *const *live, size_t n_live)
{
    struct generation *g, *next;
    for (g = TAILQ_FIRST(&worker->generation_order); g; g = next) {
        next = TAILQ_NEXT(g, order);
        if (g->router == peer && !live_contains(live, n_live, g->node.key, g->attempt, 0))
            generation_end(g);
        else if (g->prefill == peer && is_in_leg(g) && !live_contains(live, n_live, g->node.key, g->attempt, g->leg))
            generation_leg_failed(g, "the prefill worker has lost the request");
    }
}

/* Of its prompt, what has no KV here yet and is not being fetched. */
static uint32_t queued_tokens(const struct generation *g)
{
    uint32_t n = g->seq.n_tokens, fetched = pulling_upto(&g->pulling);
    if (g->state == GENERATION_WAITING || g->state == GENERATION_PULLING || is_in_leg(g))
        return n - (fetched > g->committed ? fetched : g->committed);
    return g->state == GENERATION_COMPUTING ? n - g->seq.computed : 0;
}

uint64_t generations_count_queued(struct worker *worker)
{
    uint64_t all = 0;
    const struct generation *g;
    TAILQ_FOREACH(g, &worker->generation_order, order)
    {
        uint32_t n = queued_tokens(g);
        router_marks_add_queued(&worker->marks, g->node.key.router, n);
        all += n;
    }
    return all;
}

size_t generations_live(struct worker *worker, struct worker_peer *peer, Baton__Live *out, size_t max)
{
    size_t n = 0;
    struct generation *g;
    TAILQ_FOREACH(g, &worker->generation_order, order)
    {
        if (n == max || (g->router != peer && g->prefill != peer))
            continue;
        baton__live__init(&out[n]);
        out[n].router = g->node.key.router;
        out[n].seq = g->node.key.seq;
        out[n].attempt = g->attempt;
        out[n++].leg = g->prefill == peer ? g->leg : 0;
    }
    return n;
}

void generations_destroy(struct worker *worker)
{
    struct generation *g;
    while ((g = TAILQ_FIRST(&worker->generation_order)))
        generation_end(g);
    while ((g = TAILQ_FIRST(&worker->dying))) { /* takes and steps are over by now */
        TAILQ_REMOVE(&worker->dying, g, dying);
        g->seq.in_step = false;
        generation_free(g);
    }
}
