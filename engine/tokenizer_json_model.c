#include <string.h>

#include "engine/spm.h"
#include "engine/tokenizer_json.h"

static status read_vocab(const struct json_source *src, const json_t *vocab, struct tokenizer *tok)
{
    if (!json_is_object(vocab) || json_object_size(vocab) > TOKENIZER_MAX_VOCAB)
        return source_invalid(src, "model", "vocab is not an object, or too large");
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)vocab, text, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= TOKENIZER_MAX_VOCAB)
            return error_set(src->err, ST_INVALID, "%s: model: the id of %.60s is out of range", src->name, text);
        status st = tokenizer_add_token(tok, (uint32_t)json_integer_value(id), text, strlen(text), true);
        if (st == ST_INVALID)
            return error_set(src->err, st, "%s: model: %.60s has the id of another token", src->name, text);
        if (st == ST_LIMIT)
            return error_set(src->err, st, "%s: model: %.60s is longer than %d bytes", src->name, text,
                             TOKENIZER_MAX_TOKEN_BYTES);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

/* "left right", as files had it until 2024, or ["left", "right"]. */
static bool split_merge(const json_t *merge, const char **left, size_t *left_len, const char **right)
{
    if (json_is_string(merge)) {
        *left = json_string_value(merge);
        const char *space = strchr(*left, ' ');
        if (!space || strchr(space + 1, ' '))
            return false;
        *left_len = (size_t)(space - *left);
        *right = space + 1;
        return true;
    }
    *left = json_string_value(json_array_get(merge, 0));
    *right = json_string_value(json_array_get(merge, 1));
    *left_len = *left ? strlen(*left) : 0;
    return *left && *right && json_array_size(merge) == 2;
}

static status read_merges(const struct json_source *src, const json_t *merges, struct tokenizer *tok)
{
    if (!json_is_array(merges) || json_array_size(merges) > UINT32_MAX / 2)
        return source_invalid(src, "model", "merges is not a list");
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const char *left, *right;
        size_t left_len;
        if (!split_merge(json_array_get(merges, i), &left, &left_len, &right))
            return error_set(src->err, ST_INVALID, "%s: model: merge %zu is not a pair", src->name, i);
        status st = tokenizer_add_merge(tok, left, left_len, right, strlen(right), (uint32_t)i);
        if (st == ST_NOT_FOUND)
            return error_set(src->err, ST_INVALID, "%s: model: merge %zu is not of tokens in the vocabulary", src->name,
                             i);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

static bool is_empty(const json_t *value)
{
    return !value || json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0) ||
           (json_is_number(value) && json_number_value(value) == 0.0) || json_is_false(value);
}

static status refuse_variants(const struct json_source *src, const json_t *model)
{
    static const char *const off[] = { "dropout", "continuing_subword_prefix", "end_of_word_suffix" };
    for (size_t i = 0; i < sizeof off / sizeof *off; i++)
        if (!is_empty(json_object_get(model, off[i])))
            return source_refuse(src, "model", off[i]);
    return ST_OK;
}

/* SentencePiece's vocabularies fall back to bytes, and only they do. */
static status check_family(const struct json_source *src, const json_t *model, const struct tokenizer *tok)
{
    bool fallback;
    status st = source_flag(src, "model", model, "byte_fallback", false, &fallback);
    if (st == ST_OK && fallback && !tok->spm)
        st = source_refuse(src, "model", "byte_fallback with ByteLevel");
    if (st == ST_OK && tok->spm && (!fallback || tok->bpe.ignore_merges))
        st =
            source_refuse(src, "model", fallback ? "ignore_merges with byte_fallback" : "U+2581 without byte_fallback");
    return st;
}

static status check_bytes(const struct json_source *src, const struct tokenizer *tok)
{
    unsigned n = spm_count_bytes(&tok->bpe);
    if (!tok->spm || n == 0 || n == 256)
        return ST_OK;
    return error_set(src->err, ST_UNSUPPORTED, "%s: model: tokens for %u of 256 bytes are not supported", src->name, n);
}

static status read_unknown(const struct json_source *src, const json_t *model, struct tokenizer *tok)
{
    const json_t *unknown = json_object_get(model, "unk_token");
    if (!unknown || json_is_null(unknown))
        return ST_OK;
    if (!json_is_string(unknown))
        return source_invalid(src, "model", "unk_token is not a text");
    const json_t *id = json_object_get(json_object_get(model, "vocab"), json_string_value(unknown));
    /* Hugging Face fails at the first unknown byte then; we say so at once. */
    if (!json_is_integer(id))
        return source_refuse(src, "model", "an unk_token outside the vocabulary");
    tok->bpe.unknown = (uint32_t)json_integer_value(id);
    return ST_OK;
}

status tokenizer_read_model(const struct json_source *src, const json_t *model, struct tokenizer *tok)
{
    static const char *const known[] = { "type",
                                         "dropout",
                                         "unk_token",
                                         "continuing_subword_prefix",
                                         "fuse_unk",
                                         "byte_fallback",
                                         "ignore_merges",
                                         "end_of_word_suffix",
                                         "vocab",
                                         "merges",
                                         NULL };
    if (!json_is_object(model))
        return source_invalid(src, "model", "not an object");
    /* Files of 2020 name no type; only BPE has merges. */
    if (strcmp(component_type(model), "BPE") != 0 &&
        (json_object_get(model, "type") || !json_object_get(model, "merges")))
        return source_refuse(src, "model", *component_type(model) ? component_type(model) : "a model without type");
    status st = source_members(src, "model", model, known);
    if (st == ST_OK)
        st = refuse_variants(src, model);
    if (st == ST_OK)
        st = source_flag(src, "model", model, "ignore_merges", false, &tok->bpe.ignore_merges);
    if (st == ST_OK)
        st = source_flag(src, "model", model, "fuse_unk", false, &tok->bpe.fuse_unknown);
    if (st == ST_OK)
        st = check_family(src, model, tok);
    if (st == ST_OK)
        st = read_vocab(src, json_object_get(model, "vocab"), tok);
    if (st == ST_OK)
        st = check_bytes(src, tok);
    if (st == ST_OK)
        st = read_merges(src, json_object_get(model, "merges"), tok);
    return st == ST_OK ? read_unknown(src, model, tok) : st;
}
