/* Chunks on their way out of a prefill worker: announced layer by layer,
 * checksummed on the transfer thread meanwhile, lent until they are taken. */
#include <stdlib.h>
#include <string.h>

#include "worker/prefill_job.h"

/* Checksums of some layers of a chunk; owns itself until done. */
struct layer_sums {
    struct transfer_take take; /* first */
    struct outgoing_chunk *chunk;
    struct prefill_job *job;
};

static void chunk_free(struct outgoing_chunk *chunk)
{
    free(chunk->blocks);
    free(chunk->generations);
    free(chunk->spans);
    free(chunk->sums);
    free(chunk);
}

void outgoing_drop_all(struct prefill_job *job)
{
    struct outgoing_chunk *chunk, *next;
    for (chunk = TAILQ_FIRST(&job->chunks); chunk; chunk = next) {
        next = TAILQ_NEXT(chunk, link);
        TAILQ_REMOVE(&job->chunks, chunk, link);
        chunk->failed = true; /* freed by its last checksum */
        if (!chunk->sums_out)
            chunk_free(chunk);
    }
    job->current = NULL;
}

static void fill_spans(struct prefill_job *job, struct outgoing_chunk *chunk)
{
    uint32_t bt = job->worker->options.layout.block_tokens;
    uint32_t pos = chunk->first, end = chunk->first + chunk->n;
    for (uint32_t i = 0; i < chunk->n_blocks; i++) {
        uint32_t upto = (pos / bt + 1) * bt < end ? (pos / bt + 1) * bt : end;
        block_id block = job->seq.blocks[chunk->first_block + i];
        chunk->blocks[i] = block;
        chunk->generations[i] = block_pool_generation(job->worker->pool, block);
        chunk->spans[i] =
            (struct transfer_span){ .local_block = block, .first = (uint16_t)(pos % bt), .n = (uint16_t)(upto - pos) };
        pos = upto;
    }
}

/* The next chunk, of positions [first, end). NULL: the job has failed, and may be gone. */
static struct outgoing_chunk *new_chunk(struct prefill_job *job, uint32_t first, uint32_t end)
{
    uint32_t bt = job->worker->options.layout.block_tokens;
    struct outgoing_chunk *chunk = calloc(1, sizeof *chunk);
    if (!chunk)
        goto fail;
    chunk->job = job;
    chunk->index = job->next_index;
    chunk->first = first;
    chunk->n = end > first ? end - first : 0;
    chunk->first_block = chunk->first / bt;
    chunk->n_blocks = chunk->n ? (end - 1) / bt - chunk->first_block + 1 : 0;
    size_t blocks = chunk->n_blocks ? chunk->n_blocks : 1;
    chunk->blocks = calloc(blocks, sizeof *chunk->blocks);
    chunk->generations = calloc(blocks, sizeof *chunk->generations);
    chunk->spans = calloc(blocks, sizeof *chunk->spans);
    chunk->sums = calloc(blocks * job->worker->options.layout.n_layers, sizeof *chunk->sums);
    if (!chunk->blocks || !chunk->generations || !chunk->spans || !chunk->sums) {
        chunk_free(chunk);
        goto fail;
    }
    fill_spans(job, chunk);
    job->next_index++;
    job->not_taken++;
    TAILQ_INSERT_TAIL(&job->chunks, chunk, link);
    return chunk;
fail:
    prefill_fail(job, BATON__FAILURE_CODE__FAILURE_INTERNAL, true, "no memory for a chunk");
    return NULL;
}

/* Begins the chunk of the running step: what decode does not hold of rows [first,
 * first + n). Nothing where it holds all of them. False: the job has failed, and may be gone. */
static bool begin_chunk(struct prefill_job *job, uint32_t first, uint32_t n, bool last)
{
    uint32_t end = first + n;
    if (job->current || (end <= job->from_token && !last))
        return true;
    struct outgoing_chunk *chunk = new_chunk(job, first > job->from_token ? first : job->from_token, end);
    if (chunk)
        job->current = chunk;
    return chunk != NULL;
}

static void describe(const struct outgoing_chunk *chunk, Baton__Chunk *out)
{
    baton__chunk__init(out);
    out->index = chunk->index;
    out->first = chunk->first;
    out->n = chunk->n;
    out->blocks = chunk->blocks;
    out->n_blocks = chunk->n_blocks;
    out->generations = chunk->generations;
    out->n_generations = chunk->n_blocks;
}

static void pack_token(const struct prefill_job *job, Baton__Token *out, uint32_t *ids, float *logprobs, uint8_t *hash)
{
    const struct sampled *s = &job->sampled;
    baton__token__init(out);
    out->id = s->id;
    out->logprob = s->logprob;
    for (uint32_t i = 0; i < s->n_top; i++) {
        ids[i] = s->top[i].id;
        logprobs[i] = s->top[i].logprob;
    }
    out->top_ids = ids;
    out->top_logprobs = logprobs;
    out->n_top_ids = out->n_top_logprobs = s->n_top;
    if (!job->seq.sampling.want_hash)
        return;
    for (int i = 0; i < 8; i++) {
        hash[i] = (uint8_t)(s->hash[1] >> (56 - 8 * i));
        hash[8 + i] = (uint8_t)(s->hash[0] >> (56 - 8 * i));
    }
    out->hash.data = hash;
    out->hash.len = 16;
}

/* What decode did not have and prefill did not compute, by where it was. */
static void count_cached(const struct prefill_job *job, uint32_t out[KV_TIER_COUNT])
{
    uint32_t bt = job->worker->options.layout.block_tokens;
    memset(out, 0, KV_TIER_COUNT * sizeof out[0]);
    for (uint32_t pos = job->from_token; pos < job->found; pos = (pos / bt + 1) * bt)
        out[job->tiers[pos / bt]] += (pos / bt + 1) * bt - pos;
}

/* The layers' checksums to those of the blocks, in their place. */
static void combine_layers(struct outgoing_chunk *chunk)
{
    uint32_t layers = chunk->job->worker->options.layout.n_layers;
    uint64_t column[MODEL_MAX_LAYERS];
    for (uint32_t i = 0; i < chunk->n_blocks; i++) {
        for (uint32_t l = 0; l < layers; l++)
            column[l] = chunk->sums[(size_t)l * chunk->n_blocks + i];
        /* The column starts at i in the first row, which is not read again. */
        chunk->sums[i] = transfer_block_checksum(column, layers);
    }
}

static void send_done(struct outgoing_chunk *chunk)
{
    struct prefill_job *job = chunk->job;
    struct worker *worker = job->worker;
    uint32_t top_ids[SAMPLING_MAX_TOP_LOGPROBS];
    float top_logprobs[SAMPLING_MAX_TOP_LOGPROBS];
    uint8_t hash[16];
    uint32_t cached[KV_TIER_COUNT];
    if (!chunk->is_known)
        combine_layers(chunk);
    Baton__Chunk where;
    Baton__Token token;
    Baton__ChunkDone body = BATON__CHUNK_DONE__INIT;
    describe(chunk, &where);
    body.chunk = &where;
    body.checksums = chunk->sums;
    body.n_checksums = chunk->n_blocks;
    body.last = chunk->last;
    if (chunk->last) {
        pack_token(job, &token, top_ids, top_logprobs, hash);
        body.token = &token;
        body.token_stops = job->sampled.is_stop;
        body.prefill_us = sequence_computing_us(&job->seq, job->started_us, job->done_us);
        body.queue_us = job->granted_us - job->born_us;
        body.pull_us = job->pulling.us;
        body.pull_wait_us = job->done_us - job->granted_us - body.prefill_us;
        count_cached(job, cached);
        body.cached_tokens = cached;
        body.n_cached_tokens = KV_TIER_COUNT;
        body.computed_tokens = job->seq.n_tokens - job->found;
    }
    struct message_head head = {
        FRAME_CHUNK_DONE, job->node.key, job->attempt, job->leg, job->deadline_us, &job->trace
    };
    chunk->sent = true;
    worker->counters.chunks_sent++;
    (void)worker->io->send(worker->io->ctx, job->decode, &head, &body.base, true);
}

static void send_when_ready(struct outgoing_chunk *chunk)
{
    bool summed =
        chunk->n_blocks == 0 || chunk->is_known || chunk->layers_summed == chunk->job->worker->options.layout.n_layers;
    if (chunk->computed && summed && !chunk->sent)
        send_done(chunk);
}

static void on_summed(struct transfer_take *done)
{
    struct layer_sums *sums = (struct layer_sums *)done;
    struct outgoing_chunk *chunk = sums->chunk;
    struct prefill_job *job = sums->job;
    struct worker *worker = job->worker;
    chunk->sums_out--;
    job->sums_out--;
    chunk->layers_summed += sums->take.n_layers;
    status st = sums->take.st;
    free(sums);
    if (chunk->failed) {
        if (!chunk->sums_out)
            chunk_free(chunk);
        prefill_settle(job);
    } else if (st == ST_OK) {
        send_when_ready(chunk);
    } else {
        prefill_fail(job, BATON__FAILURE_CODE__FAILURE_INTERNAL, true, "no checksum");
    }
    worker_pump(worker);
}

/* False: the job has failed, and may be gone with the chunk. */
static bool sum_layers(struct outgoing_chunk *chunk, uint32_t upto)
{
    struct prefill_job *job = chunk->job;
    struct worker *worker = job->worker;
    if (upto <= chunk->layers_asked || chunk->n_blocks == 0)
        return true;
    struct layer_sums *sums = calloc(1, sizeof *sums);
    if (!sums)
        goto fail;
    sums->chunk = chunk;
    sums->job = job;
    sums->take.first_layer = chunk->layers_asked;
    sums->take.n_layers = upto - chunk->layers_asked;
    sums->take.spans = chunk->spans;
    sums->take.n_spans = chunk->n_blocks;
    sums->take.checksums = chunk->sums + (size_t)chunk->layers_asked * chunk->n_blocks;
    sums->take.deadline_us = worker->io->now(worker->io->ctx) + worker->options.take_timeout_us;
    sums->take.done = on_summed;
    if (worker->io->take(worker->io->ctx, &sums->take) != ST_OK)
        goto fail;
    chunk->layers_asked = upto;
    chunk->sums_out++;
    job->sums_out++;
    return true;
fail:
    free(sums);
    prefill_fail(job, BATON__FAILURE_CODE__FAILURE_INTERNAL, true, "no room for a checksum");
    return false;
}

static void announce(struct outgoing_chunk *chunk, uint32_t layers)
{
    struct prefill_job *job = chunk->job;
    Baton__Chunk where;
    Baton__LayersReady body = BATON__LAYERS_READY__INIT;
    struct message_head head = { FRAME_LAYERS_READY, job->node.key,    job->attempt,
                                 job->leg,           job->deadline_us, &job->trace };
    describe(chunk, &where);
    body.chunk = &where;
    body.layers = layers;
    (void)job->worker->io->send(job->worker->io->ctx, job->decode, &head, &body.base, false);
}

/* Wants no rows while too much is not taken; which includes that what was found is not all on its way. */
static void pause_or_go(struct prefill_job *job)
{
    job->seq.paused = job->not_taken >= job->worker->options.chunks_in_flight;
}

/* Tokens of a chunk of what was found. */
static uint32_t found_size(const struct worker_options *o)
{
    uint32_t bt = o->layout.block_tokens;
    return o->limits.chunk_tokens > bt ? o->limits.chunk_tokens : bt;
}

bool outgoing_has_room(const struct prefill_job *job, uint32_t upto)
{
    uint32_t size = found_size(&job->worker->options), n = upto > job->next_found ? upto - job->next_found : 0;
    return job->not_taken + (n + size - 1) / size <= job->worker->options.chunks_in_flight;
}

/* What came with a checksum, or has had one made, is not read once more: that would hold up what is still fetched. */
static bool find_checksums(struct outgoing_chunk *chunk)
{
    const struct worker *worker = chunk->job->worker;
    for (uint32_t i = 0; i < chunk->n_blocks; i++) {
        bool is_whole = chunk->spans[i].n == worker->options.layout.block_tokens;
        if (!worker->sharing || !is_whole ||
            !sharing_knows_checksum(worker->sharing, chunk->blocks[i], &chunk->sums[i]))
            return false;
    }
    chunk->is_known = true;
    return true;
}

void outgoing_found(struct prefill_job *job)
{
    const struct worker_options *o = &job->worker->options;
    uint32_t size = found_size(o);
    while (job->next_found < job->found && job->not_taken < o->chunks_in_flight) {
        uint32_t end = job->found - job->next_found > size ? job->next_found + size : job->found;
        struct outgoing_chunk *chunk = new_chunk(job, job->next_found, end);
        if (!chunk)
            return;
        job->next_found = end;
        chunk->computed = true;
        announce(chunk, o->layout.n_layers);
        if (find_checksums(chunk))
            send_done(chunk);
        else if (!sum_layers(chunk, o->layout.n_layers))
            return;
    }
    pause_or_go(job);
}

void outgoing_layers(struct prefill_job *job, uint32_t first, uint32_t n, uint32_t layers)
{
    bool last = first + n == job->seq.n_tokens;
    if (!begin_chunk(job, first, n, last) || !job->current || job->current->n == 0)
        return;
    announce(job->current, layers);
    (void)sum_layers(job->current, layers);
}

void outgoing_computed(struct prefill_job *job, uint32_t first, uint32_t n, bool last)
{
    struct worker *worker = job->worker;
    if (!begin_chunk(job, first, n, last))
        return;
    struct outgoing_chunk *chunk = job->current;
    job->current = NULL;
    pause_or_go(job);
    if (!chunk)
        return;
    chunk->computed = true;
    chunk->last = last;
    if (sum_layers(chunk, worker->options.layout.n_layers))
        send_when_ready(chunk);
}

bool outgoing_taken(struct prefill_job *job, uint32_t index)
{
    struct outgoing_chunk *chunk;
    TAILQ_FOREACH(chunk, &job->chunks, link)
    {
        if (chunk->index != index || !chunk->sent)
            continue;
        TAILQ_REMOVE(&job->chunks, chunk, link);
        chunk_free(chunk);
        job->not_taken--;
        return true;
    }
    return false;
}
