#include "engine/sampling.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>

#include "engine/math_f32.h"
#include "engine/math_trig.h"
#include "engine/philox.h"
#include "engine/sampling_filter.h"

#define MAX_BIAS     1e9f
#define ARGMAX_LANES 32u

/* Marks of a token in the penalty scratch: seen at all, and how often in the answer. */
#define MARK_SEEN   1u
#define MARK_ANSWER 2u

float sampling_uniform(uint64_t seed, uint32_t choice, uint32_t position)
{
    uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    uint32_t word[4] = { position, choice, 0, 0 };
    philox4x32(word, key, word);
    return (float)(word[0] >> 8) * 0x1p-24f;
}

/* The lowest id among the largest; a NaN is never chosen over a number. */
static uint32_t argmax(const float *logits, uint32_t n)
{
    float lanes[ARGMAX_LANES];
    for (uint32_t l = 0; l < ARGMAX_LANES; l++)
        lanes[l] = -INFINITY;
    uint32_t i = 0;
    for (; i + ARGMAX_LANES <= n; i += ARGMAX_LANES)
        for (uint32_t l = 0; l < ARGMAX_LANES; l++)
            lanes[l] = logits[i + l] > lanes[l] ? logits[i + l] : lanes[l];
    float max = -INFINITY;
    for (uint32_t l = 0; l < ARGMAX_LANES; l++)
        max = lanes[l] > max ? lanes[l] : max;
    for (; i < n; i++)
        max = logits[i] > max ? logits[i] : max;
    for (i = 0; i < n; i++)
        if (logits[i] == max)
            return i;
    return 0;
}

static bool has_penalties(const struct sampling *s)
{
    return s->repetition_penalty != 1.0f || s->presence_penalty != 0.0f || s->frequency_penalty != 0.0f;
}

static bool holds_stops(const struct sampling *s, uint32_t n_history)
{
    return s->n_stop_ids > 0 && n_history - s->prompt_len < s->min_tokens;
}

static void repeat_penalty(const struct sampling *s, float *logit)
{
    *logit = *logit > 0.0f ? *logit / s->repetition_penalty : *logit * s->repetition_penalty;
}

static void apply_penalties(const struct sampling *s, const uint32_t *history, uint32_t n_history, uint32_t n_vocab,
                            float *logits, uint32_t *marks)
{
    for (uint32_t i = 0; i < n_history; i++) {
        ASSERT(history[i] < n_vocab);
        marks[history[i]] = 0;
    }
    for (uint32_t i = 0; i < n_history; i++) {
        uint32_t *mark = &marks[history[i]];
        if (*mark == 0)
            repeat_penalty(s, &logits[history[i]]);
        *mark |= MARK_SEEN;
        *mark += i >= s->prompt_len ? MARK_ANSWER : 0;
    }
    for (uint32_t i = s->prompt_len; i < n_history; i++) {
        uint32_t *mark = &marks[history[i]];
        if (*mark < MARK_ANSWER)
            continue;
        uint32_t times = *mark / MARK_ANSWER;
        logits[history[i]] -= s->frequency_penalty * (float)times;
        logits[history[i]] -= s->presence_penalty;
        *mark = MARK_SEEN;
    }
}

/* Bias, penalties and min_tokens, on a copy in scratch; the logits themselves when nothing is asked. */
static const float *adjust(const struct sampling *s, const uint32_t *history, uint32_t n_history, const float *logits,
                           uint32_t n_vocab, float *scratch)
{
    if (s->n_bias == 0 && !has_penalties(s) && !holds_stops(s, n_history))
        return logits;
    memcpy(scratch, logits, n_vocab * sizeof *logits);
    for (uint32_t i = 0; i < s->n_bias; i++)
        scratch[s->bias[i].id] += s->bias[i].bias;
    if (has_penalties(s))
        apply_penalties(s, history, n_history, n_vocab, scratch, (uint32_t *)(void *)(scratch + n_vocab));
    if (holds_stops(s, n_history))
        for (uint32_t i = 0; i < s->n_stop_ids; i++)
            scratch[s->stop_ids[i]] = -INFINITY;
    return scratch;
}

/* Walks the kept tokens by ascending id until the uniform number is used up. */
static uint32_t draw(const float *weights, uint32_t n, const struct sampling_cut *cut, float uniform, uint32_t best)
{
    double total = 0.0;
    for (uint32_t i = 0; i < n; i++)
        total += sampling_cut_keeps(cut, weights[i], i) ? (double)weights[i] : 0.0;
    double target = (double)uniform * total;
    double sum = 0.0;
    uint32_t last = best;
    for (uint32_t i = 0; i < n; i++) {
        if (weights[i] == 0.0f || !sampling_cut_keeps(cut, weights[i], i))
            continue;
        sum += (double)weights[i];
        last = i;
        if (sum > target)
            break;
    }
    return last;
}

static uint32_t choose(const struct sampling *s, uint32_t position, const float *logits, uint32_t n_vocab,
                       float *scratch)
{
    uint32_t best = argmax(logits, n_vocab);
    if (s->temperature == 0.0f)
        return best;
    float max = logits[best];
    for (uint32_t i = 0; i < n_vocab; i++)
        scratch[i] = (logits[i] - max) / s->temperature;
    math_exp_array(scratch, scratch, n_vocab);
    struct sampling_cut cut = sampling_filter(s, scratch, n_vocab, (uint32_t *)(void *)(scratch + n_vocab));
    return draw(scratch, n_vocab, &cut, sampling_uniform(s->seed, s->choice, position), best);
}

/* log of the sum of exp(logit - max), in binary64, ids ascending. */
static double log_sum(const float *logits, uint32_t n, float max, float *scratch)
{
    for (uint32_t i = 0; i < n; i++)
        scratch[i] = logits[i] - max;
    math_exp_array(scratch, scratch, n);
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)scratch[i];
    return math_log(sum);
}

/* Keeps top[] ordered by logit descending, then id ascending; ids come ascending. */
static void offer(struct sampled *out, uint32_t capacity, uint32_t id, float logit)
{
    if (out->n_top == capacity && !(logit > out->top[capacity - 1].logprob))
        return;
    uint32_t at = out->n_top < capacity ? out->n_top++ : capacity - 1;
    for (; at > 0 && logit > out->top[at - 1].logprob; at--)
        out->top[at] = out->top[at - 1];
    out->top[at] = (struct token_logprob){ id, logit };
}

static void report(const struct sampling *s, const float *logits, uint32_t n_vocab, float *scratch, struct sampled *out)
{
    float max = logits[argmax(logits, n_vocab)];
    double log_total = log_sum(logits, n_vocab, max, scratch);
    out->logprob = (float)((double)logits[out->id] - (double)max - log_total);
    if (s->n_logprobs == 0)
        return;
    for (uint32_t i = 0; i < n_vocab; i++)
        offer(out, (uint32_t)s->n_logprobs, i, logits[i]);
    for (uint32_t i = 0; i < out->n_top; i++)
        out->top[i].logprob = (float)((double)out->top[i].logprob - (double)max - log_total);
}

static bool is_stop_id(const struct sampling *s, uint32_t id)
{
    for (uint32_t i = 0; i < s->n_stop_ids; i++)
        if (s->stop_ids[i] == id)
            return true;
    return false;
}

void sampling_choose(const struct sampling *s, const uint32_t *history, uint32_t n_history, const float *logits,
                     uint32_t n_vocab, float *scratch, struct sampled *out)
{
    ASSERT(n_vocab > 0 && s->prompt_len <= n_history && s->n_logprobs <= SAMPLING_MAX_TOP_LOGPROBS);
    memset(out, 0, sizeof *out);
    const float *adjusted = adjust(s, history, n_history, logits, n_vocab, scratch);
    out->id = choose(s, n_history, adjusted, n_vocab, scratch);
    out->is_stop = !s->ignore_eos && is_stop_id(s, out->id);
    if (s->n_logprobs >= 0)
        report(s, logits, n_vocab, scratch, out);
    if (s->want_hash) {
        XXH128_hash_t hash = XXH3_128bits(logits, n_vocab * sizeof *logits);
        out->hash[0] = hash.low64;
        out->hash[1] = hash.high64;
    }
}

/* A NaN is out of every range. */
static status check_range(const char *field, float value, float least, float most, struct error *err)
{
    if (value >= least && value <= most)
        return ST_OK;
    return error_set(err, ST_INVALID, "%s must be between %g and %g", field, (double)least, (double)most);
}

static status check_numbers(const struct sampling *s, struct error *err)
{
    const struct {
        const char *field;
        float value, least, most;
    } rows[] = {
        { "temperature", s->temperature, 0.0f, (float)SAMPLING_MAX_TEMPERATURE },
        { "min_p", s->min_p, 0.0f, 1.0f },
        { "top_p", s->top_p, 0.0f, 1.0f },
        { "repetition_penalty", s->repetition_penalty, (float)SAMPLING_MIN_REPETITION, (float)SAMPLING_MAX_REPETITION },
        { "presence_penalty", s->presence_penalty, -(float)SAMPLING_MAX_PRESENCE, (float)SAMPLING_MAX_PRESENCE },
        { "frequency_penalty", s->frequency_penalty, -(float)SAMPLING_MAX_PRESENCE, (float)SAMPLING_MAX_PRESENCE },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        status st = check_range(rows[i].field, rows[i].value, rows[i].least, rows[i].most, err);
        if (st != ST_OK)
            return st;
    }
    return s->top_p == 0.0f ? error_set(err, ST_INVALID, "top_p must be greater than 0") : ST_OK;
}

static status check_ids(const struct sampling *s, uint32_t n_vocab, struct error *err)
{
    for (uint32_t i = 0; i < s->n_bias; i++) {
        if (s->bias[i].id >= n_vocab)
            return error_set(err, ST_INVALID, "logit_bias names token %u of %u", s->bias[i].id, n_vocab);
        status st = check_range("logit_bias", s->bias[i].bias, -MAX_BIAS, MAX_BIAS, err);
        if (st != ST_OK)
            return st;
    }
    for (uint32_t i = 0; i < s->n_stop_ids; i++)
        if (s->stop_ids[i] >= n_vocab)
            return error_set(err, ST_INVALID, "stop_token_ids names token %u of %u", s->stop_ids[i], n_vocab);
    return ST_OK;
}

status sampling_check(const struct sampling *s, uint32_t n_vocab, struct error *err)
{
    status st = check_numbers(s, err);
    if (st != ST_OK)
        return st;
    if (s->top_k < -1)
        return error_set(err, ST_INVALID, "top_k must be -1 or more, not %d", s->top_k);
    if (s->n_logprobs < -1 || s->n_logprobs > SAMPLING_MAX_TOP_LOGPROBS)
        return error_set(err, ST_INVALID, "logprobs must be between 0 and %d, not %d", SAMPLING_MAX_TOP_LOGPROBS,
                         s->n_logprobs);
    if (s->n_bias > SAMPLING_MAX_BIAS)
        return error_set(err, ST_INVALID, "logit_bias must have at most %d entries, not %u", SAMPLING_MAX_BIAS,
                         s->n_bias);
    if (s->n_stop_ids > SAMPLING_MAX_STOP_IDS)
        return error_set(err, ST_INVALID, "at most %d stop token ids, not %u", SAMPLING_MAX_STOP_IDS, s->n_stop_ids);
    if (s->min_tokens > s->max_tokens)
        return error_set(err, ST_INVALID, "min_tokens must be between 0 and max_tokens (%u), not %u", s->max_tokens,
                         s->min_tokens);
    return check_ids(s, n_vocab, err);
}
