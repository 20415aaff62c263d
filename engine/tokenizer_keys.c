#include "engine/tokenizer_keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/spm.h"
#include "engine/tokenizer_impl.h"

#define KEY(name) "tokenizer.ggml." name

/* llama.cpp's token types. */
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4, TYPE_UNUSED = 5, TYPE_BYTE = 6 };

#define MARK           "\xE2\x96\x81" /* U+2581, SentencePiece's space */
#define MAX_TEXT_BYTES (3 * TOKENIZER_MAX_TOKEN_BYTES)
#define NEVER_MERGED   -1e6f /* the score of tokens to which no merge leads */

struct token_text {
    char text[MAX_TEXT_BYTES];
    size_t len;
    int32_t type;
};

struct keys {
    const struct tokenizer *tok;
    const struct added_token **added; /* [n_vocab], by id */
    struct bpe_merge *merges;         /* [n_merges], by rank */
    uint32_t n_vocab;
};

static status unsupported(const char *what, struct error *err)
{
    return error_set(err, ST_UNSUPPORTED, "the tokenizer cannot be written to GGUF: it has no key for %s", what);
}

/* What the keys have no place for. */
static status check_added(const struct added_set *set, bool normalized_spm, struct error *err)
{
    for (size_t i = 0; i < set->n; i++) {
        const struct added_token *t = &set->tokens[i];
        const int len = t->len > 60 ? 60 : (int)t->len;
        if (t->lstrip || t->rstrip || t->single_word)
            return error_set(err, ST_UNSUPPORTED,
                             "the tokenizer cannot be written to GGUF: it has no key for added token %.*s with %s", len,
                             t->text,
                             t->lstrip   ? "lstrip"
                             : t->rstrip ? "rstrip"
                                         : "single_word");
        if (normalized_spm)
            return error_set(err, ST_UNSUPPORTED,
                             "the tokenizer cannot be written to GGUF: it has no key for normalized added token %.*s",
                             len, t->text);
    }
    return ST_OK;
}

static status check_sayable(const struct tokenizer *tok, struct error *err)
{
    const bool marks_all = tok->prefix == SPM_PREFIX_ALWAYS;
    status st = check_added(&tok->as_given, false, err);
    if (st == ST_OK)
        st = check_added(&tok->normalized, tok->spm != SPM_OFF, err);
    if (st != ST_OK)
        return st;
    if (tok->spm && (tok->prefix == SPM_PREFIX_MISSING || tok->prefix == SPM_PREFIX_FIRST))
        return unsupported("spaces put only before some texts (Metaspace with prepend_scheme always or first)", err);
    if (tok->spm && tok->drops_first_space != marks_all)
        return unsupported("a decoder that treats the first space otherwise than the encoder", err);
    if (tok->spm && tok->bpe.unknown != BPE_NO_ID && !tok->bpe.fuse_unknown)
        return unsupported("unknown characters that are not fused", err);
    if (!tok->spm && tok->bpe.unknown != BPE_NO_ID && spm_count_bytes(&tok->bpe) < 256)
        return unsupported("an unk_token in a byte-level vocabulary that lacks bytes", err);
    return tok->n_eos <= 3 ? ST_OK : unsupported("more than three tokens that end an answer", err);
}

static int compare_ranks(const void *a, const void *b)
{
    const struct bpe_merge *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return (x->pair > y->pair) - (x->pair < y->pair);
}

/* Malloc'ed, n_merges of them. */
static struct bpe_merge *sorted_merges(const struct bpe *bpe)
{
    struct bpe_merge *merges = malloc((bpe->n_merges + 1) * sizeof *merges);
    uint32_t n = 0;
    for (uint32_t i = 0; merges && i < bpe->n_merge_slots; i++)
        if (bpe->merges[i].pair != UINT64_MAX)
            merges[n++] = bpe->merges[i];
    ASSERT(!merges || n == bpe->n_merges);
    if (merges)
        qsort(merges, n, sizeof *merges, compare_ranks);
    return merges;
}

static void take_added(struct keys *k, const struct added_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        k->added[set->tokens[i].id] = &set->tokens[i];
}

/* text with U+2581 for every space. */
static size_t put_marks(const char *text, size_t len, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        const char *from = text[i] == ' ' ? MARK : text + i;
        const size_t bytes = text[i] == ' ' ? sizeof MARK - 1 : 1;
        memcpy(out + n, from, bytes);
        n += bytes;
    }
    return n;
}

static int32_t added_type(const struct tokenizer *tok, const struct added_token *added)
{
    if (added->id == tok->bpe.unknown && added->special)
        return TYPE_UNKNOWN;
    return added->special ? TYPE_CONTROL : TYPE_USER_DEFINED;
}

static void set_text(struct token_text *out, const char *text, size_t len, int32_t type)
{
    ASSERT(len <= sizeof out->text);
    memcpy(out->text, text, len);
    out->len = len;
    out->type = type;
}

/* A token of the vocabulary by its bytes. Those that no merge leads to by design stay so as "unused". */
static void plain_text(const struct tokenizer *tok, uint32_t id, struct token_text *out)
{
    size_t len;
    const char *bytes = tokenizer_bytes(tok, id, &len);
    const bool is_byte = tok->spm && len == 1 && tok->bpe.base[(uint8_t)bytes[0]] == id;
    if (is_byte) {
        out->len = (size_t)snprintf(out->text, sizeof out->text, "<0x%02X>", (uint8_t)bytes[0]);
        out->type = TYPE_BYTE;
        return;
    }
    const bool findable = bpe_vocab_find(&tok->bpe.vocab, bytes, len) == id;
    out->type = findable || len == 0 ? TYPE_NORMAL : TYPE_UNUSED;
    out->len = tok->spm ? put_marks(bytes, len, out->text) : bpe_alphabet_encode(bytes, len, out->text);
}

static void text_of(const struct keys *k, uint32_t id, struct token_text *out)
{
    const struct bpe_vocab *vocab = &k->tok->bpe.vocab;
    if (k->added[id]) {
        set_text(out, k->added[id]->text, k->added[id]->len, added_type(k->tok, k->added[id]));
    } else if (id < vocab->n && (vocab->tokens[id].flags & BPE_PRESENT)) {
        plain_text(k->tok, id, out);
    } else {
        out->len = (size_t)snprintf(out->text, sizeof out->text, "[PAD%u]", id);
        out->type = TYPE_UNUSED;
    }
}

static void write_tokens(const struct keys *k, struct gguf_writer *w)
{
    struct token_text token;
    gguf_put_array(w, KEY("tokens"), GGUF_STRING, k->n_vocab);
    for (uint32_t id = 0; id < k->n_vocab; id++) {
        text_of(k, id, &token);
        gguf_put_text(w, token.text, token.len);
    }
    gguf_put_array(w, KEY("token_type"), GGUF_I32, k->n_vocab);
    for (uint32_t id = 0; id < k->n_vocab; id++) {
        text_of(k, id, &token);
        gguf_put_element(w, &token.type, sizeof token.type);
    }
}

static void write_merges(const struct keys *k, struct gguf_writer *w)
{
    struct token_text left, right;
    char both[2 * MAX_TEXT_BYTES + 1];
    gguf_put_array(w, KEY("merges"), GGUF_STRING, k->tok->bpe.n_merges);
    for (uint32_t i = 0; i < k->tok->bpe.n_merges; i++) {
        plain_text(k->tok, (uint32_t)(k->merges[i].pair >> 32), &left);
        plain_text(k->tok, (uint32_t)k->merges[i].pair, &right);
        memcpy(both, left.text, left.len);
        both[left.len] = ' ';
        memcpy(both + left.len + 1, right.text, right.len);
        gguf_put_text(w, both, left.len + 1 + right.len);
    }
}

/* Scores from which the same merges follow: the sooner a token is merged, the better. */
static status write_scores(const struct keys *k, struct gguf_writer *w)
{
    float *scores = malloc((k->n_vocab + 1) * sizeof *scores);
    float next = 0;
    if (!scores)
        return ST_NO_MEMORY;
    for (uint32_t id = 0; id < k->n_vocab; id++)
        scores[id] = NEVER_MERGED;
    for (uint32_t i = 0; i < k->tok->bpe.n_merges; i++)
        if (scores[k->merges[i].id] == NEVER_MERGED)
            scores[k->merges[i].id] = next--;
    gguf_put_array(w, KEY("scores"), GGUF_F32, k->n_vocab);
    gguf_put_element(w, scores, k->n_vocab * sizeof *scores);
    free(scores);
    return ST_OK;
}

static void write_ends(const struct tokenizer *tok, struct gguf_writer *w)
{
    static const char *const ends[] = { KEY("eos_token_id"), KEY("eot_token_id"), KEY("eom_token_id") };
    ASSERT(tok->n_eos <= sizeof ends / sizeof *ends);
    for (size_t i = 0; i < tok->n_eos; i++)
        gguf_put_u32(w, ends[i], tok->eos[i]);
    if (tok->bos != TOKENIZER_NONE)
        gguf_put_u32(w, KEY("bos_token_id"), tok->bos);
    gguf_put_bool(w, KEY("add_bos_token"), tok->adds_bos);
    if (!tok->spm)
        return;
    gguf_put_bool(w, KEY("add_space_prefix"), tok->prefix == SPM_PREFIX_ALWAYS);
    if (tok->bpe.unknown != BPE_NO_ID)
        gguf_put_u32(w, KEY("unknown_token_id"), tok->bpe.unknown);
}

static status write_all(const struct keys *k, const char *family, struct gguf_writer *w)
{
    const char *model = k->tok->spm ? "llama" : "gpt2";
    status st = ST_OK;
    gguf_put_string(w, KEY("model"), model, strlen(model));
    gguf_put_string(w, KEY("pre"), family, strlen(family));
    write_tokens(k, w);
    if (k->tok->spm)
        st = write_scores(k, w);
    else
        write_merges(k, w);
    write_ends(k->tok, w);
    return st;
}

status tokenizer_write_keys(const struct tokenizer *tok, uint32_t n_vocab, struct gguf_writer *w, struct error *err)
{
    struct keys k = { .tok = tok, .n_vocab = n_vocab };
    ASSERT(tok->bpe.vocab.n <= n_vocab);
    status st = check_sayable(tok, err);
    const char *family = tok->spm ? "default" : tokenizer_gguf_family(tok);
    if (st == ST_OK && !family)
        st = unsupported("the way it cuts texts", err);
    if (st != ST_OK)
        return st;
    ASSERT(family);
    k.added = calloc((size_t)n_vocab + 1, sizeof *k.added);
    k.merges = sorted_merges(&tok->bpe);
    st = k.added && k.merges ? ST_OK : ST_NO_MEMORY;
    if (st == ST_OK) {
        take_added(&k, &tok->as_given);
        take_added(&k, &tok->normalized);
        st = write_all(&k, family, w);
    }
    free(k.added);
    free(k.merges);
    return st == ST_OK ? st : error_set(err, st, "out of memory for the tokenizer's keys");
}

/* --- read again --- */

static bool same_token(const struct tokenizer *a, const struct tokenizer *b, uint32_t id)
{
    const unsigned kind = BPE_ADDED | BPE_SPECIAL;
    const unsigned flags = a->bpe.vocab.tokens[id].flags;
    size_t m, n;
    const char *x = tokenizer_bytes(a, id, &m), *y = tokenizer_bytes(b, id, &n);
    return !(flags & BPE_PRESENT) ||
           (m == n && memcmp(x, y, m) == 0 && (flags & kind) == (b->bpe.vocab.tokens[id].flags & kind));
}

/* The same pairs, and their tokens in one order: ranks may have gaps, and scores give one to all pairs of a token. */
static bool same_merges(const struct bpe *a, const struct bpe *b)
{
    struct bpe_merge *x = sorted_merges(a), *y = sorted_merges(b);
    bool same = x && y && a->n_merges == b->n_merges;
    for (uint32_t i = 0; same && i < a->n_merges; i++)
        same = x[i].id == y[i].id && bpe_merge_of(b, (uint32_t)(x[i].pair >> 32), (uint32_t)x[i].pair) != NULL &&
               (a->by_character || x[i].pair == y[i].pair);
    free(x);
    free(y);
    return same;
}

status tokenizer_check_same(const struct tokenizer *tok, const struct tokenizer *again, struct error *err)
{
    const bool same_ends =
        tok->n_eos == again->n_eos && memcmp(tok->eos, again->eos, tok->n_eos * sizeof *tok->eos) == 0;
    for (uint32_t id = 0; id < tok->bpe.vocab.n; id++)
        if (id >= again->bpe.vocab.n || !same_token(tok, again, id))
            return error_set(err, ST_UNSUPPORTED,
                             "the tokenizer cannot be written to GGUF: token %u would be another one", id);
    if (!same_merges(&tok->bpe, &again->bpe))
        return unsupported("the order of its merges", err);
    if (!same_ends || tok->bos != again->bos || tok->adds_bos != again->adds_bos)
        return unsupported("the tokens that begin and end its texts", err);
    if (tok->pre.fingerprint != again->pre.fingerprint || tok->nfc != again->nfc || tok->prefix != again->prefix)
        return unsupported("what is done to a text before it is cut", err);
    return ST_OK;
}
