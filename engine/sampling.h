/* sampling.h - from logits to one token, the same on whichever worker samples.
 * Random numbers come from a counter generator (Philox4x32-10, Salmon et al.,
 * SC'11) on (seed, choice, position), so whoever samples position p of a choice
 * draws the same number. Pure: no state between calls. */
#ifndef BATON_ENGINE_SAMPLING_H
#define BATON_ENGINE_SAMPLING_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

#define SAMPLING_MAX_BIAS         1024
#define SAMPLING_MAX_STOP_IDS     64
#define SAMPLING_MAX_TOP_LOGPROBS 20

/* The ranges of OpenAI's API, and of vLLM's for what that one does not have. */
#define SAMPLING_MAX_TEMPERATURE 2.0
#define SAMPLING_MIN_REPETITION  0.01
#define SAMPLING_MAX_REPETITION  10.0
#define SAMPLING_MAX_PRESENCE    2.0 /* penalties of presence and frequency, both ways */

struct logit_bias {
    uint32_t id;
    float bias;
};

struct sampling {
    uint64_t seed;
    uint32_t choice;
    uint32_t prompt_len;      /* generated tokens begin at this position */
    uint32_t max_tokens;      /* generated tokens at most                */
    uint32_t min_tokens;      /* no stop id before this many are generated */
    float temperature;        /* 0: greedy, ties to the lowest id        */
    float top_p;              /* 1: off */
    float min_p;              /* 0: off */
    int32_t top_k;            /* 0 or -1: off */
    float repetition_penalty; /* 1: off; over prompt and answer, as in transformers */
    float presence_penalty;   /* over the answer, as OpenAI defines them */
    float frequency_penalty;
    bool ignore_eos;
    int32_t n_logprobs; /* -1: none; 0..20 alternatives beside the chosen token */
    bool want_hash;     /* XXH3-128 of the raw logits */
    uint32_t n_bias;
    const struct logit_bias *bias; /* borrowed */
    uint32_t n_stop_ids;           /* end-of-answer ids; suppressed before min_tokens, and by ignore_eos not ending */
    const uint32_t *stop_ids;      /* borrowed */
};

struct token_logprob {
    uint32_t id;
    float logprob;
};

/* What one sampled position gives. Log-probabilities are of the raw logits
 * (before temperature, penalties and bias), in natural log. */
struct sampled {
    uint32_t id;
    bool is_stop;   /* id is a stop id and ignore_eos is off */
    float logprob;  /* when n_logprobs >= 0 */
    uint32_t n_top; /* the n_logprobs likeliest, best first, ties to the lowest id */
    struct token_logprob top[SAMPLING_MAX_TOP_LOGPROBS];
    uint64_t hash[2]; /* when want_hash: low, high */
};

/* history: prompt and generated ids so far, [n_history]; the sampled position is
 * n_history. logits [n_vocab] are read only; scratch holds 2 * n_vocab
 * floats. Filters in vLLM's order: bias and penalties, min_tokens, temperature, top_k,
 * top_p, min_p. */
void sampling_choose(const struct sampling *s, const uint32_t *history, uint32_t n_history, const float *logits,
                     uint32_t n_vocab, float *scratch, struct sampled *out);

/* ST_INVALID with the field and its range when a value is out of range. */
MUST_CHECK status sampling_check(const struct sampling *s, uint32_t n_vocab, struct error *err);

/* Uniform in [0, 1) with 24 bits, of the generator above. */
float sampling_uniform(uint64_t seed, uint32_t choice, uint32_t position);

#endif
