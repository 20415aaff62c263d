#include "sim/step_run.h"

#include <math.h>

uint64_t step_run_time(const struct step_run *run, uint64_t k)
{
    double steps = (double)k;
    return (uint64_t)(run->first * steps + run->more * (steps * (steps - 1) / 2));
}

/* The root of the sum, then the steps next to it: rounding may have gone either way. */
uint64_t step_run_over(const struct step_run *run, uint64_t elapsed)
{
    double half = run->more / 2, b = run->first - half, time = (double)elapsed;
    double root = half > 0 ? (sqrt(b * b + 4 * half * time) - b) / (2 * half) : time / run->first;
    uint64_t k = root > 1 ? (uint64_t)root - 1 : 0;
    while (step_run_time(run, k + 1) <= elapsed)
        k++;
    while (k > 0 && step_run_time(run, k) > elapsed)
        k--;
    return k;
}
