/* step_cost.h - how long a step will take, learned from how long steps took.
 *   time = base + rows * row + attended * position
 * base is what every step costs (the weights are read once), row the products of
 * one row, position one position that one row attends to. Pure: the caller
 * measures. One mean observation is kept for each power of two of rows, so that
 * an hour of decoding does not make it forget what a chunk costs. */
#ifndef BATON_ENGINE_STEP_COST_H
#define BATON_ENGINE_STEP_COST_H

#include <stdint.h>

#define STEP_COST_CLASSES 20u

struct step_cost_class {
    double rows, attended, us; /* means; us 0: never seen */
};

struct step_cost { /* zeroed: nothing is known */
    struct step_cost_class classes[STEP_COST_CLASSES];
    double base_us, row_us, position_us;
    double drift; /* measured over predicted of late: the machine has other work, too */
};

/* Positions that n rows from first_pos on attend to, each to all up to its own. */
static inline uint64_t step_attended(uint32_t first_pos, uint32_t n)
{
    return (uint64_t)n * first_pos + (uint64_t)n * (n + 1) / 2;
}

void step_cost_observe(struct step_cost *cost, uint32_t rows, uint64_t attended, uint64_t us);
/* Microseconds; 0 as long as nothing was observed. */
double step_cost_predict(const struct step_cost *cost, uint32_t rows, uint64_t attended);

#endif
