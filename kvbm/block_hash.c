#include "kvbm/block_hash.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "hashes are taken over numbers as they lie in memory, which must be little-endian"
#endif

#define SEED_VERSION 1u

_Static_assert(sizeof(struct block_hash) == BLOCK_HASH_BYTES, "a hash is hashed as it lies in memory");

static struct block_hash of_bytes(const void *bytes, size_t len)
{
    XXH128_hash_t hash = XXH3_128bits(bytes, len);
    return (struct block_hash){ .low = hash.low64, .high = hash.high64 };
}

const char *block_hash_text(struct block_hash hash, char out[BLOCK_HASH_TEXT_BYTES])
{
    (void)snprintf(out, BLOCK_HASH_TEXT_BYTES, "%016" PRIx64 "%016" PRIx64, hash.high, hash.low);
    return out;
}

static bool parse_half(const char *digits, uint64_t *out)
{
    uint64_t value = 0;
    for (int i = 0; i < 16; i++) {
        char c = digits[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
        value = value << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    *out = value;
    return true;
}

status block_hash_parse(const char *text, struct block_hash *out)
{
    struct block_hash hash;
    if (strlen(text) != BLOCK_HASH_TEXT_BYTES - 1 || !parse_half(text, &hash.high) || !parse_half(text + 16, &hash.low))
        return ST_INVALID;
    *out = hash;
    return ST_OK;
}

status block_salt(const void *key, size_t key_len, const void *secret, size_t len, struct block_hash *out)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned digest_len = 0;
    if (len == 0) {
        *out = (struct block_hash){ 0, 0 };
        return ST_OK;
    }
    if (key_len > INT32_MAX)
        return ST_INVALID;
    if (!HMAC(EVP_sha256(), key_len ? key : "", (int)key_len, secret, len, digest, &digest_len))
        return ST_NO_MEMORY;
    memcpy(out, digest, sizeof *out);
    return ST_OK;
}

struct block_hash block_seed(const struct block_seed_parts *parts)
{
    const uint64_t record[] = { SEED_VERSION,   parts->weights,  parts->tokenizer,
                                parts->adapter, parts->salt.low, parts->salt.high };
    return of_bytes(record, sizeof record);
}

struct block_hash block_hash_next(struct block_hash parent, const uint32_t *tokens, size_t n)
{
    struct {
        struct block_hash parent;
        uint32_t tokens[BLOCK_TOKENS_MAX];
    } record;
    ASSERT(n > 0 && n <= BLOCK_TOKENS_MAX);
    record.parent = parent;
    memcpy(record.tokens, tokens, n * sizeof *tokens);
    return of_bytes(&record, sizeof record.parent + n * sizeof *tokens);
}

void block_hasher_init(struct block_hasher *hasher, struct block_hash seed, uint32_t block_tokens)
{
    ASSERT(block_tokens > 0 && block_tokens <= BLOCK_TOKENS_MAX);
    *hasher = (struct block_hasher){ .last = seed, .block_tokens = block_tokens };
}

size_t block_hasher_grow(struct block_hasher *hasher, const uint32_t *tokens, size_t n_tokens, struct block_hash out[],
                         size_t max)
{
    uint64_t full = n_tokens / hasher->block_tokens;
    size_t n = 0;
    for (; hasher->n_blocks < full && n < max; n++) {
        hasher->last =
            block_hash_next(hasher->last, tokens + hasher->n_blocks * hasher->block_tokens, hasher->block_tokens);
        hasher->n_blocks++;
        out[n] = hasher->last;
    }
    return n;
}
