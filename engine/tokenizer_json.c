#include "engine/tokenizer_json.h"

#include <string.h>

status source_refuse(const struct json_source *src, const char *where, const char *construct)
{
    return error_set(src->err, ST_UNSUPPORTED, "%s: %s: %.100s is not supported", src->name, where, construct);
}

status source_invalid(const struct json_source *src, const char *where, const char *what)
{
    return error_set(src->err, ST_INVALID, "%s: %s: %s", src->name, where, what);
}

status source_members(const struct json_source *src, const char *where, const json_t *object, const char *const known[])
{
    if (!json_is_object(object))
        return source_invalid(src, where, "not an object");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        size_t i = 0;
        while (known[i] && strcmp(known[i], key) != 0)
            i++;
        if (!known[i])
            return source_refuse(src, where, key);
    }
    return ST_OK;
}

const char *component_type(const json_t *component)
{
    const char *type = json_string_value(json_object_get(component, "type"));
    return type ? type : "";
}

status source_flag(const struct json_source *src, const char *where, const json_t *object, const char *key,
                   bool otherwise, bool *out)
{
    const json_t *value = json_object_get(object, key);
    if (value && !json_is_boolean(value))
        return error_set(src->err, ST_INVALID, "%s: %s: %s is not a boolean", src->name, where, key);
    *out = value ? json_is_true(value) : otherwise;
    return ST_OK;
}

static status read_added_flags(const struct json_source *src, const json_t *row, struct added_token *token)
{
    const struct {
        const char *key;
        bool *value;
    } flags[] = {
        { "special", &token->special }, { "normalized", &token->normalized },   { "lstrip", &token->lstrip },
        { "rstrip", &token->rstrip },   { "single_word", &token->single_word },
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        status st = source_flag(src, "added_tokens", row, flags[i].key, false, flags[i].value);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

/* Whether the vocabulary has this text with this id, or neither. */
static bool agrees(const struct tokenizer *tok, const struct added_token *token)
{
    uint32_t plain = tokenizer_plain_id(tok, token->text, token->len);
    if (plain != BPE_NO_ID)
        return plain == token->id;
    if (token->id >= tok->bpe.vocab.n || !(tok->bpe.vocab.tokens[token->id].flags & BPE_PRESENT))
        return true;
    size_t len;
    const char *there = tokenizer_bytes(tok, token->id, &len);
    bool byte = tok->spm && len == 1 && tok->bpe.base[(uint8_t)there[0]] == token->id; /* its text is <0x41> */
    return !byte && len == token->len && memcmp(there, token->text, len) == 0;
}

static status read_added_token(const struct json_source *src, const json_t *row, struct tokenizer *tok)
{
    static const char *const known[] = { "id",     "content",    "single_word", "lstrip",
                                         "rstrip", "normalized", "special",     NULL };
    status st = source_members(src, "added_tokens", row, known);
    if (st != ST_OK)
        return st;
    const json_t *content = json_object_get(row, "content"), *id = json_object_get(row, "id");
    if (!json_is_string(content) || !json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= TOKENIZER_MAX_VOCAB)
        return source_invalid(src, "added_tokens", "a token without content, or with an id out of range");
    const char *text = json_string_value(content);
    struct added_token token = { .text = (char *)text,
                                 .len = json_string_length(content),
                                 .id = (uint32_t)json_integer_value(id) };
    st = read_added_flags(src, row, &token);
    if (st != ST_OK)
        return st;
    /* It would be looked for where spaces are U+2581, which is no white space. */
    if (tok->spm == SPM_NORMALIZED && token.normalized && (token.lstrip || token.rstrip))
        return source_refuse(src, "added_tokens", "a normalized token with lstrip or rstrip behind a Replace");
    if (token.len > TOKENIZER_MAX_TOKEN_BYTES)
        return source_invalid(src, "added_tokens", "a token is too long");
    if (!agrees(tok, &token))
        return error_set(src->err, ST_INVALID, "%s: added_tokens: %.60s has id %u, where the vocabulary disagrees",
                         src->name, text, token.id);
    return tokenizer_add_added(tok, &token);
}

static status read_added_tokens(const struct json_source *src, const json_t *rows, struct tokenizer *tok)
{
    if (!rows || json_is_null(rows))
        return ST_OK;
    if (!json_is_array(rows))
        return source_invalid(src, "added_tokens", "not a list");
    for (size_t i = 0; i < json_array_size(rows); i++) {
        status st = read_added_token(src, json_array_get(rows, i), tok);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

/* These change ids of long texts and batches; transformers ignores what the file says of them. */
static status refuse_shaping(const struct json_source *src, const json_t *root)
{
    static const char *const keys[] = { "truncation", "padding" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *value = json_object_get(root, keys[i]);
        if (value && !json_is_null(value))
            return source_refuse(src, "top level", keys[i]);
    }
    return ST_OK;
}

static status read_root(const struct json_source *src, const json_t *root, struct tokenizer *tok)
{
    static const char *const known[] = { "version",       "truncation",     "padding", "added_tokens", "normalizer",
                                         "pre_tokenizer", "post_processor", "decoder", "model",        NULL };
    status st = source_members(src, "top level", root, known);
    if (st == ST_OK)
        st = refuse_shaping(src, root);
    if (st == ST_OK)
        st = tokenizer_read_normalizer(src, json_object_get(root, "normalizer"), tok);
    if (st == ST_OK)
        st = tokenizer_read_pretokenizer(src, json_object_get(root, "pre_tokenizer"), tok);
    if (st == ST_OK)
        st = tokenizer_read_decoder(src, json_object_get(root, "decoder"), tok);
    if (st == ST_OK)
        st = tokenizer_read_model(src, json_object_get(root, "model"), tok);
    if (st == ST_OK)
        st = read_added_tokens(src, json_object_get(root, "added_tokens"), tok);
    if (st == ST_OK)
        st = tokenizer_read_post_processor(src, json_object_get(root, "post_processor"), tok);
    return st == ST_OK ? tokenizer_finish(tok) : st;
}

status tokenizer_load_json(const char *name, const char *data, size_t len, struct tokenizer **out, struct error *err)
{
    struct json_source src = { name, err };
    json_error_t why;
    if (len > TOKENIZER_JSON_MAX_BYTES)
        return error_set(err, ST_LIMIT, "%s: more than %u bytes", name, TOKENIZER_JSON_MAX_BYTES);
    json_t *root = json_loadb(data, len, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return error_set(err, ST_INVALID, "%s: line %d: %s", name, why.line, why.text);
    struct tokenizer *tok = NULL;
    (void)error_set(err, ST_NO_MEMORY, "%s: no memory", name);
    status st = tokenizer_new(&tok);
    if (st == ST_OK)
        st = read_root(&src, root, tok);
    json_decref(root);
    if (st == ST_OK)
        *out = tok;
    else
        tokenizer_destroy(&tok);
    return st;
}
