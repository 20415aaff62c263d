#include "engine/rope.h"

#include <math.h>
#include <stddef.h>

#include "engine/math_trig.h"

#define TWO_PI 6.283185307179586

static bool is_usable(float x)
{
    return isfinite(x) && x > 0;
}

const char *rope_check(const struct rope_config *rope)
{
    if (!(rope->theta >= 1 && isfinite(rope->theta)))
        return "rotary base is not a number of at least 1";
    if (rope->scaling == ROPE_PLAIN)
        return NULL;
    if (!(rope->factor >= 1 && isfinite(rope->factor)))
        return "rotary scaling factor is not a number of at least 1";
    if (rope->scaling == ROPE_LINEAR)
        return NULL;
    if (!is_usable(rope->original_positions))
        return "rotary scaling has no original context length";
    if ((rope->scaling == ROPE_YARN || rope->scaling == ROPE_LONG) &&
        !(isfinite(rope->magnitude) && rope->magnitude >= 0))
        return "rotary scaling's attention factor is not a number above 0";
    if (rope->scaling == ROPE_LONG)
        return rope->original_positions > 1 ? NULL : "rotary scaling's original context length is not above 1";
    if (!is_usable(rope->low) || !is_usable(rope->high) || rope->low >= rope->high)
        return "rotary scaling's low bound is not below its high one";
    if (rope->scaling == ROPE_YARN && rope->theta == 1)
        return "rotary base of 1 leaves nothing to scale";
    return NULL;
}

static double llama3(const struct rope_config *rope, double inv_freq)
{
    double turns = (double)rope->original_positions * inv_freq / TWO_PI;
    double low = (double)rope->low;
    double high = (double)rope->high;
    double stretched = inv_freq / (double)rope->factor;
    if (turns < low)
        return stretched;
    if (turns > high)
        return inv_freq;
    double keep = (turns - low) / (high - low);
    return (1 - keep) * stretched + keep * inv_freq;
}

/* The (fractional) pair of dimensions that turns so often over the trained context. */
static double pair_of_turns(const struct rope_config *rope, uint32_t dim, double turns)
{
    return dim * math_log((double)rope->original_positions / (turns * TWO_PI)) / (2 * math_log((double)rope->theta));
}

static double yarn(const struct rope_config *rope, uint32_t dim, uint32_t pair, double inv_freq)
{
    double first = pair_of_turns(rope, dim, (double)rope->high);
    double last = pair_of_turns(rope, dim, (double)rope->low);
    if (!rope->exact_range) {
        first = floor(first);
        last = ceil(last);
    }
    first = first > 0 ? first : 0;
    last = last < dim - 1 ? last : dim - 1;
    if (first == last)
        last += 0.001;
    double stretch = (pair - first) / (last - first);
    stretch = stretch < 0 ? 0 : stretch > 1 ? 1 : stretch;
    return inv_freq / (double)rope->factor * stretch + inv_freq * (1 - stretch);
}

void rope_frequencies(const struct rope_config *rope, uint32_t dim, const float *factors, double *inv_freq)
{
    double log_theta = math_log((double)rope->theta);
    for (uint32_t i = 0; i < dim / 2; i++) {
        double f = math_exp64(-(2.0 * i / dim) * log_theta);
        if (rope->scaling == ROPE_LINEAR)
            f /= (double)rope->factor;
        else if (rope->scaling == ROPE_LLAMA3)
            f = llama3(rope, f);
        else if (rope->scaling == ROPE_YARN)
            f = yarn(rope, dim, i, f);
        inv_freq[i] = factors == NULL ? f : f / (double)factors[i];
    }
}

double rope_yarn_magnitude(float factor, float scale)
{
    return factor > 1 ? 0.1 * (double)scale * math_log((double)factor) + 1 : 1;
}

double rope_magnitude(const struct rope_config *rope)
{
    if (rope->scaling == ROPE_LONG && rope->magnitude == 0)
        return sqrt(1 + math_log((double)rope->factor) / math_log((double)rope->original_positions));
    if (rope->scaling != ROPE_YARN && rope->scaling != ROPE_LONG)
        return 1;
    return rope->magnitude > 0 ? (double)rope->magnitude : rope_yarn_magnitude(rope->factor, 1);
}
