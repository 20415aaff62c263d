#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/tensor.h"

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void *read_golden(const char *name, const char *extension, size_t *size)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/dequantize/%s.%s", BATON_SOURCE_DIR, name, extension);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    void *data = malloc(1 << 16);
    *size = fread(data, 1, 1 << 16, f);
    fclose(f);
    assert_true(*size > 0 && *size < 1 << 16);
    return data;
}

/* Bit for bit what Python's gguf.dequantize answers: tests/golden/dequantize.py. */
static void test_widening_equals_gguf(void **state)
{
    (void)state;
    for (unsigned t = 0; t < DTYPE_COUNT; t++) {
        enum dtype type = (enum dtype)t;
        size_t raw_size, want_size;
        void *raw = read_golden(dtype_name(type), "raw", &raw_size);
        float *want = read_golden(dtype_name(type), "f32", &want_size);
        size_t n = want_size / sizeof *want;
        assert_int_equal(raw_size, dtype_row_bytes(type, n));
        float *got = malloc(want_size);
        dtype_to_f32(type, raw, got, n);
        assert_memory_equal(got, want, want_size);
        free(got);
        free(want);
        free(raw);
    }
}

static void test_sizes(void **state)
{
    (void)state;
    assert_int_equal(dtype_row_bytes(DTYPE_F32, 64), 256);
    assert_int_equal(dtype_row_bytes(DTYPE_BF16, 64), 128);
    assert_int_equal(dtype_row_bytes(DTYPE_Q8_0, 64), 68);
    assert_int_equal(dtype_row_bytes(DTYPE_Q4_0, 64), 36);
    assert_int_equal(dtype_row_bytes(DTYPE_Q4_1, 64), 40);
    assert_int_equal(dtype_row_bytes(DTYPE_Q4_K, 512), 288);
    assert_int_equal(dtype_row_bytes(DTYPE_Q6_K, 512), 420);
    assert_string_equal(dtype_name(DTYPE_Q4_1), "Q4_1");
    assert_string_equal(dtype_name(DTYPE_COUNT), "unknown");
}

/* Every half but NaN survives the way to float32 and back. */
static void test_f16_round_trip(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 1 << 16; h++) {
        bool is_nan = (h & 0x7c00) == 0x7c00 && (h & 0x3ff);
        float x = f16_to_f32((uint16_t)h);
        assert_int_equal(is_nan, isnan(x) != 0);
        if (is_nan)
            assert_true(isnan(f16_to_f32(f32_to_f16(x))));
        else
            assert_int_equal(f32_to_f16(x), h);
    }
}

/* Nearest even, against the two neighbours by their distances in double. */
static void check_nearest(uint32_t bits)
{
    float x = float_of(bits);
    if (!isfinite(x))
        return;
    uint16_t h = f32_to_f16(x);
    assert_int_equal(h >> 15, bits >> 31);
    double magnitude = fabs((double)x);
    uint16_t m = h & 0x7fff;
    if (m == 0x7c00) {
        assert_true(magnitude >= 65520.0);
        return;
    }
    double here = fabs(magnitude - (double)f16_to_f32(m));
    double above = m == 0x7bff ? 65536.0 : (double)f16_to_f32((uint16_t)(m + 1));
    double below = m == 0 ? -1.0 : (double)f16_to_f32((uint16_t)(m - 1));
    assert_true(here < above - magnitude || (here == above - magnitude && m % 2 == 0));
    assert_true(here < magnitude - below || (here == magnitude - below && m % 2 == 0));
}

static void test_f16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint64_t bits = 0; bits < 1ull << 32; bits += 40961)
        check_nearest((uint32_t)bits);
    for (uint32_t h = 0; h < 0x7c00; h++) /* each middle between two halves, and its neighbours */
        for (uint32_t d = 0; d < 3; d++) {
            double middle =
                ((double)f16_to_f32((uint16_t)h) + (h == 0x7bff ? 65536.0 : (double)f16_to_f32((uint16_t)(h + 1)))) / 2;
            check_nearest(bits_of((float)middle) + d - 1);
        }
    assert_int_equal(f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(f32_to_f16(1e30f), 0x7c00);
}

static void test_bf16(void **state)
{
    (void)state;
    for (uint32_t b = 0; b < 1 << 16; b++) {
        float x = bf16_to_f32((uint16_t)b);
        if (isnan(x))
            assert_true(isnan(bf16_to_f32(f32_to_bf16(x))));
        else
            assert_int_equal(f32_to_bf16(x), b);
    }
    assert_int_equal(f32_to_bf16(float_of(0x3f808000)), 0x3f80); /* ties to even */
    assert_int_equal(f32_to_bf16(float_of(0x3f818000)), 0x3f82);
    assert_int_equal(f32_to_bf16(float_of(0x3f808001)), 0x3f81);
    assert_int_equal(f32_to_bf16(float_of(0x7f7fffff)), 0x7f80);
    assert_true(isnan(bf16_to_f32(f32_to_bf16(float_of(0x7f800001))))); /* not turned to infinity */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_widening_equals_gguf),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_f16_round_trip),
        cmocka_unit_test(test_f16_rounds_to_nearest_even),
        cmocka_unit_test(test_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
