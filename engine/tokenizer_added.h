/* tokenizer_added.h - added tokens: texts that are recognised before the
 * pre-tokeniser sees the rest, leftmost first, the longest at each place.
 * Filled while loading, then read by any thread. */
#ifndef BATON_ENGINE_TOKENIZER_ADDED_H
#define BATON_ENGINE_TOKENIZER_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct added_token {
    char *text; /* owned; not NUL-terminated */
    size_t len;
    uint32_t id;
    bool special;
    bool normalized;     /* looked for in the normalised text, not in the text as given */
    bool lstrip, rstrip; /* takes the white space on that side with it */
    bool single_word;    /* only where no word character stands beside it */
};

/* One of the two sets: the normalised tokens, or the others. */
struct added_set {
    struct added_token *tokens; /* [n], sorted by text once frozen */
    size_t n, capacity;
    uint32_t first[257]; /* [b]: the first token whose first byte is >= b */
    int only;            /* the byte that all of them start with; -1 when they start with several */
};

void added_set_free(struct added_set *set);
/* Copies the text. Empty texts are never found. */
MUST_CHECK status added_set_push(struct added_set *set, const struct added_token *token);
/* After the last push: sorts. Of two tokens with one text the special one, then the earlier one, is found. */
void added_set_freeze(struct added_set *set);
/* NULL when no token has exactly this text. */
const struct added_token *added_set_exact(const struct added_set *set, const char *text, size_t len);

/* A walk over a text that is cut into tokens and what stands between them. */
struct added_walk {
    const struct added_set *set;
    const char *text; /* borrowed, well-formed UTF-8 */
    size_t len;
    bool with_special; /* false: special tokens written in the text are text */
    size_t at, done;
};
struct added_span {
    size_t start, end;               /* text before the token; may be empty */
    const struct added_token *token; /* NULL at the end of the text */
};
/* Afterwards span->token is NULL when the walk is over. */
void added_walk_next(struct added_walk *walk, struct added_span *span);

#endif
