#include "worker/overlap.h"

#define PATIENCE 2.0 /* steps */

#define PART_THAT_STAYS      1.5 /* of the step's time */
#define PART_TO_BE_HANDED_ON 0.5

uint32_t overlap_blocks(uint32_t n_blocks, double pull_us, double step_us, bool is_handed_over)
{
    double us = step_us * (is_handed_over ? PART_TO_BE_HANDED_ON : PART_THAT_STAYS);
    if (us <= 0)
        return 0;
    return us < pull_us ? (uint32_t)(n_blocks * us / pull_us) + 1 : n_blocks;
}

bool overlap_begins(uint64_t elapsed_us, double arrived, double step_us)
{
    return arrived > 0 && step_us > 0 && (double)elapsed_us * (1 - arrived) <= step_us * arrived;
}

uint64_t overlap_patience_us(double step_us)
{
    return (uint64_t)(PATIENCE * step_us);
}
