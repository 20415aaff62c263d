/* least_squares.h - three weights that explain measured times best. Pure. */
#ifndef BATON_SIM_LEAST_SQUARES_H
#define BATON_SIM_LEAST_SQUARES_H

#include <stdint.h>

struct least_squares_sample {
    double x[3], y; /* y above 0 */
};

/* weights [3], none below 0, with the least sum of squared relative errors of x[0] * w[0] + x[1] * w[1] + x[2] * w[2].
 * Returns the mean relative error. n 0: all weights are 0. */
double least_squares(const struct least_squares_sample samples[], uint32_t n, double weights[3]);

#endif
