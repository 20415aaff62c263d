/* step_run.h - a run of decode steps of one batch, all at once.
 * A step of n sequences that hold `context` tokens together takes base + per_context * context + per_sequence * n, and
 * each step adds n tokens to the context. So times rise in even steps, and the time of k steps is a sum that needs no
 * loop; while nobody joins or leaves, it is what single steps come to. Pure; nanoseconds. */
#ifndef BATON_SIM_STEP_RUN_H
#define BATON_SIM_STEP_RUN_H

#include <stdint.h>

struct step_run {
    double first; /* the first step */
    double more;  /* each step is longer by this than the one before */
};

static inline double step_run_step(const struct step_run *run, uint64_t i)
{
    return run->first + run->more * (double)i;
}

/* From the start to the end of the k-th step; what is left of a nanosecond is cut off. */
uint64_t step_run_time(const struct step_run *run, uint64_t k);
/* How many steps are over after so long. */
uint64_t step_run_over(const struct step_run *run, uint64_t elapsed);

#endif
