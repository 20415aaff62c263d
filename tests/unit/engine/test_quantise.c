#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/quantise.h"

#define ROWS 64
#define COLS 512u

static uint32_t seed;

static float uniform(void) /* (0, 1) */
{
    seed = seed * 1664525u + 1013904223u;
    return ((float)(seed >> 8) + 0.5f) * 0x1p-24f;
}

static float normal(void)
{
    return sqrtf(-2 * logf(uniform())) * cosf(6.2831853f * uniform());
}

/* Root of the squared error over the squared values. */
static double loss(enum dtype type, const float *x, size_t n)
{
    uint8_t *blocks = malloc(dtype_row_bytes(type, n));
    float *y = malloc(n * sizeof *y);
    double error = 0, size = 0;
    assert_true(quantise_row(type, x, n, blocks));
    dtype_to_f32(type, blocks, y, n);
    for (size_t i = 0; i < n; i++) {
        error += ((double)y[i] - (double)x[i]) * ((double)y[i] - (double)x[i]);
        size += (double)x[i] * (double)x[i];
    }
    free(y);
    free(blocks);
    return sqrt(error / size);
}

/* On such values ggml's own search loses 0.0716 and 0.0321 with Q4_K, 0.0178 and 0.0137 with Q6_K. */
static const struct {
    enum dtype type;
    double normal, shifted;
} bounds[] = {
    { DTYPE_Q8_0, 0.0055, 0.0043 }, { DTYPE_Q5_0, 0.0435, 0.0335 }, { DTYPE_Q4_0, 0.0880, 0.0670 },
    { DTYPE_Q4_K, 0.0716, 0.0322 }, { DTYPE_Q6_K, 0.0179, 0.0139 }, { DTYPE_F16, 0.0003, 0.0003 },
    { DTYPE_BF16, 0.0020, 0.0020 },
};

static void test_losses_are_small(void **state)
{
    (void)state;
    static float x[ROWS * COLS];
    for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++) {
        seed = 7;
        for (size_t i = 0; i < ROWS * COLS; i++)
            x[i] = normal() * 0.02f;
        double of_normal = loss(bounds[b].type, x, ROWS * COLS);
        for (size_t i = 0; i < ROWS * COLS; i++)
            x[i] = -2 + normal(); /* mostly of one sign, where a minimum pays */
        double of_shifted = loss(bounds[b].type, x, ROWS * COLS);
        print_message("%s loses %.5f, %.5f where shifted\n", dtype_name(bounds[b].type), of_normal, of_shifted);
        assert_true(of_normal <= bounds[b].normal);
        assert_true(of_shifted <= bounds[b].shifted);
    }
}

/* What a super-block of the format holds is found again. */
static void check_found_again(enum dtype type, double most)
{
    uint8_t block[256];
    float x[256];
    for (uint32_t round = 0; round < 50; round++) {
        seed = round + 1;
        for (size_t i = 0; i < dtype_block_bytes(type); i++)
            block[i] = (uint8_t)(uniform() * 256);
        const uint16_t d = f32_to_f16(0.001f + 0.01f * uniform());
        memcpy(block + (type == DTYPE_Q6_K ? 208 : 0), &d, sizeof d);
        if (type == DTYPE_Q4_K)
            memcpy(block + 2, &d, sizeof d);
        dtype_to_f32(type, block, x, 256);
        assert_true(loss(type, x, 256) <= most);
    }
}

static void test_values_of_a_block_are_found_again(void **state)
{
    (void)state;
    check_found_again(DTYPE_Q6_K, 0.012);
    check_found_again(DTYPE_Q4_K, 0.04);
}

static void test_edges(void **state)
{
    (void)state;
    float x[256];
    uint8_t block[1024];
    for (uint32_t t = 0; t < DTYPE_COUNT; t++) {
        enum dtype type = (enum dtype)t;
        if (!quantise_writes(type))
            continue;
        static const float levels[] = { 0, 1, -1, 1e-30f, 1e-40f, QUANTISE_MAX, -QUANTISE_MAX, 3e-7f };
        for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
            float y[256];
            for (uint32_t i = 0; i < 256; i++)
                x[i] = levels[l];
            assert_true(quantise_row(type, x, 256, block));
            dtype_to_f32(type, block, y, 256);
            for (uint32_t i = 0; i < 256; i++)
                assert_true(fabsf(y[i] - x[i]) <= fabsf(x[i]) * 0.01f + 1e-6f);
        }
        const bool takes_all = type == DTYPE_F32 || type == DTYPE_BF16;
        static const float refused[] = { NAN, INFINITY, -INFINITY, 65536, -1e30f };
        for (size_t r = 0; r < sizeof refused / sizeof *refused; r++) {
            x[100] = refused[r];
            assert_int_equal(quantise_row(type, x, 256, block), takes_all);
        }
    }
    assert_false(quantise_writes(DTYPE_Q5_K));
}

/* One large value among small ones keeps its size. */
static void test_outliers_are_kept(void **state)
{
    (void)state;
    static const enum dtype types[] = { DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_Q5_0, DTYPE_Q4_K, DTYPE_Q6_K };
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (int sign = -1; sign <= 1; sign += 2) {
            float x[256], y[256];
            uint8_t block[512];
            seed = 3;
            for (uint32_t i = 0; i < 256; i++)
                x[i] = normal() * 0.01f;
            x[77] = 4.0f * (float)sign;
            assert_true(quantise_row(types[t], x, 256, block));
            dtype_to_f32(types[t], block, y, 256);
            assert_true(fabsf(y[77] - x[77]) < 0.05f);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_losses_are_small),
        cmocka_unit_test(test_values_of_a_block_are_found_again),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_outliers_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
