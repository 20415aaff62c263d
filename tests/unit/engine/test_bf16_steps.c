/* The scalar arithmetic of class amx against binary64, and what its contract says of the ends of the range. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/bf16_steps.h"
#include "engine/tensor.h"

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static void test_rounding(void **state)
{
    (void)state;
    for (uint32_t high = 0; high < 0x10000; high++)
        for (uint32_t low = 0; low < 0x10000; low += 0x1fff) {
            uint32_t bits = high << 16 | low;
            float x;
            memcpy(&x, &bits, sizeof x);
            bool denormal = (bits & 0x7f800000) == 0;
            assert_int_equal(bf16_round(x), denormal ? high & 0x8000 : f32_to_bf16(x));
        }
}

static void test_widening(void **state)
{
    (void)state;
    for (uint32_t x = 0; x < 0x10000; x++) {
        bool denormal = (x & 0x7f80) == 0;
        assert_int_equal(bits_of(bf16_widen((uint16_t)x)), denormal ? (x & 0x8000) << 16 : x << 16);
    }
}

/* Even and odd halves of pairs are summed apart: what cancels across them is not lost. */
static void test_order_of_a_step(void **state)
{
    (void)state;
    uint16_t one[CONTRACT_STEP];
    uint16_t x[CONTRACT_STEP] = { 0 };
    for (uint32_t k = 0; k < CONTRACT_STEP; k++)
        one[k] = bf16_round(1.0f);
    x[0] = bf16_round(0x1p30f);
    x[1] = bf16_round(1.0f);
    x[2] = bf16_round(-0x1p30f);
    assert_true(bf16_step(0.0f, x, one) == 1.0f);
    /* In one chain the 1 is lost before the large ones cancel. */
    x[1] = 0;
    x[2] = bf16_round(1.0f);
    x[4] = bf16_round(-0x1p30f);
    assert_true(bf16_step(0.0f, x, one) == 0.0f);
    /* The step's sum is made before it meets the sum so far. */
    memset(x, 0, sizeof x);
    x[0] = bf16_round(1.0f);
    x[1] = bf16_round(1.0f);
    assert_true(bf16_step(0x1p24f, x, one) == 0x1p24f + 2.0f);
}

static void test_denormals_are_zero(void **state)
{
    (void)state;
    uint16_t x[CONTRACT_STEP] = { 0 };
    uint16_t y[CONTRACT_STEP] = { 0 };
    x[0] = 0x0040; /* 2^-127 */
    y[0] = bf16_round(0x1p100f);
    assert_int_equal(bits_of(bf16_step(0.0f, x, y)), 0);
    x[0] = bf16_round(0x1p-100f);
    y[0] = bf16_round(-0x1p-30f);
    assert_int_equal(bits_of(bf16_step(0.0f, x, y)), 0); /* the product vanishes, and -0 + 0 is 0 */
    memset(x, 0, sizeof x);
    assert_int_equal(bits_of(bf16_step(0x1p-130f, x, y)), 0);
}

static void test_exponential(void **state)
{
    (void)state;
    assert_true(bf16_exp(0.0f) == 1.0f);
    assert_true(bf16_exp(-1000.0f) == 0x1p-125f);
    assert_true(bf16_exp(-INFINITY) == 0x1p-125f);
    assert_true(isnan(bf16_exp(NAN)));
    double worst = 0;
    for (float x = 0.0f; x > -86.0f; x -= 1.0f / 512) {
        double off = fabs(bf16_exp(x) / exp((double)x) - 1);
        worst = off > worst ? off : worst;
    }
    assert_true(worst < 1.2e-4);
    assert_true(worst > 5e-5); /* the header says how good it is, and no better */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rounding),        cmocka_unit_test(test_widening),
        cmocka_unit_test(test_order_of_a_step), cmocka_unit_test(test_denormals_are_zero),
        cmocka_unit_test(test_exponential),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
