/* prompt_words.h - text of a wanted number of tokens, out of words whose tokens are known. The same seed and stream
 * give the same words in the same order, whatever the length: a shorter text is the beginning of a longer one, but for
 * its last words. Pure but for prompt_words_learn, which asks a server. */
#ifndef BATON_BENCH_PROMPT_WORDS_H
#define BATON_BENCH_PROMPT_WORDS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/text_buffer.h"

#define PROMPT_MAX_WORDS       128u
#define PROMPT_MAX_WORD_TOKENS 8u
#define PROMPT_WORD_BYTES      16u

struct prompt_words {
    struct prompt_word {
        char text[PROMPT_WORD_BYTES];
        uint32_t tokens; /* of the word with a blank before it, between others */
    } words[PROMPT_MAX_WORDS];
    uint32_t n;
    uint32_t n_single; /* the first so many are of one token */
};

/* The words that a tokenizer may know, each counted as one token. */
void prompt_words_init(struct prompt_words *words);
/* Sets the tokens of word i; 0, or more than PROMPT_MAX_WORD_TOKENS, takes it out. Call from the last word to the
 * first, then prompt_words_order. */
void prompt_words_set(struct prompt_words *words, uint32_t i, uint32_t tokens);
/* ST_INVALID: no word is left. */
MUST_CHECK status prompt_words_order(struct prompt_words *words, struct error *err);
/* Appends words of n_tokens together, a blank before each; a few less where no word has one token. */
void prompt_words_write(const struct prompt_words *words, uint64_t seed, uint64_t stream, uint64_t n_tokens,
                        struct text_buffer *out);

#endif
