#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/text_buffer.h"
#include "sim/least_squares.h"
#include "sim/profile.h"

#define SPLITWISE                                                                                                      \
    "model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,prompt_time,token_time,e2e_time,"       \
    "tensor_parallel\n"

static const char own[] =
    "{\"baton_profile\": 1, \"name\": \"test\", \"layers\": 10,"
    "\"prefill\": {\"base_us\": 1000, \"token_us\": 10, \"square_us\": 0.5},"
    "\"decode\": [{\"max_batch\": 4, \"base_us\": 2000, \"context_us\": 0.25, \"sequence_us\": 5},"
    "             {\"base_us\": 3000, \"context_us\": 0.5, \"sequence_us\": 7}],"
    "\"kv\": {\"token_bytes\": 1000, \"tokens\": 4096},"
    "\"link\": {\"bytes_per_s\": 1e9, \"latency_us\": 50}}";

static status read(const char *text, const struct profile_choice *choice, struct profile *out, struct error *err)
{
    const struct profile_choice any = { NULL, NULL, 0 };
    return profile_read(text, strlen(text), "a file", choice ? choice : &any, out, err);
}

static void own_form_and_back(void **state)
{
    struct profile p, again;
    struct error err;
    struct text_buffer page;
    (void)state;
    assert_int_equal(read(own, NULL, &p, &err), ST_OK);
    assert_int_equal(profile_check(&p, &err), ST_OK);
    assert_string_equal(p.name, "test");
    assert_int_equal(p.n_decode, 2);
    assert_int_equal(p.decode[1].max_batch, UINT32_MAX);
    text_buffer_init(&page, 65536);
    profile_write(&p, &page);
    assert_int_equal(read(text_buffer_text(&page), NULL, &again, &err), ST_OK);
    assert_memory_equal(&p, &again, sizeof p);
    text_buffer_free(&page);
}

static void steps_cost_what_it_says(void **state)
{
    struct profile p;
    struct error err;
    (void)state;
    assert_int_equal(read(own, NULL, &p, &err), ST_OK);
    /* A prompt of 100 at once, or 60 and 40 behind them: the same sum of squares. */
    double whole = profile_step_us(&p, 100, 5050, 0, 0);
    assert_true(fabs(whole - (1000 + 10 * 100 + 0.5 * 100 * 100)) < 1e-6);
    double parts = profile_step_us(&p, 60, 60 * 61 / 2, 0, 0) + profile_step_us(&p, 40, 40 * 60 + 40 * 41 / 2, 0, 0);
    assert_true(fabs(parts - whole - 1000) < 1e-6);
    assert_true(fabs(profile_step_us(&p, 0, 0, 4, 1000) - (2000 + 250 + 20)) < 1e-6);
    assert_true(fabs(profile_step_us(&p, 0, 0, 5, 1000) - (3000 + 500 + 35)) < 1e-6);
    /* Together the weights are read once. */
    assert_true(fabs(profile_step_us(&p, 1, 1, 1, 8) - (2000 + 10 + 0.5 + 2 + 5)) < 1e-6);
}

static void distserve(void **state)
{
    const char text[] = "{\"facebook/opt-13b\": {\"1\": {\"decoding_large_small_bs_threshold\": 95, \"prefill\": "
                        "[18, 0.1, 7e-6], \"decoding_smallbs\": [20, 6e-4, 0.04], \"decoding_largebs\": [7, 5e-4, "
                        "0.16]}, \"2\": {}}}";
    const struct profile_choice one = { .tensor_parallel = 1 }, three = { .tensor_parallel = 3 };
    struct profile p;
    struct error err;
    (void)state;
    assert_int_equal(read(text, &one, &p, &err), ST_OK);
    assert_int_equal(profile_check(&p, &err), ST_OK);
    assert_true(fabs(p.prefill_base_us - 18000) < 1e-6 && fabs(p.prefill_square_us - 0.007) < 1e-9);
    assert_int_equal(p.decode[0].max_batch, 94);
    assert_true(fabs(p.decode[1].sequence_us - 160) < 1e-6);
    assert_true(p.kv_token_bytes == 819200);
    assert_int_equal(read(text, &three, &p, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "one of 1 2"));
    assert_int_equal(read(text, NULL, &p, &err), ST_INVALID);
}

static void splitwise(void **state)
{
    char text[8192] = SPLITWISE;
    const struct profile_choice h100 = { .model = "llama2-70b", .hardware = "h100-80gb", .tensor_parallel = 8 };
    struct profile p;
    struct error err;
    (void)state;
    for (int batch = 1; batch <= 16; batch *= 2)
        for (int prompt = 128; prompt <= 4096; prompt *= 2) {
            double sum = batch * prompt, prefill = 20 + 0.06 * sum + 3e-6 * sum * prompt;
            double step = 30 + 1e-4 * batch * (prompt + 64) + 0.2 * batch;
            if (batch == 16 && prompt == 4096)
                prefill /= 10; /* did not run as a whole */
            size_t len = strlen(text);
            (void)snprintf(text + len, sizeof text - len, "llama2-70b,h100-80gb,%d,%d,128,1,1,%.12g,%.12g,1,8\n",
                           prompt, batch, prefill, step);
        }
    strncat(text, "llama2-70b,a100-80gb,128,1,128,1,1,50,40,1,8\n", sizeof text - strlen(text) - 1);
    assert_int_equal(read(text, &h100, &p, &err), ST_OK);
    assert_int_equal(profile_check(&p, &err), ST_OK);
    assert_true(fabs(p.prefill_base_us / 20e3 - 1) < 1e-6 && fabs(p.prefill_token_us / 60 - 1) < 1e-6);
    assert_true(fabs(p.prefill_square_us / 3e-3 - 1) < 1e-6 && p.prefill_error < 1e-6);
    assert_true(fabs(p.decode[0].base_us / 30e3 - 1) < 1e-6 && fabs(p.decode[0].sequence_us / 200 - 1) < 1e-6);
    assert_true(p.kv_token_bytes == 327680 && p.n_layers == 80);
    assert_int_equal(read(text, NULL, &p, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "several fit"));
    assert_int_equal(read(text, &(struct profile_choice){ .model = "nobody" }, &p, &err), ST_INVALID);
    assert_non_null(strstr(err.text, ", but llama2-70b/h100-80gb/8, llama2-70b/a100-80gb/8"));
}

static void what_is_no_profile_is_said(void **state)
{
    static const char *const bad[] = { "",
                                       "[]",
                                       "{\"baton_profile\": 2}",
                                       "{\"baton_profile\": 1}",
                                       "model,hardware\n",
                                       SPLITWISE "a,b,c\n",
                                       SPLITWISE,
                                       "{}",
                                       "{\"m\": 3}",
                                       "{\"m\": {\"1\": {}}}" };
    struct profile p;
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err.text[0] = '\0';
        assert_int_not_equal(read(bad[i], NULL, &p, &err), ST_OK);
        assert_non_null(strstr(err.text, "a file"));
    }
    assert_int_equal(read(own, NULL, &p, &err), ST_OK);
    p.kv_tokens = 0;
    assert_int_equal(profile_check(&p, &err), ST_INVALID);
}

static void no_weight_is_below_nothing(void **state)
{
    struct least_squares_sample samples[20];
    double w[3];
    (void)state;
    for (int i = 0; i < 20; i++) /* a line whose base is below nothing */
        samples[i] = (struct least_squares_sample){ { 1, i + 2, 0 }, 3.0 * (i + 2) - 2 };
    double error = least_squares(samples, 20, w);
    assert_true(w[0] == 0 && w[1] > 2.5 && w[1] < 3 && w[2] == 0 && error > 0 && error < 0.2);
    assert_true(least_squares(samples, 0, w) == 0 && w[1] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(own_form_and_back),
                                        cmocka_unit_test(steps_cost_what_it_says),
                                        cmocka_unit_test(distserve),
                                        cmocka_unit_test(splitwise),
                                        cmocka_unit_test(what_is_no_profile_is_said),
                                        cmocka_unit_test(no_weight_is_below_nothing) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
