/* draw.h - random numbers by their place: a seed, a stream and an index give the same number whoever asks first, so
 * that what a load sends does not depend on how the server answers. Mixed as SplitMix64 does (Steele et al.,
 * OOPSLA'14). What needs no certain number of draws takes them in sequence: sim/draws.h. Pure. */
#ifndef BATON_COMMON_DRAW_H
#define BATON_COMMON_DRAW_H

#include <math.h>
#include <stdint.h>

#define DRAW_STEP UINT64_C(0x9e3779b97f4a7c15) /* from one state of SplitMix64 to the next */

static inline uint64_t draw_mix(uint64_t x)
{
    x += DRAW_STEP;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* Above 0 and below 1. */
static inline double draw_unit_of(uint64_t bits)
{
    return ((double)(bits >> 12) + 0.5) * 0x1p-52;
}

/* Mean 0, deviation 1, of two that are even between 0 and 1 (Box and Muller 1958). */
static inline double draw_normal_of(double u, double v)
{
    return sqrt(-2 * log(u)) * cos(2 * M_PI * v);
}

static inline uint64_t draw_bits(uint64_t seed, uint64_t stream, uint64_t index)
{
    return draw_mix(draw_mix(draw_mix(seed) ^ stream) ^ index);
}

static inline double draw_unit(uint64_t seed, uint64_t stream, uint64_t index)
{
    return draw_unit_of(draw_bits(seed, stream, index));
}

/* Mean 1. */
static inline double draw_exponential(uint64_t seed, uint64_t stream, uint64_t index)
{
    return -log(draw_unit(seed, stream, index));
}

static inline double draw_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    return draw_normal_of(draw_unit(seed, stream, 2 * index), draw_unit(seed, stream, 2 * index + 1));
}

#endif
