/* Our fixed sequences against the C library's functions, which are accurate but
 * not the same everywhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "engine/math_f32.h"
#include "engine/math_trig.h"

static void assert_near(double got, double expected, double relative, double absolute)
{
    if (!(fabs(got - expected) <= relative * fabs(expected) + absolute))
        fail_msg("%.17g is not near %.17g", got, expected);
}

static void test_exp(void **state)
{
    (void)state;
    for (float x = MATH_EXP_MIN; x <= MATH_EXP_MAX; x += 0.0137f)
        assert_near((double)math_exp(x), exp((double)x), 2e-7, 0);
    assert_true(math_exp(0.0f) == 1.0f);
    assert_true(math_exp(-0.0f) == 1.0f);
    assert_true(math_exp(-87.01f) == 0.0f);
    assert_true(math_exp(-INFINITY) == 0.0f);
    assert_true(math_exp(INFINITY) == math_exp(MATH_EXP_MAX));
    assert_true(math_exp(NAN) == math_exp(MATH_EXP_MAX));
    assert_true(isfinite(math_exp(MATH_EXP_MAX)));
}

/* These very bits: whoever changes the sequence changes every answer ever given. */
static void test_exp_bits(void **state)
{
    (void)state;
    const struct {
        float x;
        uint32_t bits;
    } rows[] = { { 1.0f, 0x402df854u }, { -0.7f, 0x3efe406eu }, { -33.3f, 0x2778b2eau }, { 5.25f, 0x433e90f7u } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        float y = math_exp(rows[i].x);
        uint32_t bits;
        memcpy(&bits, &y, sizeof bits);
        assert_int_equal(bits, rows[i].bits);
    }
}

static void test_exp_array(void **state)
{
    (void)state;
    float x[37];
    float y[37];
    for (int i = 0; i < 37; i++)
        x[i] = (float)(i - 20) * 5.3f;
    math_exp_array(x, y, 37);
    for (int i = 0; i < 37; i++)
        assert_true(y[i] == math_exp(x[i]));
}

static void test_silu(void **state)
{
    (void)state;
    for (float x = -100.0f; x <= 100.0f; x += 0.37f)
        assert_near((double)math_silu(x), (double)x / (1 + exp(-(double)x)), 5e-7, 1e-35);
}

static void test_tanh(void **state)
{
    (void)state;
    for (float x = -12.0f; x <= 12.0f; x += 0.00037f)
        assert_near((double)math_tanh(x), tanh((double)x), 4e-7, 0);
    for (float x = 1e-30f; x < 1.0f; x *= 1.37f) {
        assert_near((double)math_tanh(x), tanh((double)x), 4e-7, 0);
        assert_near((double)math_tanh(-x), -tanh((double)x), 4e-7, 0);
    }
    assert_true(math_tanh(INFINITY) == 1.0f && math_tanh(-INFINITY) == -1.0f && math_tanh(0.0f) == 0.0f);
    assert_true(math_tanh(NAN) == math_tanh(INFINITY));
}

static void test_gelu_and_soft_cap(void **state)
{
    (void)state;
    for (float x = -30.0f; x <= 30.0f; x += 0.0037f) {
        double inner = 0.7978845608028654 * ((double)x + 0.044715 * pow((double)x, 3));
        assert_near((double)math_gelu(x), 0.5 * (double)x * (1 + tanh(inner)), 5e-7, 5e-7);
        assert_near((double)math_soft_cap(x * 10, 50.0f), 50 * tanh((double)(x * 10) / 50), 5e-7, 0);
    }
}

static void test_tanh_bits(void **state)
{
    (void)state;
    const struct {
        float x;
        uint32_t bits;
    } rows[] = { { 1.0f, 0x3f42f7d6u }, { -0.01f, 0xbc23d5a4u }, { -3.3f, 0xbf7f4defu }, { 0.4f, 0x3ec288acu } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        float y = math_tanh(rows[i].x);
        uint32_t bits;
        memcpy(&bits, &y, sizeof bits);
        if (bits != rows[i].bits)
            fail_msg("tanh(%g) is 0x%08xu", (double)rows[i].x, bits);
    }
}

static void test_round(void **state)
{
    (void)state;
    const float x[] = { 0.5f, 1.5f, -0.5f, -2.5f, 126.5f, 127.0f, -126.49f, 32511.5f };
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        assert_true(math_round(x[i]) == nearbyintf(x[i]));
}

static void test_log_and_exp64(void **state)
{
    (void)state;
    for (double x = 1e-300; x < 1e300; x *= 1.7) {
        assert_near(math_log(x), log(x), 1e-15, 1e-15);
        assert_near(math_exp64(log(x)), exp(log(x)), 2e-15, 0);
    }
    for (double x = 0.5; x < 2; x += 0.00137)
        assert_near(math_log(x), log(x), 4e-15, 1e-18);
    assert_true(math_log(1.0) == 0.0);
}

static void test_sincos(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 200000; i++) {
        double x = (double)i * 0.7771 * (i % 3 == 0 ? -1 : 1);
        double s;
        double c;
        math_sincos(x, &s, &c);
        assert_near(s, sin(x), 0, 1e-15);
        assert_near(c, cos(x), 0, 1e-15);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),       cmocka_unit_test(test_exp_bits), cmocka_unit_test(test_exp_array),
        cmocka_unit_test(test_silu),      cmocka_unit_test(test_round),    cmocka_unit_test(test_log_and_exp64),
        cmocka_unit_test(test_sincos),    cmocka_unit_test(test_tanh),     cmocka_unit_test(test_gelu_and_soft_cap),
        cmocka_unit_test(test_tanh_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
