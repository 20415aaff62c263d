#include "engine/step_cost.h"

#define TERMS         3u
#define SWEEPS        8u
#define RATE_OF_CLASS 0.1
#define RATE_OF_DRIFT 0.2
#define DRIFT_LEAST   0.5
#define DRIFT_MOST    2.0
#define OUTLIER       4.0 /* a step that took longer than so many means counts as so many */

static uint32_t class_of(uint32_t rows)
{
    uint32_t class = 0;
    while (class + 1 < STEP_COST_CLASSES && rows >> (class + 1))
        class ++;
    return class;
}

static void move(double *mean, double value)
{
    *mean += RATE_OF_CLASS * (value - *mean);
}

static void note(struct step_cost_class *class, double rows, double attended, double us)
{
    if (class->us == 0.0) {
        *class = (struct step_cost_class){ rows, attended, us };
        return;
    }
    move(&class->rows, rows);
    move(&class->attended, attended);
    move(&class->us, us < OUTLIER * class->us ? us : OUTLIER * class->us);
}

/* Least squares of relative errors with no negative term, by coordinate descent from where it stood: a few sweeps
 * for each observation are enough, as observations keep coming. */
static void fit(struct step_cost *cost)
{
    double h[TERMS][TERMS] = { { 0 } };
    double g[TERMS] = { 0 };
    double beta[TERMS] = { cost->base_us, cost->row_us, cost->position_us };
    for (uint32_t c = 0; c < STEP_COST_CLASSES; c++) {
        const struct step_cost_class *class = &cost->classes[c];
        if (class->us == 0.0)
            continue;
        double x[TERMS] = { 1.0 / class->us, class->rows / class->us, class->attended / class->us };
        for (uint32_t i = 0; i < TERMS; i++) {
            g[i] += x[i];
            for (uint32_t j = 0; j < TERMS; j++)
                h[i][j] += x[i] * x[j];
        }
    }
    for (uint32_t sweep = 0; sweep < SWEEPS; sweep++)
        for (uint32_t i = 0; i < TERMS; i++) {
            double left = g[i] + h[i][i] * beta[i];
            for (uint32_t j = 0; j < TERMS; j++)
                left -= h[i][j] * beta[j];
            beta[i] = h[i][i] > 0.0 && left > 0.0 ? left / h[i][i] : 0.0;
        }
    cost->base_us = beta[0];
    cost->row_us = beta[1];
    cost->position_us = beta[2];
}

static double undrifted(const struct step_cost *cost, double rows, double attended)
{
    return cost->base_us + rows * cost->row_us + attended * cost->position_us;
}

void step_cost_observe(struct step_cost *cost, uint32_t rows, uint64_t attended, uint64_t us)
{
    if (rows == 0 || us == 0)
        return;
    double expected = undrifted(cost, rows, (double)attended);
    if (cost->drift == 0.0)
        cost->drift = 1.0;
    else if (expected > 0.0)
        cost->drift += RATE_OF_DRIFT * ((double)us / expected - cost->drift);
    cost->drift = cost->drift < DRIFT_LEAST ? DRIFT_LEAST : cost->drift > DRIFT_MOST ? DRIFT_MOST : cost->drift;
    note(&cost->classes[class_of(rows)], rows, (double)attended, (double)us);
    fit(cost);
}

double step_cost_predict(const struct step_cost *cost, uint32_t rows, uint64_t attended)
{
    return cost->drift * undrifted(cost, rows, (double)attended);
}
