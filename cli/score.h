/* score.h - log-probabilities of a given text, position by position. Pure. */
#ifndef BATON_CLI_SCORE_H
#define BATON_CLI_SCORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct score_input {
    uint32_t *tokens; /* ours to free */
    uint32_t n_tokens;
    uint32_t first;  /* position of the first row that is reported: it predicts tokens[first + 1] */
    uint32_t n_rows; /* rows reported */
};

/* {"tokens": [...]}: every row. {"prompt_ids": [...], "greedy_ids": [...]}: the rows that predict greedy_ids, which
 * makes the answer line up with them. Each id is below n_vocab. */
MUST_CHECK status score_read(const char *line, size_t len, uint32_t n_vocab, uint32_t max_tokens,
                             struct score_input *out, struct error *err);
void score_input_free(struct score_input *input);

struct score_pair {
    uint32_t id;
    double logprob;
};

/* log(sum(exp(logits))), in double precision. */
double score_log_sum(const float *logits, uint32_t n_vocab);
/* The k likeliest, best first, ties to the lowest id; scratch holds n_vocab pairs; k <= n_vocab. */
void score_top(const float *logits, uint32_t n_vocab, uint32_t k, struct score_pair *scratch);

#endif
