#include "sim/spread.h"

#include <math.h>

#define WIDTH 1.005

static uint32_t class_of(double us)
{
    if (us <= 1)
        return 0;
    double i = log(us) * (1 / log(WIDTH));
    return i < SPREAD_CLASSES - 1 ? (uint32_t)i : SPREAD_CLASSES - 1;
}

static double end_of(uint32_t class)
{
    return exp((class + 1) * log(WIDTH));
}

void spread_add(struct spread *s, double us, uint64_t times)
{
    if (times == 0)
        return;
    s->counts[class_of(us)] += times;
    s->n += times;
    s->sum += us * (double)times;
    s->most = fmax(s->most, us);
}

/* How many steps from `first` on end below the value; at least one, and no more than n. */
static uint64_t below(const struct step_run *run, uint64_t first, uint64_t n, double us)
{
    double k = ceil((us * 1e3 - step_run_step(run, first)) / run->more);
    return k < 1 ? 1 : k < (double)n ? (uint64_t)k : n;
}

void spread_add_run(struct spread *s, const struct step_run *run, uint64_t first, uint64_t n, uint64_t times)
{
    if (n == 0 || times == 0)
        return;
    double least = step_run_step(run, first) / 1e3, most = step_run_step(run, first + n - 1) / 1e3;
    s->n += n * times;
    s->sum += (least + most) / 2 * (double)n * (double)times;
    s->most = fmax(s->most, most);
    uint32_t last = class_of(most);
    while (n > 0) {
        uint32_t class = class_of(step_run_step(run, first) / 1e3);
        uint64_t k = class >= last ? n : below(run, first, n, end_of(class));
        s->counts[class] += k * times;
        first += k;
        n -= k;
    }
}

double spread_at(const struct spread *s, double share)
{
    uint64_t seen = 0, wanted = (uint64_t)ceil(share * (double)s->n);
    if (s->n == 0)
        return 0;
    for (uint32_t i = 0; i < SPREAD_CLASSES; i++) {
        seen += s->counts[i];
        if (seen >= wanted && s->counts[i])
            return fmin(end_of(i) / sqrt(WIDTH), s->most);
    }
    return s->most;
}

double spread_mean(const struct spread *s)
{
    return s->n ? s->sum / (double)s->n : 0;
}
