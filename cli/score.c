#include "cli/score.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

static status take_ids(const json_t *list, const char *name, uint32_t n_vocab, uint32_t max_tokens,
                       struct score_input *input, struct error *err)
{
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n == 0)
        return error_set(err, ST_INVALID, "\"%s\" is no list of token ids, or empty", name);
    if (n > max_tokens - input->n_tokens)
        return error_set(err, ST_LIMIT, "more than %u tokens", max_tokens);
    uint32_t *tokens = realloc(input->tokens, (input->n_tokens + n) * sizeof *tokens);
    if (!tokens)
        return error_set(err, ST_NO_MEMORY, "out of memory");
    input->tokens = tokens;
    for (size_t i = 0; i < n; i++) {
        json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= n_vocab)
            return error_set(err, ST_INVALID, "\"%s\"[%zu] is no token id below %u", name, i, n_vocab);
        tokens[input->n_tokens++] = (uint32_t)json_integer_value(id);
    }
    return ST_OK;
}

static status read_members(const json_t *root, uint32_t n_vocab, uint32_t max_tokens, struct score_input *in,
                           struct error *err)
{
    if (!json_is_object(root))
        return error_set(err, ST_INVALID, "it is no JSON object");
    const json_t *tokens = json_object_get(root, "tokens");
    if (tokens) {
        status st = take_ids(tokens, "tokens", n_vocab, max_tokens, in, err);
        in->n_rows = in->n_tokens;
        return st;
    }
    if (!json_object_get(root, "prompt_ids"))
        return error_set(err, ST_INVALID, "it has neither \"tokens\" nor \"prompt_ids\" and \"greedy_ids\"");
    status st = take_ids(json_object_get(root, "prompt_ids"), "prompt_ids", n_vocab, max_tokens, in, err);
    if (st != ST_OK)
        return st;
    in->first = in->n_tokens - 1;
    st = take_ids(json_object_get(root, "greedy_ids"), "greedy_ids", n_vocab, max_tokens, in, err);
    in->n_rows = in->n_tokens - 1 - in->first; /* what follows the last id is not asked for */
    return st;
}

status score_read(const char *line, size_t len, uint32_t n_vocab, uint32_t max_tokens, struct score_input *out,
                  struct error *err)
{
    json_error_t where;
    json_t *root = json_loadb(line, len, 0, &where);
    *out = (struct score_input){ .tokens = NULL };
    if (!root)
        return error_set(err, ST_INVALID, "it is no JSON: %.200s", where.text);
    status st = read_members(root, n_vocab, max_tokens, out, err);
    json_decref(root);
    if (st != ST_OK)
        score_input_free(out);
    return st;
}

void score_input_free(struct score_input *input)
{
    free(input->tokens);
    input->tokens = NULL;
}

double score_log_sum(const float *logits, uint32_t n_vocab)
{
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n_vocab; i++)
        if ((double)logits[i] > max)
            max = (double)logits[i];
    for (uint32_t i = 0; i < n_vocab; i++)
        sum += exp((double)logits[i] - max);
    return max + log(sum);
}

static bool is_better(const struct score_pair *a, const struct score_pair *b)
{
    return a->logprob > b->logprob || (a->logprob == b->logprob && a->id < b->id);
}

static int by_rank(const void *a, const void *b)
{
    return is_better(a, b) ? -1 : 1;
}

/* Selection by insertion while k is small, sorting when it is not. */
void score_top(const float *logits, uint32_t n_vocab, uint32_t k, struct score_pair *scratch)
{
    double log_sum = score_log_sum(logits, n_vocab);
    if (k > 64) {
        for (uint32_t i = 0; i < n_vocab; i++)
            scratch[i] = (struct score_pair){ i, (double)logits[i] - log_sum };
        qsort(scratch, n_vocab, sizeof *scratch, by_rank);
        return;
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_vocab && k > 0; i++) {
        struct score_pair pair = { i, (double)logits[i] - log_sum };
        if (n == k && !is_better(&pair, &scratch[n - 1]))
            continue;
        uint32_t at = n < k ? n++ : n - 1;
        for (; at > 0 && is_better(&pair, &scratch[at - 1]); at--)
            scratch[at] = scratch[at - 1];
        scratch[at] = pair;
    }
}
