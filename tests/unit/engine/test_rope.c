/* Frequencies against libm, and against what transformers 5 computes in binary32 (modeling_rope_utils). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "engine/rope.h"

#define DIM 64u

static const uint32_t pairs[] = { 0, 1, 7, 13, 15, 16, 17, 20, 25, 31 };

#define N_PAIRS (sizeof pairs / sizeof *pairs)

static void check(const struct rope_config *rope, const double want[N_PAIRS], double magnitude)
{
    double f[DIM / 2];
    assert_null(rope_check(rope));
    rope_frequencies(rope, DIM, NULL, f);
    for (size_t i = 0; i < N_PAIRS; i++)
        if (!(fabs(f[pairs[i]] - want[i]) <= 3e-6 * want[i]))
            fail_msg("pair %u: %.9g, not %.9g", pairs[i], f[pairs[i]], want[i]);
    assert_true(fabs(rope_magnitude(rope) - magnitude) < 1e-6);
}

static void test_plain(void **state)
{
    (void)state;
    double f[64];
    rope_frequencies(&(struct rope_config){ .theta = 500000.0f }, 128, NULL, f);
    for (int i = 0; i < 64; i++)
        assert_true(fabs(f[i] / pow(500000.0, -2.0 * i / 128) - 1) < 1e-14);
    assert_true(f[0] == 1.0);
}

static void test_linear(void **state)
{
    (void)state;
    const struct rope_config rope = { .theta = 10000, .scaling = ROPE_LINEAR, .factor = 4 };
    const double want[N_PAIRS] = { 0.25,   0.18747355,   0.033338036,   0.005928434,   0.0033338037,
                                   0.0025, 0.0018747356, 0.00079056947, 0.00018747355, 3.3338038e-05 };
    check(&rope, want, 1);
}

static void test_llama3(void **state)
{
    (void)state;
    const struct rope_config rope = {
        .theta = 500000, .scaling = ROPE_LLAMA3, .factor = 8, .low = 1, .high = 4, .original_positions = 8192
    };
    const double want[N_PAIRS] = { 1.0,           0.66360128,    0.056669619,   0.0048394212,  0.0013718937,
                                   0.00052484602, 0.00017850779, 3.4281024e-05, 4.4115345e-06, 3.7673226e-07 };
    check(&rope, want, 1);
}

static void test_yarn(void **state)
{
    (void)state;
    struct rope_config rope = { .theta = 1000000,
                                .scaling = ROPE_YARN,
                                .factor = 4,
                                .low = ROPE_YARN_LOW,
                                .high = ROPE_YARN_HIGH,
                                .original_positions = 32768 };
    const double want[N_PAIRS] = { 1.0,           0.64938164,    0.048696753,   0.0030431177,  0.0010266177,
                                   0.00058333337, 0.00032469083, 4.4456985e-05, 5.1338125e-06, 3.8498163e-07 };
    check(&rope, want, 1.138629436111989);
    rope.magnitude = 1.5f;
    check(&rope, want, 1.5);
}

static void test_yarn_without_rounding(void **state)
{
    (void)state;
    const struct rope_config rope = { .theta = 10000,
                                      .scaling = ROPE_YARN,
                                      .factor = 40,
                                      .low = ROPE_YARN_LOW,
                                      .high = ROPE_YARN_HIGH,
                                      .original_positions = 4096,
                                      .magnitude =
                                          (float)(rope_yarn_magnitude(40, 0.707f) / rope_yarn_magnitude(40, 0.5f)),
                                      .exact_range = true };
    const double want[N_PAIRS] = { 1.0,          0.7498942,    0.13335215,    0.018860061,   0.0084462352,
                                   0.0055240626, 0.0035352581, 0.00072263816, 1.8747354e-05, 3.3338035e-06 };
    check(&rope, want, 1.064468903941252);
}

static void test_factors(void **state)
{
    (void)state;
    float factors[DIM / 2];
    double plain[DIM / 2];
    double divided[DIM / 2];
    for (uint32_t i = 0; i < DIM / 2; i++)
        factors[i] = 1.0f + (float)i;
    const struct rope_config rope = { .theta = 10000 };
    rope_frequencies(&rope, DIM, NULL, plain);
    rope_frequencies(&rope, DIM, factors, divided);
    for (uint32_t i = 0; i < DIM / 2; i++)
        assert_true(divided[i] == plain[i] / (double)factors[i]);
}

/* Phi-3's: frequencies as they are but for the factors, and all of a head's values grow. */
static void test_long(void **state)
{
    (void)state;
    struct rope_config rope = { .theta = 10000, .scaling = ROPE_LONG, .factor = 32, .original_positions = 4096 };
    double plain[DIM / 2];
    double same[DIM / 2];
    rope_frequencies(&(struct rope_config){ .theta = 10000 }, DIM, NULL, plain);
    rope_frequencies(&rope, DIM, NULL, same);
    assert_memory_equal(plain, same, sizeof plain);
    assert_null(rope_check(&rope));
    assert_true(fabs(rope_magnitude(&rope) - 1.190238071423807) < 1e-12); /* as transformers has it */
    rope.magnitude = 1.25f;
    assert_true(rope_magnitude(&rope) == 1.25);
    rope.original_positions = 1;
    assert_non_null(rope_check(&rope));
}

static void test_unusable_numbers(void **state)
{
    (void)state;
    const struct rope_config good = {
        .theta = 10000, .scaling = ROPE_YARN, .factor = 2, .low = 1, .high = 32, .original_positions = 100
    };
    struct rope_config bad[7];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        bad[i] = good;
    bad[0].theta = 0.5f;
    bad[1].factor = 0;
    bad[2].factor = INFINITY;
    bad[3].original_positions = 0;
    bad[4].low = 40;
    bad[5].theta = 1;
    bad[6].magnitude = NAN;
    assert_null(rope_check(&good));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_non_null(rope_check(&bad[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),   cmocka_unit_test(test_linear),
        cmocka_unit_test(test_llama3),  cmocka_unit_test(test_yarn),
        cmocka_unit_test(test_factors), cmocka_unit_test(test_yarn_without_rounding),
        cmocka_unit_test(test_long),    cmocka_unit_test(test_unusable_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
