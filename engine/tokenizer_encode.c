#include <stdlib.h>

#include "common/utf8.h"
#include "engine/spm.h"
#include "engine/tokenizer_impl.h"
#include "engine/tokenizer_nfc.h"

/* One call of tokenizer_encode. */
struct encoding {
    const struct tokenizer *tok;
    const char *text; /* all of it */
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

static status encode_spm(struct encoding *e, const char *text, size_t len)
{
    status st = ST_OK;
    for (size_t done = 0, n; st == ST_OK && done < len; done += n) {
        n = spm_piece(&e->tok->bpe, text + done, len - done);
        st = encode_piece(e, text + done, n);
    }
    return st;
}

/* A copy with spaces for U+2581 and perhaps one in front. */
static status make_spaces(const char *text, size_t len, bool prefix, char **out, size_t *out_len)
{
    char *spaced = malloc(len + 1);
    if (!spaced)
        return ST_NO_MEMORY;
    spaced[0] = ' ';
    *out = spaced;
    *out_len = prefix + spm_spaces(text, len, spaced + prefix);
    return ST_OK;
}

static bool wants_prefix(const struct encoding *e, const char *text, size_t len)
{
    enum spm_prefix prefix = e->tok->prefix;
    bool may = prefix == SPM_PREFIX_MISSING || (prefix == SPM_PREFIX_FIRST && text == e->text);
    return may && !spm_starts_with_space(text, len);
}

static status encode_plain(struct encoding *e, const char *text, size_t len)
{
    if (e->tok->spm == SPM_OFF)
        return pretokenizer_run(&e->tok->pre, &e->pre, text, len, encode_piece, e);
    if (e->tok->spm == SPM_NORMALIZED)
        return encode_spm(e, text, len);
    char *spaced;
    status st = make_spaces(text, len, wants_prefix(e, text, len), &spaced, &len);
    if (st != ST_OK)
        return st;
    st = encode_spm(e, spaced, len);
    free(spaced);
    return st;
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

status tokenizer_normalize(const struct tokenizer *tok, const char *text, size_t len, char **out, size_t *out_len)
{
    *out = NULL;
    *out_len = len;
    if (tok->spm == SPM_NORMALIZED)
        return make_spaces(text, len, tok->prefix == SPM_PREFIX_ALWAYS && len > 0, out, out_len);
    return tok->nfc ? nfc_normalize(text, len, out, out_len) : ST_OK;
}

static status encode_normalized(struct encoding *e, const char *text, size_t len)
{
    char *normal = NULL;
    status st = tokenizer_normalize(e->tok, text, len, &normal, &len);
    if (st == ST_OK)
        st = encode_added(e, &e->tok->normalized, normal ? normal : text, len, encode_plain);
    free(normal);
    return st;
}

static status encode_text(struct encoding *e, const char *text, size_t len, unsigned flags)
{
    status st = ST_OK;
    e->text = text;
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
