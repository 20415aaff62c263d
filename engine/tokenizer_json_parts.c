#include <string.h>

#include "engine/tokenizer_json.h"

/* Sequences stand inside sequences in no published file; this bounds the recursion. */
#define MAX_DEPTH 8

static bool is_absent(const json_t *component)
{
    return !component || json_is_null(component);
}

static bool is_type(const json_t *component, const char *type)
{
    return strcmp(component_type(component), type) == 0;
}

static status refuse_type(const struct json_source *src, const char *where, const json_t *component)
{
    return source_refuse(src, where,
                         *component_type(component) ? component_type(component) : "a component without type");
}

/* Calls each for every component of a Sequence, or for the one that is there. */
typedef status (*component_reader)(const struct json_source *src, const json_t *component, struct tokenizer *tok);
static status read_sequence(const struct json_source *src, const char *where, const char *member,
                            const json_t *component, unsigned depth, component_reader each, struct tokenizer *tok)
{
    if (is_absent(component))
        return ST_OK;
    if (!is_type(component, "Sequence"))
        return each(src, component, tok);
    const char *const known[] = { "type", member, NULL };
    status st = source_members(src, where, component, known);
    const json_t *list = json_object_get(component, member);
    if (st != ST_OK)
        return st;
    if (!json_is_array(list) || depth == MAX_DEPTH)
        return source_invalid(src, where, "a Sequence without its list, or too deep");
    for (size_t i = 0; st == ST_OK && i < json_array_size(list); i++)
        st = read_sequence(src, where, member, json_array_get(list, i), depth + 1, each, tok);
    return st;
}

/* Whether a component says exactly this. */
static bool is_exactly(const json_t *component, const char *text)
{
    json_t *wanted = json_loads(text, 0, NULL);
    bool same = json_equal(component, wanted) != 0;
    json_decref(wanted);
    return same;
}

static status read_one_normalizer(const struct json_source *src, const json_t *component, struct tokenizer *tok)
{
    static const char *const known[] = { "type", NULL };
    if (is_exactly(component, "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}")) {
        tokenizer_use_spm(tok, SPM_NORMALIZED);
        return ST_OK;
    }
    if (is_exactly(component, "{\"type\":\"Prepend\",\"prepend\":\"\u2581\"}") && tok->prefix == SPM_PREFIX_NEVER) {
        tok->prefix = SPM_PREFIX_ALWAYS;
        return ST_OK;
    }
    if (!is_type(component, "NFC"))
        return refuse_type(src, "normalizer", component);
    tok->nfc = true;
    return source_members(src, "normalizer", component, known);
}

status tokenizer_read_normalizer(const struct json_source *src, const json_t *component, struct tokenizer *tok)
{
    status st = read_sequence(src, "normalizer", "normalizers", component, 0, read_one_normalizer, tok);
    if (st == ST_OK && tok->prefix == SPM_PREFIX_ALWAYS && tok->spm == SPM_OFF)
        st = source_refuse(src, "normalizer", "Prepend without Replace");
    if (st == ST_OK && tok->nfc && tok->spm)
        st = source_refuse(src, "normalizer", "NFC beside Replace");
    return st;
}

/* Puts the file's name before what the pre-tokeniser had to say. */
static status blame_pattern(const struct json_source *src, status st, const struct error *why)
{
    return st == ST_OK ? st : error_set(src->err, st, "%s: pre_tokenizer: %.300s", src->name, why->text);
}

static status read_behavior(const struct json_source *src, const json_t *component, enum split_behavior *out)
{
    static const char *const names[] = {
#define X(name, text) text,
        SPLIT_BEHAVIORS(X)
#undef X
    };
    const char *name = json_string_value(json_object_get(component, "behavior"));
    for (size_t i = 0; name && i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], name) == 0) {
            *out = (enum split_behavior)i;
            return ST_OK;
        }
    }
    return source_refuse(src, "pre_tokenizer: Split: behavior", name ? name : "something that is no text");
}

static status read_split(const struct json_source *src, const json_t *component, struct tokenizer *tok)
{
    static const char *const known[] = { "type", "pattern", "behavior", "invert", NULL };
    static const char *const kinds[] = { "Regex", "String", NULL };
    const json_t *pattern = json_object_get(component, "pattern");
    enum split_behavior behavior = SPLIT_ISOLATED;
    bool invert;
    status st = source_members(src, "pre_tokenizer: Split", component, known);
    if (st == ST_OK)
        st = source_members(src, "pre_tokenizer: Split: pattern", pattern, kinds);
    if (st == ST_OK)
        st = read_behavior(src, component, &behavior);
    if (st == ST_OK)
        st = source_flag(src, "pre_tokenizer: Split", component, "invert", false, &invert);
    if (st != ST_OK)
        return st;
    const json_t *literal = json_object_get(pattern, "String");
    const json_t *text = literal ? literal : json_object_get(pattern, "Regex");
    if (json_object_size(pattern) != 1 || !json_is_string(text))
        return source_invalid(src, "pre_tokenizer: Split", "the pattern is not one Regex or one String");
    struct error why = { "" };
    st = pretokenizer_add_split(&tok->pre, json_string_value(text), json_string_length(text), literal != NULL, behavior,
                                invert, &why);
    return blame_pattern(src, st, &why);
}

static status read_digits(const struct json_source *src, const json_t *component, struct tokenizer *tok)
{
    static const char *const known[] = { "type", "individual_digits", NULL };
    bool individual;
    status st = source_members(src, "pre_tokenizer: Digits", component, known);
    if (st == ST_OK)
        st = source_flag(src, "pre_tokenizer: Digits", component, "individual_digits", false, &individual);
    if (st != ST_OK)
        return st;
    struct error why = { "" };
    st = pretokenizer_add_split(&tok->pre, PATTERN_DIGIT, strlen(PATTERN_DIGIT), false,
                                individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, false, &why);
    return blame_pattern(src, st, &why);
}

static const char *const byte_level_members[] = { "type", "add_prefix_space", "trim_offsets", "use_regex", NULL };

static status read_byte_level(const struct json_source *src, const json_t *component, struct tokenizer *tok)
{
    bool space, regex;
    status st = source_members(src, "pre_tokenizer: ByteLevel", component, byte_level_members);
    if (st == ST_OK)
        st = source_flag(src, "pre_tokenizer: ByteLevel", component, "add_prefix_space", true, &space);
    if (st == ST_OK)
        st = source_flag(src, "pre_tokenizer: ByteLevel", component, "use_regex", true, &regex);
    if (st != ST_OK)
        return st;
    struct error why = { "" };
    if (space)
        st = pretokenizer_add_space(&tok->pre, &why);
    if (st == ST_OK && regex)
        st = pretokenizer_add_split(&tok->pre, PATTERN_GPT2, strlen(PATTERN_GPT2), false, SPLIT_ISOLATED, false, &why);
    return blame_pattern(src, st, &why);
}

static status read_prefix(const struct json_source *src, const json_t *component, enum spm_prefix *out)
{
    static const struct {
        const char *name;
        enum spm_prefix prefix;
    } schemes[] = { { "always", SPM_PREFIX_MISSING }, { "first", SPM_PREFIX_FIRST }, { "never", SPM_PREFIX_NEVER } };
    const char *name = json_string_value(json_object_get(component, "prepend_scheme"));
    for (size_t i = 0; name && i < sizeof schemes / sizeof *schemes; i++) {
        if (strcmp(schemes[i].name, name) == 0) {
            *out = schemes[i].prefix;
            return ST_OK;
        }
    }
    return source_refuse(src, "pre_tokenizer: Metaspace: prepend_scheme", name ? name : "a file without one");
}

static status read_metaspace(const struct json_source *src, const json_t *component, struct tokenizer *tok)
{
    static const char *const known[] = { "type", "replacement", "prepend_scheme", "split", NULL };
    const char *replacement = json_string_value(json_object_get(component, "replacement"));
    bool split;
    status st = source_members(src, "pre_tokenizer: Metaspace", component, known);
    if (st == ST_OK)
        st = source_flag(src, "pre_tokenizer: Metaspace", component, "split", true, &split);
    if (st == ST_OK && split)
        st = source_refuse(src, "pre_tokenizer: Metaspace", "split");
    if (st == ST_OK && (!replacement || strcmp(replacement, "\xE2\x96\x81") != 0))
        st = source_refuse(src, "pre_tokenizer: Metaspace", "another replacement than U+2581");
    if (st == ST_OK)
        st = read_prefix(src, component, &tok->prefix);
    if (st == ST_OK)
        tokenizer_use_spm(tok, SPM_PRETOKENIZED);
    return st;
}

static status read_one_pretokenizer(const struct json_source *src, const json_t *component, struct tokenizer *tok)
{
    /* ByteLevel hands on its own alphabet, in which no later pattern means what it says. */
    if (tok->byte_level)
        return source_refuse(src, "pre_tokenizer", "a step behind ByteLevel");
    if (tok->spm || (is_type(component, "Metaspace") && (tok->pre.n_steps > 0 || tok->nfc)))
        return source_refuse(src, "pre_tokenizer", "a step beside those that make spaces U+2581");
    if (is_type(component, "Metaspace"))
        return read_metaspace(src, component, tok);
    if (is_type(component, "Split"))
        return read_split(src, component, tok);
    if (is_type(component, "Digits"))
        return read_digits(src, component, tok);
    if (!is_type(component, "ByteLevel"))
        return refuse_type(src, "pre_tokenizer", component);
    tok->byte_level = true;
    return read_byte_level(src, component, tok);
}

status tokenizer_read_pretokenizer(const struct json_source *src, const json_t *component, struct tokenizer *tok)
{
    status st = read_sequence(src, "pre_tokenizer", "pretokenizers", component, 0, read_one_pretokenizer, tok);
    if (st == ST_OK && !tok->byte_level && !tok->spm)
        st = source_refuse(src, "pre_tokenizer", "a vocabulary that is neither ByteLevel nor SentencePiece's");
    return st;
}

/* [BOS] A: the text is always A. */
static status read_template(const struct json_source *src, const json_t *component, struct tokenizer *tok)
{
    static const char *const known[] = { "type", "single", "pair", "special_tokens", NULL };
    const char *where = "post_processor: TemplateProcessing";
    status st = source_members(src, where, component, known);
    if (st != ST_OK)
        return st;
    const json_t *single = json_object_get(component, "single");
    size_t n = json_array_size(single);
    if (n < 1 || n > 2 || !json_object_get(json_array_get(single, n - 1), "Sequence") || (n == 2 && tok->adds_bos))
        return source_refuse(src, where, "anything but one token before the text");
    if (n == 1)
        return ST_OK;
    const json_t *name = json_object_get(json_object_get(json_array_get(single, 0), "SpecialToken"), "id");
    const json_t *tokens = json_object_get(component, "special_tokens");
    const json_t *ids =
        json_object_get(json_is_string(name) ? json_object_get(tokens, json_string_value(name)) : NULL, "ids");
    const json_t *id = json_array_get(ids, 0);
    if (json_array_size(ids) != 1 || !json_is_integer(id))
        return source_refuse(src, where, "a token that is not one id");
    if (json_integer_value(id) < 0 || json_integer_value(id) >= (json_int_t)tokenizer_vocab_size(tok))
        return source_invalid(src, where, "an id outside the vocabulary");
    tok->bos = (uint32_t)json_integer_value(id);
    tok->adds_bos = true;
    return ST_OK;
}

static status read_one_post_processor(const struct json_source *src, const json_t *component, struct tokenizer *tok)
{
    if (is_type(component, "TemplateProcessing"))
        return read_template(src, component, tok);
    /* ByteLevel trims offsets here, which we do not have. */
    if (is_type(component, "ByteLevel"))
        return source_members(src, "post_processor: ByteLevel", component, byte_level_members);
    return refuse_type(src, "post_processor", component);
}

status tokenizer_read_post_processor(const struct json_source *src, const json_t *component, struct tokenizer *tok)
{
    return read_sequence(src, "post_processor", "processors", component, 0, read_one_post_processor, tok);
}

static status read_one_decoder(const struct json_source *src, const json_t *component, struct tokenizer *tok)
{
    (void)tok;
    if (!is_type(component, "ByteLevel"))
        return refuse_type(src, "decoder", component);
    return source_members(src, "decoder: ByteLevel", component, byte_level_members);
}

/* Their order matters: bytes are joined before the tokens are, and only the whole text is stripped. */
static status read_spm_decoder(const struct json_source *src, const json_t *component, struct tokenizer *tok)
{
    static const char *const wanted[] = {
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\u2581\"},\"content\":\" \"}",
        "{\"type\":\"ByteFallback\"}",
        "{\"type\":\"Fuse\"}",
        "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}",
    };
    static const char *const known[] = { "type", "decoders", NULL };
    const json_t *list = json_object_get(component, "decoders");
    size_t n = json_array_size(list);
    if (!is_type(component, "Sequence"))
        return refuse_type(src, "decoder", component);
    for (size_t i = 0; i < n; i++)
        if (i == sizeof wanted / sizeof *wanted || !is_exactly(json_array_get(list, i), wanted[i]))
            return refuse_type(src, "decoder", json_array_get(list, i));
    if (n < 3)
        return source_refuse(src, "decoder", "a Sequence that ends before Fuse");
    tok->drops_first_space = n == 4;
    return source_members(src, "decoder", component, known);
}

status tokenizer_read_decoder(const struct json_source *src, const json_t *component, struct tokenizer *tok)
{
    if (is_absent(component))
        return source_refuse(src, "decoder", "a file without one");
    if (tok->spm)
        return read_spm_decoder(src, component, tok);
    return read_sequence(src, "decoder", "decoders", component, 0, read_one_decoder, NULL);
}
