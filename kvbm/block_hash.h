/* block_hash.h - the identity of a KV block: what was computed, not where it lies or in which format.
 *   seed = H(weights, tokenizer, adapter, salt);  h[0] = H(seed, tokens[0]);  h[i] = H(h[i-1], tokens[i])
 * with H = XXH3-128 over little-endian numbers: 64-bit ones in the seed, a hash as its low half and then its
 * high half, token ids as u32. So a hash stands for everything from the first token on, equal hashes mean equal KV
 * of one kv_format (kv_format.h), and the router can hash a prompt once for workers of any format.
 * XXH3 is fast, and somebody who can choose tokens can make it collide: who serves a block compares tokens and
 * parent as well (block_registry.h). Pure functions; any thread. */
#ifndef BATON_KVBM_BLOCK_HASH_H
#define BATON_KVBM_BLOCK_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define BLOCK_HASH_BYTES      16u
#define BLOCK_HASH_TEXT_BYTES 33u /* the NUL included */
#define BLOCK_TOKENS_MAX      512u

struct block_hash {
    uint64_t low, high;
};

static inline bool block_hash_equal(struct block_hash a, struct block_hash b)
{
    return a.low == b.low && a.high == b.high;
}

/* 32 hexadecimal digits, the high half first, as the other tools of XXH3 print it. Returns out. */
const char *block_hash_text(struct block_hash hash, char out[BLOCK_HASH_TEXT_BYTES]);
/* What block_hash_text wrote; anything else is ST_INVALID. */
MUST_CHECK status block_hash_parse(const char *text, struct block_hash *out);

/* Salts keep tenants apart. What goes into the seed is a keyed hash of the secret that the tenant has (its
 * "cache_salt"): HMAC-SHA-256 under the cluster's key, cut to 128 bits, so that hashes, which travel in events and
 * logs, give nobody the secret. {0, 0} is the salt of those who share. An empty secret gives just that. */
MUST_CHECK status block_salt(const void *key, size_t key_len, const void *secret, size_t len, struct block_hash *out);

struct block_seed_parts {
    uint64_t weights;   /* model_fingerprint */
    uint64_t tokenizer; /* model_text_fingerprint, which workers have without the tokenizer itself */
    uint64_t adapter;   /* struct adapter's fingerprint; 0: none */
    struct block_hash salt;
};

struct block_hash block_seed(const struct block_seed_parts *parts);

/* The hash of a full block behind `parent`, which is the seed for the first one. n <= BLOCK_TOKENS_MAX. */
struct block_hash block_hash_next(struct block_hash parent, const uint32_t *tokens, size_t n);

/* The hashes of a sequence that grows: each token is hashed once. */
struct block_hasher {
    struct block_hash last; /* the seed while there is no full block */
    uint32_t block_tokens;
    uint64_t n_blocks; /* hashed so far */
};

void block_hasher_init(struct block_hasher *hasher, struct block_hash seed, uint32_t block_tokens);
/* tokens are the whole sequence's, of which those hashed earlier must not have changed. Writes the hashes of blocks
 * that are full now and were not hashed yet, at most `max`; returns how many. */
size_t block_hasher_grow(struct block_hasher *hasher, const uint32_t *tokens, size_t n_tokens, struct block_hash out[],
                         size_t max);

#endif
