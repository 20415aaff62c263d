#include "engine/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/spm.h"
#include "engine/tokenizer_impl.h"

_Static_assert(TOKENIZER_NONE == BPE_NO_ID, "one value says that there is no token");

void token_list_free(struct token_list *list)
{
    free(list->ids);
    *list = (struct token_list){ 0 };
}

status token_list_push(struct token_list *list, uint32_t id)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        uint32_t *ids = realloc(list->ids, capacity * sizeof *ids);
        if (!ids)
            return ST_NO_MEMORY;
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->n++] = id;
    return ST_OK;
}

status tokenizer_new(struct tokenizer **out)
{
    struct tokenizer *tok = calloc(1, sizeof *tok);
    if (!tok)
        return ST_NO_MEMORY;
    bpe_init(&tok->bpe);
    tok->bos = TOKENIZER_NONE;
    *out = tok;
    return ST_OK;
}

void tokenizer_destroy(struct tokenizer **tok)
{
    if (!*tok)
        return;
    bpe_free(&(*tok)->bpe);
    pretokenizer_free(&(*tok)->pre);
    added_set_free(&(*tok)->as_given);
    added_set_free(&(*tok)->normalized);
    free((*tok)->bos_text);
    free((*tok)->eos_text);
    free(*tok);
    *tok = NULL;
}

void tokenizer_use_spm(struct tokenizer *tok, enum spm_stage stage)
{
    tok->spm = stage;
    tok->bpe.by_character = true;
}

status tokenizer_add_token(struct tokenizer *tok, uint32_t id, const char *text, size_t len, bool findable)
{
    if (tok->spm)
        return spm_add_token(&tok->bpe, id, text, len, findable);
    if (len > 2 * TOKENIZER_MAX_TOKEN_BYTES)
        return ST_LIMIT;
    char bytes[2 * TOKENIZER_MAX_TOKEN_BYTES];
    size_t n = 0;
    /* A text outside the alphabet is the token's own: no piece leads to it. */
    bool in_alphabet = bpe_alphabet_decode(text, len, bytes, &n);
    status st = bpe_vocab_add(&tok->bpe.vocab, id, in_alphabet ? bytes : text, in_alphabet ? n : len, 0);
    return st == ST_OK && in_alphabet && findable && n > 0 ? bpe_vocab_index(&tok->bpe.vocab, id) : st;
}

uint32_t tokenizer_plain_id(const struct tokenizer *tok, const char *text, size_t len)
{
    char bytes[2 * TOKENIZER_MAX_TOKEN_BYTES];
    size_t n = 0;
    if (tok->spm)
        return spm_find(&tok->bpe, text, len);
    if (len > sizeof bytes || !bpe_alphabet_decode(text, len, bytes, &n))
        return BPE_NO_ID;
    return bpe_vocab_find(&tok->bpe.vocab, bytes, n);
}

status tokenizer_add_merge(struct tokenizer *tok, const char *left, size_t left_len, const char *right,
                           size_t right_len, uint32_t rank)
{
    char both[3 * TOKENIZER_MAX_TOKEN_BYTES]; /* U+2581 is written in three, GPT-2's letters in two */
    if (left_len + right_len > sizeof both)
        return ST_NOT_FOUND;
    memcpy(both, left, left_len);
    memcpy(both + left_len, right, right_len);
    uint32_t a = tokenizer_plain_id(tok, left, left_len), b = tokenizer_plain_id(tok, right, right_len);
    uint32_t id = tokenizer_plain_id(tok, both, left_len + right_len);
    if (a == BPE_NO_ID || b == BPE_NO_ID || id == BPE_NO_ID)
        return ST_NOT_FOUND;
    return bpe_add_merge(&tok->bpe, a, b, rank, id);
}

/* Normalised tokens are looked for in normalised text, so their own text is normalised too. */
static status push_normalized(struct tokenizer *tok, struct added_token token)
{
    char *normal = NULL;
    status st = tokenizer_normalize(tok, token.text, token.len, &normal, &token.len);
    if (normal)
        token.text = normal;
    if (st == ST_OK)
        st = added_set_push(&tok->normalized, &token);
    free(normal);
    return st;
}

/* Its text has no other alphabet, but decoding makes U+2581 a space in it, too. */
static status add_text(struct tokenizer *tok, const struct added_token *token)
{
    if (tok->spm)
        return spm_add_token(&tok->bpe, token->id, token->text, token->len, false);
    return bpe_vocab_add(&tok->bpe.vocab, token->id, token->text, token->len, 0);
}

status tokenizer_add_added(struct tokenizer *tok, const struct added_token *token)
{
    struct bpe_vocab *vocab = &tok->bpe.vocab;
    status st = ST_OK;
    if (token->id >= vocab->n || !(vocab->tokens[token->id].flags & BPE_PRESENT))
        st = add_text(tok, token);
    if (st != ST_OK)
        return st;
    vocab->tokens[token->id].flags |= (uint8_t)(BPE_ADDED | (token->special ? BPE_SPECIAL : 0));
    return token->normalized ? push_normalized(tok, *token) : added_set_push(&tok->as_given, token);
}

status tokenizer_add_eos(struct tokenizer *tok, uint32_t id)
{
    for (size_t i = 0; i < tok->n_eos; i++)
        if (tok->eos[i] == id)
            return ST_OK;
    if (tok->n_eos == TOKENIZER_MAX_EOS)
        return ST_LIMIT;
    tok->eos[tok->n_eos++] = id;
    return ST_OK;
}

status tokenizer_set_text(char **slot, const char *text, size_t len)
{
    char *copy = malloc(len + 1);
    if (!copy)
        return ST_NO_MEMORY;
    memcpy(copy, text, len);
    copy[len] = '\0';
    free(*slot);
    *slot = copy;
    return ST_OK;
}

static void hash_added(XXH3_state_t *state, const struct added_set *set)
{
    for (size_t i = 0; i < set->n; i++) {
        const struct added_token *t = &set->tokens[i];
        uint32_t row[3] = { t->id, (uint32_t)t->len,
                            (uint32_t)(t->special | t->normalized << 1 | t->lstrip << 2 | t->rstrip << 3 |
                                       t->single_word << 4) };
        XXH3_64bits_update(state, row, sizeof row);
        XXH3_64bits_update(state, t->text, t->len);
    }
}

/* Slots of the merge table stand in an order that hangs on insertion, so their hashes are summed. */
static uint64_t hash_merges(const struct bpe *bpe)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < bpe->n_merge_slots; i++)
        if (bpe->merges[i].pair != UINT64_MAX)
            sum += XXH3_64bits(&bpe->merges[i], sizeof bpe->merges[i]);
    return sum;
}

static uint64_t hash_tokens(const struct bpe_vocab *vocab)
{
    uint64_t sum = 0;
    for (uint32_t id = 0; id < vocab->n; id++) {
        size_t len;
        const char *bytes = bpe_vocab_bytes(vocab, id, &len);
        sum += XXH3_64bits_withSeed(bytes, len, (uint64_t)vocab->tokens[id].flags << 32 | id);
    }
    return sum;
}

static status take_fingerprint(struct tokenizer *tok)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        return ST_NO_MEMORY;
    XXH3_64bits_reset(state);
    uint64_t rest[] = { hash_tokens(&tok->bpe.vocab),
                        hash_merges(&tok->bpe),
                        tok->pre.fingerprint,
                        tok->nfc,
                        tok->adds_bos,
                        tok->bos,
                        tok->bpe.ignore_merges,
                        tok->bpe.unknown,
                        tok->bpe.fuse_unknown,
                        tok->spm,
                        tok->prefix,
                        XXH3_64bits(tok->bpe.base, sizeof tok->bpe.base) };
    XXH3_64bits_update(state, rest, sizeof rest);
    hash_added(state, &tok->as_given);
    hash_added(state, &tok->normalized);
    tok->fingerprint = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return ST_OK;
}

status tokenizer_finish(struct tokenizer *tok)
{
    added_set_freeze(&tok->as_given);
    added_set_freeze(&tok->normalized);
    status st = bpe_finish(&tok->bpe);
    return st == ST_OK ? take_fingerprint(tok) : st;
}

uint32_t tokenizer_vocab_size(const struct tokenizer *tok)
{
    return tok->bpe.vocab.n;
}

uint32_t tokenizer_bos(const struct tokenizer *tok)
{
    return tok->bos;
}

bool tokenizer_adds_bos(const struct tokenizer *tok)
{
    return tok->adds_bos;
}

const uint32_t *tokenizer_eos(const struct tokenizer *tok, size_t *n)
{
    *n = tok->n_eos;
    return tok->eos;
}

bool tokenizer_is_special(const struct tokenizer *tok, uint32_t id)
{
    return id < tok->bpe.vocab.n && (tok->bpe.vocab.tokens[id].flags & BPE_SPECIAL);
}

uint64_t tokenizer_fingerprint(const struct tokenizer *tok)
{
    return tok->fingerprint;
}

uint32_t tokenizer_id(const struct tokenizer *tok, const char *text, size_t len)
{
    const struct added_token *token = added_set_exact(&tok->as_given, text, len);
    if (!token)
        token = added_set_exact(&tok->normalized, text, len);
    return token ? token->id : bpe_vocab_find(&tok->bpe.vocab, text, len);
}

const char *tokenizer_bos_text(const struct tokenizer *tok)
{
    return tok->bos_text ? tok->bos_text : "";
}

const char *tokenizer_eos_text(const struct tokenizer *tok)
{
    return tok->eos_text ? tok->eos_text : "";
}

const char *tokenizer_bytes(const struct tokenizer *tok, uint32_t id, size_t *len)
{
    return bpe_vocab_bytes(&tok->bpe.vocab, id, len);
}
