#include "engine/math_trig.h"

#include <math.h>
#include <string.h>

#define ROUND_MAGIC 6755399441055744.0 /* 1.5 * 2^52 */
#define LN2_HI      0x1.62e42fefa39efp-1
#define LN2_LO      0x1.abc9e3b39803fp-56
#define LOG2E       0x1.71547652b82fep+0
#define PIO2_HI     0x1.921fb54442d18p+0
#define PIO2_LO     0x1.1a62633145c07p-54
#define TWO_OVER_PI 0x1.45f306dc9c883p-1
#define SQRT2       0x1.6a09e667f3bcdp+0

static double round_even(double x)
{
    return (x + ROUND_MAGIC) - ROUND_MAGIC;
}

/* log(m 2^e) = e ln 2 + 2 atanh((m - 1) / (m + 1)), m in [sqrt(1/2), sqrt(2)). */
double math_log(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int64_t e = (int64_t)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffu) | 0x3ff0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > SQRT2) {
        m *= 0.5;
        e++;
    }
    double f = (m - 1.0) / (m + 1.0);
    double f2 = f * f;
    double s = 0.0;
    for (int k = 12; k >= 0; k--)
        s = fma(s, f2, 1.0 / (2 * k + 1));
    double de = (double)e;
    return fma(de, LN2_HI, fma(de, LN2_LO, 2.0 * f * s));
}

double math_exp64(double x)
{
    double n = round_even(x * LOG2E);
    double r = fma(n, -LN2_HI, x);
    r = fma(n, -LN2_LO, r);
    double p = 1.0;
    for (int k = 14; k >= 1; k--)
        p = fma(p, r / k, 1.0);
    uint64_t bits = (uint64_t)((int64_t)n + 1023) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

void math_sincos(double x, double *sin_out, double *cos_out)
{
    double k = round_even(x * TWO_OVER_PI);
    double r = fma(k, -PIO2_HI, x);
    r = fma(k, -PIO2_LO, r);
    double r2 = r * r;
    double s = 1.0;
    double c = 1.0;
    for (int i = 8; i >= 1; i--) {
        s = fma(s, -r2 / (2 * i * (2 * i + 1)), 1.0);
        c = fma(c, -r2 / ((2 * i - 1) * 2 * i), 1.0);
    }
    s *= r;
    switch ((int64_t)k & 3) {
    case 0:
        *sin_out = s;
        *cos_out = c;
        break;
    case 1:
        *sin_out = c;
        *cos_out = -s;
        break;
    case 2:
        *sin_out = -s;
        *cos_out = -c;
        break;
    default:
        *sin_out = -c;
        *cos_out = s;
        break;
    }
}
