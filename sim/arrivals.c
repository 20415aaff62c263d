#include "sim/arrivals.h"

#include <math.h>

#define STREAM 1u
#define TWO_PI 6.283185307179586

const char *arrival_process_name(enum arrival_process process)
{
    static const char *const names[] = {
#define X(name, text) text,
        ARRIVAL_PROCESSES(X)
#undef X
    };
    return names[process];
}

struct arrivals_options arrivals_defaults(void)
{
    return (struct arrivals_options){ .process = ARRIVALS_POISSON,
                                      .rate = 1,
                                      .cv = 2,
                                      .burst_ratio = 5,
                                      .burst_share = 0.2,
                                      .burst_s = 10,
                                      .swing = 1,
                                      .period_s = 86400 };
}

static double stay_s(const struct arrivals_options *o, bool in_burst)
{
    return in_burst ? o->burst_s : o->burst_s * (1 - o->burst_share) / o->burst_share;
}

/* It begins in either state as often as it is in it. */
void arrivals_begin(struct arrivals *a, const struct arrivals_options *options, uint64_t seed)
{
    *a = (struct arrivals){ .options = *options, .draws = draws_begin(seed, STREAM) };
    if (options->process != ARRIVALS_MMPP)
        return;
    a->in_burst = draws_uniform(&a->draws) <= options->burst_share;
    a->change_s = draws_exponential(&a->draws, stay_s(options, a->in_burst));
}

static void next_mmpp(struct arrivals *a)
{
    const struct arrivals_options *o = &a->options;
    double calm = o->rate / (1 + o->burst_share * (o->burst_ratio - 1));
    for (;;) {
        double rate = a->in_burst ? calm * o->burst_ratio : calm;
        double gap = draws_exponential(&a->draws, 1 / rate);
        if (a->now_s + gap <= a->change_s) {
            a->now_s += gap;
            return;
        }
        a->now_s = a->change_s; /* what is left of a gap is as long as a new one */
        a->in_burst = !a->in_burst;
        a->change_s += draws_exponential(&a->draws, stay_s(o, a->in_burst));
    }
}

/* Thinning: Lewis and Shedler, Naval Research Logistics 26 (1979). */
static void next_diurnal(struct arrivals *a)
{
    const struct arrivals_options *o = &a->options;
    double most = o->rate * (1 + o->swing), rate;
    do {
        a->now_s += draws_exponential(&a->draws, 1 / most);
        rate = o->rate * (1 + o->swing * sin(TWO_PI * a->now_s / o->period_s));
    } while (draws_uniform(&a->draws) * most > rate);
}

double arrivals_next(struct arrivals *a)
{
    const struct arrivals_options *o = &a->options;
    double shape = 1 / (o->cv * o->cv);
    switch (o->process) {
    case ARRIVALS_GAMMA:
        a->now_s += draws_gamma(&a->draws, shape, 1 / (o->rate * shape));
        break;
    case ARRIVALS_MMPP:
        next_mmpp(a);
        break;
    case ARRIVALS_DIURNAL:
        next_diurnal(a);
        break;
    default:
        a->now_s += draws_exponential(&a->draws, 1 / o->rate);
    }
    return a->now_s;
}
