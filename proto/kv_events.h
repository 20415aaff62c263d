/* kv_events.h - KV events as vLLM publishes them, in MessagePack.
 * A batch is [ts, [event...], data_parallel_rank]. An event is an array with its name first,
 *   ["BlockStored", block_hashes, parent_block_hash, token_ids, block_size, lora_id, medium, lora_name, extra_keys,
 *    group_idx...], ["BlockRemoved", block_hashes, medium, group_idx...], ["AllBlocksCleared"],
 * as vLLM 0.9 and later, SGLang and we write it. Newer vLLM writes maps with these names, and "type" for an event's:
 * both are read, ours are arrays. Fields and events that are not known are passed over. A message has three frames:
 * topic, sequence number (8 bytes, big-endian), batch; the topic of ours is "kv". docs/KV.md has the bytes. Any thread,
 * one at a time. */
#ifndef BATON_PROTO_KV_EVENTS_H
#define BATON_PROTO_KV_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/text_buffer.h"
#include "proto/msgpack_reader.h"

#define KV_EVENTS_TOPIC     "kv"
#define KV_EVENTS_MAX_BATCH (16u << 20) /* bytes that are read; ours are much shorter */
#define KV_EVENT_MAX_HASHES 65536u      /* of one event */
#define KV_EVENT_MAX_TOKENS (1u << 20)
#define KV_SEQUENCE_BYTES   8
#define KV_SEQUENCE_END     UINT64_MAX /* the number of what ends an answer to a replay request */
#define KV_HASH_LONGEST     64         /* bytes of a foreign hash */
#define KV_HASH_BYTES       16         /* of ours */

/* What a block's name on the wire becomes: ours (16 bytes, big-endian, high half first) as it is, an integer its
 * value (high: 0, or all ones when negative), a byte string of another length its XXH3-128. */
struct kv_event_hash {
    uint64_t low, high;
};

/* Tier, and the medium that we write. Read are also CPU_TIER1 (host), CPU_TIER2, SSD, NVME (disk), and none (device).
 */
#define KV_TIERS(X)                                                                                                    \
    X(DEVICE, "GPU")                                                                                                   \
    X(HOST, "CPU")                                                                                                     \
    X(DISK, "DISK")                                                                                                    \
    X(REMOTE, "REMOTE")

enum kv_tier {
#define X(name, medium) KV_TIER_##name,
    KV_TIERS(X)
#undef X
        KV_TIER_COUNT
};

const char *kv_tier_medium(enum kv_tier tier);

enum kv_event_kind { KV_BLOCK_STORED, KV_BLOCK_REMOVED, KV_ALL_CLEARED };

struct kv_event {
    enum kv_event_kind kind;
    enum kv_tier tier; /* KV_TIER_COUNT: a medium that we do not know */
    const struct kv_event_hash *hashes;
    uint32_t n_hashes;
    /* Only of KV_BLOCK_STORED: */
    bool has_parent;
    struct kv_event_hash parent;
    const uint32_t *tokens; /* none when left out, or when they are not plain ids */
    uint32_t n_tokens;
    uint32_t block_size;
    bool has_adapter;    /* computed with an adapter, which adapter names if its name was sent */
    const char *adapter; /* not terminated */
    uint32_t adapter_len;
    bool has_extra_keys; /* the hash covers more than tokens (images, a salt): it cannot be made from them */
    bool has_group;      /* of a cache with several groups of layers */
    uint64_t group;
};

struct kv_batch_reader {
    double ts;    /* seconds since 1970, by the publisher's clock */
    int64_t rank; /* data-parallel; -1: not said */
    bool clears;  /* its first event is AllBlocksCleared */
    uint32_t n_events;
    uint32_t n_unknown; /* events passed over so far, as their names are not known */
    struct msgpack_reader events;
    uint32_t left;
    struct kv_event_hash *hashes; /* [hashes_capacity] of the event at hand */
    uint32_t *tokens;
    uint32_t hashes_capacity, tokens_capacity;
};

void kv_batch_reader_init(struct kv_batch_reader *r);
void kv_batch_reader_free(struct kv_batch_reader *r);
/* Begins a batch, whose bytes stay the caller's and must outlive the reading. ST_CORRUPT, ST_LIMIT with what is wrong.
 */
MUST_CHECK status kv_batch_open(struct kv_batch_reader *r, const uint8_t *data, size_t len, struct error *err);
/* The next event, valid until the next call. ST_NOT_FOUND: that was the last; ST_CORRUPT, ST_LIMIT, ST_NO_MEMORY. */
MUST_CHECK status kv_batch_next(struct kv_batch_reader *r, struct kv_event *out, struct error *err);

/* How our hashes are written: byte strings, or their low halves as integers for readers who know only those. */
enum kv_hash_form { KV_HASH_AS_BYTES, KV_HASH_AS_INTEGER };

struct kv_batch_writer {
    enum kv_hash_form form;
    struct text_buffer events, batch;
    uint32_t n_events;
};

void kv_batch_writer_init(struct kv_batch_writer *w, enum kv_hash_form form, size_t max_bytes);
void kv_batch_writer_free(struct kv_batch_writer *w);
/* ST_LIMIT: the batch would pass max_bytes and is as before; ST_NO_MEMORY likewise. */
MUST_CHECK status kv_batch_add(struct kv_batch_writer *w, const struct kv_event *event);
/* The whole batch, valid until the next call; the writer begins anew. rank -1: none. ST_LIMIT, ST_NO_MEMORY. */
MUST_CHECK status kv_batch_finish(struct kv_batch_writer *w, double ts, int64_t rank, const uint8_t **data,
                                  size_t *len);

void kv_sequence_write(uint64_t sequence, uint8_t out[KV_SEQUENCE_BYTES]);
uint64_t kv_sequence_read(const uint8_t in[KV_SEQUENCE_BYTES]);

#endif
