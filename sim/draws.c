#include "sim/draws.h"

#include <math.h>

#define TWO_PI 6.283185307179586

static uint64_t mixed(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

struct draws draws_begin(uint64_t seed, uint64_t stream)
{
    return (struct draws){ mixed(seed + 0x9e3779b97f4a7c15u) ^ mixed(~stream) };
}

/* splitmix64: Steele, Lea and Flood, OOPSLA 2014. */
uint64_t draws_next(struct draws *d)
{
    d->state += 0x9e3779b97f4a7c15u;
    return mixed(d->state);
}

double draws_uniform(struct draws *d)
{
    return (double)((draws_next(d) >> 11) + 1) * 0x1p-53;
}

double draws_exponential(struct draws *d, double mean)
{
    return -mean * log(draws_uniform(d));
}

double draws_normal(struct draws *d)
{
    double radius = sqrt(-2 * log(draws_uniform(d)));
    return radius * cos(TWO_PI * draws_uniform(d));
}

static double gamma_of_one(struct draws *d, double shape)
{
    double third = shape - 1.0 / 3, c = 1 / sqrt(9 * third);
    for (;;) {
        double x = draws_normal(d), v = 1 + c * x;
        if (v <= 0)
            continue;
        v = v * v * v;
        if (log(draws_uniform(d)) < 0.5 * x * x + third - third * v + third * log(v))
            return third * v;
    }
}

double draws_gamma(struct draws *d, double shape, double scale)
{
    if (shape >= 1)
        return scale * gamma_of_one(d, shape);
    double power = pow(draws_uniform(d), 1 / shape);
    return scale * power * gamma_of_one(d, shape + 1);
}

double draws_lognormal(struct draws *d, double mean, double cv)
{
    if (cv <= 0)
        return mean;
    double variance = log(1 + cv * cv);
    return mean * exp(sqrt(variance) * draws_normal(d) - variance / 2);
}
