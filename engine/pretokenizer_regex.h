/* pretokenizer_regex.h - one compiled pattern and the search through a text.
 * Compiled once, then matched by any thread, each with its own scratch. */
#ifndef BATON_ENGINE_PRETOKENIZER_REGEX_H
#define BATON_ENGINE_PRETOKENIZER_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "common/status.h"

struct regex;
struct regex_scratch;

/* pattern in the language of tokenizer.json (pretokenizer_syntax.h), or a text
 * that stands for itself. */
MUST_CHECK status regex_create(const char *pattern, size_t len, bool literal, struct regex **out, struct error *err);
void regex_destroy(struct regex **regex);

/* What regex_next left in *scratch, NULL included. */
void regex_scratch_destroy(struct regex_scratch **scratch);

/* A walk over the matches in one text, with Oniguruma's rule for empty ones:
 * none directly behind the match before it. */
struct regex_walk {
    const char *text; /* borrowed, well-formed UTF-8 */
    size_t len;
    size_t at, last_end;
    bool any;
};
/* ST_NOT_FOUND when no match is left; ST_UNSUPPORTED when PCRE2 gives up. *scratch starts as NULL and is made
 * when PCRE2 is first needed: the patterns of pretokenizer_scan.h do without where the text is ASCII. */
MUST_CHECK status regex_next(const struct regex *regex, struct regex_scratch **scratch, struct regex_walk *walk,
                             size_t *start, size_t *end);

#endif
