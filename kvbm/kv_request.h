/* kv_request.h - what `baton kv` asks of managers and workers, as JSON. Pure.
 *   {"tokens": [1, 2...], "model": "m", "adapter": "NAME@FINGERPRINT", "salt": "S", "seconds": 60, "all": true}
 * tokens name a chain of blocks, with the model, adapter and salt that it was computed with; what is left out is the
 * only model, no adapter, no salt. Which members an operation takes is its caller's to say. */
#ifndef BATON_KVBM_KV_REQUEST_H
#define BATON_KVBM_KV_REQUEST_H

#include "kvbm/block_hash.h"
#include "kvbm/salt_key.h"

/* NAME, as in the JSON. */
#define KV_REQUEST_MEMBERS(X)                                                                                          \
    X(TOKENS, "tokens")                                                                                                \
    X(MODEL, "model")                                                                                                  \
    X(ADAPTER, "adapter")                                                                                              \
    X(SALT, "salt")                                                                                                    \
    X(SECONDS, "seconds")                                                                                              \
    X(ALL, "all")

enum kv_request_member {
#define X(name, text) KV_REQUEST_##name,
    KV_REQUEST_MEMBERS(X)
#undef X
        KV_REQUEST_MEMBER_COUNT
};

#define KV_REQUEST_MAX_TOKENS (1u << 20)

struct kv_request {
    unsigned given; /* bit 1 << member */
    uint32_t *tokens;
    uint32_t n_tokens;
    char model[256];
    uint64_t adapter; /* fingerprint */
    struct block_hash salt;
    uint64_t seconds;
};

/* Takes the members whose bits are in `allowed`; those in `needed` must be there. ST_INVALID with what is wrong. */
MUST_CHECK status kv_request_read(const char *json, size_t len, unsigned allowed, unsigned needed,
                                  const struct salt_key *key, struct kv_request *out, struct error *err);
void kv_request_free(struct kv_request *request);

#endif
