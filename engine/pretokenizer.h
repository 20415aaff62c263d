/* pretokenizer.h - cuts a text into the pieces that BPE encodes one by one:
 * the pre_tokenizer of a tokenizer.json, or a family's published patterns.
 * Steps apply in order, each to the pieces of the one before. Filled while
 * loading, then used by any thread, each with its own scratch. */
#ifndef BATON_ENGINE_PRETOKENIZER_H
#define BATON_ENGINE_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define PRETOKENIZER_MAX_STEPS 16

/* What becomes of a match and of what stands between matches. */
#define SPLIT_BEHAVIORS(X)                                                                                             \
    X(ISOLATED, "Isolated")     /* each is a piece           */                                                        \
    X(REMOVED, "Removed")       /* matches are dropped       */                                                        \
    X(CONTIGUOUS, "Contiguous") /* neighbours of a kind join */                                                        \
    X(MERGED_WITH_PREVIOUS, "MergedWithPrevious")                                                                      \
    X(MERGED_WITH_NEXT, "MergedWithNext")

enum split_behavior {
#define X(name, text) SPLIT_##name,
    SPLIT_BEHAVIORS(X)
#undef X
};

/* The patterns that families publish. */
#define PATTERN_GPT2 "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define PATTERN_LLAMA3                                                                                                 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"           \
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define PATTERN_QWEN2                                                                                                  \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"                \
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
/* What std's char::is_numeric takes for a digit: one Unicode version ahead. */
#define PATTERN_DIGIT "[\\p{N}\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}]"

struct pretokenizer_step {
    struct regex *regex; /* NULL: put a space before pieces that have none */
    enum split_behavior behavior;
    bool invert; /* what stands between the matches counts as match */
};

struct pretokenizer {
    struct pretokenizer_step steps[PRETOKENIZER_MAX_STEPS];
    size_t n_steps;
    uint64_t fingerprint; /* of the steps as they were asked for */
};

/* Memory that texts reuse; zero-initialise, one per call of tokenizer_encode. */
struct pretokenizer_scratch {
    struct regex_scratch *regex;
    char *spaced;
    size_t spaced_capacity;
};
void pretokenizer_scratch_free(struct pretokenizer_scratch *scratch);

void pretokenizer_free(struct pretokenizer *pre);
MUST_CHECK status pretokenizer_add_split(struct pretokenizer *pre, const char *pattern, size_t len, bool literal,
                                         enum split_behavior behavior, bool invert, struct error *err);
/* At most once. */
MUST_CHECK status pretokenizer_add_space(struct pretokenizer *pre, struct error *err);

/* Gets each piece in order; anything but ST_OK ends the run and is returned. */
typedef status (*pretokenizer_emit)(void *ctx, const char *piece, size_t len);
/* text is well-formed UTF-8. */
MUST_CHECK status pretokenizer_run(const struct pretokenizer *pre, struct pretokenizer_scratch *scratch,
                                   const char *text, size_t len, pretokenizer_emit emit, void *ctx);

#endif
