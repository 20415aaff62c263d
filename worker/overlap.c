#include "worker/overlap.h"

#define PATIENCE 2.0 /* steps */

bool overlap_begins(uint64_t elapsed_us, double arrived, double step_us)
{
    return arrived > 0 && step_us > 0 && (double)elapsed_us * (1 - arrived) <= step_us * arrived;
}

uint64_t overlap_patience_us(double step_us)
{
    return (uint64_t)(PATIENCE * step_us);
}
