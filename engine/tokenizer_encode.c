#include <stdlib.h>

#include "common/utf8.h"
#include "engine/tokenizer_impl.h"
#include "engine/tokenizer_nfc.h"

/* One call of tokenizer_encode. */
struct encoding {
    const struct tokenizer *tok;
    bool with_special;
    size_t limit; /* of out->n */
    struct token_list *out;
    struct pretokenizer_scratch pre;
    struct bpe_scratch bpe;
};

static status encode_piece(void *ctx, const char *piece, size_t len)
{
    struct encoding *e = ctx;
    return bpe_encode(&e->tok->bpe, piece, len, &e->bpe, e->limit, e->out);
}

static status push(struct encoding *e, uint32_t id)
{
    return e->out->n >= e->limit ? ST_LIMIT : token_list_push(e->out, id);
}

static status encode_plain(struct encoding *e, const char *text, size_t len)
{
    return pretokenizer_run(&e->tok->pre, &e->pre, text, len, encode_piece, e);
}

/* Cuts text at the added tokens of set; what stands between them goes to rest. */
static status encode_added(struct encoding *e, const struct added_set *set, const char *text, size_t len,
                           status (*rest)(struct encoding *e, const char *text, size_t len))
{
    struct added_walk walk = { .set = set, .text = text, .len = len, .with_special = e->with_special };
    struct added_span span;
    do {
        added_walk_next(&walk, &span);
        status st = span.end > span.start ? rest(e, text + span.start, span.end - span.start) : ST_OK;
        if (st == ST_OK && span.token)
            st = push(e, span.token->id);
        if (st != ST_OK)
            return st;
    } while (span.token);
    return ST_OK;
}

static status encode_normalized(struct encoding *e, const char *text, size_t len)
{
    char *normal = NULL;
    status st = e->tok->nfc ? nfc_normalize(text, len, &normal, &len) : ST_OK;
    if (st == ST_OK)
        st = encode_added(e, &e->tok->normalized, normal ? normal : text, len, encode_plain);
    free(normal);
    return st;
}

static status encode_text(struct encoding *e, const char *text, size_t len, unsigned flags)
{
    status st = ST_OK;
    if ((flags & TOKENIZE_ADD_BOS) && e->tok->adds_bos)
        st = push(e, e->tok->bos);
    return st == ST_OK ? encode_added(e, &e->tok->as_given, text, len, encode_normalized) : st;
}

status tokenizer_encode(const struct tokenizer *tok, const char *text, size_t len, unsigned flags, size_t max_tokens,
                        struct token_list *out)
{
    if (len > TOKENIZER_MAX_TEXT_BYTES)
        return ST_LIMIT;
    char *replaced = NULL;
    if (utf8_valid_prefix(text, len) != len) {
        status st = utf8_replace(text, len, &replaced, &len);
        if (st != ST_OK)
            return st;
    }
    struct encoding e = { .tok = tok, .with_special = flags & TOKENIZE_SPECIAL, .out = out, .limit = SIZE_MAX };
    if (max_tokens > 0 && max_tokens < SIZE_MAX - out->n)
        e.limit = out->n + max_tokens;
    status st = encode_text(&e, replaced ? replaced : text, len, flags);
    pretokenizer_scratch_free(&e.pre);
    bpe_scratch_free(&e.bpe);
    free(replaced);
    return st;
}
