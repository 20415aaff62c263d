/* math_trig.h - binary64 functions by our own fixed sequences, without libm:
 * rotary angles and log-probabilities must not depend on the machine's library.
 * Accurate to a few units in the last place on the stated ranges. */
#ifndef BATON_ENGINE_MATH_TRIG_H
#define BATON_ENGINE_MATH_TRIG_H

#include <stdint.h>

double math_log(double x);   /* normal, > 0 */
double math_exp64(double x); /* |x| <= 700 */
/* |x| <= 2^26. */
void math_sincos(double x, double *sin_out, double *cos_out);

#endif
