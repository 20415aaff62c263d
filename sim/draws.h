/* draws.h - random numbers in sequence, for what needs no certain number of them: equal seeds give equal numbers. Made
 * of common/draw.h. Pure. */
#ifndef BATON_SIM_DRAWS_H
#define BATON_SIM_DRAWS_H

#include <stdint.h>

struct draws {
    uint64_t state;
};

/* Streams of one seed are independent of one another: arrivals do not change with how lengths are drawn. */
struct draws draws_begin(uint64_t seed, uint64_t stream);
uint64_t draws_next(struct draws *d);
double draws_uniform(struct draws *d); /* above 0 and below 1 */
double draws_exponential(struct draws *d, double mean);
double draws_normal(struct draws *d);
/* Marsaglia and Tsang, ACM TOMS 26 (2000); shape > 0. */
double draws_gamma(struct draws *d, double shape, double scale);

#endif
