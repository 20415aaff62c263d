/* Log-probabilities and their order, against a naive sort; the inputs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/score.h"

#define N 997u

static struct error err;

static float logits[N];

/* Few different values, so that there are many ties. */
static void fill(unsigned seed)
{
    srand(seed);
    for (unsigned i = 0; i < N; i++)
        logits[i] = (float)(rand() % 40) * 0.25f - 3.0f;
}

static void top_is_the_head_of_a_full_sort(void **state)
{
    (void)state;
    static struct score_pair all[N], some[N];
    for (unsigned seed = 1; seed < 20; seed++) {
        fill(seed);
        score_top(logits, N, N, all);
        for (unsigned i = 1; i < N; i++)
            assert_true(all[i - 1].logprob > all[i].logprob ||
                        (all[i - 1].logprob == all[i].logprob && all[i - 1].id < all[i].id));
        static const unsigned sizes[] = { 1, 2, 8, 64, 65 };
        for (unsigned s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            score_top(logits, N, sizes[s], some);
            for (unsigned i = 0; i < sizes[s]; i++)
                assert_int_equal(some[i].id, all[i].id);
        }
    }
}

static void probabilities_sum_to_one(void **state)
{
    (void)state;
    static struct score_pair all[N];
    double sum = 0;
    fill(7);
    for (unsigned i = 0; i < N; i++)
        logits[i] += 500; /* exp() of which would overflow a float */
    score_top(logits, N, N, all);
    for (unsigned i = 0; i < N; i++)
        sum += exp(all[i].logprob);
    assert_true(fabs(sum - 1) < 1e-9);
}

static status read_line(const char *text, struct score_input *in)
{
    return score_read(text, strlen(text), 100, 8, in, &err);
}

static void inputs_of_both_shapes(void **state)
{
    (void)state;
    struct score_input in;
    assert_int_equal(read_line("{\"tokens\": [1, 2, 3]}", &in), ST_OK);
    assert_int_equal(in.n_tokens, 3);
    assert_int_equal(in.first, 0);
    assert_int_equal(in.n_rows, 3);
    score_input_free(&in);
    assert_int_equal(read_line("{\"prompt_ids\": [1, 2, 3], \"greedy_ids\": [4, 99], \"other\": null}", &in), ST_OK);
    assert_int_equal(in.n_tokens, 5);
    assert_int_equal(in.first, 2); /* the row that predicts token 4 */
    assert_int_equal(in.n_rows, 2);
    assert_int_equal(in.tokens[4], 99);
    score_input_free(&in);
}

static void wrong_inputs(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "",
        "[1]",
        "{}",
        "{\"tokens\": []}",
        "{\"tokens\": [100]}",
        "{\"tokens\": [-1]}",
        "{\"tokens\": [1.5]}",
        "{\"tokens\": \"1\"}",
        "{\"prompt_ids\": [1]}",
        "{\"greedy_ids\": [1]}",
        "{\"tokens\": [1,2,3,4,5,6,7,8,9]}",
        "{\"prompt_ids\": [1,2,3,4,5], \"greedy_ids\": [1,2,3,4]}",
    };
    struct score_input in;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_not_equal(read_line(wrong[i], &in), ST_OK);
        assert_null(in.tokens);
    }
}

static void a_line_without_tokens_says_what_it_may_have(void **state)
{
    (void)state;
    struct score_input in;
    assert_int_equal(read_line("{\"prompt\": \"text\"}", &in), ST_INVALID);
    assert_string_equal(err.text, "it has neither \"tokens\" nor \"prompt_ids\" and \"greedy_ids\"");
    assert_int_equal(read_line("{\"prompt_ids\": [1]}", &in), ST_INVALID);
    assert_string_equal(err.text, "\"greedy_ids\" is no list of token ids, or empty");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(top_is_the_head_of_a_full_sort),
        cmocka_unit_test(probabilities_sum_to_one),
        cmocka_unit_test(inputs_of_both_shapes),
        cmocka_unit_test(wrong_inputs),
        cmocka_unit_test(a_line_without_tokens_says_what_it_may_have),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
