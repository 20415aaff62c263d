/* rope.h - the frequencies of the rotary embedding (RoFormer, Su et al. 2021), and how models stretch them to
 * contexts longer than they were trained on:
 *   LINEAR  every frequency divided by the factor (Chen et al. 2023).
 *   LLAMA3  low frequencies divided, high ones kept, those between blended (Llama 3.1).
 *   YARN    the same by the number of turns over the trained context, and cosines and sines scaled
 *           (Peng et al. 2023).
 * The formulas are transformers' (modeling_rope_utils). Pure. */
#ifndef BATON_ENGINE_ROPE_H
#define BATON_ENGINE_ROPE_H

#include <stdbool.h>
#include <stdint.h>

#define ROPE_SCALINGS(X) X(PLAIN, "default") X(LINEAR, "linear") X(LLAMA3, "llama3") X(YARN, "yarn") X(LONG, "longrope")

enum rope_scaling {
#define X(name, text) ROPE_##name,
    ROPE_SCALINGS(X)
#undef X
};

struct rope_config {
    float theta;
    enum rope_scaling scaling;
    float factor;             /* LINEAR, LLAMA3, YARN, LONG: how many times longer */
    float original_positions; /* LLAMA3, YARN, LONG: the trained context */
    float low, high;          /* LLAMA3: wavelengths in the trained context between which is blended;
                               * YARN: turns in it (beta_slow, beta_fast) */
    float magnitude;          /* YARN, LONG: of cosines and sines; 0: 0.1 * ln(factor) + 1,
                               * sqrt(1 + ln(factor) / ln(original_positions)) */
    bool exact_range;         /* YARN: the blended dimensions are not rounded to whole ones */
};

/* Defaults of what a file leaves out. */
#define ROPE_YARN_LOW    1.0f
#define ROPE_YARN_HIGH   32.0f
#define ROPE_LLAMA3_LOW  1.0f
#define ROPE_LLAMA3_HIGH 4.0f

/* NULL when all numbers are usable, else what is not. */
const char *rope_check(const struct rope_config *rope);

/* inv_freq[i], i < dim / 2; factors [dim / 2] divide them (GGUF's rope_freqs, LONG's short_factor), NULL: nothing
 * does. LONG has other factors for sequences longer than the trained context, all positions of them: there a token's
 * values would depend on how many follow it. Models are taken up to the trained context instead, and never use these.
 */
void rope_frequencies(const struct rope_config *rope, uint32_t dim, const float *factors, double *inv_freq);
/* What cosines and sines are multiplied with. */
double rope_magnitude(const struct rope_config *rope);
/* YaRN's rule for it: 0.1 * scale * ln(factor) + 1. */
double rope_yarn_magnitude(float factor, float scale);

#endif
