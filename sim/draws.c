#include "sim/draws.h"

#include <math.h>

#include "common/draw.h"

/* ~stream itself is mixed: draw_mix() adds the step. */
struct draws draws_begin(uint64_t seed, uint64_t stream)
{
    return (struct draws){ draw_mix(seed) ^ draw_mix(~stream - DRAW_STEP) };
}

uint64_t draws_next(struct draws *d)
{
    uint64_t bits = draw_mix(d->state);
    d->state += DRAW_STEP;
    return bits;
}

double draws_uniform(struct draws *d)
{
    return draw_unit_of(draws_next(d));
}

double draws_exponential(struct draws *d, double mean)
{
    return -mean * log(draws_uniform(d));
}

double draws_normal(struct draws *d)
{
    double u = draws_uniform(d);
    return draw_normal_of(u, draws_uniform(d));
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
