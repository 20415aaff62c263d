#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sim/arrivals.h"

#define N    200000u
#define RATE 20.0

struct gaps {
    double mean, cv;
};

static struct gaps gaps_of(const struct arrivals_options *o, uint64_t seed)
{
    struct arrivals a;
    double last = 0, sum = 0, squares = 0;
    arrivals_begin(&a, o, seed);
    for (uint32_t i = 0; i < N; i++) {
        double at = arrivals_next(&a);
        assert_true(at >= last);
        sum += at - last;
        squares += (at - last) * (at - last);
        last = at;
    }
    double mean = sum / N;
    return (struct gaps){ mean, sqrt(squares / N - mean * mean) / mean };
}

static void all_have_their_rate(void **state)
{
    (void)state;
    for (int p = 0; p < ARRIVAL_PROCESS_COUNT; p++) {
        struct arrivals_options o = arrivals_defaults();
        o.process = (enum arrival_process)p;
        o.rate = RATE;
        o.period_s = 100;
        double rate = 1 / gaps_of(&o, 1).mean;
        assert_true(fabs(rate / RATE - 1) < 0.03);
    }
}

static void gaps_vary_as_asked(void **state)
{
    const double cvs[] = { 0.3, 1, 3 };
    struct arrivals_options o = arrivals_defaults();
    (void)state;
    assert_true(fabs(gaps_of(&o, 2).cv - 1) < 0.02);
    o.process = ARRIVALS_GAMMA;
    for (int i = 0; i < 3; i++) {
        o.cv = cvs[i];
        assert_true(fabs(gaps_of(&o, 2).cv / cvs[i] - 1) < 0.05);
    }
    o.process = ARRIVALS_MMPP;
    assert_true(gaps_of(&o, 2).cv > 1.1); /* in bursts */
}

/* The upper half of the swing has rate * (1 + 2 / pi) on average. */
static void days_swing(void **state)
{
    struct arrivals_options o = arrivals_defaults();
    struct arrivals a;
    uint32_t upper = 0;
    (void)state;
    o.process = ARRIVALS_DIURNAL;
    o.rate = RATE;
    o.period_s = 100;
    arrivals_begin(&a, &o, 3);
    for (uint32_t i = 0; i < N; i++)
        upper += fmod(arrivals_next(&a), o.period_s) < o.period_s / 2;
    assert_true(fabs((double)upper / N - (1 + 2 / 3.14159265) / 2) < 0.01);
}

static void seeds_tell(void **state)
{
    struct arrivals_options o = arrivals_defaults();
    struct arrivals a, b, c;
    (void)state;
    arrivals_begin(&a, &o, 7);
    arrivals_begin(&b, &o, 7);
    arrivals_begin(&c, &o, 8);
    for (int i = 0; i < 100; i++) {
        double at = arrivals_next(&a);
        assert_true(at == arrivals_next(&b));
        assert_true(at != arrivals_next(&c));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(all_have_their_rate), cmocka_unit_test(gaps_vary_as_asked),
                                        cmocka_unit_test(days_swing), cmocka_unit_test(seeds_tell) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
