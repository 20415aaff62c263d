/* arrivals.h - when synthetic requests come. Pure; equal options and seeds give equal times.
 *   poisson   independent of one another: what many users make
 *   gamma     gaps with a coefficient of variation of their own: below 1 more even than Poisson's, above it in bursts
 *   mmpp      a Poisson process whose rate changes between calm and burst, each for an exponential time
 *   diurnal   a Poisson process whose rate swings once a period around its mean
 * All have the same mean rate in the long run. */
#ifndef BATON_SIM_ARRIVALS_H
#define BATON_SIM_ARRIVALS_H

#include <stdbool.h>

#include "sim/draws.h"

#define ARRIVAL_PROCESSES(X) X(POISSON, "poisson") X(GAMMA, "gamma") X(MMPP, "mmpp") X(DIURNAL, "diurnal")

enum arrival_process {
#define X(name, text) ARRIVALS_##name,
    ARRIVAL_PROCESSES(X)
#undef X
        ARRIVAL_PROCESS_COUNT
};
const char *arrival_process_name(enum arrival_process process);

struct arrivals_options {
    enum arrival_process process;
    double rate;        /* requests/s, above 0 */
    double cv;          /* gamma: of the gaps, above 0 */
    double burst_ratio; /* mmpp: the rate in a burst over the one in calm, at least 1 */
    double burst_share; /* mmpp: of the time, above 0 and below 1 */
    double burst_s;     /* mmpp: mean length of a burst */
    double swing;       /* diurnal: 0 to 1, of the mean rate */
    double period_s;    /* diurnal */
};

struct arrivals {
    struct arrivals_options options;
    struct draws draws;
    double now_s;
    bool in_burst; /* mmpp, until: */
    double change_s;
};

/* As good defaults as there are: cv 2; bursts of 10 s, of five times the calm rate, a fifth of the time; a whole swing
 * in 24 h. The caller sets process and rate. */
struct arrivals_options arrivals_defaults(void);
void arrivals_begin(struct arrivals *a, const struct arrivals_options *options, uint64_t seed);
/* Seconds from the start to the next arrival. */
double arrivals_next(struct arrivals *a);

#endif
