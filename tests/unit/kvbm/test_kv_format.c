#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kvbm/kv_format.h"

static const struct kv_format smol = { .type = DTYPE_BF16,
                                       .n_layers = 30,
                                       .n_kv_heads = 3,
                                       .head_dim = 64,
                                       .block_tokens = 16,
                                       .tensor_parallel = 1,
                                       .class = "portable" };
#define SMOL_TEXT "BF16-lsht-l30h3d64-b16-tp1-portable"

static void test_text_and_back(void **state)
{
    (void)state;
    char text[KV_FORMAT_TEXT_BYTES];
    const enum dtype types[] = { DTYPE_BF16, DTYPE_F16, DTYPE_F32, DTYPE_INT8 };
    struct kv_format f = smol, back;
    assert_string_equal(kv_format_text(&f, text), SMOL_TEXT);
    for (int i = 0; i < 4; i++) {
        f.type = types[i];
        assert_int_equal(kv_format_parse(kv_format_text(&f, text), &back, NULL), ST_OK);
        assert_int_equal(kv_format_compare(&f, &back), KV_FORMAT_DIFFERS_NONE);
    }
}

static void test_refuses_other_texts(void **state)
{
    (void)state;
    const char *const wrong[] = { "",
                                  "BF16",
                                  "Q4_0-lsht-l30h3d64-b16-tp1-portable",
                                  "BF16-thsl-l30h3d64-b16-tp1-portable",
                                  "BF16-lsht-l30h3d64-b16-tp1-",
                                  "BF16-lsht-l30h3d64-b016-tp1-portable",
                                  "BF16-lsht-l30h3d64-b-16-tp1-portable",
                                  "BF16-lsht-l30h3d64-b16-tp1-portable x",
                                  "BF16-lsht-l30h3d64-b16-tp1-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" };
    struct kv_format back;
    struct error err;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(kv_format_parse(wrong[i], &back, &err), ST_INVALID);
        assert_non_null(strstr(err.text, "is no KV format"));
    }
}

static void test_a_difference_has_a_name(void **state)
{
    (void)state;
    struct kv_format other[6] = { smol, smol, smol, smol, smol, smol };
    const enum kv_format_difference want[6] = { KV_FORMAT_DIFFERS_GEOMETRY,     KV_FORMAT_DIFFERS_GEOMETRY,
                                                KV_FORMAT_DIFFERS_CLASS,        KV_FORMAT_DIFFERS_DTYPE,
                                                KV_FORMAT_DIFFERS_BLOCK_TOKENS, KV_FORMAT_DIFFERS_TENSOR_PARALLEL };
    other[0].n_layers++, other[1].head_dim++, other[2].class[0] = 'P', other[3].type = DTYPE_INT8;
    other[4].block_tokens++, other[5].tensor_parallel++;
    for (int i = 0; i < 6; i++)
        assert_int_equal(kv_format_compare(&smol, &other[i]), want[i]);
    assert_string_equal(kv_format_difference_text(KV_FORMAT_DIFFERS_DTYPE), "number format");
}

static void test_what_a_worker_publishes(void **state)
{
    (void)state;
    assert_string_equal(kv_format_of_worker("0123456789abcdef-fedcba9876543210-" SMOL_TEXT), SMOL_TEXT);
    assert_null(kv_format_of_worker(SMOL_TEXT));
    assert_null(kv_format_of_worker("0123456789abcdef-" SMOL_TEXT));
    assert_null(kv_format_of_worker("0123456789abcdef-fedcba987654321-" SMOL_TEXT));
    assert_null(kv_format_of_worker("0123456789abcdeg-fedcba9876543210-" SMOL_TEXT));
    assert_null(kv_format_of_worker(""));
}

static void test_layout(void **state)
{
    (void)state;
    const struct kv_layout layout = kv_format_layout(&smol);
    assert_int_equal(kv_block_bytes(&layout), 30 * 2 * 3 * 16 * 64 * 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_and_back),
        cmocka_unit_test(test_refuses_other_texts),
        cmocka_unit_test(test_a_difference_has_a_name),
        cmocka_unit_test(test_what_a_worker_publishes),
        cmocka_unit_test(test_layout),
    };
    return cmocka_run_group_tests_name("KV format", tests, NULL, NULL);
}
