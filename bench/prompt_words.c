#include "bench/prompt_words.h"

#include <stdlib.h>
#include <string.h>

#include "common/draw.h"

static const char *const known[] = {
    "time",  "people", "water", "work",  "house",  "day",   "night",  "light", "hand",   "place",  "world",  "man",
    "woman", "child",  "city",  "road",  "river",  "stone", "paper",  "book",  "word",   "letter", "name",   "number",
    "one",   "two",    "three", "four",  "five",   "six",   "seven",  "eight", "nine",   "ten",    "red",    "green",
    "blue",  "white",  "black", "cold",  "warm",   "old",   "new",    "long",  "short",  "high",   "low",    "good",
    "small", "great",  "first", "last",  "north",  "south", "east",   "west",  "under",  "over",   "after",  "before",
    "with",  "from",   "into",  "about", "market", "power", "engine", "metal", "spring", "summer", "winter", "answer",
    "the",   "and",    "that",  "for",   "was",    "are",   "not",    "you",   "all",    "can",    "a",      "b",
    "c",     "d",      "e",     "f",     "g",      "h",     "i",      "k",     "l",      "m",      "n",      "o",
    "p",     "r",      "s",     "t",     "u",      "v",     "w",      "x",     "y",      "z",
};
#define N_KNOWN (sizeof known / sizeof *known)

_Static_assert(N_KNOWN <= PROMPT_MAX_WORDS, "there is room for all");

void prompt_words_init(struct prompt_words *words)
{
    *words = (struct prompt_words){ .n = N_KNOWN, .n_single = N_KNOWN };
    for (uint32_t i = 0; i < N_KNOWN; i++) {
        text_copy(words->words[i].text, PROMPT_WORD_BYTES, known[i]);
        words->words[i].tokens = 1;
    }
}

void prompt_words_set(struct prompt_words *words, uint32_t i, uint32_t tokens)
{
    ASSERT(i < words->n);
    words->words[i].tokens = tokens;
    if (tokens == 0 || tokens > PROMPT_MAX_WORD_TOKENS)
        words->words[i] = words->words[--words->n];
}

static int by_tokens(const void *a, const void *b)
{
    const struct prompt_word *x = a, *y = b;
    return x->tokens != y->tokens ? (x->tokens > y->tokens) - (x->tokens < y->tokens) : strcmp(x->text, y->text);
}

status prompt_words_order(struct prompt_words *words, struct error *err)
{
    if (words->n == 0)
        return error_set(err, ST_INVALID, "no word is known whose number of tokens does not depend on its neighbours");
    qsort(words->words, words->n, sizeof *words->words, by_tokens);
    for (words->n_single = 0; words->n_single < words->n && words->words[words->n_single].tokens == 1;)
        words->n_single++;
    return ST_OK;
}

/* The word at this place that fits into what is left; NULL: none does. */
static const struct prompt_word *choose(const struct prompt_words *words, uint64_t bits, uint64_t left)
{
    uint32_t n = left >= PROMPT_MAX_WORD_TOKENS ? words->n : words->n_single;
    if (n > 0)
        return &words->words[bits % n];
    return words->words[0].tokens <= left ? &words->words[0] : NULL;
}

void prompt_words_write(const struct prompt_words *words, uint64_t seed, uint64_t stream, uint64_t n_tokens,
                        struct text_buffer *out)
{
    const struct prompt_word *word;
    for (uint64_t i = 0; n_tokens > 0; i++) {
        word = choose(words, draw_bits(seed, stream, i), n_tokens);
        if (!word)
            return;
        text_buffer_char(out, ' ');
        text_buffer_add(out, word->text);
        n_tokens -= word->tokens;
    }
}
