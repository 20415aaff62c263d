#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gguf.h"
#include "engine/spm.h"
#include "engine/tokenizer_impl.h"

/* llama.cpp's token types. */
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4, TYPE_UNUSED = 5, TYPE_BYTE = 6 };

#define KEY(name) "tokenizer.ggml." name

/* A family may go by several names. */
#define MAX_PATTERNS 4

static const struct family {
    const char *name;
    const char *patterns[MAX_PATTERNS];
    bool nfc, ignore_merges, adds_bos;
} families[] = {
    /* What llama.cpp does with a file that does not say. */
    { "default", { "[\\p{P}$+<=>^~|]+", PATTERN_GPT2, "\\p{N}+", "[0-9][0-9][0-9]" }, .nfc = false },
    { "gpt-2", { PATTERN_GPT2 }, .nfc = false },
    { "gpt2", { PATTERN_GPT2 }, .nfc = false },
    { "llama-bpe", { PATTERN_LLAMA3 }, .ignore_merges = true, .adds_bos = true },
    { "llama3", { PATTERN_LLAMA3 }, .ignore_merges = true, .adds_bos = true },
    { "llama-v3", { PATTERN_LLAMA3 }, .ignore_merges = true, .adds_bos = true },
    { "qwen2", { PATTERN_QWEN2 }, .nfc = true },
    { "smollm", { PATTERN_DIGIT, PATTERN_GPT2 }, .nfc = false },
    { "starcoder", { PATTERN_DIGIT, PATTERN_GPT2 }, .nfc = false },
};

static bool is_text(struct gguf_string text, const char *wanted)
{
    return text.len == strlen(wanted) && memcmp(text.data, wanted, text.len) == 0;
}

static status read_model(const struct gguf *file, bool *spm, struct error *err)
{
    struct gguf_string model;
    status st = gguf_get_string(file, KEY("model"), &model);
    if (st != ST_OK)
        return error_set(err, st, "%s: %s", KEY("model"), status_text(st));
    *spm = is_text(model, "llama");
    if (!*spm && !is_text(model, "gpt2"))
        return error_set(err, ST_UNSUPPORTED, "%s: %.*s is not supported, only gpt2 and llama", KEY("model"),
                         (int)(model.len < 60 ? model.len : 60), model.data);
    return ST_OK;
}

static status find_family(const struct gguf *file, const struct family **out, struct error *err)
{
    struct gguf_string pre = { "default", 7 };
    status st = gguf_get_string(file, KEY("pre"), &pre);
    if (st != ST_OK && st != ST_NOT_FOUND)
        return error_set(err, st, "%s: %s", KEY("pre"), status_text(st));
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (!is_text(pre, families[i].name))
            continue;
        *out = &families[i];
        return ST_OK;
    }
    return error_set(err, ST_UNSUPPORTED, "%s: %.*s is not supported", KEY("pre"), (int)(pre.len < 60 ? pre.len : 60),
                     pre.data);
}

static status apply_family(const struct family *family, struct tokenizer *tok, struct error *err)
{
    ASSERT(family);
    tok->nfc = family->nfc;
    tok->adds_bos = family->adds_bos;
    tok->bpe.ignore_merges = family->ignore_merges;
    for (size_t i = 0; i < MAX_PATTERNS && family->patterns[i]; i++) {
        status st = pretokenizer_add_split(&tok->pre, family->patterns[i], strlen(family->patterns[i]), false,
                                           SPLIT_ISOLATED, false, err);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

/* Whether the family cuts texts as tok does. */
static bool cuts_alike(const struct family *family, const struct tokenizer *tok)
{
    struct tokenizer model = { .spm = SPM_OFF };
    bool alike = family->nfc == tok->nfc && family->ignore_merges == tok->bpe.ignore_merges &&
                 apply_family(family, &model, NULL) == ST_OK && model.pre.fingerprint == tok->pre.fingerprint;
    pretokenizer_free(&model.pre);
    return alike;
}

const char *tokenizer_gguf_family(const struct tokenizer *tok)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (cuts_alike(&families[i], tok))
            return families[i].name;
    return NULL;
}

static status array_len(const struct gguf *file, const char *key, uint64_t most, uint64_t *out, struct error *err)
{
    status st = gguf_array_len(file, key, out);
    if (st != ST_OK)
        return error_set(err, st, "%s: %s", key, status_text(st));
    return *out <= most ? ST_OK : error_set(err, ST_LIMIT, "%s: %llu elements", key, (unsigned long long)*out);
}

static status read_token(const struct gguf *file, uint32_t id, struct tokenizer *tok, struct error *err)
{
    struct gguf_string text;
    int64_t type = TYPE_NORMAL;
    status st = gguf_array_string(file, KEY("tokens"), id, &text);
    if (st == ST_OK)
        st = gguf_array_i64(file, KEY("token_type"), id, &type);
    if (st != ST_OK)
        return error_set(err, st, "%s: element %u: %s", KEY("token_type"), id, status_text(st));
    bool plain = type == TYPE_NORMAL || type == TYPE_BYTE;
    if (tok->spm && type == TYPE_BYTE && spm_byte(text.data, text.len) < 0)
        return error_set(err, ST_INVALID, "%s: element %u is no byte, which it is by its type", KEY("tokens"), id);
    st = tokenizer_add_token(tok, id, text.data, text.len, plain);
    if (st != ST_OK)
        return error_set(err, st, "%s: element %u is too long, or stands there twice", KEY("tokens"), id);
    if (plain || type == TYPE_UNUSED || text.len == 0)
        return ST_OK;
    struct added_token added = {
        .text = (char *)text.data, .len = text.len, .id = id, .special = type != TYPE_USER_DEFINED
    };
    return tokenizer_add_added(tok, &added);
}

static status read_tokens(const struct gguf *file, struct tokenizer *tok, struct error *err)
{
    uint64_t n, n_types;
    status st = array_len(file, KEY("tokens"), TOKENIZER_MAX_VOCAB, &n, err);
    if (st == ST_OK)
        st = array_len(file, KEY("token_type"), TOKENIZER_MAX_VOCAB, &n_types, err);
    if (st == ST_OK && n != n_types)
        st = error_set(err, ST_INVALID, "%s: not one for each token", KEY("token_type"));
    for (uint32_t id = 0; st == ST_OK && id < n; id++)
        st = read_token(file, id, tok, err);
    return st;
}

static status read_merges(const struct gguf *file, struct tokenizer *tok, struct error *err)
{
    uint64_t n;
    status st = array_len(file, KEY("merges"), UINT32_MAX / 2, &n, err);
    for (uint32_t i = 0; st == ST_OK && i < n; i++) {
        struct gguf_string merge;
        st = gguf_array_string(file, KEY("merges"), i, &merge);
        const char *space = st == ST_OK ? memchr(merge.data, ' ', merge.len) : NULL;
        size_t left = space ? (size_t)(space - merge.data) : 0;
        if (st == ST_OK)
            st = space ? tokenizer_add_merge(tok, merge.data, left, space + 1, merge.len - left - 1, i) : ST_INVALID;
        if (st != ST_OK)
            (void)error_set(err, st, "%s: element %u is not a pair of tokens", KEY("merges"), i);
    }
    return st == ST_NOT_FOUND ? ST_INVALID : st;
}

/* *out keeps its value when the key is absent. */
static status read_id(const struct gguf *file, const char *key, const struct tokenizer *tok, uint32_t *out,
                      struct error *err)
{
    uint64_t id;
    status st = gguf_get_u64(file, key, &id);
    if (st == ST_NOT_FOUND)
        return ST_OK;
    if (st != ST_OK || id >= tokenizer_vocab_size(tok))
        return error_set(err, ST_INVALID, "%s: not the id of a token", key);
    *out = (uint32_t)id;
    return ST_OK;
}

static status read_switch(const struct gguf *file, const char *key, bool *value, struct error *err)
{
    return gguf_get_bool(file, key, value) == ST_INVALID ? error_set(err, ST_INVALID, "%s: not a boolean", key) : ST_OK;
}

static status set_token_text(const struct tokenizer *tok, uint32_t id, char **slot)
{
    size_t len;
    const char *bytes = tokenizer_bytes(tok, id, &len);
    return id == TOKENIZER_NONE ? ST_OK : tokenizer_set_text(slot, bytes, len);
}

static status read_ends(const struct gguf *file, struct tokenizer *tok, struct error *err)
{
    static const char *const keys[] = { KEY("eos_token_id"), KEY("eot_token_id"), KEY("eom_token_id") };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        uint32_t id = TOKENIZER_NONE;
        status st = read_id(file, keys[i], tok, &id, err);
        if (st == ST_OK && id != TOKENIZER_NONE)
            st = tokenizer_add_eos(tok, id);
        if (st != ST_OK)
            return st;
    }
    status st = read_id(file, KEY("bos_token_id"), tok, &tok->bos, err);
    bool adds_bos = tok->adds_bos, adds_eos = false;
    if (st == ST_OK && gguf_get_bool(file, KEY("add_eos_token"), &adds_eos) == ST_OK && adds_eos)
        st = error_set(err, ST_UNSUPPORTED, "%s: a token behind the text is not supported", KEY("add_eos_token"));
    if (st == ST_OK)
        st = read_switch(file, KEY("add_bos_token"), &adds_bos, err);
    if (st == ST_OK && adds_bos && tok->bos == TOKENIZER_NONE)
        st = error_set(err, ST_INVALID, "%s: there is no %s", KEY("add_bos_token"), KEY("bos_token_id"));
    tok->adds_bos = adds_bos;
    if (st == ST_OK)
        st = set_token_text(tok, tok->bos, &tok->bos_text);
    if (st == ST_OK && tok->n_eos > 0)
        st = set_token_text(tok, tok->eos[0], &tok->eos_text);
    return st;
}

static status read_byte_level(const struct gguf *file, struct tokenizer *tok, struct error *err)
{
    const struct family *family = NULL;
    status st = find_family(file, &family, err);
    if (st == ST_OK)
        st = apply_family(family, tok, err);
    if (st == ST_OK)
        st = read_tokens(file, tok, err);
    return st == ST_OK ? read_merges(file, tok, err) : st;
}

static status read_scores(const struct gguf *file, uint32_t n, double *scores, struct error *err)
{
    uint64_t n_scores;
    status st = array_len(file, KEY("scores"), TOKENIZER_MAX_VOCAB, &n_scores, err);
    if (st == ST_OK && n_scores != n)
        st = error_set(err, ST_INVALID, "%s: not one for each token", KEY("scores"));
    for (uint32_t id = 0; st == ST_OK && id < n; id++) {
        st = gguf_array_f64(file, KEY("scores"), id, &scores[id]);
        if (st != ST_OK || isnan(scores[id]))
            st = error_set(err, ST_INVALID, "%s: element %u is not a number", KEY("scores"), id);
    }
    return st;
}

static status read_scored_merges(const struct gguf *file, struct tokenizer *tok, struct error *err)
{
    uint32_t n = tokenizer_vocab_size(tok);
    double *scores = malloc((n + 1) * sizeof *scores);
    status st = scores ? read_scores(file, n, scores, err) : ST_NO_MEMORY;
    if (st == ST_OK)
        st = spm_add_merges(&tok->bpe, scores);
    free(scores);
    return st;
}

/* llama.cpp's defaults. What it does with `pre` here is nothing. */
static status read_spm(const struct gguf *file, struct tokenizer *tok, struct error *err)
{
    bool prefix = true;
    tokenizer_use_spm(tok, SPM_NORMALIZED);
    tok->adds_bos = tok->bpe.fuse_unknown = true;
    status st = read_switch(file, KEY("add_space_prefix"), &prefix, err);
    tok->prefix = prefix ? SPM_PREFIX_ALWAYS : SPM_PREFIX_NEVER;
    tok->drops_first_space = prefix;
    if (st == ST_OK)
        st = read_tokens(file, tok, err);
    unsigned n_bytes = spm_count_bytes(&tok->bpe);
    if (st == ST_OK && n_bytes != 0 && n_bytes != 256)
        st = error_set(err, ST_UNSUPPORTED, "%s: tokens for %u of 256 bytes are not supported", KEY("tokens"), n_bytes);
    if (st == ST_OK)
        st = read_scored_merges(file, tok, err);
    return st == ST_OK ? read_id(file, KEY("unknown_token_id"), tok, &tok->bpe.unknown, err) : st;
}

static status read_all(const struct gguf *file, struct tokenizer *tok, struct error *err)
{
    bool spm = false;
    status st = read_model(file, &spm, err);
    if (st == ST_OK)
        st = spm ? read_spm(file, tok, err) : read_byte_level(file, tok, err);
    if (st == ST_OK)
        st = read_ends(file, tok, err);
    return st == ST_OK ? tokenizer_finish(tok) : st;
}

status tokenizer_load_gguf(const struct gguf *file, struct tokenizer **out, struct error *err)
{
    struct tokenizer *tok = NULL;
    (void)error_set(err, ST_NO_MEMORY, "no memory for the tokenizer");
    status st = tokenizer_new(&tok);
    if (st == ST_OK)
        st = read_all(file, tok, err);
    if (st == ST_OK)
        *out = tok;
    else
        tokenizer_destroy(&tok);
    return st;
}
