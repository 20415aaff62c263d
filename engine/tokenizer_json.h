/* tokenizer_json.h - what the files that read tokenizer.json share. */
#ifndef BATON_ENGINE_TOKENIZER_JSON_H
#define BATON_ENGINE_TOKENIZER_JSON_H

#include <jansson.h>

#include "engine/tokenizer_impl.h"

#define TOKENIZER_JSON_MAX_BYTES (256u << 20)

struct json_source {
    const char *name; /* of the file, for messages */
    struct error *err;
};

/* "NAME: WHERE: CONSTRUCT is not supported"; returns ST_UNSUPPORTED. */
status source_refuse(const struct json_source *src, const char *where, const char *construct);
/* The same for a file that contradicts itself; returns ST_INVALID. */
status source_invalid(const struct json_source *src, const char *where, const char *what);

/* Refuses members that are not in known (NULL-terminated). */
MUST_CHECK status source_members(const struct json_source *src, const char *where, const json_t *object,
                                 const char *const known[]);
/* The "type" of a component; "" when it has none. */
const char *component_type(const json_t *component);
/* An optional boolean; ST_INVALID when it is something else. */
MUST_CHECK status source_flag(const struct json_source *src, const char *where, const json_t *object, const char *key,
                              bool otherwise, bool *out);

/* The components; each may be absent or null. In this order: normaliser and pre-tokeniser say whether
 * the vocabulary is SentencePiece's, which decides what decoder and model may ask for. */
MUST_CHECK status tokenizer_read_normalizer(const struct json_source *src, const json_t *component,
                                            struct tokenizer *tok);
MUST_CHECK status tokenizer_read_pretokenizer(const struct json_source *src, const json_t *component,
                                              struct tokenizer *tok);
/* After the added tokens. */
MUST_CHECK status tokenizer_read_post_processor(const struct json_source *src, const json_t *component,
                                                struct tokenizer *tok);
MUST_CHECK status tokenizer_read_decoder(const struct json_source *src, const json_t *component, struct tokenizer *tok);
MUST_CHECK status tokenizer_read_model(const struct json_source *src, const json_t *model, struct tokenizer *tok);

#endif
