#include "sim/least_squares.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#define SUBSETS 8u

struct normal {
    double a[3][3], b[3];
};

static struct normal normal_of(const struct least_squares_sample samples[], uint32_t n)
{
    struct normal m = { 0 };
    for (uint32_t s = 0; s < n; s++)
        for (int i = 0; i < 3; i++) {
            double xi = samples[s].x[i] / samples[s].y;
            m.b[i] += xi;
            for (int j = 0; j < 3; j++)
                m.a[i][j] += xi * samples[s].x[j] / samples[s].y;
        }
    return m;
}

/* A weight that is left out has the equation w = 0. */
static struct normal without(const struct normal *m, uint32_t used)
{
    struct normal out = *m;
    for (uint32_t i = 0; i < 3; i++)
        for (uint32_t j = 0; j < 3; j++)
            if (!(used & 1u << i) || !(used & 1u << j))
                out.a[i][j] = i == j;
    for (uint32_t i = 0; i < 3; i++)
        if (!(used & 1u << i))
            out.b[i] = 0;
    return out;
}

static double determinant(const double a[3][3])
{
    return a[0][0] * (a[1][1] * a[2][2] - a[1][2] * a[2][1]) - a[0][1] * (a[1][0] * a[2][2] - a[1][2] * a[2][0]) +
           a[0][2] * (a[1][0] * a[2][1] - a[1][1] * a[2][0]);
}

/* Cramer's rule; false: the samples do not tell the weights apart, or one is below 0. */
static bool solve(const struct normal *m, double weights[3])
{
    double whole = determinant(m->a), scale = 1;
    for (int i = 0; i < 3; i++)
        scale *= m->a[i][i];
    if (!(fabs(whole) > 1e-12 * scale))
        return false;
    for (int i = 0; i < 3; i++) {
        struct normal column = *m;
        for (int j = 0; j < 3; j++)
            column.a[j][i] = m->b[j];
        weights[i] = determinant(column.a) / whole;
        if (weights[i] < 0)
            return false;
    }
    return true;
}

static double error_of(const struct least_squares_sample samples[], uint32_t n, const double w[3], bool squared)
{
    double sum = 0;
    for (uint32_t s = 0; s < n; s++) {
        const double *x = samples[s].x;
        double error = (x[0] * w[0] + x[1] * w[1] + x[2] * w[2]) / samples[s].y - 1;
        sum += squared ? error * error : fabs(error);
    }
    return n ? sum / n : 0;
}

/* The best with no weight below 0 is the plain best of the weights that it uses: so few can all be tried. */
double least_squares(const struct least_squares_sample samples[], uint32_t n, double weights[3])
{
    const struct normal all = normal_of(samples, n);
    double best = INFINITY;
    memset(weights, 0, 3 * sizeof *weights);
    for (uint32_t used = 1; used < SUBSETS && n > 0; used++) {
        struct normal some = without(&all, used);
        double w[3];
        if (!solve(&some, w))
            continue;
        double error = error_of(samples, n, w, true);
        if (error >= best)
            continue;
        best = error;
        memcpy(weights, w, sizeof w);
    }
    return error_of(samples, n, weights, false);
}
