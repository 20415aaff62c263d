/* pretokenizer_syntax.h - turns the pattern of a tokenizer.json into PCRE2's
 * language. Hugging Face `tokenizers` runs these patterns through Oniguruma,
 * which reads some of them differently: there \s is Unicode's White_Space
 * (PCRE2 adds U+180E), \h is a hexadecimal digit, {,3} a quantifier, [ inside
 * a class a nested class. What means the same is passed on, what can be
 * rewritten is, and everything else is refused by name. */
#ifndef BATON_ENGINE_PRETOKENIZER_SYNTAX_H
#define BATON_ENGINE_PRETOKENIZER_SYNTAX_H

#include "common/status.h"

#define PATTERN_MAX_BYTES 8192 /* of a pattern as written in the file */

/* *out is malloc'd and NUL-terminated. pattern is well-formed UTF-8 without NUL. */
MUST_CHECK status pattern_translate(const char *pattern, size_t len, char **out, struct error *err);
/* The same for a text that stands for itself. */
MUST_CHECK status pattern_quote(const char *text, size_t len, char **out, struct error *err);

#endif
