/* Chunks of KV on their way from a prefill worker into a generation's blocks:
 * taken layer by layer as they are announced, verified when the chunk is done,
 * committed in order. */
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "worker/generation.h"

/* One take of some layers of a chunk; owns itself until done. */
struct layer_take {
    struct transfer_take take;    /* first */
    struct incoming_chunk *chunk; /* NULL: its leg was given up */
    struct generation *generation;
    TAILQ_ENTRY(layer_take) link;
};

static uint64_t now_of(const struct generation *g)
{
    return g->worker->io->now(g->worker->io->ctx);
}

static void chunk_free(struct incoming_chunk *chunk)
{
    free(chunk->spans);
    free(chunk->sums);
    free(chunk->announced_sums);
    free(chunk->token.top);
    free(chunk);
}

void incoming_drop_all(struct generation *g)
{
    struct incoming_chunk *chunk, *next;
    for (chunk = TAILQ_FIRST(&g->chunks); chunk; chunk = next) {
        next = TAILQ_NEXT(chunk, link);
        TAILQ_REMOVE(&g->chunks, chunk, link);
        chunk->failed = true; /* freed by its last take */
        struct layer_take *take;
        TAILQ_FOREACH(take, &chunk->takes, link)
        g->worker->io->cancel_take(g->worker->io->ctx, &take->take);
        if (TAILQ_EMPTY(&chunk->takes))
            chunk_free(chunk);
    }
}

/* Slots of our blocks and of the peer's that hold positions [first, first + n). */
static bool make_spans(struct generation *g, struct incoming_chunk *chunk, const Baton__Chunk *msg)
{
    uint32_t bt = g->worker->options.layout.block_tokens;
    uint32_t n_spans = chunk->n ? (chunk->first + chunk->n - 1) / bt - chunk->first / bt + 1 : 0;
    if (msg->n_blocks != n_spans || msg->n_generations != n_spans)
        return false;
    chunk->n_spans = n_spans;
    chunk->spans = calloc(n_spans ? n_spans : 1, sizeof *chunk->spans);
    chunk->sums = calloc((size_t)(n_spans ? n_spans : 1) * g->worker->options.layout.n_layers, sizeof *chunk->sums);
    if (!chunk->spans || !chunk->sums)
        return false;
    uint32_t pos = chunk->first, end = chunk->first + chunk->n;
    for (uint32_t i = 0; i < n_spans; i++) {
        uint32_t upto = (pos / bt + 1) * bt < end ? (pos / bt + 1) * bt : end;
        chunk->spans[i] = (struct transfer_span){
            .local_block = g->seq.blocks[pos / bt],
            .remote_block = msg->blocks[i],
            .remote_generation = msg->generations[i],
            .first = (uint16_t)(pos % bt),
            .n = (uint16_t)(upto - pos),
        };
        pos = upto;
    }
    return true;
}

/* Chunks lie between their neighbours and hold something (but the last), so the
 * length of the prompt bounds how many there are. */
static bool fits(const struct generation *g, const Baton__Chunk *msg, const struct incoming_chunk *before)
{
    const struct incoming_chunk *behind = before ? TAILQ_NEXT(before, link) : TAILQ_FIRST(&g->chunks);
    uint32_t from = before ? before->first + before->n : g->committed;
    uint32_t to = behind ? behind->first : g->seq.n_tokens;
    return msg->first >= from && msg->first <= to && msg->n <= to - msg->first &&
           (msg->n > 0 || msg->first == g->seq.n_tokens) && msg->index - g->next_chunk <= g->seq.n_tokens;
}

/* Finds the chunk or begins it. NULL: it was committed already, or makes no
 * sense (then the leg has failed). */
static struct incoming_chunk *chunk_of(struct generation *g, const Baton__Chunk *msg)
{
    struct incoming_chunk *chunk, *after = NULL;
    if (!msg || msg->index < g->next_chunk)
        return NULL;
    TAILQ_FOREACH(chunk, &g->chunks, link)
    {
        if (chunk->index == msg->index)
            return chunk;
        if (chunk->index < msg->index)
            after = chunk;
    }
    chunk = fits(g, msg, after) ? calloc(1, sizeof *chunk) : NULL;
    if (!chunk) {
        generation_leg_failed(g, "a chunk that makes no sense");
        return NULL;
    }
    chunk->generation = g;
    chunk->index = msg->index;
    chunk->first = msg->first;
    chunk->n = msg->n;
    TAILQ_INIT(&chunk->takes);
    if (!make_spans(g, chunk, msg)) {
        chunk_free(chunk);
        generation_leg_failed(g, "a chunk whose blocks make no sense");
        return NULL;
    }
    if (after)
        TAILQ_INSERT_AFTER(&g->chunks, after, chunk, link);
    else
        TAILQ_INSERT_HEAD(&g->chunks, chunk, link);
    return chunk;
}

static void try_commit(struct generation *g);

static void on_take_done(struct transfer_take *done)
{
    struct layer_take *take = (struct layer_take *)done;
    struct incoming_chunk *chunk = take->chunk;
    struct generation *g = take->generation;
    struct worker *worker = g->worker;
    g->takes_out--;
    TAILQ_REMOVE(&chunk->takes, take, link);
    worker->counters.bytes_taken += take->take.bytes;
    if (chunk->failed) {
        if (TAILQ_EMPTY(&chunk->takes))
            chunk_free(chunk);
        generation_settle(g);
    } else if (take->take.st == ST_OK) {
        chunk->layers_taken += take->take.n_layers;
        g->moved_bytes += take->take.bytes;
        try_commit(g);
    } else {
        worker->counters.stale_takes += take->take.st == ST_STALE;
        generation_leg_failed(g, status_text(take->take.st));
    }
    free(take);
    worker_pump(worker);
}

static void take_layers(struct generation *g, struct incoming_chunk *chunk, uint32_t upto)
{
    struct worker *worker = g->worker;
    if (upto <= chunk->layers_asked || chunk->n_spans == 0)
        return;
    if (!g->prefill->transfer) { /* a take without a peer would sum up our own blocks */
        generation_leg_failed(g, "the way to the prefill worker's blocks is lost");
        return;
    }
    struct layer_take *take = calloc(1, sizeof *take);
    if (!take) {
        generation_leg_failed(g, "no memory for a take");
        return;
    }
    take->chunk = chunk;
    take->generation = g;
    take->take.peer = g->prefill->transfer;
    take->take.first_layer = chunk->layers_asked;
    take->take.n_layers = upto - chunk->layers_asked;
    take->take.spans = chunk->spans;
    take->take.n_spans = chunk->n_spans;
    take->take.checksums = chunk->sums + (size_t)chunk->layers_asked * chunk->n_spans;
    take->take.deadline_us = now_of(g) + worker->options.take_timeout_us;
    take->take.done = on_take_done;
    g->transport = g->prefill->transport;
    chunk->layers_asked = upto;
    TAILQ_INSERT_TAIL(&chunk->takes, take, link);
    g->takes_out++;
    if (worker->io->take(worker->io->ctx, &take->take) == ST_OK)
        return;
    TAILQ_REMOVE(&chunk->takes, take, link);
    g->takes_out--;
    free(take);
    generation_leg_failed(g, "too many takes are under way");
}

/* Which blocks did not come as they were sent; logs the first. */
static uint32_t wrong_blocks(struct generation *g, const struct incoming_chunk *chunk)
{
    uint32_t wrong = 0, layers = g->worker->options.layout.n_layers;
    uint64_t column[MODEL_MAX_LAYERS];
    for (uint32_t i = 0; i < chunk->n_spans; i++) {
        for (uint32_t l = 0; l < layers; l++)
            column[l] = chunk->sums[(size_t)l * chunk->n_spans + i];
        if (transfer_block_checksum(column, layers) == chunk->announced_sums[i])
            continue;
        if (wrong++ == 0)
            log_error("block arrived damaged",
                      "request=%llx.%llx from=%s chunk=%u position=%u remote_block=%u local_block=%u",
                      (unsigned long long)g->node.key.router, (unsigned long long)g->node.key.seq, g->prefill->id,
                      chunk->index, chunk->first, chunk->spans[i].remote_block, chunk->spans[i].local_block);
    }
    g->worker->counters.bad_checksums += wrong;
    return wrong;
}

/* A block that came in one piece has its checksum already. */
static void know_checksums(struct generation *g, const struct incoming_chunk *chunk)
{
    uint32_t bt = g->worker->options.layout.block_tokens;
    for (uint32_t i = 0; i < chunk->n_spans && g->worker->sharing; i++)
        if (chunk->spans[i].n == bt)
            sharing_know_checksum(g->worker->sharing, chunk->spans[i].local_block, chunk->announced_sums[i]);
}

static void send_taken(struct generation *g, uint32_t index)
{
    struct worker *worker = g->worker;
    struct message_head head = { FRAME_CHUNK_TAKEN, g->node.key, g->attempt, g->leg, FRAME_NO_DEADLINE, &g->trace };
    Baton__ChunkTaken body = BATON__CHUNK_TAKEN__INIT;
    body.index = index;
    worker->counters.chunks_taken++;
    (void)worker->io->send(worker->io->ctx, g->prefill, &head, &body.base, true);
}

static void begin_decoding(struct generation *g, struct incoming_chunk *chunk)
{
    struct kept_token token = chunk->token;
    chunk->token.top = NULL; /* moves to the kept tokens */
    g->prefill = NULL;
    /* Prefill's own clock says how long it computed; all else since the Grant is the handoff's. */
    uint64_t since_grant = now_of(g) - g->granted_us;
    uint64_t at_prefill = chunk->prefill_us + chunk->pull_wait_us;
    g->handoff_us = since_grant > at_prefill ? since_grant - at_prefill : 0;
    g->prefill_pull_us += chunk->pull_us;
    g->seq.computed = g->committed;
    g->computed_tokens += chunk->computed;
    for (int tier = 0; tier < KV_TIER_COUNT; tier++)
        g->cached[tier] += chunk->cached[tier];
    generation_enter(g, GENERATION_DECODING);
    batch_add(g->worker, &g->seq);
    generation_append(g, &token, chunk->token_stops);
}

/* Commits what is complete, in order. After a wrong checksum the chunk is taken
 * once more; after a second one it is computed elsewhere. */
static void try_commit(struct generation *g)
{
    struct incoming_chunk *chunk;
    uint32_t layers = g->worker->options.layout.n_layers;
    while ((chunk = TAILQ_FIRST(&g->chunks)) && chunk->index == g->next_chunk && chunk->announced_sums) {
        if (chunk->n_spans && chunk->layers_taken < layers)
            return;
        if (chunk->first != g->committed || (chunk->last && TAILQ_NEXT(chunk, link))) {
            generation_leg_failed(g, "chunks with a gap, or beyond the last one");
            return;
        }
        if (wrong_blocks(g, chunk)) {
            if (++chunk->tries >= MAX_TAKE_TRIES) {
                generation_leg_failed(g, "wrong checksums");
                return;
            }
            chunk->layers_asked = chunk->layers_taken = 0;
            take_layers(g, chunk, layers);
            return;
        }
        TAILQ_REMOVE(&g->chunks, chunk, link);
        know_checksums(g, chunk);
        g->seq.chain.is_from_host = g->prefill->same_host;
        prefix_cache_filled(g->worker->cache, &g->seq, chunk->first, chunk->n);
        g->seq.chain.is_from_host = false;
        g->committed = chunk->first + chunk->n;
        g->next_chunk++;
        send_taken(g, chunk->index);
        bool last = chunk->last;
        if (last)
            begin_decoding(g, chunk);
        chunk_free(chunk);
        if (last)
            return;
    }
}

void incoming_layers(struct generation *g, const Baton__Chunk *msg, uint32_t layers)
{
    struct incoming_chunk *chunk = chunk_of(g, msg);
    if (chunk && layers <= g->worker->options.layout.n_layers)
        take_layers(g, chunk, layers);
}

static bool read_token(struct incoming_chunk *chunk, const Baton__ChunkDone *msg, uint32_t n_vocab)
{
    if (!msg->last)
        return true;
    const Baton__Token *token = msg->token;
    if (!token || token->id >= n_vocab || token->n_top_ids != token->n_top_logprobs ||
        token->n_top_ids > SAMPLING_MAX_TOP_LOGPROBS)
        return false;
    chunk->token.id = token->id;
    chunk->token.logprob = token->logprob;
    if (token->hash.len == sizeof chunk->token.hash)
        memcpy(chunk->token.hash, token->hash.data, sizeof chunk->token.hash);
    chunk->token_stops = msg->token_stops;
    if (token->n_top_ids && (chunk->token.top = calloc(token->n_top_ids, sizeof *chunk->token.top))) {
        chunk->token.n_top = (uint32_t)token->n_top_ids;
        for (uint32_t i = 0; i < chunk->token.n_top; i++)
            chunk->token.top[i] = (struct token_logprob){ token->top_ids[i], token->top_logprobs[i] };
    }
    return true;
}

/* How the prompt's tokens came to be. A prefill worker always computes one; one of an older version says nothing. */
static void read_counts(struct incoming_chunk *chunk, const Baton__ChunkDone *msg, uint32_t n_tokens)
{
    uint32_t left = n_tokens;
    chunk->computed = msg->computed_tokens && msg->computed_tokens < n_tokens ? msg->computed_tokens : n_tokens;
    for (size_t tier = 0; tier < KV_TIER_COUNT && tier < msg->n_cached_tokens; tier++) {
        chunk->cached[tier] = msg->cached_tokens[tier] < left ? msg->cached_tokens[tier] : left;
        left -= chunk->cached[tier];
    }
}

void incoming_done(struct generation *g, const Baton__ChunkDone *msg)
{
    struct incoming_chunk *chunk = chunk_of(g, msg->chunk);
    if (!chunk || chunk->announced_sums)
        return;
    chunk->announced_sums = calloc(chunk->n_spans ? chunk->n_spans : 1, sizeof *chunk->announced_sums);
    bool whole = !msg->last || chunk->first + chunk->n == g->seq.n_tokens;
    if (!chunk->announced_sums || msg->n_checksums != chunk->n_spans || !whole ||
        !read_token(chunk, msg, g->worker->options.n_vocab)) {
        generation_leg_failed(g, "a ChunkDone that makes no sense");
        return;
    }
    if (msg->n_checksums)
        memcpy(chunk->announced_sums, msg->checksums, chunk->n_spans * sizeof *chunk->announced_sums);
    chunk->last = msg->last;
    if (msg->last) {
        chunk->prefill_us = msg->prefill_us;
        chunk->pull_us = msg->pull_us;
        chunk->pull_wait_us = msg->pull_wait_us;
        g->prefill_us += msg->prefill_us;
        g->prefill_queue_us += msg->queue_us;
        read_counts(chunk, msg, g->seq.n_tokens);
    }
    take_layers(g, chunk, g->worker->options.layout.n_layers);
    if (g->state == GENERATION_RECEIVING)
        try_commit(g);
}
