#include "engine/bpe_vocab.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/utf8.h"
#include "engine/tokenizer.h"

#define FIRST_SLOTS 1024

void bpe_vocab_free(struct bpe_vocab *vocab)
{
    free(vocab->tokens);
    free(vocab->bytes);
    free(vocab->slots);
    *vocab = (struct bpe_vocab){ 0 };
}

/* Printable Latin-1 stands for itself; the other 68 bytes follow from U+0100. */
static bool stands_for_itself(uint32_t byte)
{
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/* The byte that a character of the alphabet means; -1 when it means none. */
static int alphabet_byte(uint32_t cp)
{
    if (cp < 0x100)
        return stands_for_itself(cp) ? (int)cp : -1;
    if (cp <= 0x120)
        return (int)(cp - 0x100); /* 00..20 */
    if (cp <= 0x142)
        return (int)(cp - 0x121 + 0x7F); /* 7F..A0 */
    return cp == 0x143 ? 0xAD : -1;
}

bool bpe_alphabet_decode(const char *text, size_t len, char *out, size_t *out_len)
{
    if (utf8_valid_prefix(text, len) != len)
        return false;
    size_t n = 0;
    for (const char *p = text, *end = text + len; p < end;) {
        int byte = alphabet_byte(utf8_next(&p));
        if (byte < 0)
            return false;
        out[n++] = (char)byte;
    }
    *out_len = n;
    return true;
}

static uint32_t alphabet_character(uint32_t byte)
{
    if (stands_for_itself(byte))
        return byte;
    if (byte <= 0x20)
        return 0x100 + byte;
    return byte == 0xAD ? 0x143 : 0x121 + byte - 0x7F;
}

size_t bpe_alphabet_encode(const char *bytes, size_t len, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        uint32_t cp = alphabet_character((uint8_t)bytes[i]);
        if (cp < 0x80) {
            out[n++] = (char)cp;
            continue;
        }
        out[n++] = (char)(0xC0 | cp >> 6);
        out[n++] = (char)(0x80 | (cp & 0x3F));
    }
    return n;
}

static status reserve_token(struct bpe_vocab *vocab, uint32_t id)
{
    if (id < vocab->n)
        return ST_OK;
    if (id >= vocab->capacity) {
        uint32_t capacity = vocab->capacity ? vocab->capacity : 1024;
        while (capacity <= id)
            capacity *= 2;
        struct bpe_token *tokens = realloc(vocab->tokens, capacity * sizeof *tokens);
        if (!tokens)
            return ST_NO_MEMORY;
        vocab->tokens = tokens;
        vocab->capacity = capacity;
    }
    memset(vocab->tokens + vocab->n, 0, (id + 1 - vocab->n) * sizeof *vocab->tokens);
    vocab->n = id + 1;
    return ST_OK;
}

static status append_bytes(struct bpe_vocab *vocab, const char *bytes, size_t len)
{
    size_t need = vocab->n_bytes + len + 1;
    if (need > UINT32_MAX)
        return ST_LIMIT;
    if (need > vocab->bytes_capacity) {
        size_t capacity = need * 2;
        char *grown = realloc(vocab->bytes, capacity);
        if (!grown)
            return ST_NO_MEMORY;
        vocab->bytes = grown;
        vocab->bytes_capacity = capacity;
    }
    if (len > 0)
        memcpy(vocab->bytes + vocab->n_bytes, bytes, len);
    vocab->bytes[need - 1] = '\0';
    vocab->n_bytes = need;
    return ST_OK;
}

status bpe_vocab_add(struct bpe_vocab *vocab, uint32_t id, const char *bytes, size_t len, unsigned flags)
{
    if (id >= TOKENIZER_MAX_VOCAB || len > TOKENIZER_MAX_TOKEN_BYTES)
        return ST_LIMIT;
    status st = reserve_token(vocab, id);
    if (st != ST_OK)
        return st;
    if (vocab->tokens[id].flags & BPE_PRESENT)
        return ST_INVALID;
    uint32_t offset = (uint32_t)vocab->n_bytes;
    st = append_bytes(vocab, bytes, len);
    if (st != ST_OK)
        return st;
    vocab->tokens[id] =
        (struct bpe_token){ .offset = offset, .len = (uint32_t)len, .flags = (uint8_t)(flags | BPE_PRESENT) };
    return ST_OK;
}

/* The slot that holds these bytes, or the free one where they belong. */
static struct bpe_slot *find_slot(const struct bpe_vocab *vocab, const char *bytes, size_t len, uint64_t hash)
{
    uint32_t tag = (uint32_t)(hash >> 32), mask = vocab->n_slots - 1;
    for (uint32_t i = (uint32_t)hash & mask;; i = (i + 1) & mask) {
        struct bpe_slot *slot = &vocab->slots[i];
        if (slot->id == BPE_NO_ID)
            return slot;
        const struct bpe_token *token = &vocab->tokens[slot->id];
        if (slot->tag == tag && token->len == len && memcmp(vocab->bytes + token->offset, bytes, len) == 0)
            return slot;
    }
}

/* False when another id has these bytes. */
static bool put_slot(struct bpe_vocab *vocab, uint32_t id)
{
    const struct bpe_token *token = &vocab->tokens[id];
    const char *bytes = vocab->bytes + token->offset;
    uint64_t hash = XXH3_64bits(bytes, token->len);
    struct bpe_slot *slot = find_slot(vocab, bytes, token->len, hash);
    if (slot->id != BPE_NO_ID)
        return false;
    *slot = (struct bpe_slot){ .tag = (uint32_t)(hash >> 32), .id = id };
    return true;
}

static status grow_slots(struct bpe_vocab *vocab)
{
    struct bpe_slot *old = vocab->slots;
    uint32_t n_old = vocab->n_slots, n = n_old ? n_old * 2 : FIRST_SLOTS;
    struct bpe_slot *slots = malloc(n * sizeof *slots);
    if (!slots)
        return ST_NO_MEMORY;
    for (uint32_t i = 0; i < n; i++)
        slots[i] = (struct bpe_slot){ .id = BPE_NO_ID };
    vocab->slots = slots;
    vocab->n_slots = n;
    for (uint32_t i = 0; i < n_old; i++)
        if (old[i].id != BPE_NO_ID)
            ASSERT(put_slot(vocab, old[i].id));
    free(old);
    return ST_OK;
}

status bpe_vocab_index(struct bpe_vocab *vocab, uint32_t id)
{
    ASSERT(id < vocab->n && (vocab->tokens[id].flags & BPE_PRESENT));
    if (vocab->n_indexed >= vocab->n_slots / 2) {
        status st = grow_slots(vocab);
        if (st != ST_OK)
            return st;
    }
    if (!put_slot(vocab, id))
        return ST_INVALID;
    vocab->n_indexed++;
    return ST_OK;
}

uint32_t bpe_vocab_find(const struct bpe_vocab *vocab, const char *bytes, size_t len)
{
    if (vocab->n_slots == 0)
        return BPE_NO_ID;
    return find_slot(vocab, bytes, len, XXH3_64bits(bytes, len))->id;
}
