#include "engine/speculation.h"

#include <string.h>

#define LONGEST_MATCH  4u
#define SHORTEST_MATCH 2u
#define RATE           0.1f

void speculation_begin(struct speculation *speculation)
{
    *speculation = (struct speculation){ .acceptance = SPECULATION_BEGIN };
}

uint32_t speculation_depth(struct speculation *speculation, double price, uint32_t most)
{
    uint32_t depth = 0;
    double chance = (double)speculation->acceptance;
    while (depth < most && chance > price) {
        depth++;
        chance *= (double)speculation->acceptance;
    }
    speculation->paused = depth == 0 && most > 0;
    if (!speculation->paused || ++speculation->passed < SPECULATION_PROBE)
        return depth;
    speculation->passed = 0;
    return 1;
}

void speculation_verified(struct speculation *speculation, uint32_t drafted, uint32_t accepted)
{
    uint32_t tried = accepted < drafted ? accepted + 1 : drafted;
    for (uint32_t i = 0; i < tried; i++)
        speculation->acceptance += RATE * ((i < accepted ? 1.0f : 0.0f) - speculation->acceptance);
}

/* Where the last `length` tokens stand earlier: the place behind them; 0 for none. */
static uint32_t find_earlier(const uint32_t *tokens, uint32_t n, uint32_t length)
{
    for (uint32_t end = n - 1; end >= length; end--)
        if (tokens[end - 1] == tokens[n - 1] &&
            !memcmp(tokens + end - length, tokens + n - length, length * sizeof *tokens))
            return end;
    return 0;
}

uint32_t speculation_lookup(const uint32_t *tokens, uint32_t n, uint32_t most, uint32_t *drafts)
{
    uint32_t at = 0;
    for (uint32_t length = LONGEST_MATCH; length >= SHORTEST_MATCH && at == 0; length--)
        if (n > length)
            at = find_earlier(tokens, n, length);
    if (at == 0)
        return 0;
    for (uint32_t i = 0; i < most; i++) /* what repeats itself goes on doing so */
        drafts[i] = at + i < n ? tokens[at + i] : drafts[at + i - n];
    return most;
}
