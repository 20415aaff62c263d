/* Log-probabilities in the two forms of OpenAI: a list of entries (chat), and parallel lists (completions). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "answer_sample.h"

static struct answer_sample sample;

/* A token that is one byte of a character of several. */
static const char part[] = "\xe4";

static void write(uint32_t n)
{
    answer_write_logprobs(&sample.choice, n, &sample.out);
}

static void test_chat(void **state)
{
    (void)state;
    sample_open(&sample, REQUEST_CHAT, SAMPLE_CHAT(",\"logprobs\":true,\"top_logprobs\":2"));
    const struct token_logprob tops[] = { { sample_id(&sample, "b"), -0.25f }, { sample_id(&sample, "a"), -0.5f } };
    sample_take(&sample, "a", -0.5f, tops, 2);
    sample_take(&sample, part, -INFINITY, NULL, 0); /* JSON has no infinity */
    write(2);
    expect_out(&sample, "{\"content\":[{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97],\"top_logprobs\":["
                        "{\"token\":\"b\",\"logprob\":-0.25,\"bytes\":[98]},"
                        "{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97]}]},"
                        "{\"token\":\"\xef\xbf\xbd\",\"logprob\":-9999,\"bytes\":[228],\"top_logprobs\":[]}],"
                        "\"refusal\":null}");
    write(1);
    assert_null(strstr(text_buffer_text(&sample.out), "9999"));
    text_buffer_clear(&sample.out);
    write(0);
    expect_out(&sample, "{\"content\":[],\"refusal\":null}");
    sample_close(&sample);
}

static void test_completions(void **state)
{
    (void)state;
    sample_open(&sample, REQUEST_TEXT, SAMPLE_TEXT(",\"logprobs\":1"));
    const struct token_logprob b = { sample_id(&sample, "b"), -0.25f }, a = { sample_id(&sample, "a"), -0.75f };
    sample_take(&sample, "a", -0.5f, &b, 1);  /* the chosen one is not among the likeliest: it is added */
    sample_take(&sample, "a", -0.75f, &a, 1); /* it is: once */
    write(2);
    expect_out(&sample, "{\"tokens\":[\"a\",\"a\"],\"token_logprobs\":[-0.5,-0.75],"
                        "\"top_logprobs\":[{\"b\":-0.25,\"a\":-0.5},{\"a\":-0.75}],\"text_offset\":[0,1]}");
    write(1);
    expect_out(&sample, "{\"tokens\":[\"a\"],\"token_logprobs\":[-0.5],"
                        "\"top_logprobs\":[{\"b\":-0.25,\"a\":-0.5}],\"text_offset\":[0]}");
    sample_close(&sample);
}

/* Tokens are keys here: parts of characters must differ, and no key may stand twice. */
static void test_tokens_as_keys(void **state)
{
    (void)state;
    sample_open(&sample, REQUEST_TEXT, SAMPLE_TEXT(",\"logprobs\":3"));
    const struct token_logprob tops[] = { { sample_id(&sample, "\xe4"), -1 },
                                          { sample_id(&sample, "\xe5"), -2 },
                                          { sample_id(&sample, "\xe5"), -3 } };
    sample_take(&sample, part, -1, tops, 3);
    write(1);
    expect_out(&sample, "{\"tokens\":[\"bytes:\\\\xe4\"],\"token_logprobs\":[-1],"
                        "\"top_logprobs\":[{\"bytes:\\\\xe4\":-1,\"bytes:\\\\xe5\":-2}],\"text_offset\":[0]}");
    sample_close(&sample);
}

/* Offsets count characters, and with echo the prompt's come first. */
static void test_offsets(void **state)
{
    (void)state;
    sample_open(&sample, REQUEST_TEXT, SAMPLE_TEXT(",\"logprobs\":0"));
    sample_take(&sample, "\xe4", -1, NULL, 0); /* U+4E2D in three tokens */
    sample_take(&sample, "\xb8", -1, NULL, 0);
    sample_take(&sample, "\xad", -1, NULL, 0);
    sample_take(&sample, "a", -1, NULL, 0);
    write(4);
    assert_non_null(strstr(text_buffer_text(&sample.out), "\"text_offset\":[0,0,0,1]}"));
    sample_close(&sample);
    sample_open(&sample, REQUEST_TEXT, SAMPLE_TEXT(",\"echo\":true"));
    sample.request->sampling.n_logprobs = 0; /* refused with echo until a prompt's own are built */
    sample_take(&sample, "a", -1, NULL, 0);
    write(1);
    assert_non_null(strstr(text_buffer_text(&sample.out), "\"text_offset\":[7]}"));
    sample_close(&sample);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_completions),
        cmocka_unit_test(test_tokens_as_keys),
        cmocka_unit_test(test_offsets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
