/* bpe_vocab.h - the tokens of a byte-level BPE: ids to bytes and bytes to ids.
 * Vocabularies are written in GPT-2's alphabet, in which each byte is a
 * printable character ("Ġthe" is " the"); here tokens are kept as raw bytes.
 * Filled while loading, then read by any thread. */
#ifndef BATON_ENGINE_BPE_VOCAB_H
#define BATON_ENGINE_BPE_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define BPE_NO_ID UINT32_MAX

enum {
    BPE_PRESENT = 1, /* the id is in use                                       */
    BPE_ADDED = 2,   /* an added token: recognised before the text is split    */
    BPE_SPECIAL = 4, /* ... and special                                        */
    BPE_WHOLE = 8,   /* its bytes, as one piece, encode to this token alone    */
};

struct bpe_token {
    uint32_t offset, len; /* in bytes, of bpe_vocab.bytes; a NUL follows */
    uint8_t flags;
};

struct bpe_slot {
    uint32_t tag, id; /* tag: high half of the hash */
};

struct bpe_vocab {
    struct bpe_token *tokens; /* [n], by id; n is the highest id + 1 */
    uint32_t n, capacity;
    char *bytes;
    size_t n_bytes, bytes_capacity;
    struct bpe_slot *slots; /* open addressing, by raw bytes; id BPE_NO_ID is free */
    uint32_t n_slots, n_indexed;
};

void bpe_vocab_free(struct bpe_vocab *vocab);

/* GPT-2's alphabet to bytes. out holds len bytes. False when text has a
 * character outside the alphabet; *out_len is then unset. */
bool bpe_alphabet_decode(const char *text, size_t len, char *out, size_t *out_len);
/* And back. out holds 2 * len bytes; returns how many were written. */
size_t bpe_alphabet_encode(const char *bytes, size_t len, char *out);

/* ST_LIMIT for an id or a length beyond the tokenizer's bounds, ST_INVALID
 * for an id in use. */
MUST_CHECK status bpe_vocab_add(struct bpe_vocab *vocab, uint32_t id, const char *bytes, size_t len, unsigned flags);
/* Makes the id findable by its bytes; ST_INVALID when another id has them. */
MUST_CHECK status bpe_vocab_index(struct bpe_vocab *vocab, uint32_t id);
/* BPE_NO_ID when absent. */
uint32_t bpe_vocab_find(const struct bpe_vocab *vocab, const char *bytes, size_t len);

static inline const char *bpe_vocab_bytes(const struct bpe_vocab *vocab, uint32_t id, size_t *len)
{
    const struct bpe_token *token = id < vocab->n ? &vocab->tokens[id] : NULL;
    bool present = token && (token->flags & BPE_PRESENT);
    *len = present ? token->len : 0;
    return present ? vocab->bytes + token->offset : "";
}

#endif
