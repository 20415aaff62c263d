/* speculation.h - how many tokens of an answer to guess ahead, and the guesses
 * that need no model. Pure.
 * A guessed token is a row of the same step as the last known one (Leviathan et
 * al., ICML'23). The engine samples after each row as it would have without
 * guesses: random numbers belong to positions, so a guess is right when it is the
 * token sampled before it, and the answer is the one of plain decoding. */
#ifndef BATON_ENGINE_SPECULATION_H
#define BATON_ENGINE_SPECULATION_H

#include <stdbool.h>
#include <stdint.h>

#define SPECULATION_MAX_DRAFTS 16u
#define SPECULATION_PROBE      32u /* a paused sequence tries one guess after so many chances */

struct speculation {
    float acceptance; /* smoothed share of guesses that were right; begins at SPECULATION_BEGIN */
    uint32_t passed;  /* chances passed by since it paused */
    bool paused;      /* the last guesses did not pay */
};

#define SPECULATION_BEGIN 0.5f

void speculation_begin(struct speculation *speculation);
/* How many guesses pay, of at most `most`. price: what a further row costs, in tokens that its time would have given
 * without it; a guess pays while the chance that it and all before it are right is higher. */
uint32_t speculation_depth(struct speculation *speculation, double price, uint32_t most);
/* Of `drafted` guesses the first `accepted` were right. */
void speculation_verified(struct speculation *speculation, uint32_t drafted, uint32_t accepted);

/* Prompt lookup: what followed the latest earlier place where the last tokens stand, the longest match of 4 down
 * to 2 tokens first. Fills drafts [most] and returns most; 0 when there is no such place. */
uint32_t speculation_lookup(const uint32_t *tokens, uint32_t n, uint32_t most, uint32_t *drafts);

#endif
