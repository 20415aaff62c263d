#include "worker/sequence.h"

#include <stdlib.h>
#include <string.h>

#include "proto/kv_events.h"

static status unpack_bias(struct sequence *seq, const Baton__LogitBias *bias, struct error *err)
{
    if (!bias || bias->n_ids == 0)
        return ST_OK;
    if (bias->n_ids != bias->n_biases || bias->n_ids > SAMPLING_MAX_BIAS)
        return error_set(err, ST_INVALID, "logit_bias has %zu ids and %zu values (at most %d)", bias->n_ids,
                         bias->n_biases, SAMPLING_MAX_BIAS);
    seq->bias = calloc(bias->n_ids, sizeof *seq->bias);
    if (!seq->bias)
        return ST_NO_MEMORY;
    for (size_t i = 0; i < bias->n_ids; i++)
        seq->bias[i] = (struct logit_bias){ bias->ids[i], bias->biases[i] };
    seq->sampling.bias = seq->bias;
    seq->sampling.n_bias = (uint32_t)bias->n_ids;
    return ST_OK;
}

static status unpack_stop_ids(struct sequence *seq, const Baton__Sampling *in, struct error *err)
{
    if (in->n_stop_ids > SAMPLING_MAX_STOP_IDS)
        return error_set(err, ST_INVALID, "%zu stop ids, at most %d", in->n_stop_ids, SAMPLING_MAX_STOP_IDS);
    if (in->n_stop_ids == 0)
        return ST_OK;
    seq->stop_ids = calloc(in->n_stop_ids, sizeof *seq->stop_ids);
    if (!seq->stop_ids)
        return ST_NO_MEMORY;
    memcpy(seq->stop_ids, in->stop_ids, in->n_stop_ids * sizeof *seq->stop_ids);
    seq->sampling.stop_ids = seq->stop_ids;
    seq->sampling.n_stop_ids = (uint32_t)in->n_stop_ids;
    return ST_OK;
}

static status unpack_sampling(struct sequence *seq, const Baton__Sampling *in, uint32_t n_vocab, struct error *err)
{
    if (!in)
        return error_set(err, ST_INVALID, "the sampling message is missing");
    seq->sampling = (struct sampling){
        .seed = in->seed,
        .choice = in->choice,
        .prompt_len = in->prompt_len,
        .max_tokens = in->max_tokens,
        .min_tokens = in->min_tokens,
        .temperature = in->temperature,
        .top_p = in->top_p,
        .min_p = in->min_p,
        .top_k = in->top_k,
        .repetition_penalty = in->repetition_penalty,
        .presence_penalty = in->presence_penalty,
        .frequency_penalty = in->frequency_penalty,
        .ignore_eos = in->ignore_eos,
        .n_logprobs = in->n_logprobs,
        .want_hash = in->want_hash,
    };
    status st = unpack_bias(seq, in->bias, err);
    if (st == ST_OK)
        st = unpack_stop_ids(seq, in, err);
    if (st == ST_OK)
        st = sampling_check(&seq->sampling, n_vocab, err);
    return st;
}

static status check_tokens(const uint32_t *tokens, size_t n, const Baton__Sampling *sampling, uint32_t n_vocab,
                           uint32_t max_tokens, struct error *err)
{
    if (n == 0 || n > max_tokens)
        return error_set(err, n ? ST_LIMIT : ST_INVALID, "%zu tokens, at least 1 and at most %u fit", n, max_tokens);
    for (size_t i = 0; i < n; i++)
        if (tokens[i] >= n_vocab)
            return error_set(err, ST_INVALID, "token %zu is %u, the vocabulary has %u", i, tokens[i], n_vocab);
    if (sampling && sampling->prompt_len > n)
        return error_set(err, ST_INVALID, "prompt_len %u is beyond the %zu tokens", sampling->prompt_len, n);
    return ST_OK;
}

status sequence_init(struct sequence *seq, const struct sequence_ops *ops, const uint32_t *tokens, size_t n_tokens,
                     const Baton__Sampling *sampling, uint32_t n_vocab, uint32_t max_tokens, struct error *err)
{
    memset(seq, 0, sizeof *seq);
    seq->ops = ops;
    seq->adapter_id = "";
    status st = check_tokens(tokens, n_tokens, sampling, n_vocab, max_tokens, err);
    if (st == ST_OK)
        st = unpack_sampling(seq, sampling, n_vocab, err);
    if (st != ST_OK)
        goto fail;
    uint64_t most = (uint64_t)n_tokens + seq->sampling.max_tokens + 1;
    seq->tokens_capacity = (uint32_t)(most < max_tokens + 1u ? most : max_tokens + 1u);
    seq->tokens = calloc(seq->tokens_capacity, sizeof *seq->tokens);
    if (!seq->tokens) {
        st = error_set(err, ST_NO_MEMORY, "no memory for %u token ids", seq->tokens_capacity);
        goto fail;
    }
    memcpy(seq->tokens, tokens, n_tokens * sizeof *tokens);
    seq->n_tokens = (uint32_t)n_tokens;
    speculation_begin(&seq->speculation);
    return ST_OK;
fail:
    sequence_free(seq);
    return st;
}

void sequence_free(struct sequence *seq)
{
    ASSERT(seq->n_blocks == 0 && !seq->is_running && !seq->in_step);
    free(seq->tokens);
    free(seq->blocks);
    free(seq->chain.hashes);
    free(seq->bias);
    free(seq->stop_ids);
    memset(seq, 0, sizeof *seq);
}

void sequence_append(struct sequence *seq, uint32_t token)
{
    ASSERT(seq->n_tokens < seq->tokens_capacity);
    seq->tokens[seq->n_tokens++] = token;
}

status sequence_make_room(struct sequence *seq, uint32_t block_tokens, uint32_t n)
{
    if (n <= seq->blocks_capacity)
        return ST_OK;
    uint32_t capacity = blocks_for(seq->tokens_capacity, block_tokens) + 1;
    ASSERT(capacity >= n);
    block_id *grown = realloc(seq->blocks, capacity * sizeof *grown);
    if (!grown)
        return ST_NO_MEMORY;
    seq->blocks = grown;
    seq->blocks_capacity = capacity;
    return ST_OK;
}

status sequence_reserve(struct sequence *seq, struct block_pool *pool, uint32_t block_tokens, uint32_t n,
                        enum block_state state)
{
    uint32_t need = blocks_for(n, block_tokens);
    if (need <= seq->n_blocks)
        return ST_OK;
    status st = sequence_make_room(seq, block_tokens, need);
    if (st == ST_OK)
        st = block_pool_take(pool, need - seq->n_blocks, state, seq->blocks + seq->n_blocks);
    if (st == ST_OK)
        seq->n_blocks = need;
    return st;
}

void sequence_release_blocks(struct sequence *seq, struct block_pool *pool)
{
    for (uint32_t i = 0; i < seq->n_blocks; i++)
        block_pool_release(pool, seq->blocks[i], BLOCK_OF_SEQUENCE);
    seq->n_blocks = 0;
    seq->computed = 0;
    seq->chain.n_registered = 0;
    seq->chain.ends = false;
}

void sequence_filled(struct sequence *seq, struct block_pool *pool, uint32_t block_tokens, uint32_t first, uint32_t n)
{
    for (uint32_t pos = first; pos < first + n;) {
        uint32_t end = (pos / block_tokens + 1) * block_tokens;
        if (end > first + n)
            end = first + n;
        uint32_t valid = (end - 1) % block_tokens + 1;
        block_id block = seq->blocks[pos / block_tokens];
        if (valid > block_pool_valid(pool, block))
            block_pool_filled(pool, block, valid);
        pos = end;
    }
}

status sequence_read_salt(struct sequence *seq, ProtobufCBinaryData salt, struct error *err)
{
    if (salt.len != 0 && salt.len != BLOCK_HASH_BYTES)
        return error_set(err, ST_INVALID, "the salt has %zu bytes, not 0 or %u", salt.len, BLOCK_HASH_BYTES);
    seq->salt = (struct block_hash){ 0, 0 };
    if (salt.len > 0)
        seq->salt = (struct block_hash){ .high = kv_sequence_read(salt.data), .low = kv_sequence_read(salt.data + 8) };
    return ST_OK;
}

ProtobufCBinaryData sequence_pack_salt(const struct sequence *seq, uint8_t bytes[BLOCK_HASH_BYTES])
{
    const struct block_hash none = { 0, 0 };
    kv_sequence_write(seq->salt.high, bytes);
    kv_sequence_write(seq->salt.low, bytes + 8);
    return (ProtobufCBinaryData){ block_hash_equal(seq->salt, none) ? 0 : BLOCK_HASH_BYTES, bytes };
}

void sequence_pack_sampling(const struct sequence *seq, struct wire_sampling *out)
{
    const struct sampling *s = &seq->sampling;
    baton__sampling__init(&out->msg);
    out->msg.seed = s->seed;
    out->msg.choice = s->choice;
    out->msg.prompt_len = s->prompt_len;
    out->msg.max_tokens = s->max_tokens;
    out->msg.min_tokens = s->min_tokens;
    out->msg.temperature = s->temperature;
    out->msg.top_p = s->top_p;
    out->msg.min_p = s->min_p;
    out->msg.top_k = s->top_k;
    out->msg.repetition_penalty = s->repetition_penalty;
    out->msg.presence_penalty = s->presence_penalty;
    out->msg.frequency_penalty = s->frequency_penalty;
    out->msg.ignore_eos = s->ignore_eos;
    out->msg.n_logprobs = s->n_logprobs;
    out->msg.want_hash = s->want_hash;
    out->msg.adapter = (char *)seq->adapter_id;
    out->msg.stop_ids = seq->stop_ids;
    out->msg.n_stop_ids = s->n_stop_ids;
    if (s->n_bias == 0)
        return;
    baton__logit_bias__init(&out->bias);
    for (uint32_t i = 0; i < s->n_bias; i++) {
        out->bias_ids[i] = seq->bias[i].id;
        out->bias_values[i] = seq->bias[i].bias;
    }
    out->bias.ids = out->bias_ids;
    out->bias.biases = out->bias_values;
    out->bias.n_ids = out->bias.n_biases = s->n_bias;
    out->msg.bias = &out->bias;
}
