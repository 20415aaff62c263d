/* sequence.h - a run of tokens whose KV is computed here: what a generation on
 * the decode side and a job on the prefill side have in common.
 * Loop thread only, except `cancelled`, which the engine reads between layers. */
#ifndef BATON_WORKER_SEQUENCE_H
#define BATON_WORKER_SEQUENCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "common/status.h"
#include "engine/sampling.h"
#include "engine/speculation.h"
#include "kvbm/block_hash.h"
#include "kvbm/block_pool.h"
#include "proto/baton.pb-c.h"
#include "proto/frame.h"

struct sequence;
struct pulling;

/* How the owner hears of its sequence's progress. */
struct sequence_ops {
    /* Layers [0, layers) of the rows [computed, computed + step_rows) are in the blocks. May be NULL. */
    void (*on_layers)(struct sequence *seq, uint32_t layers);
    /* n rows from first on are computed. sampled [n_sampled] are the tokens that follow the last known one: none
     * unless the rows reach it, several when guesses were right. */
    void (*on_rows)(struct sequence *seq, uint32_t first, uint32_t n, const struct sampled *sampled,
                    uint32_t n_sampled);
    /* The step that held it has ended after the sequence was cancelled. */
    void (*on_stopped)(struct sequence *seq);
};

/* What the prefix cache (prefix_cache.h) needs to find the sequence's blocks and to let others find them. */
struct sequence_chain {
    bool takes_part;
    bool ends;         /* its next block could not be registered, so none behind it can */
    bool is_from_host; /* what is registered now came from this host: its manager has heard of it */
    struct block_hash seed;
    struct block_hasher hasher;
    struct block_hash *hashes; /* owned; of the full blocks so far */
    uint32_t n_registered;     /* leading blocks of the sequence that can be found */
};

struct sequence {
    TAILQ_ENTRY(sequence) running; /* while queued in the batch */
    bool is_running;
    const struct sequence_ops *ops;

    uint32_t *tokens; /* prompt, then what was generated; behind n_tokens the guesses of the running step */
    uint32_t n_tokens, tokens_capacity;
    uint32_t computed; /* KV of [0, computed) is in the blocks */

    block_id *blocks; /* of positions 0 .. n_blocks * block_tokens - 1 */
    uint32_t n_blocks, blocks_capacity;

    uint32_t adapter;       /* as the engine knows it; 0: none */
    const char *adapter_id; /* borrowed; as others do, "": none */
    struct block_hash salt; /* {0, 0}: none */
    struct sequence_chain chain;

    struct sampling sampling;
    struct logit_bias *bias; /* owned; sampling borrows */
    uint32_t *stop_ids;

    uint64_t id;        /* of this worker, never 0 where it may draft */
    int32_t priority;   /* lower is sooner */
    uint64_t served_us; /* when it last got rows, or joined the batch */
    bool may_draft;     /* its answer is decoded here */
    struct speculation speculation;

    bool in_step;
    uint32_t step_rows;
    uint64_t
        awaited_us; /* of its time in the batch: waited for KV on its way, its own or that of who shared its steps */
    bool paused;    /* wants no rows for now */
    /* Its rows from `computed` on may be computed while the end of what is before them still comes (pulling.h). NULL:
     * all is here. */
    struct pulling *awaits;
    atomic_bool cancelled;
};

/* Copies tokens and sampling. ST_INVALID with a sentence when a value is out of range. On failure nothing is held. */
MUST_CHECK status sequence_init(struct sequence *seq, const struct sequence_ops *ops, const uint32_t *tokens,
                                size_t n_tokens, const Baton__Sampling *sampling, uint32_t n_vocab, uint32_t max_tokens,
                                struct error *err);
/* Blocks must have been released. */
void sequence_free(struct sequence *seq);

void sequence_append(struct sequence *seq, uint32_t token);
static inline uint32_t sequence_generated(const struct sequence *seq)
{
    return seq->n_tokens - seq->sampling.prompt_len;
}

/* Of the time from when it joined the batch until now, what it did not wait for KV. */
static inline uint64_t sequence_computing_us(const struct sequence *seq, uint64_t joined_us, uint64_t now_us)
{
    return now_us - joined_us > seq->awaited_us ? now_us - joined_us - seq->awaited_us : 0;
}

/* Blocks that n tokens need. */
static inline uint32_t blocks_for(uint32_t tokens, uint32_t block_tokens)
{
    return (tokens + block_tokens - 1) / block_tokens;
}

/* So that `blocks` has place for n. */
MUST_CHECK status sequence_make_room(struct sequence *seq, uint32_t block_tokens, uint32_t n);
/* Takes blocks in `state` until n tokens fit: all or none. */
MUST_CHECK status sequence_reserve(struct sequence *seq, struct block_pool *pool, uint32_t block_tokens, uint32_t n,
                                   enum block_state state);
void sequence_release_blocks(struct sequence *seq, struct block_pool *pool);
/* Tells the pool that slots [first, first + n) were written. */
void sequence_filled(struct sequence *seq, struct block_pool *pool, uint32_t block_tokens, uint32_t first, uint32_t n);

/* The salt of a message: 16 bytes, as hashes are written in KV events, or none. ST_INVALID with a sentence. */
MUST_CHECK status sequence_read_salt(struct sequence *seq, ProtobufCBinaryData salt, struct error *err);
/* Into bytes that the message borrows. */
ProtobufCBinaryData sequence_pack_salt(const struct sequence *seq, uint8_t bytes[BLOCK_HASH_BYTES]);

/* Fills msg, which borrows from seq and from bias. */
struct wire_sampling {
    Baton__Sampling msg;
    Baton__LogitBias bias;
    uint32_t bias_ids[SAMPLING_MAX_BIAS];
    float bias_values[SAMPLING_MAX_BIAS];
};
void sequence_pack_sampling(const struct sequence *seq, struct wire_sampling *out);

#endif
