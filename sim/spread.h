/* spread.h - a distribution of times in classes of which each is half a percent wider than the one below, so that a
 * percentile is right to a quarter of a percent, and counting a million alike costs what counting one does. Pure; a
 * value of 40 KB. Microseconds. */
#ifndef BATON_SIM_SPREAD_H
#define BATON_SIM_SPREAD_H

#include <stdint.h>

#include "sim/step_run.h"

#define SPREAD_CLASSES 5000u /* from 1 us to 18 hours; what is beyond counts as the last one */

struct spread { /* zeroed: empty */
    uint64_t counts[SPREAD_CLASSES];
    uint64_t n;
    double sum, most;
};

void spread_add(struct spread *s, double us, uint64_t times);
/* Steps [first, first + n) of a run, each `times`. */
void spread_add_run(struct spread *s, const struct step_run *run, uint64_t first, uint64_t n, uint64_t times);
/* The value that `share` of all are at or below; 0 of none. */
double spread_at(const struct spread *s, double share);
double spread_mean(const struct spread *s);

#endif
